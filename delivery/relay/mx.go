package relay

import (
	"cmp"
	"context"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"

	"github.com/postern-mail/postern/delivery"
	"github.com/postern-mail/postern/delivery/tlspolicy"
	"github.com/postern-mail/postern/internal/dns"
	"github.com/postern-mail/postern/mail"
	"github.com/postern-mail/postern/status"
)

// maxEndpoints is Postfix's smtp_mx_address_limit.
const maxEndpoints = 5

// maxHosts bounds the lookups one set of MX records may cause.
const maxHosts = 10

// Resolver is the name service; *dns.Resolver is one. An error means that
// nobody knows.
type Resolver interface {
	tlspolicy.Resolver
	MX(ctx context.Context, name string) (dns.Answer[dns.MX], error)
}

// absolute keeps the resolver's search list away from names of the mail.
func absolute(name string) string { return strings.TrimSuffix(name, ".") + "." }

// lookup returns the endpoints of one hop. next is how it is configured or
// routed.
func (t *Transport) lookup(ctx context.Context, next string) ([]delivery.Endpoint, error) {
	hop, err := delivery.ParseNextHop(next)
	if err != nil {
		return nil, status.New(status.ConfigurationError, err)
	}
	if hop.Path != "" {
		return []delivery.Endpoint{hop.Endpoint(defaultPort)}, nil
	}
	guard := &guard{policies: t.policies, hop: tlspolicy.Hop{NextHop: next, Domain: hop.Host, Port: cmp.Or(hop.Port, defaultPort)}}
	if _, err := netip.ParseAddr(hop.Host); err == nil {
		e := hop.Endpoint(defaultPort)
		e.Plan = guard.plan(tlspolicy.Host{Name: hop.Host})
		return []delivery.Endpoint{e}, nil
	}
	if hop.Literal {
		return t.hosts(ctx, []string{hop.Host}, hop, guard)
	}
	hosts, err := t.mx(ctx, hop.Host, &guard.hop)
	if err != nil {
		return nil, err
	}
	return t.hosts(ctx, hosts, hop, guard)
}

// guard makes the plans of the endpoints of one hop. What holds for the hop as
// a whole is looked up when the first endpoint is tried: an attempt tries them
// one after the other.
type guard struct {
	policies    *tlspolicy.Policies
	hop         tlspolicy.Hop
	destination *tlspolicy.Destination
}

func (g *guard) plan(host tlspolicy.Host) func(context.Context, tlspolicy.Demand) (*tlspolicy.Plan, error) {
	return func(ctx context.Context, what tlspolicy.Demand) (*tlspolicy.Plan, error) {
		if g.destination == nil {
			g.destination = g.policies.Destination(ctx, g.hop)
		}
		return g.destination.Plan(ctx, host, what)
	}
}

// mx returns the hosts that take mail for domain, the most preferred first
// (RFC 5321 section 5.1): the domain itself when it has no MX records. It
// notes in hop what is known of the records.
func (t *Transport) mx(ctx context.Context, domain string, hop *tlspolicy.Hop) ([]string, error) {
	answer, err := t.resolver.MX(ctx, absolute(domain))
	if err != nil {
		return nil, status.New(status.NameServiceDown, err)
	}
	hop.MX, hop.Secure = true, answer.Secure
	if answer.Canonical != "" && !strings.EqualFold(answer.Canonical, domain) {
		hop.Canonical = answer.Canonical
	}
	if answer.Outcome != dns.Found {
		return []string{domain}, nil
	}
	if len(answer.Records) == 1 && answer.Records[0].Host == "" {
		return nil, status.Errorf(status.NullMX, "%s publishes a null MX", domain)
	}
	records := slices.DeleteFunc(slices.Clone(answer.Records), func(mx dns.MX) bool { return !isHost(mx.Host) })
	if len(records) == 0 {
		return nil, status.Errorf(status.HostNotFound, "no MX of %s is the name of a host", domain)
	}
	rand.Shuffle(len(records), func(i, j int) { records[i], records[j] = records[j], records[i] })
	slices.SortStableFunc(records, func(a, b dns.MX) int { return cmp.Compare(a.Preference, b.Preference) })
	return t.notOurselves(domain, records)
}

// isHost reports whether an MX record names a host: the DNS may hold anything,
// an address is a common mistake.
func isHost(name string) bool {
	d, err := mail.ParseDomain(name)
	if err != nil || d.IsLiteral() {
		return false
	}
	_, err = netip.ParseAddr(name)
	return err != nil
}

// notOurselves drops ourselves and whoever is not preferred to us: mail sent
// there comes back.
func (t *Transport) notOurselves(domain string, records []dns.MX) ([]string, error) {
	if us := slices.IndexFunc(records, func(mx dns.MX) bool { return strings.EqualFold(mx.Host, t.hostname) }); us >= 0 {
		first := slices.IndexFunc(records, func(mx dns.MX) bool { return mx.Preference == records[us].Preference })
		records = records[:first]
	}
	if len(records) == 0 {
		return nil, status.Errorf(status.MailLoop, "the best MX of %s is ourselves", domain)
	}
	hosts := make([]string, len(records))
	for i, mx := range records {
		hosts[i] = mx.Host
	}
	return hosts, nil
}

// hosts returns the addresses of hosts, in their order, up to the limit. A host
// whose addresses nobody knows now has a place that cannot be used: what the
// hosts behind it say is not the last word.
func (t *Transport) hosts(ctx context.Context, hosts []string, hop delivery.NextHop, guard *guard) ([]delivery.Endpoint, error) {
	var found []delivery.Endpoint
	var unsure error
	addresses := 0
	for n, host := range hosts {
		if addresses >= maxEndpoints {
			break
		}
		if n == maxHosts {
			unsure = status.Errorf(status.NameServiceDown, "none of the first %d hosts of %s has an address", n, hop.Host)
			break
		}
		name := host
		if !hop.Literal {
			name = absolute(host)
		}
		answer, err := t.resolver.Addresses(ctx, name)
		if err != nil {
			unsure = status.New(status.NameServiceDown, fmt.Errorf("addresses of %s: %w", host, err))
			found = append(found, unusable(host, hop.Port, unsure))
			continue
		}
		plan := guard.plan(tlspolicy.Host{Name: host, Canonical: answer.Canonical, Secure: answer.Secure})
		for _, addr := range interleave(answer.Records) {
			if addresses++; addresses <= maxEndpoints {
				e := delivery.NextHop{Host: addr.String(), Port: hop.Port}.Endpoint(defaultPort)
				e.Host, e.Plan = host, plan
				found = append(found, e)
			}
		}
	}
	switch {
	case addresses > 0:
		return found, nil
	case unsure != nil:
		return nil, unsure
	default:
		return nil, status.Errorf(status.HostNotFound, "no address for %s", hop.Host)
	}
}

// unusable is the place of a host that cannot be tried because of err.
func unusable(host, port string, err error) delivery.Endpoint {
	e := delivery.NextHop{Host: host, Port: port}.Endpoint(defaultPort)
	e.Plan = func(context.Context, tlspolicy.Demand) (*tlspolicy.Plan, error) { return nil, err }
	return e
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
