package pack_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"

	"golang.org/x/sys/unix"

	"github.com/postern-mail/postern/internal/fsx/fsxtest"
	"github.com/postern-mail/postern/store"
	"github.com/postern-mail/postern/store/pack"
	"github.com/postern-mail/postern/store/storetest"
)

// TestFailedSyncIsForAll: a sync that failed loses what others wrote, too.
// None of them is told of success by a later one.
func TestFailedSyncIsForAll(t *testing.T) {
	t.Parallel()
	for seed := range uint64(8) {
		w := newWorld(t, seed)
		var staged []store.Staged
		for i := range 3 {
			s, err := w.stage(5*i + 2)
			if err != nil {
				t.Fatal(err)
			}
			staged = append(staged, s)
		}
		broken := false
		w.disk.SetFault(func(op fsxtest.Op) error {
			if op.Kind == fsxtest.OpSync && !broken {
				broken = true
				return unix.EIO
			}
			return nil
		})
		for i, s := range staged {
			err := w.commit(s.Ref(), 1, func(b *store.Batch) { w.blobs.Link(b, s) })
			if !errors.Is(err, unix.EIO) {
				t.Errorf("seed %d: body %d in a pack whose sync failed: %v", seed, i, err)
			}
		}
		if err := w.link(100); err != nil {
			t.Errorf("seed %d: the next body: %v", seed, err)
		}
		w.disk.SetFault(nil)
		w.after(seed).verify("power cut after a failed sync")
		w.goesOn("after a failed sync")
	}
}

// TestEqualBodies: bodies with the same octets lie on the disk once, whoever
// links them, until the last reference goes.
func TestEqualBodies(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 1)
	var wg sync.WaitGroup
	content := bytes.Repeat([]byte("same "), 40_000)
	var ref store.Ref
	for range 8 {
		s, err := w.blobs.Stage(t.Context(), bytes.NewReader(content))
		if err != nil {
			t.Fatal(err)
		}
		ref = s.Ref()
		wg.Go(func() {
			b := store.NewBatch()
			w.blobs.Link(b, s)
			if _, err := w.kv.Commit(context.Background(), b); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	usage, err := w.blobs.Usage(t.Context())
	if err != nil || usage.LiveOctets < int64(len(content)) || usage.LiveOctets > int64(len(content))+1000 {
		t.Errorf("%+v for eight times %d octets, %v", usage, len(content), err)
	}
	for left := 8; left > 0; left-- {
		if n, err := w.blobs.References(t.Context(), ref); int(n) != left || err != nil {
			t.Errorf("%d references, want %d, %v", n, left, err)
		}
		if got, err := read(w.blobs, ref); err != nil || !bytes.Equal(got, content) {
			t.Errorf("with %d references: %v", left, err)
		}
		b := store.NewBatch()
		w.blobs.Unlink(b, ref)
		if _, err := w.kv.Commit(t.Context(), b); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := w.blobs.Open(t.Context(), ref); !errors.Is(err, store.ErrNotFound) {
		t.Errorf("without references: %v", err)
	}
	err = w.commit(ref, 0, func(b *store.Batch) { w.blobs.Share(b, ref) })
	if !errors.Is(err, store.ErrNotFound) {
		t.Errorf("shared what is not there: %v", err)
	}
}

// TestCollect: the packs of bodies that are gone go, once nobody reads them,
// and no others.
func TestCollect(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 1)
	for i := range 20 {
		if err := w.link(5*i + 4); err != nil {
			t.Fatal(err)
		}
	}
	packs := func() int {
		t.Helper()
		if _, err := w.blobs.Collect(t.Context()); err != nil {
			t.Fatal(err)
		}
		names, err := w.disk.ReadDir("/bodies")
		if err != nil {
			t.Fatal(err)
		}
		return len(names)
	}
	before := packs()
	var kept store.Ref
	for ref := range w.content {
		kept = ref
	}
	reading, err := w.blobs.Open(t.Context(), kept)
	if err != nil {
		t.Fatal(err)
	}
	for ref := range w.content {
		if err := w.commit(ref, -1, func(b *store.Batch) { w.blobs.Unlink(b, ref) }); err != nil {
			t.Fatal(err)
		}
	}
	// The staged bodies pin their packs until the garbage collector comes.
	for n := before; n > 3; n = packs() {
		runtime.GC()
		if t.Context().Err() != nil {
			t.Fatalf("%d of %d packs are left without a body", n, before)
		}
	}
	if got, err := io.ReadAll(reading); err != nil || !bytes.Equal(got, w.content[kept]) {
		t.Errorf("a body that was open while it was unlinked: %d octets, %v", len(got), err)
	}
	if err := reading.Close(); err != nil {
		t.Error(err)
	}
	w.goesOn("after the collection")
}

// TestBusy stages, links, reads, unlinks and collects at once, loses its power
// meanwhile, and is closed in the middle of it.
func TestBusy(t *testing.T) {
	t.Parallel()
	m := storetest.NewMachine()
	kv, blobs := m.Open(t)
	type known struct {
		mu    sync.Mutex
		acked map[store.Ref][]byte
	}
	k := known{acked: map[store.Ref][]byte{}}
	snapshot := func() map[store.Ref][]byte {
		k.mu.Lock()
		defer k.mu.Unlock()
		copied := map[store.Ref][]byte{}
		for ref, content := range k.acked {
			copied[ref] = content
		}
		return copied
	}
	type cut struct {
		left  *storetest.Machine
		acked map[store.Ref][]byte
	}
	var cutsMu sync.Mutex
	var cuts []cut
	m.OnOp(func(n int) {
		if n%40 == 0 {
			acked := snapshot()
			left := m.Cut(uint64(n))
			cutsMu.Lock()
			defer cutsMu.Unlock()
			cuts = append(cuts, cut{left, acked})
		}
	})
	var wg sync.WaitGroup
	var done atomic.Int64
	closing := make(chan struct{})
	for worker := range 4 {
		wg.Go(func() {
			for i := 0; ; i++ {
				content := bytes.Repeat(fmt.Appendf(nil, "%d/%d ", worker, i), []int{100, 6_000, 20_000, 70_000}[i%4])
				ref, err := linkUnlink(kv, blobs, content, i)
				if err != nil {
					select {
					case <-closing:
					default:
						t.Errorf("worker %d: %v", worker, err)
					}
					return
				}
				if i%3 != 0 {
					k.mu.Lock()
					k.acked[ref] = content
					k.mu.Unlock()
				}
				if done.Add(1) == 100 {
					close(closing)
					wg.Go(func() {
						if err := blobs.Close(); err != nil {
							t.Errorf("close: %v", err)
						}
					})
				}
			}
		})
	}
	wg.Go(func() {
		for {
			if _, err := blobs.Collect(context.Background()); err != nil {
				return // closed
			}
			select {
			case <-closing:
				return
			default:
				runtime.Gosched()
			}
		}
	})
	wg.Wait()
	m.OnOp(nil)
	if _, err := blobs.Stage(t.Context(), bytes.NewReader(make([]byte, 100_000))); err == nil {
		t.Error("staged after the close")
	}
	for i, c := range append(cuts, cut{m.Cut(1), snapshot()}) {
		_, blobs := c.left.Open(t)
		for ref, content := range c.acked {
			if got, err := read(blobs, ref); err != nil || !bytes.Equal(got, content) {
				t.Fatalf("cut %d of %d: body of %d octets: read %d, %v", i, len(cuts), ref.Octets, len(got), err)
			}
		}
	}
	if len(cuts) < 5 {
		t.Errorf("only %d cuts", len(cuts))
	}
}

// linkUnlink links a body and, each third time, unlinks it, reading in between.
func linkUnlink(kv store.Store, blobs *pack.Blobs, content []byte, i int) (store.Ref, error) {
	s, err := blobs.Stage(context.Background(), bytes.NewReader(content))
	if err != nil {
		return store.Ref{}, err
	}
	defer s.Discard()
	b := store.NewBatch()
	blobs.Link(b, s)
	if _, err := kv.Commit(context.Background(), b); err != nil {
		return store.Ref{}, err
	}
	got, err := read(blobs, s.Ref())
	if err != nil {
		return store.Ref{}, err
	}
	if !bytes.Equal(got, content) {
		return store.Ref{}, fmt.Errorf("read %d octets of %d", len(got), len(content))
	}
	if i%3 != 0 {
		return s.Ref(), nil
	}
	b = store.NewBatch()
	blobs.Unlink(b, s.Ref())
	_, err = kv.Commit(context.Background(), b)
	return s.Ref(), err
}

// TestClosedBodies: a body that is open when the bodies are closed fails; one
// that was staged is whole if it is linked after all.
func TestClosedBodies(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 1)
	if err := w.link(4); err != nil {
		t.Fatal(err)
	}
	var linked store.Ref
	for ref := range w.refs {
		linked = ref
	}
	body, err := w.blobs.Open(t.Context(), linked)
	if err != nil {
		t.Fatal(err)
	}
	late, err := w.stage(9)
	if err != nil {
		t.Fatal(err)
	}
	held, err := w.stage(1)
	if err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := w.blobs.Close(); err != nil {
			t.Fatal(err)
		}
	}
	if got, err := io.ReadAll(body); err == nil {
		t.Errorf("read %d octets of a closed body", len(got))
	}
	if err := body.Close(); err != nil {
		t.Error(err)
	}
	for _, s := range []store.Staged{late, held} {
		// Its outcome is what matters, not which it is.
		_ = w.commit(s.Ref(), 1, func(b *store.Batch) { w.blobs.Link(b, s) })
		s.Discard()
	}
	if _, err := w.blobs.Collect(t.Context()); err == nil {
		t.Error("collected after the close")
	}
	w.after(1).verify("closed, and a power cut")
	w.open()
	w.goesOn("opened again")
}

// TestDiscardedThenLinked: a body without octets is not made.
func TestDiscardedThenLinked(t *testing.T) {
	t.Parallel()
	for _, size := range []int{20_000, 200_000} {
		w := newWorld(t, 1)
		s, err := w.blobs.Stage(t.Context(), bytes.NewReader(make([]byte, size)))
		if err != nil {
			t.Fatal(err)
		}
		s.Discard()
		if err := w.commit(s.Ref(), 1, func(b *store.Batch) { w.blobs.Link(b, s) }); err == nil {
			t.Errorf("%d octets: linked after they were given back", size)
		}
		if _, err := w.blobs.Open(t.Context(), s.Ref()); !errors.Is(err, store.ErrNotFound) {
			t.Errorf("%d octets: %v", size, err)
		}
	}
}

// TestReaderFails: an error of the reader is returned as it is, nothing stays,
// and one that ends early is no end.
func TestReaderFails(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 1)
	for _, size := range []int64{0, 10, 30_000, 100_000, 900_000} {
		for _, cause := range []error{errors.New("mine"), io.ErrUnexpectedEOF} {
			r := io.MultiReader(io.LimitReader(letters{}, size), failing{cause})
			if s, err := w.blobs.Stage(t.Context(), r); err != cause {
				t.Errorf("reader that fails after %d octets with %v: %v, %v", size, cause, s, err)
			}
		}
	}
	stopped, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := w.blobs.Stage(stopped, letters{}); !errors.Is(err, context.Canceled) {
		t.Errorf("stage with a cancelled context: %v", err)
	}
	w.goesOn("after failed readers")
}

type failing struct{ err error }

func (f failing) Read([]byte) (int, error) { return 0, f.err }

// letters is a reader without end.
type letters struct{}

func (letters) Read(p []byte) (int, error) {
	for i := range p {
		p[i] = 'a' + byte(i%26)
	}
	return len(p), nil
}

// TestRunSeals: a full pack gets its final name at once, not with the next
// collection, and one that nobody needs goes with that.
func TestRunSeals(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 1)
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		go func() { ended <- w.blobs.Run(ctx) }()
		for i := range 8 {
			if err := w.link(5*i + 3); err != nil {
				t.Fatal(err)
			}
		}
		synctest.Wait()
		names, err := w.disk.ReadDir("/bodies")
		if err != nil || fmt.Sprint(names) != "[0000000000000001.pack 0000000000000002.pack 0000000000000003.open]" {
			t.Errorf("packs %q, %v", names, err)
		}
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
		w.goesOn("after Run")
	})
}
