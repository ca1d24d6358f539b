package policy

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"

	"github.com/postern-mail/postern/mail"
	"github.com/postern-mail/postern/status"
)

// mailDomain is what the DNS knows of a domain as a place for mail.
type mailDomain int

const (
	domainReachable mailDomain = iota
	domainMissing              // no MX and no address
	domainNullMX               // RFC 7505: takes no mail
	domainUnknown              // the DNS did not answer
)

// rejectUnknownDomain refuses addresses in domains that no mail could reach.
// Domains whose mail ends here are not asked about. When the DNS does not
// answer the mail is deferred, unless something else rejects it.
type rejectUnknownDomain struct {
	name     string
	about    subject
	missing  status.Reason
	nullMX   status.Reason
	tempfail mail.Action
	deps     Deps
}

// Name returns the restriction's name.
func (r rejectUnknownDomain) Name() string { return r.name }

// Evaluate asks the DNS for the domain's MX and addresses.
func (r rejectUnknownDomain) Evaluate(ctx context.Context, tx *mail.Transaction) (mail.Verdict, error) {
	var address mail.Address
	if r.about == aboutSender {
		address = tx.Envelope.ReversePath
	} else if tx.Recipient != nil {
		address = tx.Recipient.Address
	}
	domain := address.Domain
	if domain == "" || domain.IsLiteral() || r.deps.Domains.Class(domain) == Local {
		return mail.Verdict{}, nil
	}
	state, err := lookupMailDomain(ctx, r.deps.Resolver, string(domain))
	switch state {
	case domainMissing:
		return r.about.refuse(tx, mail.Reject, r.missing, "Domain not found"), nil
	case domainNullMX:
		return r.about.refuse(tx, mail.Reject, r.nullMX, fmt.Sprintf("Domain %s does not accept mail (nullMX)", domain)), nil
	case domainUnknown:
		return silent(r.about.refuse(tx, r.tempfail, r.missing, "Domain not found"), err), nil
	default:
		return mail.Verdict{}, nil
	}
}

// silent marks a refusal as one for a DNS that does not answer: no code of the
// operator's makes it permanent.
func silent(v mail.Verdict, err error) mail.Verdict {
	v.Reason, v.Detail = status.NameServiceDown, err.Error()
	return v
}

// lookupMailDomain asks for the MX, and where there is none, or none could be
// learned, for addresses: one that is found will do.
func lookupMailDomain(ctx context.Context, resolver Resolver, domain string) (mailDomain, error) {
	// The final dot keeps the search list of the system's resolver out.
	name := domain + "."
	hosts, failed := resolver.LookupMX(ctx, name)
	if nullMX(hosts) {
		return domainNullMX, nil
	}
	if len(hosts) > 0 {
		return domainReachable, nil
	}
	addresses, err := resolver.LookupNetIP(ctx, "ip", name)
	switch {
	case len(addresses) > 0:
		return domainReachable, nil
	case failed != nil && !notFound(failed):
		return domainUnknown, failed
	case err == nil || notFound(err):
		return domainMissing, nil
	default:
		return domainUnknown, err
	}
}

func nullMX(hosts []*net.MX) bool {
	return len(hosts) == 1 && (hosts[0].Host == "." || hosts[0].Host == "")
}

// rejectUnknownHelo refuses a HELO name with neither addresses nor MX. Of a
// literal only the form is looked at.
type rejectUnknownHelo struct {
	name     string
	tempfail mail.Action
	resolver Resolver
}

// Name returns the restriction's name.
func (r rejectUnknownHelo) Name() string { return r.name }

// Evaluate asks the DNS for the name.
func (r rejectUnknownHelo) Evaluate(ctx context.Context, tx *mail.Transaction) (mail.Verdict, error) {
	helo := tx.Client.Helo
	if helo == "" {
		return mail.Verdict{}, nil
	}
	domain, err := mail.ParseDomain(helo)
	switch {
	case err != nil && strings.HasPrefix(helo, "["):
		return aboutHelo.refuse(tx, mail.Reject, status.HeloInvalid, "invalid ip address"), nil
	case err == nil && domain.IsLiteral():
		return mail.Verdict{}, nil
	}
	state := domainMissing
	if _, ip := netip.ParseAddr(helo); err == nil && ip != nil {
		state, err = lookupMailDomain(ctx, r.resolver, string(domain))
	}
	switch state {
	case domainReachable, domainNullMX: // which says no more than that the name takes no mail
		return mail.Verdict{}, nil
	case domainUnknown:
		return silent(aboutHelo.refuse(tx, r.tempfail, status.HeloHostMissing, "Host not found"), err), nil
	}
	return aboutHelo.refuse(tx, mail.Reject, status.HeloHostMissing, "Host not found"), nil
}

func notFound(err error) bool {
	var dns *net.DNSError
	return errors.As(err, &dns) && dns.IsNotFound && !dns.IsTimeout && !dns.IsTemporary
}
