package policy

import (
	"context"
	"fmt"
	"net/netip"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/postern-mail/postern/mail"
)

// hostRecords says which hosts of a domain an access restriction looks at.
type hostRecords string

// The kinds.
const (
	hostsAddress hostRecords = "A" // the name itself, by its addresses
	hostsMX      hostRecords = "MX"
	hostsNS      hostRecords = "NS"
)

// Strangers write what these restrictions look up: its size and the time it
// takes are bounded.
const (
	maxServers         = 100 // hosts of a domain
	maxServerAddresses = 100 // addresses of all of them, as in Postfix
	maxParents         = 10  // asked for their NS
	hostsTimeout       = 20 * time.Second
	hostsAtOnce        = 8
)

// hostAccess is a check_*_{a,mx,ns}_access restriction: the subject of an
// access restriction by the names and addresses of its hosts.
type hostAccess struct {
	*access
	records  hostRecords
	resolver Resolver
}

// Evaluate returns what the table says, with nested restrictions left out.
func (h *hostAccess) Evaluate(ctx context.Context, tx *mail.Transaction) (mail.Verdict, error) {
	v, _, err := h.branch(ctx, tx)
	return v, err
}

// branch looks the hosts up. What the DNS does not tell is not held against
// anybody: it is warned of.
func (h *hostAccess) branch(ctx context.Context, tx *mail.Transaction) (mail.Verdict, []item, error) {
	name, literal := h.subjectName(tx)
	if literal.IsValid() {
		if h.records == hostsNS {
			return mail.Verdict{}, nil, nil
		}
		return h.says(ctx, tx, func() (*action, error) { return h.byAddress(ctx, literal) })
	}
	if name == "" {
		return mail.Verdict{}, nil, nameNotAskedFor(h.about, tx)
	}
	asking, cancel := context.WithTimeout(ctx, hostsTimeout)
	defer cancel()
	hosts, err := h.hosts(asking, name)
	if err != nil {
		return mail.Verdict{Detail: fmt.Sprintf("unable to look up %s host for %s: %v", h.records, name, err)}, nil, nil
	}
	addresses, warning := h.addresses(asking, hosts)
	v, nested, err := h.says(ctx, tx, func() (*action, error) { return h.search(ctx, hosts, addresses) })
	if err == nil && v.Action == mail.Dunno && v.Detail == "" {
		v.Detail = warning
	}
	return v, nested, err
}

// says returns what an action found makes of tx.
func (h *hostAccess) says(ctx context.Context, tx *mail.Transaction, find func() (*action, error)) (mail.Verdict, []item, error) {
	found, err := find()
	return h.settled(ctx, tx, found, err)
}

// subjectName returns the domain whose hosts are asked about, or the address
// that stands in its place.
func (h *hostAccess) subjectName(tx *mail.Transaction) (name string, literal netip.Addr) {
	switch h.about {
	case aboutClient:
		name = tx.Client.Hostname
	case aboutReverseName:
		name = tx.Client.ReverseName
	case aboutHelo:
		name = tx.Client.Helo
	case aboutSender:
		name = string(tx.Envelope.ReversePath.Domain)
	default:
		if tx.Recipient != nil {
			name = string(tx.Recipient.Address.Domain)
		}
	}
	if ip, err := netip.ParseAddr(bare(name)); err == nil {
		return "", ip.Unmap().WithZone("")
	}
	domain, err := mail.ParseDomain(name)
	if err != nil || domain.IsLiteral() {
		return "", netip.Addr{}
	}
	return string(domain), netip.Addr{}
}

// bare takes the brackets off an address literal.
func bare(name string) string {
	inner, ok := strings.CutPrefix(name, "[")
	if !ok {
		return name
	}
	inner, ok = strings.CutSuffix(inner, "]")
	if !ok {
		return name
	}
	if len(inner) > 5 && strings.EqualFold(inner[:5], "IPv6:") {
		inner = inner[5:]
	}
	return inner
}

// hosts returns the hosts of a domain, at most maxServers. A domain without MX
// is its own, one with a null MX has none. The name servers of a name without
// any are its parent's.
func (h *hostAccess) hosts(ctx context.Context, name string) ([]string, error) {
	var hosts []string
	switch h.records {
	case hostsMX:
		found, err := h.resolver.LookupMX(ctx, name+".")
		if nullMX(found) {
			return nil, nil
		}
		for _, mx := range found {
			hosts = append(hosts, mx.Host)
		}
		if len(hosts) == 0 && (err == nil || notFound(err)) {
			return []string{name}, nil
		}
		return hosts[:min(len(hosts), maxServers)], unlessAny(err, hosts)
	case hostsNS:
		for range maxParents {
			found, err := h.resolver.LookupNS(ctx, name+".")
			for _, ns := range found {
				hosts = append(hosts, ns.Host)
			}
			_, parent, more := strings.Cut(name, ".")
			if len(hosts) > 0 || err != nil && !notFound(err) || !more {
				return hosts[:min(len(hosts), maxServers)], unlessAny(err, hosts)
			}
			name = parent
		}
		return nil, nil
	default:
		return []string{name}, nil
	}
}

func unlessAny(err error, hosts []string) error {
	if len(hosts) > 0 {
		return nil
	}
	return err
}

// addresses looks up the addresses of hosts, each list at its host's place, and
// says which could not be learned.
func (h *hostAccess) addresses(ctx context.Context, hosts []string) (all [][]netip.Addr, warning string) {
	all = make([][]netip.Addr, len(hosts))
	failed := make([]error, len(hosts))
	var g errgroup.Group
	g.SetLimit(hostsAtOnce)
	for i, host := range hosts {
		g.Go(func() error {
			if ip, err := netip.ParseAddr(strings.TrimSuffix(host, ".")); err == nil {
				all[i] = []netip.Addr{ip}
				return nil
			}
			all[i], failed[i] = h.resolver.LookupNetIP(ctx, "ip", strings.TrimSuffix(host, ".")+".")
			return nil
		})
	}
	_ = g.Wait() // the functions return none
	for i, err := range failed {
		if err != nil && h.records != hostsAddress {
			return all, fmt.Sprintf("unable to look up %s host %s: %v", h.records, strings.TrimSuffix(hosts[i], "."), err)
		}
	}
	return all, ""
}

// search looks for each host by its name, unless that is the subject's own,
// and then by its addresses.
func (h *hostAccess) search(ctx context.Context, hosts []string, addresses [][]netip.Addr) (*action, error) {
	looked := 0
	for i, host := range hosts {
		if h.records != hostsAddress {
			name := strings.ToLower(strings.TrimSuffix(host, "."))
			if found, err := h.source.lookup(ctx, new(held).ofHost(name, name, h.dottedParents)); err != nil || found != nil {
				return found, err
			}
		}
		for _, address := range addresses[i] {
			if looked++; looked > maxServerAddresses {
				return nil, nil
			}
			if found, err := h.byAddress(ctx, address); err != nil || found != nil {
				return found, err
			}
		}
	}
	return nil, nil
}

func (h *hostAccess) byAddress(ctx context.Context, address netip.Addr) (*action, error) {
	return h.source.lookup(ctx, new(held).ofNetwork(address.Unmap().WithZone("")))
}
