package imapd

import (
	"context"
	"errors"
	"slices"
	"time"

	"github.com/emersion/go-imap/v2"
)

// search is SEARCH and UID SEARCH (RFC 9051 section 6.4.4).
func (s *session) search(ctx context.Context, a searchArgs) (result, error) {
	if err := s.mayUpdate(&a); err != nil {
		return result{}, err
	}
	found, err := s.searched(ctx, &a)
	if err != nil {
		s.failedSave(&a, err)
		return result{}, err
	}
	if a.returns.given || s.rev2 {
		if !a.returns.given {
			a.returns.want = returnAll // RFC 9051 section 6.4.4: ESEARCH is the only answer
		}
		s.writeESearch(&a, found)
	} else {
		s.writeSearch(&a, found)
	}
	s.update(&a, nil, found)
	return s.save(&a, found), nil
}

// ready makes a program ready to run over the selected mailbox.
func (s *session) ready(a *searchArgs) error {
	if err := s.mayCharset(a); err != nil {
		return err
	}
	if a.modSeq {
		s.enableCondstore()
	}
	a.key.prepare(&s.box.ground, time.Now())
	return s.bound(a)
}

// mayCharset returns why the charset of the texts cannot be taken.
func (s *session) mayCharset(a *searchArgs) error {
	// RFC 9755 section 3; SORT and THREAD have to name one, which is to be UTF-8.
	if s.accepts && a.charset.given && !(a.whole && a.charset.isUTF8()) {
		return syntax("CHARSET after ENABLE UTF8=ACCEPT")
	}
	return a.charset.err()
}

// searchAll runs a program over the selected mailbox.
func (s *session) searchAll(ctx context.Context, a *searchArgs) ([]int, error) {
	if err := s.ready(a); err != nil {
		return nil, err
	}
	return s.searchGround(ctx, &s.box.ground, &a.key, reach{})
}

// searched is searchAll as far as the answer needs it.
func (s *session) searched(ctx context.Context, a *searchArgs) ([]int, error) {
	first, last := a.returns.ends()
	if first.limit == 0 {
		return s.searchAll(ctx, a)
	}
	if err := s.ready(a); err != nil {
		return nil, err
	}
	g := &s.box.ground
	found, err := s.searchGround(ctx, g, &a.key, first)
	if err != nil || last.limit == 0 || len(found) == 0 {
		return found, err
	}
	more, err := s.searchGround(ctx, g, &a.key, last)
	if len(more) == 1 && more[0] != found[0] {
		found = append(found, more[0])
	}
	return found, err
}

// ends says what to search for when not all results are told: the first or the
// last ones, or for MIN with MAX one of both. A limit of 0 in first means all.
func (r *returnOptions) ends() (first, last reach) {
	switch r.want &^ (returnSave | returnContext) {
	case returnMin:
		return reach{limit: 1}, reach{}
	case returnMax:
		return reach{limit: 1, backward: true}, reach{}
	case returnMin | returnMax:
		return reach{limit: 1}, reach{limit: 1, backward: true}
	case returnPartial:
		return reach{limit: int(r.partial.reach()), backward: r.partial.fromEnd}, reach{}
	}
	return reach{}, reach{}
}

// save keeps the result for "$" (RFC 9051 section 6.4.4.1).
func (s *session) save(a *searchArgs, found []int) result {
	if !a.returns.has(returnSave) {
		return result{}
	}
	about := a.returns.about(found)
	slices.Sort(about)
	s.box.saved = s.box.runsOf(slices.Compact(about))
	return result{text: "Completed, result saved"}
}

// failedSave empties "$" when a search that was to set it is answered with NO.
func (s *session) failedSave(a *searchArgs, err error) {
	var bad *syntaxError
	if a.returns.has(returnSave) && !errors.As(err, &bad) {
		s.box.saved = nil
	}
}

// about are the messages that "$" and MODSEQ are about (RFC 9051 section
// 6.4.4.4, RFC 7162 section 3.1.10, RFC 9394 section 3.2): those told, or all
// where the answer tells of all. The caller owns the result.
func (r *returnOptions) about(found []int) []int {
	if len(found) == 0 || r.want&(returnMin|returnMax|returnPartial) == 0 || r.want&(returnAll|returnCount) != 0 {
		return slices.Clone(found)
	}
	var about []int
	if r.has(returnMin) {
		about = append(about, found[0])
	}
	if r.has(returnPartial) {
		lo, hi := r.partial.of(len(found))
		about = append(about, found[lo:hi]...)
	}
	if r.has(returnMax) {
		about = append(about, found[len(found)-1])
	}
	return about
}

// writeSearch writes the response without RETURN.
func (s *session) writeSearch(a *searchArgs, found []int) {
	s.w.str("* SEARCH")
	s.writeNumbers(a, found)
	s.w.line("")
}

// writeNumbers writes the numbers of messages, and their MODSEQ if that was
// searched for (RFC 7162 section 3.1.5).
func (s *session) writeNumbers(a *searchArgs, found []int) {
	number := func(i int) uint32 { return s.box.number(i, a.uid) }
	if told := s.box.told; a.uid && len(found) > told.Len()/8 { // in whatever order: messages lie far apart in memory
		uids := make([]uint32, told.Len())
		for i := range uids {
			uids[i] = uint32(told.At(i).UID)
		}
		number = func(i int) uint32 { return uids[i] }
	}
	for _, i := range found {
		s.w.char(' ')
		s.w.num(uint64(number(i)))
		if len(s.w.buf) >= flushOctets {
			_ = s.w.flush() // the error sticks
		}
	}
	if a.modSeq && len(found) > 0 {
		s.w.str(" (MODSEQ ")
		s.w.num(s.box.highest(found))
		s.w.char(')')
	}
}

// highest is the highest MODSEQ of some messages.
func (g *ground) highest(found []int) uint64 {
	var top uint64
	for _, i := range found {
		top = max(top, g.message(i).ModSeq)
	}
	return top
}

// writeESearch writes the response of RETURN (RFC 9051 section 7.3.4). With
// SAVE alone there is none.
func (s *session) writeESearch(a *searchArgs, found []int) {
	if a.returns.want == returnSave {
		return
	}
	w := &s.w
	w.str("* ESEARCH (TAG ")
	w.text(s.tag)
	w.char(')')
	if a.uid {
		w.str(" UID")
	}
	s.writeReturned(&s.box.ground, a, found)
	w.line("")
}

// writeReturned writes what RETURN asks for. found are indexes in g, in the
// order of the result; items about messages are left out when there are none.
func (s *session) writeReturned(g *ground, a *searchArgs, found []int) {
	w, r := &s.w, &a.returns
	if n := len(found); n > 0 {
		if r.has(returnMin) {
			w.str(" MIN ")
			w.num(uint64(g.number(found[0], a.uid)))
		}
		if r.has(returnMax) {
			w.str(" MAX ")
			w.num(uint64(g.number(found[n-1], a.uid)))
		}
		if r.has(returnAll) {
			w.str(" ALL ")
			w.raw(appendSet(nil, g.numbers(found, a.uid)))
		}
	}
	if r.has(returnPartial) {
		s.writePartial(g, a, found)
	}
	if r.has(returnCount) {
		w.str(" COUNT ")
		w.num(uint64(len(found)))
	}
	if r.has(returnRelevancy) {
		w.relevancy(len(found))
	}
	if about := r.about(found); a.modSeq && len(about) > 0 {
		w.str(" MODSEQ ")
		w.num(g.highest(about))
	}
}

// writePartial writes the item of PARTIAL (RFC 9394 section 3.1).
func (s *session) writePartial(g *ground, a *searchArgs, found []int) {
	r := a.returns.partial
	s.w.str(" PARTIAL (")
	s.w.buf = r.append(s.w.buf)
	s.w.char(' ')
	if lo, hi := r.of(len(found)); lo < hi {
		s.w.raw(appendSet(nil, g.numbers(found[lo:hi], a.uid)))
	} else {
		s.w.str("NIL")
	}
	s.w.char(')')
}

// number is what the client calls the message at index i.
func (g *ground) number(i int, uid bool) uint32 {
	if uid {
		return uint32(g.told.At(i).UID)
	}
	return uint32(i) + 1
}

func (g *ground) numbers(found []int, uid bool) []imap.UID {
	nums := make([]imap.UID, len(found))
	for k, i := range found {
		nums[k] = imap.UID(g.number(i, uid))
	}
	return nums
}
