package imapd

import (
	"context"
	"errors"
	"strings"

	"github.com/emersion/go-imap/v2"

	"github.com/postern-mail/postern/backend/mailstore"
)

// mailboxError gives mailstore's plain refusals their response codes. A
// missing mailbox gets missing when that is not "".
func mailboxError(err error, missing string) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, mailstore.ErrNoMailbox):
		return refuse(orElse(missing, "NONEXISTENT"), "No such mailbox")
	case errors.Is(err, mailstore.ErrMailboxExists):
		return refuse("ALREADYEXISTS", "Mailbox exists already")
	case errors.Is(err, mailstore.ErrBadName):
		return refuse("CANNOT", "Mailbox name is not allowed")
	case errors.Is(err, mailstore.ErrInbox):
		return refuse("CANNOT", "Not possible with INBOX")
	case errors.Is(err, mailstore.ErrTooMany):
		return refuse("LIMIT", "Too many mailboxes, keywords or messages at once")
	case errors.Is(err, mailstore.ErrSpecialUse):
		return refuse("USEATTR", "Special use is not supported or taken")
	case errors.Is(err, mailstore.ErrNoMessage):
		return refuse("EXPUNGEISSUED", "Some messages are gone")
	}
	return err
}

func parseMailbox(p *parser) (string, error) {
	if err := p.sp(); err != nil {
		return "", err
	}
	return p.mailbox()
}

type createArgs struct {
	name string
	use  imap.MailboxAttr
}

// parseCreate reads CREATE with the USE parameter of RFC 6154 section 3.
func parseCreate(p *parser) (a createArgs, err error) {
	if err = p.sp(); err != nil {
		return a, err
	}
	// A trailing delimiter says that the name will get children (RFC 3501
	// section 6.3.3); every mailbox of ours may.
	if a.name, err = p.mailbox(); err != nil || !p.take(' ') || p.i == len(p.b) {
		return a, err
	}
	err = p.list(func() error {
		if word, err := p.word(); err != nil || word != "USE" {
			return orSyntax(err, "unknown parameter")
		}
		if err := p.sp(); err != nil {
			return err
		}
		return p.list(func() error { return p.specialUse(&a.use) })
	})
	return a, err
}

func (p *parser) specialUse(use *imap.MailboxAttr) error {
	if !p.take('\\') {
		return syntax("expected a special use")
	}
	name, err := p.atom()
	if err != nil {
		return err
	}
	if *use != "" {
		return refuse("USEATTR", "Only one special use at a time")
	}
	for _, known := range []imap.MailboxAttr{
		imap.MailboxAttrAll, imap.MailboxAttrArchive, imap.MailboxAttrDrafts, imap.MailboxAttrFlagged,
		imap.MailboxAttrJunk, imap.MailboxAttrSent, imap.MailboxAttrTrash, imap.MailboxAttrImportant,
	} {
		if strings.EqualFold(string(known[1:]), name) {
			*use = known
			return nil
		}
	}
	return refuse("USEATTR", "Unknown special use")
}

func (s *session) create(ctx context.Context, a createArgs) (result, error) {
	_, err := s.account.Create(ctx, a.name, a.use)
	s.recordMailbox(a.name, "create", err)
	return result{}, mailboxError(err, "")
}

// deleteMailbox is DELETE. Deleting the mailbox that is selected here leaves
// it first; other sessions that have it selected are told BYE.
func (s *session) deleteMailbox(ctx context.Context, name string) (result, error) {
	if s.box != nil && name != inbox && s.box.mailbox.Info().Name == name {
		s.unselect()
		s.w.line("* OK [CLOSED] Selected mailbox is being deleted")
	}
	err := s.account.Delete(ctx, name)
	s.recordMailbox(name, "delete", err)
	return result{}, mailboxError(err, "")
}

type renameArgs struct{ from, to string }

func parseRename(p *parser) (a renameArgs, err error) {
	if a.from, err = parseMailbox(p); err != nil {
		return a, err
	}
	a.to, err = parseMailbox(p)
	return a, err
}

func (s *session) rename(ctx context.Context, a renameArgs) (result, error) {
	err := s.account.Rename(ctx, a.from, a.to)
	s.recordMailbox(a.from, "rename to "+a.to, err)
	return result{}, mailboxError(err, "")
}

func (s *session) subscribe(ctx context.Context, name string) (result, error) {
	return result{}, mailboxError(s.account.Subscribe(ctx, name, true), "")
}

func (s *session) unsubscribe(ctx context.Context, name string) (result, error) {
	return result{}, mailboxError(s.account.Subscribe(ctx, name, false), "")
}

// statusItems is the set of data STATUS asks for.
type statusItems uint16

const (
	statusMessages statusItems = 1 << iota
	statusRecent
	statusUIDNext
	statusUIDValidity
	statusUnseen
	statusDeleted
	statusSize
	statusHighestModSeq
	statusAppendLimit
)

// statusNames are the items in the order they are answered.
var statusNames = [...]string{
	"MESSAGES", "RECENT", "UIDNEXT", "UIDVALIDITY", "UNSEEN", "DELETED", "SIZE", "HIGHESTMODSEQ", "APPENDLIMIT",
}

type statusArgs struct {
	name  string
	items statusItems
}

func parseStatus(p *parser) (a statusArgs, err error) {
	if a.name, err = parseMailbox(p); err != nil {
		return a, err
	}
	if err = p.sp(); err != nil {
		return a, err
	}
	a.items, err = p.statusItems()
	return a, err
}

func (p *parser) statusItems() (items statusItems, err error) {
	err = p.list(func() error {
		name, err := p.word()
		if err != nil {
			return err
		}
		for i, known := range statusNames {
			if name == known {
				items |= 1 << i
				return nil
			}
		}
		return syntax("unknown status item")
	})
	if err == nil && items == 0 {
		err = syntax("expected a status item")
	}
	return items, err
}

func (s *session) status(ctx context.Context, a statusArgs) (result, error) {
	if a.items&statusHighestModSeq != 0 {
		s.enableCondstore()
	}
	st, err := s.account.Status(ctx, a.name)
	if err != nil {
		return result{}, mailboxError(err, "")
	}
	s.writeStatus(a.name, a.items, st)
	return result{}, nil
}

func (s *session) writeStatus(name string, items statusItems, st mailstore.Status) {
	values := [len(statusNames)]uint64{
		uint64(st.Messages), 0, uint64(st.UIDNext), uint64(st.UIDValidity), uint64(st.Unseen),
		uint64(st.Deleted), uint64(st.Octets), st.HighestModSeq, uint64(s.cfg.AppendLimitOctets),
	}
	s.w.str("* STATUS ")
	s.w.astring(encodeMailbox(name))
	sep := " ("
	for i, item := range statusNames {
		if items&(1<<i) != 0 {
			s.w.str(sep)
			s.w.str(item)
			s.w.char(' ')
			s.w.num(values[i])
			sep = " "
		}
	}
	s.w.line(")")
}
