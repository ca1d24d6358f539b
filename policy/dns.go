package policy

import (
	"context"
	"errors"
	"net"

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
// Domains of ours are not asked about. When the DNS does not answer the mail
// is deferred, unless something else rejects it.
type rejectUnknownDomain struct {
	name    string
	about   subject
	missing status.Reason
	nullMX  status.Reason
	deps    Deps
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
	if domain == "" || domain.IsLiteral() || r.deps.Domains.Class(domain) != Other {
		return mail.Verdict{}, nil
	}
	state, err := lookupMailDomain(ctx, r.deps.Resolver, string(domain))
	switch state {
	case domainMissing:
		return r.about.refuse(tx, mail.Reject, r.missing, "Domain not found"), nil
	case domainNullMX:
		return r.about.refuse(tx, mail.Reject, r.nullMX, "Domain does not accept mail (null MX)"), nil
	case domainUnknown:
		v := r.about.refuse(tx, mail.DeferIfPermit, r.missing, "Domain not found")
		v.Detail = err.Error()
		return v, nil
	default:
		return mail.Verdict{}, nil
	}
}

func lookupMailDomain(ctx context.Context, resolver Resolver, domain string) (mailDomain, error) {
	// The final dot keeps the search list of the system's resolver out.
	name := domain + "."
	hosts, err := resolver.LookupMX(ctx, name)
	if len(hosts) > 0 {
		if len(hosts) == 1 && (hosts[0].Host == "." || hosts[0].Host == "") {
			return domainNullMX, nil
		}
		return domainReachable, nil
	}
	if err != nil && !notFound(err) {
		return domainUnknown, err
	}
	addresses, err := resolver.LookupNetIP(ctx, "ip", name)
	switch {
	case len(addresses) > 0:
		return domainReachable, nil
	case err == nil || notFound(err):
		return domainMissing, nil
	default:
		return domainUnknown, err
	}
}

func notFound(err error) bool {
	var dns *net.DNSError
	return errors.As(err, &dns) && dns.IsNotFound && !dns.IsTimeout && !dns.IsTemporary
}
