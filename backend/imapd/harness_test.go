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

var passwords = map[string]string{"alice": "secret", "bob": "hunter2", "norecord": "x", "disabled": "x", "small": "x"}

func newAuth() auth {
	return auth{sessionstest.Logins{Offer: []string{"PLAIN"}, Passwords: passwords}}
}

func (auth) Account(_ context.Context, login string) (mail.Account, error) {
	if login == "norecord" || login == "down" {
		return mail.Account{}, status.New(status.DirectoryDown, nil)
	}
	if login == "stranger" || login == "robert@example.com" || login == "nobody@example.com" {
		return mail.Account{}, status.New(status.NoSuchUser, nil)
	}
	account := mail.Account{Name: login, Disabled: login == "disabled"}
	if login == "small" {
		account.QuotaOctets = 1000
	}
	return account, nil
}

// AccountOf finds bob by an address.
func (auth) AccountOf(_ context.Context, a mail.Address) (mail.Account, error) {
	if a.String() != "robert@example.com" {
		return mail.Account{}, status.New(status.NoSuchUser, nil)
	}
	return mail.Account{Name: "bob"}, nil
}

// server is a running Server on a loopback port.
type server struct {
	*Server
	t     testing.TB
	addr  string
	store *mailstore.Store
	audit *sessionstest.Recorder
	stop  context.CancelFunc
	ended chan error
}

// soon bounds each single wait, and nothing that lasts: what takes longer hangs,
// however many share the machine.
const soon = 2 * time.Minute

func testConfig() Config {
	return Config{
		Terms:       sessions.Terms{Hostname: "mail.example.com", AllowInsecureAuth: true, AuthDelay: -1, MaxSessionsPerAccount: -1},
		notifyPause: -1,
	}
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
	s := &server{t: t, store: st, audit: &sessionstest.Recorder{}, ended: make(chan error, 1)}
	var err error
	s.Server, err = New(cfg, Deps{Store: st, Auth: newAuth(), Accounts: newAuth(), Audit: s.audit, Sessions: sessions.NewRegistry()}, hclog.NewNullLogger())
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
	return newServer(t, cfg, st).start()
}

// start has the server listen until the test ends.
func (s *server) start() *server {
	t := s.t
	t.Helper()
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
		case <-time.After(soon):
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
	c := &client{t: t, conn: conn, r: bufio.NewReader(conn)}
	c.patient()
	return c
}

// patient gives the server the whole time again.
func (c *client) patient() { _ = c.conn.SetDeadline(time.Now().Add(soon)) }

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
	c.patient()
	if _, err := io.WriteString(c.conn, text); err != nil {
		c.t.Fatalf("send %.60q: %v", text, err)
	}
}

// line reads one response, literals included, without its line end.
func (c *client) line() string {
	c.t.Helper()
	c.patient()
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
	c.patient()
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

// view is the present View of alice's INBOX.
func (s *server) view(t testing.TB) mailstore.View {
	t.Helper()
	return s.viewOf(t, inbox)
}

// viewOf is the present View of a mailbox of alice's.
func (s *server) viewOf(t testing.TB, name string) mailstore.View {
	t.Helper()
	account, err := s.store.Account(t.Context(), mail.Account{Name: "alice"})
	if err != nil {
		t.Fatal(err)
	}
	defer account.Close()
	box, err := account.Mailbox(t.Context(), name)
	if err != nil {
		t.Fatal(err)
	}
	defer box.Close()
	return box.View()
}
