package pebble

import (
	"math/rand/v2"
	"testing"
	"time"

	"github.com/postern-mail/postern/internal/testenv"
	"github.com/postern-mail/postern/store"
)

// TestTxIDWindow: no group younger than TxIDKept is forgotten, those before the
// start included, and none is kept for long after.
func TestTxIDWindow(t *testing.T) {
	t.Parallel()
	seed := testenv.Seed(t)
	rnd := rand.New(rand.NewPCG(seed, 0))
	start := time.Unix(1_000_000, 0)
	now, group := start, uint64(1000)
	written := map[uint64]time.Time{}
	for old := uint64(900); old <= group; old++ {
		written[old] = start // perhaps just before
	}
	var w txIDWindow
	w.start(now, group)
	kept := uint64(900)
	for range 20_000 {
		now = now.Add(time.Duration(rnd.Int64N(int64(2 * time.Second))))
		group++
		written[group] = now
		before, due := w.expire(now, group)
		if !due {
			continue
		}
		for ; kept < before; kept++ {
			if age := now.Sub(written[kept]); age < store.TxIDKept {
				t.Fatalf("group %d is forgotten after %v", kept, age)
			}
		}
	}
	if age := now.Sub(written[kept]); age > store.TxIDKept+3*txIDMarkEvery {
		t.Errorf("group %d is still known after %v", kept, age)
	}
	if len(w.marks) > int(store.TxIDKept/txIDMarkEvery)+3 {
		t.Errorf("%d marks", len(w.marks))
	}
}
