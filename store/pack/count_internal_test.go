package pack

import (
	"context"
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
