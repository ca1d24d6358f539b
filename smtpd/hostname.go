package smtpd

import (
	"context"
	"net/netip"
	"slices"
	"strings"

	"github.com/postern-mail/postern/mail"
)

// Resolver asks the DNS; *net.Resolver is one.
type Resolver interface {
	LookupAddr(ctx context.Context, address string) ([]string, error)
	LookupNetIP(ctx context.Context, network, host string) ([]netip.Addr, error)
}

// maxNames bounds the reverse names of a client that are followed back: its
// owner chooses how many there are.
const maxNames = 4

// VerifiedName returns a function that finds the name of a client which leads
// back to its address, or "" when there is none or the DNS does not say. It
// is for smtp.ServerConfig.LookupHostname, which bounds its time.
func VerifiedName(resolver Resolver) func(context.Context, netip.Addr) string {
	return func(ctx context.Context, client netip.Addr) string {
		client = client.Unmap()
		names, err := resolver.LookupAddr(ctx, client.String())
		if err != nil {
			return ""
		}
		for _, name := range names[:min(len(names), maxNames)] {
			domain, err := mail.ParseDomain(name)
			if err != nil || domain.IsLiteral() || !strings.Contains(string(domain), ".") {
				continue
			}
			addresses, err := resolver.LookupNetIP(ctx, "ip", string(domain)+".")
			if err != nil {
				continue
			}
			if slices.ContainsFunc(addresses, func(a netip.Addr) bool { return a.Unmap() == client }) {
				return string(domain)
			}
		}
		return ""
	}
}
