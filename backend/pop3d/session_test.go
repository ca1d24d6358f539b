package pop3d

import (
	"bufio"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"math/big"
	"net"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/emersion/go-imap/v2"

	"github.com/postern-mail/postern/backend/mailstore"
	"github.com/postern-mail/postern/backend/sessions"
	"github.com/postern-mail/postern/internal/testenv"
	"github.com/postern-mail/postern/mail"
)

// TestOneSession: a second one of an account is refused while the first lasts,
// by whatever listener; IMAP is not looked at.
func TestOneSession(t *testing.T) {
	t.Parallel()
	s := startServer(t, testConfig())
	first := s.login("alice")
	second := s.dial()
	second.says("USER alice", "+OK")
	second.says("PASS secret", "-ERR [IN-USE] ")
	s.login("bob").says("NOOP", "+OK")
	first.says("QUIT", "+OK")
	second.says("USER alice", "+OK") // still in the state before the login
	second.says("PASS secret", "+OK")
	_ = second.conn.Close() // lost, not ended by QUIT
	testenv.Eventually(t, patience, func() error {
		if len(s.registry.List(func(sessions.Info) bool { return true })) > 1 {
			return errors.New("a lost session lasts")
		}
		return nil
	})
	s.login("alice").says("NOOP", "+OK")
}

// TestInUseWait: a second session gets its turn, or is refused when the time is
// over; whoever is asked to go meanwhile goes.
func TestInUseWait(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		d := NewMaildrops()
		never := make(chan struct{})
		ctx := context.Background()
		if !d.enter(ctx, "alice", 0, never) || d.enter(ctx, "alice", 0, never) || !d.enter(ctx, "bob", 0, never) {
			t.Fatal("not one at a time")
		}
		began := time.Now()
		if d.enter(ctx, "alice", 10*time.Second, never) || time.Since(began) != 10*time.Second {
			t.Errorf("refused after %s", time.Since(began))
		}
		won := make(chan int, 2)
		for i := range 2 {
			go func() {
				if d.enter(ctx, "alice", time.Hour, never) {
					won <- i
				}
			}()
		}
		synctest.Wait()
		d.leave("alice")
		synctest.Wait()
		if len(won) != 1 {
			t.Errorf("%d have it", len(won))
		}
		d.leave("alice")
		synctest.Wait()
		if len(won) != 2 {
			t.Error("the other one never had its turn")
		}
		stop := make(chan struct{})
		time.AfterFunc(time.Second, func() { close(stop) })
		gone, cancel := context.WithTimeout(ctx, 2*time.Second)
		defer cancel()
		if d.enter(ctx, "alice", time.Hour, stop) || d.enter(gone, "alice", time.Hour, never) {
			t.Error("waited for too long")
		}
		d.leave("alice")
		d.leave("bob")
		if len(d.held) > 0 {
			t.Errorf("held: %v", d.held)
		}
	})
}

// TestLoginDelay: the time between logins, by account, and nothing is kept of
// those who could log in again.
func TestLoginDelay(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		d := NewMaildrops()
		if d.early("alice", time.Minute, time.Now()) || !d.early("alice", time.Minute, time.Now()) || d.early("bob", time.Minute, time.Now()) || d.early("bob", 0, time.Now()) {
			t.Error("who may log in")
		}
		time.Sleep(time.Minute)
		if d.early("alice", time.Minute, time.Now()) {
			t.Error("a minute later")
		}
		for i := range 10 * leastPrune {
			time.Sleep(time.Second)
			d.early(fmt.Sprint(i), time.Minute, time.Now())
		}
		if len(d.last) > 2*leastPrune {
			t.Errorf("%d are remembered", len(d.last))
		}
	})
	cfg := testConfig()
	cfg.LoginDelay = time.Hour
	s := startServer(t, cfg)
	s.login("alice").says("QUIT", "+OK")
	c := s.dial()
	c.says("USER alice", "+OK")
	c.says("PASS secret", "-ERR [LOGIN-DELAY] ")
}

// TestNothingIsDeletedWithoutQuit: however a session ends but by QUIT.
func TestNothingIsDeletedWithoutQuit(t *testing.T) {
	t.Parallel()
	for name, end := range map[string]struct {
		how  func(s *server, c *client)
		said string
	}{
		"lost":    {func(_ *server, c *client) { _ = c.conn.(*net.TCPConn).CloseWrite() }, ""},
		"half":    {func(_ *server, c *client) { c.send("QUI"); _ = c.conn.(*net.TCPConn).CloseWrite() }, ""},
		"kicked":  {func(s *server, _ *client) { s.registry.Kick(func(i sessions.Info) bool { return i.Login == "alice" }) }, "-ERR [SYS/TEMP] Ended by the administrator; nothing was deleted\r\n"},
		"drained": {func(s *server, _ *client) { s.Drain(true); s.Dismiss(10) }, "-ERR [SYS/TEMP] Server is going down"},
		"barred":  {func(s *server, _ *client) { s.Disconnect("alice") }, "-ERR [AUTH] "},
		"stopped": {func(s *server, _ *client) { s.stop() }, "-ERR [SYS/TEMP] Server is shutting down; nothing was deleted\r\n"},
		"silly": {func(_ *server, c *client) {
			c.send(strings.Repeat("x\r\n", 20))
			for range 20 {
				c.line()
			}
		}, "-ERR Too many invalid commands\r\n"},
		"flooding": {func(_ *server, c *client) { c.send(strings.Repeat("x", 2000)) }, "-ERR Command line too long\r\n"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := startServer(t, testConfig())
			s.add("alice", numbered(2)...)
			c := s.login("alice")
			c.says("DELE 1", "+OK")
			c.says("DELE 2", "+OK")
			end.how(s, c)
			if got := c.closed(); !strings.HasPrefix(got, end.said) || end.said == "" && got != "" {
				t.Errorf("heard %q", got)
			}
			s.end()
			if n := s.left("alice"); n != 2 {
				t.Errorf("%d messages are left", n)
			}
			if e := s.audit.Find(mail.EventExpunge); len(e) > 0 {
				t.Errorf("audited %+v", e)
			}
		})
	}
}

// onPipe serves one session in a bubble.
func onPipe(t *testing.T, cfg Config) (*server, *client) {
	s := newServer(t, cfg, openStore(t))
	s.add("alice", numbered(2)...)
	near, far := net.Pipe()
	go s.ServeConn(context.Background(), far)
	c := &client{t: t, conn: near, r: bufio.NewReader(near)}
	c.expect("+OK")
	return s, c
}

// TestTimeouts: who does not log in, or says nothing, is closed on without a
// word, and nothing is deleted.
func TestTimeouts(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s, c := onPipe(t, testConfig())
		began := time.Now()
		if got := c.closed(); got != "" || time.Since(began) != time.Minute {
			t.Errorf("before the login: %q after %s", got, time.Since(began))
		}
		for name, row := range map[string]struct {
			sent  string
			after time.Duration
		}{"idle": {"", 10 * time.Minute}, "half a command": {"QUI", time.Minute}} {
			near, far := net.Pipe()
			go s.ServeConn(context.Background(), far)
			c := &client{t: t, conn: near, r: bufio.NewReader(near)}
			c.expect("+OK")
			c.says("USER alice", "+OK")
			c.says("PASS secret", "+OK")
			c.says("DELE 1", "+OK")
			if row.sent != "" {
				c.send(row.sent)
			}
			_ = near.SetDeadline(time.Time{})
			began := time.Now()
			if got := c.closed(); got != "" || time.Since(began) != row.after {
				t.Errorf("%s: %q after %s", name, got, time.Since(began))
			}
			synctest.Wait()
			if n := s.left("alice"); n != 2 {
				t.Errorf("%s: %d messages are left", name, n)
			}
		}
		// One that reads nothing is not waited for for ever.
		near, far := net.Pipe()
		ended := make(chan struct{})
		go func() { s.ServeConn(context.Background(), far); close(ended) }()
		began = time.Now()
		<-ended
		if took := time.Since(began); took != 2*time.Minute {
			t.Errorf("a client that does not read is waited for for %s", took)
		}
		_ = near.Close()
	})
}

// TestSnapshot: what comes is not seen, and what others delete is told as gone
// without shifting numbers; QUIT deletes what is still there.
func TestSnapshot(t *testing.T) {
	t.Parallel()
	s := startServer(t, testConfig())
	all := numbered(4)
	s.add("alice", all...)
	c := s.login("alice")
	s.add("alice", message("late", ""))
	s.inbox("alice", func(_ *mailstore.Account, box *mailstore.Mailbox) {
		if _, err := box.Remove(t.Context(), []imap.UID{1, 2}); err != nil {
			t.Fatal(err)
		}
	})
	c.says("RETR 1", "-ERR [SYS/TEMP] Message is gone")
	c.says("TOP 1 0", "-ERR [SYS/TEMP] Message is gone")
	if got := c.whole("RETR 3"); got != all[2] {
		t.Errorf("RETR 3: %q", got)
	}
	c.says("LIST 4", fmt.Sprintf("+OK 4 %d", len(all[3])))
	c.says("RETR 5", "-ERR There is no such message")
	c.says("DELE 2", "+OK")
	c.says("DELE 4", "+OK")
	c.says("QUIT", "+OK")
	s.inbox("alice", func(_ *mailstore.Account, box *mailstore.Mailbox) {
		if v := box.View(); v.Len() != 2 || v.At(0).UID != 3 || v.At(1).UID != 5 {
			t.Errorf("%d are left", v.Len())
		}
	})
	if e := s.audit.Find(mail.EventExpunge); len(e) != 1 || e[0].UIDs != "4" {
		t.Errorf("audited %+v", e)
	}
}

// TestMarkSeen: \Seen is set on what RETR sent, where that is asked for.
func TestMarkSeen(t *testing.T) {
	t.Parallel()
	for _, on := range []bool{false, true} {
		cfg := testConfig()
		cfg.MarkSeen = on
		s := startServer(t, cfg)
		s.add("alice", numbered(4)...)
		c := s.login("alice")
		c.whole("RETR 1")
		c.whole("TOP 2 0")
		c.whole("RETR 3")
		c.says("DELE 3", "+OK")
		c.says("QUIT", "+OK")
		c.closed()
		s.end()
		s.inbox("alice", func(_ *mailstore.Account, box *mailstore.Mailbox) {
			v := box.View()
			for i := range v.Len() {
				if seen := v.At(i).Flags&mailstore.FlagSeen != 0; seen != (on && v.At(i).UID == 1) {
					t.Errorf("mark_seen %v: message %d is seen: %v", on, v.At(i).UID, seen)
				}
			}
		})
	}
}

// TestPipelining: many commands in one write are answered in order and in few
// writes.
func TestPipelining(t *testing.T) {
	t.Parallel()
	s := startServer(t, testConfig())
	all := numbered(20)
	s.add("alice", all...)
	c := s.dial()
	c.send("CAPA\r\nUSER alice\r\nPASS secret\r\nSTAT\r\n")
	c.expect("+OK")
	c.text()
	c.expect("+OK")
	c.expect("+OK")
	c.expect("+OK 20 ")
	var commands strings.Builder
	for i := range all {
		fmt.Fprintf(&commands, "RETR %d\r\nDELE %d\r\n", i+1, i+1)
	}
	c.send(commands.String() + "QUIT\r\n")
	for _, m := range all {
		c.expect("+OK")
		if got := c.text(); got != m {
			t.Errorf("got %q", got)
		}
		c.expect("+OK")
	}
	c.expect("+OK")
	if n := s.left("alice"); n != 0 {
		t.Errorf("%d are left", n)
	}
}

func selfSigned(t testing.TB) tls.Certificate {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour), DNSNames: []string{"mail.example.com"}}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
}

// TestSTLS: nothing of what came in the clear counts behind the handshake.
func TestSTLS(t *testing.T) {
	t.Parallel()
	cfg := testConfig()
	cfg.AllowInsecureAuth = false
	cfg.TLS = &tls.Config{Certificates: []tls.Certificate{selfSigned(t)}}
	s := startServer(t, cfg)
	s.add("alice", numbered(1)...)
	c := s.dial()
	if got := c.whole("CAPA"); strings.Contains(got, "USER") || strings.Contains(got, "SASL") || !strings.Contains(got, "STLS\r\n") {
		t.Errorf("CAPA in the clear: %q", got)
	}
	c.says("USER alice", "-ERR [AUTH] Use STLS")
	c.says("AUTH PLAIN", "-ERR [AUTH] Use STLS")
	c.send("STLS\r\nUSER alice\r\n")
	c.expect("+OK")
	conn := tls.Client(c.conn, &tls.Config{InsecureSkipVerify: true})
	c = newClient(t, conn)
	c.says("PASS secret", "-ERR Invalid command: USER comes before")
	c.says("STLS", "-ERR")
	if got := c.whole("CAPA"); !strings.Contains(got, "USER\r\nSASL PLAIN LOGIN\r\n") || strings.Contains(got, "STLS") {
		t.Errorf("CAPA under TLS: %q", got)
	}
	c.says("USER alice", "+OK")
	c.says("PASS secret", "+OK")
	c.says("STAT", "+OK 1 ")
	found := s.registry.List(func(sessions.Info) bool { return true })
	if len(found) != 1 || found[0].TLS != "TLSv1.3" || found[0].Protocol != "pop3" || found[0].Mailbox != "INBOX" || found[0].Command != "STAT" || found[0].State != sessions.Selected {
		t.Errorf("listed as %+v", found)
	}
}

// TestImplicitTLS is port 995.
func TestImplicitTLS(t *testing.T) {
	t.Parallel()
	cfg := Config{Terms: sessions.Terms{Hostname: "mail.example.com", ImplicitTLS: true, TLS: &tls.Config{Certificates: []tls.Certificate{selfSigned(t)}}}}
	s := startServer(t, cfg)
	conn, err := tls.Dial("tcp", s.addr, &tls.Config{InsecureSkipVerify: true})
	if err != nil {
		t.Fatal(err)
	}
	c := newClient(t, conn)
	c.expect("+OK mail.example.com")
	c.says("USER alice", "+OK")
	c.says("PASS secret", "+OK")
	c.says("QUIT", "+OK")
}

// TestCrowds: too many connections are told so, too many of one account too.
func TestCrowds(t *testing.T) {
	t.Parallel()
	cfg := testConfig()
	cfg.MaxSessions, cfg.MaxSessionsPerAccount, cfg.InUseWait = 3, 2, patience
	s := startServer(t, cfg)
	first, others := s.login("alice"), []*client{s.dial(), s.dial()}
	conn, err := net.Dial("tcp", s.addr)
	if err != nil {
		t.Fatal(err)
	}
	if got := newClient(t, conn).closed(); got != "-ERR [SYS/TEMP] Too many connections\r\n" {
		t.Errorf("one too many reads %q", got)
	}
	// Whichever of them comes first waits for its turn, and the other one is too
	// many.
	type answer struct {
		from *client
		line string
		err  error
	}
	answers := make(chan answer, len(others))
	for _, c := range others {
		c.says("USER alice", "+OK")
		c.send("PASS secret\r\n")
		go func() {
			line, err := c.r.ReadString('\n')
			answers <- answer{c, line, err}
		}()
	}
	if a := <-answers; a.err != nil || !strings.HasPrefix(a.line, "-ERR [SYS/TEMP] Too many connections of this account") {
		t.Fatalf("the first answer: %q, %v", a.line, a.err)
	}
	first.says("QUIT", "+OK")
	a := <-answers
	if a.err != nil || !strings.HasPrefix(a.line, "+OK") {
		t.Fatalf("who waited is answered %q, %v", a.line, a.err)
	}
	a.from.says("NOOP", "+OK")
}

func TestConfigMistakes(t *testing.T) {
	t.Parallel()
	for want, cfg := range map[string]Config{
		"cannot stand in a greeting": {Terms: sessions.Terms{Hostname: "a <b>"}},
		"needs a certificate":        {Terms: sessions.Terms{Hostname: "x", ImplicitTLS: true}},
		"idle timeout is negative":   {Terms: sessions.Terms{Hostname: "x", IdleTimeout: -1}},
		"login delay is negative":    {Terms: sessions.Terms{Hostname: "x"}, LoginDelay: -1},
	} {
		if _, err := cfg.withDefaults(); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%+v: %v, want %s", cfg, err, want)
		}
	}
}

// TestProxied: a proxy says for whom it comes, and the session is that client's
// for limits, lists and audit; from others, and a second time, the command is
// nothing.
func TestProxied(t *testing.T) {
	t.Parallel()
	stranger := startServer(t, testConfig()).dial()
	stranger.says("XCLIENT ADDR=192.0.2.7 PORT=4711", "-ERR Invalid command: unknown command")
	cfg := testConfig()
	cfg.Proxies = []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}
	cfg.MaxSessionsPerClient = 1
	s := startServer(t, cfg)
	dial := func() *client {
		conn, err := net.Dial("tcp", s.addr)
		if err != nil {
			t.Fatal(err)
		}
		c := newClient(t, conn)
		c.expect("+OK [XCLIENT] mail.example.com POP3 server ready")
		return c
	}
	c := dial()
	c.says("XCLIENT ADDR=somewhere", "-ERR Invalid command: ADDR is no address")
	c.says("XCLIENT SESSION=abc123 TTL=1 ADDR=192.0.2.7 PORT=4711 FORWARD=eA==", "+OK")
	c.says("XCLIENT ADDR=192.0.2.8", "-ERR Invalid command")
	c.says("USER alice", "+OK")
	c.says("PASS secret", "+OK")
	all := s.registry.List(func(i sessions.Info) bool { return i.Account == "alice" })
	if len(all) != 1 || all[0].ID != "abc123" || all[0].Remote.String() != "192.0.2.7:4711" || !all[0].Via.IsValid() {
		t.Errorf("listed as %+v", all)
	}
	second := dial()
	second.says("XCLIENT ADDR=ipv6:2001:db8::7", "+OK")
	third := dial()
	third.says("XCLIENT ADDR=192.0.2.7 PORT=4712", "-ERR [SYS/TEMP] Too many connections")
	connects := s.audit.Find(mail.EventConnect)
	if !slices.ContainsFunc(connects, func(e mail.Event) bool {
		return e.Session == "abc123" && e.Remote.String() == "192.0.2.7:4711"
	}) {
		t.Errorf("audit: %+v", connects)
	}
}
