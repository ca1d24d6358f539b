package shared

import (
	"sync/atomic"
	"time"
)

// maxAhead is how far another gateway's clock may be ahead of ours. Facts of a
// later time are not believed: they would win for as long as that clock is wrong.
const maxAhead = time.Hour

// clock gives stamps that order changes: milliseconds since 1970 in the upper
// 48 bits, and below them a count. No stamp is given twice, and each is above
// all that were seen from others, so that a change made after another one was
// heard of wins over it whatever the clocks say (a hybrid logical clock).
type clock struct{ last atomic.Uint64 }

func stampAt(t time.Time) uint64 { return uint64(max(0, t.UnixMilli())) << 16 }

// next returns a stamp for a change that is made now.
func (c *clock) next() uint64 {
	wall := stampAt(time.Now())
	for {
		last := c.last.Load()
		stamp := max(wall, last+1)
		if c.last.CompareAndSwap(last, stamp) {
			return stamp
		}
	}
}

// see takes note of a stamp from elsewhere, and reports whether it may be
// believed.
func (c *clock) see(stamp uint64) bool {
	if stamp > stampAt(time.Now().Add(maxAhead)) {
		return false
	}
	for {
		last := c.last.Load()
		if stamp <= last || c.last.CompareAndSwap(last, stamp) {
			return true
		}
	}
}
