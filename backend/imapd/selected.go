package imapd

import (
	"context"
	"strconv"
	"strings"

	"github.com/emersion/go-imap/v2"

	"github.com/postern-mail/postern/backend/mailstore"
	"github.com/postern-mail/postern/backend/mailstore/acl"
	"github.com/postern-mail/postern/backend/sessions"
)

// selection is the selected mailbox as the client knows it.
type selection struct {
	ground
	place    // where it lies
	readOnly bool
	// vanished says that the command under way has told of expunges to a client
	// that keeps a state, and owes it how far that goes now.
	vanished bool
	// keywords are those of the mailbox that the client was told last.
	keywords []string
	// behind is how far the client knows the mailbox where it does not want to
	// know of flags (RFC 5465); 0 means all that told has.
	behind uint64
	// beyond: the client was told of a later mod-sequence than it knows all of.
	beyond bool
	// fresh is the first UID that was told of and not fetched yet, 0 for none;
	// added are messages that the client added itself.
	fresh imap.UID
	added []imap.UID
	// wanted are data items that searches want of new messages.
	wanted map[imap.UID][]fetchItem
	// contexts are the searches that the client is told the changes of.
	contexts []*searchContext
	// decoded is what BINARY decoded last, nil for nothing.
	decoded *decoded
}

// may is the one place that decides whether the selected mailbox may be
// changed. Every command that changes it asks here first, with the rights it
// needs; they are those of this moment.
func (b *selection) may(need acl.Rights) error {
	switch {
	case b.readOnly:
		return refuse("NOPERM", "Mailbox was opened read-only")
	case !b.rights().Has(need):
		return errNotPermitted
	}
	return nil
}

// readable returns why the client must not read on: its right to was taken
// away meanwhile.
func (b *selection) readable() error {
	if b.own() || b.rights().Has(toRead) {
		return nil
	}
	return errNotPermitted
}

// changeable reports whether the client may change anything in the mailbox.
func (b *selection) changeable() bool { return !b.readOnly && b.rights()&toChange != 0 }

// storable returns those flags of a STORE that the client may change, and
// which a replacement leaves as they are. It is an error when none are left:
// clients do not bear a NO for some (RFC 4314 section 4).
func (b *selection) storable(op mailstore.FlagsOp, flags flagSet) (flagSet, forbiddenFlags, error) {
	no := b.forbidden()
	if err := b.may(0); err != nil {
		return flags, no, err
	}
	left := b.permitted(flags)
	nothing := left.system == 0 && len(left.keywords) == 0
	named := flags.system != 0 || len(flags.keywords) > 0
	everything := no.system == allFlags && no.keywords
	if nothing && named || everything && op == mailstore.FlagsSet {
		return left, no, errNotPermitted
	}
	return left, no, nil
}

// resolve turns a set into messages of what the client knows.
func (b *selection) resolve(set numSet, uid bool) ([]span, error) {
	switch {
	case set.isSaved():
		return b.spans(b.saved), nil
	case uid:
		return set.uids(b.told), nil
	}
	return set.sequence(b.told.Len())
}

// uidsOf lists the UIDs of messages by index.
func (b *selection) uidsOf(spans []span) []imap.UID {
	uids := make([]imap.UID, 0, count(spans))
	for _, sp := range spans {
		uids = mailstore.UIDsOf(uids, b.told, sp.lo, sp.hi)
	}
	return uids
}

type selectArgs struct {
	name      string
	asked     string // as the client wrote it
	readOnly  bool
	condstore bool
	resync    *resyncArgs // nil without QRESYNC
}

func parseSelect(readOnly bool) func(*parser) (selectArgs, error) {
	return func(p *parser) (selectArgs, error) {
		a := selectArgs{readOnly: readOnly}
		err := p.sp()
		if err != nil {
			return a, err
		}
		a.name, err = p.mailbox()
		if a.asked = p.asked; err != nil || !p.take(' ') || p.i == len(p.b) {
			return a, err
		}
		err = p.list(func() error {
			word, err := p.word()
			switch {
			case err != nil:
				return err
			case word == "QRESYNC" && a.resync == nil:
				a.resync, err = p.resyncParameter()
			case word != "CONDSTORE":
				return syntax("unknown parameter " + word)
			}
			a.condstore = true
			return err
		})
		return a, err
	}
}

// selectMailbox is SELECT and EXAMINE (RFC 3501 section 6.3.1). The mailbox
// selected before is closed even when this fails.
func (s *session) selectMailbox(ctx context.Context, a selectArgs) (result, error) {
	if a.resync != nil {
		if err := s.needQresync(); err != nil {
			return result{}, err
		}
	}
	if s.box != nil {
		s.unselect()
		s.w.line("* OK [CLOSED] Previous mailbox is closed")
	}
	opened, err := s.open(ctx, a.name, toRead)
	if err != nil {
		return result{}, mailboxError(err, "")
	}
	mailbox := opened.shown
	s.box = &selection{ground: ground{mailbox: mailbox}, place: opened.place, readOnly: a.readOnly}
	s.state = selected
	s.enterNow()
	s.condstore = s.condstore || a.condstore
	var from baseline
	if a.resync != nil && a.resync.uidValidity == mailbox.View().UIDValidity() {
		from = s.baselineOf(a.resync.modSeq) // before raise, which makes the value one of ours
		s.raise(ctx, mailbox, a.resync.modSeq)
	} else {
		a.resync = nil // RFC 7162 section 3.2.5.1: of another mailbox
	}
	v := mailbox.View()
	s.box.told, s.box.now, s.box.keywords = v, v, v.Keywords()
	s.describe()
	if s.rev2 {
		s.nameTold(a.name, a.asked)
	}
	s.watchSelected()
	if a.resync != nil {
		if err := s.resync(ctx, a.resync, from); err != nil {
			return result{}, err
		}
	}
	if a.readOnly {
		return result{code: "READ-ONLY", text: "Examine completed"}, nil
	}
	if !s.box.changeable() {
		return result{code: "READ-ONLY", text: "Select completed, nothing may be changed"}, nil
	}
	return result{code: "READ-WRITE", text: "Select completed"}, nil
}

// describe tells everything SELECT owes about the mailbox.
func (s *session) describe() {
	v := s.box.told
	s.keywords(v)
	s.exists(v)
	if !s.rev2 {
		s.w.line("* 0 RECENT") // \Recent went with IMAP4rev2; nobody is told of recent messages
	}
	if first, found := firstUnseen(v); found && !s.rev2 && !s.uidOnly {
		s.number("UNSEEN", uint64(first+1), "First unseen message")
	}
	s.number("UIDVALIDITY", uint64(v.UIDValidity()), "UIDs are valid")
	s.number("UIDNEXT", uint64(v.UIDNext()), "Predicted next UID")
	s.highestModSeq()
	s.response("*", "OK", mailboxIDCode(s.box.mailbox.Info().GUID), "Mailbox identity")
}

func (s *session) exists(v mailstore.View) {
	s.w.str("* ")
	s.w.num(uint64(v.Len()))
	s.w.line(" EXISTS")
}

// number writes an untagged OK with a response code that has a number.
func (s *session) number(code string, n uint64, text string) {
	s.response("*", "OK", code+" "+strconv.FormatUint(n, 10), text)
}

func (s *session) highestModSeq() {
	s.number("HIGHESTMODSEQ", s.box.knownModSeq(), "Highest mod-sequence")
}

// knownModSeq is up to where the client knows the mailbox.
func (b *selection) knownModSeq() uint64 {
	if b.behind > 0 {
		return b.behind
	}
	return b.told.HighestModSeq()
}

func modSeqCode(n uint64) string { return "HIGHESTMODSEQ " + strconv.FormatUint(n, 10) }

// keywords tells which flags the mailbox has and which can be changed.
func (s *session) keywords(v mailstore.View) {
	known := allSystemFlags
	for _, k := range v.Keywords() {
		known += " " + k
	}
	s.w.line("* FLAGS (" + known + ")")
	if !s.box.changeable() {
		s.response("*", "OK", "PERMANENTFLAGS ()", "Read-only mailbox")
		return
	}
	s.response("*", "OK", "PERMANENTFLAGS ("+s.box.permanent(known)+")", "Flags permitted")
}

// permanent are the flags that the client may change; known are all.
func (b *selection) permanent(known string) string {
	have := b.rights()
	if have.Has(acl.Seen | acl.Write | acl.DeleteMessage) {
		return known + ` \*`
	}
	var names []string
	for _, name := range strings.Fields(known) {
		need := acl.Write
		switch name {
		case `\Seen`:
			need = acl.Seen
		case `\Deleted`:
			need = acl.DeleteMessage
		}
		if have.Has(need) {
			names = append(names, name)
		}
	}
	if have.Has(acl.Write) {
		names = append(names, `\*`)
	}
	return strings.Join(names, " ")
}

func firstUnseen(v mailstore.View) (int, bool) {
	if v.Unseen() == 0 {
		return 0, false
	}
	for i := range v.Len() {
		if v.At(i).Flags&mailstore.FlagSeen == 0 {
			return i, true
		}
	}
	return 0, false
}

// unselect leaves the selected mailbox, if any, as it is.
func (s *session) unselect() {
	if s.box == nil {
		return
	}
	s.notify.unwatchSelected()
	s.box.mailbox.Close()
	s.box.place.close()
	s.box, s.later = nil, nil
	s.laterShare.end()
	s.state = authenticated
	s.enterNow()
}

// enterNow tells those who list sessions the state of this one.
func (s *session) enterNow() {
	if s.box != nil {
		s.enter(sessions.Selected)
	} else {
		s.enter(sessions.Authenticated)
	}
}

func (s *session) enter(state sessions.State) {
	name := ""
	if s.box != nil {
		name = s.box.place.prefix + s.box.mailbox.Info().Name
	}
	s.handle.Enter(state, name)
}

// unselectMailbox is UNSELECT (RFC 3691).
func (s *session) unselectMailbox(context.Context) (result, error) {
	s.unselect()
	return result{}, nil
}

// closeMailbox is CLOSE (RFC 3501 section 6.4.2): it expunges, unless the
// mailbox is read-only, and does not tell of it.
func (s *session) closeMailbox(ctx context.Context) (result, error) {
	var res result
	if s.box.may(toExpunge) == nil {
		gone, err := s.expungeUIDs(ctx, nil)
		if err != nil {
			return result{}, err
		}
		if len(gone) > 0 && s.qresync { // RFC 7162 section 3.2.8
			res.code = modSeqCode(s.modSeqAtClose(gone))
		}
	}
	s.unselect()
	return res, nil
}

// modSeqAtClose is how far the client knows the mailbox after a CLOSE that
// expunged messages. It works out for itself what is gone; where others changed
// something that it was not told of, it knows no more than before.
func (s *session) modSeqAtClose(gone []imap.UID) uint64 {
	told, now := s.box.told, s.box.mailbox.View()
	if now.Len() != told.Len()-len(gone) || s.box.behind > 0 {
		return s.box.knownModSeq()
	}
	for _, uid := range gone {
		if i, ok := told.Find(uid); !ok || told.At(i).Flags&mailstore.FlagDeleted == 0 {
			return told.HighestModSeq()
		}
	}
	for k := range now.Len() {
		if i, ok := told.Find(now.At(k).UID); !ok || told.At(i).ModSeq != now.At(k).ModSeq {
			return told.HighestModSeq()
		}
	}
	return now.HighestModSeq()
}
