package rules

import (
	netmail "net/mail"
	"net/netip"
	"slices"
	"strings"

	"github.com/postern-mail/postern/mail"
	"github.com/postern-mail/postern/policy"
	"github.com/postern-mail/postern/status"
)

// met reports whether a condition holds for a recipient. What costs nothing to
// find out is looked at first.
func (q *question) met(c *Condition, to *mail.Recipient) (bool, error) {
	if !q.client(c) || !q.addresses(c, to) || !q.content(c) {
		return false, nil
	}
	for _, ask := range []func() (bool, error){
		func() (bool, error) { return q.inGroup(c.SenderGroups, q.poster()) },
		func() (bool, error) {
			return q.inGroup(c.RecipientGroups, mail.Poster{Address: to.Address, Trusted: true})
		},
		func() (bool, error) { return q.hasAttribute(c.SenderAttributes, q.sendersAccount) },
		func() (bool, error) {
			return q.hasAttribute(c.RecipientAttributes, func() (mail.Account, error) {
				if q.deps.Accounts == nil {
					return mail.Account{}, errNoAccounts
				}
				return q.deps.Accounts.Holder(q.ctx, to.Address)
			})
		},
	} {
		if yes, err := ask(); !yes || err != nil {
			return false, err
		}
	}
	return true, nil
}

// client looks at how the client came.
func (q *question) client(c *Condition) bool {
	client := &q.tx.Client
	loggedIn := q.login() != ""
	ip := client.Remote.Addr().Unmap().WithZone("")
	return (c.Authenticated == nil || *c.Authenticated == loggedIn) &&
		(c.TLS == nil || *c.TLS == (client.TLS != nil)) &&
		(len(c.Clients) == 0 || slices.ContainsFunc(c.Clients, func(n netip.Prefix) bool { return n.Contains(ip) })) &&
		(len(c.ClientNames) == 0 || client.Hostname != "" && slices.ContainsFunc(c.ClientNames, func(p Pattern) bool { return p.matchesName(client.Hostname) })) &&
		(len(c.Logins) == 0 || loggedIn && slices.ContainsFunc(c.Logins, func(l string) bool { return strings.EqualFold(l, q.login()) }))
}

// login is who logged in, "" for nobody.
func (q *question) login() string {
	if id := q.tx.Client.Identity; id != nil && id.Mechanism != "ANONYMOUS" {
		return id.Authentication
	}
	return ""
}

// inside reports whether the client is one of ours.
func (q *question) inside() bool {
	if q.login() != "" {
		return true
	}
	ip := q.tx.Client.Remote.Addr().Unmap().WithZone("")
	return slices.ContainsFunc(q.deps.Networks, func(n netip.Prefix) bool { return n.Contains(ip) })
}

// addresses looks at who writes to whom.
func (q *question) addresses(c *Condition, to *mail.Recipient) bool {
	if c.Direction != AnyDirection && c.Direction != q.direction(to) {
		return false
	}
	named := to.Address
	if !to.Accepted.IsNull() {
		named = to.Accepted
	}
	return matchesAny(c.Senders, q.tx.Envelope.ReversePath) && matchesAny(c.Recipients, named)
}

func (q *question) direction(to *mail.Recipient) Direction {
	switch {
	case q.deps.Domains.Class(to.Address.Domain) == policy.Other:
		return Outgoing
	case q.inside():
		return Internal
	default:
		return Incoming
	}
}

// matchesAny reports whether one of the patterns matches; without any it does.
func matchesAny(patterns []Pattern, a mail.Address) bool {
	return len(patterns) == 0 || slices.ContainsFunc(patterns, func(p Pattern) bool { return p.matches(a) })
}

// content looks at the message, and at what was found out about it.
func (q *question) content(c *Condition) bool {
	if c.Above > 0 && q.tx.Octets <= c.Above {
		return false
	}
	if len(c.Findings) > 0 && !slices.ContainsFunc(c.Findings, q.found) {
		return false
	}
	if len(c.From)+len(c.Headers) == 0 {
		return true
	}
	if q.tx.Message == nil {
		return false
	}
	fields := q.tx.Message.Fields()[q.tx.Message.Ours():]
	return (len(c.From) == 0 || slices.ContainsFunc(authors(fields), func(a mail.Address) bool { return matchesAny(c.From, a) })) &&
		(len(c.Headers) == 0 || slices.ContainsFunc(c.Headers, func(h HeaderMatch) bool { return h.matches(fields) }))
}

func (q *question) found(want FindingMatch) bool {
	return slices.ContainsFunc(q.tx.Findings, func(f mail.Finding) bool {
		return strings.EqualFold(f.Method, want.Method) && (want.Result == "" || strings.EqualFold(f.Result, want.Result))
	})
}

func (h *HeaderMatch) matches(fields []mail.Field) bool {
	return slices.ContainsFunc(fields, func(f mail.Field) bool {
		return f.Is(h.Name) && (h.Value == nil || h.Value.MatchString(f.Unfolded()))
	})
}

// maxAuthors bounds the addresses of From that are looked at.
const maxAuthors = 100

// authors returns the addresses in From fields. What cannot be read has none.
func authors(fields []mail.Field) []mail.Address {
	var all []mail.Address
	parser := netmail.AddressParser{WordDecoder: nil}
	for _, f := range fields {
		if !f.Is("From") {
			continue
		}
		list, err := parser.ParseList(f.Unfolded())
		if err != nil {
			continue
		}
		for _, one := range list[:min(len(list), maxAuthors)] {
			if a, err := mail.ParseAddress(one.Address); err == nil {
				all = append(all, a)
			}
		}
	}
	return all
}

// poster is who sends, as groups know him.
func (q *question) poster() mail.Poster {
	return mail.Poster{Identity: q.tx.Client.Identity, Address: q.tx.Envelope.ReversePath, Trusted: q.inside() && q.login() == ""}
}

// inGroup reports whether somebody is in one of the groups; without any he is.
func (q *question) inGroup(groups []mail.Address, who mail.Poster) (bool, error) {
	if len(groups) == 0 {
		return true, nil
	}
	var failed error
	for _, group := range groups {
		yes, err := q.deps.Groups.Belongs(q.ctx, who, group)
		if yes && err == nil {
			return true, nil
		}
		if status.Of(err) == status.NoSuchUser { // a mistake of ours must not open what it was to guard
			err = status.Errorf(status.ConfigurationError, "no directory has the group %s", group)
		}
		if err != nil && failed == nil {
			failed = err
		}
	}
	return false, failed
}

func (q *question) sendersAccount() (mail.Account, error) {
	if q.login() == "" {
		return mail.Account{}, status.Errorf(status.NoSuchUser, "nobody logged in")
	}
	if q.deps.Accounts == nil {
		return mail.Account{}, errNoAccounts
	}
	if q.sender == nil {
		account, err := q.deps.Accounts.AccountOf(q.ctx, *q.tx.Client.Identity)
		if err != nil {
			return account, err
		}
		q.sender = &account
	}
	return *q.sender, nil
}

// hasAttribute reports whether an account has one of the attributes; without any
// it does. Who has no account has none.
func (q *question) hasAttribute(wanted []Attribute, of func() (mail.Account, error)) (bool, error) {
	if len(wanted) == 0 {
		return true, nil
	}
	account, err := of()
	if err != nil {
		return known(false, err)
	}
	return slices.ContainsFunc(wanted, func(a Attribute) bool {
		values := account.Attributes[a.Name]
		if a.Value == "" {
			return len(values) > 0
		}
		return slices.ContainsFunc(values, func(v string) bool { return strings.EqualFold(v, a.Value) })
	}), nil
}
