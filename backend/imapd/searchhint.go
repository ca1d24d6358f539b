package imapd

import (
	"context"
	"slices"

	"github.com/postern-mail/postern/backend/mailstore"
	"github.com/postern-mail/postern/backend/mailstore/text"
)

// hintsAfter is how many messages are read before the index is asked: to ask it
// is worth that many.
const hintsAfter = 32

// textIndex tells of messages that cannot have what some keys look for, so that
// they need not be read. It never tells more than reading would: what it does
// not rule out is read. Implemented by mailstore.TextHints.
type textIndex interface {
	// May is false when no text of m has the needle.
	May(m *mailstore.Message, needle int) bool
	// Close has the messages indexed that it did not know.
	Close()
}

// hinted numbers the keys that the index is asked about, from 1 on, and returns
// what they look for.
func (k *searchKey) hinted(needles []text.Needle) []text.Needle {
	k.hint = 0
	switch k.op {
	case searchHeader, searchBody, searchText:
		if len(k.text.Folded()) > 1 {
			needles = append(needles, k.text)
			k.hint = len(needles)
		}
	}
	for i := range k.kids {
		needles = k.kids[i].hinted(needles)
	}
	return needles
}

// hint asks the index, once enough messages have to be read.
func (r *searchRun) hint(ctx context.Context) error {
	if r.dearSeen++; r.dearSeen != hintsAfter {
		return nil
	}
	needles := r.dear.hinted(nil)
	hints, err := r.ground.mailbox.TextHints(ctx, needles)
	if hints != nil {
		r.hints = hints
		r.batch = slices.DeleteFunc(r.batch, func(i int) bool {
			return r.judge(&r.dear, r.ground.message(i)) == matchesNot
		})
	}
	return err
}

// close ends the use of the index.
func (r *searchRun) close() {
	if r.hints != nil {
		r.hints.Close()
	}
}

// known decides what the index can tell of a message that has to be read
// otherwise, and reports whether it did.
func (r *searchRun) known(ctx context.Context, i int, m *mailstore.Message) (bool, error) {
	if err := r.hint(ctx); err != nil || r.hints == nil {
		return false, err
	}
	switch r.judge(&r.dear, m) {
	case matchesNot:
		return true, nil
	case matchesSurely:
		if err := r.askDear(ctx); err != nil { // those before it come first
			return true, err
		}
		if !r.enough() {
			r.found = append(r.found, i)
		}
		return true, nil
	}
	return false, nil
}

// verdict is what is known of a message without reading it.
type verdict uint8

const (
	perhaps verdict = iota
	matchesNot
	matchesSurely
)

// judge decides a key for a message as far as the index can tell.
func (r *searchRun) judge(k *searchKey, m *mailstore.Message) verdict {
	switch k.op {
	case searchAnd:
		return r.judgeAll(k.kids, m, matchesNot, matchesSurely)
	case searchOr:
		return r.judgeAll(k.kids, m, matchesSurely, matchesNot)
	case searchNot:
		switch r.judge(&k.kids[0], m) {
		case matchesNot:
			return matchesSurely
		case matchesSurely:
			return matchesNot
		}
		return perhaps
	case searchHeader, searchBody, searchText:
		if ruledOut(r.hints, k, m) {
			return matchesNot
		}
		return perhaps
	}
	if k.cost != costIndex {
		return perhaps
	}
	c := candidate{message: m}
	if c.indexMatches(k) {
		return matchesSurely
	}
	return matchesNot
}

// judgeAll is decisive when one key is, and otherwise when all are.
func (r *searchRun) judgeAll(kids []searchKey, m *mailstore.Message, decisive, otherwise verdict) verdict {
	for i := range kids {
		switch r.judge(&kids[i], m) {
		case decisive:
			return decisive
		case perhaps:
			otherwise = perhaps
		}
	}
	return otherwise
}

// ruledOut reports whether the index says that a message has not what a key
// looks for.
func ruledOut(hints textIndex, k *searchKey, m *mailstore.Message) bool {
	return k.hint > 0 && hints != nil && !hints.May(m, k.hint-1)
}
