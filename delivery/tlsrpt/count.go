package tlsrpt

import (
	"net/netip"
	"slices"

	"github.com/postern-mail/postern/delivery/tlspolicy"
	"github.com/postern-mail/postern/internal/dailyreport"
)

// Bounds of what is kept of a domain in one day. Together they stay below what
// a value of the store may hold.
const (
	maxPolicies   = 3
	maxDetails    = 30
	maxTextOctets = 3 << 10 // of a policy's text, and of its hosts
	maxNameOctets = 128
	maxWhyOctets  = 200
)

// count is what happened to a domain in one UTC day, as far as it was kept.
type count struct {
	Version  int                  `json:"version"`
	Policies []*policyCount       `json:"policies"`
	Sending  *dailyreport.Sending `json:"sending,omitempty"`
}

// policyCount is what happened under one policy.
type policyCount struct {
	Type      tlspolicy.PolicyType `json:"type"`
	Text      []string             `json:"text,omitempty"`
	MX        []string             `json:"mx,omitempty"`
	Succeeded int64                `json:"ok"`
	Failed    int64                `json:"failed"`
	Details   []*detail            `json:"details,omitempty"`
}

// failureKey is what makes two failures the same.
type failureKey struct {
	Result tlspolicy.Failure `json:"result"`
	Host   string            `json:"host,omitempty"`
	Helo   string            `json:"helo,omitempty"`
	Local  string            `json:"local,omitempty"`
	Remote string            `json:"remote,omitempty"`
}

// detail counts sessions that failed alike. Why is that of the first.
type detail struct {
	failureKey
	Why string `json:"why,omitempty"`
	N   int64  `json:"n"`
}

// add counts one session. It reports false when its policy had no room; a
// failure whose detail has none is counted all the same.
func (c *count) add(s tlspolicy.Session) bool {
	p := c.policy(s.Published.Type, bounded(s.Published.Text), bounded(s.Published.MX))
	if p == nil {
		return false
	}
	if s.Failure == "" {
		p.Succeeded++
		return true
	}
	p.Failed++
	key := failureKey{
		Result: s.Failure, Host: dailyreport.Plain(s.Host, maxNameOctets), Helo: dailyreport.Plain(s.Helo, maxNameOctets),
		Local: addressText(s.Local), Remote: addressText(s.Remote),
	}
	c.detail(p, key, dailyreport.Plain(s.Detail, maxWhyOctets), 1)
	return true
}

// merge adds what was counted elsewhere, and returns how many sessions had no
// room.
func (c *count) merge(other *count) (lost int64) {
	for _, o := range other.Policies {
		p := c.policy(o.Type, o.Text, o.MX)
		if p == nil {
			lost += o.Succeeded + o.Failed
			continue
		}
		p.Succeeded += o.Succeeded
		p.Failed += o.Failed
		for _, d := range o.Details {
			c.detail(p, d.failureKey, d.Why, d.N)
		}
	}
	return lost
}

// policy finds the count of a policy, or makes one; nil when there is no room.
func (c *count) policy(kind tlspolicy.PolicyType, text, mx []string) *policyCount {
	for _, p := range c.Policies {
		if p.Type == kind && slices.Equal(p.Text, text) && slices.Equal(p.MX, mx) {
			return p
		}
	}
	if len(c.Policies) >= maxPolicies {
		return nil
	}
	p := &policyCount{Type: kind, Text: text, MX: mx}
	c.Policies = append(c.Policies, p)
	return p
}

func (c *count) detail(p *policyCount, key failureKey, why string, n int64) {
	for _, d := range p.Details {
		if d.failureKey == key {
			d.N += n
			return
		}
	}
	details := 0
	for _, p := range c.Policies {
		details += len(p.Details)
	}
	if details < maxDetails {
		p.Details = append(p.Details, &detail{key, why, n})
	}
}

// bounded returns the lines that have room, as text.
func bounded(lines []string) []string {
	var kept []string
	left := maxTextOctets
	for _, line := range lines {
		line = dailyreport.Plain(line, left)
		if left -= len(line); line == "" || left <= 0 {
			break
		}
		kept = append(kept, line)
	}
	return kept
}

func addressText(a netip.Addr) string {
	if !a.IsValid() {
		return ""
	}
	return a.Unmap().WithZone("").String()
}
