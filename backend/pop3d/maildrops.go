package pop3d

import (
	"context"
	"sync"
	"time"
)

// Maildrops says which accounts have a session, of which each may have one
// (RFC 1939 section 4: the exclusive-access lock), and when they had the last.
// All servers of a process share one. Its methods may be called concurrently.
type Maildrops struct {
	mu    sync.Mutex // guards the fields below
	held  map[string]chan struct{}
	last  map[string]time.Time
	prune int // size of last at which the old are looked for
}

// NewMaildrops returns Maildrops that nobody holds.
func NewMaildrops() *Maildrops {
	return &Maildrops{held: make(map[string]chan struct{}), last: make(map[string]time.Time)}
}

// enter takes the maildrop of an account. Where somebody else has it, it waits
// for so long, though no longer than until stop is closed or ctx ends; it
// reports false when it did not get it.
func (d *Maildrops) enter(ctx context.Context, account string, wait time.Duration, stop <-chan struct{}) bool {
	var late <-chan time.Time
	for {
		busy := d.take(account)
		if busy == nil {
			return true
		}
		if wait <= 0 {
			return false
		}
		if late == nil {
			timer := time.NewTimer(wait)
			defer timer.Stop()
			late = timer.C
		}
		select {
		case <-busy:
		case <-late:
			return false
		case <-stop:
			return false
		case <-ctx.Done():
			return false
		}
	}
}

// take takes a maildrop, or returns what is closed when it is free again.
func (d *Maildrops) take(account string) <-chan struct{} {
	d.mu.Lock()
	defer d.mu.Unlock()
	if busy, held := d.held[account]; held {
		return busy
	}
	d.held[account] = make(chan struct{})
	return nil
}

// leave gives a maildrop back.
func (d *Maildrops) leave(account string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	close(d.held[account])
	delete(d.held, account)
}

// leastPrune keeps a few entries from being looked through again and again.
const leastPrune = 1000

// early reports whether the account logged in less than delay before now;
// otherwise it does now.
func (d *Maildrops) early(account string, delay time.Duration, now time.Time) bool {
	if delay <= 0 {
		return false
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if at, known := d.last[account]; known && now.Sub(at) < delay {
		return true
	}
	if len(d.last) >= max(d.prune, leastPrune) {
		for name, at := range d.last {
			if now.Sub(at) >= delay {
				delete(d.last, name)
			}
		}
		d.prune = 2 * len(d.last)
	}
	d.last[account] = now
	return false
}
