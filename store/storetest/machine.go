package storetest

import (
	"context"
	"errors"
	"math/rand/v2"
	"sync"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/hashicorp/go-hclog"

	"github.com/postern-mail/postern/internal/fsx/fsxtest"
	"github.com/postern-mail/postern/store"
	"github.com/postern-mail/postern/store/pack"
	"github.com/postern-mail/postern/store/pebble"
)

// Machine is an embedded store and its bodies on disks in memory that lose
// their power together.
type Machine struct {
	bodies *fsxtest.Disk
	meta   *vfs.MemFS
	// gate is held for reading by who changes meta, and by Cut, which needs
	// meta to stand still while it takes both.
	gate sync.RWMutex

	mu    sync.Mutex
	ops   int
	onOp  func(n int)
	fault func(n int) error
}

// NewMachine returns a machine with nothing on it.
func NewMachine() *Machine {
	return &Machine{bodies: fsxtest.New(1), meta: vfs.NewCrashableMem()}
}

// OnOp has fn called ahead of each operation that changes something on a disk,
// with its number from 1. fn may call Cut. It is called concurrently. nil ends
// it.
func (m *Machine) OnOp(fn func(n int)) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.onOp = fn
	m.watchLocked()
}

// SetFault has fn asked ahead of each such operation, of both disks; an error
// it returns is what the operation returns instead of happening, a write after
// a part of it when that is an *fsxtest.Short. nil ends it.
func (m *Machine) SetFault(fn func(n int) error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.fault = fn
	m.watchLocked()
}

// watchLocked has the disk of the bodies tell of its operations while somebody
// wants to know.
func (m *Machine) watchLocked() {
	if m.onOp == nil && m.fault == nil {
		m.bodies.SetFault(nil)
		return
	}
	m.bodies.SetFault(func(op fsxtest.Op) error {
		if op.Kind == fsxtest.OpRead {
			return nil
		}
		return m.step()
	})
}

func (m *Machine) step() error {
	m.mu.Lock()
	m.ops++
	n, fn, fault := m.ops, m.onOp, m.fault
	m.mu.Unlock()
	if fn != nil {
		fn(n)
	}
	if fault != nil {
		return fault(n)
	}
	return nil
}

// Cut returns a machine as it may be found when the power fails now, chosen by
// seed. This one goes on undisturbed.
func (m *Machine) Cut(seed uint64) *Machine {
	m.gate.Lock()
	defer m.gate.Unlock()
	return &Machine{
		bodies: m.bodies.Cut(seed),
		meta: m.meta.CrashClone(vfs.CrashCloneCfg{
			UnsyncedDataPercent: []int{0, 50, 100, 10}[seed%4],
			RNG:                 rand.New(rand.NewPCG(seed, 0)),
		}),
	}
}

// TryOpenStore opens the store alone; the caller closes it.
func (m *Machine) TryOpenStore(ctx context.Context) (store.Store, error) {
	kv, err := pebble.OpenOn(ctx, pebble.Config{
		Dir: "/store/meta", CacheOctets: 1 << 20, MemTableOctets: 8 << 20, ReserveOctets: -1, Unticked: true,
	}, hclog.NewNullLogger(), gatedFS{FS: m.meta, machine: m}, m.bodies)
	if err != nil {
		return nil, err
	}
	return kv, nil
}

// OpenStore opens the store alone; it is closed when the test ends.
func (m *Machine) OpenStore(t testing.TB) store.Store {
	t.Helper()
	kv, err := m.TryOpenStore(context.Background())
	if err != nil {
		t.Fatalf("open store after a power cut: %v", err)
	}
	t.Cleanup(func() {
		if err := kv.Close(); err != nil {
			t.Errorf("close store: %v", err)
		}
	})
	return kv
}

// TryOpen opens the store and its bodies; the caller closes both, the bodies
// first.
func (m *Machine) TryOpen(ctx context.Context) (store.Store, *pack.Blobs, error) {
	kv, err := m.TryOpenStore(ctx)
	if err != nil {
		return nil, nil, err
	}
	blobs, err := m.openBodies(ctx, kv)
	if err != nil {
		return nil, nil, errors.Join(err, kv.Close())
	}
	return kv, blobs, nil
}

func (m *Machine) openBodies(ctx context.Context, kv store.Store) (*pack.Blobs, error) {
	return pack.OpenOn(ctx, pack.Config{
		Dir: "/store/bodies", PackOctets: 1 << 20, ReserveOctets: -1,
	}, kv, hclog.NewNullLogger(), m.bodies)
}

// Open opens the store and its bodies; both are closed when the test ends.
func (m *Machine) Open(t testing.TB) (store.Store, *pack.Blobs) {
	t.Helper()
	kv := m.OpenStore(t)
	blobs, err := m.openBodies(context.Background(), kv)
	if err != nil {
		t.Fatalf("open bodies after a power cut: %v", err)
	}
	t.Cleanup(func() {
		if err := blobs.Close(); err != nil {
			t.Errorf("close bodies: %v", err)
		}
	})
	return kv, blobs
}

// gatedFS passes the gate with whatever changes something.
type gatedFS struct {
	vfs.FS
	machine *Machine
}

// pass does one operation.
func (m *Machine) pass(do func() error) error {
	if err := m.step(); err != nil {
		return err
	}
	m.gate.RLock()
	defer m.gate.RUnlock()
	return do()
}

func (f gatedFS) Unwrap() vfs.FS { return f.FS }

// file wraps what open returns.
func (f gatedFS) file(open func() (vfs.File, error)) (file vfs.File, err error) {
	err = f.machine.pass(func() error {
		opened, err := open()
		if err == nil {
			file = gatedFile{File: opened, machine: f.machine}
		}
		return err
	})
	return file, err
}

func (f gatedFS) Create(name string, c vfs.DiskWriteCategory) (vfs.File, error) {
	return f.file(func() (vfs.File, error) { return f.FS.Create(name, c) })
}

func (f gatedFS) OpenReadWrite(name string, c vfs.DiskWriteCategory, o ...vfs.OpenOption) (vfs.File, error) {
	return f.file(func() (vfs.File, error) { return f.FS.OpenReadWrite(name, c, o...) })
}

func (f gatedFS) OpenDir(name string) (vfs.File, error) {
	return f.file(func() (vfs.File, error) { return f.FS.OpenDir(name) })
}

func (f gatedFS) ReuseForWrite(from, to string, c vfs.DiskWriteCategory) (vfs.File, error) {
	return f.file(func() (vfs.File, error) { return f.FS.ReuseForWrite(from, to, c) })
}

func (f gatedFS) Link(from, to string) error {
	return f.machine.pass(func() error { return f.FS.Link(from, to) })
}

func (f gatedFS) Remove(name string) error {
	return f.machine.pass(func() error { return f.FS.Remove(name) })
}

func (f gatedFS) RemoveAll(name string) error {
	return f.machine.pass(func() error { return f.FS.RemoveAll(name) })
}

func (f gatedFS) Rename(from, to string) error {
	return f.machine.pass(func() error { return f.FS.Rename(from, to) })
}

// gatedFile is a file that may be written to, or a directory.
type gatedFile struct {
	vfs.File
	machine *Machine
}

func (f gatedFile) Write(p []byte) (n int, err error) {
	err = f.machine.pass(func() error { n, err = f.File.Write(p); return err })
	var short *fsxtest.Short
	if errors.As(err, &short) {
		n, _ = f.File.Write(p[:min(short.Octets, len(p))]) // err tells
	}
	return n, err
}

func (f gatedFile) WriteAt(p []byte, offset int64) (n int, err error) {
	err = f.machine.pass(func() error { n, err = f.File.WriteAt(p, offset); return err })
	return n, err
}

func (f gatedFile) Sync() error { return f.machine.pass(f.File.Sync) }

func (f gatedFile) SyncData() error { return f.machine.pass(f.File.SyncData) }

func (f gatedFile) SyncTo(length int64) (full bool, err error) {
	err = f.machine.pass(func() error { full, err = f.File.SyncTo(length); return err })
	return full, err
}
