// Package breaker leaves services alone that failed, so that work does not wait
// for what does not answer: after failures in a row for a second, then twice as
// long each time up to half a minute. After a pause one asks for all.
package breaker

import (
	"sync"
	"time"
)

// Allowed is how many failures in a row there may be before the first pause;
// pauses last FirstPause to LastPause.
const (
	Allowed    = 3
	FirstPause = time.Second
	LastPause  = 30 * time.Second
)

// Breaker decides whether a service is asked at all. The zero Breaker is ready
// for use, also concurrently.
type Breaker struct {
	mu       sync.Mutex
	failures int
	pause    time.Duration
	until    time.Time // end of the pause; zero when the service is asked
	since    time.Time // when the first pause began
	failure  error     // the last one
	failed   time.Time // when that was
}

// Allow reports whether the service may be asked now.
func (b *Breaker) Allow(now time.Time) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.until.IsZero() {
		return true
	}
	if now.Before(b.until) {
		return false
	}
	b.until = now.Add(b.pause)
	return true
}

// Answered notes that the service answered something, and reports whether that
// is news. That it does its work is not certain yet: one more failure, and it is
// left alone for longer.
func (b *Breaker) Answered() (up bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	up = !b.until.IsZero()
	if up {
		b.failures, b.until = Allowed-1, time.Time{}
	}
	return up
}

// Succeeded notes that the service decided about a message, and reports whether
// that is news.
func (b *Breaker) Succeeded() (up bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	up = !b.until.IsZero()
	b.failures, b.pause, b.until = 0, 0, time.Time{}
	return up
}

// Failed notes that it did not, and reports whether it counts as down from now on.
func (b *Breaker) Failed(now time.Time) (down bool) { return b.FailedBy(nil, now) }

// FailedBy is Failed that keeps why, for State.
func (b *Breaker) FailedBy(err error, now time.Time) (down bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.failure, b.failed = err, now
	b.failures++
	if b.failures < Allowed {
		return false
	}
	if down = b.until.IsZero(); down {
		b.since = now
	}
	b.pause = min(max(2*b.pause, FirstPause), LastPause)
	b.until = now.Add(b.pause)
	return down
}

// Resume ends a pause, so that the next caller finds out.
func (b *Breaker) Resume() {
	b.mu.Lock()
	defer b.mu.Unlock()
	if !b.until.IsZero() {
		b.until = time.Unix(1, 0)
	}
}

// Failures returns how many there were in a row.
func (b *Breaker) Failures() int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.failures
}

// State is how a service does.
type State struct {
	// Down tells that it is left alone, or on trial after that, since Since.
	Down  bool
	Since time.Time
	// Failure is the last failure that was told why, at Failed; nil when there
	// was none.
	Failure error
	Failed  time.Time
}

// State returns how the service does.
func (b *Breaker) State() State {
	b.mu.Lock()
	defer b.mu.Unlock()
	st := State{Down: !b.until.IsZero(), Failure: b.failure, Failed: b.failed}
	if st.Down {
		st.Since = b.since
	}
	return st
}
