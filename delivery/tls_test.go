package delivery_test

import (
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/postern-mail/postern/delivery"
	"github.com/postern-mail/postern/delivery/relay"
	"github.com/postern-mail/postern/delivery/tlspolicy"
	"github.com/postern-mail/postern/internal/dns"
	"github.com/postern-mail/postern/internal/dns/dnstest"
	"github.com/postern-mail/postern/internal/testenv"
	"github.com/postern-mail/postern/mail"
	"github.com/postern-mail/postern/status"
)

// internet is a domain, example.com, in a signed zone, with one mail server,
// mx.example.com, and the authorities there are.
type internet struct {
	t      *testing.T
	dns    *dnstest.Server
	ca     *testenv.CA // trusted by us
	other  *testenv.CA // trusted by nobody
	server *peer
	port   string
	cert   testenv.Certificate // of the server
	sts    *tlspolicy.STS
	dir    string

	noRequireTLS bool // the server does not offer REQUIRETLS
}

func newInternet(t *testing.T) *internet {
	t.Helper()
	i := newUnsignedInternet(t)
	i.dns.Sign("example.com")
	return i
}

// newUnsignedInternet is one without DNSSEC.
func newUnsignedInternet(t *testing.T) *internet {
	t.Helper()
	i := &internet{t: t, dns: dnstest.New(t), ca: testenv.NewCA(t), other: testenv.NewCA(t), dir: testenv.TempDir(t)}
	i.dns.Add("example.com. 0 IN MX 10 mx.example.com.", "mx.example.com. 0 IN A 127.0.0.1")
	return i
}

// serve starts the mail server with the certificate; without one it offers no
// STARTTLS.
func (i *internet) serve(cert *testenv.Certificate, change ...func(*tls.Config)) {
	i.t.Helper()
	i.server = newPeer(i.t, "tcp", func(p *peer) { i.dress(p, cert, change...) })
	_, i.port, _ = net.SplitHostPort(i.server.addr)
}

func (i *internet) dress(p *peer, cert *testenv.Certificate, change ...func(*tls.Config)) {
	p.server.LMTP, p.server.EnableREQUIRETLS = false, !i.noRequireTLS
	if cert == nil {
		return
	}
	i.cert = *cert
	pair := cert.TLS(i.t)
	for _, ca := range []*testenv.CA{i.ca, i.other} {
		// The chain holds the authority, as DANE with usage 2 needs it.
		root := parseCertificate(i.t, ca.PEM())
		if leaf := parseCertificate(i.t, cert.CertPEM); leaf.CheckSignatureFrom(root) == nil {
			pair.Certificate = append(pair.Certificate, root.Raw)
		}
	}
	p.server.TLSConfig = &tls.Config{Certificates: []tls.Certificate{pair}}
	for _, f := range change {
		f(p.server.TLSConfig)
	}
}

func parseCertificate(t *testing.T, block []byte) *x509.Certificate {
	t.Helper()
	decoded, _ := pem.Decode(block)
	cert, err := x509.ParseCertificate(decoded.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	return cert
}

// keyDigest is the SHA-256 of a certificate's public key.
func keyDigest(t *testing.T, block []byte) string {
	t.Helper()
	sum := sha256.Sum256(parseCertificate(t, block).RawSubjectPublicKeyInfo)
	return hex.EncodeToString(sum[:])
}

// tlsa publishes a TLSA record of the server, such as "3 1 1 ab...".
func (i *internet) tlsa(record string) {
	i.dns.Add("_" + i.port + "._tcp.mx.example.com. 0 IN TLSA " + record)
}

// ee is the record of a certificate's key, ta that of an authority's.
func (i *internet) ee(cert testenv.Certificate) string {
	return "3 1 1 " + keyDigest(i.t, cert.CertPEM)
}
func (i *internet) ta(ca *testenv.CA) string { return "2 1 1 " + keyDigest(i.t, ca.PEM()) }

// publishSTS starts the policy host of the domain.
func (i *internet) publishSTS(policy string) {
	i.t.Helper()
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/plain")
		fmt.Fprint(w, policy)
	}))
	server.TLS = &tls.Config{Certificates: []tls.Certificate{i.ca.Issue("mta-sts.example.com").TLS(i.t)}}
	server.StartTLS()
	i.t.Cleanup(server.Close)
	i.dns.Add("mta-sts.example.com. 0 IN A 127.0.0.1", `_mta-sts.example.com. 0 IN TXT "v=STSv1; id=1;"`)
	_, port, _ := net.SplitHostPort(server.Listener.Addr().String())
	var err error
	i.sts, err = tlspolicy.NewSTS(tlspolicy.STSConfig{CAFile: i.ca.WriteFile(i.dir), Port: port}, i.resolver(), nil, hclog.NewNullLogger())
	if err != nil {
		i.t.Fatal(err)
	}
}

func (i *internet) resolver() *dns.Resolver {
	i.t.Helper()
	none := filepath.Join(i.dir, "none")
	r, err := dns.New(dns.Config{Servers: []string{i.dns.Addr}, ResolvConf: none, HostsFile: none, Timeout: time.Minute, Attempts: 1})
	if err != nil {
		i.t.Fatal(err)
	}
	return r
}

// relay returns the transport of a level, which trusts ca.
func (i *internet) relay(target delivery.Target) *relay.Transport {
	i.t.Helper()
	target.Name, target.Protocol, target.CAFile = "test", delivery.SMTP, i.ca.WriteFile(i.dir)
	target.Timeouts.Connect = time.Minute
	tr, err := relay.New(target, "gateway.example.net", i.resolver(), i.sts, hclog.NewNullLogger())
	if err != nil {
		i.t.Fatal(err)
	}
	running(i.t, tr.Run)
	return tr
}

// told is how an attempt ended: the protection of what was delivered, "clear"
// for none, or the reason of what was not.
func told(o mail.Outcome) string {
	if o.Class == mail.Delivered {
		words := strings.Fields(o.TLS)
		if len(words) == 0 {
			return "clear"
		}
		return words[0] + " " + words[len(words)-1]
	}
	for _, r := range []status.Reason{status.PeerNotTrusted, status.PeerNeedsTLS, status.TLSPolicyUnknown, status.TLSPolicyUnmet, status.ConnectionFailed, status.NameServiceDown} {
		if o.Reply == r.Reply() {
			return o.Class.String() + " " + r.String()
		}
	}
	return o.Class.String() + " " + o.Reply.String()
}

const stsEnforce = "version: STSv1\nmode: enforce\nmx: mx.example.com\nmax_age: 86400\n"

// TestTLSMatrix crosses what we ask for with what a destination has. Nothing is
// ever bounced for it, and nothing that must be protected goes in the clear.
func TestTLSMatrix(t *testing.T) {
	t.Parallel()
	good := func(i *internet) { c := i.ca.Issue("mx.example.com"); i.serve(&c) }
	expired := func(i *internet) { c := i.ca.IssueExpired("mx.example.com"); i.serve(&c) }
	misnamed := func(i *internet) { c := i.ca.Issue("mx.example.net"); i.serve(&c) }
	forNextHop := func(i *internet) { c := i.ca.Issue("example.com"); i.serve(&c) }
	below := func(i *internet) { c := i.ca.Issue("mail.example.com"); i.serve(&c) }
	untrusted := func(i *internet) { c := i.other.Issue("mx.example.com"); i.serve(&c) }
	plain := func(i *internet) { i.serve(nil) }
	ancient := func(i *internet) {
		c := i.ca.Issue("mx.example.com")
		i.serve(&c, func(cfg *tls.Config) { cfg.MinVersion, cfg.MaxVersion = tls.VersionTLS10, tls.VersionTLS10 })
	}
	nothing := func(*internet) {}
	ownKey := func(i *internet) { i.tlsa(i.ee(i.cert)) }
	otherKey := func(i *internet) { i.tlsa(i.ee(i.ca.Issue("mx.example.com"))) }
	failing := func(i *internet) { i.dns.Fail("_"+i.port+"._tcp.mx.example.com", "TLSA", "SERVFAIL") }
	sts := func(policy string) func(*internet) { return func(i *internet) { i.publishSTS(policy) } }
	both := func(a, b func(*internet)) func(*internet) { return func(i *internet) { a(i); b(i) } }
	const notTrusted, needsTLS = "deferred PeerNotTrusted", "deferred PeerNeedsTLS"
	for _, row := range []struct {
		name      string
		level     tlspolicy.Level
		match     []string
		server    func(*internet)
		published func(*internet)
		want      string
	}{
		{"none", tlspolicy.None, nil, good, nothing, "clear"},
		{"may", tlspolicy.May, nil, untrusted, nothing, "Untrusted rule"},
		{"may, no STARTTLS", tlspolicy.May, nil, plain, nothing, "clear"},
		{"may, handshake fails", tlspolicy.May, nil, ancient, nothing, "clear"},
		{"encrypt", tlspolicy.Encrypt, nil, untrusted, nothing, "Untrusted rule"},
		{"encrypt, expired", tlspolicy.Encrypt, nil, expired, nothing, "Untrusted rule"},
		{"encrypt, no STARTTLS", tlspolicy.Encrypt, nil, plain, nothing, needsTLS},
		{"encrypt, handshake fails", tlspolicy.Encrypt, nil, ancient, nothing, "deferred ConnectionFailed"},
		{"verify", tlspolicy.Verify, nil, good, nothing, "Verified rule"},
		{"verify, expired", tlspolicy.Verify, nil, expired, nothing, notTrusted},
		{"verify, wrong name", tlspolicy.Verify, nil, misnamed, nothing, notTrusted},
		{"verify, untrusted", tlspolicy.Verify, nil, untrusted, nothing, notTrusted},
		{"verify, no STARTTLS", tlspolicy.Verify, nil, plain, nothing, needsTLS},
		{"secure, name of the next hop", tlspolicy.Secure, nil, forNextHop, nothing, "Verified rule"},
		{"secure, name below", tlspolicy.Secure, nil, below, nothing, "Verified rule"},
		{"secure, other name", tlspolicy.Secure, nil, misnamed, nothing, notTrusted},
		{"secure, name of choice", tlspolicy.Secure, []string{"mx.example.net"}, misnamed, nothing, "Verified rule"},
		{"secure, no STARTTLS", tlspolicy.Secure, nil, plain, nothing, needsTLS},
		{"fingerprint, wrong", tlspolicy.Fingerprint, []string{strings.Repeat("00", 32)}, good, nothing, notTrusted},
		{"fingerprint, no STARTTLS", tlspolicy.Fingerprint, []string{strings.Repeat("00", 32)}, plain, nothing, needsTLS},
		{"dane without TLSA", tlspolicy.DANE, nil, untrusted, nothing, "Untrusted rule"},
		{"dane without TLSA, no STARTTLS", tlspolicy.DANE, nil, plain, nothing, "clear"},
		{"dane", tlspolicy.DANE, nil, untrusted, ownKey, "Verified dane"},
		{"dane, expired and misnamed", tlspolicy.DANE, nil, func(i *internet) { c := i.other.IssueExpired("x.example"); i.serve(&c) }, ownKey, "Verified dane"},
		{"dane, wrong key", tlspolicy.DANE, nil, good, otherKey, notTrusted},
		{"dane, no STARTTLS", tlspolicy.DANE, nil, plain, func(i *internet) { i.tlsa("3 1 1 " + strings.Repeat("ab", 32)) }, needsTLS},
		{"dane, handshake fails", tlspolicy.DANE, nil, ancient, ownKey, "deferred ConnectionFailed"},
		{"dane, TLSA lookup fails", tlspolicy.DANE, nil, good, failing, "deferred TLSPolicyUnknown"},
		{"dane, rollover", tlspolicy.DANE, nil, good, both(otherKey, ownKey), "Verified dane"},
		{"dane, unusable", tlspolicy.DANE, nil, untrusted, func(i *internet) { i.tlsa("1 1 1 " + strings.Repeat("ab", 32)) }, "Untrusted dane"},
		{"dane, unusable, no STARTTLS", tlspolicy.DANE, nil, plain, func(i *internet) { i.tlsa("1 1 1 " + strings.Repeat("ab", 32)) }, needsTLS},
		{"dane, unusable beside wrong key", tlspolicy.DANE, nil, good, both(otherKey, func(i *internet) { i.tlsa("1 1 1 " + strings.Repeat("ab", 32)) }), notTrusted},
		{"dane, authority", tlspolicy.DANE, nil, untrusted, func(i *internet) { i.tlsa(i.ta(i.other)) }, "Verified dane"},
		{"dane, authority, wrong name", tlspolicy.DANE, nil, misnamed, func(i *internet) { i.tlsa(i.ta(i.ca)) }, notTrusted},
		{"dane, authority, name of the next hop", tlspolicy.DANE, nil, forNextHop, func(i *internet) { i.tlsa(i.ta(i.ca)) }, "Verified dane"},
		{"dane, authority, expired", tlspolicy.DANE, nil, expired, func(i *internet) { i.tlsa(i.ta(i.ca)) }, notTrusted},
		{"dane, another authority", tlspolicy.DANE, nil, good, func(i *internet) { i.tlsa(i.ta(i.other)) }, notTrusted},
		{"dane, strongest digest only", tlspolicy.DANE, nil, good, both(ownKey, func(i *internet) { i.tlsa("3 1 2 " + strings.Repeat("ab", 64)) }), notTrusted},
		{"dane, no MX records", tlspolicy.DANE, nil, untrusted, func(i *internet) {
			i.dns.Remove("example.com")
			i.dns.Add("example.com. 0 IN A 127.0.0.1", "_"+i.port+"._tcp.example.com. 0 IN TLSA "+i.ee(i.cert))
		}, "Verified dane"},
		{"dane, MX at the end of an alias", tlspolicy.DANE, nil, func(i *internet) { c := i.ca.Issue("hosted.example.com"); i.serve(&c) }, func(i *internet) {
			i.dns.Remove("example.com")
			i.dns.Add("example.com. 0 IN CNAME hosted.example.com.", "hosted.example.com. 0 IN MX 10 mx.example.com.")
			i.tlsa(i.ta(i.ca))
		}, "Verified dane"},
		{"dane, MX lookup fails", tlspolicy.DANE, nil, good, func(i *internet) { ownKey(i); i.dns.Fail("example.com", "MX", "SERVFAIL") }, "deferred NameServiceDown"},
		{"dane, address lookup fails", tlspolicy.DANE, nil, good, func(i *internet) {
			ownKey(i)
			i.dns.Fail("mx.example.com", "A", "SERVFAIL")
			i.dns.Fail("mx.example.com", "AAAA", "SERVFAIL")
		}, "deferred NameServiceDown"},
		{"dane-only", tlspolicy.DANEOnly, nil, untrusted, ownKey, "Verified dane"},
		{"dane-only without TLSA", tlspolicy.DANEOnly, nil, good, nothing, "deferred TLSPolicyUnmet"},
		{"sts", tlspolicy.May, nil, good, sts(stsEnforce), "Verified mta-sts"},
		{"sts, wildcard certificate", tlspolicy.May, nil, func(i *internet) { c := i.ca.Issue("*.example.com"); i.serve(&c) }, sts(stsEnforce), "Verified mta-sts"},
		{"sts, wildcard for another level", tlspolicy.May, nil, func(i *internet) { c := i.ca.Issue("*.mx.example.com"); i.serve(&c) }, sts(stsEnforce), notTrusted},
		{"sts, pattern for another level", tlspolicy.May, nil, good, sts(strings.Replace(stsEnforce, "mx: mx.", "mx: *.mx.", 1)), "deferred TLSPolicyUnmet"},
		{"sts, expired", tlspolicy.May, nil, expired, sts(stsEnforce), notTrusted},
		{"sts, wrong name", tlspolicy.May, nil, forNextHop, sts(stsEnforce), notTrusted},
		{"sts, untrusted", tlspolicy.May, nil, untrusted, sts(stsEnforce), notTrusted},
		{"sts, no STARTTLS", tlspolicy.May, nil, plain, sts(stsEnforce), needsTLS},
		{"sts, handshake fails", tlspolicy.May, nil, ancient, sts(stsEnforce), "deferred ConnectionFailed"},
		{"sts, host not in the policy", tlspolicy.May, nil, good, sts(strings.Replace(stsEnforce, "mx: mx.", "mx: other.", 1)), "deferred TLSPolicyUnmet"},
		{"sts, pattern", tlspolicy.May, nil, good, sts(strings.Replace(stsEnforce, "mx: mx.", "mx: *.", 1)), "Verified mta-sts"},
		{"sts testing, untrusted", tlspolicy.May, nil, untrusted, sts(strings.Replace(stsEnforce, "enforce", "testing", 1)), "Untrusted rule"},
		{"sts testing, no STARTTLS", tlspolicy.May, nil, plain, sts(strings.Replace(stsEnforce, "enforce", "testing", 1)), "clear"},
		{"sts none", tlspolicy.May, nil, untrusted, sts("version: STSv1\nmode: none\nmax_age: 86400\n"), "Untrusted rule"},
		{"sts, nonsense", tlspolicy.May, nil, untrusted, sts("hello"), "Untrusted rule"},
		{"dane before sts", tlspolicy.DANE, nil, untrusted, both(ownKey, sts(stsEnforce)), "Verified dane"},
		{"dane fails, sts would do", tlspolicy.DANE, nil, good, both(otherKey, sts(stsEnforce)), notTrusted},
		{"sts where there is no dane", tlspolicy.DANE, nil, untrusted, sts(stsEnforce), notTrusted},
	} {
		t.Run(row.name, func(t *testing.T) {
			t.Parallel()
			i := newInternet(t)
			row.server(i)
			row.published(i)
			got := through(i.relay(delivery.Target{TLS: row.level, TLSMatch: row.match}), i.port, message("x@example.com"))
			if told(got[0]) != row.want {
				t.Errorf("got %q, want %q: %+v", told(got[0]), row.want, got[0])
			}
			delivered := got[0].Class == mail.Delivered
			if n := len(i.server.letters()); n != 1 && delivered || n != 0 && !delivered {
				t.Errorf("the server has %d letters", n)
			}
		})
	}
}

// TestServerName: what is asked for by SNI is the name under which the TLSA
// records stand (RFC 7672 section 8.1), else the MX host's.
func TestServerName(t *testing.T) {
	t.Parallel()
	alias := func(i *internet) {
		i.dns.Remove("mx.example.com")
		i.dns.Add("mx.example.com. 0 IN CNAME real.example.com.", "real.example.com. 0 IN A 127.0.0.1")
	}
	for _, row := range []struct {
		name      string
		published func(*internet)
		want      string
	}{
		{"no policy", func(*internet) {}, "mx.example.com"},
		{"alias without policy", alias, "mx.example.com"},
		{"TLSA records of the host", func(i *internet) { i.tlsa(i.ee(i.cert)) }, "mx.example.com"},
		{"TLSA records at the end of the alias", func(i *internet) {
			alias(i)
			i.dns.Add("_" + i.port + "._tcp.real.example.com. 0 IN TLSA " + i.ee(i.cert))
		}, "real.example.com"},
		{"TLSA records at the alias", func(i *internet) { alias(i); i.tlsa(i.ee(i.cert)) }, "mx.example.com"},
		{"policy", func(i *internet) { i.publishSTS(stsEnforce) }, "mx.example.com"},
	} {
		t.Run(row.name, func(t *testing.T) {
			t.Parallel()
			i := newInternet(t)
			asked := make(chan string, 10)
			cert := i.ca.Issue("mx.example.com")
			i.serve(&cert, func(cfg *tls.Config) {
				cfg.GetConfigForClient = func(hello *tls.ClientHelloInfo) (*tls.Config, error) {
					asked <- hello.ServerName
					return nil, nil
				}
			})
			row.published(i)
			got := through(i.relay(delivery.Target{TLS: tlspolicy.DANE}), i.port, message("x@example.com"))
			if got[0].Class != mail.Delivered || len(asked) != 1 {
				t.Fatalf("%d handshakes: %+v", len(asked), got[0])
			}
			if name := <-asked; name != row.want {
				t.Errorf("asked for %q, want %q", name, row.want)
			}
		})
	}
}

// TestFingerprintOfTheServer takes the certificate's digest as well as the key's.
func TestFingerprintOfTheServer(t *testing.T) {
	t.Parallel()
	i := newInternet(t)
	cert := i.other.Issue("x.example")
	i.serve(&cert)
	whole := sha256.Sum256(parseCertificate(t, cert.CertPEM).Raw)
	for _, digest := range []string{keyDigest(t, cert.CertPEM), strings.ToUpper(hex.EncodeToString(whole[:]))} {
		got := through(i.relay(delivery.Target{TLS: tlspolicy.Fingerprint, TLSMatch: []string{digest}}), i.port, message("x@example.com"))
		if told(got[0]) != "Verified rule" {
			t.Errorf("%s: %+v", digest, got[0])
		}
	}
}

// TestNextHostMeetsThePolicy: a host that does not is passed over.
func TestNextHostMeetsThePolicy(t *testing.T) {
	t.Parallel()
	for _, row := range []struct {
		name, broken string // TLSA of the first host; "" fails to resolve
	}{
		{"wrong key", "3 1 1 " + strings.Repeat("ab", 32)}, {"TLSA lookup fails", ""},
	} {
		t.Run(row.name, func(t *testing.T) {
			t.Parallel()
			i := newInternet(t)
			cert := i.ca.Issue("mx.example.com")
			i.serve(&cert)
			second := newPeerAt(t, "tcp", "127.0.0.2:"+i.port, func(p *peer) { i.dress(p, &cert) })
			i.dns.Add("example.com. 0 IN MX 20 mx2.example.com.", "mx2.example.com. 0 IN A 127.0.0.2",
				"_"+i.port+"._tcp.mx2.example.com. 0 IN TLSA "+i.ee(cert))
			if row.broken == "" {
				i.dns.Fail("_"+i.port+"._tcp.mx.example.com", "TLSA", "SERVFAIL")
			} else {
				i.tlsa(row.broken)
			}
			got := through(i.relay(delivery.Target{TLS: tlspolicy.DANE}), i.port, message("x@example.com"))
			if told(got[0]) != "Verified dane" || got[0].RemoteMTA != "mx2.example.com" || len(second.letters()) != 1 {
				t.Errorf("%+v", got[0])
			}
		})
	}
}

// TestConnectionsAreSharedByPolicy: a connection that was good enough for one
// policy is not used for another.
func TestConnectionsAreSharedByPolicy(t *testing.T) {
	t.Parallel()
	i := newInternet(t)
	cert := i.ca.Issue("mx.example.com")
	i.serve(&cert)
	i.tlsa(i.ee(cert))
	// Another domain at the same host, without DNSSEC.
	i.dns.Add("example.net. 0 IN MX 10 mx.example.com.")
	tr := i.relay(delivery.Target{TLS: tlspolicy.DANE, Policies: map[string]tlspolicy.Rule{"example.org": {Level: tlspolicy.Secure}}})
	i.dns.Add("example.org. 0 IN MX 10 mx.example.com.")
	before := 0
	for _, step := range []struct {
		domain, want string
		reused       bool
	}{
		{"example.com", "Verified dane", false}, {"example.com", "Verified dane", true},
		{"example.net", "Untrusted rule", false}, {"example.net", "Untrusted rule", true},
		{"example.org", "deferred PeerNotTrusted", false}, {"example.com", "Verified dane", true},
	} {
		got := through(tr, i.port, message("x@"+step.domain))
		total, _ := i.server.connections()
		if told(got[0]) != step.want || (total == before) != step.reused {
			t.Fatalf("%s: got %q, sessions %d and then %d; want %q, reused %v", step.domain, told(got[0]), before, total, step.want, step.reused)
		}
		before = total
	}
	// The key in the DNS changes: the old connection proves nothing any more.
	i.dns.Remove("_" + i.port + "._tcp.mx.example.com")
	i.tlsa("3 1 1 " + strings.Repeat("ab", 32))
	if got := through(tr, i.port, message("x@example.com")); told(got[0]) != "deferred PeerNotTrusted" {
		t.Errorf("after the key changed: %+v", got[0])
	}
}

// TestRelayHostPolicies: the rules of a relay host are found by how it is written.
func TestRelayHostPolicies(t *testing.T) {
	t.Parallel()
	i := newInternet(t)
	cert := i.other.Issue("mx.example.com")
	i.serve(&cert)
	hop := "[mx.example.com]:" + i.port
	for _, row := range []struct {
		rules map[string]tlspolicy.Rule
		want  string
	}{
		{nil, "Untrusted rule"},
		{map[string]tlspolicy.Rule{hop: {Level: tlspolicy.Secure}}, "deferred PeerNotTrusted"},
		{map[string]tlspolicy.Rule{"[mx.example.com]": {Level: tlspolicy.Fingerprint, Match: []string{keyDigest(t, cert.CertPEM)}}}, "Verified rule"},
		{map[string]tlspolicy.Rule{"mx.example.com": {Level: tlspolicy.Secure}}, "Untrusted rule"},
	} {
		got := i.relay(delivery.Target{Addresses: []string{hop}, Policies: row.rules}).Deliver(t.Context(), message("x@elsewhere.example"))
		if told(got[0]) != row.want {
			t.Errorf("%v: got %q, want %q", row.rules, told(got[0]), row.want)
		}
	}
	if _, err := relay.New(delivery.Target{Name: "x", Policies: map[string]tlspolicy.Rule{"a.example": {Level: "x"}}}, "", names{}, nil, hclog.NewNullLogger()); err == nil {
		t.Error("a rule with an unknown level was accepted")
	}
}

// TestClientCertificate: a server that wants to know who we are is shown it,
// under levels that authenticate the server and those that do not.
func TestClientCertificate(t *testing.T) {
	t.Parallel()
	i := newInternet(t)
	cert := i.ca.Issue("mx.example.com")
	i.serve(&cert, func(cfg *tls.Config) {
		cfg.ClientAuth, cfg.ClientCAs = tls.RequireAndVerifyClientCert, i.ca.Pool()
	})
	certFile, keyFile := i.ca.Issue("gateway.example.net").WriteFiles(t, i.dir, "client")
	for _, level := range []tlspolicy.Level{tlspolicy.Encrypt, tlspolicy.Verify} {
		got := through(i.relay(delivery.Target{TLS: level, CertFile: certFile, KeyFile: keyFile}), i.port, message("x@example.com"))
		if got[0].Class != mail.Delivered || got[0].TLS == "" {
			t.Errorf("%s: %+v", level, got[0])
		}
		if got := through(i.relay(delivery.Target{TLS: level}), i.port, message("x@example.com")); got[0].Class != mail.Deferred {
			t.Errorf("%s, without a certificate: %+v", level, got[0])
		}
	}
}
