package dns

import (
	"container/list"
	"time"
)

// entryOctets is what an entry costs beside its message.
const entryOctets = 400

// cache remembers results until they expire, as many as fit; those not used
// for longest go first. It is not safe for concurrent use.
type cache struct {
	limit   int
	octets  int
	entries map[key]*list.Element
	recent  *list.List // of *entry, the last used first
}

type entry struct {
	key    key
	result result
	octets int
}

func newCache(octets int) *cache {
	return &cache{limit: octets, entries: make(map[key]*list.Element), recent: list.New()}
}

func (c *cache) get(k key, now time.Time) (result, bool) {
	e := c.entries[k]
	if e == nil {
		return result{}, false
	}
	if !now.Before(e.Value.(*entry).result.expires) {
		c.drop(e)
		return result{}, false
	}
	c.recent.MoveToFront(e)
	return e.Value.(*entry).result, true
}

func (c *cache) put(k key, r result, now time.Time) {
	if e := c.entries[k]; e != nil {
		c.drop(e)
	}
	// Records take a few times the room in memory that they take on the wire.
	octets := entryOctets + 4*r.octets
	if !now.Before(r.expires) || octets > c.limit {
		return
	}
	c.octets += octets
	c.entries[k] = c.recent.PushFront(&entry{k, r, octets})
	for c.octets > c.limit {
		c.drop(c.recent.Back())
	}
}

func (c *cache) drop(e *list.Element) {
	dropped := c.recent.Remove(e).(*entry)
	delete(c.entries, dropped.key)
	c.octets -= dropped.octets
}
