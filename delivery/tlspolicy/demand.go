package tlspolicy

import (
	"errors"
	"fmt"
	"strings"

	"github.com/postern-mail/postern/status"
)

// Demand is what the sender of a message asks of its way (RFC 8689), beside
// what operator and destination say.
type Demand int

// The demands.
const (
	// AsPolicy asks for nothing.
	AsPolicy Demand = iota
	// Required is REQUIRETLS: only a server that proved to be the right one
	// gets the message.
	Required
	// Optional is "TLS-Required: No": what the destination publishes by DANE
	// and MTA-STS counts for nothing. What the operator wrote holds.
	Optional
)

var errUnproven = errors.New("nothing proves which hosts take the destination's mail: its MX records are not secure, and it has no MTA-STS policy")

// required returns what is asked of a host for REQUIRETLS where p is what
// policy alone says (RFC 8689 section 4.2.1). The host must be known to be the
// destination's, by DNSSEC, MTA-STS or the operator, and show a trusted
// certificate with its name, unless p asks for more.
func (d *Destination) required(p *Plan, h Host) (*Plan, error) {
	switch {
	case p.Authenticates():
		return p, nil
	case p.Level == None:
		return nil, status.Errorf(status.RequireTLSUnmet, "REQUIRETLS, but level none asks for no TLS")
	case p.Testing != nil && p.Testing.ruledOut != nil:
		return nil, status.New(status.RequireTLSUnmet, p.Testing.ruledOut)
	case p.Testing != nil:
		return p.Testing, nil
	case !d.hop.MX || d.hop.Secure:
		strict := &Plan{
			Level: Secure, Source: FromRule, Why: "REQUIRETLS, " + p.Why, ServerName: h.Name,
			names: []string{strings.ToLower(h.Name)}, roots: d.rule.roots,
		}
		return strict.seal(), nil
	case d.stsErr != nil:
		return nil, status.New(status.TLSPolicyUnknown, fmt.Errorf("REQUIRETLS: %w", d.stsErr))
	default:
		return nil, status.New(status.RequireTLSUnmet, errUnproven)
	}
}

// optional returns what the operator's rule alone asks of a host: level dane
// is then may.
func (d *Destination) optional(h Host) *Plan {
	p := d.byRule(h)
	if d.rule.Level == DANE {
		p.Why = "level dane, but the message says TLS-Required: No"
	}
	return p
}
