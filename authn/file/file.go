package file

import (
	"context"
	"errors"
	"fmt"
	"hash/maphash"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/postern-mail/postern/authn"
	"github.com/postern-mail/postern/mail"
	"github.com/postern-mail/postern/status"
)

// Config of a File.
type Config struct {
	// Name of the verifier in logs and audit; default "file".
	Name string
	// Path of the password file; required.
	Path string
}

// File verifies against a password file. Safe for concurrent use.
type File struct {
	cfg    Config
	hasher *authn.Hasher
	log    hclog.Logger
	seed   maphash.Seed
	decoy  authn.Hash

	loaded    atomic.Pointer[loaded]
	reloading sync.Mutex // held by the one who reads a changed file
}

// loaded is the table in force and the stamp of the text last looked at, which
// is younger than the table when it was wrong. Immutable.
type loaded struct {
	table *table
	stamp stamp
}

// stamp tells one text of a file from another without reading it. The change
// time moves with every write and rename and cannot be set back.
type stamp struct {
	inode   uint64
	octets  int64
	changed syscall.Timespec
}

// restTime is how long a file that is written in place must have been left
// alone before it is read: half of it would make logins unknown. A file that
// is replaced by another is whole at once.
const restTime = time.Second

// beingWritten reports whether a file that was at before may still be changing.
func (s stamp) beingWritten(before stamp) bool {
	return s.inode == before.inode && time.Since(time.Unix(s.changed.Unix())) < restTime
}

// New reads the password file; mistakes in it are the error, all at once.
func New(cfg Config, hasher *authn.Hasher, log hclog.Logger) (*File, error) {
	if cfg.Path == "" {
		return nil, errors.New("authn file: no path")
	}
	if cfg.Name == "" {
		cfg.Name = "file"
	}
	f := &File{cfg: cfg, hasher: hasher, log: log, seed: maphash.MakeSeed(), decoy: authn.Decoy()}
	t, at, err := f.read()
	if err != nil {
		return nil, err
	}
	f.loaded.Store(&loaded{t, at})
	return f, nil
}

// Name implements authn.Verifier.
func (f *File) Name() string { return f.cfg.Name }

// Verify implements authn.Verifier: ErrUnknownLogin for a login that is not in
// the file.
func (f *File) Verify(ctx context.Context, a authn.Attempt) (mail.Identity, error) {
	hash, known := f.lookup(a.Login)
	matched, err := f.hasher.Check(ctx, []authn.Hash{hash}, a.Password)
	switch {
	case err != nil:
		return mail.Identity{}, err
	case known && matched:
		if err := f.fresh().limits[a.Login].check(a); err != nil {
			return mail.Identity{}, err
		}
		return mail.Identity{Authentication: a.Login, Authorization: a.Login}, nil
	case known:
		return mail.Identity{}, status.New(status.AuthFailed, errors.New("wrong password"))
	default:
		return mail.Identity{}, authn.ErrUnknownLogin
	}
}

// lookup returns the hash of login, or the one of another login to spend the
// same time on. It is always the same one for a login, and they are chosen
// evenly: neither repeating nor comparing tells unknown logins from known.
func (f *File) lookup(login string) (hash authn.Hash, known bool) {
	t := f.fresh()
	if hash, known = t.entries[login]; known {
		return hash, true
	}
	if len(t.logins) == 0 {
		return f.decoy, false
	}
	other := maphash.String(f.seed, login) % uint64(len(t.logins))
	return t.entries[t.logins[other]], false
}

// fresh returns the table in force. The first to see that the file changed
// reads it; others go on with what they have.
func (f *File) fresh() *table {
	at, err := stampOf(f.cfg.Path)
	if now := f.loaded.Load(); at == now.stamp || at.beingWritten(now.stamp) {
		return now.table
	}
	if f.reloading.TryLock() {
		f.reload(at, err)
		f.reloading.Unlock()
	}
	return f.loaded.Load().table
}

// reload takes in a changed file. One that is wrong or gone leaves the last
// good table in force, and is reported once: people keep logging in while
// somebody mends it.
func (f *File) reload(at stamp, err error) {
	next := loaded{f.loaded.Load().table, at}
	var t *table
	if err == nil {
		t, next.stamp, err = f.read()
	}
	if err != nil {
		f.log.Error("password file cannot be used, its last good text stays in force", "verifier", f.cfg.Name, "err", err)
	} else {
		f.log.Info("password file read", "verifier", f.cfg.Name, "path", f.cfg.Path, "logins", len(t.logins))
		next.table = t
	}
	f.loaded.Store(&next)
}

// read parses the file as it is now. The stamp is taken first: a write in
// between shows as a change the next time.
func (f *File) read() (*table, stamp, error) {
	at, err := stampOf(f.cfg.Path)
	if err != nil {
		return nil, at, err
	}
	file, err := os.Open(f.cfg.Path)
	if err != nil {
		return nil, at, err
	}
	defer file.Close()
	if info, err := file.Stat(); err == nil && info.Mode().Perm()&0o004 != 0 {
		f.log.Warn("password file is readable by everybody", "verifier", f.cfg.Name, "path", f.cfg.Path)
	}
	t, err := parsePasswd(f.cfg.Path, file, f.hasher)
	return t, at, err
}

func stampOf(path string) (stamp, error) {
	var s syscall.Stat_t
	if err := syscall.Stat(path, &s); err != nil {
		return stamp{}, fmt.Errorf("%s: %w", path, err)
	}
	return stamp{inode: s.Ino, octets: s.Size, changed: s.Ctim}, nil
}
