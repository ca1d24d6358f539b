package backup

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/postern-mail/postern/internal/fsx"
	"github.com/postern-mail/postern/internal/fsx/fsxtest"
	"github.com/postern-mail/postern/transfer"
)

// onDisk opens the folder on a simulated disk.
func onDisk(disk *fsxtest.Disk, dir string) (*Repository, error) {
	return prepareOn(disk, dir, func(name string) (readable, error) { return disk.Open(name) })
}

// TestPowerCuts: wherever the power fails in a run or in prune, the runs that
// had their name are whole, and the next run is.
func TestPowerCuts(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	kim := lived(t, s, "kim", 6)
	in := mailbox(t, kim, "INBOX")
	disk := fsxtest.New(1)
	r, err := onDisk(disk, "/backup")
	must(t, err)
	take(t, r, s, Options{})
	var mu sync.Mutex
	var cuts []*fsxtest.Disk
	disk.SetFault(func(op fsxtest.Op) error {
		if op.Kind != fsxtest.OpRead && op.N%3 == 0 {
			cut := disk.Cut(uint64(op.N))
			mu.Lock()
			defer mu.Unlock()
			cuts = append(cuts, cut)
		}
		return nil
	})
	c := connect(t, s)
	for i := range 4 {
		add(t, s, in, fmt.Sprintf("Subject: late %d\r\n\r\n", i))
		_, err := r.Take(t.Context(), c, Options{})
		must(t, err)
	}
	_, err = r.Prune(t.Context(), Keep{Last: 1}, false, nil)
	must(t, err)
	disk.SetFault(nil)
	if len(cuts) < 15 {
		t.Fatalf("%d cuts only", len(cuts))
	}
	for i, cut := range cuts {
		after, err := onDisk(cut, "/backup")
		if err != nil {
			t.Fatalf("cut %d: %v", i, err)
		}
		if names, _ := after.Runs(); len(names) == 0 {
			t.Errorf("cut %d: no run is left", i)
		}
		if found := verify(t, after); len(found) > 0 {
			t.Errorf("cut %d: %v", i, found)
		}
		if _, err := after.Take(t.Context(), c, Options{}); err != nil {
			t.Fatalf("cut %d: %v", i, err)
		}
		if found := verify(t, after); len(found) > 0 {
			t.Errorf("cut %d, next run: %v", i, found)
		}
	}
}

// TestKilledThenPowerCut: bodies that a run which was killed had written are
// durable when the next run is.
func TestKilledThenPowerCut(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	lived(t, s, "kim", 6)
	disk := fsxtest.New(1)
	r, err := onDisk(disk, "/backup")
	must(t, err)
	killed := errors.New("killed")
	if _, err := r.Take(t.Context(), &cutShort{connect(t, s), killed}, Options{}); !errors.Is(err, killed) {
		t.Fatalf("%v, want that it was killed", err)
	}
	r, err = onDisk(disk, "/backup")
	must(t, err)
	if result := take(t, r, s, Options{}); result.Bodies > 0 {
		t.Fatalf("%d bodies written again", result.Bodies)
	}
	for seed := range uint64(8) {
		after, err := onDisk(disk.Cut(seed), "/backup")
		must(t, err)
		if found := verify(t, after); len(found) > 0 {
			t.Errorf("cut %d: %v", seed, found)
		}
	}
}

// cutShort ends a run when all bodies are there.
type cutShort struct {
	*transfer.BackupClient
	err error
}

func (c *cutShort) Bodies(ctx context.Context, list []transfer.BodyRef, take func(transfer.BodyRef, io.Reader) error, gone func(transfer.BodyRef, bool, string) error) error {
	return errors.Join(c.BackupClient.Bodies(ctx, list, take, gone), c.err)
}

// TestDiskFull: a run that finds no room leaves the others as they were, and goes
// on when there is.
func TestDiskFull(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	kim := lived(t, s, "kim", 6)
	disk := fsxtest.New(1)
	r, err := onDisk(disk, "/backup")
	must(t, err)
	take(t, r, s, Options{})
	add(t, s, mailbox(t, kim, "INBOX"), text(41), text(43), text(45))
	full := true
	disk.SetFault(func(op fsxtest.Op) error {
		if full && op.Kind == fsxtest.OpWrite {
			return syscall.ENOSPC
		}
		return nil
	})
	if _, err := r.Take(t.Context(), connect(t, s), Options{}); !fsx.IsFull(err) {
		t.Errorf("full: %v", err)
	}
	full = false
	if found := verify(t, r); len(found) > 0 {
		t.Errorf("not whole: %v", found)
	}
	if again := take(t, r, s, Options{}); again.Bodies != 3 {
		t.Errorf("%+v", again)
	}
	if found := verify(t, r); len(found) > 0 {
		t.Errorf("not whole: %v", found)
	}
}

// FuzzManifest: whatever stands in a manifest, reading it ends, with every row
// checked.
func FuzzManifest(f *testing.F) {
	f.Add([]byte(`{"account":{"format":1,"name":"kim","id":"00000000000000000000000000000001","position":"x","taken":"2026-11-20T03:00:00Z","journal":null,"modseq":9,"uid_validity":1,"octets":0}}` + "\n" +
		`{"mailbox":{"id":"00000000000000000000000000000002","name":"INBOX","uid_validity":7,"uid_next":1,"modseq":3,"messages":0}}` + "\n" +
		`{"end":{"mailboxes":1,"messages":0,"rows":2,"octets":0}}` + "\n"))
	f.Add([]byte(`{"message":{"uid":1,"email_id":"zz","body":"00"}}` + "\n"))
	f.Add([]byte("{}\n"))
	f.Fuzz(func(t *testing.T, text []byte) {
		m := newManifestReader(bytes.NewReader(text), "manifest")
		for n := 0; ; n++ {
			r, err := m.next()
			if errors.Is(err, io.EOF) {
				if !m.end || !m.begun {
					t.Fatal("half a manifest is taken for whole")
				}
				return
			}
			if err != nil {
				if !errors.Is(err, ErrDamaged) {
					t.Fatalf("%v", err)
				}
				return
			}
			if err := r.Check(); err != nil || n > len(text) {
				t.Fatalf("row %d: %v", n, err)
			}
		}
	})
}

// FuzzRun: the same for the file of a run.
func FuzzRun(f *testing.F) {
	f.Add([]byte(`{"run":{"format":1,"name":"20261120T030000Z","begun":"2026-11-20T03:00:00Z","whole":true}}`+"\n"+
		`{"account":{"name":"kim","id":"00000000000000000000000000000001","taken":"2026-11-20T03:00:00Z","failed":"x"}}`+"\n"), true)
	f.Add([]byte(`{"end":{}}`), false)
	f.Fuzz(func(t *testing.T, text []byte, interrupted bool) {
		run, err := decodeRun(bytes.NewReader(text), interrupted)
		if err != nil {
			return
		}
		for _, a := range run.Accounts {
			if !isHex(a.ID, 32) || a.Failed == "" && !isHex(a.Manifest, 64) {
				t.Fatalf("%+v", a)
			}
		}
	})
}

// TestSyncFails: what could not be made durable has no name, whatever waited for
// its name beside it, and the next run writes it again.
func TestSyncFails(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	lived(t, s, "kim", 6)
	disk := fsxtest.New(1)
	r, err := onDisk(disk, "/backup")
	must(t, err)
	var once sync.Once
	disk.SetFault(func(op fsxtest.Op) (err error) {
		if op.Kind == fsxtest.OpSync && strings.HasPrefix(op.Name, "/backup/bodies/") {
			once.Do(func() { err = syscall.EIO })
		}
		return err
	})
	if _, err := r.Take(t.Context(), connect(t, s), Options{}); !errors.Is(err, syscall.EIO) {
		t.Fatalf("%v, want that of the disk", err)
	}
	for first := range 256 {
		names, err := r.list(bodiesName, fmt.Sprintf("%02x", first))
		must(t, err)
		if len(names) > 0 {
			t.Errorf("named, or left: %q", names)
		}
	}
	if again := take(t, r, s, Options{}); again.Bodies != 6 {
		t.Errorf("%+v", again)
	}
	for seed := range uint64(8) {
		after, err := onDisk(disk.Cut(seed), "/backup")
		must(t, err)
		if found := verify(t, after); len(found) > 0 {
			t.Errorf("cut %d: %v", seed, found)
		}
	}
}

// refusing gives bodies, and says behind many of them that it cannot go on.
type refusing struct{ *transfer.BackupClient }

func (s refusing) Bodies(ctx context.Context, list []transfer.BodyRef, take func(transfer.BodyRef, io.Reader) error, gone func(transfer.BodyRef, bool, string) error) error {
	err := s.BackupClient.Bodies(ctx, list, func(b transfer.BodyRef, r io.Reader) error { _ = take(b, r); return nil }, gone)
	if err == nil && len(list) >= namesAtOnce {
		err = &transfer.Refused{Text: "no more"}
	}
	return err
}

// TestSyncFailsWithARefusal: an error of the disk ends the run also where the
// account refuses to go on at the same moment: what waited for its name may be of
// accounts before it, which the run would name.
func TestSyncFailsWithARefusal(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	lived(t, s, "kim", 6)
	in := mailbox(t, open(t, s, "sam"), "INBOX")
	for i := range namesAtOnce {
		add(t, s, in, text(1000+7*i))
	}
	disk := fsxtest.New(1)
	r, err := onDisk(disk, "/backup")
	must(t, err)
	var once sync.Once
	disk.SetFault(func(op fsxtest.Op) (err error) {
		if op.Kind == fsxtest.OpSync && strings.HasPrefix(op.Name, "/backup/bodies/") {
			once.Do(func() { err = syscall.EIO })
		}
		return err
	})
	if _, err := r.Take(t.Context(), refusing{connect(t, s)}, Options{}); !errors.Is(err, syscall.EIO) {
		t.Errorf("%v, want that of the disk", err)
	}
	if found := verify(t, r); len(found) > 0 {
		t.Errorf("not whole: %v", found)
	}
}
