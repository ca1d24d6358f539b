package tlspolicy

import (
	"crypto/tls"
	"encoding/hex"
	"fmt"
	"net/netip"
	"strings"

	"github.com/postern-mail/postern/internal/dns"
	"github.com/postern-mail/postern/status"
)

// PolicyType is a kind of policy in TLS reports (RFC 8460 section 4.4).
type PolicyType string

// The kinds.
const (
	TypeTLSA PolicyType = "tlsa"
	TypeSTS  PolicyType = "sts"
	NoPolicy PolicyType = "no-policy-found"
)

// PolicyTypes lists all kinds.
func PolicyTypes() []PolicyType { return []PolicyType{TypeTLSA, TypeSTS, NoPolicy} }

// Published is what a domain publishes about its protection, in the words of
// TLS reports. It is never changed after it was made.
type Published struct {
	Type   PolicyType
	Domain string   // whose mail it is about, lower-case
	Text   []string // the policy's lines, or the TLSA records
	MX     []string // the host names an MTA-STS policy allows
}

// Session tells how one connection met what the domain publishes.
type Session struct {
	Published *Published
	// Failure is "" when all was as it should be.
	Failure Failure
	Host    string     // the MX host
	Helo    string     // as it called itself, "" when it did not come to that
	Remote  netip.Addr // the host's address, ours in Local; invalid when there was no connection
	Local   netip.Addr
	Detail  string // why it failed, in words
}

// Sessions is told of connections to MX hosts. Implemented by delivery/tlsrpt.
type Sessions interface {
	// Note must not block.
	Note(s Session)
}

// Refusal is why a host gets no mail, in the error of a plan that was not made,
// with what the domain publishes.
type Refusal struct {
	Published *Published
	Err       error
}

// Error describes the refusal for the log.
func (r *Refusal) Error() string { return r.Err.Error() }

// Unwrap returns what is behind it.
func (r *Refusal) Unwrap() error { return r.Err }

// Finding is how a session met one policy.
type Finding struct {
	Published *Published
	Failure   Failure
	Detail    string
}

// Findings tells how a session under the plan met what the domain publishes:
// state is its TLS, nil in the clear. None where the domain has no part in the
// plan.
func (p *Plan) Findings(state *tls.ConnectionState, startTLS bool) []Finding {
	var found []Finding
	if p.published != nil {
		err := p.fault
		if err == nil && state == nil {
			err = clearFailure(startTLS)
		}
		found = append(found, finding(p.published, err))
	}
	if t := p.Testing; t != nil && t.published != nil {
		err := clearFailure(startTLS)
		if state != nil {
			err = t.Verify(*state)
		}
		found = append(found, finding(t.published, err))
	}
	return found
}

// Failed tells the same of a session that ended because err is about its TLS.
func (p *Plan) Failed(err error) []Finding {
	var found []Finding
	for _, plan := range []*Plan{p, p.Testing} {
		if plan != nil && plan.published != nil {
			found = append(found, finding(plan.published, err))
		}
	}
	return found
}

// clearFailure is why a session is in the clear: a server that offered
// STARTTLS did not get through the handshake.
func clearFailure(startTLS bool) error {
	if startTLS {
		return fmt.Errorf("%w: the handshake failed", ValidationFailure)
	}
	return NoSTARTTLS
}

func finding(p *Published, err error) Finding {
	if err == nil {
		return Finding{Published: p}
	}
	failure := FailureOf(err)
	if status.Of(err) == status.PeerNeedsTLS {
		failure = NoSTARTTLS
	}
	return Finding{p, failure, err.Error()}
}

// reported reports whether the destination's domain has a say in its
// protection, so that it is told how that went.
func (d *Destination) reported() bool {
	switch d.rule.Level {
	case May, Encrypt, DANE, DANEOnly:
		return d.hop.MX
	default:
		return false
	}
}

// published returns what the domain publishes of one kind; nil when that is
// not reported.
func (d *Destination) published(kind PolicyType, text []string) *Published {
	if !d.reported() {
		return nil
	}
	p := &Published{Type: kind, Domain: strings.ToLower(d.hop.Domain), Text: text}
	if kind == TypeSTS && d.sts != nil {
		p.Text, p.MX = d.sts.lines, d.sts.MX
	}
	return p
}

// refusal is the error of a host that gets no mail.
func (d *Destination) refusal(reason status.Reason, kind PolicyType, err error) error {
	if p := d.published(kind, nil); p != nil {
		err = &Refusal{p, err}
	}
	return status.New(reason, err)
}

// tlsaText writes records as they stand in a zone.
func tlsaText(records []dns.TLSA) []string {
	text := make([]string, 0, len(records))
	for _, r := range records[:min(len(records), maxTLSA)] {
		text = append(text, fmt.Sprintf("%d %d %d %s", r.Usage, r.Selector, r.MatchingType, hex.EncodeToString(r.Data)))
	}
	return text
}
