package imapd

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/postern-mail/postern/backend/sessions"
	"github.com/postern-mail/postern/internal/testenv"
	"github.com/postern-mail/postern/mail"
)

// selfSigned is a certificate for "mail.example.com".
func selfSigned(t testing.TB) tls.Certificate {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), DNSNames: []string{"mail.example.com"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
}

func TestConfigIsChecked(t *testing.T) {
	t.Parallel()
	for _, terms := range []sessions.Terms{{}, {Hostname: "a b"}, {Hostname: "x", ImplicitTLS: true}, {Hostname: "x", MaxSessions: -1}, {Hostname: "x", IdleTimeout: -1}} {
		cfg := Config{Terms: terms}
		if _, err := cfg.withDefaults(); err == nil {
			t.Errorf("%+v is accepted", cfg)
		}
	}
}

// The octets of a refused literal are never commands, however it is refused.
func TestRefusedLiteralsAreNotCommands(t *testing.T) {
	t.Parallel()
	s := startServer(t, Config{Terms: sessions.Terms{Hostname: "x", AllowInsecureAuth: true, AuthDelay: -1}, AppendLimitOctets: 100})
	evil := "EVIL1 CREATE pwned\r\n"
	pad := func(n int) string { return evil + strings.Repeat("x", n-len(evil)) }

	t.Run("before login", func(t *testing.T) {
		c := s.dial()
		c.line()
		c.fails("LOGIN {9000+}\r\n"+pad(9000)+" {3+}\r\nfoo", "NO [TOOBIG]")
		c.ok("NOOP")
	})
	t.Run("in a search", func(t *testing.T) {
		c := s.login("alice")
		c.ok("SELECT INBOX")
		c.fails("SEARCH TEXT {70000+}\r\n"+pad(70000)+" SUBJECT {21+}\r\nEVIL2 CREATE pwned2\r\n", "NO [TOOBIG]")
		c.ok("NOOP")
	})
	t.Run("in an append", func(t *testing.T) {
		c := s.login("alice")
		c.fails("APPEND INBOX {200+}\r\n"+pad(200), "NO [TOOBIG]")
		c.fails("APPEND nowhere {50+}\r\n"+pad(50), "NO [TRYCREATE]")
		c.fails(`APPEND INBOX (\Bogus) {50+}`+"\r\n"+pad(50), "BAD")
		c.fails("APPEND INBOX {50+}\r\n"+pad(50)+" {200+}\r\n"+pad(200), "NO [TOOBIG]")
		c.fails("APPEND &bad {50+}\r\n"+pad(50), "NO [CANNOT]")
		c.ok("NOOP")
	})
	t.Run("one that waits", func(t *testing.T) {
		c := s.login("alice")
		c.fails("APPEND INBOX {200}", "NO [TOOBIG]")
		c.fails("LIST \"\" {70000}", "NO [TOOBIG]")
		c.ok("NOOP")
	})
	t.Run("unknown command", func(t *testing.T) {
		c := s.login("alice")
		c.fails("FROB {20+}\r\n"+evil, "BAD")
		c.ok("NOOP")
	})
	t.Run("too large to drop", func(t *testing.T) {
		for _, n := range []string{"99999999", "99999999999999999999999"} {
			c := s.login("alice")
			c.send("a SEARCH TEXT {" + n + "+}\r\n" + evil)
			if lines := c.closed(); len(lines) != 1 || !strings.HasPrefix(lines[0], "* BYE") {
				t.Errorf("{%s+}: %q", n, lines)
			}
		}
	})
	t.Run("in idle", func(t *testing.T) {
		c := s.login("alice")
		c.send("a IDLE\r\n")
		c.line()
		c.send("b SEARCH TEXT {20+}\r\n" + evil)
		if lines := c.closed(); len(lines) != 1 || !strings.HasPrefix(lines[0], "* BYE") {
			t.Errorf("IDLE: %q", lines)
		}
	})
	c := s.login("alice")
	if lines := c.ok(`LIST "" pwned*`); len(lines) > 0 {
		t.Errorf("injected commands ran: %q", lines)
	}
}

func TestLineLimit(t *testing.T) {
	t.Parallel()
	s := startServer(t, testConfig())
	c := s.dial()
	c.line()
	c.send("a NOOP " + strings.Repeat("x", maxCommandOctets+100) + "\r\nb CAPABILITY\r\n")
	if lines := c.closed(); len(lines) != 1 || !strings.HasPrefix(lines[0], "* BYE") {
		t.Errorf("long line: %q", lines)
	}
}

func TestLoginAnswers(t *testing.T) {
	t.Parallel()
	s := startServer(t, testConfig())
	plain := func(login, password string) string {
		return base64.StdEncoding.EncodeToString([]byte("\x00" + login + "\x00" + password))
	}
	for _, tt := range []struct{ command, want string }{
		{"LOGIN alice secret", "OK [CAPABILITY IMAP4rev1"},
		{`LOGIN "alice" {6+}` + "\r\nsecret", "OK [CAPABILITY"},
		{"LOGIN alice wrong", "NO [AUTHENTICATIONFAILED]"},
		{"LOGIN nobody x", "NO [AUTHENTICATIONFAILED]"},
		{"LOGIN down x", "NO [UNAVAILABLE]"},
		{"LOGIN norecord x", "NO [UNAVAILABLE]"},
		{"LOGIN disabled x", "NO [NOPERM]"},
		{"LOGIN alice {8+}\r\nsec\x00ret!", "BAD"},
		{"AUTHENTICATE PLAIN " + plain("alice", "secret"), "OK [CAPABILITY"},
		{"AUTHENTICATE PLAIN " + plain("alice", "wrong"), "NO [AUTHENTICATIONFAILED]"},
		{"AUTHENTICATE PLAIN " + plain("down", "x"), "NO [UNAVAILABLE]"},
		{"AUTHENTICATE PLAIN !!!", "BAD"},
		{"AUTHENTICATE GSSAPI", "NO [CANNOT]"},
		{"AUTHENTICATE PLAIN =", "NO"},
	} {
		c := s.dial()
		c.line()
		c.fails(tt.command, tt.want)
	}

	c := s.dial()
	c.line()
	c.send("a AUTHENTICATE PLAIN\r\n")
	expect(t, "challenge", []string{c.line()}, "+ ")
	c.send("*\r\n")
	if line := c.line(); !strings.HasPrefix(line, "a BAD") {
		t.Errorf("cancelled: %s", line)
	}
	c.send("b AUTHENTICATE PLAIN\r\n")
	c.line()
	c.send(plain("bob", "hunter2") + "\r\n")
	if line := c.line(); !strings.HasPrefix(line, "b OK") {
		t.Errorf("exchange: %s", line)
	}
	c.fails("LOGIN alice secret", "BAD")
}

func TestFailedLoginsEndTheSession(t *testing.T) {
	t.Parallel()
	cfg := testConfig()
	cfg.MaxAuthFailures = 3
	s := startServer(t, cfg)
	c := s.dial()
	c.line()
	c.fails("LOGIN down x", "NO [UNAVAILABLE]") // not the client's fault
	c.fails("LOGIN alice 1", "NO")
	c.fails("LOGIN alice 2", "NO")
	c.fails("LOGIN alice 3", "NO")
	if lines := c.closed(); len(lines) != 1 || !strings.HasPrefix(lines[0], "* BYE") {
		t.Errorf("after three failures: %q", lines)
	}
}

func TestLoginNeedsTLS(t *testing.T) {
	t.Parallel()
	cfg := Config{Terms: sessions.Terms{Hostname: "mail.example.com", AuthDelay: -1, TLS: &tls.Config{Certificates: []tls.Certificate{selfSigned(t)}}}}
	s := startServer(t, cfg)
	c := s.dial()
	if greeting := c.line(); !strings.Contains(greeting, "LOGINDISABLED") || !strings.Contains(greeting, "STARTTLS") || strings.Contains(greeting, "AUTH=") {
		t.Errorf("greeting %q", greeting)
	}
	c.fails("LOGIN alice secret", "NO [PRIVACYREQUIRED]")
	c.fails("AUTHENTICATE PLAIN =", "NO [PRIVACYREQUIRED]")

	// What is pipelined behind STARTTLS in the clear is dropped.
	c.send("a STARTTLS\r\nb CAPABILITY\r\n")
	if line := c.line(); !strings.HasPrefix(line, "a OK") {
		t.Fatal(line)
	}
	conn := tls.Client(c.conn, &tls.Config{InsecureSkipVerify: true})
	tc := newClient(t, conn)
	caps, _ := tc.cmd("CAPABILITY")
	if len(caps) != 1 || strings.Contains(caps[0], "STARTTLS") || !strings.Contains(caps[0], "AUTH=PLAIN") {
		t.Errorf("capabilities after STARTTLS: %q", caps)
	}
	tc.fails("STARTTLS", "BAD")
	tc.ok("LOGIN alice secret")
	tc.ok("SELECT INBOX")
	tc.ok("CREATE x")
	if created := s.audit.Find(mail.EventMailbox); len(created) != 1 || created[0].TLS != "TLSv1.3" {
		t.Errorf("mailbox events: %+v", created)
	}
}

func TestImplicitTLSAndNewCertificate(t *testing.T) {
	t.Parallel()
	first, second := selfSigned(t), selfSigned(t)
	cfg := Config{Terms: sessions.Terms{Hostname: "x", ImplicitTLS: true, TLS: &tls.Config{Certificates: []tls.Certificate{first}}}}
	s := startServer(t, cfg)
	dial := func() (*client, []byte) {
		conn, err := tls.Dial("tcp", s.addr, &tls.Config{InsecureSkipVerify: true})
		if err != nil {
			t.Fatal(err)
		}
		return newClient(t, conn), conn.ConnectionState().PeerCertificates[0].Raw
	}
	old, cert := dial()
	old.line()
	if !bytes.Equal(cert, first.Certificate[0]) {
		t.Error("not the first certificate")
	}
	cfg.TLS = &tls.Config{Certificates: []tls.Certificate{second}}
	if err := s.Reconfigure(cfg); err != nil {
		t.Fatal(err)
	}
	c, cert := dial()
	if !bytes.Equal(cert, second.Certificate[0]) {
		t.Error("not the second certificate")
	}
	c.line()
	old.ok("LOGIN alice secret")
	if err := s.Reconfigure(Config{}); err == nil {
		t.Error("an invalid configuration is accepted")
	}
}

func TestTooManySessions(t *testing.T) {
	t.Parallel()
	cfg := testConfig()
	cfg.MaxSessionsPerClient = 2
	s := startServer(t, cfg)
	a, b := s.dial(), s.dial()
	a.line()
	b.line()
	if line := s.dial().line(); !strings.HasPrefix(line, "* BYE [UNAVAILABLE]") {
		t.Errorf("third connection: %s", line)
	}
	a.ok("LOGOUT")
	a.closed()
	testenv.Eventually(t, soon, func() error {
		if s.Sessions() > 1 {
			return errors.New("the session does not end")
		}
		return nil
	})
	if line := s.dial().line(); !strings.HasPrefix(line, "* OK") {
		t.Errorf("after one left: %s", line)
	}
}

func TestPanicEndsOneSession(t *testing.T) {
	t.Parallel()
	s := startServer(t, testConfig())
	other := s.login("alice")
	c := s.dial()
	c.line()
	c.send("a LOGIN panic x\r\n")
	if lines := c.closed(); len(lines) != 1 || !strings.HasPrefix(lines[0], "* BYE [SERVERBUG]") {
		t.Errorf("panic: %q", lines)
	}
	other.ok("NOOP")
}

func TestBadCommandsEndTheSession(t *testing.T) {
	t.Parallel()
	cfg := testConfig()
	cfg.MaxBadCommands = 3
	s := startServer(t, cfg)
	c := s.dial()
	c.line()
	c.send("\r\n\r\n") // nobody's command
	c.fails("GET / HTTP/1.1", "BAD")
	c.ok("NOOP")
	c.fails("X1", "BAD")
	c.fails("X2", "BAD")
	c.fails("X3", "BAD")
	if lines := c.closed(); len(lines) != 1 || !strings.HasPrefix(lines[0], "* BYE") {
		t.Errorf("bad commands: %q", lines)
	}
}

// pipeSession runs one session over a pipe, for tests in a synctest bubble.
func pipeSession(s *server) (net.Conn, chan struct{}) {
	client, conn := net.Pipe()
	ended := make(chan struct{})
	go func() {
		s.ServeConn(context.Background(), conn)
		close(ended)
	}()
	return client, ended
}

func TestTimeouts(t *testing.T) {
	t.Parallel()
	s := newServer(t, testConfig(), openStore(t))
	for _, tt := range []struct {
		name, send string
		after      time.Duration
		want       string
	}{
		{"no login", "", time.Minute, "* BYE Logged out"},
		{"slow login", "a LOGIN al", time.Minute, "* BYE Logged out"},
		{"literal", "a LOGIN {5+}\r\nab", time.Minute, "* BYE Logged out"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				conn, ended := pipeSession(s)
				started := time.Now()
				if tt.send != "" { // an empty write would be a read of nothing
					go func() { _, _ = io.WriteString(conn, tt.send) }()
				}
				out, _ := io.ReadAll(conn)
				<-ended
				if took := time.Since(started); took != tt.after || !strings.Contains(string(out), tt.want) {
					t.Errorf("after %s: %q; want %q after %s", took, out, tt.want, tt.after)
				}
			})
		})
	}
}

func TestFailedLoginIsDelayed(t *testing.T) {
	t.Parallel()
	cfg := testConfig()
	cfg.AuthDelay = time.Second
	s := newServer(t, cfg, openStore(t))
	synctest.Test(t, func(t *testing.T) {
		conn, ended := pipeSession(s)
		c := newClient(t, conn)
		_ = conn.SetDeadline(time.Now().Add(time.Hour))
		c.line()
		for i, want := range []time.Duration{time.Second, 2 * time.Second, 4 * time.Second} {
			started := time.Now()
			c.fails("LOGIN alice wrong", "NO")
			if took := time.Since(started); took != want {
				t.Errorf("failure %d took %s, want %s", i+1, took, want)
			}
		}
		_ = conn.Close()
		<-ended
	})
}

// When the server ends, idle sessions are told at once; one inside a command
// finishes it first.
func TestShutdown(t *testing.T) {
	t.Parallel()
	s := startServer(t, testConfig())
	waiting, idling, early := s.login("alice"), s.login("alice"), s.dial()
	early.line()
	idling.ok("SELECT INBOX")
	idling.send("a IDLE\r\n")
	idling.line()
	busy := s.login("alice")
	text := message("shutdown", "body")
	busy.send(fmt.Sprintf("a APPEND INBOX {%d}\r\n", len(text)))
	if line := busy.line(); !strings.HasPrefix(line, "+") {
		t.Fatal(line)
	}
	s.stop()
	for _, c := range []*client{waiting, idling, early} {
		if lines := c.closed(); len(lines) == 0 || !strings.HasPrefix(lines[len(lines)-1], "* BYE [UNAVAILABLE]") {
			t.Errorf("idle session: %q", lines)
		}
	}
	busy.send(text + "\r\n")
	lines := busy.closed()
	if len(lines) != 2 || !strings.HasPrefix(lines[0], "a OK [APPENDUID") || !strings.HasPrefix(lines[1], "* BYE") {
		t.Errorf("busy session: %q", lines)
	}
}

func TestGraceEnds(t *testing.T) {
	t.Parallel()
	cfg := testConfig()
	cfg.Grace = 50 * time.Millisecond
	s := startServer(t, cfg)
	c := s.login("alice")
	c.send("a APPEND INBOX {100}\r\n")
	c.line()
	s.stop()
	c.closed() // without the literal ever coming
	if err := <-s.ended; err != nil {
		t.Error(err)
	}
	s.ended <- nil
}

func TestAuditOfASession(t *testing.T) {
	t.Parallel()
	s := startServer(t, testConfig())
	c := s.login("alice")
	c.append("INBOX", `\Deleted`, message("one", "x"))
	c.append("INBOX", "", message("two", "x"))
	c.append("INBOX", `\Deleted`, message("three", "x"))
	c.ok("SELECT INBOX")
	c.ok("EXPUNGE")
	c.ok("CREATE x")
	c.ok("LOGOUT")
	c.closed()
	testenv.Eventually(t, soon, func() error {
		if len(s.audit.Find(mail.EventDisconnect)) == 0 {
			return errors.New("no disconnect")
		}
		return nil
	})
	expunged := s.audit.Find(mail.EventExpunge)
	if len(expunged) != 1 || expunged[0].UIDs != "1,3" || expunged[0].Login != "alice" || expunged[0].Mailbox != "INBOX" || expunged[0].Result != "ok" {
		t.Errorf("expunge events: %+v", expunged)
	}
	created := s.audit.Find(mail.EventMailbox)
	if len(created) != 1 || created[0].Mailbox != "x" || created[0].Detail != "create" {
		t.Errorf("mailbox events: %+v", created)
	}
	if end := s.audit.Find(mail.EventDisconnect)[0]; end.Detail != "logout" || end.Session == "" {
		t.Errorf("disconnect event: %+v", end)
	}
}

// FuzzSession feeds octets to a whole session before login: it ends, does not
// panic, and answers nothing but lines.
func FuzzSession(f *testing.F) {
	for _, seed := range []string{
		"a NOOP\r\n", "a LOGIN {3+}\r\nfoo {3+}\r\nbar\r\n", "a LOGIN {3}\r\nfoo bar\r\n", "a AUTHENTICATE PLAIN\r\n*\r\n", "\r\n\n\r\n",
		"a SEARCH {9999+}\r\n", "a APPEND x {5+}\r\nabcde\r\n", "a LOGOUT\r\nb NOOP\r\n", "a ID (\"a\" {1+}\r\nb)\r\n",
	} {
		f.Add([]byte(seed))
	}
	s := newServer(f, Config{Terms: sessions.Terms{Hostname: "x", AllowInsecureAuth: true, AuthDelay: -1, MaxSessionsPerClient: 1 << 30, CommandTimeout: 100 * time.Millisecond, AuthTimeout: time.Second}}, openStore(f))
	f.Fuzz(func(t *testing.T, b []byte) {
		client, conn := net.Pipe()
		go func() {
			_, _ = client.Write(b)
			_, _ = io.WriteString(client, "\r\nzz LOGOUT\r\n")
		}()
		done := make(chan struct{})
		go func() {
			defer close(done)
			s.ServeConn(context.Background(), conn)
		}()
		_ = client.SetReadDeadline(time.Now().Add(soon)) // the session ends before
		out, _ := io.ReadAll(client)
		_ = client.Close()
		<-done
		if bytes.Contains(out, []byte("SERVERBUG")) {
			t.Fatalf("%q: %q", b, out)
		}
		for line := range bytes.SplitSeq(bytes.TrimSuffix(out, []byte("\r\n")), []byte("\r\n")) {
			if len(out) > 0 && (bytes.ContainsAny(line, "\r\n") || len(line) == 0) {
				t.Fatalf("%q: line %q in %q", b, line, out)
			}
		}
	})
}
