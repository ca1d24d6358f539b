package smtpd

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"slices"
	"strings"

	"github.com/postern-mail/postern/mail"
)

// Resolver asks the DNS; *net.Resolver is one. Errors are *net.DNSError, whose
// IsNotFound alone means that a name does not exist.
type Resolver interface {
	LookupAddr(ctx context.Context, address string) ([]string, error)
	LookupNetIP(ctx context.Context, network, host string) ([]netip.Addr, error)
}

// maxNames bounds the reverse names of a client that are followed back: its
// owner chooses how many there are.
const maxNames = 4

// ClientNames returns a function that finds the name of a client: one that
// stands for its address, and whether it leads back there. It is for
// smtp.ServerConfig.LookupHostname, which bounds its time.
func ClientNames(resolver Resolver) func(context.Context, netip.Addr) mail.ClientName {
	return func(ctx context.Context, client netip.Addr) mail.ClientName {
		client = client.Unmap()
		names, err := resolver.LookupAddr(ctx, client.String())
		if err != nil && !notFound(err) {
			return mail.ClientName{Naming: mail.NameUnknown}
		}
		found := mail.ClientName{Naming: mail.NameMissing}
		for _, name := range names[:min(len(names), maxNames)] {
			domain, err := mail.ParseDomain(name)
			if err != nil || domain.IsLiteral() || !strings.Contains(string(domain), ".") {
				continue
			}
			if found.Reverse == "" {
				found = mail.ClientName{Reverse: string(domain), Naming: mail.NameForged}
			}
			switch addresses, err := resolver.LookupNetIP(ctx, "ip", string(domain)+"."); {
			case slices.ContainsFunc(addresses, func(a netip.Addr) bool { return a.Unmap() == client }):
				return mail.ClientName{Hostname: string(domain), Reverse: string(domain), Naming: mail.NameVerified}
			case err != nil && !notFound(err):
				found.Naming = mail.NameUnknown
			}
		}
		return found
	}
}

func notFound(err error) bool {
	var dns *net.DNSError
	return errors.As(err, &dns) && dns.IsNotFound && !dns.IsTimeout && !dns.IsTemporary
}
