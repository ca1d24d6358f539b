package directory

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/postern-mail/postern/mail"
)

// Config says what a directory's entries mean.
type Config struct {
	// Name stands in accounts, logs and explanations; "" means the preset's.
	Name string
	// Preset is the mapping to start from: openldap (default),
	// openldap-qmail, openldap-postfixbook, freeipa or ad.
	Preset string
	// BaseDN is the directory's suffix, "dc=example,dc=com". Required.
	BaseDN DN
	// Mapping overrides the preset, field by field.
	Mapping Mapping
	// Domains are those the directory is asked about, most important first:
	// of several addresses of an account the one in the first of them is
	// primary. Addresses elsewhere are never looked up and count as external.
	// Empty means that any domain is looked up.
	Domains []mail.Domain
	// DefaultDomain completes member values and addresses without a domain:
	// "root" in a group, RCPT TO:<postmaster>. "" means the first of Domains.
	DefaultDomain mail.Domain
	// RecipientDelimiter is the set of characters of which the first in a
	// local-part begins an extension: alice+lists is alice when there is no
	// alice+lists. "" means "+", "off" means that there are no extensions.
	RecipientDelimiter string
	// DisabledReceive says what becomes of mail to a disabled account:
	// accept (default), reject or defer.
	DisabledReceive string
	// Hosts maps values of the host attribute, in lower case, to delivery
	// targets, "" being the domain's.
	Hosts map[string]string
	// UnknownHost says where mail for an account goes whose host Hosts does not
	// have: domain (default), like all mail of the domain; connect, to that host
	// with the domain's transport; defer, nowhere: it waits, for a host that is
	// missing here must not send mail to a wrong store.
	UnknownHost string
	// Homes are the hosts, in lower case, that an account can be pinned to by
	// its host attribute as the node of a pair that it is at home on; accounts
	// with no such host are at home by their name. nil: recipients carry no
	// home, as nobody asks.
	Homes map[string]mail.Home
	// MaxDepth bounds how deep groups and aliases nest; 0 means 32.
	MaxDepth int
	// MaxRecipients bounds the entries and addresses one address may expand
	// to; 0 means 10000.
	MaxRecipients int
	// LookupTimeout bounds one whole answer, with all its searches; 0 means
	// 10 s.
	LookupTimeout time.Duration
	// Cache bounds the memory of answers.
	Cache CacheConfig
}

// CacheConfig bounds how long and how many answers are remembered.
type CacheConfig struct {
	// Disabled asks the directory every time.
	Disabled bool
	// PositiveTTL is how long a yes is served without asking; 0 means 60 s.
	PositiveTTL time.Duration
	// NegativeTTL is how long a no is served without asking; 0 means 10 s. A
	// no is never served longer, outage or not.
	NegativeTTL time.Duration
	// StaleTTL is how old a yes may be served while the directory does not
	// answer; 0 means 1 h, a negative value never.
	StaleTTL time.Duration
	// MaxEntries bounds each of the caches, one per kind of question; 0 means
	// 100000. Answers "no" have a quarter of it for themselves.
	MaxEntries int
}

// Mapping says which attributes and filters carry which meaning. In Config a
// zero field keeps the preset's value and "-" (for a list: the single element
// "-") empties it. Base DNs that end in "{base}" have it replaced by BaseDN.
type Mapping struct {
	// UserBase and UserFilter find entries that may be accounts.
	UserBase   DN
	UserFilter string
	// NameAttribute holds the account's name, which owns its mailboxes.
	NameAttribute string
	// LoginAttributes hold what a person may type as login besides an address.
	LoginAttributes []string
	// LoginFilter, a template, replaces the condition made from
	// LoginAttributes and the addresses.
	LoginFilter string
	// AddressAttributes hold an account's addresses; the first attribute that
	// an entry has gives the primary one. A value "@domain" makes the account
	// the domain's catch-all. Values of the form "SMTP:address" are primary,
	// "smtp:address" is an alias, other prefixes are not addresses.
	AddressAttributes []string
	// LocalPartAttributes hold local-parts of an account's further addresses in
	// DefaultDomain, such as uid where people have no mail attribute. They are
	// primary only where nothing else is.
	LocalPartAttributes []string
	// PrefixedAttributes are those of the address attributes whose values
	// carry "smtp:".
	PrefixedAttributes []string
	// ForwardAttributes hold addresses mail goes to instead of the mailbox;
	// to it as well when one of them is the account's own.
	ForwardAttributes []string
	// ForwardDNAttributes name entries that mail goes to instead of the mailbox.
	ForwardDNAttributes []string
	// KeepFilter matches entries that keep a copy of what is forwarded.
	KeepFilter string
	// HostAttribute names the backend that holds the account.
	HostAttribute string
	// TransportAttribute says where mail for the account goes, as in
	// mail.Account.Transport.
	TransportAttribute string
	// QuotaAttribute holds the mailbox limit: a number, in QuotaUnit octets
	// when it carries no unit of its own ("2G", "5242880S").
	QuotaAttribute string
	QuotaUnit      int64
	// DisabledFilter matches entries that may not log in.
	DisabledFilter string
	// ExpiryAttributes hold a time after which the account is disabled:
	// GeneralizedTime or AD's count of 100 ns since 1601.
	ExpiryAttributes []string
	// CredentialAttributes change when the account's password does, such as
	// the time it was set: what was learned about a password is asked anew then.
	CredentialAttributes []string
	// GroupBase and GroupFilter find groups and aliases.
	GroupBase   DN
	GroupFilter string
	// GroupAddressAttributes hold a group's addresses.
	GroupAddressAttributes []string
	// GroupNameAttributes hold a group's local-part in DefaultDomain, for
	// groups that GroupNameFilter matches; without the filter for none.
	GroupNameAttributes []string
	GroupNameFilter     string
	// MemberDNAttributes name entries, MemberAddressAttributes addresses and
	// MemberURLAttributes LDAP URLs whose entries are members.
	MemberDNAttributes      []string
	MemberAddressAttributes []string
	MemberURLAttributes     []string
	// MembershipAttributes, of accounts, hold addresses of groups they belong
	// to, for groups that have no entry.
	MembershipAttributes []string
	// PrimaryGroupAttribute, of accounts, holds the end of the objectSid of a
	// group they belong to without being named there.
	PrimaryGroupAttribute string
	// ContactFilter matches entries that stand for people elsewhere: they are
	// found like groups, and mail goes to the addresses in ForwardAttributes.
	ContactFilter string
	// SendAsAttributes, of accounts and groups, name entries or logins that
	// may send under the entry's addresses. Groups named there stand for
	// their members.
	SendAsAttributes []string
	// SharedFilter matches groups whose members may send under its address.
	SharedFilter string
	// MembersOnlyFilter matches groups that only members may send to, and
	// LoginOnlyFilter those that only somebody who logged in may.
	MembersOnlyFilter string
	LoginOnlyFilter   string
	// PosterAttributes of a group name those who may send to it, beside members
	// where these may, and DeniedPosterAttributes those who may not: by DN,
	// address, mailto: or LDAP URL, or "@domain". PosterDomainAttributes hold
	// domains whose addresses may send to it.
	PosterAttributes       []string
	DeniedPosterAttributes []string
	PosterDomainAttributes []string
	// ModeratorAttributes name those who get what others send to a group, in
	// the same forms. Groups that ModeratedFilter matches are moderated; without
	// it those that name moderators.
	ModeratorAttributes []string
	ModeratedFilter     string
	// RelayFilter matches accounts that may send to domains that are not ours;
	// without it all may.
	RelayFilter string
	// PolicyAttributes of accounts are for rules: mail.Account.Attributes.
	PolicyAttributes []string
}

// none empties a field that the preset fills.
const none = "-"

// mapping is a Mapping with its filters parsed.
type mapping struct {
	Mapping
	user, group            Filter
	login                  *Template
	keep, disabled, shared Filter
	named, contact         Filter // groups addressed by name; people elsewhere
	membersOnly, loginOnly Filter
	moderated, relay       Filter
	userAttributes         []string // to ask for
	groupAttributes        []string
}

// withDefaults checks cfg and fills in what it leaves open.
func (cfg Config) withDefaults() (Config, error) {
	if cfg.Preset == "" {
		cfg.Preset = "openldap"
	}
	if cfg.Name == "" {
		cfg.Name = cfg.Preset
	}
	if _, err := ParseDN(string(cfg.BaseDN)); err != nil || cfg.BaseDN == "" {
		return cfg, fmt.Errorf("base DN %q: a suffix such as dc=example,dc=com is needed", cfg.BaseDN)
	}
	domains := slices.Clone(cfg.Domains)
	for i, domain := range domains {
		canonical, err := mail.ParseDomain(string(domain))
		if err != nil {
			return cfg, fmt.Errorf("domain %q: %w", domain, err)
		}
		domains[i] = canonical
	}
	cfg.Domains = domains
	if cfg.DefaultDomain == "" && len(domains) > 0 {
		cfg.DefaultDomain = domains[0]
	}
	switch cfg.RecipientDelimiter {
	case "":
		cfg.RecipientDelimiter = "+"
	case "off":
		cfg.RecipientDelimiter = ""
	}
	if cfg.DisabledReceive == "" {
		cfg.DisabledReceive = "accept"
	}
	if cfg.UnknownHost == "" {
		cfg.UnknownHost = unknownDomain
	}
	if !slices.Contains([]string{unknownDomain, unknownConnect, unknownDefer}, cfg.UnknownHost) {
		return cfg, fmt.Errorf("unknown host %q: must be domain, connect or defer", cfg.UnknownHost)
	}
	if !slices.Contains([]string{"accept", "reject", "defer"}, cfg.DisabledReceive) {
		return cfg, fmt.Errorf("disabled accounts receive %q: must be accept, reject or defer", cfg.DisabledReceive)
	}
	setDefault(&cfg.MaxDepth, 32)
	setDefault(&cfg.MaxRecipients, 10000)
	setDefault(&cfg.LookupTimeout, 10*time.Second)
	setDefault(&cfg.Cache.PositiveTTL, time.Minute)
	setDefault(&cfg.Cache.NegativeTTL, 10*time.Second)
	setDefault(&cfg.Cache.StaleTTL, time.Hour)
	setDefault(&cfg.Cache.MaxEntries, 100000)
	if cfg.MaxDepth < 1 || cfg.MaxRecipients < 1 || cfg.LookupTimeout < 0 || cfg.Cache.MaxEntries < 1 {
		return cfg, fmt.Errorf("limits of directory %q must be positive", cfg.Name)
	}
	return cfg, nil
}

func setDefault[T comparable](field *T, value T) {
	var zero T
	if *field == zero {
		*field = value
	}
}

// compile lays the overrides over the preset and parses the result.
func (cfg Config) compile() (*mapping, error) {
	preset, ok := presets[cfg.Preset]
	if !ok {
		return nil, fmt.Errorf("preset %q: must be one of %s", cfg.Preset, strings.Join(PresetNames(), ", "))
	}
	m := &mapping{Mapping: overlay(preset, cfg.Mapping)}
	for _, base := range []*DN{&m.UserBase, &m.GroupBase} {
		*base = DN(strings.ReplaceAll(string(*base), "{base}", string(cfg.BaseDN)))
		if _, err := ParseDN(string(*base)); err != nil {
			return nil, err
		}
	}
	if err := m.parseFilters(); err != nil {
		return nil, err
	}
	if err := m.checkAttributes(); err != nil {
		return nil, err
	}
	m.collectAttributes()
	return m, nil
}

func overlay(m, over Mapping) Mapping {
	text := func(field *string, value string) {
		if value == none {
			*field = ""
		} else if value != "" {
			*field = value
		}
	}
	list := func(field *[]string, values []string) {
		if len(values) == 1 && values[0] == none {
			*field = nil
		} else if len(values) > 0 {
			*field = values
		}
	}
	setOver := func(field *DN, value DN) {
		if value != "" {
			*field = value
		}
	}
	setOver(&m.UserBase, over.UserBase)
	setOver(&m.GroupBase, over.GroupBase)
	text(&m.UserFilter, over.UserFilter)
	text(&m.NameAttribute, over.NameAttribute)
	text(&m.LoginFilter, over.LoginFilter)
	text(&m.KeepFilter, over.KeepFilter)
	text(&m.HostAttribute, over.HostAttribute)
	text(&m.TransportAttribute, over.TransportAttribute)
	text(&m.QuotaAttribute, over.QuotaAttribute)
	text(&m.DisabledFilter, over.DisabledFilter)
	text(&m.GroupFilter, over.GroupFilter)
	text(&m.GroupNameFilter, over.GroupNameFilter)
	text(&m.SharedFilter, over.SharedFilter)
	text(&m.PrimaryGroupAttribute, over.PrimaryGroupAttribute)
	text(&m.ContactFilter, over.ContactFilter)
	text(&m.MembersOnlyFilter, over.MembersOnlyFilter)
	text(&m.LoginOnlyFilter, over.LoginOnlyFilter)
	text(&m.ModeratedFilter, over.ModeratedFilter)
	text(&m.RelayFilter, over.RelayFilter)
	if over.QuotaUnit != 0 {
		m.QuotaUnit = over.QuotaUnit
	}
	setDefault(&m.QuotaUnit, 1)
	for i, field := range m.lists() {
		list(field, *over.lists()[i])
	}
	return m
}

// lists returns the mapping's lists of attributes.
func (m *Mapping) lists() []*[]string {
	return []*[]string{
		&m.LoginAttributes, &m.AddressAttributes, &m.LocalPartAttributes, &m.PrefixedAttributes, &m.ForwardAttributes,
		&m.ExpiryAttributes, &m.GroupAddressAttributes, &m.GroupNameAttributes, &m.MemberDNAttributes,
		&m.MemberAddressAttributes, &m.MemberURLAttributes, &m.SendAsAttributes, &m.CredentialAttributes,
		&m.PosterAttributes, &m.DeniedPosterAttributes, &m.PosterDomainAttributes, &m.ModeratorAttributes,
		&m.ForwardDNAttributes, &m.MembershipAttributes, &m.PolicyAttributes,
	}
}

func (m *mapping) parseFilters() error {
	nothing := Or()
	for _, f := range []struct {
		name   string
		text   string
		filter *Filter
		absent Filter
	}{
		{"user filter", m.UserFilter, &m.user, nil},
		{"group filter", m.GroupFilter, &m.group, nothing},
		{"keep filter", m.KeepFilter, &m.keep, nothing},
		{"disabled filter", m.DisabledFilter, &m.disabled, nothing},
		{"group name filter", m.GroupNameFilter, &m.named, nothing},
		{"shared filter", m.SharedFilter, &m.shared, nothing},
		{"contact filter", m.ContactFilter, &m.contact, nothing},
		{"members only filter", m.MembersOnlyFilter, &m.membersOnly, nothing},
		{"login only filter", m.LoginOnlyFilter, &m.loginOnly, nothing},
		{"moderated filter", m.ModeratedFilter, &m.moderated, nothing},
		{"relay filter", m.RelayFilter, &m.relay, And()},
	} {
		if f.text == "" {
			if f.absent == nil {
				return fmt.Errorf("%s is missing", f.name)
			}
			*f.filter = f.absent
			continue
		}
		parsed, err := ParseFilter(f.text)
		if err != nil {
			return fmt.Errorf("%s %q: %w", f.name, f.text, err)
		}
		*f.filter = parsed
	}
	for _, judged := range []Filter{m.keep, m.disabled, m.named, m.contact, m.shared, m.membersOnly, m.loginOnly, m.moderated, m.relay} {
		if rule := UnsupportedRule(judged); rule != "" {
			return fmt.Errorf("filter %s: matching rule %s is not known here", judged, rule)
		}
	}
	if m.ContactFilter != "" {
		m.group = Or(m.group, m.contact)
	}
	if m.LoginFilter == "" {
		return nil
	}
	template, err := ParseTemplate(m.LoginFilter)
	if err != nil {
		return fmt.Errorf("login filter %q: %w", m.LoginFilter, err)
	}
	m.login = template
	return nil
}

func (m *mapping) checkAttributes() error {
	for _, list := range m.lists() {
		for _, name := range *list {
			if !IsAttributeDescription(name) {
				return fmt.Errorf("%q is not an attribute", name)
			}
		}
	}
	for _, name := range []string{m.HostAttribute, m.TransportAttribute, m.QuotaAttribute, m.PrimaryGroupAttribute} {
		if name != "" && !IsAttributeDescription(name) {
			return fmt.Errorf("%q is not an attribute", name)
		}
	}
	if !IsAttributeDescription(m.NameAttribute) {
		return fmt.Errorf("name attribute %q is not an attribute", m.NameAttribute)
	}
	if len(m.AddressAttributes)+len(m.LocalPartAttributes) == 0 {
		return fmt.Errorf("no address attributes: nobody could be found")
	}
	return nil
}

// collectAttributes lists what searches ask for: nothing that the mapping does
// not use, and so never a password.
func (m *mapping) collectAttributes() {
	user := slices.Concat(m.LoginAttributes, m.AddressAttributes, m.LocalPartAttributes, m.ForwardAttributes, m.ExpiryAttributes,
		m.SendAsAttributes, m.CredentialAttributes, []string{m.NameAttribute, m.HostAttribute, m.TransportAttribute, m.QuotaAttribute, "objectClass"},
		m.ForwardDNAttributes, m.MembershipAttributes, []string{m.PrimaryGroupAttribute},
		FilterAttributes(m.keep), FilterAttributes(m.disabled), FilterAttributes(m.relay), m.PolicyAttributes)
	group := slices.Concat(m.GroupAddressAttributes, m.GroupNameAttributes, m.MemberDNAttributes,
		m.MemberAddressAttributes, m.MemberURLAttributes, m.SendAsAttributes, []string{"objectClass"},
		m.PosterAttributes, m.DeniedPosterAttributes, m.PosterDomainAttributes, m.ModeratorAttributes,
		FilterAttributes(m.named), FilterAttributes(m.shared), FilterAttributes(m.membersOnly),
		FilterAttributes(m.loginOnly), FilterAttributes(m.moderated))
	if m.ContactFilter != "" {
		group = slices.Concat(group, m.ForwardAttributes, FilterAttributes(m.contact))
	}
	if m.PrimaryGroupAttribute != "" {
		group = append(group, "objectSid")
	}
	m.userAttributes, m.groupAttributes = distinct(user), distinct(group)
}

func distinct(names []string) []string {
	var out []string
	seen := map[string]bool{"": true}
	for _, name := range names {
		if key := attributeKey(name); !seen[key] {
			seen[key] = true
			out = append(out, name)
		}
	}
	return out
}
