package imapd

import (
	"strconv"
)

// searchReturn is a set of what RETURN asks for.
type searchReturn uint16

const (
	returnMin searchReturn = 1 << iota
	returnMax
	returnAll
	returnCount
	returnPartial
	returnSave
	returnUpdate
	returnContext
	returnRelevancy
)

var returnWords = map[string]searchReturn{
	"MIN": returnMin, "MAX": returnMax, "ALL": returnAll, "COUNT": returnCount, "SAVE": returnSave, "PARTIAL": returnPartial,
	"UPDATE": returnUpdate, "CONTEXT": returnContext, "RELEVANCY": returnRelevancy,
}

// returnOptions is RETURN (...) (RFC 9051 section 6.4.4).
type returnOptions struct {
	given   bool
	want    searchReturn
	partial partialRange
	// items are behind UPDATE: what is to be told of new messages (RFC 5465
	// section 7).
	items fetchArgs
}

func (r *returnOptions) has(option searchReturn) bool { return r.want&option != 0 }

// returnOptions reads the list behind RETURN. An empty one asks for ALL.
func (p *parser) returnOptions(r *returnOptions) error {
	r.given = true
	err := p.list(func() error {
		word, err := p.word()
		if err != nil {
			return err
		}
		want, known := returnWords[word]
		switch {
		case !known:
			return syntax("unknown return option")
		case want == returnPartial && r.has(returnPartial):
			return syntax("PARTIAL is given twice")
		case want == returnPartial:
			if err := p.sp(); err != nil {
				return err
			}
			if r.partial, err = p.partialRange(); err != nil {
				return err
			}
		}
		r.want |= want
		if want == returnUpdate && p.followsFold(" (") {
			p.i++
			return p.list(func() error { return p.fetchItem(&r.items, false) })
		}
		return nil
	})
	if err != nil {
		return err
	}
	if r.has(returnPartial) && r.has(returnAll) { // RFC 9394 section 3.1
		return syntax("PARTIAL and ALL exclude each other")
	}
	if r.want == 0 {
		r.want = returnAll
	}
	return nil
}

// partialRange is a range of results, the first being 1 (RFC 9394).
type partialRange struct {
	first, last uint32 // as written
	fromEnd     bool   // both have a minus: the last result is -1
}

// partialRange reads a range. It has no "*", and the same sign at both ends.
func (p *parser) partialRange() (r partialRange, err error) {
	r.fromEnd = p.take('-')
	if r.first, err = p.partialNumber(); err != nil {
		return r, err
	}
	if err = p.want(':'); err != nil {
		return r, err
	}
	if p.take('-') != r.fromEnd {
		return r, syntax("a range from both ends")
	}
	r.last, err = p.partialNumber()
	return r, err
}

func (p *parser) partialNumber() (uint32, error) {
	n, err := p.number()
	if err == nil && n == 0 {
		err = syntax("results are counted from 1")
	}
	return n, err
}

// of returns which of n results lie in the range.
func (r partialRange) of(n int) (lo, hi int) {
	near, far := uint64(min(r.first, r.last)), uint64(max(r.first, r.last))
	all := uint64(n)
	if near > all {
		return 0, 0
	}
	far = min(far, all)
	if r.fromEnd {
		return int(all - far), int(all - near + 1)
	}
	return int(near - 1), int(far)
}

// reach is how many results, from the end that the range counts from, have to
// be known to answer it.
func (r partialRange) reach() uint32 { return max(r.first, r.last) }

// append writes the range as it was given.
func (r partialRange) append(dst []byte) []byte {
	sign := ""
	if r.fromEnd {
		sign = "-"
	}
	dst = strconv.AppendUint(append(dst, sign...), uint64(r.first), 10)
	dst = append(append(dst, ':'), sign...)
	return strconv.AppendUint(dst, uint64(r.last), 10)
}
