package pack_test

import (
	"bytes"
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime/debug"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/go-hclog"
	"golang.org/x/sys/unix"

	"github.com/postern-mail/postern/internal/fsx/fsxtest"
	"github.com/postern-mail/postern/store"
	"github.com/postern-mail/postern/store/pack"
	"github.com/postern-mail/postern/store/storetest"
)

// worn returns a world with some full packs in which little lives: of each
// four bodies one, with 20 to 400 KiB, half of them random octets.
func worn(t *testing.T, seed uint64) *world {
	t.Helper()
	w := newWorld(t, seed)
	rnd := rand.New(rand.NewPCG(seed, 7))
	for i := range 24 {
		content := bytes.Repeat(fmt.Appendf(nil, "body %d ", i), []int{3_000, 10_000, 30_000, 55_000}[i*7/3%4])
		if i%8 < 4 {
			content = randomOctets(rnd, len(content))
		}
		ref := w.linkOctets(content)
		if i%4 != 0 {
			if err := w.commit(ref, -1, func(b *store.Batch) { w.blobs.Unlink(b, ref) }); err != nil {
				t.Fatal(err)
			}
		}
	}
	w.shareSome()
	// A start ends what pins the packs of staged bodies.
	if err := w.blobs.Close(); err != nil {
		t.Fatal(err)
	}
	w.open()
	if _, err := w.blobs.Collect(t.Context()); err != nil {
		t.Fatal(err)
	}
	return w
}

func randomOctets(rnd *rand.Rand, n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(rnd.Uint32())
	}
	return b
}

func (w *world) linkOctets(content []byte) store.Ref {
	w.t.Helper()
	s, err := w.blobs.Stage(context.Background(), bytes.NewReader(content))
	if err != nil {
		w.t.Fatal(err)
	}
	defer s.Discard()
	w.content[s.Ref()] = content
	if err := w.commit(s.Ref(), 1, func(b *store.Batch) { w.blobs.Link(b, s) }); err != nil {
		w.t.Fatal(err)
	}
	return s.Ref()
}

// shareSome gives some bodies a second reference.
func (w *world) shareSome() {
	w.t.Helper()
	for ref, n := range w.refs {
		if n == 1 && ref.Octets%3 == 0 {
			if err := w.commit(ref, 1, func(b *store.Batch) { w.blobs.Share(b, ref) }); err != nil {
				w.t.Fatal(err)
			}
		}
	}
}

func usage(t *testing.T, blobs *pack.Blobs) pack.Usage {
	t.Helper()
	u, err := blobs.Usage(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return u
}

// TestCompact: what is dead is given back, what lives is read as it was, and
// who reads meanwhile goes on with the old pack.
func TestCompact(t *testing.T) {
	t.Parallel()
	w := worn(t, 1)
	before := usage(t, w.blobs)
	if before.LiveOctets*2 > before.FileOctets {
		t.Fatalf("too little is dead: %+v", before)
	}
	var read store.Ref
	for ref, n := range w.refs {
		if n > 0 && ref.Octets > 100_000 {
			read = ref
		}
	}
	body, err := w.blobs.Open(t.Context(), read)
	if err != nil {
		t.Fatal(err)
	}
	if err := w.blobs.Compact(t.Context()); err != nil {
		t.Fatal(err)
	}
	if got, err := io.ReadAll(body); err != nil || !bytes.Equal(got, w.content[read]) {
		t.Errorf("a body that was open while it was moved: %d octets, %v", len(got), err)
	}
	pinned := usage(t, w.blobs)
	if err := body.Close(); err != nil {
		t.Error(err)
	}
	w.verify("moved")
	if _, err := w.blobs.Collect(t.Context()); err != nil {
		t.Fatal(err)
	}
	after := usage(t, w.blobs)
	t.Logf("before %+v\npinned %+v\nafter %+v", before, pinned, after)
	if pinned.Packs <= after.Packs {
		t.Error("a pack that was being read did not stay until its reader was done")
	}
	if after.FileOctets > before.FileOctets/2 || after.LiveOctets >= before.LiveOctets {
		t.Errorf("before %+v, after %+v", before, after)
	}
	if after.SavedOctets == 0 || after.FreedOctets == 0 || after.MovedOctets == 0 {
		t.Errorf("not counted: %+v", after)
	}
	for _, f := range findings(t, w.blobs) {
		t.Errorf("found %v", f)
	}
	// What was moved is not moved again for nothing.
	if err := w.blobs.Compact(t.Context()); err != nil {
		t.Fatal(err)
	}
	if again := usage(t, w.blobs); again.MovedOctets != after.MovedOctets {
		t.Errorf("moved again: %+v", again)
	}
	w.readAtRandom("moved")
	w.goesOn("after it was moved")
	w.open()
	w.verify("moved, and a restart")
	w.goesOn("after a restart")
}

// readAtRandom reads parts of every body.
func (w *world) readAtRandom(when string) {
	w.t.Helper()
	rnd := rand.New(rand.NewPCG(1, 1))
	for ref, n := range w.refs {
		if n == 0 {
			continue
		}
		body, err := w.blobs.Open(context.Background(), ref)
		if err != nil {
			w.t.Fatal(err)
		}
		for range 20 {
			at := rnd.Int64N(ref.Octets)
			p := make([]byte, rnd.Int64N(ref.Octets-at)+1)
			if n, err := body.ReadAt(p, at); err != nil || !bytes.Equal(p, w.content[ref][at:][:len(p)]) {
				w.t.Errorf("%s: read %d octets at %d: %d, %v", when, len(p), at, n, err)
			}
		}
		if err := body.Close(); err != nil {
			w.t.Error(err)
		}
	}
}

// TestPowerCutInCompact cuts the power ahead of each operation on the disk
// while bodies are moved and packs deleted.
func TestPowerCutInCompact(t *testing.T) {
	t.Parallel()
	for seed := range uint64(3) {
		t.Run(fmt.Sprint("seed ", seed), func(t *testing.T) {
			t.Parallel()
			w := worn(t, seed)
			cuts := 0
			w.disk.SetFault(func(op fsxtest.Op) error {
				if op.Kind == fsxtest.OpRead || t.Failed() {
					return nil
				}
				cuts++
				when := fmt.Sprintf("power cut ahead of operation %d, %s", op.N, op.Kind)
				left := w.after(seed + uint64(op.N))
				left.verify(when)
				if op.N%4 == 0 {
					if err := left.blobs.Compact(context.Background()); err != nil {
						t.Errorf("%s: compact: %v", when, err)
					}
					left.verify(when + ", and moved again")
					left = left.after(uint64(op.N))
					left.verify(when + ", moved, and cut again")
					left.goesOn(when)
				}
				return nil
			})
			if err := w.blobs.Compact(t.Context()); err != nil {
				t.Fatal(err)
			}
			w.disk.SetFault(nil)
			w.after(seed).verify("after the move")
			if cuts < 15 {
				t.Errorf("only %d cuts", cuts)
			}
		})
	}
}

// TestFaultInCompact has each operation of a move fail once: nothing is lost,
// and the next move does it.
func TestFaultInCompact(t *testing.T) {
	t.Parallel()
	for name, fault := range map[string]error{
		"input or output error": unix.EIO,
		"no space":              unix.ENOSPC,
		"short write":           &fsxtest.Short{Octets: 700, Err: unix.ENOSPC},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			failed := 0
			base := worn(t, 1)
			if err := base.blobs.Close(); err != nil {
				t.Fatal(err)
			}
			for at, done := 1, false; !done && !t.Failed(); at++ {
				w := base.after(uint64(at))
				first := w.disk.Ops()
				w.disk.SetFault(func(op fsxtest.Op) error {
					if op.N == first+at && op.Kind != fsxtest.OpRead {
						return fault
					}
					return nil
				})
				when := fmt.Sprintf("fault at operation %d", at)
				if err := w.blobs.Compact(t.Context()); err != nil {
					failed++
					if !errors.Is(err, unix.EIO) && !errors.Is(err, store.ErrFull) && !errors.Is(err, unix.ENOSPC) {
						t.Errorf("%s: %v", when, err)
					}
				}
				done = w.disk.Ops() < first+at
				w.verify(when)
				w.after(uint64(at)).verify(when + ", then a power cut")
				w.disk.SetFault(nil)
				if err := w.blobs.Compact(t.Context()); err != nil {
					t.Errorf("%s: again: %v", when, err)
				}
				w.goesOn(when)
				w.open()
				w.verify(when + ", then a restart")
				if _, err := w.blobs.Collect(t.Context()); err != nil {
					t.Error(err)
				}
				if u := usage(t, w.blobs); u.FileOctets > u.LiveOctets*2+1<<20 {
					t.Errorf("%s: not given back: %+v", when, u)
				}
				if err := w.blobs.Close(); err != nil {
					t.Error(err)
				}
			}
			if failed < 5 {
				t.Errorf("only %d moves failed", failed)
			}
		})
	}
}

// TestCompactDamaged: what cannot be read stays where it is, is told once, and
// keeps nobody else.
func TestCompactDamaged(t *testing.T) {
	t.Parallel()
	w := worn(t, 1)
	names, err := w.disk.ReadDir("/bodies")
	if err != nil {
		t.Fatal(err)
	}
	var damaged []pack.Finding
	for at := int64(20_000); len(damaged) == 0; at += 30_000 {
		if err := w.disk.Flip("/bodies/"+names[0], at, 1); err != nil {
			t.Fatal(err)
		}
		damaged = findings(t, w.blobs)
	}
	before := usage(t, w.blobs)
	for range 2 {
		if err := w.blobs.Compact(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	if after := usage(t, w.blobs); after.FileOctets >= before.FileOctets || after.FreedOctets == 0 {
		t.Errorf("before %+v, after %+v", before, after)
	}
	left := findings(t, w.blobs)
	if len(left) != len(damaged) || left[0].Kind != pack.FoundDamaged {
		t.Errorf("found %v, before %v", left, damaged)
	}
	for ref, n := range w.refs {
		got, err := read(w.blobs, ref)
		if n > 0 && ref.Hash != damaged[0].Body && (err != nil || !bytes.Equal(got, w.content[ref])) {
			t.Errorf("body of %d octets: %v", ref.Octets, err)
		}
	}
}

// TestCompactBusy stages, links, shares, reads and unlinks while everything is
// moved again and again, on the real engine, and loses the power meanwhile.
func TestCompactBusy(t *testing.T) {
	t.Parallel()
	m := storetest.NewMachine()
	kv, blobs := m.Open(t)
	var mu sync.Mutex
	acked := map[store.Ref][]byte{}
	snapshot := func() map[store.Ref][]byte {
		mu.Lock()
		defer mu.Unlock()
		copied := make(map[store.Ref][]byte, len(acked))
		for ref, content := range acked {
			copied[ref] = content
		}
		return copied
	}
	type cut struct {
		left  *storetest.Machine
		acked map[store.Ref][]byte
	}
	var cuts []cut
	m.OnOp(func(n int) {
		if n%150 == 0 {
			acked := snapshot()
			left := m.Cut(uint64(n))
			mu.Lock()
			defer mu.Unlock()
			cuts = append(cuts, cut{left, acked})
		}
	})
	ctx, stop := context.WithCancel(t.Context())
	var moving, working sync.WaitGroup
	moving.Go(func() {
		for ctx.Err() == nil {
			if err := blobs.Compact(ctx); err != nil && ctx.Err() == nil {
				t.Error(err)
			}
			if _, err := blobs.Collect(ctx); err != nil && ctx.Err() == nil {
				t.Error(err)
			}
		}
	})
	for worker := range 3 {
		working.Go(func() {
			for i := range 40 {
				content := bytes.Repeat(fmt.Appendf(nil, "%d/%d ", worker, i), []int{6_000, 20_000, 70_000}[i%3])
				ref, err := linkUnlink(kv, blobs, content, i)
				if err != nil {
					t.Errorf("worker %d: %v", worker, err)
					return
				}
				if i%3 == 0 {
					continue // gone
				}
				if err := shareUnlink(kv, blobs, ref, content); err != nil {
					t.Errorf("worker %d: %v", worker, err)
					return
				}
				if i%3 == 1 {
					mu.Lock()
					acked[ref] = content
					mu.Unlock()
					continue
				}
				b := store.NewBatch()
				blobs.Unlink(b, ref)
				if _, err := kv.Commit(context.Background(), b); err != nil {
					t.Error(err)
				}
			}
		})
	}
	working.Wait()
	stop()
	moving.Wait()
	m.OnOp(nil)
	if u := usage(t, blobs); u.MovedOctets == 0 {
		t.Errorf("nothing was moved: %+v", u)
	}
	for i, c := range append(cuts, cut{m.Cut(1), snapshot()}) {
		_, blobs := c.left.Open(t)
		for ref, content := range c.acked {
			if got, err := read(blobs, ref); err != nil || !bytes.Equal(got, content) {
				t.Fatalf("cut %d of %d: body of %d octets: read %d, %v", i, len(cuts), ref.Octets, len(got), err)
			}
		}
		for _, f := range findings(t, blobs) {
			t.Fatalf("cut %d of %d: found %v", i, len(cuts), f)
		}
	}
	if len(cuts) < 5 {
		t.Errorf("only %d cuts", len(cuts))
	}
}

// shareUnlink takes a second reference and ends it, reading in between.
func shareUnlink(kv store.Store, blobs *pack.Blobs, ref store.Ref, content []byte) error {
	for _, change := range []func(*store.Batch, store.Ref){blobs.Share, blobs.Unlink} {
		b := store.NewBatch()
		change(b, ref)
		if _, err := kv.Commit(context.Background(), b); err != nil {
			return err
		}
		if got, err := read(blobs, ref); err != nil || !bytes.Equal(got, content) {
			return fmt.Errorf("read %d octets: %w", len(got), err)
		}
	}
	return nil
}

// TestRunMoves: what has lived for an hour is compressed without anybody asking,
// slowly, and Run ends in the middle of it.
func TestRunMoves(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 1)
		if err := w.blobs.Close(); err != nil {
			t.Fatal(err)
		}
		blobs, err := pack.OpenOn(t.Context(), pack.Config{
			Dir: "/bodies", PackOctets: 1 << 20, ReserveOctets: -1, MoveOctets: 1 << 10,
		}, w.kv, hclog.NewNullLogger(), w.disk)
		if err != nil {
			t.Fatal(err)
		}
		w.blobs = blobs
		for i := range 12 {
			if err := w.link(5*i + 3); err != nil {
				t.Fatal(err)
			}
		}
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		go func() { ended <- blobs.Run(ctx) }()
		start := time.Now()
		time.Sleep(59 * time.Minute)
		if u := usage(t, blobs); u.MovedOctets != 0 {
			t.Errorf("moved too early: %+v", u)
		}
		time.Sleep(3 * time.Minute)
		first := usage(t, blobs)
		if first.MovedOctets == 0 || first.MovedOctets > 1200<<10 {
			t.Errorf("after an hour %+v", first)
		}
		for usage(t, blobs).MovedOctets < 2<<20 {
			time.Sleep(time.Minute)
			if time.Since(start) > 4*time.Hour {
				t.Fatalf("after four hours %+v", usage(t, blobs))
			}
		}
		if took := time.Since(start) - time.Hour; took < 15*time.Minute {
			t.Errorf("2 MiB were moved in %s at 1 KiB/s", took)
		}
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
		w.goesOn("after Run")
	})
}

// TestPrepare: nobody waits for a new pack while Run is there to make it.
func TestPrepare(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 1)
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		go func() { ended <- w.blobs.Run(ctx) }()
		if err := w.link(3); err != nil { // the first one is waited for
			t.Fatal(err)
		}
		w.disk.SetFault(func(op fsxtest.Op) error {
			if op.Kind == fsxtest.OpCreate && strings.Contains(string(debug.Stack()), ").Stage(") {
				t.Errorf("%s is made while a body is staged", op.Name)
			}
			return nil
		})
		for i := range 20 {
			content := randomOctets(rand.New(rand.NewPCG(1, uint64(i))), 200_000)
			s, err := w.blobs.Stage(t.Context(), bytes.NewReader(content))
			if err != nil {
				t.Fatal(err)
			}
			s.Discard()
			synctest.Wait()
		}
		w.disk.SetFault(nil)
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
		w.goesOn("after Run")
		names, err := w.disk.ReadDir("/bodies")
		if err != nil || strings.Contains(fmt.Sprint(names), ".open") {
			t.Errorf("packs %q after the end, %v", names, err)
		}
	})
}

// TestFirstRelease opens what the first release wrote: packs of version 1 and
// no counters. It is read, counted when it is looked at, and moved.
func TestFirstRelease(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	if err := os.CopyFS(dir, os.DirFS("testdata/version1")); err != nil {
		t.Fatal(err)
	}
	kv := storetest.NewModel().Open()
	text, err := os.ReadFile(filepath.Join(dir, "keys"))
	if err != nil {
		t.Fatal(err)
	}
	b := store.NewBatch()
	var linked []store.Ref
	for line := range strings.Lines(string(text)) {
		key, value, _ := strings.Cut(strings.TrimSpace(line), " ")
		k, err1 := hex.DecodeString(key)
		v, err2 := hex.DecodeString(value)
		if err := errors.Join(err1, err2); err != nil {
			t.Fatal(err)
		}
		b.Put(k, v)
		if k[1] == 'h' {
			linked = append(linked, store.Ref{Hash: store.Hash(k[2:])})
		}
	}
	if _, err := kv.Commit(t.Context(), b); err != nil {
		t.Fatal(err)
	}
	blobs, err := pack.Open(t.Context(), pack.Config{Dir: dir, ReserveOctets: -1, CompressAfter: time.Nanosecond}, kv, hclog.NewNullLogger())
	if err != nil {
		t.Fatal(err)
	}
	defer blobs.Close()
	contents := map[string]int{}
	whole := func(when string) {
		t.Helper()
		clear(contents)
		for i, ref := range linked {
			for _, octets := range []int64{40 * 23, 41 * 23, 700} {
				ref.Octets = octets
				if got, err := read(blobs, ref); err == nil {
					linked[i] = ref
					contents[string(got)]++
				}
			}
		}
		for i := range 2 {
			if contents[strings.Repeat(fmt.Sprintf("first release, body %d\r\n", i), 40+i)] != 1 {
				t.Errorf("%s: body %d is not there", when, i)
			}
		}
		if len(contents) != 3 {
			t.Errorf("%s: %d of 3 bodies", when, len(contents))
		}
		for _, f := range findings(t, blobs) {
			t.Errorf("%s: found %v", when, f)
		}
	}
	whole("opened")
	if u := usage(t, blobs); u.Uncounted != 1 || u.LiveOctets != 0 {
		t.Errorf("opened: %+v", u)
	}
	// What is unlinked before it was counted is not counted twice.
	end := store.NewBatch()
	blobs.Unlink(end, linked[2])
	blobs.Share(end, linked[0])
	blobs.Unlink(end, linked[0])
	if _, err := kv.Commit(t.Context(), end); err != nil {
		t.Fatal(err)
	}
	whole("changed")
	if _, err := blobs.Collect(t.Context()); err != nil {
		t.Fatal(err)
	}
	before := usage(t, blobs)
	if before.Uncounted != 0 || before.LiveOctets == 0 {
		t.Errorf("counted: %+v", before)
	}
	whole("counted")
	if err := blobs.Compact(t.Context()); err != nil {
		t.Fatal(err)
	}
	whole("moved")
	if _, err := os.Stat(filepath.Join(dir, "0000000000000001.pack")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the old pack is still there: %v", err)
	}
	if after := usage(t, blobs); after.LiveOctets >= before.LiveOctets {
		t.Errorf("before %+v, after %+v", before, after)
	}
}
