package relay

import (
	"context"
	"errors"
	"math/rand/v2"
	"net"
	"net/netip"
	"slices"
	"strings"

	"github.com/postern-mail/postern/delivery"
	"github.com/postern-mail/postern/status"
)

// maxEndpoints is Postfix's smtp_mx_address_limit.
const maxEndpoints = 5

// maxHosts bounds the lookups one set of MX records may cause.
const maxHosts = 10

// Resolver is the name service. *net.Resolver is one. An error that is a
// *net.DNSError with IsNotFound means that the answer is sure to be empty;
// any other error means that nobody knows.
type Resolver interface {
	LookupMX(ctx context.Context, name string) ([]*net.MX, error)
	LookupNetIP(ctx context.Context, network, host string) ([]netip.Addr, error)
}

func systemResolver() Resolver { return net.DefaultResolver }

func notFound(err error) bool {
	var dns *net.DNSError
	return errors.As(err, &dns) && dns.IsNotFound
}

// absolute keeps the resolver's search list away from names of the mail.
func absolute(name string) string { return strings.TrimSuffix(name, ".") + "." }

// lookup returns the endpoints of one hop.
func (t *Transport) lookup(ctx context.Context, hop delivery.NextHop) ([]delivery.Endpoint, error) {
	if hop.Path != "" {
		return []delivery.Endpoint{hop.Endpoint(defaultPort)}, nil
	}
	if _, err := netip.ParseAddr(hop.Host); err == nil {
		return []delivery.Endpoint{hop.Endpoint(defaultPort)}, nil
	}
	if hop.Literal {
		return t.hosts(ctx, []string{hop.Host}, hop)
	}
	hosts, err := t.mx(ctx, hop.Host)
	if err != nil {
		return nil, err
	}
	return t.hosts(ctx, hosts, hop)
}

// mx returns the hosts that take mail for domain, the most preferred first
// (RFC 5321 section 5.1): the domain itself when it has no MX records.
func (t *Transport) mx(ctx context.Context, domain string) ([]string, error) {
	records, err := t.resolver.LookupMX(ctx, absolute(domain))
	switch {
	case len(records) > 0:
		// An error beside records concerns records that were left out.
	case err == nil || notFound(err):
		return []string{domain}, nil
	default:
		return nil, status.New(status.NameServiceDown, err)
	}
	if len(records) == 1 && strings.TrimSuffix(records[0].Host, ".") == "" {
		return nil, status.Errorf(status.NullMX, "%s has a null MX", domain)
	}
	records = slices.Clone(records)
	rand.Shuffle(len(records), func(i, j int) { records[i], records[j] = records[j], records[i] })
	slices.SortStableFunc(records, func(a, b *net.MX) int { return int(a.Pref) - int(b.Pref) })
	return t.notOurselves(domain, records)
}

// notOurselves drops ourselves and whoever is not preferred to us: mail sent
// there comes back.
func (t *Transport) notOurselves(domain string, records []*net.MX) ([]string, error) {
	worst := -1
	for _, r := range records {
		if strings.EqualFold(strings.TrimSuffix(r.Host, "."), t.hostname) {
			worst = int(r.Pref)
			break
		}
	}
	var hosts []string
	for _, r := range records {
		host := strings.TrimSuffix(r.Host, ".")
		if worst >= 0 && int(r.Pref) >= worst {
			break
		}
		if host != "" && len(hosts) < maxHosts {
			hosts = append(hosts, host)
		}
	}
	if len(hosts) == 0 {
		return nil, status.Errorf(status.MailLoop, "the best MX of %s is ourselves", domain)
	}
	return hosts, nil
}

// hosts returns the addresses of hosts, in their order, up to the limit.
func (t *Transport) hosts(ctx context.Context, hosts []string, hop delivery.NextHop) ([]delivery.Endpoint, error) {
	var found []delivery.Endpoint
	var unsure error
	for _, host := range hosts {
		if len(found) >= maxEndpoints {
			break
		}
		name := host
		if !hop.Literal {
			name = absolute(host)
		}
		addrs, err := t.resolver.LookupNetIP(ctx, "ip", name)
		if err != nil && !notFound(err) {
			unsure = err
		}
		for _, addr := range interleave(addrs) {
			if len(found) < maxEndpoints {
				e := delivery.NextHop{Host: addr.String(), Port: hop.Port}.Endpoint(defaultPort)
				e.Host = host
				found = append(found, e)
			}
		}
	}
	switch {
	case len(found) > 0:
		return found, nil
	case unsure != nil:
		return nil, status.New(status.NameServiceDown, unsure)
	default:
		return nil, status.Errorf(status.HostNotFound, "no address for %s", hop.Host)
	}
}

// interleave shuffles addresses and alternates the families, so that a family
// that does not work here cannot use up the limit.
func interleave(addrs []netip.Addr) []netip.Addr {
	var families [2][]netip.Addr
	for _, a := range addrs {
		a = a.Unmap()
		f := 0
		if a.Is4() {
			f = 1
		}
		families[f] = append(families[f], a)
	}
	for _, f := range families {
		rand.Shuffle(len(f), func(i, j int) { f[i], f[j] = f[j], f[i] })
	}
	first := rand.IntN(2)
	mixed := make([]netip.Addr, 0, len(addrs))
	for i := range len(addrs) {
		for _, f := range [2]int{first, 1 - first} {
			if i < len(families[f]) {
				mixed = append(mixed, families[f][i])
			}
		}
	}
	return mixed
}
