package tlspolicy

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/postern-mail/postern/internal/dns"
	"github.com/postern-mail/postern/internal/dns/dnstest"
	"github.com/postern-mail/postern/internal/fsx"
	"github.com/postern-mail/postern/internal/testenv"
)

const enforced = "version: STSv1\nmode: enforce\nmx: mx.example.com\nmax_age: 86400\n"

// site is a domain with an MTA-STS policy, and all that is needed to see it.
type site struct {
	dns     *dnstest.Server
	cfg     STSConfig
	ca      *testenv.CA
	dir     string
	fetched atomic.Int32

	mu      sync.Mutex
	handler http.HandlerFunc
}

func newSite(t *testing.T) *site {
	t.Helper()
	s := &site{dns: dnstest.New(t), ca: testenv.NewCA(t), dir: filepath.Join(t.TempDir(), "mta-sts")}
	s.serve(text(enforced))
	s.listen(t, s.ca.Issue("mta-sts.example.com"))
	s.cfg.CAFile = s.ca.WriteFile(t.TempDir())
	s.dns.Add("mta-sts.example.com. 60 IN A 127.0.0.1")
	s.publish("1")
	return s
}

// listen starts a policy host with a certificate.
func (s *site) listen(t *testing.T, cert testenv.Certificate) {
	t.Helper()
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s.fetched.Add(1)
		if r.URL.Path != "/.well-known/mta-sts.txt" || !strings.HasPrefix(r.Host, "mta-sts.example.com") {
			http.NotFound(w, r)
			return
		}
		s.mu.Lock()
		handler := s.handler
		s.mu.Unlock()
		handler(w, r)
	}))
	server.TLS = &tls.Config{Certificates: []tls.Certificate{cert.TLS(t)}}
	server.Config.ErrorLog = hclog.NewNullLogger().StandardLogger(nil)
	server.StartTLS()
	t.Cleanup(server.Close)
	_, s.cfg.Port, _ = net.SplitHostPort(server.Listener.Addr().String())
}

func (s *site) serve(handler http.HandlerFunc) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.handler = handler
}

// publish sets the id of the TXT record, without any time to live.
func (s *site) publish(id string) {
	s.dns.Remove("_mta-sts.example.com")
	s.dns.Add(`_mta-sts.example.com. 0 IN TXT "v=STSv1; id=` + id + `;"`)
}

// open returns an STS over the site's cache.
func (s *site) open(t *testing.T) *STS {
	t.Helper()
	sts, err := NewSTS(s.cfg, quietResolver(t, s.dns), NewDirCache(fsx.OS(), s.dir), hclog.NewNullLogger())
	if err != nil {
		t.Fatal(err)
	}
	return sts
}

func quietResolver(t *testing.T, server *dnstest.Server) *dns.Resolver {
	t.Helper()
	none := filepath.Join(t.TempDir(), "none")
	r, err := dns.New(dns.Config{Servers: []string{server.Addr}, ResolvConf: none, HostsFile: none, Timeout: time.Minute, Attempts: 1})
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func text(body string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/plain; charset=utf-8")
		fmt.Fprint(w, body)
	}
}

// TestFetch goes through what a policy host may do wrong. None of it holds mail
// up, and none of it is taken for a policy.
func TestFetch(t *testing.T) {
	t.Parallel()
	for _, row := range []struct {
		name   string
		change func(*testing.T, *site)
		want   Failure
	}{
		{"good", func(*testing.T, *site) {}, ""},
		{"not there", func(_ *testing.T, s *site) { s.serve(http.NotFound) }, STSPolicyFetchError},
		{"broken", func(_ *testing.T, s *site) {
			s.serve(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusInternalServerError) })
		}, STSPolicyFetchError},
		{"redirect", func(_ *testing.T, s *site) {
			s.serve(func(w http.ResponseWriter, r *http.Request) {
				w.Header().Set("Content-Type", "text/plain")
				http.Redirect(w, r, "/.well-known/mta-sts.txt?again", http.StatusFound)
			})
		}, STSPolicyFetchError},
		{"web page", func(_ *testing.T, s *site) {
			s.serve(func(w http.ResponseWriter, _ *http.Request) {
				w.Header().Set("Content-Type", "text/html")
				fmt.Fprint(w, enforced)
			})
		}, STSPolicyInvalid},
		{"nonsense", func(_ *testing.T, s *site) { s.serve(text("hello")) }, STSPolicyInvalid},
		{"endless", func(_ *testing.T, s *site) { s.serve(text(enforced + strings.Repeat("x: y\n", 1<<18))) }, STSPolicyInvalid},
		{"cut off", func(_ *testing.T, s *site) {
			s.serve(func(w http.ResponseWriter, _ *http.Request) {
				w.Header().Set("Content-Type", "text/plain")
				w.Header().Set("Content-Length", "100000")
				fmt.Fprint(w, enforced)
			})
		}, STSPolicyFetchError},
		{"expired certificate", func(t *testing.T, s *site) { s.listen(t, s.ca.IssueExpired("mta-sts.example.com")) }, STSWebPKIInvalid},
		{"certificate of another", func(t *testing.T, s *site) { s.listen(t, s.ca.Issue("example.com")) }, STSWebPKIInvalid},
		{"untrusted certificate", func(t *testing.T, s *site) { s.listen(t, testenv.NewCA(t).Issue("mta-sts.example.com")) }, STSWebPKIInvalid},
		{"nobody listens", func(_ *testing.T, s *site) { s.cfg.Port = "1" }, STSPolicyFetchError},
		{"no address", func(_ *testing.T, s *site) { s.dns.Remove("mta-sts.example.com") }, STSPolicyFetchError},
		{"addresses unknown", func(_ *testing.T, s *site) {
			s.dns.Fail("mta-sts.example.com", "A", "SERVFAIL")
			s.dns.Fail("mta-sts.example.com", "AAAA", "SERVFAIL")
		}, STSPolicyFetchError},
	} {
		t.Run(row.name, func(t *testing.T) {
			t.Parallel()
			s := newSite(t)
			row.change(t, s)
			sts := s.open(t)
			policy, id, err := sts.Policy(t.Context(), "example.com")
			if FailureOf(err) != row.want || (policy != nil) != (row.want == "") || policy != nil && id != "1" {
				t.Errorf("got %+v, id %q, %v; want %q", policy, id, err, row.want)
			}
			before := s.fetched.Load()
			if again, _, err := sts.Policy(t.Context(), "example.com"); (again != nil) != (policy != nil) || FailureOf(err) != row.want {
				t.Errorf("asked again: %+v, %v", again, err)
			}
			if n := s.fetched.Load() - before; n != 0 {
				t.Errorf("asked again, the policy host was asked %d times more", n)
			}
		})
	}
}

// TestPolicyOutlivesOutages follows one domain through its troubles.
func TestPolicyOutlivesOutages(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	sts := s.open(t)
	want := func(what string, sts *STS, id string) {
		t.Helper()
		policy, got, err := sts.Policy(t.Context(), "example.com")
		if (policy == nil) != (id == "") || got != id {
			t.Errorf("%s: got %+v, id %q, %v; want id %q", what, policy, got, err, id)
		}
	}
	want("first", sts, "1")
	s.serve(http.NotFound)
	want("policy host broken, same id", sts, "1")
	s.publish("2")
	want("policy host broken, new id", sts, "1")
	s.dns.Remove("_mta-sts.example.com")
	want("TXT record gone", sts, "1")
	s.dns.Fail("_mta-sts.example.com", "TXT", "SERVFAIL")
	want("DNS out", sts, "1")
	want("DNS out, after a restart", s.open(t), "1")
	s.dns.Heal("_mta-sts.example.com", "TXT")
	s.publish("3")
	s.serve(text("version: STSv1\nmode: none\nmax_age: 86400\n"))
	restarted := s.open(t)
	// The failure of the DNS is remembered for a moment, by the resolver only.
	want("new policy", restarted, "3")
	if policy, _, _ := restarted.Policy(t.Context(), "example.com"); policy.Mode != STSNone {
		t.Errorf("mode %q", policy.Mode)
	}
}

// TestPolicyHoldsForTheImpatient: who cannot wait for a new policy keeps to the
// one in force.
func TestPolicyHoldsForTheImpatient(t *testing.T) {
	t.Parallel()
	cache := memory{"example.com": stored("1", enforced, time.Now())}
	sts, err := NewSTS(STSConfig{}, &script{id: "2"}, cache, hclog.NewNullLogger())
	if err != nil {
		t.Fatal(err)
	}
	if !sts.claim("example.com") { // somebody is fetching the new one
		t.Fatal("not the first")
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if policy, id, _ := sts.Policy(ctx, "example.com"); policy == nil || id != "1" {
		t.Errorf("policy %+v, id %q", policy, id)
	}
}

// TestPolicyOfNoAge: a policy that may not be kept holds for the mail it was
// fetched for.
func TestPolicyOfNoAge(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	s.serve(text(strings.Replace(enforced, "86400", "0", 1)))
	if policy, id, err := s.open(t).Policy(t.Context(), "example.com"); policy == nil || id != "1" {
		t.Errorf("policy %+v, id %q, %v", policy, id, err)
	}
}

// TestPoliciesAreBounded: a policy that had to make room is gone from the cache
// as well.
func TestPoliciesAreBounded(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	sts := s.open(t)
	for i := range maxPolicies {
		domain := fmt.Sprintf("d%d.example", i)
		sts.known[domain] = known{id: "1", fetched: time.Now(), policy: &STSPolicy{MaxAge: time.Hour + time.Duration(i)*time.Second}}
		if i < 2 {
			sts.store(domain, sts.known[domain])
		}
	}
	for range 2 { // the second time takes no more room
		sts.claim("example.com")
		if _, err := sts.fetch(t.Context(), "example.com", "1"); err != nil {
			t.Fatal(err)
		}
		kept, err := filepath.Glob(filepath.Join(s.dir, "*"))
		if err != nil || len(sts.known) != maxPolicies || len(kept) != 2 || filepath.Base(kept[0]) != "d1.example.sts" {
			t.Fatalf("%d policies, in the cache %q, %v", len(sts.known), kept, err)
		}
	}
}

func TestDamagedCacheIsLeftOut(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	if _, _, err := s.open(t).Policy(t.Context(), "example.com"); err != nil {
		t.Fatal(err)
	}
	name := filepath.Join(s.dir, "example.com.sts")
	for _, damage := range []string{"", "postern-mta-sts 9\nid: 1\nfetched: x\n\n", "\x00\x00\x00", "postern-mta-sts 1\nid: 1\n"} {
		if err := os.WriteFile(name, []byte(damage), 0o600); err != nil {
			t.Fatal(err)
		}
		if policy, id, err := s.open(t).Policy(t.Context(), "example.com"); policy == nil || id != "1" {
			t.Errorf("after damage %q: %+v, %v", damage, policy, err)
		}
	}
}

func TestOneFetchForMany(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	release := make(chan struct{})
	arrived := make(chan struct{}, 10)
	s.serve(func(w http.ResponseWriter, r *http.Request) {
		arrived <- struct{}{}
		select {
		case <-release:
		case <-r.Context().Done():
			return
		}
		text(enforced)(w, r)
	})
	sts := s.open(t)
	impatient, leave := context.WithCancel(t.Context())
	gone := make(chan error, 1)
	go func() {
		_, _, err := sts.Policy(impatient, "example.com")
		gone <- err
	}()
	<-arrived
	var group sync.WaitGroup
	var without atomic.Int32
	for range 20 {
		group.Go(func() {
			if policy, _, _ := sts.Policy(t.Context(), "example.com"); policy == nil {
				without.Add(1)
			}
		})
	}
	leave()
	if err := <-gone; err == nil {
		t.Error("the one who left got a policy")
	}
	<-arrived // one of the others has taken over
	close(release)
	group.Wait()
	if without.Load() != 0 || s.fetched.Load() != 2 {
		t.Errorf("%d of 20 went without a policy, %d fetches", without.Load(), s.fetched.Load())
	}
}

// script is a Resolver of fixed answers.
type script struct {
	mu     sync.Mutex
	id     string // of _mta-sts, "" for none
	asked  int    // for addresses
	secure bool
}

func (s *script) TXT(context.Context, string) (dns.Answer[string], error) {
	if s.id == "" {
		return dns.Answer[string]{Outcome: dns.NXDomain}, nil
	}
	return dns.Answer[string]{Records: []string{"v=STSv1; id=" + s.id}}, nil
}

func (s *script) Addresses(context.Context, string) (dns.Answer[netip.Addr], error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.asked++
	return dns.Answer[netip.Addr]{}, errors.New("out")
}

func (s *script) TLSA(context.Context, string) (dns.Answer[dns.TLSA], error) {
	return dns.Answer[dns.TLSA]{Outcome: dns.NXDomain, Secure: s.secure}, nil
}

func (s *script) CNAME(context.Context, string) (dns.Answer[string], error) {
	return dns.Answer[string]{Outcome: dns.NoData, Secure: s.secure}, nil
}

// memory is a Cache.
type memory map[string][]byte

func (m memory) Load() (map[string][]byte, error)         { return m, nil }
func (m memory) Store(domain string, policy []byte) error { m[domain] = policy; return nil }
func (m memory) Delete(domain string) error               { delete(m, domain); return nil }
func stored(id, policy string, fetched time.Time) []byte {
	return known{id: id, text: policy, fetched: fetched}.encode()
}

func TestTimes(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		cache := memory{"example.com": stored("1", enforced, time.Now())}
		names := &script{id: "1"}
		sts, err := NewSTS(STSConfig{}, names, cache, hclog.NewNullLogger())
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		go func() { ended <- sts.Run(ctx) }()
		in := func(domain string, want bool) {
			t.Helper()
			if policy, _, _ := sts.Policy(t.Context(), domain); (policy != nil) != want {
				t.Errorf("%v: policy of %s in force: %v", time.Now(), domain, !want)
			}
		}
		// A policy that cannot be had is asked for once in five minutes.
		in("other.example", false)
		asked := names.asked
		time.Sleep(failedTime - time.Second)
		if in("other.example", false); names.asked != asked {
			t.Error("asked again too early")
		}
		time.Sleep(time.Second)
		if in("other.example", false); names.asked == asked {
			t.Error("not asked again")
		}
		// A day later the policy is refreshed, in vain, and ends.
		time.Sleep(86400*time.Second - failedTime - time.Second)
		names.id = ""
		in("example.com", true)
		time.Sleep(time.Second)
		in("example.com", false)
		time.Sleep(2 * refreshTick)
		synctest.Wait()
		if len(cache) != 0 {
			t.Error("an expired policy stays in the cache")
		}
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
}

func TestRefresh(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	old := time.Now().Add(-23 * time.Hour)
	if err := os.Mkdir(s.dir, 0o700); err != nil {
		t.Fatal(err)
	}
	for _, age := range []time.Time{old, time.Now().Add(-refreshAge)} {
		if err := os.WriteFile(filepath.Join(s.dir, "example.com.sts"), stored("1", strings.Replace(enforced, "86400", "172800", 1), age), 0o600); err != nil {
			t.Fatal(err)
		}
		s.open(t).refresh(t.Context())
	}
	if n := s.fetched.Load(); n != 1 {
		t.Errorf("fetched %d times, want once, for the older one", n)
	}
}
