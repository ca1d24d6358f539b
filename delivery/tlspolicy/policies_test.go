package tlspolicy

import (
	"crypto/tls"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/postern-mail/postern/internal/dns/dnstest"
	"github.com/postern-mail/postern/status"
)

var someTLSA = " 300 IN TLSA 3 1 1 " + strings.Repeat("ab", 32)

// TestPlan goes through what the DNS may say about the hosts of a next hop.
func TestPlan(t *testing.T) {
	t.Parallel()
	signed := Hop{NextHop: "example.com", Domain: "example.com", Port: "25", MX: true, Secure: true}
	insecure := signed
	insecure.Secure = false
	literal := Hop{NextHop: "[mx.example.com]:587", Domain: "mx.example.com", Port: "587"}
	host := Host{Name: "mx.example.com", Secure: true}
	for _, row := range []struct {
		name    string
		level   Level
		records []string
		fail    string // "name type" that does not answer
		hop     Hop
		host    Host
		want    string // level, source and SNI, or the reason of an error
	}{
		{"TLSA", DANE, []string{"_25._tcp.mx.example.com." + someTLSA}, "", signed, host, "dane dane mx.example.com"},
		{"no TLSA", DANE, nil, "", signed, host, "may rule mx.example.com"},
		{"no TLSA, only", DANEOnly, nil, "", signed, host, "TLSPolicyUnmet"},
		{"TLSA of another port", DANE, []string{"_587._tcp.mx.example.com." + someTLSA}, "", signed, host, "may rule mx.example.com"},
		{"TLSA lookup fails", DANE, nil, "_25._tcp.mx.example.com TLSA", signed, host, "TLSPolicyUnknown"},
		{"TLSA lookup fails, only", DANEOnly, nil, "_25._tcp.mx.example.com TLSA", signed, host, "TLSPolicyUnknown"},
		{"TLSA lookup would fail, MX insecure", DANE, nil, "_25._tcp.mx.example.com TLSA", insecure, host, "may rule mx.example.com"},
		{"MX insecure", DANE, []string{"_25._tcp.mx.example.com." + someTLSA}, "", insecure, host, "may rule mx.example.com"},
		{"MX insecure, only", DANEOnly, []string{"_25._tcp.mx.example.com." + someTLSA}, "", insecure, host, "TLSPolicyUnmet"},
		{"addresses insecure", DANE, []string{"_25._tcp.mx.example.com." + someTLSA}, "", signed, Host{Name: "mx.example.com"}, "may rule mx.example.com"},
		{"TLSA insecure", DANE, []string{"_25._tcp.mx.plain.example." + someTLSA}, "", signed, Host{Name: "mx.plain.example", Secure: true}, "may rule mx.plain.example"},
		{"unusable", DANE, []string{"_25._tcp.mx.example.com. 300 IN TLSA 1 1 1 " + strings.Repeat("ab", 32)}, "", signed, host, "encrypt dane mx.example.com"},
		{"unusable, only", DANEOnly, []string{"_25._tcp.mx.example.com. 300 IN TLSA 1 1 1 " + strings.Repeat("ab", 32)}, "", signed, host, "TLSPolicyUnmet"},
		{"mixed", DANE, []string{"_25._tcp.mx.example.com. 300 IN TLSA 1 1 1 " + strings.Repeat("ab", 32), "_25._tcp.mx.example.com." + someTLSA}, "", signed, host, "dane dane mx.example.com"},
		{"host in brackets", DANE, []string{"_587._tcp.mx.example.com." + someTLSA}, "", literal, host, "dane dane mx.example.com"},
		{"alias, TLSA at its end", DANE, []string{"_25._tcp.real.example.com." + someTLSA, "_25._tcp.mx.example.com. 300 IN TLSA 1 1 1 00"},
			"", signed, Host{Name: "mx.example.com", Canonical: "real.example.com", Secure: true}, "dane dane real.example.com"},
		{"alias, TLSA at its name", DANE, []string{"_25._tcp.mx.example.com." + someTLSA},
			"", signed, Host{Name: "mx.example.com", Canonical: "real.example.com", Secure: true}, "dane dane mx.example.com"},
		{"signed alias into an insecure zone", DANE, []string{"mx.example.com. 300 IN CNAME mx.plain.example.", "_25._tcp.mx.example.com." + someTLSA, "_25._tcp.mx.plain.example." + someTLSA},
			"", signed, Host{Name: "mx.example.com", Canonical: "mx.plain.example"}, "dane dane mx.example.com"},
		{"insecure alias", DANE, []string{"mx.plain.example. 300 IN CNAME mx.example.com.", "_25._tcp.mx.plain.example." + someTLSA},
			"", signed, Host{Name: "mx.plain.example", Canonical: "mx.example.com"}, "may rule mx.plain.example"},
		{"alias unknown", DANE, nil, "mx.example.com CNAME", signed, Host{Name: "mx.example.com", Canonical: "mx.plain.example"}, "TLSPolicyUnknown"},
		{"none", None, nil, "", signed, host, "none rule mx.example.com"},
		{"may asks for no TLSA", May, []string{"_25._tcp.mx.example.com." + someTLSA}, "", signed, host, "may rule mx.example.com"},
		{"encrypt", Encrypt, nil, "", signed, host, "encrypt rule mx.example.com"},
		{"verify", Verify, nil, "", signed, host, "verify rule mx.example.com"},
		{"secure", Secure, nil, "", signed, host, "secure rule mx.example.com"},
	} {
		t.Run(row.name, func(t *testing.T) {
			t.Parallel()
			names := dnstest.New(t)
			names.Sign("example.com")
			names.Add(row.records...)
			if name, qtype, fails := strings.Cut(row.fail, " "); fails {
				names.Fail(name, qtype, "SERVFAIL")
			}
			p, err := New(Config{Default: Rule{Level: row.level}}, quietResolver(t, names), nil)
			if err != nil {
				t.Fatal(err)
			}
			plan, err := p.Destination(t.Context(), row.hop).Plan(t.Context(), row.host, AsPolicy)
			if got := outcomeOf(plan, err); got != row.want {
				t.Errorf("got %q (%v), want %q", got, err, row.want)
			}
		})
	}
}

func outcomeOf(p *Plan, err error) string {
	if err != nil {
		if !status.Of(err).Transient() {
			return "permanent: " + err.Error()
		}
		return status.Of(err).String()
	}
	return fmt.Sprintf("%s %s %s", p.Level, p.Source, p.ServerName)
}

// TestMTASTS crosses the policy's mode with the rule and with DANE.
func TestMTASTS(t *testing.T) {
	t.Parallel()
	hop := Hop{NextHop: "example.com", Domain: "example.com", Port: "25", MX: true, Secure: true}
	const unusable = " 300 IN TLSA 1 1 1 00"
	for _, row := range []struct {
		name  string
		rule  Rule
		mode  string
		tlsa  string
		host  string
		want  string
		trial bool
	}{
		{"enforce", Rule{Level: May, MTASTS: true}, "enforce", "", "mx.example.com", "secure mta-sts mx.example.com", false},
		{"enforce over encrypt", Rule{Level: Encrypt, MTASTS: true}, "enforce", "", "mx.example.com", "secure mta-sts mx.example.com", false},
		{"enforce, another host", Rule{Level: May, MTASTS: true}, "enforce", "", "mx2.example.com", "TLSPolicyUnmet", false},
		{"testing", Rule{Level: May, MTASTS: true}, "testing", "", "mx.example.com", "may rule mx.example.com", true},
		{"testing, another host", Rule{Level: May, MTASTS: true}, "testing", "", "mx2.example.com", "may rule mx2.example.com", true},
		{"none", Rule{Level: May, MTASTS: true}, "none", "", "mx.example.com", "may rule mx.example.com", false},
		{"not asked for", Rule{Level: May}, "enforce", "", "mx.example.com", "may rule mx.example.com", false},
		{"level none", Rule{Level: None, MTASTS: true}, "enforce", "", "mx.example.com", "none rule mx.example.com", false},
		{"level secure", Rule{Level: Secure, MTASTS: true}, "enforce", "", "mx.example.com", "secure rule mx.example.com", false},
		{"DANE first", Rule{Level: DANE, MTASTS: true}, "enforce", someTLSA, "mx.example.com", "dane dane mx.example.com", false},
		{"DANE without TLSA", Rule{Level: DANE, MTASTS: true}, "enforce", "", "mx.example.com", "secure mta-sts mx.example.com", false},
		{"DANE with unusable TLSA", Rule{Level: DANE, MTASTS: true}, "enforce", unusable, "mx.example.com", "secure mta-sts mx.example.com", false},
		{"DANE with unusable TLSA, testing", Rule{Level: DANE, MTASTS: true}, "testing", unusable, "mx.example.com", "encrypt dane mx.example.com", false},
	} {
		t.Run(row.name, func(t *testing.T) {
			t.Parallel()
			s := newSite(t)
			s.dns.Sign("example.com")
			s.serve(text(strings.Replace(enforced, "enforce", row.mode, 1)))
			if row.tlsa != "" {
				s.dns.Add("_25._tcp." + row.host + "." + row.tlsa)
			}
			p, err := New(Config{Default: row.rule}, quietResolver(t, s.dns), s.open(t))
			if err != nil {
				t.Fatal(err)
			}
			plan, err := p.Destination(t.Context(), hop).Plan(t.Context(), Host{Name: row.host, Secure: true}, AsPolicy)
			if got := outcomeOf(plan, err); got != row.want {
				t.Errorf("got %q (%v), want %q", got, err, row.want)
			}
			if plan != nil && (plan.Testing != nil) != row.trial {
				t.Errorf("to be tried out: %+v", plan.Testing)
			}
			if row.trial && row.host != "mx.example.com" && FailureOf(plan.Testing.Verify(tls.ConnectionState{})) != ValidationFailure {
				t.Errorf("a host outside of the policy is not told of")
			}
			if plan != nil && plan.Source == FromMTASTS && !slices.Equal(plan.names, []string{row.host}) {
				t.Errorf("names %q: RFC 8461 asks for the MX host's", plan.names)
			}
		})
	}
}

func TestRuleOfDestination(t *testing.T) {
	t.Parallel()
	p, err := New(Config{
		Default: Rule{Level: DANE},
		Destinations: map[string]Rule{
			"Example.com": {Level: Secure}, ".example.com": {Level: Verify}, "example.com:587": {Level: Encrypt},
			"[relay.example.net]": {Level: None}, "[relay.example.net]:465": {Level: Fingerprint, Match: []string{strings.Repeat("00", 32)}},
			".net": {Level: May}, "bücher.example": {Level: Secure}, ".Straße.example": {Level: Secure},
			"[müller.example]:587": {Level: Secure},
		},
	}, &script{}, nil)
	if err != nil {
		t.Fatal(err)
	}
	for _, row := range []struct {
		hop, domain, port string
		want              Level
	}{
		{"example.com", "example.com", "25", Secure},
		{"EXAMPLE.com", "EXAMPLE.com", "25", Secure},
		{"example.com:25", "example.com", "25", Secure},
		{"example.com:587", "example.com", "587", Encrypt},
		{"a.example.com", "a.example.com", "25", Verify},
		{"a.b.example.com", "a.b.example.com", "25", Verify},
		{"badexample.com", "badexample.com", "25", DANE},
		{"[relay.example.net]", "relay.example.net", "25", None},
		{"[relay.example.net]:465", "relay.example.net", "465", Fingerprint},
		{"[other.example.net]", "other.example.net", "25", DANE},
		{"other.example.net", "other.example.net", "25", May},
		{"org", "org", "25", DANE},
		{"xn--bcher-kva.example", "xn--bcher-kva.example", "25", Secure},
		{"bücher.example", "xn--bcher-kva.example", "25", Secure},
		{"mx.xn--strae-oqa.example", "mx.xn--strae-oqa.example", "25", Secure},
		{"[xn--mller-kva.example]:587", "xn--mller-kva.example", "587", Secure},
	} {
		if got := p.rule(Hop{NextHop: row.hop, Domain: row.domain, Port: row.port}).Level; got != row.want {
			t.Errorf("%s: level %s, want %s", row.hop, got, row.want)
		}
	}
	for _, rules := range []map[string]Rule{
		{"b\u00fccher.example": {}, "xn--bcher-kva.example": {Level: Secure}}, {"example.com": {}, "EXAMPLE.com": {Level: Secure}},
		{"a\u2024example": {}}, // a dot that is none
	} {
		if _, err := New(Config{Destinations: rules}, &script{}, nil); err == nil {
			t.Errorf("accepted %v", rules)
		}
	}
	if _, err := New(Config{Destinations: map[string]Rule{"a": {Level: "x"}, "b": {Level: Fingerprint}}}, nil, nil); err == nil ||
		!strings.Contains(err.Error(), "a: ") || !strings.Contains(err.Error(), "b: ") {
		t.Errorf("two mistakes: %v", err)
	}
}
