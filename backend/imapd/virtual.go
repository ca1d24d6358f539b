package imapd

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/emersion/go-imap/v2"

	"github.com/postern-mail/postern/backend/mailstore"
	"github.com/postern-mail/postern/backend/mailstore/acl"
	"github.com/postern-mail/postern/backend/mailstore/text"
	"github.com/postern-mail/postern/internal/utf7"
	"github.com/postern-mail/postern/store"
)

// mailbox is what commands do with the mailbox that is selected or searched: a
// *mailstore.Mailbox, or a *mailstore.Virtual, which does it with real ones.
type mailbox interface {
	Info() mailstore.MailboxInfo
	View() mailstore.View
	Changed() <-chan struct{}
	Close()

	Base(presented uint64) uint64
	IsForeign(presented uint64) bool
	RaiseModSeq(ctx context.Context, presented uint64) error
	ExpungedSince(modseq uint64) (uids []imap.UID, complete bool)

	StoreFlags(ctx context.Context, uids []imap.UID, c mailstore.FlagsChange) (modified []imap.UID, err error)
	Expunge(ctx context.Context, uids []imap.UID) ([]imap.UID, error)
	Copy(ctx context.Context, uids []imap.UID, dest *mailstore.Mailbox) (mailstore.CopyResult, error)
	Move(ctx context.Context, uids []imap.UID, dest *mailstore.Mailbox) (mailstore.CopyResult, error)
	Replace(ctx context.Context, old imap.UID, dest *mailstore.Mailbox, message mailstore.Append) (imap.UID, error)

	Meta(ctx context.Context, message *mailstore.Message) (*mailstore.Meta, error)
	SomeOfMetas(ctx context.Context, list []*mailstore.Message, want mailstore.MetaParts) ([]*mailstore.Meta, error)
	CompletePreviews(ctx context.Context, list []*mailstore.Message, metas []*mailstore.Meta) error
	Body(ctx context.Context, message *mailstore.Message) (store.Body, error)
	BodyOf(ctx context.Context, message *mailstore.Message, meta *mailstore.Meta) (store.Body, error)
	SortKeys(ctx context.Context, made string, from, to imap.UID, look func(mailstore.SortKey) error) error
	KeepSortKeys(ctx context.Context, made string, keys []mailstore.SortKey) error
	TextHints(ctx context.Context, needles []text.Needle) (*mailstore.TextHints, error)
}

// virtualRights are what can be done in a virtual mailbox: nothing is put into
// it, and it is made and ended by the configuration.
const virtualRights = acl.Lookup | acl.Read | acl.Seen | acl.Write | acl.DeleteMessage | acl.Expunge

var errVirtual = refuse("CANNOT", "Mailbox is virtual: it shows messages of others, takes none in, and cannot be changed itself")

// virtualOf returns the virtual mailbox of a name in the client's own account,
// nil when it is none. A real one of that name is hidden.
func (c *Config) virtualOf(name string) *mailstore.VirtualMailbox {
	for _, d := range c.Virtual {
		if d.Name == name {
			return d
		}
	}
	return nil
}

// withVirtual puts the virtual mailboxes into a list of the client's own.
func (s *session) withVirtual(infos []mailstore.MailboxInfo) []mailstore.MailboxInfo {
	if len(s.cfg.Virtual) == 0 {
		return infos
	}
	subscribed := make(map[string]bool)
	infos = slices.DeleteFunc(infos, func(m mailstore.MailboxInfo) bool {
		hidden := s.cfg.virtualOf(m.Name) != nil
		if hidden && m.Subscribed {
			subscribed[m.Name] = true
		}
		return hidden
	})
	for _, d := range s.cfg.Virtual {
		info := s.account.VirtualInfo(d)
		info.Subscribed = subscribed[d.Name]
		infos = append(infos, info)
	}
	return infos
}

// openMailbox opens what lies at the place: to be read, and for a real mailbox
// also to be written to.
func (p *place) openMailbox(ctx context.Context) (shown mailbox, real *mailstore.Mailbox, err error) {
	if p.virtual != nil {
		v, err := p.account.Virtual(ctx, p.virtual)
		if err != nil {
			return nil, nil, err
		}
		return v, nil, nil
	}
	if real, err = p.account.MailboxFor(ctx, p.info.Name, p.reader); err != nil {
		return nil, nil, err
	}
	return real, real, nil
}

// keptStatus is the status as far as mailstore tells it.
func (p *place) keptStatus(ctx context.Context) (mailstore.Status, error) {
	if p.virtual == nil {
		return p.account.StatusFor(ctx, p.info.Name, p.reader)
	}
	v, err := p.account.Virtual(ctx, p.virtual)
	if err != nil {
		return mailstore.Status{}, err
	}
	defer v.Close()
	return v.Status(), nil
}

// VirtualProgram reads the search program that picks the messages of a virtual
// mailbox; an empty one picks all. It may ask for what is known of a message
// without reading it, and does not change with time.
func VirtualProgram(program string) (func(*mailstore.Message) bool, error) {
	if program == "" {
		return nil, nil
	}
	var args searchArgs
	sp := &searchParser{parser: &parser{b: []byte(program)}, args: &args}
	err := sp.program()
	if err == nil {
		err = sp.end()
	}
	var wrong *syntaxError
	if errors.As(err, &wrong) {
		return nil, errors.New(wrong.what + sp.place())
	}
	if err != nil {
		return nil, err
	}
	if !args.key.picks() {
		return nil, errors.New("it may ask for flags, keywords, SIZE, INTERNALDATE and SAVEDATE only: LARGER, SINCE, SAVEDSINCE and their like")
	}
	return func(m *mailstore.Message) bool {
		c := candidate{message: m}
		ok, err := c.matches(&args.key)
		return ok && err == nil
	}, nil
}

// picks reports whether a key may pick the messages of a virtual mailbox.
func (k *searchKey) picks() bool {
	switch k.op {
	case searchAll, searchNone, searchAnd, searchOr, searchNot, searchFlag, searchKeyword, searchBefore, searchOn, searchSince,
		searchLarger, searchSmaller, searchSavedBefore, searchSavedOn, searchSavedSince:
	default:
		return false
	}
	for i := range k.kids {
		if !k.kids[i].picks() {
			return false
		}
	}
	return true
}

// CheckVirtualName returns why a virtual mailbox cannot have a name.
func CheckVirtualName(name string, sharing Sharing) error {
	if same, err := mailboxName(utf7.Encode(name)); err != nil || same != name || strings.EqualFold(name, inbox) || strings.ContainsAny(name, "*%") {
		return fmt.Errorf("%q cannot be the name of a virtual mailbox", name)
	}
	if ns, _ := sharing.namespaceOf(name); ns != nil {
		return fmt.Errorf("virtual mailbox %q lies in a namespace of others", name)
	}
	return nil
}

// checkVirtual returns what is wrong with the virtual mailboxes' names.
func (c *Config) checkVirtual() error {
	var errs []error
	for i, d := range c.Virtual {
		errs = append(errs, CheckVirtualName(d.Name, c.Sharing))
		if slices.ContainsFunc(c.Virtual[:i], func(o *mailstore.VirtualMailbox) bool { return o.Name == d.Name }) {
			errs = append(errs, fmt.Errorf("two virtual mailboxes have the name %q", d.Name))
		}
	}
	return errors.Join(errs...)
}
