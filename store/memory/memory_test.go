package memory_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/postern-mail/postern/store"
	"github.com/postern-mail/postern/store/memory"
	"github.com/postern-mail/postern/store/storetest"
)

type engine struct {
	disk *memory.Disk
	onOp *atomic.Pointer[func(int)]
}

func fresh() engine { return engine{memory.NewDisk(), new(atomic.Pointer[func(int)])} }

func (e engine) Open(*testing.T) store.Store {
	s, _ := e.disk.Open()
	return watched{s, e.onOp}
}

func (e engine) Cut(uint64) storetest.Engine {
	return engine{e.disk.Clone(), new(atomic.Pointer[func(int)])}
}

func (e engine) OnOp(fn func(int)) { e.onOp.Store(&fn) }

// watched takes each commit for one operation.
type watched struct {
	store.Store
	onOp *atomic.Pointer[func(int)]
}

func (s watched) Commit(ctx context.Context, b *store.Batch) (store.Result, error) {
	if fn := s.onOp.Load(); fn != nil && *fn != nil {
		(*fn)(0)
	}
	return s.Store.Commit(ctx, b)
}

func TestConformance(t *testing.T) {
	t.Parallel()
	storetest.Run(t, func(*testing.T) storetest.Engine { return fresh() })
}

func TestCrashes(t *testing.T) {
	t.Parallel()
	storetest.RunCrashes(t, func(*testing.T) storetest.Crasher { return fresh() })
}

func stage(t *testing.T, blobs *memory.Blobs, text string) store.Staged {
	t.Helper()
	s, err := blobs.Stage(t.Context(), strings.NewReader(text))
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func commit(t *testing.T, s *memory.Store, fill func(*store.Batch)) {
	t.Helper()
	b := store.NewBatch()
	fill(b)
	if _, err := s.Commit(t.Context(), b); err != nil {
		t.Fatal(err)
	}
}

func TestBodies(t *testing.T) {
	t.Parallel()
	disk := memory.NewDisk()
	s, blobs := disk.Open()
	first := stage(t, blobs, "text")
	ref := first.Ref()
	if _, err := blobs.Open(t.Context(), ref); !errors.Is(err, store.ErrNotFound) {
		t.Errorf("open before the link: %v", err)
	}
	commit(t, s, func(b *store.Batch) { blobs.Link(b, first); blobs.Share(b, ref) })
	body, err := blobs.Open(t.Context(), ref)
	if err != nil {
		t.Fatal(err)
	}
	if text, _ := io.ReadAll(body); !bytes.Equal(text, []byte("text")) {
		t.Errorf("read %q", text)
	}
	if n := disk.References(ref.Hash); n != 2 || len(disk.Bodies()) != 1 {
		t.Errorf("%d references of %d bodies", n, len(disk.Bodies()))
	}
	backup := disk.Clone()
	commit(t, s, func(b *store.Batch) { blobs.Unlink(b, ref); blobs.Unlink(b, ref) })
	if _, err := blobs.Open(t.Context(), ref); !errors.Is(err, store.ErrNotFound) {
		t.Errorf("open after the last unlink: %v", err)
	}
	if disk.Strays() != 0 {
		t.Errorf("%d strays", disk.Strays())
	}
	commit(t, s, func(b *store.Batch) { blobs.Unlink(b, ref) })
	if disk.Strays() != 1 {
		t.Error("a stray was not counted")
	}
	b := store.NewBatch()
	blobs.Share(b, ref)
	if _, err := s.Commit(t.Context(), b); !errors.Is(err, store.ErrNotFound) {
		t.Errorf("share of nothing: %v", err)
	}
	if backup.References(ref.Hash) != 2 {
		t.Error("the backup followed the disk")
	}
	for name, damage := range map[string]func(store.Hash){"dropped": backup.DropBody, "altered": backup.AlterBody} {
		damage(ref.Hash)
		_, old := backup.Open()
		if _, err := old.Open(t.Context(), ref); !errors.Is(err, memory.ErrDamaged) {
			t.Errorf("%s: %v", name, err)
		}
		again, _ := backup.Open()
		commit(t, again, func(b *store.Batch) { old.Mend(b, first, 1) })
		if _, err := old.Open(t.Context(), ref); err != nil || backup.References(ref.Hash) != 2 {
			t.Errorf("%s and mended: %v, %d references", name, err, backup.References(ref.Hash))
		}
	}
	commit(t, s, func(b *store.Batch) { blobs.Mend(b, first, 3) })
	if disk.References(ref.Hash) != 3 {
		t.Errorf("mended with %d references", disk.References(ref.Hash))
	}
}

func TestFaults(t *testing.T) {
	t.Parallel()
	for _, row := range []struct {
		fault   memory.Fault
		want    error
		written bool
		killed  bool
	}{
		{memory.None, nil, true, false},
		{memory.Full, store.ErrFull, false, false},
		{memory.UnknownLost, store.ErrUnknown, false, false},
		{memory.UnknownWritten, store.ErrUnknown, true, false},
		{memory.CutBefore, memory.ErrCut, false, true},
		{memory.CutAfter, memory.ErrCut, true, true},
	} {
		disk := memory.NewDisk()
		s, _ := disk.Open()
		disk.OnCommit(func(n int) memory.Fault {
			if n == 1 {
				return row.fault
			}
			return memory.None
		})
		b := store.NewBatch()
		b.Next([]byte("number"), 1)
		if _, err := s.Commit(t.Context(), b); !errors.Is(err, row.want) {
			t.Errorf("%d: %v, want %v", row.fault, err, row.want)
		}
		if s.Killed() != row.killed {
			t.Errorf("%d: killed is %v", row.fault, s.Killed())
		}
		if row.killed {
			if err := s.View(t.Context(), func(store.Snapshot) error { return nil }); !errors.Is(err, memory.ErrCut) {
				t.Errorf("%d: the dead read: %v", row.fault, err)
			}
			s, _ = disk.Open()
		}
		if got := count(t, s); (got == 1) != row.written {
			t.Errorf("%d: counter is %d", row.fault, got)
		}
		if _, err := s.Commit(t.Context(), b); err != nil || count(t, s) != 1 {
			t.Errorf("%d: again: %v, counter is %d", row.fault, err, count(t, s))
		}
	}
}

func count(t *testing.T, s *memory.Store) (n int64) {
	t.Helper()
	err := s.View(t.Context(), func(v store.Snapshot) (err error) {
		n, err = v.Counter([]byte("number"))
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return n
}

func TestFull(t *testing.T) {
	t.Parallel()
	disk := memory.NewDisk()
	s, blobs := disk.Open()
	disk.SetFull(true)
	b := store.NewBatch()
	b.Put([]byte("k"), nil)
	if _, err := s.Commit(t.Context(), b); !errors.Is(err, store.ErrFull) {
		t.Errorf("commit: %v", err)
	}
	if _, err := blobs.Stage(t.Context(), strings.NewReader("x")); !errors.Is(err, store.ErrFull) {
		t.Errorf("stage: %v", err)
	}
	b.UseReserve = true
	if _, err := s.Commit(t.Context(), b); err != nil {
		t.Errorf("commit with the reserve: %v", err)
	}
}

func TestDamagedKeys(t *testing.T) {
	t.Parallel()
	disk := memory.NewDisk()
	s, _ := disk.Open()
	commit(t, s, func(b *store.Batch) { b.Next([]byte("number"), 1) })
	disk.Put([]byte("number"), store.EncodeCounter(7))
	if count(t, s) != 7 {
		t.Error("the value was not altered")
	}
	disk.Drop([]byte("number"))
	if count(t, s) != 0 {
		t.Error("the value was not dropped")
	}
}
