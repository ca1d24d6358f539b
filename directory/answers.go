package directory

import (
	"container/list"
	"context"
	"sync"
	"time"

	"github.com/postern-mail/postern/status"
)

// answers remembers the answers to one kind of question. Positive answers are
// served fresh for a while, and stale while the directory does not answer;
// negative ones only fresh. Callers that ask the same question at the same
// time share one lookup. It may be used concurrently.
type answers[K comparable, V any] struct {
	cfg        CacheConfig
	generation func() uint64

	mu       sync.Mutex
	positive recent[K, answer[V]]
	negative recent[K, answer[error]] // its own bound: guessed addresses push out no real ones
	flights  map[K]*flight[V]
}

type answer[V any] struct {
	value      V
	at         time.Time
	generation uint64
}

// flight is a lookup in progress. Its result is valid once done is closed.
type flight[V any] struct {
	done  chan struct{}
	value V
	err   error
	// abandoned means that the caller gave up before there was an answer,
	// which says nothing about the directory.
	abandoned bool
}

func newAnswers[K comparable, V any](cfg CacheConfig, generation func() uint64) *answers[K, V] {
	return &answers[K, V]{
		cfg:        cfg,
		generation: generation,
		positive:   newRecent[K, answer[V]](cfg.MaxEntries),
		negative:   newRecent[K, answer[error]](max(cfg.MaxEntries/4, 1)),
		flights:    map[K]*flight[V]{},
	}
}

// get returns the answer for key, from memory or from lookup. The value may be
// shared with other callers.
func (c *answers[K, V]) get(ctx context.Context, key K, lookup func(context.Context) (V, error)) (V, error) {
	if c.cfg.Disabled {
		return lookup(ctx)
	}
	for {
		c.mu.Lock()
		if value, err, ok := c.freshLocked(key, time.Now()); ok {
			c.mu.Unlock()
			return value, err
		}
		other := c.flights[key]
		if other == nil {
			mine := &flight[V]{done: make(chan struct{})}
			c.flights[key] = mine
			c.mu.Unlock()
			return c.fly(ctx, key, mine, lookup)
		}
		c.mu.Unlock()
		select {
		case <-other.done:
		case <-ctx.Done():
			return c.giveUp(key, ctx.Err())
		}
		if !other.abandoned {
			return other.value, other.err
		}
	}
}

func (c *answers[K, V]) freshLocked(key K, now time.Time) (value V, err error, ok bool) {
	generation := c.generation()
	if a, ok := c.positive.get(key); ok && a.generation == generation && now.Sub(a.at) < c.cfg.PositiveTTL {
		return a.value, nil, true
	}
	if a, ok := c.negative.get(key); ok && a.generation == generation && now.Sub(a.at) < c.cfg.NegativeTTL {
		return value, a.value, true
	}
	return value, nil, false
}

// fly runs the lookup and tells everybody who waits for it.
func (c *answers[K, V]) fly(ctx context.Context, key K, f *flight[V], lookup func(context.Context) (V, error)) (V, error) {
	generation := c.generation()
	f.abandoned = true // unless lookup returns
	defer func() {
		c.mu.Lock()
		delete(c.flights, key)
		c.mu.Unlock()
		close(f.done)
	}()
	value, err := lookup(ctx)
	c.mu.Lock()
	defer c.mu.Unlock()
	f.abandoned = err != nil && !isCertain(err) && ctx.Err() != nil
	f.value, f.err = c.keepLocked(key, value, err, generation)
	return f.value, f.err
}

// giveUp returns what to serve a caller whose patience ended.
func (c *answers[K, V]) giveUp(key K, cause error) (V, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	var zero V
	return c.keepLocked(key, zero, status.New(status.DirectoryDown, cause), 0)
}

// keepLocked remembers an answer and returns what to serve: the answer, or an
// older yes when this one is "unknown".
func (c *answers[K, V]) keepLocked(key K, value V, err error, generation uint64) (V, error) {
	now := time.Now()
	switch {
	case err == nil:
		c.negative.remove(key)
		c.positive.put(key, answer[V]{value, now, generation})
	case isCertain(err):
		c.positive.remove(key)
		c.negative.put(key, answer[error]{err, now, generation})
	default:
		if a, ok := c.positive.get(key); ok && now.Sub(a.at) < c.cfg.StaleTTL {
			return a.value, nil
		}
	}
	return value, err
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
	c.positive.put(key, answer[V]{value, at, generation})
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
