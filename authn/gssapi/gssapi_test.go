package gssapi_test

import (
	"bufio"
	"context"
	"encoding/base64"
	"errors"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/postern-mail/postern/authn"
	"github.com/postern-mail/postern/authn/gssapi"
	"github.com/postern-mail/postern/authn/sasl"
	"github.com/postern-mail/postern/internal/testenv"
	"github.com/postern-mail/postern/mail"
	"github.com/postern-mail/postern/status"
)

const realm = "EXAMPLE.COM"

// site is a realm with a helper that has the keys of imap and smtp on
// mail.example.com.
type site struct {
	kdc            *testenv.KDCServer
	helper, client string // programs
	keytab         string
}

// programs are the helper and the client.
var programs = testenv.NewShared(func(t testing.TB) [2]string {
	return [2]string{testenv.GSSAPIHelper(t), testenv.GSSAPIClient(t)}
})

// shared is the site of tests that leave keys and KDC alone.
var shared = testenv.NewShared(newSite)

func TestMain(m *testing.M) { os.Exit(testenv.Main(m)) }

func newSite(t testing.TB) *site {
	t.Helper()
	s := &site{helper: programs.Get(t)[0], client: programs.Get(t)[1]}
	s.kdc = testenv.KDC(t, realm, "alice", "bob", "alice/admin", "imap/mail.example.com", "smtp/mail.example.com", "imap/other.example.com", "HTTP/mail.example.com")
	s.keytab = s.kdc.Keytab("imap/mail.example.com", "smtp/mail.example.com", "imap/other.example.com")
	return s
}

func sharedSite(t *testing.T) *site {
	t.Helper()
	s := *shared.Get(t)
	s.kdc = s.kdc.For(t)
	return &s
}

// verifier runs a verifier with a helper of its own until the test ends.
func (s *site) verifier(t *testing.T, cfg gssapi.Config) *gssapi.Verifier {
	t.Helper()
	if cfg.Socket == "" {
		if cfg.Keytab == "" {
			cfg.Keytab = s.keytab
		}
		cfg.Krb5Config = s.kdc.Config
		cfg.Command = []string{s.helper, "auth-helper"}
	}
	v, err := gssapi.New(cfg, hclog.NewNullLogger())
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- v.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Run: %v", err)
		}
	})
	return v
}

// initiator is a client under way.
type initiator struct {
	t      *testing.T
	cmd    *exec.Cmd
	in     io.WriteCloser
	out    *bufio.Scanner
	stderr strings.Builder
}

func (s *site) initiate(t *testing.T, cache string, args ...string) *initiator {
	t.Helper()
	c := &initiator{t: t, cmd: exec.Command(s.client, args...)}
	c.cmd.Env = append(append(os.Environ(), s.kdc.Env()...), "KRB5CCNAME="+cache)
	c.cmd.Stderr = &c.stderr
	var err error
	if c.in, err = c.cmd.StdinPipe(); err != nil {
		t.Fatal(err)
	}
	out, err := c.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	c.out = bufio.NewScanner(out)
	c.out.Buffer(nil, 1<<20)
	if err := c.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		c.in.Close()
		_ = c.cmd.Wait() // what it did is judged by what it said
	})
	return c
}

// token reads what the client sends.
func (c *initiator) token() []byte {
	c.t.Helper()
	if !c.out.Scan() {
		c.t.Fatalf("the client ended: %s", c.stderr.String())
	}
	token, err := base64.StdEncoding.DecodeString(c.out.Text())
	if err != nil {
		c.t.Fatal(err)
	}
	return token
}

func (c *initiator) challenge(token []byte) {
	c.t.Helper()
	if _, err := io.WriteString(c.in, base64.StdEncoding.EncodeToString(token)+"\n"); err != nil {
		c.t.Fatal(err)
	}
}

var client = mail.Client{Session: "s"}

func open(t *testing.T, v *gssapi.Verifier, service string) sasl.Acceptor {
	t.Helper()
	a, err := v.Open(t.Context(), "GSSAPI", service, client)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(a.Close)
	return a
}

// login plays an exchange to its end.
func (s *site) login(t *testing.T, v *gssapi.Verifier, service string, c *initiator) (sasl.Principal, error) {
	t.Helper()
	a := open(t, v, service)
	for {
		reply, done, who, err := a.Step(t.Context(), c.token())
		if done || err != nil {
			return who, err
		}
		c.challenge(reply)
	}
}

func class(err error) string {
	switch {
	case err == nil:
		return "yes"
	case status.Of(err) == status.AuthFailed:
		return "no"
	}
	return "unknown"
}

func TestTickets(t *testing.T) {
	t.Parallel()
	s := sharedSite(t)
	alice := s.kdc.Login("alice")
	admin := s.kdc.Login("alice/admin")
	const imap = "imap/mail.example.com"
	// The realm's people by name alone; another realm's by the whole principal.
	ours := s.verifier(t, gssapi.Config{Realms: []string{realm}, Hosts: []string{"MAIL.example.com"}})
	any := s.verifier(t, gssapi.Config{})
	tests := []struct {
		name     string
		verifier *gssapi.Verifier
		service  string
		cache    string
		args     []string
		want     string
		login    string
	}{
		{"imap", ours, "imap", alice, []string{"-target", imap}, "yes", "alice"},
		{"submission", ours, "submission", alice, []string{"-target", "smtp/mail.example.com"}, "yes", "alice"},
		{"realm that is not stripped", any, "imap", alice, []string{"-target", imap}, "yes", "alice@EXAMPLE.COM"},
		{"no proof of the server wanted", ours, "imap", alice, []string{"-target", imap, "-one-way"}, "yes", "alice"},
		{"acting as itself", ours, "imap", alice, []string{"-target", imap, "-authorization", "alice@EXAMPLE.COM"}, "yes", "alice"},
		{"acting as somebody", ours, "imap", alice, []string{"-target", imap, "-authorization", "bob"}, "yes", "alice for bob"},
		{"administrator's instance is not the person", ours, "imap", admin, []string{"-target", imap}, "yes", "alice/admin"},
		{"ticket for another service", ours, "imap", alice, []string{"-target", "smtp/mail.example.com"}, "no", ""},
		{"ticket for another host", ours, "imap", alice, []string{"-target", "imap/other.example.com"}, "no", ""},
		{"another host, where all are taken", any, "imap", alice, []string{"-target", "imap/other.example.com"}, "yes", "alice@EXAMPLE.COM"},
		{"ticket that we have no key of", ours, "imap", alice, []string{"-target", "HTTP/mail.example.com"}, "no", ""},
		{"integrity layer", ours, "imap", alice, []string{"-target", imap, "-layer", "2"}, "no", ""},
		{"no layer at all", ours, "imap", alice, []string{"-target", imap, "-layer", "0"}, "no", ""},
		{"every layer", ours, "imap", alice, []string{"-target", imap, "-layer", "7"}, "no", ""},
		{"control character in the identity", ours, "imap", alice, []string{"-target", imap, "-authorization", "bob\n"}, "no", ""},
		{"three legs", ours, "imap", alice, []string{"-target", imap, "-dce"}, "no", ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			who, err := s.login(t, tt.verifier, tt.service, s.initiate(t, tt.cache, tt.args...))
			if got := class(err); got != tt.want {
				t.Fatalf("is %s (%v), want %s", got, err, tt.want)
			}
			got := who.Login
			if who.Authorization != "" {
				got += " for " + who.Authorization
			}
			if err == nil && got != tt.login {
				t.Errorf("login %q, want %q", got, tt.login)
			}
		})
	}
	t.Run("channel bindings of the client are not ours to know", func(t *testing.T) {
		t.Parallel()
		if _, err := s.login(t, ours, "imap", s.initiate(t, alice, "-target", imap, "-bindings", "tls-server-end-point:x")); err != nil {
			t.Errorf("with bindings that nobody checks: %v", err)
		}
		required := s.verifier(t, gssapi.Config{Realms: []string{realm}, Bindings: gssapi.BindingsRequired})
		if _, err := s.login(t, required, "imap", s.initiate(t, alice, "-target", imap)); class(err) != "no" {
			t.Errorf("without bindings, which are required: %v", err)
		}
	})
	t.Run("replayed ticket", func(t *testing.T) {
		t.Parallel()
		first := s.initiate(t, alice, "-target", imap).token()
		a := open(t, ours, "imap")
		if _, _, _, err := a.Step(t.Context(), first); err != nil {
			t.Fatal(err)
		}
		b := open(t, ours, "imap")
		if _, _, _, err := b.Step(t.Context(), first); class(err) != "no" || !strings.Contains(err.Error(), "replay") {
			t.Errorf("the same token again: %v", err)
		}
		if _, _, _, err := open(t, any, "imap").Step(t.Context(), first); class(err) != "no" {
			t.Errorf("the same token to another helper of this machine: %v", err)
		}
	})
	t.Run("garbage", func(t *testing.T) {
		t.Parallel()
		good := s.initiate(t, alice, "-target", imap).token()
		for name, token := range map[string][]byte{
			"text": []byte("let me in"), "NUL": make([]byte, 100), "cut": good[:len(good)-20], "long": make([]byte, gssapi.MaxTokenOctets+1),
			"SPNEGO": append([]byte("\x60\x28\x06\x06\x2b\x06\x01\x05\x05\x02"), good...), "changed": append(append([]byte{}, good[:len(good)-1]...), good[len(good)-1]^1),
		} {
			if _, _, _, err := open(t, ours, "imap").Step(t.Context(), token); class(err) != "no" {
				t.Errorf("%s: %v, want no", name, err)
			}
		}
		a := open(t, ours, "imap")
		if reply, done, _, err := a.Step(t.Context(), nil); len(reply) != 0 || done || err != nil {
			t.Errorf("without an initial response: %q, %v, %v", reply, done, err)
		}
		if _, _, _, err := a.Step(t.Context(), nil); class(err) != "no" {
			t.Errorf("and without a first one: %v", err)
		}
		// Out of turn: an answer to the proof, and a choice that is none.
		c := s.initiate(t, alice, "-target", imap)
		b := open(t, ours, "imap")
		if _, _, _, err := b.Step(t.Context(), c.token()); err != nil {
			t.Fatal(err)
		}
		if _, _, _, err := b.Step(t.Context(), []byte("x")); class(err) != "no" {
			t.Errorf("an answer to the proof: %v", err)
		}
		c = s.initiate(t, alice, "-target", imap)
		d := open(t, ours, "imap")
		reply, _, _, err := d.Step(t.Context(), c.token())
		if err != nil {
			t.Fatal(err)
		}
		c.challenge(reply)
		if _, _, _, err = d.Step(t.Context(), c.token()); err != nil {
			t.Fatal(err)
		}
		if _, _, _, err := d.Step(t.Context(), []byte("\x01\x00\x00\x00alice")); class(err) != "no" {
			t.Errorf("a choice without its seal: %v", err)
		}
	})
}

// TestWithoutKDC: who has a ticket gets in, for nobody has to ask for anything
// more.
func TestWithoutKDC(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	alice := s.kdc.Login("alice")
	v := s.verifier(t, gssapi.Config{Realms: []string{realm}})
	c := s.initiate(t, alice, "-target", "imap/mail.example.com")
	token := c.token()
	s.kdc.Stop()
	a := open(t, v, "imap")
	for {
		reply, done, who, err := a.Step(t.Context(), token)
		if err != nil {
			t.Fatal(err)
		}
		if done {
			if who.Login != "alice" {
				t.Errorf("logged in as %+v", who)
			}
			return
		}
		c.challenge(reply)
		token = c.token()
	}
}

// TestExpiredTicket: a ticket whose time is over is no ticket; when the clocks
// are apart, nobody knows whose is wrong.
func TestExpiredTicket(t *testing.T) {
	t.Parallel()
	s := sharedSite(t)
	short := s.kdc.Login("alice", "-l", "5s") // within which a busy machine starts the client
	token := s.initiate(t, short, "-target", "imap/mail.example.com").token()
	// The acceptor grants the difference between clocks it is configured for.
	text, err := os.ReadFile(s.kdc.Config)
	if err != nil {
		t.Fatal(err)
	}
	strict := filepath.Join(testenv.TempDir(t), "krb5.conf")
	if err := os.WriteFile(strict, []byte(strings.Replace(string(text), "[libdefaults]", "[libdefaults]\n\tclockskew = 0", 1)), 0o644); err != nil {
		t.Fatal(err)
	}
	s.kdc.Config = strict
	v := s.verifier(t, gssapi.Config{Realms: []string{realm}})
	// Offered before its end it would be taken, and then be a replay for ever.
	over := time.Now().Add(7 * time.Second)
	testenv.Eventually(t, time.Minute, func() error {
		if time.Now().Before(over) {
			return errors.New("still good")
		}
		return nil
	})
	if _, _, _, err := open(t, v, "imap").Step(t.Context(), token); class(err) != "no" || !strings.Contains(err.Error(), "expired") {
		t.Errorf("an expired ticket: %v, want no", err)
	}
	// A long ticket, but made when the clock was another.
	token = s.initiate(t, s.kdc.Login("alice"), "-target", "imap/mail.example.com").token()
	over = time.Now().Add(2 * time.Second)
	testenv.Eventually(t, time.Minute, func() error {
		if time.Now().Before(over) {
			return errors.New("still good")
		}
		return nil
	})
	if _, _, _, err := open(t, v, "imap").Step(t.Context(), token); class(err) != "unknown" || !strings.Contains(err.Error(), "skew") {
		t.Errorf("clocks apart: %v, want unknown", err)
	}
}

// TestKeytab: what is wrong with our own keys is never the client's fault.
func TestKeytab(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	alice := s.kdc.Login("alice")
	const imap = "imap/mail.example.com"
	old := s.keytab
	attempt := func(v *gssapi.Verifier) error {
		_, err := s.login(t, v, "imap", s.initiate(t, alice, "-target", imap))
		return err
	}
	missing := s.verifier(t, gssapi.Config{Keytab: filepath.Join(testenv.TempDir(t), "none")})
	if err := attempt(missing); class(err) != "unknown" {
		t.Errorf("without a keytab: %v, want unknown", err)
	}
	broken := filepath.Join(testenv.TempDir(t), "broken")
	if err := os.WriteFile(broken, []byte("not a keytab"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := attempt(s.verifier(t, gssapi.Config{Keytab: broken})); class(err) != "unknown" {
		t.Errorf("with a broken keytab: %v, want unknown", err)
	}
	if err := attempt(s.verifier(t, gssapi.Config{Keytab: s.kdc.Keytab("HTTP/mail.example.com")})); class(err) != "unknown" {
		t.Errorf("with a keytab of another service: %v, want unknown", err)
	}
	v := s.verifier(t, gssapi.Config{Keytab: old})
	if err := attempt(v); err != nil {
		t.Fatal(err)
	}
	// Rotated at the KDC, not here: what a client brings now we cannot read.
	fresh := s.kdc.Keytab(imap)
	alice = s.kdc.Login("alice")
	if err := attempt(v); class(err) != "unknown" {
		t.Errorf("ticket under a newer key: %v, want unknown", err)
	}
	// Put in place, it is used at once.
	if err := os.Rename(fresh, old); err != nil {
		t.Fatal(err)
	}
	if err := attempt(v); err != nil {
		t.Errorf("after the keytab was replaced: %v", err)
	}
}

// TestHelperDies: killed in mid-exchange it is an outage, and the next exchange
// finds a new one.
func TestHelperDies(t *testing.T) {
	t.Parallel()
	s := sharedSite(t)
	alice := s.kdc.Login("alice")
	socket := filepath.Join(testenv.TempDir(t), "s")
	start := func() *testenv.Process {
		return testenv.Start(t, testenv.Command{
			Path: s.helper, Args: []string{"auth-helper", "--socket", socket, "--keytab", s.keytab, "--kerberos-config", s.kdc.Config, "--replay-dir", filepath.Dir(socket)},
			Ready: testenv.DialReady("unixpacket", socket),
		})
	}
	v := s.verifier(t, gssapi.Config{Socket: socket, Realms: []string{realm}})
	c := s.initiate(t, alice, "-target", "imap/mail.example.com")
	a := open(t, v, "imap")
	if _, _, _, err := a.Step(t.Context(), c.token()); class(err) != "unknown" {
		t.Errorf("without a helper: %v, want unknown", err)
	}
	first := start()
	c = s.initiate(t, alice, "-target", "imap/mail.example.com")
	b := open(t, v, "imap")
	reply, _, _, err := b.Step(t.Context(), c.token())
	if err != nil {
		t.Fatal(err)
	}
	first.Kill()
	c.challenge(reply)
	if reply, _, _, err = b.Step(t.Context(), c.token()); err != nil {
		t.Fatal(err) // the offer is here already
	}
	c.challenge(reply)
	if _, _, _, err := b.Step(t.Context(), c.token()); class(err) != "unknown" {
		t.Errorf("helper killed in mid-exchange: %v, want unknown", err)
	}
	start()
	if who, err := s.login(t, v, "imap", s.initiate(t, alice, "-target", "imap/mail.example.com")); err != nil || who.Login != "alice" {
		t.Errorf("with a new helper: %+v, %v", who, err)
	}
	// What the helper was not started for it does not do.
	users := filepath.Join(testenv.TempDir(t), "s")
	testenv.Start(t, testenv.Command{
		Path: s.helper, Args: []string{"auth-helper", "--socket", users, "--users"}, Ready: testenv.DialReady("unixpacket", users),
	})
	other := s.verifier(t, gssapi.Config{Socket: users})
	if _, _, _, err := open(t, other, "imap").Step(t.Context(), c.firstOf(s, alice)); class(err) != "unknown" {
		t.Errorf("helper without a keytab: %v, want unknown", err)
	}
}

func (c *initiator) firstOf(s *site, cache string) []byte {
	return s.initiate(c.t, cache, "-target", "imap/mail.example.com").token()
}

// TestAbandoned: exchanges that clients left cost nothing once their session is
// over, and however many there are, others get in.
func TestAbandoned(t *testing.T) {
	t.Parallel()
	s := sharedSite(t)
	alice := s.kdc.Login("alice")
	v := s.verifier(t, gssapi.Config{Realms: []string{realm}})
	const sessions = 1000
	var left sync.WaitGroup
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	// Most never show a ticket: nothing is held for them at all.
	for range sessions {
		left.Go(func() {
			a, err := v.Open(ctx, "GSSAPI", "imap", client)
			if err == nil {
				_, _, _, err = a.Step(ctx, nil)
			}
			if err != nil {
				t.Errorf("begin: %v", err)
			}
		})
	}
	left.Wait()
	for range 20 {
		a, err := v.Open(ctx, "GSSAPI", "imap", client)
		if err != nil {
			t.Fatal(err)
		}
		if _, _, _, err := a.Step(ctx, s.initiate(t, alice, "-target", "imap/mail.example.com").token()); err != nil {
			t.Fatal(err)
		}
	}
	if who, err := s.login(t, v, "imap", s.initiate(t, alice, "-target", "imap/mail.example.com")); err != nil || who.Login != "alice" {
		t.Errorf("beside abandoned ones: %+v, %v", who, err)
	}
	cancel()
	if who, err := s.login(t, v, "imap", s.initiate(t, alice, "-target", "imap/mail.example.com")); err != nil || who.Login != "alice" {
		t.Errorf("after they were given up: %+v, %v", who, err)
	}
}

// TestSomethingElseAnswers: what is no helper is an outage.
func TestSomethingElseAnswers(t *testing.T) {
	t.Parallel()
	challenge, err := gssapi.Reply{Outcome: gssapi.Challenge, Principal: "alice@EXAMPLE.COM"}.AppendBinary(nil)
	if err != nil {
		t.Fatal(err)
	}
	accepted, err := gssapi.Reply{Outcome: gssapi.Accepted, Principal: "alice@EXAMPLE.COM"}.AppendBinary(nil)
	if err != nil {
		t.Fatal(err)
	}
	for name, answer := range map[string][]byte{
		"nothing": nil, "nonsense": []byte("250 OK"), "too much": make([]byte, gssapi.MaxMessageOctets+10),
		"a challenge without an offer": challenge, "a yes before its time": accepted,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			path := filepath.Join(testenv.TempDir(t), "s")
			listener, err := net.Listen("unixpacket", path)
			if err != nil {
				t.Fatal(err)
			}
			defer listener.Close()
			go func() {
				conn, err := listener.Accept()
				if err != nil {
					return
				}
				defer conn.Close()
				if _, err := conn.Read(make([]byte, gssapi.MaxMessageOctets)); err == nil && answer != nil {
					_, _ = conn.Write(answer)
				}
			}()
			v, err := gssapi.New(gssapi.Config{Socket: path}, hclog.NewNullLogger())
			if err != nil {
				t.Fatal(err)
			}
			if _, done, _, err := open(t, v, "imap").Step(t.Context(), []byte("token")); done || class(err) != "unknown" {
				t.Errorf("done %v, %v; want unknown", done, err)
			}
		})
	}
	// One that never answers.
	path := filepath.Join(testenv.TempDir(t), "s")
	listener, err := net.Listen("unixpacket", path)
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	v, err := gssapi.New(gssapi.Config{Socket: path, Timeout: 50 * time.Millisecond}, hclog.NewNullLogger())
	if err != nil {
		t.Fatal(err)
	}
	if _, _, _, err := open(t, v, "imap").Step(t.Context(), []byte("token")); class(err) != "unknown" {
		t.Errorf("deaf helper: %v, want unknown", err)
	}
}

func TestNewRefuses(t *testing.T) {
	t.Parallel()
	for name, cfg := range map[string]gssapi.Config{
		"nothing": {}, "both": {Keytab: "/k", Socket: "/s"}, "host": {Keytab: "/k", Hosts: []string{"a b"}}, "time": {Keytab: "/k", Timeout: -1},
	} {
		if _, err := gssapi.New(cfg, hclog.NewNullLogger()); err == nil {
			t.Errorf("%s was accepted", name)
		}
	}
}

func TestPasswordsAreNotKnown(t *testing.T) {
	t.Parallel()
	v, err := gssapi.New(gssapi.Config{Keytab: "/k"}, hclog.NewNullLogger())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := v.Verify(t.Context(), authn.Attempt{Login: "alice", Password: "x"}); !errors.Is(err, authn.ErrUnknownLogin) {
		t.Errorf("Verify = %v", err)
	}
}
