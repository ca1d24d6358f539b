package pebble

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/cockroachdb/pebble/v2/vfs/errorfs"
	"github.com/hashicorp/go-hclog"
	"golang.org/x/sys/unix"

	"github.com/postern-mail/postern/internal/fsx/fsxtest"
	"github.com/postern-mail/postern/internal/testenv"
	"github.com/postern-mail/postern/store"
)

// faultyLog is a disk whose write-ahead log can be held up and broken.
type faultyLog struct {
	disk *vfs.MemFS
	// held, when set, is what each write or sync of the log waits for.
	held atomic.Pointer[chan struct{}]
	// arrived gets a token for each that waits.
	arrived chan struct{}
	fail    atomic.Pointer[error]
}

func newFaultyLog() *faultyLog {
	return &faultyLog{disk: vfs.NewCrashableMem(), arrived: make(chan struct{}, 100)}
}

func (f *faultyLog) inject(op errorfs.Op) error {
	writes := op.Kind == errorfs.OpFileWrite || op.Kind == errorfs.OpFileSync || op.Kind == errorfs.OpFileSyncData ||
		op.Kind == errorfs.OpFileSyncTo
	if filepath.Ext(op.Path) != ".log" || !writes {
		return nil
	}
	if held := f.held.Load(); held != nil {
		f.arrived <- struct{}{}
		<-*held
	}
	if err := f.fail.Load(); err != nil {
		return *err
	}
	return nil
}

// hold has the log wait until the function it returns is called.
func (f *faultyLog) hold() (release func()) {
	held := make(chan struct{})
	f.held.Store(&held)
	return sync.OnceFunc(func() { f.held.Store(nil); close(held) })
}

func (f *faultyLog) breakWith(err error) { f.fail.Store(&err) }

// open opens a store on a disk without faults, or on f itself.
func (f *faultyLog) open(t *testing.T) *Store {
	t.Helper()
	return openOn(t, errorfs.Wrap(f.disk, errorfs.InjectorFunc(f.inject)), Config{ReserveOctets: -1})
}

func openOn(t *testing.T, fs vfs.FS, cfg Config) *Store {
	t.Helper()
	cfg.Dir = "/store"
	s, err := OpenOn(context.Background(), cfg, hclog.NewNullLogger(), fs, fsxtest.New(1))
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// restarted opens what a power cut leaves of f, without faults.
func (f *faultyLog) restarted(t *testing.T) *Store {
	t.Helper()
	s := openOn(t, f.disk.CrashClone(vfs.CrashCloneCfg{}), Config{ReserveOctets: -1})
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

func add(id store.TxID) *store.Batch {
	b := &store.Batch{ID: id}
	b.Add([]byte("n"), 1)
	return b
}

func sum(t *testing.T, s store.Store) (n int64) {
	t.Helper()
	err := s.View(context.Background(), func(v store.Snapshot) (err error) {
		n, err = v.Counter([]byte("n"))
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// TestFailedLog: when the log cannot be written, whoever waited does not know,
// whoever comes is refused, what was durable can be read, and after a restart
// everybody learns the truth.
func TestFailedLog(t *testing.T) {
	t.Parallel()
	for _, cause := range []error{unix.EIO, unix.ENOSPC} {
		f := newFaultyLog()
		s := f.open(t)
		acked, unknown := store.NewTxID(), store.NewTxID()
		if _, err := s.Commit(t.Context(), add(acked)); err != nil {
			t.Fatal(err)
		}
		f.breakWith(cause)
		if _, err := s.Commit(t.Context(), add(unknown)); !errors.Is(err, store.ErrUnknown) || !errors.Is(err, cause) {
			t.Errorf("commit while the log breaks with %v: %v", cause, err)
		}
		select {
		case <-s.Failed():
		case <-time.After(time.Minute):
			t.Error("nobody is told of the failure")
		}
		if !errors.Is(s.Err(), cause) {
			t.Errorf("failed with %v", s.Err())
		}
		for range 3 {
			_, err := s.Commit(t.Context(), add(store.NewTxID()))
			if !errors.Is(err, store.ErrClosed) || !errors.Is(err, cause) {
				t.Errorf("commit on a broken log: %v", err)
			}
		}
		if n := sum(t, s); n != 1 {
			t.Errorf("%d are shown, 1 is durable", n)
		}
		if err := s.Close(); err != nil && strings.Contains(err.Error(), "leaked") {
			t.Errorf("close: %v", err)
		}

		s = f.restarted(t)
		for _, id := range []store.TxID{acked, unknown, unknown} {
			if _, err := s.Commit(t.Context(), add(id)); err != nil {
				t.Errorf("commit again: %v", err)
			}
		}
		if n := sum(t, s); n != 2 {
			t.Errorf("sum %d, want 2", n)
		}
	}
}

// TestFailureBehindFailure: what is decided by, or finds itself in, a group
// that then fails has failed with it.
func TestFailureBehindFailure(t *testing.T) {
	t.Parallel()
	f := newFaultyLog()
	s := f.open(t)
	release := f.hold()
	id := store.NewTxID()
	answers := make(chan error, 3)
	commit := func(b *store.Batch) {
		go func() {
			_, err := s.Commit(context.Background(), b)
			answers <- err
		}()
	}
	commit(add(id))
	<-f.arrived
	// The first is applied and waits for its sync. This one finds it there,
	// as does one that only looks.
	commit(add(id))
	for decided := false; !decided; {
		s.mu.Lock()
		decided = len(s.queue) == 0 && len(s.applied) == 1
		s.mu.Unlock()
		if t.Context().Err() != nil {
			t.Fatal(t.Context().Err())
		}
		runtime.Gosched()
	}
	guarded := store.NewBatch()
	guarded.IfEquals([]byte("n"), store.EncodeCounter(1))
	commit(guarded)
	f.breakWith(unix.EIO)
	release()
	for range 3 {
		if err := <-answers; !errors.Is(err, store.ErrUnknown) && !errors.Is(err, store.ErrClosed) {
			t.Errorf("a commit behind a failed one: %v", err)
		}
	}
	if err := s.Close(); err != nil && strings.Contains(err.Error(), "leaked") {
		t.Errorf("close: %v", err)
	}
	if n := sum(t, f.restarted(t)); n != 0 {
		t.Errorf("sum %d after a failed sync", n)
	}
}

// TestDamage flips bits of tables: a value is read as it was written, or the
// read fails.
func TestDamage(t *testing.T) {
	t.Parallel()
	const keys = 300
	value := func(i int) []byte { return bytes.Repeat([]byte{byte(i)}, 500+i) }
	key := func(i int) []byte { return fmt.Appendf(nil, "key/%03d", i) }
	whole := vfs.NewMem()
	s := openOn(t, whole, Config{ReserveOctets: -1})
	for from := 0; from < keys; from += 100 {
		b := store.NewBatch()
		for i := from; i < from+100; i++ {
			b.Put(key(i), value(i))
		}
		if _, err := s.Commit(t.Context(), b); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.db.Flush(); err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	seed := testenv.Seed(t)
	rnd := rand.New(rand.NewPCG(seed, 0))
	detected := 0
	for range 25 {
		disk := vfs.NewMem()
		if ok, err := vfs.Clone(whole, disk, "/store", "/store"); !ok || err != nil {
			t.Fatal(ok, err)
		}
		table := largestTable(t, disk)
		content, err := disk.UnsafeGetFileDataBuffer(table)
		if err != nil {
			t.Fatal(err)
		}
		at, bit := rnd.IntN(len(content)), rnd.IntN(8)
		content[at] ^= 1 << bit
		s, err := OpenOn(t.Context(), Config{Dir: "/store", ReserveOctets: -1}, hclog.NewNullLogger(), disk, fsxtest.New(1))
		if err != nil {
			detected++
			continue
		}
		failed := false
		for i := range keys {
			err := s.View(t.Context(), func(v store.Snapshot) error {
				got, err := v.Get(key(i))
				if err == nil && !bytes.Equal(got, value(i)) {
					t.Errorf("bit %d of octet %d: %s is delivered damaged", bit, at, key(i))
				}
				return err
			})
			failed = failed || err != nil
			if errors.Is(err, store.ErrNotFound) {
				t.Errorf("bit %d of octet %d: %s is said not to be there", bit, at, key(i))
			}
		}
		if failed {
			detected++
		}
		_ = s.Close() // may say what the reads said
	}
	if detected < 15 {
		t.Errorf("only %d of 25 flipped bits were noticed", detected)
	}
}

// largestTable returns the name of the largest table.
func largestTable(t *testing.T, disk *vfs.MemFS) (largest string) {
	t.Helper()
	names, err := disk.List("/store/db")
	if err != nil {
		t.Fatal(err)
	}
	octets := int64(0)
	for _, name := range names {
		info, err := disk.Stat("/store/db/" + name)
		if err == nil && filepath.Ext(name) == ".sst" && info.Size() > octets {
			largest, octets = "/store/db/"+name, info.Size()
		}
	}
	if largest == "" {
		t.Fatalf("no table among %q", names)
	}
	return largest
}
