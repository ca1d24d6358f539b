package imapd

import (
	"slices"

	"github.com/emersion/go-imap/v2"

	"github.com/postern-mail/postern/backend/mailstore"
)

// syncMode says how a command's end tells the client what changed.
type syncMode struct {
	// keepNumbers forbids EXPUNGE: the command has sequence numbers.
	keepNumbers bool
	// uid adds UIDs to FETCH responses (RFC 3501 section 6.4.8).
	uid bool
	// stored is the STORE that just ran, if any.
	stored *storeEcho
}

// storeEcho is what a STORE did, so that its own changes are told as the
// command asks.
type storeEcho struct {
	spans  []span // by index in the told View
	flags  flagSet
	op     mailstore.FlagsOp
	silent bool
}

// sync tells the client what changed in its mailbox since it was told last:
// the View it knows is compared with the present one. Where the numbers must
// stay and messages are gone, only flags are told, and the rest waits for the
// next command.
func (s *session) sync(mode syncMode) error {
	b := s.box
	if b == nil {
		return nil
	}
	now := b.mailbox.View()
	if now == b.told && mode.stored == nil {
		return nil
	}
	if now.Deleted() || now.UIDValidity() != b.told.UIDValidity() {
		return errGone
	}
	gone, err := compare(b.told, now)
	if err != nil {
		s.log.Error("view is not a successor", "sid", s.client.Session, "login", s.login(), "error", err)
		return errGone
	}
	b.now = now
	s.tellKeywords(now)
	stays := len(gone) > 0 && mode.keepNumbers
	// Flags come before expunges: their numbers are those of the told View.
	s.tellFlags(now, mode, stays)
	if stays {
		return nil
	}
	for _, i := range slices.Backward(gone) {
		s.w.str("* ")
		s.w.num(uint64(i) + 1)
		s.w.line(" EXPUNGE")
	}
	if now.Len() > b.told.Len()-len(gone) {
		s.exists(now)
	}
	b.told, b.ahead = now, nil
	return nil
}

// errNotSuccessor is a View that no sequence of untagged responses can reach.
var errNotSuccessor = syntax("a message appeared among those already told")

// compare returns the indexes in told of the messages that are gone. A message
// that appeared below the highest UID told would shift the numbers of others
// without a way to say so; mailstore promises that this cannot be.
func compare(told, now mailstore.View) (gone []int, err error) {
	kept := 0
	for i := range told.Len() {
		uid := told.At(i).UID
		if kept < now.Len() && now.At(kept).UID < uid {
			return nil, errNotSuccessor
		}
		if kept < now.Len() && now.At(kept).UID == uid {
			kept++
			continue
		}
		gone = append(gone, i)
	}
	return gone, nil
}

// tellKeywords tells of keywords that are new in the mailbox.
func (s *session) tellKeywords(now mailstore.View) {
	known, keywords := s.box.told.Keywords(), now.Keywords()
	if slices.Equal(known, keywords) {
		return
	}
	if slices.ContainsFunc(keywords, func(k string) bool { return !slices.Contains(known, k) }) {
		s.keywords(now)
	}
}

// tellFlags tells the flags of messages that the client knows otherwise. stays
// says that told will not move, so that what is told now must be noted.
func (s *session) tellFlags(now mailstore.View, mode syncMode, stays bool) {
	told, kept := s.box.told, 0
	for i := range told.Len() {
		if kept == now.Len() {
			return
		}
		before, after := told.At(i), now.At(kept)
		if before != after && before.UID != after.UID {
			continue
		}
		kept++
		if before == after && mode.stored == nil {
			continue
		}
		changed := after.ModSeq > before.ModSeq && s.box.ahead[after.UID] < after.ModSeq
		if changed && stays {
			s.noteAhead(after)
		}
		switch mode.stored.owes(i, before, after, changed) {
		case owesFlags:
			s.fetchFlags(i, after, mode.uid)
		case owesModSeq:
			if s.condstore {
				s.fetchModSeq(i, after, mode.uid)
			}
		}
	}
}

func (s *session) noteAhead(m *mailstore.Message) {
	if s.box.ahead == nil {
		s.box.ahead = make(map[imap.UID]uint64)
	}
	s.box.ahead[m.UID] = m.ModSeq
}

// owed is what the client must be told of a message.
type owed int

const (
	owesNothing owed = iota
	owesModSeq       // the flags are what the client asked for (RFC 7162 section 3.1.3)
	owesFlags
)

// owes decides what the client is told of message i.
func (e *storeEcho) owes(i int, before, after *mailstore.Message, changed bool) owed {
	mine := e != nil && contains(e.spans, i)
	switch {
	case mine && !e.silent:
		return owesFlags
	case !changed:
		return owesNothing
	case mine:
		// .SILENT: the client knows what it asked for, and only that.
		if system, keywords := e.flags.applied(e.op, before); sameFlags(after, system, keywords) {
			return owesModSeq
		}
	}
	return owesFlags
}

// fetchFlags writes the FETCH response that tells a message's flags.
func (s *session) fetchFlags(i int, m *mailstore.Message, uid bool) {
	s.beginFetch(i, m, uid)
	s.w.str("FLAGS ")
	s.w.flags(m)
	if s.condstore {
		s.w.char(' ')
		s.w.modSeq(m)
	}
	s.w.line(")")
}

func (s *session) fetchModSeq(i int, m *mailstore.Message, uid bool) {
	s.beginFetch(i, m, uid)
	s.w.modSeq(m)
	s.w.line(")")
}

func (s *session) beginFetch(i int, m *mailstore.Message, uid bool) {
	s.w.str("* ")
	s.w.num(uint64(i) + 1)
	s.w.str(" FETCH (")
	if uid {
		s.w.str("UID ")
		s.w.num(uint64(m.UID))
		s.w.char(' ')
	}
}

func (w *writer) modSeq(m *mailstore.Message) {
	w.str("MODSEQ (")
	w.num(m.ModSeq)
	w.char(')')
}
