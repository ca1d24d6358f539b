package ldap_test

import (
	"context"
	"errors"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/postern-mail/postern/directory"
	"github.com/postern-mail/postern/directory/directorytest"
	"github.com/postern-mail/postern/directory/ldap"
	"github.com/postern-mail/postern/internal/testenv"
	"github.com/postern-mail/postern/mail"
	"github.com/postern-mail/postern/status"
	company "github.com/postern-mail/postern/testdata/ldif"
)

// config returns how to reach s at uris as the tree's service account.
func config(s *testenv.SlapdServer, uris ...string) ldap.Config {
	return ldap.Config{
		URIs:             uris,
		CAFile:           s.CAFile,
		BindDN:           s.Tree.ServiceDN,
		BindPasswordFile: s.ServicePasswordFile,
		Timeout:          time.Minute, // of a busy machine; what waits for it sets its own
	}
}

func open(t testing.TB, cfg ldap.Config) *ldap.Client {
	t.Helper()
	c, err := ldap.New(cfg, hclog.NewNullLogger())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c
}

func ctx(t testing.TB) context.Context {
	c, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	t.Cleanup(cancel)
	return c
}

func passwordFile(t testing.TB, password string) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "password")
	if err := os.WriteFile(file, []byte(password+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}

// lookup asks for Bob and returns the reason.
func lookup(t testing.TB, c *ldap.Client) error {
	entries, err := c.Search(ctx(t), directory.Request{Base: "dc=example,dc=com",
		Filter: directory.Equal("mail", "bob@example.com"), Attributes: []string{"mail"}, SizeLimit: 5})
	if err == nil && len(entries) != 1 {
		t.Errorf("%d entries for bob, want 1: an outage was taken for an answer", len(entries))
	}
	return err
}

func TestConformance(t *testing.T) {
	t.Parallel()
	for _, tree := range company.Trees() {
		t.Run(tree.Preset, func(t *testing.T) {
			t.Parallel()
			s := testenv.Slapd(t, testenv.SlapdOptions{Tree: tree})
			directorytest.Run(t, tree, open(t, config(s, s.LDAPI)))
		})
	}
}

func TestTransports(t *testing.T) {
	t.Parallel()
	s := testenv.Slapd(t, testenv.SlapdOptions{})
	other := testenv.NewCA(t).WriteFile(testenv.TempDir(t))
	for _, c := range []struct {
		name   string
		change func(*ldap.Config)
		works  bool
	}{
		{"ldapi", func(c *ldap.Config) { c.URIs = []string{s.LDAPI} }, true},
		{"plain on loopback", func(c *ldap.Config) { c.URIs = []string{s.LDAP} }, true},
		{"ldaps", func(c *ldap.Config) {}, true},
		{"StartTLS", func(c *ldap.Config) { c.URIs, c.StartTLS = []string{s.LDAP}, true }, true},
		{"StartTLS on ldapi", func(c *ldap.Config) { c.URIs, c.StartTLS = []string{s.LDAPI}, true }, true},
		{"right name given", func(c *ldap.Config) { c.ServerName = "localhost" }, true},
		{"wrong name", func(c *ldap.Config) { c.ServerName = "ldap.example.com" }, false},
		{"wrong name, StartTLS", func(c *ldap.Config) {
			c.URIs, c.StartTLS, c.ServerName = []string{s.LDAP}, true, "ldap.example.com"
		}, false},
		{"unknown authority", func(c *ldap.Config) { c.CAFile = other }, false},
		{"system's authorities", func(c *ldap.Config) { c.CAFile = "" }, false},
		{"unverified", func(c *ldap.Config) { c.CAFile, c.InsecureSkipVerify = other, true }, true},
		{"wrong service password", func(c *ldap.Config) {
			c.BindPasswordFile = passwordFile(t, "wrong")
		}, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			cfg := config(s, s.LDAPS)
			c.change(&cfg)
			err := lookup(t, open(t, cfg))
			if c.works && err != nil || !c.works && status.Of(err) != status.DirectoryDown {
				t.Errorf("search = %v; want success: %v", err, c.works)
			}
		})
	}
}

func TestExpiredCertificateIsRefused(t *testing.T) {
	t.Parallel()
	ca := testenv.NewCA(t)
	expired := ca.IssueExpired("127.0.0.1")
	s := testenv.Slapd(t, testenv.SlapdOptions{CA: ca, Certificate: &expired})
	err := lookup(t, open(t, config(s, s.LDAPS)))
	if status.Of(err) != status.DirectoryDown || !strings.Contains(err.Error(), "expired") {
		t.Errorf("search = %v; want DirectoryDown that names the expiry", err)
	}
}

func TestConfigurationMistakes(t *testing.T) {
	t.Parallel()
	for name, cfg := range map[string]ldap.Config{
		"no URI":              {},
		"scheme":              {URIs: []string{"http://ldap.example.com"}},
		"plaintext":           {URIs: []string{"ldap://ldap.example.com"}},
		"path":                {URIs: []string{"ldaps://ldap.example.com/dc=example"}},
		"relative socket":     {URIs: []string{"ldapi://run%2Fldapi"}},
		"missing CA":          {URIs: []string{"ldaps://ldap.example.com"}, CAFile: "/nonexistent/ca.pem"},
		"missing password":    {URIs: []string{"ldaps://ldap.example.com"}, BindDN: "cn=mail"},
		"two identities":      {URIs: []string{"ldaps://ldap.example.com"}, BindDN: "cn=mail", SASLExternal: true},
		"missing certificate": {URIs: []string{"ldaps://ldap.example.com"}, CertFile: "/nonexistent/cert.pem"},
	} {
		if _, err := ldap.New(cfg, hclog.NewNullLogger()); err == nil {
			t.Errorf("%s: New accepts %+v", name, cfg)
		}
	}
}

func TestBind(t *testing.T) {
	t.Parallel()
	s := testenv.Slapd(t, testenv.SlapdOptions{})
	c := open(t, config(s, s.LDAPI))
	people := ",ou=people,dc=example,dc=com"
	for _, b := range []struct {
		name, dn, password string
		want               status.Reason
	}{
		{"right", "uid=alice" + people, "alice-secret", status.OK},
		{"right, sha512-crypt", "uid=carol" + people, "carol-secret", status.OK},
		{"wrong", "uid=alice" + people, "bob-secret", status.AuthFailed},
		{"empty password", "uid=alice" + people, "", status.AuthFailed},
		{"NUL", "uid=alice" + people, "alice-secret\x00", status.AuthFailed},
		{"long", "uid=alice" + people, strings.Repeat("x", 5000), status.AuthFailed},
		{"empty DN", "", "x", status.AuthFailed},
		{"no such entry", "uid=nobody" + people, "x", status.AuthFailed},
		{"no password", "cn=staff,ou=groups,dc=example,dc=com", "x", status.AuthFailed},
		{"locked by policy", "uid=dave" + people, "dave-secret", status.AuthFailed},
		{"not a DN", "alice", "alice-secret", status.DirectoryDown},
	} {
		t.Run(b.name, func(t *testing.T) {
			if err := c.Bind(ctx(t), b.dn, b.password); status.Of(err) != b.want {
				t.Errorf("Bind = %v, want %v", err, b.want)
			}
		})
	}
	// A user's bind must not leak into searches: the user may read nothing.
	if err := lookup(t, c); err != nil {
		t.Errorf("search after binds: %v", err)
	}
}

func TestDirectoryFindsAndBinds(t *testing.T) {
	t.Parallel()
	s := testenv.Slapd(t, testenv.SlapdOptions{})
	d := directorytest.Open(t, directorytest.Config(s.Tree), open(t, config(s, s.LDAPI)))
	dn, account, err := d.FindLogin(ctx(t), "a.anders@example.com")
	if err != nil || account.Name != "alice" {
		t.Fatalf("FindLogin = %q, %+v, %v", dn, account, err)
	}
	if err := d.Bind(ctx(t), dn, company.Password("alice")); err != nil {
		t.Errorf("Bind = %v", err)
	}
	if err := d.Bind(ctx(t), dn, "wrong"); status.Of(err) != status.AuthFailed {
		t.Errorf("Bind with a wrong password = %v", err)
	}
}

func TestServerDiesAndComesBack(t *testing.T) {
	t.Parallel()
	s := testenv.Slapd(t, testenv.SlapdOptions{})
	cfg := config(s, s.LDAP)
	cfg.MaxPause = time.Second
	c := open(t, cfg)
	people := ",ou=people,dc=example,dc=com"
	if err := lookup(t, c); err != nil {
		t.Fatal(err)
	}
	if err := c.Bind(ctx(t), "uid=alice"+people, "alice-secret"); err != nil {
		t.Fatal(err)
	}
	s.Kill()
	for range 5 {
		if err := lookup(t, c); status.Of(err) != status.DirectoryDown {
			t.Fatalf("search on a dead server = %v, want DirectoryDown", err)
		}
		if err := c.Bind(ctx(t), "uid=alice"+people, "wrong"); status.Of(err) != status.DirectoryDown {
			t.Fatalf("bind on a dead server = %v, want DirectoryDown", err)
		}
	}
	s.Restart()
	testenv.Eventually(t, time.Minute, func() error { return lookup(t, c) })
	testenv.Eventually(t, time.Minute, func() error { return c.Bind(ctx(t), "uid=alice"+people, "alice-secret") })
}

func TestStaleConnectionsAreReplacedUnnoticed(t *testing.T) {
	t.Parallel()
	s := testenv.Slapd(t, testenv.SlapdOptions{})
	c := open(t, config(s, s.LDAP))
	var wg sync.WaitGroup
	for range 4 { // several pooled connections, all of which the restart breaks
		wg.Go(func() {
			if err := lookup(t, c); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	s.Kill()
	s.Restart()
	if err := lookup(t, c); err != nil {
		t.Errorf("first search after a restart: %v", err)
	}
}

func TestFrozenServerMeetsTheDeadline(t *testing.T) {
	t.Parallel()
	s := testenv.Slapd(t, testenv.SlapdOptions{})
	cfg := config(s, s.LDAP)
	cfg.Timeout = 300 * time.Millisecond
	cfg.MaxPause = time.Second
	c := open(t, cfg)
	// A busy machine may not meet so short a deadline at once.
	testenv.Eventually(t, time.Minute, func() error { return lookup(t, c) })
	s.Pause()
	failed := c.States()[0].Failed
	// Three deadlines, then the server is left alone for a second, within which a
	// machine mostly comes to the next search.
	for range 50 {
		err := lookup(t, c)
		if status.Of(err) != status.DirectoryDown {
			t.Fatalf("search on a frozen server = %v, want DirectoryDown", err)
		}
		if strings.Contains(err.Error(), "left alone") {
			break
		}
		if c.States()[0].Failed == failed+50 {
			t.Error("the frozen server is asked again and again")
		}
	}
	s.Resume()
	testenv.Eventually(t, time.Minute, func() error { return lookup(t, c) })
}

func TestCallerMayGiveUp(t *testing.T) {
	t.Parallel()
	s := testenv.Slapd(t, testenv.SlapdOptions{})
	cfg := config(s, s.LDAP)
	c := open(t, cfg)
	if err := lookup(t, c); err != nil {
		t.Fatal(err)
	}
	s.Pause()
	short, cancel := context.WithTimeout(context.Background(), 50*time.Millisecond)
	defer cancel()
	started := time.Now()
	_, err := c.Search(short, directory.Request{Base: "dc=example,dc=com", Filter: directory.Present("mail")})
	if took := time.Since(started); status.Of(err) != status.DirectoryDown || took > cfg.Timeout/2 {
		t.Errorf("search = %v after %v", err, took)
	}
	s.Resume()
	if err := lookup(t, c); err != nil {
		t.Errorf("next search: %v", err)
	}
}

func TestFailover(t *testing.T) {
	t.Parallel()
	first := testenv.Slapd(t, testenv.SlapdOptions{})
	second := testenv.Slapd(t, testenv.SlapdOptions{CA: first.CA})
	c := open(t, config(first, first.LDAPS, second.LDAPS))
	done := make(chan error, 1)
	running, stop := context.WithCancel(context.Background())
	go func() { done <- c.Run(running) }()
	t.Cleanup(func() {
		stop()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	if err := lookup(t, c); err != nil {
		t.Fatal(err)
	}
	first.Kill()
	for range 5 {
		if err := lookup(t, c); err != nil {
			t.Fatalf("search with the first server dead: %v", err)
		}
	}
	first.Restart()
	second.Kill()
	// Run finds out that the first one is back; nobody is ever told "no".
	testenv.Eventually(t, time.Minute, func() error { return lookup(t, c) })
}

func TestConnectionsAreBounded(t *testing.T) {
	t.Parallel()
	s := testenv.Slapd(t, testenv.SlapdOptions{})
	cfg := config(s, s.LDAPI)
	cfg.MaxConnections = 2
	c := open(t, cfg)
	var wg sync.WaitGroup
	for range 50 {
		wg.Go(func() {
			if err := lookup(t, c); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	accepted := strings.Count(s.Process().Log(), "ACCEPT from")
	if accepted > 2+1 { // and the one that waited for the start
		t.Errorf("%d connections for 50 searches, want at most 2", accepted-1)
	}
}

func TestServersOwnLimitIsNoAnswer(t *testing.T) {
	t.Parallel()
	s := testenv.Slapd(t, testenv.SlapdOptions{Config: "sizelimit 3"})
	c := open(t, config(s, s.LDAPI))
	entries, err := c.Search(ctx(t), directory.Request{Base: "dc=example,dc=com", Filter: directory.Present("objectClass")})
	if !errors.Is(err, directory.ErrSizeLimit) || status.Of(err) != status.DirectoryDown || len(entries) > 0 {
		t.Errorf("search cut short by the server = %d entries, %v; want ErrSizeLimit", len(entries), err)
	}
}

func TestReferralIsNotFollowed(t *testing.T) {
	t.Parallel()
	s := testenv.Slapd(t, testenv.SlapdOptions{GlobalConfig: "referral ldap://127.0.0.1:1"})
	c := open(t, config(s, s.LDAPI))
	_, err := c.Search(ctx(t), directory.Request{Base: "dc=elsewhere", Filter: directory.Present("objectClass")})
	if status.Of(err) != status.DirectoryDown || errors.Is(err, directory.ErrNoSuchBase) {
		t.Errorf("search elsewhere = %v; want DirectoryDown for a referral", err)
	}
}

// TestGarbageIsNoAnswer lets a server answer with octets that are no LDAP.
func TestGarbageIsNoAnswer(t *testing.T) {
	t.Parallel()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var served sync.WaitGroup
	served.Go(func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			defer conn.Close() // at the end: a message that is waited for is waited for long
			// A message of 1 GiB is announced: it must not be waited for.
			_, _ = conn.Write([]byte{0x30, 0x84, 0x40, 0, 0, 0, 2, 1, 1})
		}
	})
	t.Cleanup(func() {
		_ = l.Close()
		served.Wait()
	})
	cfg := ldap.Config{URIs: []string{"ldap://" + l.Addr().String()}, Timeout: time.Minute}
	c := open(t, cfg)
	started := time.Now()
	if err := lookup(t, c); status.Of(err) != status.DirectoryDown {
		t.Errorf("search = %v, want DirectoryDown", err)
	}
	if took := time.Since(started); took > cfg.Timeout/2 {
		t.Errorf("took %v: the oversized message was waited for", took)
	}
}

// TestOutageDoesNotStopMail is what the cache is for: known recipients and
// senders stay known while the directory is dead, and unknown ones are never
// refused for it.
func TestOutageDoesNotStopMail(t *testing.T) {
	t.Parallel()
	s := testenv.Slapd(t, testenv.SlapdOptions{})
	cfg := directorytest.Config(s.Tree)
	cfg.Cache = directory.CacheConfig{PositiveTTL: time.Nanosecond, NegativeTTL: time.Nanosecond}
	d := directorytest.Open(t, cfg, open(t, config(s, s.LDAP)))
	alice, nobody := mail.MustAddress("alice@example.com"), mail.MustAddress("nobody@example.com")
	if _, err := d.Resolve(ctx(t), alice); err != nil {
		t.Fatal(err)
	}
	if _, err := d.Resolve(ctx(t), nobody); status.Of(err) != status.NoSuchUser {
		t.Fatal(err)
	}
	if _, _, err := d.FindLogin(ctx(t), "alice"); err != nil {
		t.Fatal(err)
	}
	s.Kill()
	if got, err := d.Resolve(ctx(t), alice); err != nil || len(got) != 1 {
		t.Errorf("Resolve(alice) during an outage = %v, %v", got, err)
	}
	if _, account, err := d.FindLogin(ctx(t), "alice"); err != nil || account.Name != "alice" {
		t.Errorf("FindLogin(alice) during an outage = %v, %v", account, err)
	}
	for _, a := range []mail.Address{nobody, mail.MustAddress("bob@example.com")} {
		if _, err := d.Resolve(ctx(t), a); status.Of(err) != status.DirectoryDown {
			t.Errorf("Resolve(%s) during an outage = %v, want DirectoryDown", a, err)
		}
	}
	x, err := d.Explain(ctx(t), "alice@example.com")
	if status.Of(err) != status.DirectoryDown || !strings.Contains(x.String(), "error after") {
		t.Errorf("Explain during an outage = %v, %v", x, err)
	}
}
