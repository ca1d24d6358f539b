package limits

import (
	"math"
	"time"
)

// window counts events within the last time unit. Its zero value has seen none.
type window struct {
	began         time.Time // of the present unit
	now, previous int64     // what was counted in it, and in the one before
}

// turn goes on to the unit that at lies in.
func (w *window) turn(at time.Time, unit time.Duration) {
	gone := at.Sub(w.began)
	switch {
	case w.began.IsZero() || gone >= 2*unit || gone < 0:
		// A clock that was set back starts anew rather than to hold anybody.
		w.began, w.now, w.previous = at, 0, 0
	case gone >= unit:
		w.began, w.now, w.previous = w.began.Add(unit), 0, w.now
	}
}

// total is what was counted within one unit before at.
func (w *window) total(at time.Time, unit time.Duration) int64 {
	left := 1 - float64(at.Sub(w.began))/float64(unit)
	return w.now + int64(math.Ceil(float64(w.previous)*left-1e-9))
}

// take counts n events when that leaves the total within limit. Else it returns
// after which time that would be so; never, when n alone is more than limit, is
// a whole unit.
func (w *window) take(at time.Time, unit time.Duration, n, limit int64) (wait time.Duration, ok bool) {
	w.turn(at, unit)
	if w.total(at, unit)+n <= limit {
		w.now += n
		return 0, true
	}
	return w.wait(at, unit, n, limit), false
}

// wait is the time after which n events fit.
func (w *window) wait(at time.Time, unit time.Duration, n, limit int64) time.Duration {
	gone := at.Sub(w.began)
	if n > limit {
		return unit
	}
	free := float64(limit - n)
	if float64(w.now) <= free { // when enough of the unit before has gone
		return atLeastOne(time.Duration(float64(unit)*(1-(free-float64(w.now))/float64(w.previous))) - gone)
	}
	return atLeastOne(unit - gone + time.Duration(float64(unit)*(1-free/float64(w.now))))
}

// atLeastOne rounds up to whole seconds, of which a reply tells.
func atLeastOne(d time.Duration) time.Duration {
	return max((d + time.Second - 1).Truncate(time.Second), time.Second)
}

// idle reports whether nothing that was counted matters at the time.
func (w *window) idle(at time.Time, unit time.Duration) bool {
	return w.began.IsZero() || at.Sub(w.began) >= 2*unit
}
