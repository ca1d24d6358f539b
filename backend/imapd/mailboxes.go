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
	var name *mailstore.NameError
	switch {
	case err == nil:
		return nil
	case errors.As(err, &name) && name.Limit:
		return refuse("LIMIT", "Mailbox name "+name.Reason)
	case errors.As(err, &name):
		return refuse("CANNOT", "Mailbox name "+name.Reason)
	case errors.Is(err, mailstore.ErrTooManyMailboxes):
		return refuse("LIMIT", "The account has as many mailboxes as it may have")
	case errors.Is(err, mailstore.ErrTooManySubscriptions):
		return refuse("LIMIT", "The account has as many subscriptions as it may have")
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
	name  string
	asked string // as the client wrote it
	use   imap.MailboxAttr
}

// parseCreate reads CREATE with the USE parameter of RFC 6154 section 3.
func parseCreate(p *parser) (a createArgs, err error) {
	if err = p.sp(); err != nil {
		return a, err
	}
	// A trailing delimiter says that the name will get children (RFC 3501
	// section 6.3.3); every mailbox of ours may.
	a.name, err = p.mailbox()
	if a.asked = p.asked; err != nil || !p.take(' ') || p.i == len(p.b) {
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
	p, err := s.locate(ctx, a.name)
	if err != nil {
		return result{}, mailboxError(notBelow(err), "")
	}
	defer p.close()
	err = p.mayCreate()
	if err == nil && a.use != "" && !p.own() {
		err = mailstore.ErrSpecialUse // it would say nothing about the client's own
	}
	var info mailstore.MailboxInfo
	if err == nil {
		info, err = p.account.Create(ctx, p.info.Name, a.use)
	}
	s.recordMailbox(a.name, "create", err)
	if err == nil {
		s.noteMine(p.account, info.GUID)
	}
	if err == nil && s.rev2 && a.asked != s.wireName(a.name) {
		s.nameTold(a.name, a.asked)
	}
	return result{code: mailboxIDCode(info.GUID)}, mailboxError(err, "")
}

// notBelow is the answer to making a mailbox where a name leads to nothing that
// the client may know of.
func notBelow(err error) error {
	if errors.Is(err, errNowhere) {
		return errNotPermitted
	}
	return err
}

// deleteMailbox is DELETE. Deleting the mailbox that is selected here leaves
// it first; other sessions that have it selected are told BYE.
func (s *session) deleteMailbox(ctx context.Context, name string) (result, error) {
	p, err := s.locateFor(ctx, name, toDelete)
	if err == nil {
		defer p.close()
		if s.box != nil && p.info.Name != inbox && s.box.info.GUID == p.info.GUID {
			s.unselect()
			s.w.line("* OK [CLOSED] Selected mailbox is being deleted")
		}
		err = p.account.Delete(ctx, p.info.Name)
	}
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
	err := s.renameTo(ctx, a)
	s.recordMailbox(a.from, "rename to "+a.to, err)
	return result{}, mailboxError(err, "")
}

func (s *session) renameTo(ctx context.Context, a renameArgs) error {
	from, err := s.locateFor(ctx, a.from, 0)
	if err != nil && !errors.Is(err, mailstore.ErrNoMailbox) {
		return err
	}
	if err != nil { // a level that only has mailboxes below it
		if from, err = s.locate(ctx, a.from); err != nil {
			return err
		}
	}
	defer from.close()
	to, err := s.locate(ctx, a.to)
	if err != nil {
		return notBelow(err)
	}
	defer to.close()
	if from.account.GUID() != to.account.GUID() {
		return refuse("CANNOT", "Mailboxes stay in their account: create one there and move the messages")
	}
	if err := s.mayRename(ctx, &from); err != nil {
		return err
	}
	if err := to.mayCreate(); err != nil {
		return err
	}
	return from.account.Rename(ctx, from.info.Name, to.info.Name)
}

func (s *session) subscribe(ctx context.Context, name string) (result, error) {
	err := s.account.Subscribe(ctx, name, true)
	if err == nil {
		s.noteSubscribed(ctx, name)
	}
	return result{}, mailboxError(err, "")
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
	statusMailboxID
	statusDeletedStorage
)

// statusNames are the items in the order they are answered.
var statusNames = [...]string{
	"MESSAGES", "RECENT", "UIDNEXT", "UIDVALIDITY", "UNSEEN", "DELETED", "SIZE", "HIGHESTMODSEQ", "APPENDLIMIT", "MAILBOXID",
	"DELETED-STORAGE",
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
	p, err := s.locateFor(ctx, a.name, toRead)
	if err != nil {
		return result{}, mailboxError(err, "")
	}
	defer p.close()
	st, err := p.status(ctx, a.items)
	if err != nil {
		return result{}, mailboxError(err, "")
	}
	s.writeStatus(a.name, a.items, st)
	return result{}, nil
}

// mailboxStatus is what STATUS tells.
type mailboxStatus struct {
	mailstore.Status
	deletedOctets int64 // what EXPUNGE would free
}

// status reads it; all but deletedOctets are kept counts.
func (p *place) status(ctx context.Context, items statusItems) (st mailboxStatus, err error) {
	if st.Status, err = p.keptStatus(ctx); err != nil || st.Deleted == 0 || items&statusDeletedStorage == 0 {
		return st, err
	}
	mailbox, _, err := p.openMailbox(ctx)
	if err != nil {
		return st, err
	}
	defer mailbox.Close()
	v := mailbox.View()
	for i := range v.Len() {
		if m := v.At(i); m.Flags&mailstore.FlagDeleted != 0 {
			st.deletedOctets += m.Octets
		}
	}
	return st, nil
}

func (s *session) writeStatus(name string, items statusItems, st mailboxStatus) {
	values := [len(statusNames)]uint64{
		uint64(st.Messages), 0, uint64(st.UIDNext), uint64(st.UIDValidity), uint64(st.Unseen),
		uint64(st.Deleted), uint64(st.Octets), st.HighestModSeq, uint64(s.cfg.AppendLimitOctets), 0, uint64(st.deletedOctets),
	}
	s.w.str("* STATUS ")
	s.writeMailbox(name)
	sep := " ("
	for i, item := range statusNames {
		if items&(1<<i) != 0 {
			s.w.str(sep)
			s.w.str(item)
			s.w.char(' ')
			if 1<<i == statusMailboxID {
				s.w.char('(')
				s.w.objectID(mailboxPrefix, st.GUID)
				s.w.char(')')
			} else {
				s.w.num(values[i])
			}
			sep = " "
		}
	}
	s.w.line(")")
}
