package imapd

import (
	"cmp"
	"slices"
)

// uidRange is a run of UIDs, both ends included.
type uidRange struct{ first, last uint32 }

// ranges returns a set as sorted, disjoint runs; "*" stands for largest.
func (s numSet) ranges(largest uint32) []uidRange {
	runs := make([]uidRange, 0, len(s))
	for _, r := range s {
		first, last := r.first, r.last
		if first == star {
			first = largest
		}
		if last == star {
			last = largest
		}
		if first > last {
			first, last = last, first
		}
		runs = append(runs, uidRange{first, last})
	}
	slices.SortFunc(runs, func(a, b uidRange) int { return cmp.Compare(a.first, b.first) })
	out := runs[:0]
	for _, r := range runs {
		if n := len(out); n > 0 && uint64(r.first) <= uint64(out[n-1].last)+1 {
			out[n-1].last = max(out[n-1].last, r.last)
		} else {
			out = append(out, r)
		}
	}
	return out
}

// cutBelow drops what lies at or below uid.
func cutBelow(runs []uidRange, uid uint32) []uidRange {
	for len(runs) > 0 && runs[0].last <= uid {
		runs = runs[1:]
	}
	if len(runs) > 0 && runs[0].first <= uid {
		runs = slices.Clone(runs)
		runs[0].first = uid + 1
	}
	return runs
}

// cutAbove drops what lies above uid.
func cutAbove(runs []uidRange, uid uint32) []uidRange {
	for len(runs) > 0 && runs[len(runs)-1].first > uid {
		runs = runs[:len(runs)-1]
	}
	if n := len(runs); n > 0 && runs[n-1].last > uid {
		runs = slices.Clone(runs)
		runs[n-1].last = uid
	}
	return runs
}

// ascends reports whether a set without "*" names its numbers in ascending
// order, each once.
func (s numSet) ascends() bool {
	var last uint32
	for _, r := range s {
		if r.first <= last || r.last < r.first {
			return false
		}
		last = r.last
	}
	return true
}

// size is how many numbers a set that ascends names.
func (s numSet) size() uint64 {
	var n uint64
	for _, r := range s {
		n += uint64(r.last-r.first) + 1
	}
	return n
}

// setWalk steps through the numbers of a set that ascends.
type setWalk struct {
	left numSet
	at   uint32 // number to come of left[0]; 0 for its first
}

func (s numSet) walk() *setWalk { return &setWalk{left: s} }

// next returns the next number, and false at the end.
func (w *setWalk) next() (uint32, bool) {
	if len(w.left) == 0 {
		return 0, false
	}
	r := w.left[0]
	n := max(w.at, r.first)
	if n == r.last {
		w.left, w.at = w.left[1:], 0
	} else {
		w.at = n + 1
	}
	return n, true
}
