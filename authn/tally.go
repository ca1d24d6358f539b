package authn

import (
	"container/list"
	"sync"
	"time"
)

// tally counts events per key inside a window that starts with a key's first
// event. It holds at most limit keys and drops the oldest first: a stranger
// can make it forget, never grow.
type tally[K comparable] struct {
	window time.Duration
	limit  int

	mu      sync.Mutex
	entries map[K]*list.Element // of tallied[K]
	order   *list.List          // oldest window first
}

type tallied[K comparable] struct {
	key   K
	count int
	since time.Time
}

func newTally[K comparable](window time.Duration, limit int) *tally[K] {
	return &tally[K]{window: window, limit: limit, entries: map[K]*list.Element{}, order: list.New()}
}

// count tells how many events of key the running window has.
func (t *tally[K]) count(key K, now time.Time) int {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.expireLocked(now)
	if e, found := t.entries[key]; found {
		return e.Value.(*tallied[K]).count
	}
	return 0
}

// add counts one event of key.
func (t *tally[K]) add(key K, now time.Time) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.expireLocked(now)
	if e, found := t.entries[key]; found {
		e.Value.(*tallied[K]).count++
		return
	}
	if t.order.Len() >= t.limit {
		t.removeLocked(t.order.Front())
	}
	t.entries[key] = t.order.PushBack(&tallied[K]{key: key, count: 1, since: now})
}

// forget drops the events of key.
func (t *tally[K]) forget(key K) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if e, found := t.entries[key]; found {
		t.removeLocked(e)
	}
}

func (t *tally[K]) expireLocked(now time.Time) {
	for e := t.order.Front(); e != nil && now.Sub(e.Value.(*tallied[K]).since) >= t.window; e = t.order.Front() {
		t.removeLocked(e)
	}
}

func (t *tally[K]) removeLocked(e *list.Element) {
	delete(t.entries, e.Value.(*tallied[K]).key)
	t.order.Remove(e)
}
