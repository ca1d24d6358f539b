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
	cheapWithin time.Duration // see cheapFailure

	mu       sync.Mutex
	failures int
	pause    time.Duration
	until    time.Time // end of the pause; zero when the server is asked
	cheap    bool      // the last failure took no time: a refused connection
	trial    bool      // somebody tries it during the pause
}

const (
	firstPause = time.Second
	// cheapFailure is how long a failure may take that costs a caller nothing.
	cheapFailure = 50 * time.Millisecond
)

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

// asked reports whether the server is asked, pauses that are over
// notwithstanding: for callers that leave the first attempt to somebody else.
func (b *breaker) asked() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.until.IsZero()
}

// allowTrial reports whether a paused server may be tried because nobody else
// is left: one caller at a time, when its failures cost no time, so that a
// server that is back serves at once. done must follow.
func (b *breaker) allowTrial() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.until.IsZero() || !b.cheap || b.trial {
		return false
	}
	b.trial = true
	return true
}

// done ends a trial.
func (b *breaker) done() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.trial = false
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

// failed notes that it did not, after took, and reports whether a pause began.
func (b *breaker) failed(now time.Time, took time.Duration) (paused bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.failures++
	b.cheap = took < b.cheapWithin
	if b.failures < b.maxFailures {
		return false
	}
	first := b.until.IsZero()
	b.pause = min(max(2*b.pause, firstPause), b.maxPause)
	b.until = now.Add(b.pause)
	return first
}
