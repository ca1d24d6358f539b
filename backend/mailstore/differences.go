package mailstore

import (
	"iter"

	"github.com/emersion/go-imap/v2"
)

// Differences yields where two Views of a mailbox differ, in order: with the
// indexes of a message in both that is not in the same state, with -1 for the
// second when it is gone from now, and with -1 for the first when one is in now
// that told has not, below its last. Messages behind that are not yielded. It may
// yield messages that were not stored as one although their state is the same.
//
// What the Views share is passed over as a whole: to find one change among 50 000
// messages is not to look at all of them.
func Differences(told, now View) iter.Seq2[int, int] { return DifferencesAnd(told, now, nil) }

// DifferencesAnd yields also messages, by their index in told, that are the same
// in both.
func DifferencesAnd(told, now View, also func(i int) bool) iter.Seq2[int, int] {
	before, ok := told.(*view)
	after, too := now.(*view)
	if !ok || !too {
		return differencesOf(told, now, also)
	}
	return func(yield func(i, k int) bool) {
		i, k := 0, 0
		a, b := chunks{list: &before.list}, chunks{list: &after.list}
		x, y := a.next(), b.next()
		for len(x) > 0 {
			n := min(len(x), len(y))
			at := 0
			if also == nil && n > 0 && &x[0] == &y[0] {
				at = n // what Views have seen of a chunk stays as it is
			}
			for at < n && x[at].UID == y[at].UID {
				if x[at] == y[at] && (also == nil || !also(i+at)) || yield(i+at, k+at) {
					at++
					continue
				}
				return
			}
			i, k, x, y = i+at, k+at, x[at:], y[at:]
			switch {
			case at < n && x[0].UID > y[0].UID:
				if !yield(-1, k) {
					return
				}
				k, y = k+1, y[1:]
			case at < n || len(y) == 0 && b.isAtEnd() && len(x) > 0:
				if !yield(i, -1) {
					return
				}
				i, x = i+1, x[1:]
			}
			if len(x) == 0 {
				x = a.next()
			}
			if len(y) == 0 {
				y = b.next()
			}
		}
	}
}

// differencesOf is DifferencesAnd for Views that are made of others.
func differencesOf(told, now View, also func(i int) bool) iter.Seq2[int, int] {
	return func(yield func(i, k int) bool) {
		for i, k := 0, 0; i < told.Len(); {
			a, b := i, k
			switch {
			case k == now.Len() || UIDAt(told, i) < UIDAt(now, k):
				b = -1
				i++
			case UIDAt(told, i) > UIDAt(now, k):
				a = -1
				k++
			default:
				i, k = i+1, k+1
				if SameAt(told, a, now, b) && (also == nil || !also(a)) {
					continue
				}
			}
			if !yield(a, b) {
				return
			}
		}
	}
}

// chunks are what a list consists of, one after the other.
type chunks struct {
	list *messages
	k    int
}

// next returns the next messages, none at the end.
func (c *chunks) next() []*Message {
	c.k++
	switch n := len(c.list.chunks); {
	case c.k <= n:
		return c.list.chunks[c.k-1]
	case c.k == n+1:
		return c.list.tail
	}
	return nil
}

// isAtEnd reports whether next has none any more.
func (c *chunks) isAtEnd() bool {
	return c.k > len(c.list.chunks) || c.k == len(c.list.chunks) && len(c.list.tail) == 0
}

// UIDsOf appends the UIDs of messages of a View, from index lo up to hi.
func UIDsOf(dst []imap.UID, v View, lo, hi int) []imap.UID {
	plain, ok := v.(*view)
	if !ok {
		for i := lo; i < hi; i++ {
			dst = append(dst, UIDAt(v, i))
		}
		return dst
	}
	for some := range plain.list.from(lo) {
		for _, m := range some[:min(hi-lo, len(some))] {
			dst = append(dst, m.UID)
		}
		if lo += len(some); lo >= hi {
			break
		}
	}
	return dst
}
