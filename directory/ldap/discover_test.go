package ldap_test

import (
	"context"
	"fmt"
	"net/url"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/postern-mail/postern/directory/ldap"
	"github.com/postern-mail/postern/internal/dns"
	"github.com/postern-mail/postern/internal/testenv"
	"github.com/postern-mail/postern/status"
)

// zone is a Resolver with records at hand.
type zone struct {
	mu      sync.Mutex
	records map[string][]dns.SRV
	secure  bool
	ttl     time.Duration
	down    bool
	asked   []string
}

func (z *zone) SRV(_ context.Context, name string) (dns.Answer[dns.SRV], error) {
	z.mu.Lock()
	defer z.mu.Unlock()
	z.asked = append(z.asked, name)
	if z.down {
		return dns.Answer[dns.SRV]{}, &dns.Error{Name: name, Type: "SRV", Err: dns.ErrNoAnswer}
	}
	a := dns.Answer[dns.SRV]{Records: z.records[name], Secure: z.secure, Expires: time.Now().Add(z.ttl)}
	if len(a.Records) == 0 {
		a.Outcome = dns.NXDomain
	}
	return a, nil
}

func (z *zone) set(f func()) {
	z.mu.Lock()
	defer z.mu.Unlock()
	f()
}

func portOf(t testing.TB, uri string) uint16 {
	t.Helper()
	u, err := url.Parse(uri)
	if err != nil {
		t.Fatal(err)
	}
	var port uint16
	if _, err := fmt.Sscan(u.Port(), &port); err != nil {
		t.Fatal(err)
	}
	return port
}

// TestDiscovery finds servers by SRV records: by priority, with the certificate
// held against what the records and the configuration say.
func TestDiscovery(t *testing.T) {
	t.Parallel()
	ca := testenv.NewCA(t)
	byHost := testenv.Slapd(t, testenv.SlapdOptions{CA: ca, Certificate: new(ca.Issue("localhost"))})
	byDomain := testenv.Slapd(t, testenv.SlapdOptions{CA: ca, Certificate: new(ca.Issue("example.com"))})
	other := testenv.Slapd(t, testenv.SlapdOptions{CA: ca, Certificate: new(ca.Issue("ldap.elsewhere.example"))})
	record := func(s *testenv.SlapdServer, tls bool) []dns.SRV {
		if tls {
			return []dns.SRV{{Port: portOf(t, s.LDAPS), Target: "localhost"}}
		}
		return []dns.SRV{{Port: portOf(t, s.LDAP), Target: "localhost"}}
	}
	dead := dns.SRV{Priority: 1, Port: uint16(testenv.FreePort(t)), Target: "localhost"}
	for _, c := range []struct {
		name    string
		uri     string
		records map[string][]dns.SRV
		secure  bool
		change  func(*ldap.Config)
		works   bool
	}{
		{"certificate of the domain", "srv:example.com", map[string][]dns.SRV{"_ldap._tcp.example.com": record(byDomain, false)}, false, nil, true},
		{"certificate of a target elsewhere", "srv:example.com", map[string][]dns.SRV{"_ldap._tcp.example.com": record(byHost, false)}, false, nil, false},
		{"certificate of a target elsewhere, validated", "srv:example.com", map[string][]dns.SRV{"_ldap._tcp.example.com": record(byHost, false)}, true, nil, true},
		{"certificate of the target, which is the domain", "srv:localhost", map[string][]dns.SRV{"_ldap._tcp.localhost": record(byHost, false)}, false, nil, true},
		{"certificate of somebody else", "srv:example.com", map[string][]dns.SRV{"_ldap._tcp.example.com": record(other, false)}, true, nil, false},
		{"name given", "srv:example.com", map[string][]dns.SRV{"_ldap._tcp.example.com": record(other, false)}, false, func(c *ldap.Config) { c.ServerName = "ldap.elsewhere.example" }, true},
		{"unknown authority", "srv:example.com", map[string][]dns.SRV{"_ldap._tcp.example.com": record(byDomain, false)}, true, func(c *ldap.Config) { c.CAFile = "" }, false},
		{"by the base", "ldap:///dc=example,dc=com", map[string][]dns.SRV{"_ldap._tcp.example.com": record(byDomain, false)}, false, nil, true},
		{"TLS from the start", "ldaps:///dc=example,dc=com", map[string][]dns.SRV{"_ldaps._tcp.example.com": record(byDomain, true)}, false, func(c *ldap.Config) { c.StartTLS = false }, true},
		{"the site's first", "srv:example.com", map[string][]dns.SRV{"_ldap._tcp.north._sites.example.com": record(byDomain, false), "_ldap._tcp.example.com": record(other, false)}, false, func(c *ldap.Config) { c.Site = "north" }, true},
		{"by priority", "srv:example.com", map[string][]dns.SRV{"_ldap._tcp.example.com": append([]dns.SRV{{Priority: 2, Port: portOf(t, byDomain.LDAP), Target: "localhost"}}, dead)}, false, nil, true},
		{"no such service", "srv:example.com", map[string][]dns.SRV{"_ldap._tcp.example.com": {{Target: ""}}}, false, nil, false},
		{"no records", "srv:example.com", nil, false, nil, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			cfg := config(byHost, c.uri)
			cfg.StartTLS, cfg.Resolver = true, &zone{records: c.records, secure: c.secure, ttl: time.Hour}
			if c.change != nil {
				c.change(&cfg)
			}
			err := lookup(t, open(t, cfg))
			if c.works && err != nil || !c.works && status.Of(err) != status.DirectoryDown {
				t.Errorf("search = %v; want success: %v", err, c.works)
			}
		})
	}
}

func TestDiscoveryMistakes(t *testing.T) {
	t.Parallel()
	for name, cfg := range map[string]ldap.Config{
		"no resolver":    {URIs: []string{"srv:example.com"}, StartTLS: true},
		"plaintext":      {URIs: []string{"srv:example.com"}, Resolver: &zone{}},
		"no domain":      {URIs: []string{"srv:"}, StartTLS: true, Resolver: &zone{}},
		"bad domain":     {URIs: []string{"srv:a..b"}, StartTLS: true, Resolver: &zone{}},
		"no DN":          {URIs: []string{"ldap:///example"}, StartTLS: true, Resolver: &zone{}},
		"not of domains": {URIs: []string{"ldap:///ou=people,dc=example,dc=com"}, StartTLS: true, Resolver: &zone{}},
	} {
		if _, err := ldap.New(cfg, hclog.NewNullLogger()); err == nil {
			t.Errorf("%s: New accepts %+v", name, cfg)
		}
	}
}

// TestRediscovery asks again when the answer expires, follows servers that
// move, and goes on with those it knows while the DNS is down.
func TestRediscovery(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		z := &zone{ttl: time.Minute, records: map[string][]dns.SRV{"_ldap._tcp.example.com": {{Port: 389, Target: "a.example.com"}}}}
		c, err := ldap.New(ldap.Config{URIs: []string{"srv:example.com"}, StartTLS: true, Resolver: z}, hclog.NewNullLogger())
		if err != nil {
			t.Fatal(err)
		}
		want := func(asked int, servers ...string) {
			t.Helper()
			found, err := c.Servers(t.Context())
			if err != nil || len(z.asked) != asked {
				t.Fatalf("%v after %d questions, want %d", err, len(z.asked), asked)
			}
			var got []string
			for _, s := range found {
				got = append(got, s.URI)
			}
			if strings.Join(got, " ") != strings.Join(servers, " ") {
				t.Fatalf("servers %v, want %v", got, servers)
			}
		}
		want(1, "ldap://a.example.com:389")
		time.Sleep(59 * time.Second)
		want(1, "ldap://a.example.com:389")
		z.set(func() {
			z.records["_ldap._tcp.example.com"] = []dns.SRV{{Priority: 9, Port: 389, Target: "a.example.com"}, {Priority: 1, Port: 390, Target: "B.example.com"}}
		})
		time.Sleep(2 * time.Second)
		want(2, "ldap://b.example.com:390", "ldap://a.example.com:389")
		z.set(func() { z.down = true })
		time.Sleep(time.Minute)
		want(3, "ldap://b.example.com:390", "ldap://a.example.com:389")
		want(3, "ldap://b.example.com:390", "ldap://a.example.com:389") // not at every lookup
		z.set(func() { z.down, z.records = false, nil })
		time.Sleep(10 * time.Second)
		want(4, "ldap://b.example.com:390", "ldap://a.example.com:389") // a zone in trouble
	})
}
