package imapd

import (
	"fmt"
	"math"
	"slices"
	"strconv"

	"github.com/emersion/go-imap/v2"

	"github.com/postern-mail/postern/backend/mailstore"
)

// MessageLimits bounds how many messages one command works on (RFC 9738). The
// zero value bounds nothing.
type MessageLimits struct {
	// Most is what is announced. Programs that do not know the extension see
	// the last messages of a larger mailbox only; see Enforced.
	Most int
	// Enforced is from how many messages on a command is cut short. Below Most:
	// Most. One that is higher spares the programs that do not know the limit.
	Enforced int
	// SavesOnly bounds COPY and APPEND alone, and announces SAVELIMIT.
	SavesOnly bool
}

// most is how many messages a command may work on, and 0 for any number.
func (l *MessageLimits) most() int {
	if l.Most <= 0 {
		return 0
	}
	return max(l.Most, l.Enforced)
}

// workLimit bounds FETCH, STORE, MOVE, SEARCH and UID EXPUNGE; 0 for no bound.
func (s *session) workLimit() int {
	if s.cfg.Messages.SavesOnly {
		return 0
	}
	return s.cfg.Messages.most()
}

func (s *session) limitsWork() bool  { return s.cfg.Messages.Most > 0 && !s.cfg.Messages.SavesOnly }
func (s *session) limitsSaves() bool { return s.cfg.Messages.Most > 0 && s.cfg.Messages.SavesOnly }

func (s *session) announcedLimit() string { return strconv.Itoa(s.cfg.Messages.Most) }

// messageLimitCode is the response code of RFC 9738 section 3.1; without a UID
// it says that nothing was done.
func messageLimitCode(limit int, lowest imap.UID) string {
	code := strconv.AppendInt([]byte("MESSAGELIMIT "), int64(limit), 10)
	if lowest > 0 {
		code = strconv.AppendUint(append(code, ' '), uint64(lowest), 10)
	}
	return string(code)
}

func overLimit(limit int, lowest imap.UID) error {
	return refuse(messageLimitCode(limit, lowest), fmt.Sprintf("More than %d messages at once", limit))
}

// lastOf returns the highest of the messages that counts selects, as many as
// the limit allows, and whether these are not all; nil selects all. lowest is
// the lowest of them, by index.
func lastOf(told mailstore.View, spans []span, limit int, counts func(i int) bool) (kept []span, lowest int, cut bool) {
	if limit == 0 || count(spans) <= limit {
		return spans, 0, false
	}
	left := limit
	for k := len(spans) - 1; k >= 0; k-- {
		for i := spans[k].hi - 1; i >= spans[k].lo; i-- {
			if counts != nil && !counts(i) {
				continue
			}
			if left == 0 {
				return spansFrom(spans, lowest), lowest, true
			}
			left--
			lowest = i
		}
	}
	return spans, 0, false
}

// spansFrom leaves out what lies below an index.
func spansFrom(spans []span, lowest int) []span {
	var from []span
	for _, sp := range spans {
		if sp.hi > lowest {
			from = append(from, span{max(sp.lo, lowest), sp.hi})
		}
	}
	return from
}

// cut leaves a command those messages that it may work on: the highest of what
// counts selects. What is left undone is told with its answer.
func (s *session) cut(spans []span, counts func(i int) bool) (kept []span, cut bool) {
	limit := s.workLimit()
	kept, lowest, cut := lastOf(s.box.told, spans, limit, counts)
	if cut {
		s.cutShort(limit, s.box.told.At(lowest).UID)
	}
	return kept, cut
}

// cutShort notes that the command under way does a part of its work only.
func (s *session) cutShort(limit int, lowest imap.UID) {
	s.short = messageLimitCode(limit, lowest)
	s.log.Debug("command is over the message limit", "sid", s.client.Session, "login", s.login(), "command", s.running, "limit", limit)
}

// tellShort tells the client so: in the tagged response, or before that where
// it has another code or is a NO (RFC 9738 section 3.1, as for EXPUNGEISSUED).
func (s *session) tellShort(res *result, err error) {
	if s.short == "" {
		return
	}
	if err == nil && res.code == "" && !res.answered {
		res.code, res.text = s.short, "Completed for the last messages only"
	} else {
		s.response("*", "NO", s.short, "Done for the last messages only")
	}
	s.short = ""
}

// descending returns the messages of spans one by one, the last first, which is
// the order for a command that is cut short.
func descending(spans []span) []span {
	single := make([]span, 0, count(spans))
	for _, sp := range slices.Backward(spans) {
		for i := sp.hi - 1; i >= sp.lo; i-- {
			single = append(single, span{i, i + 1})
		}
	}
	return single
}

// pageWithin returns why a page may not be asked for: one over the limit is
// refused before anything is done.
func (s *session) pageWithin(r partialRange) error {
	limit := s.workLimit()
	if near, far := min(r.first, r.last), max(r.first, r.last); limit > 0 && int64(far)-int64(near) >= int64(limit) {
		return overLimit(limit, 0)
	}
	return nil
}

// asManyAsMay is how MOVE is limited.
func (s *session) asManyAsMay(spans []span) ([]span, error) {
	spans, _ = s.cut(spans, nil)
	return spans, nil
}

// allOrNothing is how COPY is limited, of which a part must not be done.
func (s *session) allOrNothing(spans []span) ([]span, error) {
	limit := s.cfg.Messages.most()
	if _, lowest, cut := lastOf(s.box.told, spans, limit, nil); cut {
		return nil, overLimit(limit, s.box.told.At(lowest).UID)
	}
	return spans, nil
}

// mayAdd returns why an APPEND of more than n messages is refused.
func (s *session) mayAdd(n int) error {
	if limit := s.cfg.Messages.most(); limit > 0 && n >= limit {
		return overLimit(limit, 0)
	}
	if n >= maxAppendMessages {
		return refuse("LIMIT", "Too many messages in one command")
	}
	return nil
}

// searches are the messages that a prepared program looks at: those of all the
// sets that every result must be in.
func (k *searchKey) searches(g *ground) []span {
	spans := []span{{0, g.told.Len()}}
	for i := range k.kids {
		if kid := &k.kids[i]; kid.op == searchSequence || kid.op == searchUID {
			spans = common(spans, g.spans(kid.runs))
		}
	}
	return spans
}

// common returns what lies in both of two lists of sorted spans.
func common(a, b []span) []span {
	var both []span
	for len(a) > 0 && len(b) > 0 {
		if lo, hi := max(a[0].lo, b[0].lo), min(a[0].hi, b[0].hi); lo < hi {
			both = append(both, span{lo, hi})
		}
		if a[0].hi < b[0].hi {
			a = a[1:]
		} else {
			b = b[1:]
		}
	}
	return both
}

// bound makes a prepared program look at no more of the selected mailbox than
// the limit allows. What counts is what is looked at, not what is found. A
// program whose results must be known whole is refused.
func (s *session) bound(a *searchArgs) error {
	limit := s.workLimit()
	if limit == 0 {
		return nil
	}
	if a.returns.has(returnPartial) {
		if err := s.pageWithin(a.returns.partial); err != nil {
			return err
		}
	}
	g := &s.box.ground
	_, lowest, cut := lastOf(g.told, a.key.searches(g), limit, nil)
	switch {
	case !cut:
		return nil
	case a.whole:
		return overLimit(limit, 0)
	}
	from := g.told.At(lowest).UID
	a.key.kids = slices.Insert(a.key.kids, 0, searchKey{op: searchUID, runs: []uidRange{{uint32(from), math.MaxUint32}}})
	s.cutShort(limit, from)
	return nil
}

// boundAcross counts what a search of several mailboxes looks at. They have no
// common order of which the last could be taken: over the limit it ends.
func (s *session) boundAcross(a *searchArgs, g *ground) error {
	a.looked += count(a.key.searches(g))
	if limit := s.workLimit(); limit > 0 && a.looked > limit {
		return overLimit(limit, 0)
	}
	return nil
}

// uidBoundKey reads UIDAFTER and UIDBEFORE (RFC 9738 section 3.2).
func (p *searchParser) uidBoundKey(word string) (k searchKey, err error) {
	if err = p.sp(); err != nil {
		return k, err
	}
	n, err := p.number()
	if err == nil && n == 0 {
		err = syntax("0 is not a UID")
	}
	k.op = searchUID
	switch {
	case word == "UIDAFTER" && n < math.MaxUint32:
		k.set = numSet{{first: n + 1, last: math.MaxUint32}}
	case word == "UIDBEFORE" && n > 1:
		k.set = numSet{{first: 1, last: n - 1}}
	}
	return k, err
}
