package imapd

import (
	"cmp"
	"context"
	"errors"
	"slices"

	"github.com/emersion/go-imap/v2"

	"github.com/postern-mail/postern/backend/mailstore"
	"github.com/postern-mail/postern/store"
)

// search is SEARCH and UID SEARCH (RFC 3501 section 6.4.4).
func (s *session) search(ctx context.Context, a searchArgs) (result, error) {
	if a.modSeq {
		s.enableCondstore()
	}
	a.key.prepare(s.box.told)
	found, err := s.find(ctx, &a.key)
	if err != nil {
		return result{}, err
	}
	if a.extended {
		s.writeESearch(a, found)
	} else {
		s.writeSearch(a, found)
	}
	return result{}, nil
}

// prepare resolves the sets against the View that is searched, and puts cheap
// keys before dear ones.
func (k *searchKey) prepare(v mailstore.View) {
	switch k.op {
	case searchSequence:
		k.spans = k.set.present(v.Len())
	case searchUID:
		k.spans = k.set.uids(v)
	}
	for i := range k.kids {
		k.kids[i].prepare(v)
	}
	if k.op == searchAnd || k.op == searchOr {
		slices.SortStableFunc(k.kids, func(a, b searchKey) int { return cmp.Compare(a.cost, b.cost) })
	}
}

// find returns the indexes of the messages that match. What the index can
// tell is asked of every message first; Metas are then read in batches.
func (s *session) find(ctx context.Context, key *searchKey) ([]int, error) {
	cheap, dear := key.split()
	var found, batch []int
	var octets int64
	for i := range s.box.told.Len() {
		c := candidate{index: i, message: s.box.message(i)}
		if ok, err := c.matches(&cheap); err != nil || !ok {
			if err != nil {
				return nil, err
			}
			continue
		}
		if len(dear.kids) == 0 {
			found = append(found, i)
			continue
		}
		batch = append(batch, i)
		if octets += metaOctets(c.message); len(batch) < metaBatch && octets < metaBatchOctets {
			continue
		}
		var err error
		if found, err = s.findIn(ctx, &dear, batch, found); err != nil {
			return nil, err
		}
		batch, octets = batch[:0], 0
	}
	return s.findIn(ctx, &dear, batch, found)
}

// split parts an AND into what the index answers and the rest.
func (k *searchKey) split() (cheap, dear searchKey) {
	at, _ := slices.BinarySearchFunc(k.kids, costMeta, func(kid searchKey, c cost) int { return cmp.Compare(kid.cost, c) })
	return searchKey{op: searchAnd, kids: k.kids[:at]}, searchKey{op: searchAnd, kids: k.kids[at:]}
}

// findIn asks the dear keys of a batch of messages. Messages that are gone
// match nothing.
func (s *session) findIn(ctx context.Context, dear *searchKey, batch, found []int) ([]int, error) {
	if len(batch) == 0 {
		return found, nil
	}
	if err := s.goOn(ctx); err != nil {
		return nil, err
	}
	messages := make([]*mailstore.Message, len(batch))
	for k, i := range batch {
		messages[k] = s.box.message(i)
	}
	metas, err := s.metas(ctx, messages)
	if err != nil {
		return nil, err
	}
	for k, i := range batch {
		if metas[k] == nil {
			continue
		}
		c := candidate{index: i, message: messages[k], meta: metas[k], open: func() (store.Body, error) {
			return s.box.mailbox.Body(ctx, messages[k])
		}}
		ok, err := c.matches(dear)
		c.close()
		switch {
		case errors.Is(err, mailstore.ErrNoMessage), errors.Is(err, store.ErrNotFound):
		case err != nil:
			return nil, err
		case ok:
			found = append(found, i)
		}
	}
	return found, nil
}

// candidate is a message under examination.
type candidate struct {
	index   int
	message *mailstore.Message
	meta    *mailstore.Meta
	open    func() (store.Body, error)
	opened  store.Body
}

func (c *candidate) body() (store.Body, error) {
	if c.opened == nil {
		var err error
		if c.opened, err = c.open(); err != nil {
			return nil, err
		}
	}
	return c.opened, nil
}

func (c *candidate) close() {
	if c.opened != nil {
		_ = c.opened.Close()
		c.opened = nil
	}
}

// matches decides one key for the message.
func (c *candidate) matches(k *searchKey) (bool, error) {
	switch k.op {
	case searchAnd:
		for i := range k.kids {
			if ok, err := c.matches(&k.kids[i]); !ok || err != nil {
				return false, err
			}
		}
		return true, nil
	case searchOr:
		for i := range k.kids {
			if ok, err := c.matches(&k.kids[i]); ok || err != nil {
				return ok, err
			}
		}
		return false, nil
	case searchNot:
		ok, err := c.matches(&k.kids[0])
		return !ok, err
	case searchHeader:
		header, err := c.header()
		return err == nil && headerContains(header, k.word, k.text), err
	case searchBody:
		return c.bodyContains(k.text)
	case searchText:
		return c.textContains(k.text)
	}
	if k.cost == costMeta {
		return c.sentMatches(k), nil
	}
	return c.indexMatches(k), nil
}

// indexMatches decides the keys that the index answers.
func (c *candidate) indexMatches(k *searchKey) bool {
	m := c.message
	switch k.op {
	case searchAll:
		return true
	case searchFlag:
		return m.Flags&k.flag != 0
	case searchKeyword:
		return hasKeyword(m.Keywords, k.word)
	case searchSequence, searchUID:
		return contains(k.spans, c.index)
	case searchBefore:
		return dayOf(m.InternalDate.Unix()) < k.day
	case searchOn:
		return dayOf(m.InternalDate.Unix()) == k.day
	case searchSince:
		return dayOf(m.InternalDate.Unix()) >= k.day
	case searchLarger:
		return uint64(m.Octets) > k.number
	case searchSmaller:
		return uint64(m.Octets) < k.number
	case searchModSeq:
		return m.ModSeq >= k.number
	default: // searchNone
		return false
	}
}

// sentMatches decides the keys about the Date field. A message without a
// readable one was sent on no day.
func (c *candidate) sentMatches(k *searchKey) bool {
	if c.meta.SentDate == 0 {
		return false
	}
	day := dayOf(c.meta.SentDate)
	switch k.op {
	case searchSentBefore:
		return day < k.day
	case searchSentOn:
		return day == k.day
	default:
		return day >= k.day
	}
}

// number is what the client calls the message at index i.
func (s *session) numberOf(i int, uid bool) uint32 {
	if uid {
		return uint32(s.box.told.At(i).UID)
	}
	return uint32(i) + 1
}

func (s *session) writeSearch(a searchArgs, found []int) {
	s.w.str("* SEARCH")
	for _, i := range found {
		s.w.char(' ')
		s.w.num(uint64(s.numberOf(i, a.uid)))
	}
	if a.modSeq && len(found) > 0 {
		s.w.str(" (MODSEQ ")
		s.w.num(s.highest(found))
		s.w.char(')')
	}
	s.w.line("")
}

// highest is the highest MODSEQ of some messages.
func (s *session) highest(found []int) uint64 {
	var top uint64
	for _, i := range found {
		top = max(top, s.box.message(i).ModSeq)
	}
	return top
}

// writeESearch writes the response of RFC 4731; what is not there is left out.
func (s *session) writeESearch(a searchArgs, found []int) {
	w := &s.w
	w.str("* ESEARCH (TAG ")
	w.text(s.tag)
	w.char(')')
	if a.uid {
		w.str(" UID")
	}
	var about []int // what MODSEQ is about (RFC 7162 section 3.1.10)
	if n := len(found); n > 0 {
		if a.want&returnMin != 0 {
			w.str(" MIN ")
			w.num(uint64(s.numberOf(found[0], a.uid)))
			about = append(about, found[0])
		}
		if a.want&returnMax != 0 {
			w.str(" MAX ")
			w.num(uint64(s.numberOf(found[n-1], a.uid)))
			about = append(about, found[n-1])
		}
		if a.want&returnAll != 0 {
			w.str(" ALL ")
			w.buf = appendSet(w.buf, s.numbers(found, a.uid))
		}
		if a.want&(returnAll|returnCount) != 0 {
			about = found
		}
	}
	if a.want&returnCount != 0 {
		w.str(" COUNT ")
		w.num(uint64(len(found)))
	}
	if a.modSeq && len(about) > 0 {
		w.str(" MODSEQ ")
		w.num(s.highest(about))
	}
	w.line("")
}

func (s *session) numbers(found []int, uid bool) []imap.UID {
	nums := make([]imap.UID, len(found))
	for k, i := range found {
		nums[k] = imap.UID(s.numberOf(i, uid))
	}
	return nums
}
