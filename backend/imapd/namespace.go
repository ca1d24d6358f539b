package imapd

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/postern-mail/postern/backend/mailstore"
	"github.com/postern-mail/postern/backend/mailstore/acl"
	"github.com/postern-mail/postern/internal/utf7"
	"github.com/postern-mail/postern/mail"
)

// Sharing says where mailboxes that are not the client's own lie. The zero
// value has none, and then there are no access control lists either.
type Sharing struct {
	// Others is the name above other people's mailboxes, without a separator at
	// its end, such as "Other Users"; below it lie their accounts' names. Empty:
	// people cannot share mailboxes.
	Others string
	// Public are accounts that belong to nobody.
	Public []Public
	// GroupAttribute names the attribute of accounts (mail.Account.Attributes)
	// that holds the names of the groups they belong to. Empty: no groups.
	GroupAttribute string
	// SeenShared makes \Seen in mailboxes of others one for all who use them.
	// Otherwise everybody has their own.
	SeenShared bool
}

// Public is one public namespace.
type Public struct {
	// Name is the name above its mailboxes, without a separator at its end.
	Name string
	// Account is the account that holds them.
	Account string
	// Access holds where a mailbox's own list says nothing about an identifier.
	// Those with the right "a" here keep it in every mailbox.
	Access acl.List
	// QuotaOctets and QuotaMessages are the account's limits, 0 for none.
	QuotaOctets, QuotaMessages int64
}

func (p *Public) account() mail.Account {
	return mail.Account{Name: p.Account, QuotaOctets: p.QuotaOctets, QuotaMessages: p.QuotaMessages}
}

// namespace is one of the namespaces of others.
type namespace struct {
	prefix string // with the delimiter
	public *Public
}

// enabled reports whether there is anything to share.
func (c *Sharing) enabled() bool { return c.Others != "" || len(c.Public) > 0 }

// namespaceOf returns the namespace that a name lies in, and the rest of the
// name; nil for the client's own. The top of a namespace lies in it.
func (c *Sharing) namespaceOf(name string) (*namespace, string) {
	for i := range c.Public {
		if rest, ok := within(name, c.Public[i].Name); ok {
			return &namespace{c.Public[i].Name + delimiter, &c.Public[i]}, rest
		}
	}
	if rest, ok := within(name, c.Others); ok && c.Others != "" {
		return &namespace{prefix: c.Others + delimiter}, rest
	}
	return nil, ""
}

// within returns what of a name lies below top.
func within(name, top string) (rest string, ok bool) {
	rest, ok = strings.CutPrefix(name, top)
	if !ok || rest == "" {
		return "", ok
	}
	return strings.CutPrefix(rest, delimiter)
}

// ownerOf is the account that a name of the client's leads to, for the audit;
// "" for its own.
func (s *session) ownerOf(name string) string {
	ns, rest := s.cfg.Sharing.namespaceOf(name)
	switch {
	case ns == nil:
		return ""
	case ns.public != nil:
		return ns.public.Account
	}
	owner, _, _ := strings.Cut(rest, delimiter)
	return owner
}

func (c *Sharing) isPublic(account string) bool {
	return slices.ContainsFunc(c.Public, func(p Public) bool { return p.Account == account })
}

// Check returns what is wrong with the namespaces.
func (c *Sharing) Check() error {
	var errs []error
	tops := make([]string, 0, len(c.Public)+1)
	if c.Others != "" {
		tops = append(tops, c.Others)
	}
	accounts := make(map[string]bool)
	for _, p := range c.Public {
		tops = append(tops, p.Name)
		if p.Account == "" || accounts[p.Account] {
			errs = append(errs, fmt.Errorf("public namespace %q: its account is missing or another one's", p.Name))
		}
		accounts[p.Account] = true
	}
	for i, top := range tops {
		if name, err := mailboxName(utf7.Encode(top)); err != nil || name != top || strings.EqualFold(top, inbox) ||
			strings.ContainsAny(top, "*%") {
			errs = append(errs, fmt.Errorf("namespace %q: not the name of a mailbox", top))
		}
		for _, other := range tops[:i] {
			_, below := within(top, other)
			_, above := within(other, top)
			if below || above {
				errs = append(errs, fmt.Errorf("namespaces %q and %q overlap", other, top))
			}
		}
	}
	return errors.Join(errs...)
}

// namespace is NAMESPACE (RFC 2342).
func (s *session) namespace(context.Context) (result, error) {
	s.w.str(`* NAMESPACE (("" "` + s.separator() + `")) `)
	var others, public []string
	if s.cfg.Sharing.Others != "" {
		others = []string{s.cfg.Sharing.Others}
	}
	for _, p := range s.cfg.Sharing.Public {
		public = append(public, p.Name)
	}
	s.writeNamespaces(others)
	s.w.char(' ')
	s.writeNamespaces(public)
	s.w.line("")
	return result{}, nil
}

func (s *session) writeNamespaces(tops []string) {
	if len(tops) == 0 {
		s.w.str("NIL")
		return
	}
	s.w.char('(')
	for _, top := range tops {
		s.w.char('(')
		s.w.text(s.wireName(top + delimiter))
		s.w.str(` "` + s.separator() + `")`)
	}
	s.w.char(')')
}

// mailboxes lists every name the client may see that a pattern might match, as
// the client says it.
func (s *session) mailboxes(ctx context.Context, patterns []pattern) ([]mailstore.MailboxInfo, error) {
	infos, err := s.account.List(ctx)
	if err != nil {
		return nil, err
	}
	infos = s.withVirtual(infos)
	if !s.cfg.Sharing.enabled() {
		return infos, nil
	}
	// Subscriptions are the client's own, by the whole name.
	subscribed := make(map[string]bool)
	infos = slices.DeleteFunc(infos, func(m mailstore.MailboxInfo) bool {
		ns, _ := s.cfg.Sharing.namespaceOf(m.Name)
		if ns != nil && m.Subscribed {
			subscribed[m.Name] = true
		}
		return ns != nil
	})
	shared, err := s.sharedMailboxes(ctx, patterns)
	if err != nil {
		return nil, err
	}
	for _, m := range shared {
		m.Subscribed = subscribed[m.Name]
		delete(subscribed, m.Name)
		infos = append(infos, m)
	}
	for name := range subscribed {
		infos = append(infos, mailstore.MailboxInfo{Name: name, Subscribed: true})
	}
	return infos, nil
}

// sharedMailboxes lists the mailboxes of others that the client may see.
func (s *session) sharedMailboxes(ctx context.Context, patterns []pattern) ([]mailstore.MailboxInfo, error) {
	var all []mailstore.MailboxInfo
	sharing := &s.cfg.Sharing
	for i := range sharing.Public {
		if !reachedBy(patterns, sharing.Public[i].Name) {
			continue
		}
		some, err := s.listAt(ctx, sharing.Public[i].Name)
		if err != nil {
			return nil, err
		}
		all = append(all, some...)
	}
	if sharing.Others == "" || !reachedBy(patterns, sharing.Others) {
		return all, nil
	}
	owners, err := s.server.deps.Store.Sharing(ctx, s.who.Identifiers())
	if err != nil {
		return nil, err
	}
	for _, owner := range owners {
		// A name that cannot be a level is not shown.
		if strings.ContainsAny(owner, delimiter+"*%") {
			continue
		}
		some, err := s.listAt(ctx, sharing.Others+delimiter+owner)
		if errors.Is(err, mailstore.ErrNoMailbox) {
			continue
		}
		if err != nil {
			return nil, err
		}
		all = append(all, some...)
	}
	return all, nil
}

// listAt lists what the client may see of the account that a name leads to.
func (s *session) listAt(ctx context.Context, top string) ([]mailstore.MailboxInfo, error) {
	p, err := s.locate(ctx, top)
	if err != nil {
		return nil, err
	}
	defer p.close()
	list, err := p.account.List(ctx)
	if err != nil {
		return nil, err
	}
	shown := list[:0]
	for _, m := range list {
		if !m.Exists || !p.rightsIn(m.GUID).Has(toList) {
			continue
		}
		// What somebody else's mailbox is for says nothing about the client's.
		m.Name, m.SpecialUse = p.prefix+m.Name, ""
		shown = append(shown, m)
	}
	return shown, nil
}

// reachedBy reports whether a pattern may match top or a name below it.
func reachedBy(patterns []pattern, top string) bool {
	return slices.ContainsFunc(patterns, func(p pattern) bool { return p.match(top) || p.reaches(top+delimiter) })
}

// who is whom access control lists mean by an account.
func (c *Sharing) who(account *mail.Account) acl.Who {
	w := acl.Who{Account: account.Name}
	if c.GroupAttribute != "" {
		w.Groups = account.Attributes[strings.ToLower(c.GroupAttribute)]
	}
	return w
}
