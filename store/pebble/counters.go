package pebble

// counters are the counters that were changed last, as the applier left them:
// those that every batch changes are not looked up each time. Only the applier
// uses it.
type counters map[string]int64

// maxCounters bounds what is remembered.
const maxCounters = 64

func (c counters) note(key []byte, n int64) {
	if len(c) >= maxCounters {
		clear(c)
	}
	c[string(key)] = n
}

// forget is for a key that is written by other means.
func (c counters) forget(key []byte) {
	if len(c) > 0 {
		delete(c, string(key))
	}
}

// forgetRange is forget for the keys with lo <= key < hi.
func (c counters) forgetRange(lo, hi []byte) {
	for key := range c {
		if key >= string(lo) && key < string(hi) {
			delete(c, key)
		}
	}
}

// forgetAll is for when what was noted may not be what is stored.
func (c counters) forgetAll() { clear(c) }
