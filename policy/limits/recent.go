package limits

import "container/list"

// recent is a map of bounded size that forgets what was not used for longest.
// It is not safe for concurrent use.
type recent[K comparable, V any] struct {
	limit   int
	order   *list.List // of *entry[K, V], the one used last in front
	entries map[K]*list.Element
}

type entry[K comparable, V any] struct {
	key   K
	value V
}

func newRecent[K comparable, V any](limit int) *recent[K, V] {
	return &recent[K, V]{limit: limit, order: list.New(), entries: make(map[K]*list.Element)}
}

// get returns the value of key, which is then the one used last; nil without
// one. The pointer is good until the next call of get or add.
func (r *recent[K, V]) get(key K) *V {
	e, ok := r.entries[key]
	if !ok {
		return nil
	}
	r.order.MoveToFront(e)
	return &e.Value.(*entry[K, V]).value
}

// add makes room for key, which is not there yet, and returns its value, and
// what had to go for it.
func (r *recent[K, V]) add(key K) (added, forgotten *V) {
	e := &entry[K, V]{key: key}
	if len(r.entries) >= r.limit {
		// The oldest element is used again: a table that is full allocates
		// nothing.
		last := r.order.Back()
		old := last.Value.(*entry[K, V])
		delete(r.entries, old.key)
		gone := old.value
		*old, forgotten, e = *e, &gone, old
		r.order.MoveToFront(last)
		r.entries[key] = last
		return &e.value, forgotten
	}
	r.entries[key] = r.order.PushFront(e)
	return &e.value, nil
}

// drop forgets key and reports whether it was there.
func (r *recent[K, V]) drop(key K) bool {
	e, ok := r.entries[key]
	if ok {
		r.order.Remove(e)
		delete(r.entries, key)
	}
	return ok
}

func (r *recent[K, V]) size() int { return len(r.entries) }

// each calls f with every value until it returns false, the one used last first.
func (r *recent[K, V]) each(f func(K, *V) bool) {
	for e := r.order.Front(); e != nil; {
		next := e.Next() // f may drop its own
		at := e.Value.(*entry[K, V])
		if !f(at.key, &at.value) {
			return
		}
		e = next
	}
}
