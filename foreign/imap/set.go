package imap

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// Range is a range of UIDs, both ends in it.
type Range struct{ First, Last uint32 }

// Set is a set of UIDs as ranges in the order they were told. A server may say
// one of billions: look up in it rather than walk through it.
type Set []Range

// SetOf returns the set of uids.
func SetOf(uids []uint32) Set {
	sorted := slices.Sorted(slices.Values(uids))
	var s Set
	for _, u := range slices.Compact(sorted) {
		if n := len(s); n > 0 && s[n-1].Last+1 == u {
			s[n-1].Last = u
		} else {
			s = append(s, Range{u, u})
		}
	}
	return s
}

// Contains reports whether uid is in the set. The set must be Sorted.
func (s Set) Contains(uid uint32) bool {
	_, found := slices.BinarySearchFunc(s, uid, func(r Range, uid uint32) int {
		switch {
		case r.Last < uid:
			return -1
		case r.First > uid:
			return 1
		default:
			return 0
		}
	})
	return found
}

// Sorted returns the set with its ranges in order and apart.
func (s Set) Sorted() Set {
	sorted := slices.SortedFunc(slices.Values(s), func(a, b Range) int { return compare(a.First, b.First) })
	var out Set
	for _, r := range sorted {
		if n := len(out); n > 0 && uint64(r.First) <= uint64(out[n-1].Last)+1 {
			out[n-1].Last = max(out[n-1].Last, r.Last)
		} else {
			out = append(out, r)
		}
	}
	return out
}

func compare(a, b uint32) int {
	switch {
	case a < b:
		return -1
	case a > b:
		return 1
	default:
		return 0
	}
}

// Len is how many UIDs the set names, one told twice counted twice.
func (s Set) Len() uint64 {
	var n uint64
	for _, r := range s {
		n += uint64(r.Last) - uint64(r.First) + 1
	}
	return n
}

// List returns the UIDs in the order they were told, at most limit.
func (s Set) List(limit int) ([]uint32, error) {
	if s.Len() > uint64(limit) {
		return nil, fmt.Errorf("%w: a set of %d UIDs where at most %d were asked for", errMalformed, s.Len(), limit)
	}
	uids := make([]uint32, 0, s.Len())
	for _, r := range s {
		for u := uint64(r.First); u <= uint64(r.Last); u++ {
			uids = append(uids, uint32(u))
		}
	}
	return uids, nil
}

// String is the set as commands take it.
func (s Set) String() string {
	var b strings.Builder
	for i, r := range s {
		if i > 0 {
			b.WriteByte(',')
		}
		b.WriteString(strconv.FormatUint(uint64(r.First), 10))
		if r.Last != r.First {
			b.WriteByte(':')
			b.WriteString(strconv.FormatUint(uint64(r.Last), 10))
		}
	}
	return b.String()
}

// ParseSet reads a set as servers say it in VANISHED, APPENDUID and COPYUID.
func ParseSet(text string) (Set, error) {
	var s Set
	for part := range strings.SplitSeq(text, ",") {
		from, to, isRange := strings.Cut(part, ":")
		if !isRange {
			to = from
		}
		first, errFirst := strconv.ParseUint(from, 10, 32)
		last, errLast := strconv.ParseUint(to, 10, 32)
		if errFirst != nil || errLast != nil || first == 0 || last == 0 {
			return nil, fmt.Errorf("%w: UID set %.40q", errMalformed, text)
		}
		s = append(s, Range{uint32(min(first, last)), uint32(max(first, last))})
	}
	return s, nil
}
