package imapd

import (
	"context"
	"errors"
	"strings"

	"github.com/postern-mail/postern/backend/mailstore"
	"github.com/postern-mail/postern/backend/mailstore/acl"
)

// What commands need (RFC 4314 section 4). STORE and the flags of APPEND and
// COPY are judged flag by flag; see flagRights.
const (
	toList     = acl.Lookup
	toRead     = acl.Read   // SELECT, EXAMINE, STATUS, and everything that reads the selected mailbox
	toAdd      = acl.Insert // APPEND, COPY and MOVE into it
	toExpunge  = acl.Expunge
	toMoveAway = acl.DeleteMessage | acl.Expunge
	toCreate   = acl.Create // of the mailbox above, also for the new name of RENAME
	toDelete   = acl.DeleteMailbox
	toRename   = acl.DeleteMailbox // and toCreate where it goes
	// toRenameInbox is more: INBOX stays, and its messages go to a mailbox that
	// has another list.
	toRenameInbox = toRename | toRead | toMoveAway
	// toChange is what makes a selected mailbox READ-WRITE: any of them.
	toChange = acl.Seen | acl.Write | acl.Insert | acl.DeleteMessage | acl.Expunge
)

// flagRights is what a change of flags needs.
func flagRights(system mailstore.Flags, keywords bool) acl.Rights {
	var need acl.Rights
	if system&mailstore.FlagSeen != 0 {
		need |= acl.Seen
	}
	if system&mailstore.FlagDeleted != 0 {
		need |= acl.DeleteMessage
	}
	if system&^(mailstore.FlagSeen|mailstore.FlagDeleted) != 0 || keywords {
		need |= acl.Write
	}
	return need
}

// place is where a name of the client's leads: a mailbox of an account, or a
// name there that has none.
type place struct {
	account *mailstore.Account
	// info is the mailbox; without one only its Name is set, the name in the
	// account, and that is "" for the account itself.
	info mailstore.MailboxInfo
	// prefix is what the client says before the name: "" for its own account.
	prefix string
	who    acl.Who
	public *Public // the configuration of a public namespace, nil for others
	// reader is the client where it has a \Seen of its own, nil elsewhere.
	reader  *mailstore.Reader
	virtual *mailstore.VirtualMailbox // nil for a real one
	// visited: the handle on the account is the place's, who closes it.
	visited bool
}

// errNowhere is the answer for names that lead to no account, or to one that
// shows this client nothing.
var errNowhere = mailstore.ErrNoMailbox

// locate resolves a name. Whoever asked closes the place. A name without a
// mailbox is a place too; that nothing is shared there is ErrNoMailbox.
func (s *session) locate(ctx context.Context, name string) (place, error) {
	ns, rest := s.cfg.Sharing.namespaceOf(name)
	p := place{account: s.account, who: s.who}
	switch {
	case ns == nil:
		rest = name
		if p.virtual = s.cfg.virtualOf(name); p.virtual != nil {
			p.info = p.account.VirtualInfo(p.virtual)
			return p, nil
		}
	case ns.public != nil:
		p.prefix, p.public = ns.prefix, ns.public
		account, err := s.server.deps.Store.Account(ctx, ns.public.account())
		if err != nil {
			return p, err
		}
		p.account, p.visited = account, true
	default:
		owner, local, _ := strings.Cut(rest, delimiter)
		account, err := s.visit(ctx, owner)
		if err != nil {
			return p, err
		}
		p.account, p.visited = account, true
		p.prefix, rest = ns.prefix+owner+delimiter, local
	}
	if p.visited && !s.cfg.Sharing.SeenShared {
		// In a public mailbox, what all had read together stays read for each.
		p.reader = &mailstore.Reader{Account: s.account.Name(), Inherit: p.public != nil}
	}
	var err error
	if p.info, err = p.account.Find(rest); err != nil {
		p.info = mailstore.MailboxInfo{Name: rest}
	}
	return p, nil
}

// visit opens the account of somebody who shares something with the client.
func (s *session) visit(ctx context.Context, owner string) (*mailstore.Account, error) {
	if owner == "" || owner == s.account.Name() || s.cfg.Sharing.isPublic(owner) {
		return nil, errNowhere
	}
	store := s.server.deps.Store
	shared, err := store.IsShared(ctx, owner, s.who.Identifiers())
	if err != nil {
		return nil, err
	}
	if !shared {
		return nil, errNowhere
	}
	account, err := store.Visit(ctx, owner)
	if errors.Is(err, mailstore.ErrNoAccount) {
		err = errNowhere
	}
	return account, err
}

// close gives the place back. The zero place may be closed, too.
func (p *place) close() {
	if p.visited {
		p.account.Close()
		p.visited = false
	}
}

// own reports whether it lies in the client's own account.
func (p *place) own() bool { return p.prefix == "" }

// defaults are the rights that hold where a mailbox's list says nothing.
func (p *place) defaults() acl.List {
	if p.public != nil {
		return p.public.Access
	}
	return acl.List{{Identifier: p.account.Name(), Rights: acl.All}}
}

// always are the rights that no list takes away: the owner, and whom the
// configuration makes an administrator, can always mend the list.
func (p *place) always(who acl.Who) acl.Rights {
	if p.defaults().For(who).Has(acl.Admin) {
		return acl.Lookup | acl.Admin
	}
	return 0
}

// list is the access control list of a mailbox, defaults included.
func (p *place) list(mailbox mailstore.GUID) acl.List {
	return p.account.Access(mailbox).Over(p.defaults())
}

// rightsIn are the client's rights, as they are now, in a mailbox of the
// account.
func (p *place) rightsIn(mailbox mailstore.GUID) acl.Rights {
	if p.own() && p.account.Access(mailbox) == nil {
		return acl.All
	}
	return p.list(mailbox).For(p.who) | p.always(p.who)
}

// rights are the client's rights in the mailbox of the place; none when there
// is no mailbox.
func (p *place) rights() acl.Rights {
	switch {
	case !p.info.Exists:
		return 0
	case p.virtual != nil:
		return virtualRights
	}
	return p.rightsIn(p.info.GUID)
}

// may returns why the client must not do what needs these rights. Whoever may
// not see the mailbox gets the answer that a missing one has.
func (p *place) may(need acl.Rights) error {
	switch have := p.rights(); {
	case p.virtual != nil && need&^virtualRights != 0:
		return errVirtual
	case !p.info.Exists, !have.Has(toList) && !have.Has(need):
		return mailstore.ErrNoMailbox
	case !have.Has(need):
		return errNotPermitted
	}
	return nil
}

var errNotPermitted = refuse("NOPERM", "Permission denied")

// mayCreate returns why the client must not make the mailbox: what counts are
// its rights in the nearest mailbox above, or in the account's top.
func (p *place) mayCreate() error {
	if p.info.Exists && p.rights().Has(toList) {
		return mailstore.ErrMailboxExists
	}
	have := p.defaults().For(p.who)
	for above := p.info.Name; ; {
		i := strings.LastIndex(above, delimiter)
		if i < 0 {
			break
		}
		above = above[:i]
		if parent, err := p.account.Find(above); err == nil {
			have = p.rightsIn(parent.GUID)
			break
		}
	}
	if p.info.Name == "" || !have.Has(toCreate) {
		return errNotPermitted
	}
	return nil
}

// locateFor is locate for names that must be mailboxes in which the client has
// these rights. Without an error the caller closes the place.
func (s *session) locateFor(ctx context.Context, name string, need acl.Rights) (place, error) {
	p, err := s.locate(ctx, name)
	if err == nil {
		err = p.may(need)
	}
	if err != nil {
		p.close()
		return place{}, err
	}
	return p, nil
}

// target is a mailbox that was opened, and where it lies.
type target struct {
	place
	shown mailbox
	// mailbox is where messages can be put, nil for a virtual one.
	mailbox *mailstore.Mailbox
}

// mayRename returns why the client must not rename what is there: the mailbox,
// or in other people's accounts every mailbox below a level without one.
func (s *session) mayRename(ctx context.Context, p *place) error {
	switch {
	case p.info.Exists && p.info.Name == inbox:
		return p.may(toRenameInbox)
	case p.info.Exists:
		return p.may(toRename)
	case p.own():
		return nil
	}
	list, err := p.account.List(ctx)
	if err != nil {
		return err
	}
	seen := false
	for _, m := range list {
		if rest, below := within(m.Name, p.info.Name); !below || rest == "" || !m.Exists {
			continue
		}
		have := p.rightsIn(m.GUID)
		seen = seen || have.Has(toList)
		if !have.Has(toRename) {
			err = errNotPermitted
		}
	}
	if !seen {
		return mailstore.ErrNoMailbox
	}
	return err
}

// open opens a mailbox in which the client has these rights. The caller closes
// the target.
func (s *session) open(ctx context.Context, name string, need acl.Rights) (target, error) {
	p, err := s.locateFor(ctx, name, need)
	if err != nil {
		return target{}, err
	}
	shown, real, err := p.openMailbox(ctx)
	if err == nil && shown.Info().GUID != p.info.GUID {
		shown.Close() // the name went to another, whose list was not asked
		err = mailstore.ErrNoMailbox
	}
	if err != nil {
		p.close()
		return target{}, err
	}
	return target{p, shown, real}, nil
}

func (t *target) close() {
	t.shown.Close()
	t.place.close()
}

// forbiddenFlags are flags that the client may not change.
type forbiddenFlags struct {
	system   mailstore.Flags
	keywords bool
}

// forbidden returns the flags the client may not change there.
func (p *place) forbidden() (no forbiddenFlags) {
	have := p.rights()
	if have == acl.All {
		return no
	}
	for _, f := range systemFlags {
		if !have.Has(flagRights(f.bit, false)) {
			no.system |= f.bit
		}
	}
	no.keywords = !have.Has(acl.Write)
	return no
}

// permitted takes out of flags what the client may not set there; others are
// passed over without a word (RFC 4314 section 4).
func (p *place) permitted(flags flagSet) flagSet {
	no := p.forbidden()
	flags.system &^= no.system
	if no.keywords {
		flags.keywords = nil
	}
	return flags
}
