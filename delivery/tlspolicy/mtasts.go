package tlspolicy

import (
	"fmt"
	"strconv"
	"strings"
	"time"
)

// Limits of an MTA-STS policy. The first two are of RFC 8461 sections 3.3 and
// 3.2; the others keep memory within bounds.
const (
	maxPolicyOctets = 64 << 10
	maxPolicyAge    = 31557600 * time.Second
	maxPolicyMX     = 200
	maxIDOctets     = 32
)

// STSMode is what an MTA-STS policy asks for.
type STSMode string

// The modes of RFC 8461 section 5.
const (
	STSEnforce STSMode = "enforce"
	STSTesting STSMode = "testing"
	STSNone    STSMode = "none"
)

// STSPolicy is the MTA-STS policy of a domain.
type STSPolicy struct {
	Mode   STSMode
	MX     []string // patterns, lower-case: a name, or "*." and one
	MaxAge time.Duration

	lines []string // as they came, for reports
}

// Allows reports whether mail may go to the MX host (RFC 8461 section 4.1).
func (p *STSPolicy) Allows(host string) bool {
	host = strings.ToLower(strings.TrimSuffix(host, "."))
	_, parent, _ := strings.Cut(host, ".")
	for _, pattern := range p.MX {
		if host == pattern || parent != "" && pattern == "*."+parent {
			return true
		}
	}
	return false
}

// parseSTSRecord returns the policy id of the TXT records at _mta-sts.domain
// (RFC 8461 section 3.1): "" unless exactly one of them is an STS record, and
// well formed.
func parseSTSRecord(texts []string) (id string) {
	var record string
	for _, text := range texts {
		if version, _, _ := strings.Cut(text, ";"); strings.TrimRight(version, " \t") == "v=STSv1" {
			if record != "" {
				return ""
			}
			record = text
		}
	}
	fields := strings.Split(record, ";")
	for _, field := range fields[1:] {
		name, value, _ := strings.Cut(strings.TrimSpace(field), "=")
		if strings.TrimSpace(name) == "id" {
			id = strings.TrimSpace(value)
			break
		}
	}
	notInID := func(r rune) bool { return (r < '0' || r > '9') && (r < 'a' || r > 'z') && (r < 'A' || r > 'Z') }
	if len(id) > maxIDOctets || strings.ContainsFunc(id, notInID) {
		return ""
	}
	return id
}

// parseSTSPolicy reads the body of a policy (RFC 8461 section 3.2). Fields that
// are not known are left out, and of one that comes twice the first counts.
// Errors are STSPolicyInvalid.
func parseSTSPolicy(text string) (*STSPolicy, error) {
	if len(text) > maxPolicyOctets {
		return nil, fmt.Errorf("%w: longer than %d octets", STSPolicyInvalid, maxPolicyOctets)
	}
	p := &STSPolicy{}
	fields := make(map[string]string)
	for line := range strings.Lines(text) {
		if shown := strings.ToValidUTF8(strings.TrimRight(line, " \t\r\n"), "?"); shown != "" {
			p.lines = append(p.lines, shown)
		}
		name, value, found := strings.Cut(strings.TrimRight(line, " \t\r\n"), ":")
		if !found {
			if name == "" {
				continue
			}
			return nil, fmt.Errorf("%w: line without a colon", STSPolicyInvalid)
		}
		value = strings.Trim(value, " \t")
		if name == "mx" {
			pattern, err := parseMXPattern(value)
			if err != nil {
				return nil, err
			}
			if p.MX = append(p.MX, pattern); len(p.MX) > maxPolicyMX {
				return nil, fmt.Errorf("%w: more than %d mx", STSPolicyInvalid, maxPolicyMX)
			}
		} else if _, twice := fields[name]; !twice {
			fields[name] = value
		}
	}
	return p, p.fill(fields)
}

func (p *STSPolicy) fill(fields map[string]string) error {
	if fields["version"] != "STSv1" {
		return fmt.Errorf("%w: version %q", STSPolicyInvalid, fields["version"])
	}
	seconds, err := strconv.ParseUint(fields["max_age"], 10, 40)
	if err != nil || len(fields["max_age"]) > 10 {
		return fmt.Errorf("%w: max_age %q", STSPolicyInvalid, fields["max_age"])
	}
	p.MaxAge = min(time.Duration(seconds)*time.Second, maxPolicyAge)
	switch p.Mode = STSMode(fields["mode"]); p.Mode {
	case STSNone:
	case STSEnforce, STSTesting:
		if len(p.MX) == 0 {
			return fmt.Errorf("%w: no mx", STSPolicyInvalid)
		}
	default:
		return fmt.Errorf("%w: mode %q", STSPolicyInvalid, p.Mode)
	}
	return nil
}

func parseMXPattern(s string) (string, error) {
	s = strings.ToLower(strings.TrimSuffix(s, "."))
	name := strings.TrimPrefix(s, "*.")
	notInName := func(r rune) bool { return (r < '0' || r > '9') && (r < 'a' || r > 'z') && r != '-' && r != '_' }
	for label := range strings.SplitSeq(name, ".") {
		if label == "" || len(label) > 63 || strings.ContainsFunc(label, notInName) {
			return "", fmt.Errorf("%w: mx %q", STSPolicyInvalid, s)
		}
	}
	return s, nil
}
