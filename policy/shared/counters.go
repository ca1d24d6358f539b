package shared

import (
	"encoding/binary"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Counters count by key over a sliding window, over all gateways.
//
// The window is cut into slots; a slot has a count of each gateway, which only
// that gateway raises, so that counts of all can be merged in any order and
// none is counted twice. It is safe for concurrent use.
type Counters struct {
	table *Table
	slot  time.Duration
}

// slots are the parts of a window. The oldest is counted by the part of it
// that is still within the window.
const slots = 4

// volatileWindow is up to which length a window's counts are not kept over a
// restart.
const volatileWindow = 10 * time.Minute

// Counters returns the counters of that name; the first call reads them from
// the disk, unless the window is of ten minutes or less: those counts are in
// memory alone. entries bounds the counts that are kept, about five for a key; 0:
// DefaultEntries. A window is not below a second.
func (s *Store) Counters(name string, window time.Duration, entries int) *Counters {
	table := s.Table(name, TableConfig{Merge: mergeCounts, Entries: entries, Volatile: window <= volatileWindow})
	return &Counters{table, max(window, time.Second) / slots}
}

func (c *Counters) key(key string, slot int64) string {
	return key + "\x00" + strconv.FormatInt(slot, 10)
}

func (c *Counters) now() (slot int64, part float64) {
	now := time.Now().UnixNano()
	return now / int64(c.slot), float64(now%int64(c.slot)) / float64(c.slot)
}

// Add counts n more for a key now. n may be negative, to take back what was
// counted in vain; a slot of this gateway does not fall below zero.
func (c *Counters) Add(key string, n int64) {
	slot, _ := c.now()
	expires := time.Unix(0, (slot+slots+1)*int64(c.slot))
	c.table.Update(c.key(key, slot), func(old []byte) ([]byte, time.Time) {
		return addCount(old, c.table.store.node, n), expires
	})
}

// Total returns what was counted for a key within the window, here and, as far
// as they told, at the peers.
func (c *Counters) Total(key string) int64 {
	slot, part := c.now()
	total := 0.0
	for back := range int64(slots + 1) {
		value, _ := c.table.Get(c.key(key, slot-back))
		n := float64(sumCounts(value))
		if back == slots {
			n *= 1 - part
		}
		total += n
	}
	return int64(math.Round(total))
}

// Wait returns the time after which Total of a key is at most most, if nothing
// more is counted for it. Since a slot leaves the window slowly, from its begin
// on, that may be up to a slot longer than the window.
func (c *Counters) Wait(key string, most int64) time.Duration {
	slot, part := c.now()
	var counts [slots + 1]float64 // the newest first
	whole := 0.0
	for back := range counts {
		value, _ := c.table.Get(c.key(key, slot-int64(back)))
		counts[back] = float64(sumCounts(value))
		whole += counts[back]
	}
	free := float64(max(0, most))
	// In each slot to come the oldest goes, and what is left of it at its end is
	// what the newer ones hold.
	for ahead := range counts {
		oldest := counts[slots-ahead]
		whole -= oldest
		if whole > free {
			continue
		}
		at := float64(ahead) // in slots since the begin of this one
		if oldest > free-whole {
			at += 1 - (free-whole)/oldest
		}
		if at <= part {
			return 0
		}
		return time.Duration((at-part)*float64(c.slot)).Round(time.Second) + time.Second
	}
	return slots * c.slot // cannot be: nothing is left when all have gone
}

// Range calls each for the keys that begin with prefix, with their totals,
// until it returns false.
func (c *Counters) Range(prefix string, each func(key string, total int64) bool) {
	last, first := "", true
	c.table.Range(prefix, func(stored string, _ []byte, _ time.Time) bool {
		key, _, _ := strings.Cut(stored, "\x00")
		if !first && key == last {
			return true
		}
		last, first = key, false
		return each(key, c.Total(key))
	})
}

// Forget drops what was counted for a key, here and at the peers.
func (c *Counters) Forget(key string) {
	slot, _ := c.now()
	for back := range int64(slots + 1) {
		c.table.Delete(c.key(key, slot-back))
	}
}

// count is one gateway's part of a slot: what it added, and what it took back.
// Both only grow, which is why they can be merged.
type count struct {
	node        uint64
	added, back uint64
}

// maxNodes bounds the gateways that a count is known of.
const maxNodes = 64

func parseCounts(b []byte) []count {
	in := reader{b: b}
	var all []count
	for len(in.b) > 0 && len(all) < maxNodes {
		c := count{in.uvarint(), in.uvarint(), in.uvarint()}
		if in.failed || len(all) > 0 && c.node <= all[len(all)-1].node {
			return nil // not ours
		}
		all = append(all, c)
	}
	return all
}

func encodeCounts(all []count) []byte {
	b := make([]byte, 0, 16*len(all))
	for _, c := range all {
		b = binary.AppendUvarint(b, c.node)
		b = binary.AppendUvarint(b, c.added)
		b = binary.AppendUvarint(b, c.back)
	}
	return b
}

func find(all []count, node uint64) (int, bool) {
	return slices.BinarySearchFunc(all, node, func(c count, node uint64) int {
		switch {
		case c.node < node:
			return -1
		case c.node > node:
			return 1
		}
		return 0
	})
}

func addCount(old []byte, node uint64, n int64) []byte {
	all := parseCounts(old)
	at, found := find(all, node)
	if !found {
		all = slices.Insert(all, at, count{node: node})
	}
	c := &all[at]
	if n >= 0 {
		c.added += uint64(n)
	} else {
		c.back = min(c.added, c.back+uint64(-n))
	}
	return encodeCounts(all)
}

func sumCounts(value []byte) int64 {
	var sum int64
	for _, c := range parseCounts(value) {
		sum += int64(c.added - min(c.added, c.back))
	}
	return max(0, sum)
}

// mergeCounts takes the higher of each gateway's counts.
func mergeCounts(a, b []byte) []byte {
	all := parseCounts(a)
	for _, theirs := range parseCounts(b) {
		at, found := find(all, theirs.node)
		switch {
		case found:
			all[at].added, all[at].back = max(all[at].added, theirs.added), max(all[at].back, theirs.back)
		case len(all) < maxNodes:
			all = slices.Insert(all, at, theirs)
		}
	}
	return encodeCounts(all)
}
