package policy

import (
	"context"
	"net/netip"
	"strings"

	"github.com/postern-mail/postern/mail"
	"github.com/postern-mail/postern/status"
)

// access is a check_*_access restriction: one table searched for one subject.
type access struct {
	name      string
	about     subject
	source    *source
	delimiter string
	// dottedParents makes a parent domain match only as ".example.com"; the
	// default takes "example.com" for its subdomains too, as Postfix does
	// unless smtpd_access_maps is taken out of parent_domain_matches_subdomains.
	dottedParents bool
}

// Name returns the restriction's name.
func (a *access) Name() string { return a.name }

// Evaluate returns what the table says, with nested restrictions left out:
// the chain asks branch.
func (a *access) Evaluate(ctx context.Context, tx *mail.Transaction) (mail.Verdict, error) {
	v, _, err := a.branch(ctx, tx)
	return v, err
}

func (a *access) branch(_ context.Context, tx *mail.Transaction) (mail.Verdict, []item, error) {
	t := a.source.table()
	if t == nil {
		return mail.Verdict{}, nil, status.Errorf(status.ConfigurationError, "table %s is not loaded", a.source.file)
	}
	found := a.search(t, tx)
	if found == nil {
		return mail.Verdict{}, nil, nil
	}
	return found.answer(a.about, tx), found.nested, nil
}

func (a *access) search(t *table, tx *mail.Transaction) *action {
	switch a.about {
	case aboutClient:
		return a.searchClient(t, tx.Client)
	case aboutHelo:
		return a.searchHelo(t, tx.Client.Helo)
	case aboutSender:
		return a.searchAddress(t, tx.Envelope.ReversePath)
	default:
		if tx.Recipient == nil {
			return nil
		}
		return a.searchAddress(t, tx.Recipient.Address)
	}
}

func (a *access) searchClient(t *table, client mail.Client) *action {
	ip := client.Remote.Addr().Unmap().WithZone("")
	if t.networks != nil {
		return t.address(ip)
	}
	name := client.Hostname
	if name == "" {
		name = "unknown"
	}
	if found := a.searchName(t, strings.ToLower(name)); found != nil {
		return found
	}
	return searchIP(t, ip)
}

// searchHelo looks for the HELO name and its parents; an address in place of
// a name is looked for as it stands, in a CIDR table as an address.
func (a *access) searchHelo(t *table, helo string) *action {
	if helo == "" {
		return nil
	}
	if t.networks != nil {
		literal := strings.TrimSuffix(strings.TrimPrefix(helo, "["), "]")
		if len(literal) > 5 && strings.EqualFold(literal[:5], "IPv6:") {
			literal = literal[5:]
		}
		ip, err := netip.ParseAddr(literal)
		if err != nil {
			return nil
		}
		return t.address(ip.Unmap())
	}
	if domain, err := mail.ParseDomain(helo); err == nil {
		return a.searchName(t, strings.ToLower(string(domain)))
	}
	return t.lookup(strings.ToLower(helo))
}

// searchName looks for a domain and then its parents.
func (a *access) searchName(t *table, name string) *action {
	if found := t.lookup(name); found != nil {
		return found
	}
	if strings.HasPrefix(name, "[") {
		return nil
	}
	for {
		dot := strings.IndexByte(name, '.')
		if dot < 0 {
			return nil
		}
		if found := t.lookup(name[dot:]); found != nil {
			return found
		}
		name = name[dot+1:]
		if a.dottedParents {
			continue
		}
		if found := t.lookup(name); found != nil {
			return found
		}
	}
}

// searchIP looks for an address and then its networks on octet boundaries:
// 192.0.2.1, 192.0.2, 192.0, 192; for IPv6 the text cut at successive colons.
func searchIP(t *table, ip netip.Addr) *action {
	key, delimiter := ip.String(), "."
	if ip.Is6() {
		delimiter = ":"
	}
	for key != "" {
		if found := t.lookup(key); found != nil {
			return found
		}
		cut := strings.LastIndex(key, delimiter)
		if cut < 0 {
			return nil
		}
		key = strings.TrimRight(key[:cut], delimiter)
	}
	return nil
}

// searchAddress looks for the address without and with its extension, its
// domain and parents, and its local-part with an at-sign. The null
// reverse-path is "<>".
func (a *access) searchAddress(t *table, address mail.Address) *action {
	if t.networks != nil {
		return nil
	}
	if address.IsNull() {
		return t.lookup("<>")
	}
	address = address.Fold()
	locals := localForms(address.Local, a.delimiter)
	for _, local := range locals {
		if found := t.lookupLocal(local, "@"+string(address.Domain)); found != nil {
			return found
		}
	}
	if address.Domain != "" {
		if found := a.searchName(t, string(address.Domain)); found != nil {
			return found
		}
	}
	for _, local := range locals {
		if found := t.lookupLocal(local, "@"); found != nil {
			return found
		}
	}
	return nil
}

// lookupLocal looks for a local-part as it is written on the wire, in quotes
// where it needs them, and then without.
func (t *table) lookupLocal(local mail.LocalPart, rest string) *action {
	quoted := local.String()
	if found := t.lookup(quoted + rest); found != nil || quoted == string(local) {
		return found
	}
	return t.lookup(string(local) + rest)
}

// localForms returns a local-part and then, when it has an extension, the
// local-part without it.
func localForms(local mail.LocalPart, delimiter string) []mail.LocalPart {
	forms := []mail.LocalPart{local}
	if at := strings.IndexAny(string(local), delimiter); at > 0 && delimiter != "" {
		forms = append(forms, local[:at])
	}
	return forms
}
