package lockout

import (
	"container/list"
	"time"
)

// table keeps records by key, the least recently touched first, and what a
// store does not have yet. It is not safe for concurrent use.
type table struct {
	kind    byte // in the store; 0 when it is not kept there
	entries map[string]*list.Element
	order   *list.List // of *entry
	dirty   map[string]struct{}
}

type entry struct {
	key string
	*record
	stored bool // the store has a record of the key
}

func newTable(kind byte) *table {
	return &table{kind: kind, entries: map[string]*list.Element{}, order: list.New(), dirty: map[string]struct{}{}}
}

// get returns the record of key, or nil. It may be read, not changed.
func (t *table) get(key string) *record {
	if e, found := t.entries[key]; found {
		return e.Value.(*entry).record
	}
	return nil
}

// touch returns the record of key to be changed, making room for a new one.
func (t *table) touch(key string, limit int) *record {
	if e, found := t.entries[key]; found {
		t.order.MoveToBack(e)
		t.mark(key)
		return e.Value.(*entry).record
	}
	for t.order.Len() >= limit {
		t.remove(t.order.Front())
	}
	return t.put(key, &record{})
}

func (t *table) put(key string, r *record) *record {
	stored := false
	if _, pending := t.dirty[key]; pending {
		stored = true // what was forgotten is still to be deleted there
	}
	t.entries[key] = t.order.PushBack(&entry{key, r, stored})
	t.mark(key)
	return r
}

func (t *table) mark(key string) {
	if t.kind != 0 {
		t.dirty[key] = struct{}{}
	}
}

// forget drops the record of key, and reports whether there was one.
func (t *table) forget(key string) bool {
	e, found := t.entries[key]
	if found {
		t.remove(e)
	}
	return found
}

func (t *table) remove(e *list.Element) {
	gone := e.Value.(*entry)
	delete(t.entries, gone.key)
	t.order.Remove(e)
	if gone.stored {
		t.mark(gone.key)
	} else {
		delete(t.dirty, gone.key)
	}
}

// expire drops records that were not touched for so long.
func (t *table) expire(after time.Duration, now int64) {
	before := now - after.Milliseconds()
	for e := t.order.Front(); e != nil && e.Value.(*entry).last <= before; e = t.order.Front() {
		t.remove(e)
	}
}

// write is a record for the store; a nil value is to be deleted.
type write struct {
	table *table
	key   string
	value []byte
}

// load takes in a record as the store has it.
func (t *table) load(key string, r *record) {
	t.entries[key] = t.order.PushBack(&entry{key, r, true})
}

// take hands out at most n of the records that the store does not have as
// they are, and counts them as stored.
func (t *table) take(n int) []write {
	var all []write
	for key := range t.dirty {
		if len(all) >= n {
			break
		}
		w := write{table: t, key: key}
		if e, found := t.entries[key]; found {
			present := e.Value.(*entry)
			w.value, present.stored = present.encode(), true
		}
		delete(t.dirty, key)
		all = append(all, w)
	}
	return all
}

// giveBack takes back what could not be written. A key may have come or gone
// since, which shows when it is taken again.
func (t *table) giveBack(key string) { t.dirty[key] = struct{}{} }
