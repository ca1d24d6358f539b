package tlspolicy

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"unicode/utf8"

	"golang.org/x/net/idna"

	"github.com/postern-mail/postern/internal/dns"
	"github.com/postern-mail/postern/status"
)

// Config holds the operator's rules.
type Config struct {
	// Default is the rule for destinations that have none of their own.
	Default Rule
	// Destinations holds the rules of next hops: as Postfix's
	// smtp_tls_policy_maps, the key is the next hop as it is configured or
	// routed, "example.com", "[mail.example.com]" or "[mail.example.com]:587",
	// and ".example.com" stands for all domains below example.com. U-labels and
	// A-labels are the same. The first rule found of next hop, next hop without
	// port, parent domains is taken as it stands.
	Destinations map[string]Rule
}

// Policies decides by rules, DNS and MTA-STS. It never changes and may be used
// concurrently.
type Policies struct {
	standard     rule
	destinations map[string]rule
	resolver     Resolver
	sts          *STS // nil without MTA-STS
}

// New returns the Policies of a configuration, of which it reads the files.
// sts may be nil: then there is no MTA-STS.
func New(cfg Config, resolver Resolver, sts *STS) (*Policies, error) {
	standard, err := cfg.Default.prepare()
	if err != nil {
		return nil, err
	}
	p := &Policies{standard: standard, destinations: make(map[string]rule), resolver: resolver, sts: sts}
	var mistakes error
	for destination, r := range cfg.Destinations {
		prepared, err := r.prepare()
		if err != nil {
			mistakes = errors.Join(mistakes, fmt.Errorf("%s: %w", destination, err))
		}
		key, err := normal(destination)
		if _, twice := p.destinations[key]; twice && err == nil {
			err = fmt.Errorf("%w: two rules for this next hop", errRule)
		}
		if err != nil {
			mistakes = errors.Join(mistakes, fmt.Errorf("%s: %w", destination, err))
		}
		p.destinations[key] = prepared
	}
	return p, mistakes
}

// normal returns a next hop in lower case and with A-labels, as the domains of
// mail are.
func normal(nextHop string) (string, error) {
	nextHop = strings.ToLower(nextHop)
	if !strings.ContainsFunc(nextHop, func(r rune) bool { return r >= utf8.RuneSelf }) {
		return nextHop, nil
	}
	host := strings.TrimLeft(nextHop, ".[")
	before := nextHop[:len(nextHop)-len(host)]
	after := ""
	if end := strings.IndexAny(host, "]:"); end >= 0 {
		host, after = host[:end], host[end:]
	}
	ascii, err := idna.Lookup.ToASCII(host)
	if err != nil {
		return nextHop, fmt.Errorf("%w: %w", errRule, err)
	}
	return before + ascii + after, nil
}

// Hop is a next hop whose hosts were looked up.
type Hop struct {
	// NextHop is the next hop as configured or routed, port included.
	NextHop string
	// Domain is its name alone: of the domain, or of the host for a next hop
	// in brackets.
	Domain string
	// Canonical is the name at the end of the domain's aliases; "" when there
	// are none.
	Canonical string
	// Port is the TCP port of its hosts.
	Port string
	// MX tells that the hosts come from the domain's MX records, or stand for
	// them where it has none; Secure that the answer was secure.
	MX, Secure bool
}

// Host is one host of a next hop.
type Host struct {
	Name string // as the MX record or the next hop has it
	// Canonical is the name at the end of its aliases, Name when there are none.
	Canonical string
	// Secure tells that its addresses, aliases included, are.
	Secure bool
}

// Destination is what is decided for a next hop as a whole.
type Destination struct {
	hop      Hop
	rule     rule
	policies *Policies
	sts      *STSPolicy // nil when none is in force
	stsID    string
	stsErr   error
}

// Destination looks up what holds for a next hop. It may ask the DNS and fetch
// an MTA-STS policy, and blocks until ctx ends at most.
func (p *Policies) Destination(ctx context.Context, hop Hop) *Destination {
	d := &Destination{hop: hop, rule: p.rule(hop), policies: p}
	if p.sts == nil || !hop.MX || !d.rule.MTASTS || !slices.Contains([]Level{May, Encrypt, DANE}, d.rule.Level) {
		return d
	}
	d.sts, d.stsID, d.stsErr = p.sts.Policy(ctx, hop.Domain)
	if d.sts != nil && d.sts.Mode == STSNone {
		d.sts = nil
	}
	return d
}

// rule finds the operator's rule for a next hop.
func (p *Policies) rule(hop Hop) rule {
	full, _ := normal(hop.NextHop) // one that is no name stays what it is
	candidates := []string{full, strings.TrimSuffix(full, ":"+hop.Port)}
	if !strings.HasPrefix(full, "[") {
		for name := strings.ToLower(hop.Domain); ; {
			_, parent, found := strings.Cut(name, ".")
			if !found {
				break
			}
			candidates = append(candidates, "."+parent)
			name = parent
		}
	}
	for _, c := range candidates {
		if r, found := p.destinations[c]; found {
			return r
		}
	}
	return p.standard
}

// Plan returns what the connection to one host must be for a message whose
// sender asks for what. An error means that it may not go to this host now: its
// protection cannot be learned, or it has none where it must. It is transient,
// but for a Required that cannot be met.
func (d *Destination) Plan(ctx context.Context, h Host, what Demand) (*Plan, error) {
	if what == Optional && d.rule.Level != DANEOnly {
		return d.optional(h), nil
	}
	p, err := d.plan(ctx, h)
	if what == Required && err == nil {
		return d.required(p, h)
	}
	return p, err
}

// plan returns what rule and destination ask of the connection to one host.
func (d *Destination) plan(ctx context.Context, h Host) (*Plan, error) {
	if d.rule.Level == DANE || d.rule.Level == DANEOnly {
		plan, err := d.dane(ctx, h)
		if plan != nil || err != nil {
			return plan, err
		}
	}
	base := d.byRule(h)
	switch {
	case d.sts == nil && d.stsErr != nil:
		base.published, base.fault = d.published(TypeSTS, nil), d.stsErr
		return base, nil
	case d.sts == nil:
		base.published = d.published(NoPolicy, nil)
		return base, nil
	}
	bySTS := d.bySTS(h)
	if !d.sts.Allows(h.Name) {
		bySTS.ruledOut = fmt.Errorf("%w: MX host %s is not in the %s", ValidationFailure, h.Name, bySTS.Why)
	}
	switch {
	case d.sts.Mode == STSTesting:
		base.Testing = bySTS
		return base, nil
	case bySTS.ruledOut != nil:
		return nil, d.refusal(status.TLSPolicyUnmet, TypeSTS, bySTS.ruledOut)
	default:
		return bySTS, nil
	}
}

// byRule returns the plan that follows from the rule alone.
func (d *Destination) byRule(h Host) *Plan {
	p := &Plan{Level: d.rule.Level, Source: FromRule, Why: "level " + string(d.rule.Level), ServerName: h.Name}
	if d.rule.ServerName != "" {
		p.ServerName = d.rule.ServerName
	}
	switch d.rule.Level {
	case DANE:
		p.Level, p.Why = May, "level dane, but "+d.whyNoDANE(h)
	case Fingerprint:
		p.digests = d.rule.digests
	case Verify, Secure:
		p.names, p.roots = d.rule.names(h.Name, d.hop.Domain), d.rule.roots
	}
	if d.stsErr != nil {
		p.Why += ", no MTA-STS policy because of " + FailureOf(d.stsErr).Error()
	}
	return p.seal()
}

func (d *Destination) whyNoDANE(h Host) string {
	switch {
	case d.hop.MX && !d.hop.Secure:
		return "the MX records are not secure"
	case !h.Secure:
		return "the host is not in a signed zone"
	default:
		return "the host has no TLSA records"
	}
}

// bySTS returns the plan of an MTA-STS policy (RFC 8461 section 4.2): a
// certificate that is publicly trusted and has the name of the MX host.
func (d *Destination) bySTS(h Host) *Plan {
	p := &Plan{
		Level: Secure, Source: FromMTASTS, Why: fmt.Sprintf("MTA-STS policy %s of %s", d.stsID, d.hop.Domain),
		ServerName: h.Name, names: []string{strings.ToLower(h.Name)}, roots: d.policies.standard.roots,
		published: d.published(TypeSTS, nil),
	}
	return p.seal()
}

// dane returns the plan of the host's TLSA records, or nil when DANE has
// nothing to say about it (RFC 7672 section 2.2).
func (d *Destination) dane(ctx context.Context, h Host) (*Plan, error) {
	base, records, err := d.tlsa(ctx, h)
	if err != nil {
		return nil, d.refusal(status.TLSPolicyUnknown, TypeTLSA, fmt.Errorf("%w: TLSA records of %s: %w", DNSSECInvalid, h.Name, err))
	}
	counting := usable(records)
	switch {
	case len(counting) > 0:
		p := &Plan{Level: DANE, Source: FromDANE, Why: "TLSA records of " + base, ServerName: base, tlsa: counting}
		p.published = d.published(TypeTLSA, tlsaText(records))
		p.names = []string{strings.ToLower(base)}
		if d.hop.MX {
			p.names = append(p.names, strings.ToLower(d.hop.Domain))
			if d.hop.Canonical != "" {
				p.names = append(p.names, strings.ToLower(d.hop.Canonical))
			}
		}
		return p.seal(), nil
	case d.rule.Level == DANEOnly && base == "":
		return nil, d.refusal(status.TLSPolicyUnmet, TypeTLSA, fmt.Errorf("%w: level dane-only, but %s", DANERequired, d.whyNoDANE(h)))
	case d.rule.Level == DANEOnly:
		return nil, d.refusal(status.TLSPolicyUnmet, TypeTLSA, fmt.Errorf("%w: level dane-only, but no TLSA record of %s can be used", TLSAInvalid, base))
	case base != "" && (d.sts == nil || d.sts.Mode != STSEnforce):
		// RFC 7672 section 2.2: TLS all the same, without authentication.
		p := &Plan{Level: Encrypt, Source: FromDANE, Why: "TLSA records of " + base + ", none of which can be used", ServerName: base}
		p.published = d.published(TypeTLSA, tlsaText(records))
		p.fault = fmt.Errorf("%w: no TLSA record of %s can be used", TLSAInvalid, base)
		return p.seal(), nil
	default:
		return nil, nil
	}
}

// tlsa returns the secure TLSA records of a host and the name under which they
// stand, "" when it has none. Of an alias the name at the end is tried first,
// as far as all of the way there is secure, then the host's own (RFC 7672
// section 2.2.2).
func (d *Destination) tlsa(ctx context.Context, h Host) (base string, records []dns.TLSA, err error) {
	if d.hop.MX && !d.hop.Secure {
		return "", nil, nil
	}
	alias := h.Canonical != "" && !strings.EqualFold(h.Canonical, h.Name)
	candidates := []string{h.Name}
	switch {
	case h.Secure && alias:
		candidates = []string{h.Canonical, h.Name}
	case !h.Secure && alias:
		// The zone of the name itself may be signed even so.
		own, err := d.policies.resolver.CNAME(ctx, h.Name)
		if err != nil {
			return "", nil, err
		}
		if !own.Secure {
			return "", nil, nil
		}
	case !h.Secure:
		return "", nil, nil
	}
	for _, name := range candidates {
		answer, err := d.policies.resolver.TLSA(ctx, "_"+d.hop.Port+"._tcp."+name)
		if err != nil {
			return "", nil, err
		}
		if answer.Outcome == dns.Found && answer.Secure {
			return name, answer.Records, nil
		}
	}
	return "", nil, nil
}
