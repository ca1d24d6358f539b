package pop3d

import (
	"context"
	"errors"
	"io"
	"slices"

	"github.com/emersion/go-imap/v2"

	"github.com/postern-mail/postern/backend/mailstore"
	"github.com/postern-mail/postern/backend/sessions"
	"github.com/postern-mail/postern/mail"
	"github.com/postern-mail/postern/status"
	"github.com/postern-mail/postern/store"
)

// inbox is the mailbox that POP3 shows.
const inbox = "INBOX"

// selectedState is what a session is that has its maildrop.
const selectedState = sessions.Selected

// maildrop is the mailbox as it was at the login. Message numbers are indexes
// of its View, plus one.
type maildrop struct {
	mailbox *mailstore.Mailbox
	view    mailstore.View
	// grown says how many octets the line ends of a message gain when it is
	// sent, of those that gain some; nil until a size is asked for.
	grown map[imap.UID]int64
	// deleted are those that DELE named, by index; retrieved those that RETR
	// sent.
	deleted   map[int]bool
	retrieved map[int]bool
}

func openMaildrop(ctx context.Context, account *mailstore.Account) (*maildrop, error) {
	mailbox, err := account.Mailbox(ctx, inbox)
	if err != nil {
		return nil, err
	}
	return &maildrop{mailbox: mailbox, view: mailbox.View(), deleted: make(map[int]bool), retrieved: make(map[int]bool)}, nil
}

// octets is how many octets RETR sends of a message, without what stuffing adds
// (RFC 1939 section 11). measure comes before it.
func (d *maildrop) octets(m *mailstore.Message) int64 { return m.Octets + d.grown[m.UID] }

// measure learns the sizes of all messages.
func (d *maildrop) measure(ctx context.Context) error {
	if d.grown != nil {
		return nil
	}
	all := make([]*mailstore.Message, d.view.Len())
	for i := range all {
		all[i] = d.view.At(i)
	}
	grown, err := d.mailbox.LineEnds(ctx, all, func(m *mailstore.Message) (int64, error) { return d.growth(ctx, m) })
	if err == nil {
		d.grown = grown
	}
	return err
}

// growth reads a message to learn what its line ends gain.
func (d *maildrop) growth(ctx context.Context, m *mailstore.Message) (int64, error) {
	body, err := d.mailbox.Body(ctx, m)
	if err != nil {
		return 0, err
	}
	defer func() { _ = body.Close() }()
	var t text
	step := make([]byte, stepOctets)
	for at := int64(0); at < body.Size(); {
		n, err := readStep(body, step, at)
		if err != nil {
			return 0, err
		}
		t.count(step[:n])
		at += int64(n)
	}
	t.complete(nil)
	return t.grown, ctx.Err()
}

// readStep reads as much as fits in p from a place in the body, at least one
// octet.
func readStep(body store.Body, p []byte, at int64) (int, error) {
	n, err := body.ReadAt(p[:min(int64(len(p)), body.Size()-at)], at)
	if n > 0 && errors.Is(err, io.EOF) {
		err = nil
	}
	return n, err
}

// open opens a message of the maildrop. One that was given another UID since
// the login, which the partner of a pair may do, is looked for.
func (d *maildrop) open(ctx context.Context, i int) (store.Body, error) {
	m := d.view.At(i)
	body, err := d.mailbox.Body(ctx, m)
	if errors.Is(err, mailstore.ErrNoMessage) {
		if now := d.renumbered(map[mailstore.Dot]bool{m.Dot: true}); len(now) > 0 {
			return d.mailbox.Body(ctx, now[0])
		}
	}
	return body, err
}

// renumbered returns the messages of dots as they are now.
func (d *maildrop) renumbered(dots map[mailstore.Dot]bool) (now []*mailstore.Message) {
	v := d.mailbox.View()
	for i := range v.Len() {
		if m := v.At(i); dots[m.Dot] {
			now = append(now, m)
		}
	}
	return now
}

// gone reports whether err means that somebody else removed the message.
func gone(err error) bool {
	return errors.Is(err, mailstore.ErrNoMessage) || errors.Is(err, mailstore.ErrNoMailbox) || errors.Is(err, store.ErrNotFound)
}

// update removes what DELE named.
func (s *session) update(ctx context.Context) error {
	d := s.drop
	if len(d.deleted) == 0 {
		return nil
	}
	uids := make([]imap.UID, 0, len(d.deleted))
	dots := make(map[mailstore.Dot]bool, len(d.deleted))
	for i := range d.deleted {
		m := d.view.At(i)
		uids, dots[m.Dot] = append(uids, m.UID), true
		delete(d.retrieved, i) // \Seen would be set on nothing
	}
	removed, err := d.mailbox.Remove(ctx, uids)
	if err == nil && len(removed) < len(uids) {
		// Others were removed by somebody else, or have another UID now.
		var left []imap.UID
		for _, m := range d.renumbered(dots) {
			left = append(left, m.UID)
		}
		var more []imap.UID
		more, err = d.mailbox.Remove(ctx, left)
		removed = append(removed, more...)
	}
	s.recordExpunge(removed, err)
	if err != nil {
		return refuse(codeOf(status.Of(err)), "Some deleted messages were not removed")
	}
	return nil
}

// maxAuditUIDs bounds the UIDs of one audit record.
const maxAuditUIDs = 500

// recordExpunge audits what was removed, and the error that kept the rest.
func (s *session) recordExpunge(removed []imap.UID, err error) {
	e := s.handle.Event(mail.EventExpunge)
	e.Mailbox, e.Result, e.Detail = inbox, "ok", "quit"
	for part := range slices.Chunk(removed, maxAuditUIDs) {
		e.UIDs = imap.UIDSetNum(part...).String()
		s.server.deps.Audit.Record(e)
	}
	if err != nil {
		s.log.Warn("cannot remove messages", "sid", s.client.Session, "login", e.Login, "reason", status.Of(err), "error", err)
		e.UIDs, e.Result, e.Reason = "", "refused", status.Of(err).String()
		s.server.deps.Audit.Record(e)
	}
}

// markSeen sets \Seen on what was retrieved, in one commit at the end of the
// session. A store that cannot write now keeps nobody from having read.
func (s *session) markSeen(ctx context.Context) {
	d := s.drop
	var unseen []imap.UID
	for i := range d.retrieved {
		if m := d.view.At(i); m.Flags&mailstore.FlagSeen == 0 {
			unseen = append(unseen, m.UID)
		}
	}
	d.retrieved = nil
	if len(unseen) == 0 {
		return
	}
	change := mailstore.FlagsChange{Op: mailstore.FlagsAdd, Flags: mailstore.FlagSeen}
	if _, err := d.mailbox.StoreFlags(ctx, unseen, change); err != nil {
		s.log.Warn(`cannot set \Seen`, "sid", s.client.Session, "login", s.identity.Authorization, "error", err)
	}
}
