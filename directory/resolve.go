package directory

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"slices"
	"sort"
	"strings"

	"github.com/postern-mail/postern/mail"
	"github.com/postern-mail/postern/status"
)

// resolution is the work on one question: an address flattened to recipients,
// or entries flattened to the accounts behind them.
type resolution struct {
	d     *Directory
	trace *trace
	start mail.Address

	seen       map[string]progress // entries by DN key, addresses by "@"-text
	recipients []mail.Recipient
	have       map[mail.Address]bool
	mailboxes  []mailbox // the accounts among the recipients
	// namesOnly collects the names of accounts instead of their addresses:
	// who somebody is does not depend on where their mail goes.
	namesOnly bool
	names     []string
	called    map[string]bool // names
	outside   int             // addresses taken that nobody was asked about
	outsiders []mail.Address  // with namesOnly, addresses that are no account's
	domains   []mail.Domain   // with namesOnly, domains named as a whole

	// sender tells who sends; nil where nobody asks who may.
	sender     func(context.Context) (sender, error)
	guarded    bool // it led through a group that not everybody may send to
	vouched    bool // a group further up let the sender in
	restricted DN   // the group that did not

	looped    bool          // something led back to itself
	malformed int           // values nobody can deliver to
	refused   status.Reason // why a disabled account was left out, or OK
}

// mailbox is a recipient that is an account.
type mailbox struct {
	address mail.Address
	account mail.Account
}

type progress int

const (
	inProgress progress = iota + 1
	done
)

func (d *Directory) newResolution(start mail.Address, t *trace) *resolution {
	return &resolution{d: d, trace: t, start: start, seen: map[string]progress{},
		have: map[mail.Address]bool{}, called: map[string]bool{}, refused: status.OK}
}

// expansion is what an address stands for.
type expansion struct {
	recipients []mail.Recipient
	// guarded tells that it depends on who sends: the recipients are those that
	// somebody gets who may send everywhere.
	guarded bool
}

// resolve flattens an address to its recipients, for anybody or for one who
// sends.
func (d *Directory) resolve(ctx context.Context, a mail.Address, from func(context.Context) (sender, error), t *trace) (expansion, error) {
	r := d.newResolution(a, t)
	r.sender = from
	w, ok := d.want(a)
	if !ok {
		return expansion{}, status.Errorf(status.NoSuchUser, "not a domain of this directory")
	}
	if err := r.lookUp(ctx, w, 0); err != nil {
		return expansion{}, err
	}
	for _, m := range r.mailboxes {
		d.holders.suggest(m.address, m.account)
	}
	return expansion{r.recipients, r.guarded}, r.emptiness(len(r.recipients))
}

// lookUp finds what an address stands for, in the tables first and then in the
// directory, and works on it. A table's catch-all comes last: it must not take
// mail from people who exist.
func (r *resolution) lookUp(ctx context.Context, w wanted, depth int) error {
	key := w.address.Fold().String()
	if ok, err := r.enter(key, depth); !ok {
		return err
	}
	defer r.leave(key)
	last := len(w.keys) - 1
	if found, err := r.inTables(ctx, w, w.keys[:last], depth); found || err != nil {
		return err
	}
	h, err := r.d.find(ctx, w, r.trace)
	if status.Of(err) == status.NoSuchUser {
		if found, tableErr := r.inTables(ctx, w, w.keys[last:], depth); found || tableErr != nil {
			return tableErr
		}
	}
	if err != nil {
		return err
	}
	return r.expand(ctx, h, depth)
}

// emptiness says what it means that an existing entry leads to count
// deliverable results.
func (r *resolution) emptiness(count int) error {
	switch {
	case r.restricted != "":
		return status.Errorf(status.GroupRestricted, "the sender may not send to %q", r.restricted)
	case count > 0:
		return nil
	case r.refused != status.OK:
		return status.Errorf(r.refused, "the account is disabled")
	case r.looped:
		return status.Errorf(status.AddressLoop, "leads only back to itself")
	case r.malformed > 0:
		return status.Errorf(status.ConfigurationError, "leads only to values that are no addresses")
	default:
		return status.Errorf(status.NoSuchUser, "leads to nobody")
	}
}

// enter marks an entry or address as being worked on. It is false when there
// is nothing to do: it was done, or is being done further up (a loop).
func (r *resolution) enter(key string, depth int) (bool, error) {
	switch r.seen[key] {
	case inProgress:
		r.looped = true
		r.trace.decide("%s leads back to itself: not followed again", key)
		return false, nil
	case done:
		return false, nil
	}
	if depth > r.d.cfg.MaxDepth {
		return false, status.Errorf(status.AddressLoop, "nested deeper than %d", r.d.cfg.MaxDepth)
	}
	if err := r.bounded(); err != nil {
		return false, err
	}
	r.seen[key] = inProgress
	return true, nil
}

// bounded is an error when there is no room for one more entry or address.
func (r *resolution) bounded() error {
	if len(r.seen)+r.outside >= r.d.cfg.MaxRecipients {
		return status.Errorf(status.AddressLoop, "expands to more than %d", r.d.cfg.MaxRecipients)
	}
	return nil
}

func (r *resolution) leave(key string) { r.seen[key] = done }

// expand works on an entry, an account or a group.
func (r *resolution) expand(ctx context.Context, h hit, depth int) error {
	if h.members != nil {
		return r.memberEntries(ctx, h.members, depth+1)
	}
	key := h.entry.DN.Key()
	ok, err := r.enter(key, depth)
	if !ok {
		return err
	}
	defer r.leave(key)
	if h.isGroup {
		return r.group(ctx, h.entry, depth)
	}
	return r.account(ctx, h, depth)
}

// account adds an account's mailbox, or what its mail is forwarded to.
func (r *resolution) account(ctx context.Context, h hit, depth int) error {
	account, err := r.d.account(h.entry)
	if err != nil {
		r.malformed++
		r.trace.decide("%v: left out", err)
		return nil
	}
	if r.namesOnly {
		r.addName(account.Name)
		return nil
	}
	if account.Disabled && !r.acceptsDisabled(account) {
		return nil
	}
	forwards, entries := r.forwards(h.entry), r.forwardDNs(h.entry)
	keep := len(forwards)+len(entries) == 0 || Match(r.d.mapping.keep, h.entry)
	for _, f := range forwards {
		if slices.ContainsFunc(account.Addresses, func(a mail.Address) bool { return a.Fold() == f.Fold() }) {
			keep = true
			continue
		}
		r.trace.decide("%s forwards to %s", account.Name, f)
		if err := r.address(ctx, f, depth+1); err != nil {
			return err
		}
	}
	if err := r.forwardEntries(ctx, account.Name, entries, depth); err != nil {
		return err
	}
	if keep {
		r.addMailbox(account, h.extension)
	}
	return nil
}

func (r *resolution) acceptsDisabled(account mail.Account) bool {
	switch r.d.cfg.DisabledReceive {
	case "reject":
		r.refused = status.AccountDisabled
	case "defer":
		r.refused = status.PolicyDefer
	default:
		return true
	}
	r.trace.decide("%s is disabled: left out", account.Name)
	return false
}

// forwards returns the addresses in the forward attributes.
func (r *resolution) forwards(e Entry) []mail.Address {
	var list []mail.Address
	for _, name := range r.d.mapping.ForwardAttributes {
		list = append(list, r.memberAddresses(e.Values(name))...)
	}
	return list
}

// addMailbox adds an account as recipient. An extension that was cut off to
// find the account goes on to it (Postfix: propagate_unmatched_extensions),
// where it may name a mailbox.
func (r *resolution) addMailbox(account mail.Account, extension string) {
	if account.Primary.IsNull() {
		r.trace.decide("%s has no address: left out", account.Name)
		return
	}
	to := account.Primary
	if len(to.Local)+len(extension) <= mail.MaxLocalPartOctets {
		to.Local += mail.LocalPart(extension)
	}
	if key := to.Fold(); !r.have[key] {
		r.mailboxes = append(r.mailboxes, mailbox{to, account})
	}
	r.add(mail.Recipient{Address: to, Route: r.d.route(account), Home: r.d.home(account)})
}

func (r *resolution) add(to mail.Recipient) {
	if key := to.Address.Fold(); !r.have[key] {
		r.have[key] = true
		to.Accepted = r.start
		r.recipients = append(r.recipients, to)
	}
}

func (r *resolution) addName(name string) {
	if !r.called[name] {
		r.called[name] = true
		r.names = append(r.names, name)
	}
}

// address works on an address that an entry led to. One the directory does not
// know is external, unless the directory is the authority for its domain.
func (r *resolution) address(ctx context.Context, a mail.Address, depth int) error {
	w, ok := r.d.want(a)
	if !ok {
		if err := r.bounded(); err != nil {
			return err
		}
		r.outside++
		r.external(a)
		return nil
	}
	err := r.lookUp(ctx, w, depth)
	if status.Of(err) != status.NoSuchUser {
		return err
	}
	if len(r.d.cfg.Domains) > 0 {
		r.trace.decide("%s does not exist: left out", a)
	} else {
		r.external(a)
	}
	return nil
}

func (r *resolution) external(a mail.Address) {
	if r.namesOnly {
		r.outsiders = append(r.outsiders, a)
		return
	}
	r.trace.decide("%s is external", a)
	r.add(mail.Recipient{Address: a})
}

// group works on a group: its members, or where not everybody may send to it
// what that leaves.
func (r *resolution) group(ctx context.Context, e Entry, depth int) error {
	if !r.namesOnly && r.d.mapping.guarded(e) {
		return r.guardedGroup(ctx, e, depth)
	}
	return r.members(ctx, e, depth)
}

// members works on everything a group's entry names as members.
func (r *resolution) members(ctx context.Context, e Entry, depth int) error {
	m := r.d.mapping
	if Match(m.contact, e) {
		return r.outsider(ctx, e, depth)
	}
	for _, name := range m.MemberDNAttributes {
		for _, v := range e.Values(name) {
			if err := r.member(ctx, memberDN(v), depth+1); err != nil {
				return err
			}
		}
	}
	for _, name := range m.MemberAddressAttributes {
		for _, a := range r.memberAddresses(e.Values(name)) {
			if err := r.address(ctx, a, depth+1); err != nil {
				return err
			}
		}
	}
	for _, name := range m.MemberURLAttributes {
		for _, v := range e.Values(name) {
			if err := r.memberURL(ctx, v, depth+1); err != nil {
				return err
			}
		}
	}
	return r.primaryMembers(ctx, e, depth)
}

// memberDN drops the unique identifier that uniqueMember may carry after the
// name: dn#'0101'B (RFC 4517 section 3.3.21).
func memberDN(v string) DN {
	if strings.HasSuffix(v, "'B") {
		if at := strings.LastIndex(v, "#'"); at > 0 {
			v = v[:at]
		}
	}
	return DN(v)
}

// memberAddresses reads address values. A bare name gets the default domain;
// commands, files and junk are left out and counted.
func (r *resolution) memberAddresses(values []string) []mail.Address {
	var list []mail.Address
	for _, v := range values {
		text := strings.TrimSpace(v)
		if !strings.ContainsAny(text, "@") && r.d.cfg.DefaultDomain != "" {
			text += "@" + string(r.d.cfg.DefaultDomain)
		}
		c, ok := parseClaim(text)
		if !ok || c.address.Local == "" || strings.HasPrefix(text, "|") || strings.HasPrefix(text, "/") {
			r.malformed++
			r.trace.decide("value %q is no address: left out", v)
			continue
		}
		list = append(list, c.address)
	}
	// Values of an attribute have no order; a fixed one makes results and
	// explanations repeatable.
	sort.Slice(list, func(i, j int) bool { return list[i].String() < list[j].String() })
	return list
}

// member reads the entry a DN names and works on it: an account, a group, or
// anything else that has an address, such as an AD contact.
func (r *resolution) member(ctx context.Context, dn DN, depth int) error {
	if key := dn.Key(); r.seen[key] != 0 {
		_, err := r.enter(key, depth)
		return err
	}
	h, err := r.readMember(ctx, dn)
	if err != nil {
		return err
	}
	if h.entry.DN == "" {
		r.trace.decide("member %s does not exist: left out", dn)
		return nil
	}
	return r.expand(ctx, h, depth)
}

// readMember returns the zero hit when there is no such entry, or none that
// may be a member.
func (r *resolution) readMember(ctx context.Context, dn DN) (hit, error) {
	m := r.d.mapping
	if _, err := ParseDN(string(dn)); err != nil || dn == "" {
		r.malformed++
		return hit{}, nil
	}
	kinds := []struct {
		filter     Filter
		attributes []string
		isGroup    bool
	}{{m.user, m.userAttributes, false}, {m.group, m.groupAttributes, true}, {nil, m.userAttributes, false}}
	for _, kind := range kinds {
		filter := kind.filter
		if filter == nil {
			filter = Present("objectClass")
		} else if !kind.isGroup && !dn.Under(m.UserBase) || kind.isGroup && m.GroupFilter == "" {
			continue
		}
		entries, err := r.d.search(ctx, Request{Base: dn, Scope: ScopeBase, Filter: filter,
			Attributes: kind.attributes, SizeLimit: 1}, r.trace)
		if errors.Is(err, ErrNoSuchBase) {
			return hit{}, nil
		}
		if err != nil {
			return hit{}, err
		}
		if len(entries) == 0 {
			continue
		}
		if kind.filter == nil {
			return hit{}, r.contact(ctx, entries[0])
		}
		return hit{entry: entries[0], isGroup: kind.isGroup}, nil
	}
	return hit{}, nil
}

// contact adds the address of an entry that is neither account nor group.
func (r *resolution) contact(_ context.Context, e Entry) error {
	if addresses := append(r.forwards(e), r.d.addresses(e)...); len(addresses) > 0 {
		r.external(addresses[0])
	}
	return nil
}

// memberURL works on the entries an LDAP URL selects (dynamic groups).
func (r *resolution) memberURL(ctx context.Context, v string, depth int) error {
	req, err := parseLDAPURL(v)
	if err != nil {
		r.malformed++
		r.trace.decide("value %q: %v: left out", v, err)
		return nil
	}
	req.Filter = And(r.d.mapping.user, req.Filter)
	req.Attributes = r.d.mapping.userAttributes
	req.SizeLimit = r.d.cfg.MaxRecipients
	entries, err := r.d.search(ctx, req, r.trace)
	if errors.Is(err, ErrSizeLimit) {
		return status.New(status.AddressLoop, err)
	}
	if err != nil {
		return err
	}
	for _, e := range entries {
		if !e.DN.Under(r.d.mapping.UserBase) {
			continue
		}
		if err := r.expand(ctx, hit{entry: e}, depth); err != nil {
			return err
		}
	}
	return nil
}

var errLDAPURL = errors.New("not an LDAP URL without a host")

// parseLDAPURL reads "ldap:///base?attributes?scope?filter" (RFC 4516). A URL
// that names a host is refused: we follow no references to other servers.
func parseLDAPURL(v string) (Request, error) {
	rest, ok := strings.CutPrefix(v, "ldap:///")
	if !ok {
		return Request{}, errLDAPURL
	}
	parts := strings.Split(rest, "?")
	req := Request{Scope: ScopeBase, Filter: Present("objectClass")}
	for i, part := range parts {
		text, err := url.PathUnescape(part)
		if err != nil {
			return Request{}, errLDAPURL
		}
		switch {
		case i == 0:
			req.Base, err = ParseDN(text)
		case i == 1 && text != "" && text != "*":
			req.Attributes = strings.Split(text, ",")
		case i == 2 && text != "":
			req.Scope, err = ParseScope(text)
		case i == 3 && text != "":
			req.Filter, err = ParseFilter(text)
		case i > 3 && strings.HasPrefix(text, "!"):
			err = errors.New("critical extension")
		}
		if err != nil {
			return Request{}, err
		}
	}
	return req, nil
}

// ParseScope reads what Scope's String writes, in any letter case.
func ParseScope(s string) (Scope, error) {
	if i := slices.Index(scopeNames[:], strings.ToLower(s)); i >= 0 {
		return Scope(i), nil
	}
	return 0, fmt.Errorf("scope %q is none of %s", s, strings.Join(scopeNames[:], ", "))
}
