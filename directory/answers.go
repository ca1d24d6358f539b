package directory

import (
	"container/list"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/postern-mail/postern/status"
)

// answers remembers the answers to one kind of question. Positive answers are
// served fresh for a while, and stale while the directory does not answer;
// negative ones only fresh. Callers that ask the same question at the same
// time share one lookup. A yes that is asked for often is looked up anew before
// its time is over, each at another moment, so that what was learned at once
// does not expire at once. It may be used concurrently.
type answers[K comparable, V any] struct {
	cfg        CacheConfig
	generation func() uint64
	renewals   *renewals // nil: nothing is looked up early
	counts     answerCounts

	mu       sync.Mutex
	positive recent[K, *answer[V]]
	negative recent[K, answer[error]] // its own bound: guessed addresses push out no real ones
	flights  map[K]*flight[V]
}

type answer[V any] struct {
	value      V
	at         time.Time
	generation uint64
	renewAt    time.Time // when it may be looked up early; zero once somebody does
	hits       int
}

const (
	// Early lookups happen between these parts of an answer's time.
	renewFrom, renewTo = 0.7, 0.95
	// hotHits is how often an answer must have served to be worth one.
	hotHits = 3
)

// flight is a lookup in progress. Its result is valid once done is closed.
type flight[V any] struct {
	done       chan struct{}
	generation uint64 // of the content when it began
	value      V
	err        error
	// abandoned means that the caller gave up before there was an answer,
	// which says nothing about the directory.
	abandoned bool
}

func newAnswers[K comparable, V any](cfg CacheConfig, generation func() uint64) *answers[K, V] {
	return &answers[K, V]{
		cfg:        cfg,
		generation: generation,
		positive:   newRecent[K, *answer[V]](cfg.MaxEntries),
		negative:   newRecent[K, answer[error]](max(cfg.MaxEntries/4, 1)),
		flights:    map[K]*flight[V]{},
	}
}

// get returns the answer for key, from memory or from lookup, which may also be
// called later. The value may be shared with other callers.
func (c *answers[K, V]) get(ctx context.Context, key K, lookup func(context.Context) (V, error)) (V, error) {
	if c.cfg.Disabled {
		c.counts.misses.Add(1)
		return lookup(ctx)
	}
	for {
		c.mu.Lock()
		if value, due, ok, err := c.freshLocked(key, time.Now()); ok {
			c.mu.Unlock()
			if due {
				c.renewals.later(func(ctx context.Context) { c.renew(ctx, key, lookup) })
			}
			c.counts.hit(err)
			return value, err
		}
		other := c.flights[key]
		// What began before a change may not tell of it.
		if generation := c.generation(); other == nil || other.generation != generation {
			mine := &flight[V]{done: make(chan struct{}), generation: generation}
			c.flights[key] = mine
			c.mu.Unlock()
			c.counts.misses.Add(1)
			return c.fly(ctx, key, mine, lookup)
		}
		c.mu.Unlock()
		select {
		case <-other.done:
		case <-ctx.Done():
			return c.giveUp(key, ctx.Err())
		}
		if !other.abandoned {
			c.counts.shared.Add(1)
			return other.value, other.err
		}
	}
}

// renew looks an answer up that is still fresh.
func (c *answers[K, V]) renew(ctx context.Context, key K, lookup func(context.Context) (V, error)) {
	c.mu.Lock()
	if c.flights[key] != nil {
		c.mu.Unlock()
		return
	}
	mine := &flight[V]{done: make(chan struct{}), generation: c.generation()}
	c.flights[key] = mine
	c.mu.Unlock()
	c.counts.renewed.Add(1)
	_, _ = c.fly(ctx, key, mine, lookup) // a failure leaves the answer there is
}

// freshLocked returns what is remembered and fresh; due means that it is to be
// looked up early.
func (c *answers[K, V]) freshLocked(key K, now time.Time) (value V, due, ok bool, err error) {
	generation := c.generation()
	if a, ok := c.positive.get(key); ok && a.generation == generation && now.Sub(a.at) < c.cfg.PositiveTTL {
		a.hits++
		if due = c.renewals != nil && a.hits >= hotHits && !a.renewAt.IsZero() && now.After(a.renewAt); due {
			a.renewAt = time.Time{}
		}
		return a.value, due, true, nil
	}
	if a, ok := c.negative.get(key); ok && a.generation == generation && now.Sub(a.at) < c.cfg.NegativeTTL {
		return value, false, true, a.value
	}
	return value, false, false, nil
}

// fly runs the lookup and tells everybody who waits for it.
func (c *answers[K, V]) fly(ctx context.Context, key K, f *flight[V], lookup func(context.Context) (V, error)) (V, error) {
	f.abandoned = true // unless lookup returns
	defer func() {
		c.mu.Lock()
		if c.flights[key] == f { // and not one that began after a change
			delete(c.flights, key)
		}
		c.mu.Unlock()
		close(f.done)
	}()
	value, err := lookup(ctx)
	c.mu.Lock()
	defer c.mu.Unlock()
	f.abandoned = err != nil && !isCertain(err) && ctx.Err() != nil
	f.value, f.err = c.keepLocked(key, value, err, f.generation)
	return f.value, f.err
}

// giveUp returns what to serve a caller whose patience ended.
func (c *answers[K, V]) giveUp(key K, cause error) (V, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	var zero V
	return c.keepLocked(key, zero, status.New(status.DirectoryDown, cause), c.generation())
}

// keepLocked remembers an answer and returns what to serve: the answer, or an
// older yes when this one is "unknown".
func (c *answers[K, V]) keepLocked(key K, value V, err error, generation uint64) (V, error) {
	now := time.Now()
	var aged *agedError
	switch {
	case c.outdatedLocked(key, generation):
		// Somebody who began after a change of content knows better.
	case err == nil:
		c.negative.remove(key)
		part := renewFrom + rand.Float64()*(renewTo-renewFrom)
		renewAt := now.Add(time.Duration(part * float64(c.cfg.PositiveTTL)))
		c.positive.put(key, &answer[V]{value: value, at: now, generation: generation, renewAt: renewAt})
	case isCertain(err):
		c.positive.remove(key)
		c.negative.put(key, answer[error]{value: err, at: now, generation: generation})
	default:
		// A no of content that is too old is no reason to go back to a yes of
		// content that is older still.
		if a, ok := c.positive.get(key); ok && now.Sub(a.at) < c.cfg.StaleTTL && (!errors.As(err, &aged) || a.generation == generation) {
			c.counts.stale.Add(1)
			return a.value, nil
		}
		c.counts.failed.Add(1)
	}
	return value, err
}

// outdatedLocked reports whether an answer is remembered that is of newer
// content.
func (c *answers[K, V]) outdatedLocked(key K, generation uint64) bool {
	if a, ok := c.positive.get(key); ok && a.generation > generation {
		return true
	}
	a, ok := c.negative.get(key)
	return ok && a.generation > generation
}

// suggest remembers what another question told of key. It serves only while the
// directory does not answer, in place of an older answer or of none.
func (c *answers[K, V]) suggest(key K, value V) {
	if c.cfg.Disabled || c.cfg.StaleTTL <= c.cfg.PositiveTTL {
		return
	}
	generation := c.generation()
	c.mu.Lock()
	defer c.mu.Unlock()
	at := time.Now().Add(-c.cfg.PositiveTTL)
	if _, denied := c.negative.get(key); denied {
		return
	}
	if known, ok := c.positive.get(key); ok && known.at.After(at) {
		return
	}
	c.positive.put(key, &answer[V]{value: value, at: at, generation: generation})
}

// remembered tells what memory holds about key; "" when nothing of use.
func (c *answers[K, V]) remembered(key K) string {
	if c.cfg.Disabled {
		return ""
	}
	generation := c.generation()
	c.mu.Lock()
	defer c.mu.Unlock()
	now := time.Now()
	if a, ok := c.positive.get(key); ok {
		switch age := now.Sub(a.at); {
		case a.generation == generation && age < c.cfg.PositiveTTL:
			return fmt.Sprintf("a yes, %s old", age.Round(time.Second))
		case age < c.cfg.StaleTTL:
			return "a yes that serves only while the directory does not answer"
		}
	}
	if a, ok := c.negative.get(key); ok && a.generation == generation {
		if age := now.Sub(a.at); age < c.cfg.NegativeTTL {
			return fmt.Sprintf("a no, %s old: %v", age.Round(time.Second), a.value)
		}
	}
	return ""
}

// isCertain reports whether the directory answered, with a no or with data
// that make no sense, rather than failed to answer. No error is certain too.
func isCertain(err error) bool {
	switch reason := status.Of(err); reason {
	case status.OK, status.AddressLoop, status.AddressAmbiguous, status.ConfigurationError, status.PolicyDefer:
		return true
	default:
		return reason.Permanent()
	}
}

// recent holds up to max values, dropping the least recently used.
type recent[K comparable, V any] struct {
	max   int
	byKey map[K]*list.Element
	order *list.List // front is the most recent
}

type recentItem[K comparable, V any] struct {
	key   K
	value V
}

func newRecent[K comparable, V any](max int) recent[K, V] {
	return recent[K, V]{max: max, byKey: map[K]*list.Element{}, order: list.New()}
}

func (r *recent[K, V]) get(key K) (value V, ok bool) {
	element, ok := r.byKey[key]
	if !ok {
		return value, false
	}
	r.order.MoveToFront(element)
	return element.Value.(*recentItem[K, V]).value, true
}

func (r *recent[K, V]) put(key K, value V) {
	if element, ok := r.byKey[key]; ok {
		element.Value.(*recentItem[K, V]).value = value
		r.order.MoveToFront(element)
		return
	}
	if r.order.Len() >= r.max {
		oldest := r.order.Back()
		delete(r.byKey, oldest.Value.(*recentItem[K, V]).key)
		r.order.Remove(oldest)
	}
	r.byKey[key] = r.order.PushFront(&recentItem[K, V]{key, value})
}

func (r *recent[K, V]) remove(key K) {
	if element, ok := r.byKey[key]; ok {
		delete(r.byKey, key)
		r.order.Remove(element)
	}
}
