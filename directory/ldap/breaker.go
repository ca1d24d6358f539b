package ldap

import (
	"sync"
	"time"
)

// breaker decides whether a server is asked at all. After maxFailures in a row
// it is left alone, for firstPause and then twice as long each time up to
// maxPause; the first attempt after a pause decides whether another follows.
type breaker struct {
	maxFailures int
	maxPause    time.Duration

	mu       sync.Mutex
	failures int
	pause    time.Duration
	until    time.Time // end of the pause; zero when the server is asked
}

const firstPause = time.Second

// allow reports whether the server may be asked at now. After a pause it lets
// one caller through and pauses again until that one reports.
func (b *breaker) allow(now time.Time) bool {
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

// due reports whether a pause is over, without letting anybody through.
func (b *breaker) due(now time.Time) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return !b.until.IsZero() && !now.Before(b.until)
}

// succeeded notes that the server answered.
func (b *breaker) succeeded() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.failures, b.pause, b.until = 0, 0, time.Time{}
}

// failed notes that it did not, and reports whether a pause began.
func (b *breaker) failed(now time.Time) (paused bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.failures++
	if b.failures < b.maxFailures {
		return false
	}
	first := b.until.IsZero()
	b.pause = min(max(2*b.pause, firstPause), b.maxPause)
	b.until = now.Add(b.pause)
	return first
}
