package directory

import (
	"context"
	"errors"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/postern-mail/postern/mail"
	"github.com/postern-mail/postern/status"
)

// maxClaimants bounds how many entries may claim one address before the search
// itself counts as failed: two are one too many already, the rest leaves room
// for the weaker matches (extension cut off, catch-all) of the same search.
const maxClaimants = 20

// hit is an entry that stands for an address.
type hit struct {
	entry     Entry
	isGroup   bool
	members   []Entry // of a group without an entry
	rank      int     // which of the wanted keys it claims, 0 is the best
	extension string  // cut off the address to find it, delimiter included
}

// wanted is an address in the forms under which it may be claimed, best first:
// itself, without its extension, its domain's catch-all.
type wanted struct {
	address   mail.Address
	keys      []mail.Address
	extension string // dropped from key 1; "" when that key is the catch-all
}

// want prepares a lookup. It is false when the directory is not asked about
// the address's domain.
func (d *Directory) want(a mail.Address) (wanted, bool) {
	if a.Domain == "" {
		a.Domain = d.cfg.DefaultDomain
	}
	if !isPossibleKey(string(a.Local)) || a.Domain == "" || !d.serves(a.Domain) {
		return wanted{}, false
	}
	w := wanted{address: a, keys: []mail.Address{a.Fold()}}
	if base, extension, ok := d.cutExtension(a); ok {
		w.keys = append(w.keys, base.Fold())
		w.extension = extension
	}
	w.keys = append(w.keys, mail.Address{Domain: a.Domain})
	return w, true
}

func (d *Directory) serves(domain mail.Domain) bool {
	return len(d.cfg.Domains) == 0 || slices.Contains(d.cfg.Domains, domain)
}

// rankOf returns the best key the claims hold, or -1.
func (w wanted) rankOf(all []claim) int {
	best := -1
	for _, c := range all {
		if i := slices.Index(w.keys, c.address.Fold()); i >= 0 && (best < 0 || i < best) {
			best = i
		}
	}
	return best
}

// claimFilter matches entries that may claim any of the keys in one of the
// attributes. The searcher is trusted to find, not to judge.
func (d *Directory) claimFilter(w wanted, attributes, names []string) Filter {
	var any []Filter
	for _, key := range w.keys {
		for _, text := range addressSpellings(key) {
			for _, name := range attributes {
				v := text
				if slices.Contains(d.mapping.PrefixedAttributes, name) {
					v = "smtp:" + text
				}
				any = append(any, Equal(name, v))
			}
		}
		if key.Domain == d.cfg.DefaultDomain && key.Local != "" {
			for _, name := range names {
				any = append(any, Equal(name, string(key.Local)))
			}
		}
	}
	return Or(any...)
}

// find returns the entry that stands for a: an account or a group. The best
// key wins; two entries with the same key are AddressAmbiguous.
func (d *Directory) find(ctx context.Context, w wanted, t *trace) (hit, error) {
	hits, err := d.findEntries(ctx, w, t)
	if err != nil {
		return hit{}, err
	}
	best := hit{rank: len(w.keys)}
	if len(hits) > 0 {
		best = slices.MinFunc(hits, func(a, b hit) int { return a.rank - b.rank })
	}
	if h, found, err := d.findMembership(ctx, w, best.rank, t); found || err != nil {
		return h, err
	}
	if len(hits) == 0 {
		return hit{}, status.Errorf(status.NoSuchUser, "no entry has the address")
	}
	for _, h := range hits {
		if h.rank == best.rank && !h.entry.DN.Equal(best.entry.DN) {
			t.decide("%s and %s both claim %s", best.entry.DN, h.entry.DN, w.keys[best.rank])
			return hit{}, status.Errorf(status.AddressAmbiguous, "%s is claimed by %q and %q",
				w.keys[best.rank], best.entry.DN, h.entry.DN)
		}
	}
	if best.rank == 1 && w.extension != "" {
		best.extension = w.extension
	}
	t.decide("%s stands for %s", best.entry.DN, keyName(w.keys[best.rank]))
	return best, nil
}

// findEntries returns the accounts and groups that claim any of the keys.
// Servers are asked about both at once, unless somebody follows what is asked.
func (d *Directory) findEntries(ctx context.Context, w wanted, t *trace) ([]hit, error) {
	if far, ok := chosen(ctx, d.searcher).(Distant); !ok || !far.Distant() || t != nil {
		users, err := d.findUsers(ctx, w, t)
		if err != nil {
			return nil, err
		}
		groups, err := d.findGroups(ctx, w, t)
		return append(users, groups...), err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	type answer struct {
		groups []hit
		err    error
	}
	done := make(chan answer, 1)
	go func() {
		groups, err := d.findGroups(ctx, w, nil)
		done <- answer{groups, err}
	}()
	users, err := d.findUsers(ctx, w, nil)
	if err != nil {
		cancel()
		<-done
		return nil, err
	}
	other := <-done
	return append(users, other.groups...), other.err
}

func keyName(key mail.Address) string {
	if key.Local == "" {
		return "the domain " + string(key.Domain) + " (catch-all)"
	}
	return key.String()
}

func (d *Directory) findUsers(ctx context.Context, w wanted, t *trace) ([]hit, error) {
	m := d.mapping
	return d.findHits(ctx, Request{
		Base:       m.UserBase,
		Filter:     And(m.user, d.claimFilter(w, m.AddressAttributes, m.LocalPartAttributes)),
		Attributes: m.userAttributes,
	}, t, func(e Entry) hit {
		return hit{entry: e, rank: w.rankOf(d.userClaims(e))}
	})
}

func (d *Directory) findGroups(ctx context.Context, w wanted, t *trace) ([]hit, error) {
	m := d.mapping
	if m.GroupFilter == "" || len(m.GroupAddressAttributes)+len(m.GroupNameAttributes) == 0 {
		return nil, nil
	}
	return d.findHits(ctx, Request{
		Base:       m.GroupBase,
		Filter:     And(m.group, d.claimFilter(w, m.GroupAddressAttributes, m.GroupNameAttributes)),
		Attributes: m.groupAttributes,
	}, t, func(e Entry) hit {
		all := append(claims(e, m.GroupAddressAttributes), d.nameClaims(e)...)
		return hit{entry: e, isGroup: true, rank: w.rankOf(all)}
	})
}

// nameClaims returns the addresses a group has by its name alone.
func (d *Directory) nameClaims(e Entry) []claim {
	if d.cfg.DefaultDomain == "" || !Match(d.mapping.named, e) {
		return nil
	}
	return d.localPartClaims(e, d.mapping.GroupNameAttributes)
}

// userClaims returns what an account's entry says its addresses are.
func (d *Directory) userClaims(e Entry) []claim {
	return append(claims(e, d.mapping.AddressAttributes), d.localPartClaims(e, d.mapping.LocalPartAttributes)...)
}

// localPartClaims reads values as local-parts in the default domain.
func (d *Directory) localPartClaims(e Entry, attributes []string) []claim {
	if d.cfg.DefaultDomain == "" {
		return nil
	}
	var all []claim
	for _, name := range attributes {
		for _, v := range e.Values(name) {
			if isPossibleKey(v) {
				all = append(all, claim{address: mail.Address{Local: mail.LocalPart(v), Domain: d.cfg.DefaultDomain}})
			}
		}
	}
	return all
}

func (d *Directory) findHits(ctx context.Context, req Request, t *trace, judge func(Entry) hit) ([]hit, error) {
	req.SizeLimit = maxClaimants
	entries, err := d.search(ctx, req, t)
	if errors.Is(err, ErrSizeLimit) {
		return nil, status.New(status.AddressAmbiguous, err)
	}
	if err != nil {
		return nil, err
	}
	var hits []hit
	for _, e := range entries {
		h := judge(e)
		if h.rank < 0 {
			t.decide("%s was found but has none of the addresses: ignored", e.DN)
			continue
		}
		hits = append(hits, h)
	}
	return hits, nil
}

// holder returns the account whose own address a is.
func (d *Directory) holder(ctx context.Context, a mail.Address, t *trace) (mail.Account, error) {
	w, ok := d.want(a)
	if !ok {
		return mail.Account{}, status.Errorf(status.NoSuchUser, "not a domain of this directory")
	}
	h, err := d.find(ctx, w, t)
	if err != nil {
		return mail.Account{}, err
	}
	if h.isGroup {
		return mail.Account{}, status.Errorf(status.NoSuchUser, "%q is a group", h.entry.DN)
	}
	account, err := d.account(h.entry)
	if err != nil {
		return mail.Account{}, err
	}
	// Directories keep names unique in one place of the tree only. Two people
	// of one name would read each other's mail.
	if _, err := d.findNamed(ctx, account.Name, t); err != nil && status.Of(err) != status.NoSuchUser {
		return mail.Account{}, err
	}
	return account, nil // a server that compares names exactly may not find the folded one
}

// findNamed finds the one account of a name.
func (d *Directory) findNamed(ctx context.Context, name string, t *trace) (mail.Account, error) {
	if !isPossibleKey(name) {
		return mail.Account{}, status.Errorf(status.NoSuchUser, "not a possible name")
	}
	found, err := d.only(ctx, Equal(d.mapping.NameAttribute, name), func(e Entry) bool {
		return accountName(e, d.mapping.NameAttribute) == foldValue(name)
	}, t)
	return found.account, err
}

// findLogin finds the one account a login stands for.
func (d *Directory) findLogin(ctx context.Context, loginName string, t *trace) (login, error) {
	if !isPossibleKey(loginName) {
		return login{}, status.Errorf(status.NoSuchUser, "not a possible login")
	}
	filter, claimed, ok := d.loginFilter(loginName)
	if !ok {
		return login{}, status.Errorf(status.NoSuchUser, "the login has not what the login filter asks for")
	}
	return d.only(ctx, filter, claimed, t)
}

// only returns the one account whose entry matches filter and is claimed.
func (d *Directory) only(ctx context.Context, filter Filter, claimed func(Entry) bool, t *trace) (login, error) {
	entries, err := d.search(ctx, Request{
		Base:       d.mapping.UserBase,
		Filter:     And(d.mapping.user, filter),
		Attributes: d.mapping.userAttributes,
		SizeLimit:  maxClaimants,
	}, t)
	if errors.Is(err, ErrSizeLimit) {
		return login{}, status.New(status.AddressAmbiguous, err)
	}
	if err != nil {
		return login{}, err
	}
	entries = slices.DeleteFunc(slices.Clone(entries), func(e Entry) bool {
		if claimed(e) {
			return false
		}
		t.decide("%s was found but has not that login: ignored", e.DN)
		return true
	})
	switch len(entries) {
	case 0:
		return login{}, status.Errorf(status.NoSuchUser, "no entry has the login")
	case 1:
		account, err := d.account(entries[0])
		t.decide("%s has the login", entries[0].DN)
		return login{dn: entries[0].DN, account: account}, err
	default:
		return login{}, status.Errorf(status.AddressAmbiguous, "the login is claimed by %q and %q", entries[0].DN, entries[1].DN)
	}
}

// maxKeyOctets bounds what is looked up; no directory holds longer logins.
const maxKeyOctets = mail.MaxLocalPartOctets + 1 + mail.MaxDomainOctets

// isPossibleKey reports whether a directory can hold s as a login or
// local-part at all. What is no UTF-8 must not reach a comparison: folding
// would make different octets equal.
func isPossibleKey(s string) bool {
	return s != "" && len(s) <= maxKeyOctets && utf8.ValidString(s) && !strings.ContainsFunc(s, isControl)
}

func isControl(r rune) bool { return r < ' ' || r == 0x7f }

// loginFilter returns what to search for a login, and what an entry must show
// to be taken for it.
func (d *Directory) loginFilter(loginName string) (f Filter, claimed func(Entry) bool, ok bool) {
	m := d.mapping
	if m.login != nil {
		f, ok := m.login.Execute(NewKey(loginName))
		return f, func(Entry) bool { return true }, ok
	}
	var any []Filter
	for _, name := range m.LoginAttributes {
		any = append(any, Equal(name, loginName))
	}
	var w wanted
	if a, err := mail.ParseAddress(loginName); err == nil && d.serves(a.Domain) {
		w = wanted{address: a, keys: []mail.Address{a.Fold()}}
		any = append(any, d.claimFilter(w, m.AddressAttributes, m.LocalPartAttributes))
	}
	return Or(any...), func(e Entry) bool {
		for _, name := range m.LoginAttributes {
			if containsFold(e.Values(name), loginName) {
				return true
			}
		}
		return w.rankOf(d.userClaims(e)) >= 0
	}, true
}

// account reads an account from its entry.
func (d *Directory) account(e Entry) (mail.Account, error) {
	m := d.mapping
	name := accountName(e, m.NameAttribute)
	if name == "" || strings.ContainsFunc(name, isControl) {
		return mail.Account{}, status.Errorf(status.ConfigurationError, "%q has no usable %s", e.DN, m.NameAttribute)
	}
	a := mail.Account{
		Name:      name,
		Addresses: d.addresses(e),
		Disabled:  d.isDisabled(e, time.Now()),
		Source:    d.cfg.Name,

		CredentialVersion: credentialVersion(e, m.CredentialAttributes),
		NoRelay:           !Match(m.relay, e),
		Attributes:        policyAttributes(e, m.PolicyAttributes),
	}
	if a.Disabled {
		// Servers call every password of a locked account wrong. That holds no
		// longer than the lock.
		a.CredentialVersion += "disabled;"
	}
	if len(a.Addresses) > 0 {
		a.Primary = a.Addresses[0]
	}
	if m.HostAttribute != "" {
		a.Host = e.First(m.HostAttribute)
	}
	if m.TransportAttribute != "" {
		a.Transport = e.First(m.TransportAttribute)
	}
	if m.QuotaAttribute != "" {
		a.QuotaOctets = parseQuota(e.First(m.QuotaAttribute), m.QuotaUnit)
		a.QuotaMessages = parseMessageQuota(e.First(m.QuotaAttribute))
	}
	return a, nil
}

// maxPolicyValues bounds the values of an attribute that rules look at.
const maxPolicyValues = 1000

// policyAttributes returns the attributes of an entry that rules want.
func policyAttributes(e Entry, names []string) map[string][]string {
	var found map[string][]string
	for _, name := range names {
		values := e.Values(name)
		if len(values) == 0 {
			continue
		}
		if found == nil {
			found = make(map[string][]string, len(names))
		}
		found[strings.ToLower(name)] = values[:min(len(values), maxPolicyValues)]
	}
	return found
}

// accountName returns the value that names the account's mailboxes. Values have
// no order in LDAP and the name must never change with the server asked: of
// several the one in the entry's DN counts, else the first by alphabet.
func accountName(e Entry, attribute string) string {
	values := e.Values(attribute)
	if len(values) == 0 {
		return ""
	}
	rdn, _, _ := strings.Cut(e.DN.Key(), ",")
	for _, v := range values {
		if rdn == strings.ToLower(attribute)+"="+escapeDNKey(foldValue(v)) {
			return foldValue(v)
		}
	}
	return foldValue(slices.Min(values))
}

func (d *Directory) isDisabled(e Entry, now time.Time) bool {
	if Match(d.mapping.disabled, e) {
		return true
	}
	for _, name := range d.mapping.ExpiryAttributes {
		for _, v := range e.Values(name) {
			if at, ok := parseExpiry(v); ok && !now.Before(at) {
				return true
			}
		}
	}
	return false
}

// credentialVersion joins what an entry tells of when its password was set, so
// that any of it changing makes another version.
func credentialVersion(e Entry, attributes []string) string {
	var b strings.Builder
	for _, name := range attributes {
		// Servers give values in any order, and that may change.
		for _, v := range slices.Sorted(slices.Values(e.Values(name))) {
			b.WriteString(attributeKey(name))
			b.WriteByte('=')
			b.WriteString(v)
			b.WriteByte(';')
		}
	}
	return b.String()
}
