package shared

import (
	"container/heap"
	"crypto/sha256"
	"encoding/hex"
	"slices"
	"strings"
	"sync"
	"time"
)

// TableConfig says how a table behaves.
type TableConfig struct {
	// Merge merges what two gateways wrote; nil: the later write wins.
	Merge Merge
	// Entries is the most entries the table holds, deleted ones among them;
	// above it those go that would end soonest. 0: 100,000.
	Entries int
	// Local tables are not told to peers.
	Local bool
	// Volatile tables are not written to the store: what ends so soon is not
	// worth a disk.
	Volatile bool
}

// DefaultEntries bounds a table that says nothing else.
const DefaultEntries = 100_000

// Table holds values by key, in memory, written to the store behind the
// caller's back. It is safe for concurrent use, and no method waits for a disk
// or for the network.
type Table struct {
	store *Store
	name  string

	mu      sync.Mutex
	cfg     TableConfig
	entries map[string]*entry
	order   expiry
	dirty   map[string]struct{} // keys the store does not have as they are
	evicted uint64
}

// entry is one key of a table.
type entry struct {
	key string
	record
	place  int  // in the order
	stored bool // the store has a record of the key
}

// maxKey is the longest key that is kept as it is.
const maxKey = 900

// fold makes a key that the store takes of one that is too long.
func fold(key string) string {
	if len(key) <= maxKey {
		return key
	}
	sum := sha256.Sum256([]byte(key))
	return strings.ToValidUTF8(key[:maxKey-80], "") + "#" + hex.EncodeToString(sum[:])
}

// Get returns the value of a key, which must not be changed.
func (t *Table) Get(key string) (value []byte, found bool) {
	key = fold(key)
	t.mu.Lock()
	defer t.mu.Unlock()
	e := t.aliveLocked(key, time.Now().UnixMilli())
	if e == nil {
		return nil, false
	}
	return e.value, true
}

// aliveLocked returns an entry that has a value and has not ended.
func (t *Table) aliveLocked(key string, now int64) *entry {
	if e := t.entries[key]; e != nil && e.value != nil && e.expires > now {
		return e
	}
	return nil
}

// Put sets a key's value until the time given. The table keeps the slice.
func (t *Table) Put(key string, value []byte, expires time.Time) {
	t.Update(key, func([]byte) ([]byte, time.Time) { return value, expires })
}

// Update sets a key's value by the one there is, nil for none, which must not be
// changed. To return nil leaves things as they are. change runs under the
// table's lock and must return soon. Where the table has a Merge the new value
// must be what the merge of it with the old one is.
func (t *Table) Update(key string, change func(old []byte) (value []byte, expires time.Time)) {
	key = fold(key)
	now := time.Now().UnixMilli()
	t.mu.Lock()
	defer t.mu.Unlock()
	var old []byte
	if e := t.aliveLocked(key, now); e != nil {
		old = e.value
	}
	value, expires := change(old)
	if value == nil || len(value) > MaxValue || expires.UnixMilli() <= now {
		return
	}
	r := record{stamp: t.store.clock.next(), expires: expires.UnixMilli(), value: value}
	if e := t.entries[key]; e != nil {
		r.epoch = e.epoch
	}
	t.setLocked(key, r, nil)
}

// keepDeleted is how long a deletion is remembered at least, so that a peer that
// was away does not bring back what was deleted.
const keepDeleted = 7 * 24 * time.Hour

// Delete removes a key, here and at the peers, and reports whether it had a
// value.
func (t *Table) Delete(key string) bool {
	key = fold(key)
	now := time.Now()
	t.mu.Lock()
	defer t.mu.Unlock()
	e := t.aliveLocked(key, now.UnixMilli())
	if e == nil {
		return false
	}
	stamp := t.store.clock.next()
	t.setLocked(key, record{stamp, stamp, max(e.expires, now.Add(keepDeleted).UnixMilli()), nil}, nil)
	return true
}

// Range calls each for the keys that begin with prefix, in order, until it
// returns false. It sees the table as it was when it was called, and each may
// use the table.
func (t *Table) Range(prefix string, each func(key string, value []byte, expires time.Time) bool) {
	type pair struct {
		key   string
		value []byte
		until int64
	}
	now := time.Now().UnixMilli()
	t.mu.Lock()
	all := make([]pair, 0, len(t.entries))
	for key, e := range t.entries {
		if e.value != nil && e.expires > now && strings.HasPrefix(key, prefix) {
			all = append(all, pair{key, e.value, e.expires})
		}
	}
	t.mu.Unlock()
	slices.SortFunc(all, func(a, b pair) int { return strings.Compare(a.key, b.key) })
	for _, p := range all {
		if !each(p.key, p.value, time.UnixMilli(p.until)) {
			return
		}
	}
}

// TableStatus is how a table does.
type TableStatus struct {
	Name    string
	Entries int // deleted ones among them
	Limit   int
	Evicted uint64 // since the start, to stay below the limit
}

// Status tells how the table does.
func (t *Table) Status() TableStatus {
	t.mu.Lock()
	defer t.mu.Unlock()
	return TableStatus{t.name, len(t.entries), t.cfg.Entries, t.evicted}
}

// Name returns the table's name.
func (t *Table) Name() string { return t.name }

// setLocked sets what a key holds, makes room for it, and has the store and the
// peers told, but for the one it came from.
func (t *Table) setLocked(key string, r record, from *session) {
	e := t.entries[key]
	if e == nil {
		for len(t.entries) >= t.cfg.Entries {
			t.evictLocked()
		}
		_, pending := t.dirty[key] // what was forgotten is still to be deleted there
		e = &entry{key: key, record: r, stored: pending}
		t.entries[key] = e
		heap.Push(&t.order, e)
	} else {
		e.record = r
		heap.Fix(&t.order, e.place)
	}
	if !t.cfg.Volatile {
		t.dirty[key] = struct{}{}
	}
	if !t.cfg.Local {
		t.store.changed(t, key, from)
	}
}

// evictLocked drops what would end soonest.
func (t *Table) evictLocked() {
	t.evicted++
	t.store.full(t.name, t.cfg.Entries)
	t.dropLocked(t.order[0])
}

// dropLocked forgets an entry, without a word to the peers.
func (t *Table) dropLocked(e *entry) {
	heap.Remove(&t.order, e.place)
	delete(t.entries, e.key)
	if e.stored {
		t.dirty[e.key] = struct{}{}
	} else {
		delete(t.dirty, e.key)
	}
}

// expireLocked drops what has ended.
func (t *Table) expireLocked(now int64) {
	for len(t.order) > 0 && t.order[0].expires <= now {
		t.dropLocked(t.order[0])
	}
}

// merge takes in what a peer told. It reports whether that changed anything.
func (t *Table) merge(key string, theirs record, from *session) bool {
	if len(key) > maxKey || theirs.expires <= time.Now().UnixMilli() {
		return false
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	e := t.entries[key]
	if e == nil {
		t.setLocked(key, theirs, from)
		return true
	}
	r := join(t.cfg.Merge, e.record, theirs)
	if len(r.value) > MaxValue || r.equal(e.record) {
		return false
	}
	if r.equal(theirs) {
		t.setLocked(key, r, from)
	} else {
		t.setLocked(key, r, nil) // it is new to the peer, too
	}
	return true
}

// expiry orders entries by their end.
type expiry []*entry

// Len implements heap.Interface.
func (x expiry) Len() int { return len(x) }

// Less implements heap.Interface.
func (x expiry) Less(i, j int) bool { return x[i].expires < x[j].expires }

// Swap implements heap.Interface.
func (x expiry) Swap(i, j int) {
	x[i], x[j] = x[j], x[i]
	x[i].place, x[j].place = i, j
}

// Push implements heap.Interface.
func (x *expiry) Push(e any) {
	e.(*entry).place = len(*x)
	*x = append(*x, e.(*entry))
}

// Pop implements heap.Interface.
func (x *expiry) Pop() any {
	last := len(*x) - 1
	e := (*x)[last]
	(*x)[last] = nil
	*x = (*x)[:last]
	return e
}
