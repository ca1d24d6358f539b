package relay

import (
	"cmp"
	"context"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strconv"
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

// lookup returns the endpoints of one hop for mail to domain, and whether we are
// an MX of it. next is how it is configured or routed. What it gives as
// permanent is so for the recipient.
func (t *Transport) lookup(ctx context.Context, next, domain string) (found []delivery.Endpoint, weAreMX bool, err error) {
	hop, err := delivery.ParseNextHop(next)
	if err != nil {
		return nil, false, status.New(status.ConfigurationError, err)
	}
	if hop.Path != "" {
		e := hop.Endpoint(defaultPort)
		e.Hop = next
		return []delivery.Endpoint{e}, false, nil
	}
	s := search{Transport: t, hop: hop, named: next, ownName: delivery.OwnNameLoops, guard: &guard{
		policies: t.policies, hop: tlspolicy.Hop{NextHop: next, Domain: hop.Host, Port: cmp.Or(hop.Port, defaultPort)},
	}}
	chosen := !isDomain(hop, domain)
	if chosen {
		s.ownName = delivery.OwnNameAllowed
		if s.port() == defaultPort {
			s.ownName = delivery.OwnNameMistake
		}
	}
	hosts := []dns.MX{{Host: hop.Host}}
	if _, failed := netip.ParseAddr(hop.Host); failed != nil && !hop.Literal {
		hosts, err = t.mx(ctx, hop.Host, &s.guard.hop)
	}
	if err == nil {
		found, err = s.hosts(ctx, hosts)
	}
	if err != nil && chosen {
		err = ours(err)
	}
	return found, s.weAreMX, err
}

// isDomain reports whether a hop is the domain of the recipient, at whatever
// port.
func isDomain(hop delivery.NextHop, domain string) bool {
	own, err := delivery.ParseNextHop(domain)
	return err == nil && strings.EqualFold(hop.Host, own.Host)
}

// search is the lookup of one hop.
type search struct {
	*Transport
	hop     delivery.NextHop
	named   string // how the hop is written
	ownName delivery.OwnName
	guard   *guard
	weAreMX bool
}

func (s *search) port() string { return cmp.Or(s.hop.Port, defaultPort) }

// isUs reports whether an address leads to us at the port of the hop.
func (s *search) isUs(addr netip.Addr) bool {
	port, err := strconv.ParseUint(s.port(), 10, 16)
	return err == nil && s.us.At(netip.AddrPortFrom(addr, uint16(port)))
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
func (t *Transport) mx(ctx context.Context, domain string, hop *tlspolicy.Hop) ([]dns.MX, error) {
	answer, err := t.resolver.MX(ctx, absolute(domain))
	if err != nil {
		return nil, status.New(status.NameServiceDown, err)
	}
	hop.MX, hop.Secure = true, answer.Secure
	if answer.Canonical != "" && !strings.EqualFold(answer.Canonical, domain) {
		hop.Canonical = answer.Canonical
	}
	if answer.Outcome != dns.Found {
		return []dns.MX{{Host: domain}}, nil
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
	return records, nil
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

// hosts returns the addresses of hosts, in their order, up to the limit. A host
// whose addresses nobody knows now has a place that cannot be used: what the
// hosts behind it say is not the last word.
//
// One that is ourselves, by name or address, is left out together with whoever
// is not preferred to us: mail sent there comes back (RFC 5321 section 5.1).
func (s *search) hosts(ctx context.Context, hosts []dns.MX) ([]delivery.Endpoint, error) {
	var found []delivery.Endpoint
	var unsure error
	addresses := 0
	hosts = s.beforeUs(hosts, func(mx dns.MX) bool { return !s.hop.Literal && strings.EqualFold(mx.Host, s.hostname) })
	better := state{preference: -1} // what was found before the present preference
	for n, mx := range hosts {
		if addresses >= maxEndpoints {
			break
		}
		if n == maxHosts {
			unsure = status.Errorf(status.NameServiceDown, "none of the first %d hosts of %s has an address", n, s.hop.Host)
			break
		}
		if int(mx.Preference) != better.preference {
			better = state{int(mx.Preference), len(found), addresses}
		}
		answer, err := s.addresses(ctx, mx.Host)
		if err != nil {
			unsure = status.New(status.NameServiceDown, fmt.Errorf("addresses of %s: %w", mx.Host, err))
			found = append(found, s.unusable(mx.Host, unsure))
			continue
		}
		if slices.ContainsFunc(answer.Records, s.isUs) {
			s.weAreMX = true
			found, addresses = found[:better.found], better.addresses
			break
		}
		plan := s.guard.plan(tlspolicy.Host{Name: mx.Host, Canonical: answer.Canonical, Secure: answer.Secure})
		for _, addr := range interleave(answer.Records) {
			if addresses++; addresses <= maxEndpoints {
				e := s.endpoint(addr.String())
				e.Host, e.Plan = mx.Host, plan
				found = append(found, e)
			}
		}
	}
	switch {
	case addresses > 0:
		return found, nil
	case s.weAreMX && len(found) == 0:
		return nil, status.Errorf(status.MailLoop, "the best MX of %s is ourselves", s.hop.Host)
	case unsure != nil:
		return nil, unsure
	default:
		return nil, status.Errorf(status.HostNotFound, "no address for %s", s.hop.Host)
	}
}

// state is how far a search was when it came to a preference.
type state struct{ preference, found, addresses int }

// beforeUs returns the hosts that are preferred to the first one that is us.
func (s *search) beforeUs(hosts []dns.MX, isUs func(dns.MX) bool) []dns.MX {
	us := slices.IndexFunc(hosts, isUs)
	if us < 0 {
		return hosts
	}
	s.weAreMX = true
	return hosts[:slices.IndexFunc(hosts, func(mx dns.MX) bool { return mx.Preference == hosts[us].Preference })]
}

// addresses returns those of a host, which may be an address itself.
func (s *search) addresses(ctx context.Context, host string) (dns.Answer[netip.Addr], error) {
	if addr, err := netip.ParseAddr(host); err == nil {
		return dns.Answer[netip.Addr]{Records: []netip.Addr{addr}}, nil
	}
	if !s.hop.Literal {
		host = absolute(host)
	}
	return s.resolver.Addresses(ctx, host)
}

// endpoint is the place of a host or address of the hop.
func (s *search) endpoint(host string) delivery.Endpoint {
	e := delivery.NextHop{Host: host, Port: s.hop.Port}.Endpoint(defaultPort)
	e.Hop, e.OwnName = s.named, s.ownName
	return e
}

// unusable is the place of a host that cannot be tried because of err.
func (s *search) unusable(host string, err error) delivery.Endpoint {
	e := s.endpoint(host)
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
