package mailstore

import (
	"encoding/binary"
	"math/rand/v2"
	"testing"
)

// TestDeliveredNeverForgets: whatever the order in which deliveries come, one
// that was made is never called new, and one that only overtook others is.
func TestDeliveredNeverForgets(t *testing.T) {
	t.Parallel()
	mark := func(n uint64) (m deliveryMark) {
		binary.BigEndian.PutUint64(m[:], n)
		return m
	}
	for seed := range uint64(50) {
		r := rand.New(rand.NewPCG(seed, 1))
		var d delivered
		stored := make(map[deliveryMark]bool)
		for at := uint64(1000); at < 3000; at++ {
			// Most are overtaken by a few, some by very many.
			id := mark(at - min(at, r.Uint64N(maxDelivered/2)))
			if r.IntN(50) == 0 {
				id = mark(r.Uint64N(at))
			}
			if d.isNew(id) && stored[id] {
				t.Fatalf("seed %d: %x was made before", seed, id)
			}
			if next := mark(at + 1); !d.isNew(next) && !stored[next] {
				t.Fatalf("seed %d: %x lies above all and has to be looked up", seed, next)
			}
			stored[id] = true
			d.note(map[deliveryMark]twin{id: {}})
			if len(d.marks) > maxDelivered {
				t.Fatalf("seed %d: %d marks in memory", seed, len(d.marks))
			}
		}
	}
	var d delivered
	for n := range uint64(20) {
		d.note(map[deliveryMark]twin{mark(100 - 2*n): {}})
	}
	for n := range uint64(20) {
		if !d.isNew(mark(101 - 2*n)) {
			t.Errorf("%d is among few and has to be looked up", 101-2*n)
		}
	}
}
