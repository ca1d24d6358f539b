package imapd

import (
	"cmp"
	"slices"
	"strconv"

	"github.com/emersion/go-imap/v2"

	"github.com/postern-mail/postern/backend/mailstore"
)

// star is "*": the largest number in use.
const star = 0

// numRange is one element of a sequence set, as the client wrote it.
type numRange struct {
	first, last uint32
	// saved stands for "$", the result that SEARCH saved (RFC 5182). It is the
	// only element of its set.
	saved bool
}

// numSet is a sequence set of sequence numbers or UIDs.
type numSet []numRange

// isSaved reports whether the set is "$".
func (s numSet) isSaved() bool { return len(s) == 1 && s[0].saved }

// span is a run of messages by index, without its end.
type span struct{ lo, hi int }

// sequence resolves a set of sequence numbers against a mailbox of n messages
// into sorted, disjoint spans. A number above n is a syntax error (RFC 3501
// section 6.4.8 allows it for UIDs only); "*" in an empty mailbox is nothing.
func (s numSet) sequence(n int) ([]span, error) {
	spans := make([]span, 0, len(s))
	for _, r := range s {
		first, last := r.first, r.last
		if n == 0 && (first == star || last == star) {
			continue
		}
		if first == star {
			first = uint32(n)
		}
		if last == star {
			last = uint32(n)
		}
		if first > last {
			first, last = last, first
		}
		if uint64(last) > uint64(n) {
			return nil, syntax("no message with this sequence number")
		}
		spans = append(spans, span{int(first) - 1, int(last)})
	}
	return merge(spans), nil
}

// present resolves a set of sequence numbers as a search key: a number above n
// is of no message, and found by none. Programs search for "n:*" behind what
// they know, and read BAD as a broken server.
func (s numSet) present(n int) []span {
	spans := make([]span, 0, len(s))
	for _, r := range s {
		first, last := r.first, r.last
		if first == star {
			first = uint32(n)
		}
		if last == star {
			last = uint32(n)
		}
		if first > last {
			first, last = last, first
		}
		if lo, hi := max(int64(first), 1), min(int64(last), int64(n)); lo <= hi {
			spans = append(spans, span{int(lo) - 1, int(hi)})
		}
	}
	return merge(spans)
}

// uids resolves a set of UIDs into sorted, disjoint spans; UIDs that no
// message has are left out.
func (s numSet) uids(v mailstore.View) []span {
	spans := make([]span, 0, len(s))
	var largest uint32
	if n := v.Len(); n > 0 {
		largest = uint32(v.At(n - 1).UID)
	}
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
		lo, _ := v.Find(imap.UID(first))
		hi, found := v.Find(imap.UID(last))
		if found {
			hi++
		}
		if lo < hi {
			spans = append(spans, span{lo, hi})
		}
	}
	return merge(spans)
}

func merge(spans []span) []span {
	if len(spans) < 2 {
		return spans
	}
	slices.SortFunc(spans, func(a, b span) int { return cmp.Compare(a.lo, b.lo) })
	out := spans[:1]
	for _, s := range spans[1:] {
		if top := &out[len(out)-1]; s.lo <= top.hi {
			top.hi = max(top.hi, s.hi)
		} else {
			out = append(out, s)
		}
	}
	return out
}

// count is the number of messages in spans.
func count(spans []span) int {
	n := 0
	for _, s := range spans {
		n += s.hi - s.lo
	}
	return n
}

// contains reports whether index i lies in one of the sorted spans.
func contains(spans []span, i int) bool {
	if len(spans) == 1 { // 1:*
		return spans[0].lo <= i && i < spans[0].hi
	}
	at, found := slices.BinarySearchFunc(spans, i, func(s span, i int) int { return cmp.Compare(s.lo, i) })
	return found || at > 0 && i < spans[at-1].hi
}

// appendSet appends numbers as a sequence set, in the order given, runs as
// ranges. nums must not be empty.
func appendSet[N ~uint32](dst []byte, nums []N) []byte {
	for i := 0; i < len(nums); {
		run := i + 1
		for run < len(nums) && nums[run] == nums[run-1]+1 {
			run++
		}
		if i > 0 {
			dst = append(dst, ',')
		}
		dst = strconv.AppendUint(dst, uint64(nums[i]), 10)
		if run > i+1 {
			dst = append(dst, ':')
			dst = strconv.AppendUint(dst, uint64(nums[run-1]), 10)
		}
		i = run
	}
	return dst
}
