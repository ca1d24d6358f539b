package imapd

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/postern-mail/postern/backend/mailstore"
	"github.com/postern-mail/postern/mail"
	"github.com/postern-mail/postern/status"
	"github.com/postern-mail/postern/store/storetest"
)

// auth is an Authenticator and Accounts over a fixed list of passwords; the
// login "down" meets an outage, "norecord" has no account, "disabled" a
// disabled one.
type auth struct{}

var passwords = map[string]string{"alice": "secret", "bob": "hunter2", "down": "x", "norecord": "x", "disabled": "x", "small": "x"}

func (auth) Mechanisms(tls bool) []string {
	if !tls {
		return nil
	}
	return []string{"PLAIN"}
}

func (a auth) Start(_ context.Context, mechanism string, client mail.Client) (Authentication, error) {
	if mechanism != "PLAIN" {
		return nil, status.New(status.AuthMechanism, nil)
	}
	return &plainExchange{auth: a, client: client}, nil
}

func (auth) Login(_ context.Context, login, password string, _ mail.Client) (mail.Identity, error) {
	switch {
	case login == "down":
		return mail.Identity{}, status.New(status.DirectoryDown, nil)
	case login == "panic":
		panic("verifier is broken")
	case passwords[login] == "" || passwords[login] != password:
		return mail.Identity{}, status.New(status.AuthFailed, nil)
	}
	return mail.Identity{Authentication: login, Authorization: login, Mechanism: "LOGIN", Verifier: "test"}, nil
}

func (auth) Account(_ context.Context, login string) (mail.Account, error) {
	if login == "norecord" {
		return mail.Account{}, status.New(status.DirectoryDown, nil)
	}
	account := mail.Account{Name: login, Disabled: login == "disabled"}
	if login == "small" {
		account.QuotaOctets = 1000
	}
	return account, nil
}

type plainExchange struct {
	auth     auth
	client   mail.Client
	identity mail.Identity
}

func (x *plainExchange) Next(response []byte) ([]byte, bool, error) {
	if response == nil {
		return []byte{}, false, nil
	}
	parts := strings.Split(string(response), "\x00")
	if len(parts) != 3 {
		return nil, false, status.New(status.ParameterSyntax, nil)
	}
	var err error
	x.identity, err = x.auth.Login(context.Background(), parts[1], parts[2], x.client)
	return nil, err == nil, err
}

func (x *plainExchange) Identity() mail.Identity { return x.identity }

// recorder is an Auditor that remembers.
type recorder struct {
	mu     sync.Mutex
	events []mail.Event
}

func (r *recorder) Record(e mail.Event) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.events = append(r.events, e)
}

func (r *recorder) find(kind mail.EventKind) []mail.Event {
	r.mu.Lock()
	defer r.mu.Unlock()
	var found []mail.Event
	for _, e := range r.events {
		if e.Kind == kind {
			found = append(found, e)
		}
	}
	return found
}

// server is a running Server on a loopback port.
type server struct {
	*Server
	t     testing.TB
	addr  string
	store *mailstore.Store
	audit *recorder
	stop  context.CancelFunc
	ended chan error
}

func testConfig() Config {
	return Config{Hostname: "mail.example.com", AllowInsecureAuth: true, AuthDelay: -1, MaxSessionsPerAccount: -1}
}

func openStore(t testing.TB) *mailstore.Store {
	t.Helper()
	kv, blobs := storetest.Open(t)
	st, err := mailstore.Open(context.Background(), mailstore.Config{}, kv, blobs, hclog.NewNullLogger())
	if err != nil {
		t.Fatal(err)
	}
	return st
}

// newServer makes a Server that does not listen.
func newServer(t testing.TB, cfg Config, st *mailstore.Store) *server {
	t.Helper()
	s := &server{t: t, store: st, audit: &recorder{}, ended: make(chan error, 1)}
	var err error
	s.Server, err = New(cfg, Deps{Store: st, Auth: auth{}, Accounts: auth{}, Audit: s.audit}, hclog.NewNullLogger())
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func startServer(t testing.TB, cfg Config) *server {
	t.Helper()
	return startServerOn(t, cfg, openStore(t))
}

func startServerOn(t testing.TB, cfg Config, st *mailstore.Store) *server {
	t.Helper()
	s := newServer(t, cfg, st)
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s.addr = ln.Addr().String()
	ctx, cancel := context.WithCancel(context.Background())
	s.stop = cancel
	go func() { s.ended <- s.Serve(ctx, ln) }()
	t.Cleanup(func() {
		cancel()
		select {
		case err := <-s.ended:
			if err != nil {
				t.Errorf("Serve: %v", err)
			}
		case <-time.After(30 * time.Second):
			t.Error("Serve did not end")
		}
	})
	return s
}

// client speaks raw IMAP.
type client struct {
	t    testing.TB
	conn net.Conn
	r    *bufio.Reader
	tag  int
}

func (s *server) dial() *client {
	s.t.Helper()
	conn, err := net.Dial("tcp", s.addr)
	if err != nil {
		s.t.Fatal(err)
	}
	return newClient(s.t, conn)
}

func newClient(t testing.TB, conn net.Conn) *client {
	t.Cleanup(func() { _ = conn.Close() })
	_ = conn.SetDeadline(time.Now().Add(20 * time.Second))
	return &client{t: t, conn: conn, r: bufio.NewReader(conn)}
}

// login connects and logs in.
func (s *server) login(name string) *client {
	s.t.Helper()
	c := s.dial()
	c.line()
	c.ok("LOGIN " + name + " " + passwords[name])
	return c
}

func (c *client) send(text string) {
	c.t.Helper()
	if _, err := io.WriteString(c.conn, text); err != nil {
		c.t.Fatalf("send %.60q: %v", text, err)
	}
}

// line reads one response, literals included, without its line end.
func (c *client) line() string {
	c.t.Helper()
	s, err := c.read()
	if err != nil {
		c.t.Fatalf("read: %v after %q", err, s)
	}
	return s
}

func (c *client) read() (string, error) {
	var all []byte
	for {
		line, err := c.r.ReadBytes('\n')
		if err != nil {
			return string(append(all, line...)), err
		}
		line = bytes.TrimSuffix(line, []byte("\r\n"))
		all = append(all, line...)
		mark, ok := literalAt(line)
		if !ok {
			return string(all), nil
		}
		body := make([]byte, mark.octets)
		if _, err := io.ReadFull(c.r, body); err != nil {
			return string(all), err
		}
		all = append(append(all, "\r\n"...), body...)
	}
}

// cmd runs a command and returns the untagged responses and the tagged one.
func (c *client) cmd(text string) (untagged []string, tagged string) {
	c.t.Helper()
	c.tag++
	tag := fmt.Sprintf("t%d", c.tag)
	c.send(tag + " " + text + "\r\n")
	return c.until(tag)
}

func (c *client) until(tag string) (untagged []string, tagged string) {
	c.t.Helper()
	for {
		line := c.line()
		if rest, ok := strings.CutPrefix(line, tag+" "); ok {
			return untagged, rest
		}
		untagged = append(untagged, line)
	}
}

// ok is cmd for commands that must succeed.
func (c *client) ok(text string) []string {
	c.t.Helper()
	untagged, tagged := c.cmd(text)
	if !strings.HasPrefix(tagged, "OK") {
		c.t.Fatalf("%.80q: %s", text, tagged)
	}
	return untagged
}

// fails is cmd for commands that must be answered with the prefix given.
func (c *client) fails(text, prefix string) {
	c.t.Helper()
	if _, tagged := c.cmd(text); !strings.HasPrefix(tagged, prefix) {
		c.t.Errorf("%.80q: %s, want %s", text, tagged, prefix)
	}
}

// append adds a message to a mailbox.
func (c *client) append(mailbox, flags, message string) {
	c.t.Helper()
	c.ok(fmt.Sprintf("APPEND %s (%s) {%d+}\r\n%s", mailbox, flags, len(message), message))
}

// closed waits for the end of the connection and returns what came before.
func (c *client) closed() []string {
	c.t.Helper()
	var lines []string
	for {
		line, err := c.read()
		if err != nil {
			if ne, ok := err.(net.Error); ok && ne.Timeout() {
				c.t.Fatalf("connection is still open after %q", lines)
			}
			return lines
		}
		lines = append(lines, line)
	}
}

func expect(t testing.TB, what string, got []string, want ...string) {
	t.Helper()
	if !slices.Equal(got, want) {
		t.Errorf("%s:\n got %q\nwant %q", what, got, want)
	}
}

// message is a small text message.
func message(subject, body string) string {
	return "From: Alice <alice@example.com>\r\nTo: bob@example.com\r\nSubject: " + subject +
		"\r\nDate: Mon, 7 Feb 1994 21:52:25 -0800\r\nMessage-ID: <" + subject + "@example.com>\r\n\r\n" + body + "\r\n"
}
