package ldap

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/postern-mail/postern/internal/dns"
	"github.com/postern-mail/postern/mail"

	"github.com/postern-mail/postern/directory"
)

// Resolver finds the servers of a domain. Implemented by dns.Resolver.
type Resolver interface {
	SRV(ctx context.Context, name string) (dns.Answer[dns.SRV], error)
}

// discovery is one of Config.URIs that names a domain instead of a server: its
// servers are what the DNS says (RFC 2782).
type discovery struct {
	uri      string
	domain   string
	site     string
	ldaps    bool // TLS from the first octet
	startTLS bool
}

const (
	// minRediscovery and maxRediscovery bound how long an answer of the DNS is
	// believed, whatever its TTL; retryDiscovery is when a failure is followed by
	// another question.
	minRediscovery = 10 * time.Second
	maxRediscovery = time.Hour
	retryDiscovery = 5 * time.Second
	// maxDiscovered bounds the servers of a domain; large forests have hundreds.
	maxDiscovered = 16
)

// parseDiscovery reads "srv:example.com", "ldap:///dc=example,dc=com" and
// "ldaps:///dc=example,dc=com"; false for a URI that names a server.
func (cfg Config) parseDiscovery(uri string) (d discovery, ok bool, err error) {
	d = discovery{uri: uri, site: cfg.Site, startTLS: cfg.StartTLS}
	scheme, rest, _ := strings.Cut(uri, ":")
	dn, isBase := strings.CutPrefix(rest, "///")
	var domain string
	switch scheme = strings.ToLower(scheme); {
	case scheme == "srv":
		domain = rest
	case (scheme == "ldap" || scheme == "ldaps") && isBase && dn != "":
		d.ldaps = scheme == "ldaps"
		if domain, err = domainOf(dn); err != nil {
			return d, true, fmt.Errorf("%w: %q: %w", errURI, uri, err)
		}
	default:
		return d, false, nil
	}
	name, err := mail.ParseDomain(domain)
	if err != nil || name.IsLiteral() {
		return d, true, fmt.Errorf("%w: %q: %q is no domain", errURI, uri, domain)
	}
	d.domain = string(name)
	if d.ldaps {
		d.startTLS = false
	} else if !d.startTLS && !cfg.AllowPlaintext {
		return d, true, fmt.Errorf("%q would send passwords in the clear: set starttls = true, or write ldaps:///dc=...; allow_plaintext = true permits it where the network is your own", uri)
	}
	if cfg.Resolver == nil {
		return d, true, fmt.Errorf("%q: servers are found by the DNS, and there is no resolver", uri)
	}
	return d, true, nil
}

// domainOf returns the domain that a suffix of dc components stands for (RFC
// 2247).
func domainOf(text string) (string, error) {
	text, err := url.PathUnescape(text)
	if err != nil {
		return "", err
	}
	dn, err := directory.ParseDN(text)
	if err != nil {
		return "", err
	}
	var labels []string
	for part := range strings.SplitSeq(dn.Key(), ",") {
		label, ok := strings.CutPrefix(part, "dc=")
		if !ok || label == "" || strings.ContainsAny(label, `.\`) {
			return "", fmt.Errorf("%q does not consist of dc components", text)
		}
		labels = append(labels, label)
	}
	return strings.Join(labels, "."), nil
}

// names are the SRV names of the domain's servers in the order they are asked
// for: those of the site come before the rest. Active Directory has sites; the
// other directories do not know the first name, which costs one question.
func (d discovery) names() []string {
	service := "_ldap._tcp."
	if d.ldaps {
		service = "_ldaps._tcp."
	}
	if d.site == "" {
		return []string{service + d.domain}
	}
	return []string{service + d.site + "._sites." + d.domain, service + d.domain}
}

// find asks the DNS. The servers are in the order in which they are to be
// asked, drawn anew each time as RFC 2782 weighs them; expires is when to ask
// again.
func (d discovery) find(ctx context.Context, r Resolver, now time.Time) (found []endpoint, expires time.Time, err error) {
	expires = now.Add(maxRediscovery)
	for _, name := range d.names() {
		answer, err := d.ask(ctx, r, name)
		if err != nil {
			return nil, now.Add(retryDiscovery), err
		}
		if answer.Expires.Before(expires) {
			expires = answer.Expires
		}
		for _, record := range inOrder(answer.Records) {
			if record.Target == "" || len(found) == maxDiscovered {
				continue
			}
			e := d.endpoint(record, answer.Secure)
			if !slices.ContainsFunc(found, func(have endpoint) bool { return have.address == e.address }) {
				found = append(found, e)
			}
		}
	}
	if soonest := now.Add(minRediscovery); expires.Before(soonest) {
		expires = soonest
	}
	if len(found) == 0 {
		return nil, now.Add(retryDiscovery), fmt.Errorf("the DNS has no server at %s", strings.Join(d.names(), " or "))
	}
	return found, expires, nil
}

// ask looks one name up. No registered service is called ldaps, so where nobody
// announces it the domain's LDAP servers are meant, at LDAPS's port.
func (d discovery) ask(ctx context.Context, r Resolver, name string) (dns.Answer[dns.SRV], error) {
	answer, err := r.SRV(ctx, name)
	if err != nil || !d.ldaps || len(answer.Records) > 0 {
		return answer, err
	}
	if answer, err = r.SRV(ctx, strings.Replace(name, "_ldaps.", "_ldap.", 1)); err != nil {
		return answer, err
	}
	answer.Records = slices.Clone(answer.Records)
	for i := range answer.Records {
		answer.Records[i].Port = 636
	}
	return answer, nil
}

// endpoint is the server of a record. Its certificate must hold the target's
// name or the domain's. Who forges an answer of the DNS can name any target,
// for which he may well have a certificate: a target outside of the domain
// counts only when the answer was validated (RFC 6125 section 6.2.1).
func (d discovery) endpoint(record dns.SRV, secure bool) endpoint {
	target := strings.ToLower(record.Target)
	e := endpoint{
		network: "tcp", address: net.JoinHostPort(target, strconv.Itoa(int(record.Port))), host: target,
		names: []string{d.domain}, tls: d.ldaps, startTLS: d.startTLS,
	}
	if secure || target == d.domain || strings.HasSuffix(target, "."+d.domain) {
		e.names = []string{target, d.domain}
	}
	scheme := "ldap://"
	if d.ldaps {
		scheme = "ldaps://"
	}
	e.uri = scheme + e.address
	return e
}

// inOrder returns the records in the order of RFC 2782: by priority, and those
// of the same drawn by weight.
func inOrder(records []dns.SRV) []dns.SRV {
	rest := slices.Clone(records)
	// Those without weight go first within their priority, so that they have
	// their small chance.
	slices.SortStableFunc(rest, func(a, b dns.SRV) int {
		return cmp.Or(cmp.Compare(a.Priority, b.Priority), cmp.Compare(min(a.Weight, 1), min(b.Weight, 1)))
	})
	ordered := make([]dns.SRV, 0, len(rest))
	for len(rest) > 0 {
		n, total := 0, 0
		for n < len(rest) && rest[n].Priority == rest[0].Priority {
			total += int(rest[n].Weight)
			n++
		}
		drawn, sum := rand.IntN(total+1), 0
		for i := range n {
			if sum += int(rest[i].Weight); sum >= drawn {
				ordered = append(ordered, rest[i])
				rest = slices.Delete(rest, i, i+1)
				break
			}
		}
	}
	return ordered
}

// known is what the DNS said last of one domain.
type known struct {
	found   []*server
	expires time.Time
}

var errNoServers = errors.New("no server is known yet")
