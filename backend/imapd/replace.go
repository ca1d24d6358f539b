package imapd

import (
	"context"
	"errors"

	"github.com/emersion/go-imap/v2"

	"github.com/postern-mail/postern/backend/mailstore"
)

// replace is REPLACE and UID REPLACE (RFC 8508): a message is added to a mailbox
// and another removed from the selected one, as if by UID EXPUNGE, in one step.
// APPENDUID comes before the sync behind the command tells of it.
func (s *session) replace(ctx context.Context, h streamHead, in *intake) (result, error) {
	old, err := s.replaced(h)
	if err != nil {
		return result{}, in.refuse(err)
	}
	to, err := s.open(ctx, h.mailbox, toAdd)
	if err != nil {
		return result{}, in.refuse(mailboxError(err, "TRYCREATE"))
	}
	defer to.close()
	if to.own() && s.box.own() {
		in.freed = old.Octets
	}
	s.refreshLimits(ctx, &to.place)
	in.to = &to
	defer in.discard()
	if err := in.take(ctx, h.first); err != nil {
		return result{}, err
	}
	if !in.atEnd() {
		return result{}, in.refuse(syntax("REPLACE takes one message"))
	}
	where := s.whereabouts()
	uid, err := s.box.mailbox.Replace(ctx, old.UID, to.mailbox, in.messages[0])
	if errors.Is(err, mailstore.ErrNoMessage) {
		return result{}, refuse("EXPUNGEISSUED", "Message to be replaced is gone")
	}
	s.recordReplace(where, old.UID, h.mailbox, err)
	if err != nil {
		return result{}, mailboxError(err, "TRYCREATE")
	}
	s.noteOwn(&to, []imap.UID{uid})
	if code := appendUID(to.mailbox, []imap.UID{uid}); code != "" {
		s.response("*", "OK", code, "Replacement message ready")
	}
	return result{modSeq: true}, nil
}

// replaced is the message that is to go.
func (s *session) replaced(h streamHead) (*mailstore.Message, error) {
	if err := s.box.may(toMoveAway); err != nil {
		return nil, err
	}
	spans, err := s.box.resolve(h.replaces, h.uid)
	if err != nil {
		return nil, err
	}
	if count(spans) != 1 {
		return nil, refuse("", "No such message")
	}
	return s.box.message(spans[0].lo), nil
}

// recordReplace audits what went, or the error that kept it.
func (s *session) recordReplace(where func([]imap.UID) []mailstore.Whereabouts, old imap.UID, mailbox string, err error) {
	gone := []imap.UID{old}
	if err != nil {
		gone = nil
	}
	s.recordExpunge(where, gone, "replace in "+mailbox, err)
}
