package dmarc

import (
	"net/url"
	"strconv"
	"strings"

	"github.com/postern-mail/postern/mail"
)

// Policy is what a domain asks for (section 6.3).
type Policy string

// The policies, from mild to strict.
const (
	PolicyNone       Policy = "none"
	PolicyQuarantine Policy = "quarantine"
	PolicyReject     Policy = "reject"
)

// strictness orders policies.
func (p Policy) strictness() int {
	switch p {
	case PolicyReject:
		return 2
	case PolicyQuarantine:
		return 1
	default:
		return 0
	}
}

// milder returns the policy that messages get which are not in the sample
// (section 6.6.4).
func (p Policy) milder() Policy {
	if p == PolicyReject {
		return PolicyQuarantine
	}
	return PolicyNone
}

// Record is what a domain publishes.
type Record struct {
	Policy Policy
	// Subdomains is the policy of subdomains, Nonexistent of those that the DNS
	// does not have; "" when the record does not say.
	Subdomains  Policy
	Nonexistent Policy
	// StrictDKIM and StrictSPF ask for domains that are the same, not only of
	// the same organization.
	StrictDKIM bool
	StrictSPF  bool
	// Percent is how much of the mail the policy is for.
	Percent int
	// Testing asks to apply the next milder policy (the tag t).
	Testing bool
	// Failures is the tag fo, as far as it is known: "0", "1", "d", "s".
	Failures []string
	// Aggregate is where aggregate reports go.
	Aggregate []ReportURI
}

// ReportURI is one place for reports.
type ReportURI struct {
	Address mail.Address
	// MaxOctets is how large a report may be; 0 is no limit.
	MaxOctets int64
}

const (
	version = "DMARC1"
	// maxRecord bounds what is read of a record, maxURIs the places for reports.
	maxRecord = 16 << 10
	maxURIs   = 10
)

// parseRecord reads a TXT record. It reports false for one that is no DMARC
// record, or one whose policy cannot be told and that wants no reports (section
// 6.6.3 step 6).
func parseRecord(txt string) (*Record, bool) {
	if !isRecord(txt) {
		return nil, false
	}
	tags := make(map[string]string)
	for part := range strings.SplitSeq(txt[:min(len(txt), maxRecord)], ";") {
		name, value, ok := strings.Cut(part, "=")
		name = strings.ToLower(strings.TrimSpace(name))
		if _, again := tags[name]; ok && !again {
			tags[name] = strings.TrimSpace(value)
		}
	}
	r := &Record{
		StrictDKIM: strings.EqualFold(tags["adkim"], "s"),
		StrictSPF:  strings.EqualFold(tags["aspf"], "s"),
		Testing:    strings.EqualFold(tags["t"], "y"),
		Percent:    100,
		Failures:   failureOptions(tags["fo"]),
		Aggregate:  parseURIs(tags["rua"]),
	}
	if n, err := strconv.Atoi(tags["pct"]); err == nil && n >= 0 && n <= 100 {
		r.Percent = n
	}
	return r, r.policies(tags)
}

// policies reads p, sp and np. With one of them wrong the record asks for
// nothing but reports.
func (r *Record) policies(tags map[string]string) (valid bool) {
	valid = true
	for tag, policy := range map[string]*Policy{"p": &r.Policy, "sp": &r.Subdomains, "np": &r.Nonexistent} {
		value, given := tags[tag]
		if !given && tag != "p" {
			continue
		}
		switch p := Policy(strings.ToLower(value)); p {
		case PolicyNone, PolicyQuarantine, PolicyReject:
			*policy = p
		default:
			valid = false
		}
	}
	if !valid {
		r.Policy, r.Subdomains, r.Nonexistent = PolicyNone, "", ""
	}
	return valid || len(r.Aggregate) > 0
}

// isRecord reports whether a TXT record begins with our version, which is the
// one word whose letter case counts (section 6.4).
func isRecord(txt string) bool {
	first, _, _ := strings.Cut(txt, ";")
	name, value, ok := strings.Cut(first, "=")
	return ok && strings.EqualFold(strings.TrimSpace(name), "v") && strings.TrimSpace(value) == version
}

func failureOptions(value string) []string {
	var known []string
	for option := range strings.SplitSeq(strings.ToLower(value), ":") {
		switch option = strings.TrimSpace(option); option {
		case "0", "1", "d", "s":
			known = append(known, option)
		}
	}
	return known
}

// parseURIs reads the list of rua. What is not mail, or makes no sense, is left
// out.
func parseURIs(list string) []ReportURI {
	var all []ReportURI
	for text := range strings.SplitSeq(list, ",") {
		if u, ok := parseURI(strings.TrimSpace(text)); ok && len(all) < maxURIs {
			all = append(all, u)
		}
	}
	return all
}

// parseURI reads "mailto:address" with or without "!size" (section 6.2).
func parseURI(text string) (ReportURI, bool) {
	uri, limit, bounded := strings.Cut(text, "!")
	scheme, target, ok := strings.Cut(uri, ":")
	if !ok || !strings.EqualFold(strings.TrimSpace(scheme), "mailto") {
		return ReportURI{}, false
	}
	target, _, _ = strings.Cut(target, "?")
	target, err := url.PathUnescape(strings.TrimSpace(target))
	if err != nil {
		return ReportURI{}, false
	}
	address, err := mail.ParseAddress(target)
	if err != nil || address.Domain.IsLiteral() || !address.IsASCII() {
		return ReportURI{}, false
	}
	u := ReportURI{Address: address}
	if bounded {
		if u.MaxOctets, ok = parseSize(limit); !ok {
			return ReportURI{}, false
		}
	}
	return u, true
}

// parseSize reads a number with a unit.
func parseSize(s string) (int64, bool) {
	s = strings.ToLower(strings.TrimSpace(s))
	shift := 0
	if s != "" {
		if at := strings.IndexByte("kmgt", s[len(s)-1]); at >= 0 {
			shift, s = 10*(at+1), s[:len(s)-1]
		}
	}
	n, err := strconv.ParseInt(s, 10, 64)
	if err != nil || n <= 0 {
		return 0, false
	}
	const most = int64(1) << 50
	if n > most>>shift {
		return most, true
	}
	return n << shift, true
}
