package pop3d

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/postern-mail/postern/backend/mailstore"
	"github.com/postern-mail/postern/backend/sessions"
	"github.com/postern-mail/postern/backend/sessions/sessionstest"
	"github.com/postern-mail/postern/mail"
	"github.com/postern-mail/postern/status"
	"github.com/postern-mail/postern/store/storetest"
)

// auth is an Authenticator and Accounts over a fixed list of passwords; the
// login "norecord" has no account, "disabled" a disabled one.
type auth struct{ sessionstest.Logins }

var passwords = map[string]string{"alice": "secret", "bob": " two words ", "norecord": "x", "disabled": "x"}

func (auth) Account(_ context.Context, login string) (mail.Account, error) {
	if login == "norecord" {
		return mail.Account{}, status.New(status.DirectoryDown, nil)
	}
	return mail.Account{Name: login, Disabled: login == "disabled"}, nil
}

// server is a running Server on a loopback port.
type server struct {
	*Server
	t        testing.TB
	addr     string
	store    *mailstore.Store
	audit    *sessionstest.Recorder
	registry *sessions.Registry
	stop     context.CancelFunc
	ended    chan error
}

// patience bounds each single wait, and nothing that lasts: what takes longer
// hangs, however many share the machine.
const patience = 2 * time.Minute

func testConfig() Config {
	return Config{Terms: sessions.Terms{Hostname: "mail.example.com", AllowInsecureAuth: true, AuthDelay: -1}}
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
	s := &server{t: t, store: st, audit: &sessionstest.Recorder{}, registry: sessions.NewRegistry(), ended: make(chan error, 1)}
	a := auth{sessionstest.Logins{Offer: []string{"PLAIN", "LOGIN"}, Passwords: passwords}}
	var err error
	s.Server, err = New(cfg, Deps{Store: st, Auth: a, Accounts: a, Audit: s.audit, Sessions: s.registry, Maildrops: NewMaildrops()}, hclog.NewNullLogger())
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
	t.Cleanup(s.end)
	return s
}

// end stops the server and waits for it. It may be called again.
func (s *server) end() {
	s.stop()
	select {
	case err := <-s.ended:
		if err != nil {
			s.t.Errorf("Serve: %v", err)
		}
		s.ended <- nil
	case <-time.After(patience):
		s.t.Error("Serve did not end")
	}
}

// inbox runs do on an account's mailbox.
func (s *server) inbox(name string, do func(*mailstore.Account, *mailstore.Mailbox)) {
	s.t.Helper()
	account, err := s.store.Account(context.Background(), mail.Account{Name: name})
	if err != nil {
		s.t.Fatal(err)
	}
	defer account.Close()
	box, err := account.Mailbox(context.Background(), inbox)
	if err != nil {
		s.t.Fatal(err)
	}
	defer box.Close()
	do(account, box)
}

// add appends messages as they are.
func (s *server) add(name string, messages ...string) {
	s.t.Helper()
	s.inbox(name, func(_ *mailstore.Account, box *mailstore.Mailbox) {
		for _, m := range messages {
			content, err := s.store.Stage(context.Background(), strings.NewReader(m))
			if err == nil {
				_, err = box.Append(context.Background(), []mailstore.Append{{Content: content}})
				content.Discard()
			}
			if err != nil {
				s.t.Fatal(err)
			}
		}
	})
}

// client speaks raw POP3.
type client struct {
	t    testing.TB
	conn net.Conn
	r    *bufio.Reader
}

func (s *server) dial() *client {
	s.t.Helper()
	conn, err := net.Dial("tcp", s.addr)
	if err != nil {
		s.t.Fatal(err)
	}
	c := newClient(s.t, conn)
	c.expect("+OK mail.example.com POP3 server ready")
	return c
}

func newClient(t testing.TB, conn net.Conn) *client {
	t.Cleanup(func() { _ = conn.Close() })
	c := &client{t: t, conn: conn, r: bufio.NewReader(conn)}
	c.patient()
	return c
}

// patient gives the server the whole time again.
func (c *client) patient() { _ = c.conn.SetDeadline(time.Now().Add(patience)) }

// login connects and logs in.
func (s *server) login(name string) *client {
	s.t.Helper()
	c := s.dial()
	c.says("USER "+name, "+OK")
	c.says("PASS "+passwords[name], "+OK")
	return c
}

func (c *client) send(text string) {
	c.t.Helper()
	c.patient()
	if _, err := io.WriteString(c.conn, text); err != nil {
		c.t.Fatalf("send %.60q: %v", text, err)
	}
}

func (c *client) line() string {
	c.t.Helper()
	c.patient()
	line, err := c.r.ReadString('\n')
	if err != nil {
		c.t.Fatalf("read: %v after %q", err, line)
	}
	return strings.TrimSuffix(line, "\r\n")
}

func (c *client) expect(prefix string) {
	c.t.Helper()
	if got := c.line(); !strings.HasPrefix(got, prefix) {
		c.t.Errorf("got %q, want %q", got, prefix)
	}
}

// says sends a command and looks at the beginning of the answer.
func (c *client) says(command, want string) {
	c.t.Helper()
	c.send(command + "\r\n")
	if got := c.line(); !strings.HasPrefix(got, want) {
		c.t.Errorf("%q: got %q, want %q", command, got, want)
	}
}

// whole sends a command and returns the text of a multi-line answer, without
// stuffing, as strict readers see it.
func (c *client) whole(command string) string {
	c.t.Helper()
	c.send(command + "\r\n")
	if got := c.line(); !strings.HasPrefix(got, "+OK") {
		c.t.Fatalf("%q: %q", command, got)
	}
	return c.text()
}

// text reads up to the line of a dot. Lines end in CRLF alone.
func (c *client) text() string {
	c.t.Helper()
	c.patient()
	var all strings.Builder
	for {
		line := ""
		for !strings.HasSuffix(line, "\r\n") {
			more, err := c.r.ReadString('\n')
			if err != nil {
				c.t.Fatalf("read: %v after %q", err, all.String()+line+more)
			}
			line += more
		}
		if line == ".\r\n" {
			return all.String()
		}
		all.WriteString(strings.TrimPrefix(line, "."))
	}
}

// closed waits for the end of the connection and returns what came before.
func (c *client) closed() string {
	c.t.Helper()
	rest, err := io.ReadAll(c.r)
	if ne, ok := err.(net.Error); ok && ne.Timeout() {
		c.t.Fatalf("connection is still open after %q", rest)
	}
	return string(rest)
}

// message is a small text message.
func message(subject, body string) string {
	return "From: Alice <alice@example.com>\r\nTo: bob@example.com\r\nSubject: " + subject +
		"\r\nDate: Mon, 7 Feb 1994 21:52:25 -0800\r\n\r\n" + body + "\r\n"
}

// left is how many messages an account has.
func (s *server) left(name string) (n int) {
	s.t.Helper()
	s.inbox(name, func(_ *mailstore.Account, box *mailstore.Mailbox) { n = box.View().Len() })
	return n
}

func numbered(n int) []string {
	var all []string
	for i := range n {
		all = append(all, message(fmt.Sprintf("m%d", i+1), strings.Repeat("x", i)))
	}
	return all
}
