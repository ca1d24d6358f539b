package imapd

import (
	"context"
	"strconv"

	"github.com/emersion/go-imap/v2"

	"github.com/postern-mail/postern/backend/mailstore"
)

// selection is the selected mailbox as the client knows it.
type selection struct {
	mailbox  *mailstore.Mailbox
	readOnly bool
	// told is what the client knows: its sequence numbers are the indexes of
	// told plus one.
	told mailstore.View
	// now is the View that was last compared with told. It is another one only
	// while messages are gone that the client may not be told of yet.
	now mailstore.View
	// ahead holds messages whose flags the client knows at a later MODSEQ than
	// told has; told itself could not move because that would shift numbers.
	ahead map[imap.UID]uint64
}

// writable is the one place that decides whether the selected mailbox may be
// changed. Every command that changes it asks here first.
func (b *selection) writable() error {
	if b.readOnly {
		return refuse("NOPERM", "Mailbox was opened read-only")
	}
	return nil
}

// message returns the message with sequence number i+1 as it is now, or as it
// was when it is gone.
func (b *selection) message(i int) *mailstore.Message {
	m := b.told.At(i)
	if b.now == b.told {
		return m
	}
	if k, ok := b.now.Find(m.UID); ok {
		return b.now.At(k)
	}
	return m
}

// resolve turns a set into messages of what the client knows.
func (b *selection) resolve(set numSet, uid bool) ([]span, error) {
	if uid {
		return set.uids(b.told), nil
	}
	return set.sequence(b.told.Len())
}

// uidsOf lists the UIDs of messages by index.
func (b *selection) uidsOf(spans []span) []imap.UID {
	uids := make([]imap.UID, 0, count(spans))
	for _, sp := range spans {
		for i := sp.lo; i < sp.hi; i++ {
			uids = append(uids, b.told.At(i).UID)
		}
	}
	return uids
}

type selectArgs struct {
	name      string
	readOnly  bool
	condstore bool
}

func parseSelect(readOnly bool) func(*parser) (selectArgs, error) {
	return func(p *parser) (selectArgs, error) {
		a := selectArgs{readOnly: readOnly}
		err := p.sp()
		if err != nil {
			return a, err
		}
		if a.name, err = p.mailbox(); err != nil || !p.take(' ') || p.i == len(p.b) {
			return a, err
		}
		err = p.list(func() error {
			word, err := p.word()
			if err == nil && word != "CONDSTORE" {
				err = syntax("unknown parameter " + word)
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
	if s.box != nil {
		s.unselect()
		s.w.line("* OK [CLOSED] Previous mailbox is closed")
	}
	mailbox, err := s.account.Mailbox(ctx, a.name)
	if err != nil {
		return result{}, mailboxError(err, "")
	}
	v := mailbox.View()
	s.box = &selection{mailbox: mailbox, readOnly: a.readOnly, told: v, now: v}
	s.state = selected
	s.condstore = s.condstore || a.condstore
	s.describe()
	if a.readOnly {
		return result{code: "READ-ONLY", text: "Examine completed"}, nil
	}
	return result{code: "READ-WRITE", text: "Select completed"}, nil
}

// describe tells everything SELECT owes about the mailbox.
func (s *session) describe() {
	v := s.box.told
	s.keywords(v)
	s.exists(v)
	s.w.line("* 0 RECENT") // \Recent went with IMAP4rev2; nobody is told of recent messages
	if first, found := firstUnseen(v); found {
		s.number("UNSEEN", uint64(first+1), "First unseen message")
	}
	s.number("UIDVALIDITY", uint64(v.UIDValidity()), "UIDs are valid")
	s.number("UIDNEXT", uint64(v.UIDNext()), "Predicted next UID")
	s.highestModSeq()
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
	s.number("HIGHESTMODSEQ", s.box.told.HighestModSeq(), "Highest mod-sequence")
}

// keywords tells which flags the mailbox has and which can be changed.
func (s *session) keywords(v mailstore.View) {
	known := allSystemFlags
	for _, k := range v.Keywords() {
		known += " " + k
	}
	s.w.line("* FLAGS (" + known + ")")
	if s.box.readOnly {
		s.response("*", "OK", "PERMANENTFLAGS ()", "Read-only mailbox")
		return
	}
	s.response("*", "OK", "PERMANENTFLAGS ("+known+` \*)`, "Flags permitted")
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
	s.box.mailbox.Close()
	s.box = nil
	s.state = authenticated
}

// unselectMailbox is UNSELECT (RFC 3691).
func (s *session) unselectMailbox(context.Context) (result, error) {
	s.unselect()
	return result{}, nil
}

// closeMailbox is CLOSE (RFC 3501 section 6.4.2): it expunges, unless the
// mailbox is read-only, and does not tell of it.
func (s *session) closeMailbox(ctx context.Context) (result, error) {
	if s.box.writable() == nil {
		if err := s.expungeUIDs(ctx, nil); err != nil {
			return result{}, err
		}
	}
	s.unselect()
	return result{}, nil
}
