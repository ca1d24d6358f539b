package pack_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/hashicorp/go-hclog"
	"golang.org/x/sys/unix"

	"github.com/postern-mail/postern/internal/fsx/fsxtest"
	"github.com/postern-mail/postern/store"
	"github.com/postern-mail/postern/store/pack"
	"github.com/postern-mail/postern/store/storetest"
)

// world is a store of bodies on a disk that can fail, and what its user knows.
type world struct {
	t     *testing.T
	disk  *fsxtest.Disk
	model *storetest.Model
	kv    store.Store
	blobs *pack.Blobs

	content map[store.Ref][]byte
	refs    map[store.Ref]int // acknowledged
	next    map[store.Ref]int // what refs become if the commit under way succeeds
	// copied is Config.Copied, of odd seeds: after a power cut bodies that were
	// stored the one way are in the hands of a store that is set the other way,
	// as those of the previous release are.
	copied bool
}

func newWorld(t *testing.T, seed uint64) *world {
	w := &world{
		t: t, disk: fsxtest.New(seed), model: storetest.NewModel(),
		content: map[store.Ref][]byte{}, refs: map[store.Ref]int{}, copied: seed%2 == 1,
	}
	w.open()
	return w
}

func openBlobs(kv store.Store, disk *fsxtest.Disk, copied bool) (*pack.Blobs, error) {
	return pack.OpenOn(context.Background(), pack.Config{
		Dir: "/bodies", PackOctets: 1 << 20, ReserveOctets: -1, CompressAfter: -1, Copied: copied,
	}, kv, hclog.NewNullLogger(), disk)
}

func (w *world) open() {
	w.t.Helper()
	w.kv = w.model.Open()
	var err error
	if w.blobs, err = openBlobs(w.kv, w.disk, w.copied); err != nil {
		w.t.Fatal(err)
	}
}

// after is the world as a power cut now may leave it, started again.
func (w *world) after(seed uint64) *world {
	left := &world{
		t: w.t, disk: w.disk.Cut(seed), model: w.model.Clone(),
		content: w.content, refs: w.refs, next: w.next, copied: seed%2 == 1,
	}
	left.open()
	return left
}

// stage makes the i-th body, of a size that depends on it.
func (w *world) stage(i int) (store.Staged, error) {
	size := []int{500, 20 << 10, 70 << 10, 200 << 10, 400 << 10}[i%5] + i
	content := bytes.Repeat(fmt.Appendf(nil, "body %d ", i), size/6)
	s, err := w.blobs.Stage(context.Background(), bytes.NewReader(content))
	if err != nil {
		return nil, err
	}
	w.content[s.Ref()] = content
	return s, nil
}

// commit does a batch that changes the references to ref by n.
func (w *world) commit(ref store.Ref, n int, fill func(b *store.Batch)) error {
	next := maps.Clone(w.refs)
	next[ref] += n
	w.next = next
	b := store.NewBatch()
	fill(b)
	_, err := w.kv.Commit(context.Background(), b)
	w.next = nil
	if err == nil {
		w.refs = next
	}
	return err
}

// link stages the i-th body and links it.
func (w *world) link(i int) error {
	s, err := w.stage(i)
	if err != nil {
		return err
	}
	defer s.Discard()
	return w.commit(s.Ref(), 1, func(b *store.Batch) { w.blobs.Link(b, s) })
}

// any returns a body that has references.
func (w *world) any(rnd *rand.Rand) (ref store.Ref, ok bool) {
	var linked []store.Ref
	for ref, n := range w.refs {
		if n > 0 {
			linked = append(linked, ref)
		}
	}
	if len(linked) == 0 {
		return ref, false
	}
	// In an order that is the same each time.
	slices.SortFunc(linked, func(a, b store.Ref) int { return bytes.Compare(a.Hash[:], b.Hash[:]) })
	return linked[rnd.IntN(len(linked))], true
}

// step does something, the i-th time.
func (w *world) step(rnd *rand.Rand, i int) error {
	ref, some := w.any(rnd)
	switch n := rnd.IntN(20); {
	case n < 3 && some:
		return w.commit(ref, 1, func(b *store.Batch) { w.blobs.Share(b, ref) })
	case n < 8 && some:
		return w.commit(ref, -1, func(b *store.Batch) { w.blobs.Unlink(b, ref) })
	case n < 9:
		return w.link(i / 2) // perhaps one that is there
	case n < 10:
		s, err := w.stage(i)
		if err == nil {
			s.Discard()
		}
		return err
	case n < 11:
		s, err := w.stage(i)
		if err != nil {
			return err
		}
		err = w.commit(s.Ref(), 0, func(b *store.Batch) { w.blobs.Link(b, s); b.IfEquals([]byte("never"), nil) })
		if errors.Is(err, store.ErrConflict) {
			err = nil
		}
		return err
	case n < 12:
		_, err := w.blobs.Collect(context.Background())
		return err
	case n < 13:
		return w.blobs.Compact(context.Background())
	default:
		return w.link(i)
	}
}

// verify reads every body: those with references are whole, others not there.
func (w *world) verify(when string) {
	w.t.Helper()
	for ref, content := range w.content {
		n, err := w.blobs.References(context.Background(), ref)
		if err != nil {
			w.t.Errorf("%s: %v", when, err)
		}
		if int(n) != w.refs[ref] && (w.next == nil || int(n) != w.next[ref]) {
			w.t.Errorf("%s: body of %d octets has %d references, %d are acknowledged", when, ref.Octets, n, w.refs[ref])
		}
		got, err := read(w.blobs, ref)
		switch {
		case n > 0 && (err != nil || !bytes.Equal(got, content)):
			w.t.Errorf("%s: linked body of %d octets: read %d, %v", when, ref.Octets, len(got), err)
		case n == 0 && !errors.Is(err, store.ErrNotFound):
			w.t.Errorf("%s: body without links: %v", when, err)
		}
	}
}

// goesOn shows that a world is as good as new.
func (w *world) goesOn(when string) {
	w.t.Helper()
	if _, err := w.blobs.Collect(context.Background()); err != nil {
		w.t.Errorf("%s: collect: %v", when, err)
	}
	w.content = maps.Clone(w.content)
	for i := range 3 {
		if err := w.link(9000 + i); err != nil {
			w.t.Errorf("%s: link: %v", when, err)
		}
	}
	w.verify(when + ", going on")
	for _, f := range findings(w.t, w.blobs) {
		w.t.Errorf("%s: found %v", when, f)
	}
	if err := w.blobs.Close(); err != nil {
		w.t.Errorf("%s: close: %v", when, err)
	}
}

func read(blobs store.Blobs, ref store.Ref) ([]byte, error) {
	body, err := blobs.Open(context.Background(), ref)
	if err != nil {
		return nil, err
	}
	defer body.Close()
	return io.ReadAll(body)
}

// TestPowerCutAtEveryOperation cuts the power ahead of each operation on the
// disk, starts again, twice, and reads every body.
func TestPowerCutAtEveryOperation(t *testing.T) {
	t.Parallel()
	for seed := range uint64(2) {
		t.Run(fmt.Sprint("seed ", seed), func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, seed)
			cuts := 0
			w.disk.SetFault(func(op fsxtest.Op) error {
				if op.Kind == fsxtest.OpRead || t.Failed() {
					return nil
				}
				cuts++
				when := fmt.Sprintf("power cut ahead of operation %d, %s", op.N, op.Kind)
				left := w.after(seed + uint64(op.N))
				left.verify(when)
				// It may go again at once, and what it left was repaired.
				if op.N%2 == 0 {
					left = left.after(uint64(op.N))
					left.verify(when + ", and again")
				}
				if op.N%8 == 0 {
					left.next = nil
					left.refs = left.counted()
					left.goesOn(when)
				}
				return nil
			})
			rnd := rand.New(rand.NewPCG(seed, 2))
			for i := range 40 {
				if err := w.step(rnd, i); err != nil {
					t.Fatalf("step %d: %v", i, err)
				}
			}
			if err := w.blobs.Close(); err != nil {
				t.Error(err)
			}
			w.disk.SetFault(nil)
			w.after(seed).verify("after the close")
			if cuts < 40 {
				t.Errorf("only %d cuts", cuts)
			}
		})
	}
}

// counted takes what the store says for what is acknowledged.
func (w *world) counted() map[store.Ref]int {
	refs := map[store.Ref]int{}
	for ref := range w.content {
		n, err := w.blobs.References(context.Background(), ref)
		if err != nil {
			w.t.Error(err)
		}
		refs[ref] = int(n)
	}
	return refs
}

// TestPowerCutInRepair cuts the power ahead of each operation of a start after
// a power cut.
func TestPowerCutInRepair(t *testing.T) {
	t.Parallel()
	repairs := 0
	for seed := range uint64(10) {
		w := newWorld(t, seed)
		for i := range 5 {
			if err := w.link(i); err != nil {
				t.Fatal(err)
			}
		}
		left := w.disk.Cut(seed)
		left.SetFault(func(op fsxtest.Op) error {
			if op.Kind == fsxtest.OpRead {
				return nil
			}
			repairs++
			again := &world{t: t, disk: left.Cut(seed * uint64(op.N)), model: w.model, content: w.content, refs: w.refs}
			again.open()
			again.verify(fmt.Sprintf("seed %d, power cut ahead of %s in the repair", seed, op.Kind))
			return nil
		})
		if _, err := openBlobs(w.kv, left, w.copied); err != nil {
			t.Fatal(err)
		}
	}
	if repairs < 20 {
		t.Errorf("only %d operations of repair", repairs)
	}
}

// TestFaultAtEveryOperation has each operation fail once. Its caller is told,
// everybody else goes on, and nothing acknowledged is lost.
func TestFaultAtEveryOperation(t *testing.T) {
	t.Parallel()
	for name, fault := range map[string]error{
		"input or output error": unix.EIO,
		"no space":              unix.ENOSPC,
		"short write":           &fsxtest.Short{Octets: 700, Err: unix.ENOSPC},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			for at, done := 1, false; !done && !t.Failed(); at++ {
				w := newWorld(t, uint64(at))
				first := w.disk.Ops()
				w.disk.SetFault(func(op fsxtest.Op) error {
					if op.N == first+at && op.Kind != fsxtest.OpRead {
						return fault
					}
					return nil
				})
				when := fmt.Sprintf("fault at operation %d", at)
				refused := 0
				rnd := rand.New(rand.NewPCG(1, 2))
				for i := range 12 {
					err := w.step(rnd, i)
					if err == nil {
						continue
					}
					refused++
					if !errors.Is(err, unix.EIO) && !errors.Is(err, store.ErrFull) {
						t.Errorf("%s: step %d: %v", when, i, err)
					}
				}
				if refused > 1 {
					t.Errorf("%s: %d steps were refused", when, refused)
				}
				w.verify(when)
				w.after(uint64(at)).verify(when + ", then a power cut")
				done = w.disk.Ops() < first+at
				w.disk.SetFault(nil)
				w.goesOn(when)
				w.open()
				w.verify(when + ", then a restart")
				if err := w.blobs.Close(); err != nil {
					t.Error(err)
				}
			}
		})
	}
}

// TestFullDisk fills a disk, makes room and goes on.
func TestFullDisk(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 1)
	w.disk.SetCapacity(3 << 20)
	refused := 0
	for i := range 30 {
		if err := w.link(i); err != nil {
			refused++
			if !errors.Is(err, store.ErrFull) {
				t.Errorf("body %d: %v", i, err)
			}
		}
	}
	if refused == 0 || refused == 30 {
		t.Errorf("%d of 30 were refused", refused)
	}
	w.verify("full")
	w.after(1).verify("full, after a power cut")
	for ref, n := range w.refs {
		if n > 0 && ref.Octets > 100<<10 {
			if err := w.commit(ref, -n, func(b *store.Batch) { w.blobs.Unlink(b, ref) }); err != nil {
				t.Errorf("removing on a full disk: %v", err)
			}
		}
	}
	w.disk.SetCapacity(0)
	w.goesOn("with room again")
}

// TestFlippedBits: a body is delivered as it was, or its damage is told. The
// others do not suffer.
func TestFlippedBits(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 1)
	for i := range 12 {
		if err := w.link(i); err != nil {
			t.Fatal(err)
		}
	}
	rnd := rand.New(rand.NewPCG(3, 4))
	detected := 0
	for round := range 80 {
		// Sometimes in the pack that was being written.
		left := w.disk.Cut(uint64(round))
		if round%2 == 0 {
			blobs, err := openBlobs(w.kv, left, w.copied)
			if err != nil {
				t.Fatal(err)
			}
			if err := blobs.Close(); err != nil {
				t.Fatal(err)
			}
		}
		names, err := left.ReadDir("/bodies")
		if err != nil {
			t.Fatal(err)
		}
		name := "/bodies/" + names[rnd.IntN(len(names))]
		at, bit := rnd.Int64N(600_000), uint(rnd.IntN(8))
		if round < 20 {
			at = rnd.Int64N(40) // the headers
		}
		if err := left.Flip(name, at, bit); err != nil {
			continue // past the end
		}
		blobs, err := openBlobs(w.kv, left, w.copied)
		if err != nil {
			if at < 16 {
				detected++
				continue // a pack of a newer program, it seems
			}
			t.Fatalf("bit %d at %d of %s: %v", bit, at, name, err)
		}
		damaged := 0
		for ref, content := range w.content {
			got, err := read(blobs, ref)
			if err == nil && !bytes.Equal(got, content) {
				t.Errorf("bit %d at %d of %s: a damaged body is delivered", bit, at, name)
			}
			if err != nil {
				damaged++
			}
			if errors.Is(err, store.ErrNotFound) {
				t.Errorf("bit %d at %d of %s: a damaged body is said not to be there", bit, at, name)
			}
		}
		if damaged > 0 {
			detected++
		}
		if at >= 16 && damaged > 1 {
			t.Errorf("bit %d at %d of %s: %d bodies cannot be read", bit, at, name, damaged)
		}
	}
	if detected < 20 {
		t.Errorf("only %d flips were noticed", detected)
	}
}

// TestLostPack: bodies in a pack that is gone, or cut short, say so.
func TestLostPack(t *testing.T) {
	t.Parallel()
	for _, lose := range []func(disk *fsxtest.Disk, name string) error{
		func(disk *fsxtest.Disk, name string) error { return disk.Remove(name) },
		func(disk *fsxtest.Disk, name string) error {
			f, err := disk.Open(name)
			if err != nil {
				return err
			}
			return errors.Join(f.Truncate(100_000), f.Close())
		},
	} {
		w := newWorld(t, 1)
		for i := range 12 {
			if err := w.link(i); err != nil {
				t.Fatal(err)
			}
		}
		if err := w.blobs.Close(); err != nil {
			t.Fatal(err)
		}
		if err := lose(w.disk, "/bodies/0000000000000001.pack"); err != nil {
			t.Fatal(err)
		}
		w.open()
		damaged, whole := 0, 0
		for ref, content := range w.content {
			switch got, err := read(w.blobs, ref); {
			case err == nil && bytes.Equal(got, content):
				whole++
			case err == nil || errors.Is(err, store.ErrNotFound):
				t.Errorf("body of %d octets: %d octets, %v", ref.Octets, len(got), err)
			default:
				damaged++
			}
		}
		if damaged == 0 || whole == 0 {
			t.Errorf("%d bodies damaged, %d whole", damaged, whole)
		}
		// What was lost can be brought again only under another name: its
		// number is not used for other bodies.
		if err := w.link(100); err != nil {
			t.Fatal(err)
		}
		if f, err := w.disk.Create("/bodies/0000000000000001.open"); err != nil {
			t.Error("the number of a lost pack was given again")
		} else {
			_ = f.Close()
		}
	}
}

// TestForeignPacks: a pack of a newer program is refused; one under another's
// name is not read.
func TestForeignPacks(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 1)
	for i := range 12 {
		if err := w.link(i); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.blobs.Close(); err != nil {
		t.Fatal(err)
	}
	newer := w.disk.Cut(1)
	if err := newer.Flip("/bodies/0000000000000001.pack", 7, 2); err != nil { // version 2 becomes 6
		t.Fatal(err)
	}
	if _, err := openBlobs(w.kv, newer, w.copied); err == nil {
		t.Error("a pack of a newer program was opened")
	}
	swapped := w.disk.Cut(1)
	const a, b, c = "/bodies/0000000000000001.pack", "/bodies/0000000000000002.pack", "/bodies/c"
	if err := errors.Join(swapped.Rename(a, c), swapped.Rename(b, a), swapped.Rename(c, b)); err != nil {
		t.Fatal(err)
	}
	blobs, err := openBlobs(w.kv, swapped, w.copied)
	if err != nil {
		t.Fatal(err)
	}
	for ref, content := range w.content {
		got, err := read(blobs, ref)
		if err == nil && !bytes.Equal(got, content) || errors.Is(err, store.ErrNotFound) {
			t.Errorf("body of %d octets out of swapped packs: %v", ref.Octets, err)
		}
	}
}
