package imapd

import "slices"

// paged returns the messages of a UID FETCH with PARTIAL (RFC 9394 section
// 3.3): a page of those that it would answer, in ascending order. since, if not
// 0, leaves out what has not changed after it.
func (g *ground) paged(spans []span, r partialRange, since uint64) []span {
	wanted := func(i int) bool { return since == 0 || g.message(i).ModSeq > since }
	n := 0
	for _, sp := range spans {
		for i := sp.lo; i < sp.hi; i++ {
			if wanted(i) {
				n++
			}
		}
	}
	lo, hi := r.of(n)
	var page []span
	at := 0
	for _, sp := range spans {
		for i := sp.lo; i < sp.hi && at < hi; i++ {
			if !wanted(i) {
				continue
			}
			if at++; at <= lo {
				continue
			}
			page = append(page, span{i, i + 1})
		}
	}
	return slices.Clip(merge(page))
}
