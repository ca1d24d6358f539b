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
	// delay leaves new messages for later; see workarounds.
	delay bool
	// uid adds UIDs to FETCH responses (RFC 3501 section 6.4.8).
	uid bool
	// outside of commands; whole tells all, also what the client did not ask
	// for by NOTIFY.
	outside, whole bool
	// unasked: of flags that others change the client does not want to know.
	unasked bool
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
	if b.readable() != nil {
		return nil // it is no longer the client's to know
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
	b.keepGone(gone, now)
	b.now = now
	quiet := s.quiet() && !mode.whole
	if quiet && mode.stored == nil {
		return nil
	}
	s.tellKeywords(now)
	mode.uid, mode.unasked = mode.uid || s.notify != nil, s.withoutFlags() && !mode.whole
	stays := quiet || len(gone) > 0 && mode.keepNumbers || mode.delay && now.Len() > b.told.Len()-len(gone)
	if !stays {
		s.contextsLose(gone)
	}
	// Flags come before EXPUNGE: their numbers are those of the told View. They
	// come behind VANISHED: a client must not see the mod-sequence of a later
	// change before an expunge, for the connection may be lost in between.
	vanish := (s.qresync || s.uidOnly) && !stays
	if vanish && len(gone) > 0 {
		s.tellVanished(b.told, gone)
		b.vanished = true
	}
	s.tellFlags(now, mode, stays, vanish)
	if stays && mode.outside && !quiet {
		s.tellAdded(now, len(gone))
	}
	if stays {
		return nil
	}
	if !vanish {
		s.tellExpunged(gone)
	}
	if kept := b.told.Len() - len(gone); now.Len() > kept {
		s.exists(now)
		b.noteFresh(now.At(kept).UID)
	}
	if mode.whole {
		b.behind = 0
	}
	b.told, b.ahead, b.beyond = now, nil, b.beyond && b.behind > 0
	return nil
}

// tellExpunged writes EXPUNGE responses, the last number first, so that none
// shifts another.
func (s *session) tellExpunged(gone []int) {
	for _, i := range slices.Backward(gone) {
		s.w.str("* ")
		s.w.num(uint64(i) + 1)
		s.w.line(" EXPUNGE")
	}
}

// errNotSuccessor is a View that no sequence of untagged responses can reach.
var errNotSuccessor = syntax("a message appeared among those already told")

// compare returns the indexes in told of the messages that are gone. A message
// that appeared below the highest UID told would shift the numbers of others
// without a way to say so; mailstore promises that this cannot be.
func compare(told, now mailstore.View) (gone []int, err error) {
	for i, k := range mailstore.Differences(told, now) {
		switch {
		case i < 0:
			return nil, errNotSuccessor
		case k < 0:
			gone = append(gone, i)
		}
	}
	return gone, nil
}

// tellKeywords tells of keywords that are new in the mailbox, once, also where
// told has to stay.
func (s *session) tellKeywords(now mailstore.View) {
	known, keywords := s.box.keywords, now.Keywords()
	if slices.Equal(known, keywords) {
		return
	}
	s.box.keywords = keywords
	if slices.ContainsFunc(keywords, func(k string) bool { return !slices.Contains(known, k) }) {
		s.keywords(now)
	}
}

// tellFlags tells the flags of messages that the client knows otherwise. stays
// says that told will not move, so that what is told now must be noted; shifted
// that the client has been told which messages are gone.
func (s *session) tellFlags(now mailstore.View, mode syncMode, stays, shifted bool) {
	told := s.box.told
	for i, k := range mailstore.DifferencesAnd(told, now, mode.stored.also()) {
		if k < 0 {
			continue
		}
		before, after := s.box.known(told.At(i)), now.At(k)
		changed := after.ModSeq > before.ModSeq
		mine := mode.stored.has(i)
		if mode.unasked && changed && !mine {
			s.box.stayBehind()
			continue
		}
		if changed && stays {
			s.box.noteAhead(after)
			s.box.beyond = true
		}
		number := i
		if shifted {
			number = k
		}
		switch mode.stored.owes(mine, before, after, changed) {
		case owesFlags:
			s.fetchFlags(number, after, mode.uid)
		case owesModSeq:
			if s.condstore {
				s.fetchModSeq(number, after, mode.uid)
			}
		}
	}
}

// keepGone notes the messages of told that went between the View looked at last
// and the present one, as they were there: what FETCH and SEARCH showed of them
// meanwhile is what they stay, and no mod-sequence goes back.
func (b *selection) keepGone(gone []int, now mailstore.View) {
	if b.now == b.told || b.now == now {
		return
	}
	for _, i := range gone {
		k, there := b.now.Find(mailstore.UIDAt(b.told, i))
		if !there {
			continue // it went earlier
		}
		if last := b.now.At(k); last.ModSeq > b.known(b.told.At(i)).ModSeq {
			b.noteAhead(last)
		}
	}
}

// noteAhead notes what the client is told of a message before told can move.
func (b *selection) noteAhead(m *mailstore.Message) {
	if b.ahead == nil {
		b.ahead = make(map[imap.UID]*mailstore.Message)
	}
	b.ahead[m.UID] = m
}

// owed is what the client must be told of a message.
type owed int

const (
	owesNothing owed = iota
	owesModSeq       // the flags are what the client asked for (RFC 7162 section 3.1.3)
	owesFlags
)

// has reports whether the STORE named message i.
func (e *storeEcho) has(i int) bool { return e != nil && contains(e.spans, i) }

// owed says which messages the client is told of although they may not have
// changed, nil for none.
func (e *storeEcho) also() func(i int) bool {
	if e == nil || e.silent {
		return nil
	}
	return e.has
}

// owes decides what the client is told of a message, one that the STORE named if
// it is mine.
func (e *storeEcho) owes(mine bool, before, after *mailstore.Message, changed bool) owed {
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

// beginFetch begins a FETCH response that nobody may have asked for: clients with
// QRESYNC, and those of IMAP4rev2, find the UID in it (RFC 7162 section 3.2.7, RFC
// 9051 section 7.5.2).
func (s *session) beginFetch(i int, m *mailstore.Message, uid bool) {
	s.fetchHead(i, m)
	if (uid || s.qresync || s.rev2) && !s.uidOnly {
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
