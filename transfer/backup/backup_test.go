package backup

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/emersion/go-imap/v2"
	"golang.org/x/sys/unix"

	"github.com/postern-mail/postern/backend/mailstore"
	"github.com/postern-mail/postern/store"
	"github.com/postern-mail/postern/transfer"
)

// TestRoundTrip: what is backed up comes back with every property, into a store
// that knows nothing; what did not change is not written again.
func TestRoundTrip(t *testing.T) {
	t.Parallel()
	from := newStore(t)
	kim := lived(t, from, "kim", 30)
	lived(t, from, "sam", 5)
	r, err := Prepare(filepath.Join(t.TempDir(), "mail"))
	must(t, err)
	first := take(t, r, from, Options{})
	if first.Done != 2 || first.Bodies != 30 || first.Messages != 39 || len(first.Failed) > 0 { // bodies are shared between accounts
		t.Errorf("first run: %+v", first)
	}
	second := take(t, r, from, Options{})
	if second.Unchanged != 2 || second.Bodies != 0 || second.Messages != first.Messages || second.Octets != first.Octets {
		t.Errorf("second run: %+v", second)
	}
	in := mailbox(t, kim, "INBOX")
	add(t, from, in, "Subject: late\r\n\r\n")
	_, err = in.StoreFlags(t.Context(), []imap.UID{5}, mailstore.FlagsChange{Op: mailstore.FlagsAdd, Flags: mailstore.FlagFlagged})
	must(t, err)
	third := take(t, r, from, Options{})
	if third.Unchanged != 1 || third.Bodies != 1 {
		t.Errorf("third run: %+v", third)
	}
	if found := verify(t, r); len(found) > 0 {
		t.Errorf("not whole: %v", found)
	}
	to := newStore(t)
	for _, name := range []string{"kim", "sam"} {
		got, err := restore(t, r, to, name, RestoreOptions{})
		must(t, err)
		if got.Messages != got.Expected {
			t.Errorf("%+v", got)
		}
		if want, have := rows(t, from, name), rows(t, to, name); have != want {
			t.Errorf("%s\n%s", name, differ(have, want))
		}
	}
	// A backup of what was restored has nothing new, and is the same again.
	if again := take(t, r, to, Options{}); again.Bodies != 0 {
		t.Errorf("of the restored: %+v", again)
	}
}

// TestRestoreAtATime: the run before a message went has it; it comes back beside
// what is there, once.
func TestRestoreInto(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	kim := lived(t, s, "kim", 10)
	r, err := Prepare(t.TempDir())
	must(t, err)
	now := time.Date(2026, 11, 20, 3, 0, 0, 0, time.UTC)
	take(t, r, s, Options{Now: func() time.Time { return now }})
	in := mailbox(t, kim, "INBOX")
	before := in.View().Len()
	_, err = in.Remove(t.Context(), []imap.UID{4, 5, 6})
	must(t, err)
	take(t, r, s, Options{Now: func() time.Time { return now.AddDate(0, 0, 1) }})
	run, err := r.At(now.Add(time.Hour), "kim")
	must(t, err)
	a, _ := run.Account("kim")
	o := RestoreOptions{Into: "Restored/Friday", Mailbox: "INBOX", UIDs: func(uid uint32) bool { return 4 <= uid && uid <= 5 }}
	for i, want := range []int64{2, 0} {
		got, err := r.Restore(t.Context(), connect(t, s), run, a, o)
		must(t, err)
		if got.Messages != want || got.Expected != 2 {
			t.Errorf("time %d: %+v", i+1, got)
		}
	}
	back := mailbox(t, kim, "Restored/Friday")
	if back.View().Len() != 2 || in.View().Len() != before-3 {
		t.Errorf("%d messages back, INBOX has %d", back.View().Len(), in.View().Len())
	}
	got, err := r.Restore(t.Context(), connect(t, s), run, a, RestoreOptions{Into: "All", Dry: true})
	must(t, err)
	if _, err := kim.Find("All/INBOX"); got.Expected != int64(before)+2 || !errors.Is(err, mailstore.ErrNoMailbox) {
		t.Errorf("dry run: %+v, %v", got, err)
	}
	if _, err = r.Restore(t.Context(), connect(t, s), run, a, RestoreOptions{Into: "All"}); err != nil {
		t.Fatal(err)
	}
	if n := mailbox(t, kim, "All/INBOX").View().Len(); n != before {
		t.Errorf("%d of %d messages", n, before)
	}
	if _, err := r.Restore(t.Context(), connect(t, s), run, a, RestoreOptions{}); err == nil || !strings.Contains(err.Error(), "holds messages") {
		t.Errorf("over a mailbox that lives: %v", err)
	}
	if _, err := r.Restore(t.Context(), connect(t, s), run, a, RestoreOptions{Into: "x", Mailbox: "None"}); err == nil {
		t.Error("a mailbox that is not there was restored")
	}
}

// interrupted ends the conversation in the middle.
type interrupted struct {
	*transfer.BackupClient
	left int
}

var errInterrupted = errors.New("interrupted")

func (i *interrupted) Message(ctx context.Context, mailbox string, m *transfer.MessageRow, r io.Reader) (bool, error, error) {
	if i.left--; i.left < 0 {
		return false, nil, errInterrupted
	}
	full, readErr, err := i.BackupClient.Message(ctx, mailbox, m, r)
	return full || i.left%3 == 0, readErr, err
}

// TestRestoreIsGoneOnWith: an interrupted restore is gone on with by the same
// call, and brings nothing twice.
func TestRestoreIsGoneOnWith(t *testing.T) {
	t.Parallel()
	from, whole, beside := newStore(t), newStore(t), newStore(t)
	lived(t, from, "kim", 25)
	r, err := Prepare(t.TempDir())
	must(t, err)
	take(t, r, from, Options{})
	run, err := r.At(time.Time{}, "kim")
	must(t, err)
	a, _ := run.Account("kim")
	for _, o := range []RestoreOptions{{}, {Into: "Back"}} {
		to := whole
		if o.Into != "" {
			to = beside
			lived(t, to, "kim", 2)
		}
		n := 0
		for left := 4; ; left += 4 {
			c := &interrupted{connect(t, to), left}
			got, err := r.Restore(t.Context(), c, run, a, o)
			if err == nil {
				if got.There == 0 {
					t.Errorf("%+v", got)
				}
				break
			}
			if n++; !errors.Is(err, errInterrupted) || n > 20 {
				t.Fatal(err)
			}
		}
		if n < 3 {
			t.Errorf("%d interruptions only", n)
		}
	}
	if rows(t, whole, "kim") != rows(t, from, "kim") {
		t.Error("the account is not what it was")
	}
	if n, want := mailbox(t, open(t, beside, "kim"), "Back/INBOX").View().Len(), mailbox(t, open(t, from, "kim"), "INBOX").View().Len(); n != want {
		t.Errorf("%d messages, want %d", n, want)
	}
}

// changing has something happen between photograph and bodies.
type changing struct {
	*transfer.BackupClient
	then func()
}

func (c *changing) Bodies(ctx context.Context, list []transfer.BodyRef, take func(transfer.BodyRef, io.Reader) error, gone func(transfer.BodyRef, bool, string) error) error {
	c.then()
	return c.BackupClient.Bodies(ctx, list, take, gone)
}

// TestChangesMeanwhile: a message that is moved while the backup runs is in it
// once; one that is expunged is not missed, nor does it make the backup less than
// whole.
func TestChangesMeanwhile(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	kim := lived(t, s, "kim", 20)
	in, plans := mailbox(t, kim, "INBOX"), mailbox(t, kim, "Arbeit/Pläne")
	r, err := Prepare(t.TempDir())
	must(t, err)
	uid := imap.UID(3)
	source := &changing{connect(t, s), func() {
		if uid > 12 {
			return
		}
		_, err := in.Remove(t.Context(), []imap.UID{uid})
		must(t, err)
		_, err = in.Move(t.Context(), []imap.UID{uid + 1}, plans)
		must(t, err)
		add(t, s, in, fmt.Sprintf("Subject: new %d\r\n\r\n", uid))
		uid += 2
	}}
	result, err := r.Take(t.Context(), source, Options{})
	must(t, err)
	if found := verify(t, r); len(found) > 0 {
		t.Errorf("not whole: %v", found)
	}
	if uid < 7 {
		t.Errorf("UID %d: the account was photographed once only", uid)
	}
	to := newStore(t)
	_, err = restore(t, r, to, "kim", RestoreOptions{})
	must(t, err)
	seen := make(map[mailstore.GUID]bool)
	for _, name := range []string{"INBOX", "Arbeit/Pläne"} {
		v := mailbox(t, open(t, to, "kim"), name).View()
		for i := range v.Len() {
			if m := v.At(i); seen[m.EmailID] && m.UID > 4 && name == "INBOX" {
				t.Errorf("%s, UID %d: twice", name, m.UID)
			} else {
				seen[m.EmailID] = true
			}
		}
	}
	names, err := r.Runs()
	must(t, err)
	if run, err := r.Run(names[0]); err != nil || run.Messages != result.Messages {
		t.Errorf("told of %d messages, the run has %d, %v", result.Messages, run.Messages, err)
	}
}

// TestErrorBesideError: that the disk is full while the text of another body
// cannot be read is not forgotten.
func TestErrorBesideError(t *testing.T) {
	t.Parallel()
	r, err := Prepare(t.TempDir())
	must(t, err)
	w := newBodyWriter(&taking{Repository: r, result: new(Result), limit: newLimiter(0)})
	broken := errors.New("broken")
	err = w.take(t.Context(), transfer.BodyRef{Hash: strings.Repeat("0", 64), Octets: heldBody + 1}, readFunc(func([]byte) (int, error) {
		w.note(store.Ref{}, 0, syscall.ENOSPC)
		return 0, broken
	}))
	if !errors.Is(err, broken) {
		t.Errorf("%v, want that of the text", err)
	}
	if err := w.wait(); !errors.Is(err, syscall.ENOSPC) {
		t.Errorf("%v, want that the disk is full", err)
	}
}

type readFunc func([]byte) (int, error)

func (f readFunc) Read(p []byte) (int, error) { return f(p) }

// TestDamage: whatever octet of a backup is not what it was is found, with its
// place, and not restored; the rest is, if that is asked for.
func TestDamage(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	lived(t, s, "kim", 12)
	dir := t.TempDir()
	r, err := Prepare(dir)
	must(t, err)
	take(t, r, s, Options{})
	var files []string
	must(t, filepath.Walk(dir, func(path string, info os.FileInfo, err error) error {
		if err == nil && !info.IsDir() && !strings.HasPrefix(info.Name(), "lock") && info.Name() != markerName {
			files = append(files, path)
		}
		return err
	}))
	if len(files) != 14 { // bodies, a manifest, a run
		t.Fatalf("%d files: %v", len(files), files)
	}
	for n, file := range files {
		text, err := os.ReadFile(file)
		must(t, err)
		step := max(1, len(text)/9)
		for at := 0; at <= len(text); at += step {
			damaged := append(bytes.Clone(text), 'x')
			if at < len(text) {
				damaged = bytes.Clone(text)
				damaged[at] ^= 1 << (n % 8)
			}
			must(t, os.WriteFile(file, damaged, 0o600))
			if found := verify(t, r); len(found) == 0 {
				t.Errorf("%s, octet %d: not found", file, at)
			}
		}
		for _, short := range [][]byte{{}, text[:len(text)-1], text[:len(text)/2]} {
			must(t, os.WriteFile(file, short, 0o600))
			if found := verify(t, r); len(found) == 0 {
				t.Errorf("%s, %d octets: not found", file, len(short))
			}
		}
		must(t, os.WriteFile(file, text, 0o600))
	}
	if found := verify(t, r); len(found) > 0 {
		t.Fatalf("not whole: %v", found)
	}

	// One body is damaged, one missing.
	bodies, err := filepath.Glob(filepath.Join(dir, bodiesName, "*", "*"))
	must(t, err)
	text, err := os.ReadFile(bodies[0])
	must(t, err)
	text[len(text)/2] ^= 4
	must(t, os.WriteFile(bodies[0], text, 0o600))
	to := newStore(t)
	if _, err := restore(t, r, to, "kim", RestoreOptions{}); !errors.Is(err, ErrDamaged) {
		t.Errorf("damaged: %v", err)
	}
	must(t, os.Remove(bodies[1]))
	if _, err := restore(t, r, newStore(t), "kim", RestoreOptions{}); !errors.Is(err, ErrDamaged) || !strings.Contains(err.Error(), "--damaged") {
		t.Errorf("missing: %v", err)
	}
	found := verify(t, r)
	if len(found) != 2 || !strings.Contains(found[0], `account "kim", mailbox "`) {
		t.Errorf("%q", found)
	}
	got, err := restore(t, r, to, "kim", RestoreOptions{Damaged: true}) // goes on
	must(t, err)
	if got.Damaged < 2 || got.Messages+got.There+got.Damaged != got.Expected || len(got.DamagedText) < 2 {
		t.Errorf("%+v", got)
	}
	// What is damaged is written anew by a full run once it is removed.
	must(t, os.Remove(bodies[0]))
	if full := take(t, r, s, Options{Full: true}); full.Bodies != 2 {
		t.Errorf("%+v", full)
	}
	if found := verify(t, r); len(found) > 0 {
		t.Errorf("not whole: %v", found)
	}
}

// TestPrune: what is kept stays whole, what only old runs name goes.
func TestPrune(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	kim := lived(t, s, "kim", 8)
	in := mailbox(t, kim, "INBOX")
	r, err := Prepare(t.TempDir())
	must(t, err)
	day := time.Date(2026, 10, 1, 3, 0, 0, 0, time.Local)
	for i := range 20 {
		add(t, s, in, fmt.Sprintf("Subject: day %d\r\n\r\n", i))
		now := day.AddDate(0, 0, i)
		take(t, r, s, Options{Now: func() time.Time { return now }})
		v := in.View()
		_, err = in.Remove(t.Context(), []imap.UID{v.At(v.Len() - 1).UID})
		must(t, err)
	}
	if _, err := r.Prune(t.Context(), Keep{}, false, nil); err == nil {
		t.Error("all runs may go")
	}
	keep := Keep{Daily: 5, Weekly: 3}
	dry, err := r.Prune(t.Context(), keep, true, nil)
	must(t, err)
	read, share := 0, 0
	p, err := r.Prune(t.Context(), keep, false, func(p Pruning) { read, share = max(read, p.Manifests), max(share, p.Share) })
	must(t, err)
	if read == 0 || share < 90 {
		t.Errorf("told of %d manifests and %d %% of the bodies", read, share)
	}
	if len(p.Kept) != 6 || len(p.Removed) != 14 || p.Bodies != 14 || !slices.Equal(p.Removed, dry.Removed) {
		t.Errorf("%+v, dry %+v", p, dry)
	}
	if found := verify(t, r); len(found) > 0 {
		t.Errorf("not whole: %v", found)
	}
	if names, _ := r.Runs(); len(names) != 6 {
		t.Errorf("runs %v", names)
	}
	again, err := r.Prune(t.Context(), keep, false, nil)
	must(t, err)
	if len(again.Removed) != 0 || again.Bodies != 0 || again.Manifests != 0 {
		t.Errorf("again: %+v", again)
	}
	// While a manifest cannot be read nothing goes.
	run, err := r.At(time.Time{}, "kim")
	must(t, err)
	a, _ := run.Account("kim")
	must(t, os.WriteFile(r.manifestPath(a.ID, a.Manifest), []byte("x"), 0o600))
	if _, err := r.Prune(t.Context(), Keep{Last: 1}, false, nil); !errors.Is(err, ErrDamaged) {
		t.Errorf("with a damaged manifest: %v", err)
	}
	if names, _ := r.Runs(); len(names) != 6 {
		t.Errorf("runs %v", names)
	}
}

// TestLocks: no two runs write, nothing is removed while somebody reads.
func TestLocks(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	r, err := Prepare(dir)
	must(t, err)
	other, err := Open(dir)
	must(t, err)
	unlock, err := r.Lock(false)
	must(t, err)
	if _, err := other.Lock(false); err == nil || !strings.Contains(err.Error(), "in use") {
		t.Errorf("two write: %v", err)
	}
	read, err := other.LockShared()
	must(t, err)
	unlock()
	if _, err := r.Lock(true); err == nil {
		t.Error("prune beside a restore")
	}
	read()
	alone, err := r.Lock(true)
	must(t, err)
	defer alone()
	if _, err := other.LockShared(); err == nil {
		t.Error("restore beside prune")
	}
	readOnly := &Repository{fsys: r.fsys, dir: "/sys"} // where nobody makes files
	unlock, err = readOnly.LockShared()
	if err != nil {
		t.Fatalf("a folder that cannot be written: %v", err)
	}
	unlock()
}

// TestLockIsGivenBack: with the unlock, though a program that is being started
// has a copy of every descriptor until it runs.
func TestLockIsGivenBack(t *testing.T) {
	t.Parallel()
	r, err := Prepare(t.TempDir())
	must(t, err)
	copied := -1
	unlock, err := r.lock(func(held *[]*os.File) error {
		err := r.flock(held, writerLock, unix.LOCK_EX)
		if err == nil {
			copied, err = unix.Dup(int((*held)[0].Fd()))
		}
		return err
	})
	must(t, err)
	defer unix.Close(copied)
	unlock()
	unlock, err = r.Lock(true)
	must(t, err)
	unlock()
}

// TestFolders: a folder with something else in it is no backup; one of a later
// format is left alone.
func TestFolders(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	if _, err := Open(dir); !errors.Is(err, ErrNotBackup) {
		t.Errorf("%v", err)
	}
	r, err := Prepare(filepath.Join(dir, "backup"))
	must(t, err)
	take(t, r, newStore(t), Options{})
	names, err := r.Runs()
	must(t, err)
	if _, err := r.Run("../runs/" + names[0]); !errors.Is(err, ErrNoRun) {
		t.Errorf("a run by a path: %v", err)
	}
	must(t, os.WriteFile(filepath.Join(dir, "letter"), nil, 0o600))
	if _, err := Prepare(dir); !errors.Is(err, ErrNotBackup) {
		t.Errorf("%v", err)
	}
	must(t, os.WriteFile(filepath.Join(dir, markerName), []byte(`{"postern_backup": 2}`), 0o600))
	if _, err := Prepare(dir); err == nil || !strings.Contains(err.Error(), "format 2") {
		t.Errorf("%v", err)
	}
}

// TestCompare: a backup is compared with the mailboxes.
func TestCompare(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	kim := lived(t, s, "kim", 6)
	r, err := Prepare(t.TempDir())
	must(t, err)
	take(t, r, s, Options{})
	run, err := r.At(time.Time{}, "")
	must(t, err)
	d, err := r.Compare(t.Context(), connect(t, s), run.Accounts[0])
	must(t, err)
	if !d.Same || len(d.Wrong) > 0 {
		t.Errorf("%+v", d)
	}
	in := mailbox(t, kim, "INBOX")
	add(t, s, in, text(50))
	_, err = in.Remove(t.Context(), []imap.UID{4})
	must(t, err)
	_, err = in.StoreFlags(t.Context(), []imap.UID{5}, mailstore.FlagsChange{Op: mailstore.FlagsAdd, Flags: mailstore.FlagFlagged})
	must(t, err)
	d, err = r.Compare(t.Context(), connect(t, s), run.Accounts[0])
	must(t, err)
	if d.Same || len(d.Wrong) > 0 || d.Newer != 1 || d.Missing != 1 || d.Changed != 1 {
		t.Errorf("%+v", d)
	}
	// A store that gave a UID to another message is not the one backed up.
	other := newStore(t)
	lived(t, other, "kim", 9)
	d, err = r.Compare(t.Context(), connect(t, other), run.Accounts[0])
	must(t, err)
	if len(d.Wrong) == 0 {
		t.Errorf("%+v", d)
	}
}
