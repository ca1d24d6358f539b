package tlsrpt

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"path/filepath"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/postern-mail/postern/delivery/tlspolicy"
	"github.com/postern-mail/postern/internal/dailyreport"
	"github.com/postern-mail/postern/internal/dns"
	"github.com/postern-mail/postern/internal/dns/dnstest"
	"github.com/postern-mail/postern/internal/testenv"
	"github.com/postern-mail/postern/store/storetest"
)

// collector is an HTTPS receiver of reports.
type collector struct {
	port string

	mu      sync.Mutex
	answers []int // the last one stays
	got     []posted
}

type posted struct {
	path, kind string
	body       []byte
}

func newCollector(t *testing.T, cert testenv.Certificate, answers ...int) *collector {
	t.Helper()
	c := &collector{answers: answers}
	server := httptest.NewUnstartedServer(c)
	server.TLS = &tls.Config{Certificates: []tls.Certificate{cert.TLS(t)}}
	server.Config.ErrorLog = log.New(io.Discard, "", 0)
	server.StartTLS()
	t.Cleanup(server.Close)
	_, c.port, _ = net.SplitHostPort(server.Listener.Addr().String())
	return c
}

func (c *collector) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	if err != nil || r.Method != http.MethodPost {
		w.WriteHeader(http.StatusBadRequest)
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.got = append(c.got, posted{r.URL.Path, r.Header.Get("Content-Type"), body})
	answer := c.answers[0]
	if len(c.answers) > 1 {
		c.answers = c.answers[1:]
	}
	if answer/100 == 3 {
		w.Header().Set("Location", "/elsewhere")
	}
	w.WriteHeader(answer)
}

func (c *collector) posts() []posted {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.got
}

// TestReportByHTTPS runs the whole way, from the DNS to two receivers, one of
// which is not there at first, over a restart. Who has a report gets it once.
func TestReportByHTTPS(t *testing.T) {
	t.Parallel()
	var roots *x509.CertPool
	var certs [2]testenv.Certificate
	synctest.Test(t, func(t *testing.T) { // certificates of the time in the bubble below
		time.Sleep(12 * time.Hour)
		ca := testenv.NewCA(t)
		roots, certs = ca.Pool(), [2]testenv.Certificate{ca.Issue("reports.example.com"), ca.Issue("more.example.com")}
	})
	names := dnstest.New(t)
	late, there := newCollector(t, certs[0], 503, 302, 201), newCollector(t, certs[1], 200)
	names.Add(`_smtp._tls.example.com. 60 IN TXT "v=TLSRPTv1;rua=https://reports.example.com:`+late.port+`/v1,https://more.example.com:`+there.port+`/v2"`,
		"reports.example.com. 60 IN A 127.0.0.1", "more.example.com. 60 IN A 127.0.0.1")
	none := filepath.Join(t.TempDir(), "none")
	synctest.Test(t, func(t *testing.T) {
		time.Sleep(13 * time.Hour)
		resolver, err := dns.New(dns.Config{Servers: []string{names.Addr}, ResolvConf: none, HostsFile: none})
		if err != nil {
			t.Fatal(err)
		}
		s := &site{t: t, kv: &fullStore{Store: storetest.NewModel().Open()}, cfg: config}
		s.cfg.Roots = roots
		s.resolver = resolver
		s.start()
		defer func() { s.end() }()
		s.Note(session("example.com", tlspolicy.STSWebPKIInvalid))
		counted := dailyreport.DayOf(time.Now())
		time.Sleep(2 * dailyreport.Every)
		time.Sleep(time.Until(s.Reporter.cfg.ReportTime(counted).Add(2 * time.Minute)))
		if e := s.entries(); len(e) != 1 || e[0].Attempts != 1 || len(late.posts()) != 1 || len(there.posts()) != 1 {
			t.Fatalf("after the first attempt: kept %+v, posted %d and %d", e, len(late.posts()), len(there.posts()))
		}
		s.restart()
		time.Sleep(time.Hour)
		if e := s.entries(); len(e) != 0 || len(late.posts()) != 3 || len(there.posts()) != 1 {
			t.Errorf("in the end: kept %+v, posted %d and %d", e, len(late.posts()), len(there.posts()))
		}
		for _, got := range append(late.posts(), there.posts()...) {
			var r struct {
				ID       string `json:"report-id"`
				Policies []struct {
					Summary struct {
						Failed int `json:"total-failure-session-count"`
					}
				}
			}
			if err := json.Unmarshal(unpack(t, bytes.NewReader(got.body)), &r); err != nil || len(r.Policies) != 1 || r.Policies[0].Summary.Failed != 1 ||
				r.ID != counted.Start().Format("20060102")+".example.com@gateway.example.net" {
				t.Errorf("%v: %+v", err, r)
			}
		}
		if got := s.audit.results(); len(got) != 4 {
			t.Errorf("audit %q", got)
		}
	})
}

// TestPost: what an HTTPS receiver may do.
func TestPost(t *testing.T) {
	t.Parallel()
	for _, row := range []struct {
		name, host string
		answer     int
		trusted    bool
		private    bool
		ok         bool
	}{
		{"taken", "reports.example.com", 200, true, true, true},
		{"created", "reports.example.com", 201, true, true, true},
		{"refused", "reports.example.com", 400, true, true, false},
		{"down", "reports.example.com", 503, true, true, false},
		{"redirect", "reports.example.com", 307, true, true, false},
		{"wrong name", "other.example.com", 200, true, true, false},
		{"untrusted", "reports.example.com", 200, false, true, false},
		{"not public", "reports.example.com", 200, true, false, false},
	} {
		t.Run(row.name, func(t *testing.T) {
			t.Parallel()
			ca := testenv.NewCA(t)
			c := newCollector(t, ca.Issue("reports.example.com"), row.answer)
			roots := ca.Pool()
			if !row.trusted {
				roots = x509.NewCertPool()
			}
			p := newPoster(&site{}, roots, row.private)
			err := p.post(t.Context(), "https://"+row.host+":"+c.port+"/v1", []byte("packed"))
			if (err == nil) != row.ok || errors.Is(err, errNotPublic) == row.private {
				t.Errorf("%v", err)
			}
			if got := c.posts(); row.ok && (len(got) != 1 || got[0].kind != "application/tlsrpt+gzip" || !bytes.Equal(got[0].body, []byte("packed")) || got[0].path != "/v1") {
				t.Errorf("the receiver has %+v", got)
			} else if row.answer == 307 && len(got) != 1 {
				t.Errorf("the redirect was followed: %+v", got)
			}
		})
	}
}

func TestPublic(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]bool{
		"198.51.100.1": true, "2001:4860:4860::8888": true, "127.0.0.1": false, "10.1.2.3": false, "172.16.0.1": false,
		"192.168.1.1": false, "169.254.169.254": false, "100.64.0.1": false, "0.0.0.0": false, "0.1.2.3": false,
		"224.0.0.1": false, "255.255.255.255": false, "::1": false, "::": false, "fe80::1": false, "fd00::1": false,
		"ff02::1": false, "::ffff:10.0.0.1": false, "::ffff:198.51.100.1": true, "64:ff9b::a00:1": false, "2002:a00:1::1": false,
	} {
		if public(netip.MustParseAddr(text)) != want {
			t.Errorf("%s: public %v", text, !want)
		}
	}
}
