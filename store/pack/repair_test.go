package pack_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"testing"

	"github.com/postern-mail/postern/store"
	"github.com/postern-mail/postern/store/pack"
)

// TestRepair breaks one thing at a time, has it repaired, and finds nothing
// any more and every body whole.
func TestRepair(t *testing.T) {
	t.Parallel()
	key := func(kind byte, rest ...byte) []byte { return append([]byte{'b', kind}, rest...) }
	number := func(n uint64) []byte { return binary.BigEndian.AppendUint64(nil, n) }
	inPack := func(n uint64, h store.Hash) []byte { return append(key('p', number(n)...), h[:]...) }
	const active = "/bodies/0000000000000001.open"
	for _, row := range []struct {
		name   string
		damage func(w *world, single, row store.Ref)
		want   int // repairs at least
	}{
		{"nothing", func(*world, store.Ref, store.Ref) {}, 0},
		{"the beginning of a pack", func(w *world, _, _ store.Ref) {
			if err := w.disk.Flip(active, 3, 3); err != nil {
				w.t.Fatal(err)
			}
		}, 1},
		{"the list of a pack", func(w *world, single, _ store.Ref) {
			w.put(inPack(1, single.Hash), []byte{1, 16, 5})
		}, 1},
		{"a list too many", func(w *world, _, _ store.Ref) {
			w.put(inPack(1, sha256.Sum256(nil)), []byte{1, 16, 5})
		}, 1},
		{"a list that cannot be read", func(w *world, single, _ store.Ref) {
			w.put(inPack(1, single.Hash), []byte{1, 16})
		}, 1},
		{"a counter of live octets", func(w *world, _, _ store.Ref) {
			w.put(key('l', number(1)...), store.EncodeCounter(5))
		}, 1},
		{"bodies that are not there", func(w *world, single, row store.Ref) {
			w.drop(key('h', single.Hash[:]...), key('h', row.Hash[:]...))
		}, 2},
		{"bodies that nothing tells of", func(w *world, single, row store.Ref) {
			w.drop(key('h', single.Hash[:]...), key('h', row.Hash[:]...), inPack(1, single.Hash), inPack(1, row.Hash))
		}, 2},
		{"bodies that cannot be read", func(w *world, single, row store.Ref) {
			w.put(key('h', single.Hash[:]...), []byte{2, 1})
			w.put(key('h', row.Hash[:]...), []byte{2, 1, 16, 5})
		}, 2},
		{"a body of which there is another copy", func(w *world, single, _ store.Ref) {
			s, err := w.blobs.Stage(context.Background(), bytes.NewReader(w.content[single]))
			if err != nil {
				w.t.Fatal(err)
			}
			if err := w.commit(single, 1, func(b *store.Batch) { w.blobs.Link(b, s) }); err != nil {
				w.t.Fatal(err)
			}
			// It stands behind the header and the first body.
			if err := w.disk.Flip(active, 16+16+30_000+16+1000, 3); err != nil {
				w.t.Fatal(err)
			}
		}, 1},
	} {
		t.Run(row.name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, 1)
			rnd := rand.New(rand.NewPCG(5, 6))
			w.linkOctets(randomOctets(rnd, 30_000))
			single := w.linkOctets(randomOctets(rnd, 40_000))
			long := w.linkOctets(bytes.Repeat([]byte("a long one "), 60_000))
			if err := w.commit(single, 1, func(b *store.Batch) { w.blobs.Share(b, single) }); err != nil {
				t.Fatal(err)
			}
			row.damage(w, single, long)
			if row.want > 0 && len(findings(t, w.blobs)) == 0 && !w.misses() {
				t.Fatal("no damage was done")
			}
			w.repair(row.want)
			w.verify("repaired")
			for _, f := range findings(t, w.blobs) {
				t.Errorf("after the repair: %v", f)
			}
			w.repair(0)
			w.goesOn("after the repair")
		})
	}
}

// TestRepairMoved: the pieces of a body that was moved stand in packs whose
// order is not that of their numbers.
func TestRepairMoved(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 1)
	rnd := rand.New(rand.NewPCG(1, 2))
	gone := w.linkOctets(randomOctets(rnd, 800_000))
	long := w.linkOctets(randomOctets(rnd, 600_000)) // begins in this pack
	w.linkOctets(randomOctets(rnd, 700_000))
	if err := w.commit(gone, -1, func(b *store.Batch) { w.blobs.Unlink(b, gone) }); err != nil {
		t.Fatal(err)
	}
	if err := w.blobs.Compact(t.Context()); err != nil {
		t.Fatal(err)
	}
	value := w.get(append([]byte("bh"), long.Hash[:]...))
	if first := value[1]; first < 3 || !bytes.Contains(value, []byte{2, 16}) {
		t.Fatalf("the body was not moved: %x", value)
	}
	w.drop(append([]byte("bh"), long.Hash[:]...))
	w.repair(1)
	w.verify("repaired")
	if after := w.get(append([]byte("bh"), long.Hash[:]...)); !bytes.Equal(after, value) {
		t.Errorf("%x, before %x", after, value)
	}
	w.goesOn("after the repair")
}

// TestRepairKeepsOff: what belongs to a newer program stays as it is.
func TestRepairKeepsOff(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 1)
	ref := w.linkOctets(bytes.Repeat([]byte("x"), 20_000))
	w.put(append([]byte("bh"), ref.Hash[:]...), []byte{9, 1, 2, 3})
	if err := w.blobs.Repair(t.Context(), findings(t, w.blobs), w.owners, func(f pack.Finding, how string) {
		t.Errorf("%v: %s", f, how)
	}); err != nil {
		t.Error(err)
	}
	if got := w.get(append([]byte("bh"), ref.Hash[:]...)); !bytes.Equal(got, []byte{9, 1, 2, 3}) {
		t.Errorf("now %x", got)
	}
}

func (w *world) get(key []byte) (value []byte) {
	w.t.Helper()
	err := w.kv.View(context.Background(), func(s store.Snapshot) error {
		found, err := s.Get(key)
		value = bytes.Clone(found)
		return err
	})
	if err != nil {
		w.t.Fatal(err)
	}
	return value
}

func (w *world) drop(keys ...[]byte) {
	w.t.Helper()
	b := store.NewBatch()
	for _, key := range keys {
		b.Delete(key)
	}
	if _, err := w.kv.Commit(context.Background(), b); err != nil {
		w.t.Fatal(err)
	}
}

// owners tells the references that are acknowledged.
func (w *world) owners(_ context.Context, each func(store.Ref)) error {
	for ref, n := range w.refs {
		for range n {
			each(ref)
		}
	}
	return nil
}

// misses reports whether a body that is referred to is not there.
func (w *world) misses() bool {
	for ref, n := range w.refs {
		if found, err := w.blobs.References(context.Background(), ref); err == nil && n > 0 && found == 0 {
			return true
		}
	}
	return false
}

// repair repairs what is found, and the counts of references, in at least so
// many places; in none for 0.
func (w *world) repair(least int) {
	w.t.Helper()
	var done []string
	told := func(f pack.Finding, how string) { done = append(done, fmt.Sprintf("%v: %s", f, how)) }
	if err := w.blobs.Repair(context.Background(), findings(w.t, w.blobs), w.owners, told); err != nil {
		w.t.Error(err)
	}
	if len(done) < least || least == 0 && len(done) > 0 {
		w.t.Errorf("want %d repairs, got %q", least, done)
	}
	err := w.blobs.RepairReferences(context.Background(), w.owners, func() bool { return true },
		func(store.Hash, store.Body) error { return nil }, told)
	if err != nil {
		w.t.Error(err)
	}
}
