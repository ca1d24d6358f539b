package backup

import (
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/postern-mail/postern/internal/fsx"
)

// Format is the version of the folder. A program refuses a higher one.
const Format = 1

// The names in the folder.
const (
	markerName   = "postern-backup.json"
	bodiesName   = "bodies"
	accountsName = "accounts"
	runsName     = "runs"
	writerLock   = "lock"
	readerLock   = "lock.readers"

	unfinished = ".new" // behind the name of a file that is being written
	packed     = ".zst"
)

// ErrNotBackup means that a folder is no backup.
var ErrNotBackup = errors.New("this is no backup folder")

// Repository is a folder with backups. It is safe for concurrent use.
type Repository struct {
	fsys fsx.FS
	dir  string
	// read opens a file for reading only.
	read func(name string) (readable, error)

	mu sync.Mutex
	// dirty are folders with names that are not synced yet.
	dirty map[string]bool
	made  map[string]bool // folders that are there
	// waiting are objects that get their names together, and coming those names.
	waiting []nameless
	coming  map[string]bool
	since   time.Time // when the first of them was written
}

// nameless is an object that is written and neither durable nor named.
type nameless struct {
	file     fsx.File
	name, to string // what it is called now, and is to be
}

// namesAtOnce is how many objects are synced together: so many files are open.
const namesAtOnce = 256

// nameDelay is how long one waits for others, so that a slow run which is killed
// leaves what it has written to the next.
const nameDelay = time.Second

// readable is a file that is open for reading.
type readable interface {
	io.ReaderAt
	io.Closer
	Size() (int64, error)
}

type marker struct {
	Format int       `json:"postern_backup"`
	ID     string    `json:"id"`
	Made   time.Time `json:"made"`
}

// Open opens a folder that holds backups. ErrNotBackup.
func Open(dir string) (*Repository, error) { return openOn(fsx.OS(), dir, readOS) }

// Prepare opens a folder for backups. One that is empty or not there is made one.
func Prepare(dir string) (*Repository, error) { return prepareOn(fsx.OS(), dir, readOS) }

type osReadable struct{ *os.File }

func (f osReadable) Size() (int64, error) {
	info, err := f.Stat()
	if err != nil {
		return 0, err
	}
	return info.Size(), nil
}

func readOS(name string) (readable, error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	return osReadable{f}, nil
}

func openOn(fsys fsx.FS, dir string, read func(string) (readable, error)) (*Repository, error) {
	r := &Repository{fsys: fsys, dir: dir, read: read, dirty: make(map[string]bool), made: make(map[string]bool), coming: make(map[string]bool)}
	text, err := r.readSmall(filepath.Join(dir, markerName))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("%s: %w: it has no %s", dir, ErrNotBackup, markerName)
	} else if err != nil {
		return nil, err
	}
	var m marker
	if err := json.Unmarshal(text, &m); err != nil || m.Format == 0 {
		return nil, fmt.Errorf("%s: %s is damaged; it reads {\"postern_backup\": 1} and may be written anew so", dir, markerName)
	}
	if m.Format > Format {
		return nil, fmt.Errorf("%s: the backup has format %d, this program knows %d; use a newer one", dir, m.Format, Format)
	}
	return r, nil
}

func prepareOn(fsys fsx.FS, dir string, read func(string) (readable, error)) (*Repository, error) {
	if r, err := openOn(fsys, dir, read); err == nil || !errors.Is(err, ErrNotBackup) {
		return r, err
	}
	if err := fsys.MkdirAll(dir); err != nil {
		return nil, err
	}
	names, err := fsys.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	for _, name := range names {
		if !strings.HasPrefix(name, markerName) && name != "lost+found" {
			return nil, fmt.Errorf("%s: %w, and not empty: a new backup wants a folder of its own", dir, ErrNotBackup)
		}
	}
	var id [8]byte
	_, _ = rand.Read(id[:]) // never fails since Go 1.24
	text, err := json.Marshal(marker{Format, hex.EncodeToString(id[:]), time.Now().UTC().Truncate(time.Second)})
	if err != nil {
		return nil, err
	}
	if err := fsx.WriteFile(fsys, filepath.Join(dir, markerName), append(text, '\n')); err != nil {
		return nil, err
	}
	return openOn(fsys, dir, read)
}

// maxSmall bounds files that are read whole.
const maxSmall = 1 << 20

func (r *Repository) readSmall(name string) ([]byte, error) {
	f, err := r.read(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	n, err := f.Size()
	if err != nil {
		return nil, err
	}
	text, err := io.ReadAll(io.NewSectionReader(f, 0, min(n, maxSmall)))
	return text, err
}

// Lock keeps other writers away, and with alone readers too, until unlock is
// called.
func (r *Repository) Lock(alone bool) (unlock func(), err error) {
	return r.lock(func(held *[]*os.File) error {
		if err := r.flock(held, writerLock, unix.LOCK_EX); err != nil {
			return err
		}
		if alone {
			return r.flock(held, readerLock, unix.LOCK_EX)
		}
		return nil
	})
}

// LockShared keeps away who would remove something, until unlock is called.
func (r *Repository) LockShared() (unlock func(), err error) {
	return r.lock(func(held *[]*os.File) error {
		err := r.flock(held, readerLock, unix.LOCK_SH)
		if errors.Is(err, fs.ErrPermission) || errors.Is(err, unix.EROFS) {
			return nil // nobody can write here, as far as we can tell
		}
		return err
	})
}

func (r *Repository) lock(take func(*[]*os.File) error) (func(), error) {
	if r.fsys != fsx.OS() {
		return func() {}, nil // a simulated disk has one process
	}
	var held []*os.File
	unlock := func() {
		for _, f := range held {
			_ = fsx.CloseLocked(f) // where it could not be locked, too
		}
	}
	if err := take(&held); err != nil {
		unlock()
		return nil, err
	}
	return unlock, nil
}

func (r *Repository) flock(held *[]*os.File, name string, how int) error {
	name = filepath.Join(r.dir, name)
	f, err := os.OpenFile(name, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil && how == unix.LOCK_SH {
		if readOnly, openErr := os.Open(name); openErr == nil {
			f, err = readOnly, nil
		}
	}
	if err != nil {
		return err
	}
	*held = append(*held, f)
	err = unix.Flock(int(f.Fd()), how|unix.LOCK_NB)
	if errors.Is(err, unix.EWOULDBLOCK) {
		return fmt.Errorf("%s is in use: another backup, prune, verify or restore runs on it", r.dir)
	}
	return err
}

// list returns the names in a folder below dir, none when it is not there.
func (r *Repository) list(parts ...string) ([]string, error) {
	names, err := r.fsys.ReadDir(filepath.Join(append([]string{r.dir}, parts...)...))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	return names, err
}

// makeDir makes a folder once.
func (r *Repository) makeDir(dir string) error {
	r.mu.Lock()
	made := r.made[dir]
	r.mu.Unlock()
	if made {
		return nil
	}
	if err := r.fsys.MkdirAll(dir); err != nil {
		return err
	}
	r.mu.Lock()
	r.made[dir] = true
	r.mu.Unlock()
	return nil
}

func (r *Repository) soil(dir string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.dirty[dir] = true
}

// await has an object named with others, once they are many or have waited. An error is that of
// any of them: none that waits may be relied on then.
func (r *Repository) await(n nameless) error {
	r.mu.Lock()
	if len(r.waiting) == 0 {
		r.since = time.Now()
	}
	r.waiting = append(r.waiting, n)
	r.coming[n.to] = true
	full := len(r.waiting) >= namesAtOnce || time.Since(r.since) >= nameDelay
	r.mu.Unlock()
	if full {
		return r.settle()
	}
	return nil
}

// isComing reports whether an object was written and waits for its name.
func (r *Repository) isComing(name string) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.coming[name]
}

// settle makes what waits durable, and then gives it its names.
func (r *Repository) settle() error {
	r.mu.Lock()
	waiting := r.waiting
	r.waiting = nil
	r.mu.Unlock()
	files := make([]fsx.File, len(waiting))
	for i, n := range waiting {
		files[i] = n.file
	}
	err := fsx.SyncAll(r.fsys, files)
	for _, n := range waiting {
		if closed := n.file.Close(); err == nil {
			err = closed
		}
	}
	for _, n := range waiting {
		if err == nil {
			err = r.fsys.Rename(n.name, n.to)
		}
		if err != nil {
			_ = r.fsys.Remove(n.name) // prune does, if this does not
		} else {
			r.soil(filepath.Dir(n.to))
		}
		r.mu.Lock()
		delete(r.coming, n.to)
		r.mu.Unlock()
	}
	return err
}

// syncNames makes everything durable that was written since the last time, with its
// name.
func (r *Repository) syncNames() error {
	if err := r.settle(); err != nil {
		return err
	}
	r.mu.Lock()
	var dirs []string
	for dir := range r.dirty {
		dirs = append(dirs, dir)
	}
	clear(r.dirty)
	r.mu.Unlock()
	slices.Sort(dirs)
	for _, dir := range dirs {
		if err := r.fsys.SyncDir(dir); err != nil {
			return err
		}
	}
	return nil
}

// create makes a file that is being written, in the place of one that an
// interrupted run left.
func (r *Repository) create(name string) (fsx.File, error) {
	if err := r.makeDir(filepath.Dir(name)); err != nil {
		return nil, err
	}
	f, err := r.fsys.Create(name)
	if errors.Is(err, fs.ErrExist) {
		if err := r.fsys.Remove(name); err != nil {
			return nil, err
		}
		f, err = r.fsys.Create(name)
	}
	return f, err
}

// remove removes a file; one that is gone is no error.
func (r *Repository) remove(name string) error {
	err := r.fsys.Remove(name)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	r.soil(filepath.Dir(name))
	return err
}
