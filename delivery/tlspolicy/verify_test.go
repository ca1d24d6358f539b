package tlspolicy

import (
	"crypto/sha256"
	"crypto/sha512"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/postern-mail/postern/internal/dns"
	"github.com/postern-mail/postern/internal/testenv"
)

// parse returns the certificate in a PEM block.
func parse(t *testing.T, block []byte) *x509.Certificate {
	t.Helper()
	decoded, _ := pem.Decode(block)
	cert, err := x509.ParseCertificate(decoded.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	return cert
}

// record returns the TLSA record of a certificate.
func record(usage, selector, matching uint8, cert *x509.Certificate) dns.TLSA {
	data := cert.Raw
	if selector == selectKey {
		data = cert.RawSubjectPublicKeyInfo
	}
	switch matching {
	case matchSHA256:
		sum := sha256.Sum256(data)
		data = sum[:]
	case matchSHA512:
		sum := sha512.Sum512(data)
		data = sum[:]
	}
	return dns.TLSA{Usage: usage, Selector: selector, MatchingType: matching, Data: data}
}

func TestTLSA(t *testing.T) {
	t.Parallel()
	ca, stranger := testenv.NewCA(t), testenv.NewCA(t)
	root := parse(t, ca.PEM())
	good, next := parse(t, ca.Issue("mx.example.com").CertPEM), parse(t, ca.Issue("mx.example.com").CertPEM)
	wild := parse(t, ca.Issue("*.example.com").CertPEM)
	expired := parse(t, ca.IssueExpired("mx.example.com").CertPEM)
	misnamed := parse(t, ca.Issue("other.example").CertPEM)
	forNextHop := parse(t, ca.Issue("example.com").CertPEM)
	forged := parse(t, stranger.Issue("mx.example.com").CertPEM)
	names := []string{"mx.example.com", "example.com"}
	broken := record(3, 1, 1, next)
	for _, row := range []struct {
		name    string
		certs   []*x509.Certificate
		records []dns.TLSA
		want    Failure // "" when it holds; "unusable" when no record counts
	}{
		{"3 1 1", []*x509.Certificate{good}, []dns.TLSA{record(3, 1, 1, good)}, ""},
		{"3 0 1", []*x509.Certificate{good}, []dns.TLSA{record(3, 0, 1, good)}, ""},
		{"3 1 2", []*x509.Certificate{good}, []dns.TLSA{record(3, 1, 2, good)}, ""},
		{"3 0 2", []*x509.Certificate{good}, []dns.TLSA{record(3, 0, 2, good)}, ""},
		{"3 0 0", []*x509.Certificate{good}, []dns.TLSA{record(3, 0, 0, good)}, ""},
		{"3 1 0", []*x509.Certificate{good}, []dns.TLSA{record(3, 1, 0, good)}, ""},
		{"3 of an expired one", []*x509.Certificate{expired}, []dns.TLSA{record(3, 1, 1, expired)}, ""},
		{"3 with another name", []*x509.Certificate{misnamed}, []dns.TLSA{record(3, 1, 1, misnamed)}, ""},
		{"3 with another key", []*x509.Certificate{good}, []dns.TLSA{record(3, 1, 1, next)}, ValidationFailure},
		{"3 matches the authority only", []*x509.Certificate{good, root}, []dns.TLSA{record(3, 1, 1, root)}, ValidationFailure},
		{"rollover, the old key", []*x509.Certificate{good}, []dns.TLSA{record(3, 1, 1, next), record(3, 1, 1, good)}, ""},
		{"rollover, the new key", []*x509.Certificate{next}, []dns.TLSA{record(3, 1, 1, next), record(3, 1, 1, good)}, ""},
		{"2 1 1", []*x509.Certificate{good, root}, []dns.TLSA{record(2, 1, 1, root)}, ""},
		{"2 0 1", []*x509.Certificate{good, root}, []dns.TLSA{record(2, 0, 1, root)}, ""},
		{"2 0 2", []*x509.Certificate{good, root}, []dns.TLSA{record(2, 0, 2, root)}, ""},
		{"2 1 0", []*x509.Certificate{good, root}, []dns.TLSA{record(2, 1, 0, root)}, ""},
		{"2 0 0, not sent", []*x509.Certificate{good}, []dns.TLSA{record(2, 0, 0, root)}, ""},
		{"2, name of the next hop", []*x509.Certificate{forNextHop, root}, []dns.TLSA{record(2, 1, 1, root)}, ""},
		{"2, wildcard", []*x509.Certificate{wild, root}, []dns.TLSA{record(2, 1, 1, root)}, ""},
		{"2, wrong name", []*x509.Certificate{misnamed, root}, []dns.TLSA{record(2, 1, 1, root)}, CertificateMismatch},
		{"2, expired", []*x509.Certificate{expired, root}, []dns.TLSA{record(2, 1, 1, root)}, CertificateExpired},
		{"2, authority not sent", []*x509.Certificate{good}, []dns.TLSA{record(2, 1, 1, root)}, ValidationFailure},
		{"2, sent but not the issuer", []*x509.Certificate{forged, root}, []dns.TLSA{record(2, 1, 1, root)}, CertificateNotTrusted},
		{"2 of the certificate itself", []*x509.Certificate{good, root}, []dns.TLSA{record(2, 1, 1, good)}, ValidationFailure},
		{"2 fails, 3 holds", []*x509.Certificate{expired, root}, []dns.TLSA{record(2, 1, 1, root), record(3, 1, 1, expired)}, ""},
		{"strongest digest only", []*x509.Certificate{good}, []dns.TLSA{record(3, 1, 1, good), record(3, 1, 2, next)}, ValidationFailure},
		{"strongest digest of each kind", []*x509.Certificate{good}, []dns.TLSA{record(3, 0, 1, good), record(3, 1, 2, next)}, ""},
		{"full beside digests", []*x509.Certificate{good}, []dns.TLSA{record(3, 1, 0, good), record(3, 1, 2, next)}, ""},
		{"unusable beside usable", []*x509.Certificate{good}, []dns.TLSA{record(1, 1, 1, next), record(3, 1, 1, good)}, ""},
		{"0 1 1", []*x509.Certificate{good}, []dns.TLSA{record(0, 1, 1, good)}, "unusable"},
		{"1 1 1", []*x509.Certificate{good}, []dns.TLSA{record(1, 1, 1, good)}, "unusable"},
		{"unknown selector", []*x509.Certificate{good}, []dns.TLSA{record(3, 2, 1, good)}, "unusable"},
		{"unknown matching type", []*x509.Certificate{good}, []dns.TLSA{record(3, 1, 3, good)}, "unusable"},
		{"digest of another length", []*x509.Certificate{good}, []dns.TLSA{{Usage: 3, Selector: 1, MatchingType: 1, Data: broken.Data[:31]}}, "unusable"},
		{"full, but garbage", []*x509.Certificate{good}, []dns.TLSA{{Usage: 2, Data: []byte("garbage")}}, "unusable"},
	} {
		counting := usable(row.records)
		if len(counting) == 0 {
			if row.want != "unusable" {
				t.Errorf("%s: no record is usable", row.name)
			}
			continue
		}
		p := (&Plan{Level: DANE, tlsa: counting, names: names}).seal()
		err := p.Verify(tls.ConnectionState{PeerCertificates: row.certs})
		var untrusted *tls.CertificateVerificationError
		if FailureOf(err) != row.want || err != nil && !errors.As(err, &untrusted) {
			t.Errorf("%s: got %v, want %q", row.name, err, row.want)
		}
	}
}

func TestPlanVerify(t *testing.T) {
	t.Parallel()
	ca, stranger := testenv.NewCA(t), testenv.NewCA(t)
	good := parse(t, ca.Issue("mx.example.com").CertPEM)
	below := parse(t, ca.Issue("*.mx.example.com", "deep.down.example.com").CertPEM)
	expired := parse(t, ca.IssueExpired("mx.example.com").CertPEM)
	forged := parse(t, stranger.Issue("mx.example.com").CertPEM)
	certSum, keySum := sha256.Sum256(good.Raw), sha256.Sum256(good.RawSubjectPublicKeyInfo)
	chain := func(names ...string) *Plan { return &Plan{Level: Secure, names: names, roots: ca.Pool()} }
	for _, row := range []struct {
		name string
		plan *Plan
		cert *x509.Certificate
		want Failure
	}{
		{"may", &Plan{Level: May}, forged, ""},
		{"encrypt", &Plan{Level: Encrypt}, forged, ""},
		{"chain and name", chain("mx.example.com"), good, ""},
		{"one of two names", chain("example.com", ".example.com"), good, ""},
		{"name below, by wildcard", chain(".example.com"), below, ""},
		{"name below is not the name", chain(".mx.example.com"), good, CertificateMismatch},
		{"suffix is no subdomain", chain(".ample.com"), good, CertificateMismatch},
		{"other name", chain("example.com"), good, CertificateMismatch},
		{"expired", chain("mx.example.com"), expired, CertificateExpired},
		{"other authority", chain("mx.example.com"), forged, CertificateNotTrusted},
		{"no name to match", chain(), good, CertificateMismatch},
		{"digest of the certificate", &Plan{Level: Fingerprint, digests: [][32]byte{certSum}}, good, ""},
		{"digest of the key", &Plan{Level: Fingerprint, digests: [][32]byte{{}, keySum}}, good, ""},
		{"other digest", &Plan{Level: Fingerprint, digests: [][32]byte{{}}}, good, ValidationFailure},
	} {
		if err := row.plan.Verify(tls.ConnectionState{PeerCertificates: []*x509.Certificate{row.cert}}); FailureOf(err) != row.want {
			t.Errorf("%s: got %v, want %q", row.name, err, row.want)
		}
		if err := row.plan.Verify(tls.ConnectionState{}); row.plan.Authenticates() && err == nil {
			t.Errorf("%s: a server without a certificate was trusted", row.name)
		}
	}
}

func TestRulePrepare(t *testing.T) {
	t.Parallel()
	digest := strings.Repeat("0A:", 31) + "ff"
	for _, row := range []struct {
		rule Rule
		want string // level and match, "" for an error
	}{
		{Rule{}, "may []"},
		{Rule{Level: Verify}, "verify [hostname]"},
		{Rule{Level: Secure}, "secure [nexthop dot-nexthop]"},
		{Rule{Level: Secure, Match: []string{"mail.example.com", ".example.com"}}, "secure [mail.example.com .example.com]"},
		{Rule{Level: Secure, Match: []string{"bücher.example", ".Bücher.example"}}, "secure [xn--bcher-kva.example .xn--bcher-kva.example]"},
		{Rule{Level: Verify, Match: []string{"a\u2024example"}}, ""},
		{Rule{Level: Fingerprint, Match: []string{digest}}, "fingerprint [" + digest + "]"},
		{Rule{Level: Fingerprint}, ""},
		{Rule{Level: Fingerprint, Match: []string{"abcd"}}, ""},
		{Rule{Level: Fingerprint, Match: []string{strings.Repeat("zz", 32)}}, ""},
		{Rule{Level: May, Match: []string{"x"}}, ""},
		{Rule{Level: Secure, Match: []string{"*.example.com"}}, ""},
		{Rule{Level: Secure, Match: []string{"."}}, ""},
		{Rule{Level: "paranoid"}, ""},
		{Rule{CAFile: "/nonexistent/ca.pem"}, ""},
	} {
		got, err := row.rule.prepare()
		if text := fmt.Sprintf("%s %v", got.Level, got.Match); (err != nil) != (row.want == "") || err == nil && text != row.want {
			t.Errorf("%+v: got %q, %v; want %q", row.rule, text, err, row.want)
		}
	}
	r, err := Rule{Level: Secure, Match: []string{"hostname", "nexthop", "dot-nexthop", "X.example"}}.prepare()
	if err != nil {
		t.Fatal(err)
	}
	if got := r.names("MX.example.com", "example.com"); !slices.Equal(got, []string{"mx.example.com", "example.com", ".example.com", "x.example"}) {
		t.Errorf("names: %q", got)
	}
}

// TestKey holds that plans share connections exactly when they ask for the same.
func TestKey(t *testing.T) {
	t.Parallel()
	a := dns.TLSA{Usage: 3, Selector: 1, MatchingType: 1, Data: []byte(strings.Repeat("a", 32))}
	b := dns.TLSA{Usage: 3, Selector: 1, MatchingType: 1, Data: []byte(strings.Repeat("b", 32))}
	equal := [][2]*Plan{{{Level: DANE, tlsa: usable([]dns.TLSA{a, b})}, {Level: DANE, tlsa: usable([]dns.TLSA{b, a})}}}
	for _, pair := range equal {
		if pair[0].seal().Key() != pair[1].seal().Key() {
			t.Errorf("%+v and %+v have different keys", pair[0], pair[1])
		}
	}
	seen := make(map[string]int)
	for i, p := range []*Plan{
		{Level: May}, {Level: Encrypt}, {Level: Encrypt, ServerName: "a"}, {Level: Secure, names: []string{"a", "b"}}, {Level: Secure, names: []string{"a b"}},
		{Level: Verify, names: []string{"a", "b"}}, {Level: DANE, tlsa: []dns.TLSA{a}}, {Level: DANE, tlsa: []dns.TLSA{b}}, {Level: Fingerprint, digests: [][32]byte{{}}},
	} {
		key := p.seal().Key()
		if other, taken := seen[key]; taken {
			t.Errorf("plans %d and %d share a key", i, other)
		}
		seen[key] = i
	}
}

// FuzzTLSA holds that no record makes the check fail other than by an error,
// and that none of garbage is taken for a match.
func FuzzTLSA(f *testing.F) {
	f.Add(uint8(3), uint8(1), uint8(1), strings.Repeat("ab", 32))
	f.Add(uint8(2), uint8(0), uint8(0), "3000")
	f.Add(uint8(2), uint8(1), uint8(0), "")
	var cert *x509.Certificate
	f.Fuzz(func(t *testing.T, usage, selector, matching uint8, data string) {
		if cert == nil {
			cert = parse(t, testenv.NewCA(t).PEM())
		}
		octets, err := hex.DecodeString(data)
		if err != nil {
			return
		}
		r := dns.TLSA{Usage: usage, Selector: selector, MatchingType: matching, Data: octets}
		for _, u := range usable([]dns.TLSA{r}) {
			if u.Usage < 2 || verifyTLSA([]*x509.Certificate{cert, cert}, []dns.TLSA{u}, []string{"mx.example.com"}, cert.NotBefore) == nil {
				t.Fatalf("%+v counts or matches", u)
			}
		}
	})
}
