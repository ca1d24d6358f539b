package pack

import (
	"context"
	"errors"
	"io"
	"slices"
	"strings"
	"testing"

	"github.com/hashicorp/go-hclog"

	"github.com/postern-mail/postern/store"
	"github.com/postern-mail/postern/store/pebble"
)

// TestVerifyReferences: counts that are too high, too low or nobody's are found
// in however many portions the bodies are taken, and right ones are not.
func TestVerifyReferences(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	kv, err := pebble.Open(t.Context(), pebble.Config{Dir: dir, ReserveOctets: -1}, hclog.NewNullLogger())
	if err != nil {
		t.Fatal(err)
	}
	defer kv.Close()
	b, err := Open(t.Context(), Config{Dir: dir + "/bodies", ReserveOctets: -1}, kv, hclog.NewNullLogger())
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	const bodies = 12
	var held []store.Ref // by owners
	var want []store.Hash
	for i := range bodies {
		s, err := b.Stage(t.Context(), strings.NewReader(strings.Repeat("x", 1+5_000*i)))
		if err != nil {
			t.Fatal(err)
		}
		batch := store.NewBatch()
		b.Link(batch, s)
		counted := 1
		for range i % 3 {
			b.Share(batch, s.Ref())
			counted++
		}
		if i == 8 { // its mark stays, its counter goes
			b.Unlink(batch, s.Ref())
			b.Unlink(batch, s.Ref())
			counted = 1
		}
		if _, err := kv.Commit(t.Context(), batch); err != nil {
			t.Fatal(err)
		}
		found := counted
		switch i {
		case 3:
			found = 0
		case 4:
			found = 3
		case 5:
			found = 1
		}
		if found != counted {
			want = append(want, s.Ref().Hash)
		}
		held = append(held, slices.Repeat([]store.Ref{s.Ref()}, found)...)
	}
	held = append(held, store.Ref{Hash: store.Hash{1}, Octets: 1}) // of no body
	slices.SortFunc(want, func(x, y store.Hash) int { return slices.Compare(x[:], y[:]) })
	defer func() { checkRepair(t, b, held, want) }()
	for _, atOnce := range []int{1, 2, 5, bodies, bodies + 1, countAtOnce} {
		passes := 0
		owners := func(_ context.Context, each func(store.Ref)) error {
			passes++
			for _, ref := range held {
				each(ref)
			}
			return nil
		}
		var got []store.Hash
		err := b.verifyReferences(t.Context(), owners, func(f Finding) {
			if f.Kind != FoundReferences {
				t.Errorf("found %v", f)
			}
			got = append(got, f.Body)
		}, atOnce)
		if err != nil || !slices.Equal(got, want) {
			t.Errorf("%d at once: found %x, %v; want %x", atOnce, got, err, want)
		}
		if most := bodies/atOnce + 1; passes > most {
			t.Errorf("%d at once: %d passes, want at most %d", atOnce, passes, most)
		}
	}
}

// checkRepair: only what is too low is mended while it is not known what else
// refers to bodies; afterwards all is, and a body of nobody goes only when it
// was kept.
func checkRepair(t *testing.T, b *Blobs, held []store.Ref, wrong []store.Hash) {
	t.Helper()
	owners := func(_ context.Context, each func(store.Ref)) error {
		for _, ref := range held {
			each(ref)
		}
		return nil
	}
	verify := func() (left []store.Hash) {
		if err := b.VerifyReferences(t.Context(), owners, func(f Finding) { left = append(left, f.Body) }); err != nil {
			t.Fatal(err)
		}
		return left
	}
	mended := 0
	refuse := errors.New("no room")
	repair := func(mayLower bool, keep func(store.Hash, store.Body) error) error {
		mended = 0
		return b.RepairReferences(t.Context(), owners, func() bool { return mayLower }, keep, func(Finding, string) { mended++ })
	}
	if err := repair(false, nil); err != nil || mended != 1 || len(verify()) != len(wrong)-1 {
		t.Errorf("raise only: %d mended, %v, left %x", mended, err, verify())
	}
	if err := repair(true, func(store.Hash, store.Body) error { return refuse }); !errors.Is(err, refuse) || len(verify()) != 1 {
		t.Errorf("without room: %d mended, %v, left %x", mended, err, verify())
	}
	kept := 0
	err := repair(true, func(_ store.Hash, body store.Body) error {
		octets, err := io.ReadAll(body)
		kept += len(octets)
		return err
	})
	if err != nil || mended != 1 || kept != 15_001 || len(verify()) != 0 {
		t.Errorf("at last: %d mended, %v, %d octets kept, left %x", mended, err, kept, verify())
	}
	if err := b.Verify(t.Context(), func(f Finding) { t.Errorf("after the repair: %v", f) }); err != nil {
		t.Fatal(err)
	}
	// A counter of no body, and one that nobody looks at.
	stray := store.NewBatch()
	stray.Put(b.keys.more(store.Hash{2}), store.EncodeCounter(3))
	stray.Put(b.keys.more(held[0].Hash), store.EncodeCounter(3))
	if _, err := b.kv.Commit(t.Context(), stray); err != nil {
		t.Fatal(err)
	}
	if err := repair(true, nil); err != nil || mended != 2 {
		t.Errorf("stray counters: %d mended, %v", mended, err)
	}
	if err := b.Verify(t.Context(), func(f Finding) { t.Errorf("after stray counters: %v", f) }); err != nil {
		t.Fatal(err)
	}
}
