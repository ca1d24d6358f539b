package ldap

import (
	"slices"
	"sync"
	"time"
)

const (
	// latencySamples is how many recent answers are remembered, and
	// latencyFew with how many of them nothing is concluded yet.
	latencySamples = 128
	latencyFew     = 32
	// minHedgeDelay keeps searches of a fast server from being sent twice for
	// a moment's hiccup.
	minHedgeDelay = 2 * time.Millisecond
)

// latency is how long a server took to answer lately.
type latency struct {
	slowAfter time.Duration // an average above this makes the server slow

	mu      sync.Mutex
	samples [latencySamples]time.Duration
	count   int           // of all samples ever
	average time.Duration // of late, weighing recent answers more
	slow    bool
	p99     time.Duration // of the samples when it was counted last
}

// observe notes an answer, or that after d there was none yet. It reports
// whether the server became slow or ceased to be.
func (l *latency) observe(d time.Duration) (changed bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.samples[l.count%latencySamples] = d
	l.count++
	if l.count%latencyFew == 0 {
		l.p99 = l.quantileLocked(0.99)
	}
	if l.count == 1 {
		l.average = d
	}
	l.average += (d - l.average) / 4
	// It ceases to be slow only well below the mark, lest it go back and forth.
	was := l.slow
	switch {
	case l.average > l.slowAfter:
		l.slow = true
	case l.average < l.slowAfter/4:
		l.slow = false
	}
	return was != l.slow
}

func (l *latency) isSlow() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.slow
}

// hedgeDelay is the time within which nearly all recent answers came; false
// while too few are known.
func (l *latency) hedgeDelay() (time.Duration, bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return max(l.p99, minHedgeDelay), l.count >= latencyFew
}

// quantiles returns the median and the 99th percentile of recent answers.
func (l *latency) quantiles() (median, p99 time.Duration) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.quantileLocked(0.5), l.quantileLocked(0.99)
}

func (l *latency) quantileLocked(q float64) time.Duration {
	n := min(l.count, latencySamples)
	if n == 0 {
		return 0
	}
	sorted := slices.Clone(l.samples[:n])
	slices.Sort(sorted)
	return sorted[min(int(q*float64(n)), n-1)]
}

// budget bounds second tries to a share of all searches.
type budget struct {
	mu     sync.Mutex
	tokens float64
}

const (
	hedgeShare = 0.05
	// hedgeSaved is how many second tries may be saved up for bad moments.
	hedgeSaved = 10
)

// earn notes a search.
func (b *budget) earn() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.tokens = min(b.tokens+hedgeShare, hedgeSaved)
}

// spend reports whether a second try may be made.
func (b *budget) spend() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.tokens < 1 {
		return false
	}
	b.tokens--
	return true
}
