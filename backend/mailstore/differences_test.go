package mailstore

import (
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/emersion/go-imap/v2"
)

// What is found by passing over what two Views share is what is found by looking
// at every message, however the one came of the other.
func TestDifferences(t *testing.T) {
	t.Parallel()
	seed := rand.Uint64()
	random := rand.New(rand.NewPCG(seed, 0))
	type pair struct{ i, k int }
	for range 300 {
		told := &view{loaded: true}
		next := imap.UID(1)
		add := func(v *view, n int) {
			for range n {
				v.list.append(&Message{UID: next})
				next += imap.UID(1 + random.IntN(3))
			}
		}
		add(told, random.IntN(4*chunkMessages))
		now := *told
		for range random.IntN(5) {
			switch n := now.list.len(); random.IntN(3) {
			case 0:
				add(&now, random.IntN(chunkMessages))
			case 1:
				var gone []imap.UID
				for i := random.IntN(n + 1); i < n && len(gone) < 700; i += 1 + random.IntN(4) {
					gone = append(gone, now.list.at(i).UID)
				}
				now.list.remove(gone)
			case 2:
				var changed []flagged
				for i := random.IntN(n + 1); i < n && len(changed) < 700; i += 1 + random.IntN(4) {
					changed = append(changed, flagged{after: &Message{UID: now.list.at(i).UID}})
				}
				now.list.replace(changed)
			}
		}
		before, after := View(told), View(&now)
		if random.IntN(4) == 0 { // as of a View that is not its successor
			before, after = after, before
		}
		for _, also := range []func(i int) bool{nil, func(i int) bool { return i%3 == 0 }} {
			var got, want []pair
			for i, k := range DifferencesAnd(before, after, also) {
				got = append(got, pair{i, k})
			}
			for i, k := range differencesOf(before, after, also) {
				want = append(want, pair{i, k})
			}
			if !slices.Equal(got, want) {
				t.Fatalf("seed %d: got %v, want %v", seed, got, want)
			}
		}
		n := after.Len()
		lo := random.IntN(n + 1)
		hi := lo + random.IntN(n-lo+1)
		uids := UIDsOf(nil, after, lo, hi)
		for i, uid := range uids {
			if uid != after.At(lo+i).UID || len(uids) != hi-lo {
				t.Fatalf("seed %d: %d UIDs from %d to %d: %v", seed, len(uids), lo, hi, uids)
			}
		}
		if len(uids) != hi-lo {
			t.Fatalf("seed %d: %d UIDs from %d to %d", seed, len(uids), lo, hi)
		}
	}
}
