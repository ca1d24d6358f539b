package smtp

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/postern-mail/postern/internal/smtptest"
	"github.com/postern-mail/postern/mail"
	"github.com/postern-mail/postern/status"
)

// talker is a client that is driven line by line.
type talker struct {
	t testing.TB
	net.Conn
	r *bufio.Reader
}

func talkTo(t testing.TB, conn net.Conn, err error) *talker {
	t.Helper()
	check(t, err)
	t.Cleanup(func() { conn.Close() })
	check(t, conn.SetDeadline(time.Now().Add(2*time.Minute)))
	return &talker{t: t, Conn: conn, r: bufio.NewReader(conn)}
}

func dialTalker(t testing.TB, address string) *talker {
	t.Helper()
	conn, err := net.Dial("tcp", address)
	return talkTo(t, conn, err)
}

// say sends lines in one write, each with CRLF.
func (c *talker) say(lines ...string) {
	c.t.Helper()
	_, err := io.WriteString(c, strings.Join(lines, "\r\n")+"\r\n")
	check(c.t, err)
}

// hear reads whole replies and holds each one's code against the next want.
func (c *talker) hear(wants ...string) {
	c.t.Helper()
	for _, want := range wants {
		for {
			line, err := c.r.ReadString('\n')
			if err != nil {
				c.t.Fatalf("waiting for %s: %q, %v", want, line, err)
			}
			if !strings.HasPrefix(line, want) {
				c.t.Fatalf("got %q, want %s", line, want)
			}
			if line[3] == ' ' {
				break
			}
		}
	}
}

func (c *talker) hearEnd() {
	c.t.Helper()
	if rest, err := io.ReadAll(c.r); err != nil || len(rest) > 0 {
		c.t.Fatalf("got %q, %v; want the end", rest, err)
	}
}

var openMessage = []string{"MAIL FROM:<a@client.test>", "RCPT TO:<b@mx.test>", "DATA"}

// countingConn counts what is written and in how many writes.
type countingConn struct {
	net.Conn
	writes *atomic.Int32
}

func (c countingConn) Write(p []byte) (int, error) {
	c.writes.Add(1)
	return c.Conn.Write(p)
}

type countingListener struct {
	net.Listener
	writes *atomic.Int32
}

func (l countingListener) Accept() (net.Conn, error) {
	conn, err := l.Listener.Accept()
	return countingConn{conn, l.writes}, err
}

// TestRepliesLeaveTogether: a pipelined group costs one write, and so does the
// reply to EHLO.
func TestRepliesLeaveTogether(t *testing.T) {
	t.Parallel()
	var writes atomic.Int32
	synctest.Test(t, func(t *testing.T) {
		l := smtptest.NewListener()
		_, stop := startServer(t, ServerConfig{}, &fakeHandler{}, countingListener{l, &writes})
		conn, err := l.Dial()
		c := talkTo(t, conn, err)
		c.hear("220")
		c.say("EHLO client.test")
		c.hear("250")
		writes.Store(0)
		group := []string{"MAIL FROM:<a@client.test>"}
		wants := []string{"250"}
		for i := range 50 {
			group = append(group, fmt.Sprintf("RCPT TO:<b%d@mx.test>", i))
			wants = append(wants, "250")
		}
		c.say(append(group, "DATA")...)
		c.hear(append(wants, "354")...)
		if n := writes.Load(); n != 1 {
			t.Errorf("52 replies left in %d writes", n)
		}
		c.Close()
		stop()
	})
}

// TestDisconnects: a client that leaves, at any octet of a dialogue, leaves a
// whole message or none, no open transaction and no session.
func TestDisconnects(t *testing.T) {
	t.Parallel()
	dialogue := strings.Join([]string{
		"EHLO client.test", "MAIL FROM:<a@client.test>", "RCPT TO:<b@mx.test>", "DATA", "text", ".",
		"MAIL FROM:<a@client.test>", "RCPT TO:<b@mx.test>", "BDAT 3", "abcBDAT 3 LAST", "defQUIT", "",
	}, "\r\n")
	synctest.Test(t, func(t *testing.T) {
		h := &fakeHandler{}
		l := smtptest.NewListener()
		// Tolerating, so that the dialogue can be sent in one piece.
		server, stop := startServer(t, ServerConfig{Pipelining: PipeliningTolerate}, h, l)
		for cut := range len(dialogue) + 1 {
			h.mu.Lock()
			h.events, h.bodies = nil, nil
			h.mu.Unlock()
			conn, err := l.Dial()
			check(t, err)
			go io.Copy(io.Discard, conn)
			// The server may be the one to close, at the end.
			_, _ = io.WriteString(conn, dialogue[:cut])
			synctest.Wait()
			conn.Close()
			synctest.Wait()
			events := h.seen()
			begun := strings.Count(events, "mail ")
			ended := strings.Count(events, "abort\n") + strings.Count(events, "content ")
			if begun != ended || strings.Count(events, "close ") != 1 || server.Stats().Sessions != 0 {
				t.Fatalf("cut at %d: %d sessions left after\n%s", cut, server.Stats().Sessions, events)
			}
			for i, body := range h.messages() {
				if want := []string{"text\r\n", "abcdef\r\n"}[i]; body != want {
					t.Fatalf("cut at %d: message %q", cut, body)
				}
			}
		}
		stop()
	})
}

// TestClientGoneAfterFinalDot: what was received whole is committed, on a
// context that does not end with the client.
func TestClientGoneAfterFinalDot(t *testing.T) {
	t.Parallel()
	received, left, done := make(chan struct{}), make(chan struct{}), make(chan error, 1)
	h := &fakeHandler{content: func(ctx context.Context, r io.Reader, _ []mail.Address) ([]status.Reply, error) {
		_, err := io.Copy(io.Discard, r)
		close(received)
		<-left
		done <- errors.Join(err, ctx.Err())
		return []status.Reply{status.MessageAccepted.Reply()}, nil
	}}
	_, address, stop := startLoopback(t, ServerConfig{}, h)
	c := dialTalker(t, address)
	c.hear("220")
	c.say("EHLO client.test")
	c.hear("250")
	c.say(openMessage...)
	c.hear("250", "250", "354")
	c.say("text", ".")
	<-received
	c.Close()
	close(left)
	if err := <-done; err != nil {
		t.Errorf("commit: %v", err)
	}
	stop()
}

// TestShutdown: at the end of the context idle sessions get 421 at once, a
// message under way gets its time, and Serve waits.
func TestShutdown(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		h := &fakeHandler{}
		l := smtptest.NewListener()
		_, stop := startServer(t, ServerConfig{Grace: 30 * time.Second}, h, l)
		open := func() *talker {
			conn, err := l.Dial()
			c := talkTo(t, conn, err)
			c.hear("220")
			c.say("EHLO client.test")
			c.hear("250")
			return c
		}
		idle, sending, chunking := open(), open(), open()
		sending.say(openMessage...)
		sending.hear("250", "250", "354")
		sending.say("half")
		chunking.say(openMessage[0], openMessage[1], "BDAT 6", "half")
		chunking.hear("250", "250", "250")
		stopped := make(chan struct{})
		go func() { stop(); close(stopped) }()
		idle.hear("421")
		idle.hearEnd()
		synctest.Wait()
		select {
		case <-stopped:
			t.Fatal("Serve did not wait for the messages")
		default:
		}
		if _, err := l.Dial(); err == nil {
			t.Error("still accepting")
		}
		sending.say("more", ".")
		sending.hear("250", "421")
		sending.hearEnd()
		chunking.say("BDAT 6 LAST", "rest")
		chunking.hear("250", "421")
		chunking.hearEnd()
		<-stopped
		if got := h.messages(); len(got) != 2 {
			t.Errorf("%d messages", len(got))
		}
	})
}

// TestShutdownGraceEnds: who takes longer than the grace time is told to come
// again.
func TestShutdownGraceEnds(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		h := &fakeHandler{}
		l := smtptest.NewListener()
		_, stop := startServer(t, ServerConfig{Grace: 30 * time.Second}, h, l)
		conn, err := l.Dial()
		c := talkTo(t, conn, err)
		c.hear("220")
		c.say("EHLO client.test")
		c.hear("250")
		c.say(openMessage...)
		c.hear("250", "250", "354")
		c.say("half")
		check(t, conn.SetDeadline(time.Time{}))
		begun := time.Now()
		stopped := make(chan time.Duration)
		go func() { stop(); stopped <- time.Since(begun) }()
		c.hear("421")
		c.hearEnd()
		if took := <-stopped; took != 30*time.Second {
			t.Errorf("shutdown took %v", took)
		}
		if len(h.messages()) != 0 || !strings.Contains(h.seen(), "content failed") {
			t.Errorf("handler saw\n%s", h.seen())
		}
	})
}

// TestShutdownWhileAHandlerWaits: a message that nobody decided upon within the
// grace time gets the handler's reply, and the session its 421. Who does not
// read them is not waited for.
func TestShutdownWhileAHandlerWaits(t *testing.T) {
	t.Parallel()
	for _, deaf := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			h := &fakeHandler{content: func(ctx context.Context, r io.Reader, _ []mail.Address) ([]status.Reply, error) {
				if _, err := io.Copy(io.Discard, r); err != nil {
					return nil, err
				}
				<-ctx.Done()
				return nil, status.New(status.FilterDown, ctx.Err())
			}}
			l := smtptest.NewListener()
			_, stop := startServer(t, ServerConfig{Grace: 30 * time.Second}, h, l)
			conn, err := l.Dial()
			c := talkTo(t, conn, err)
			c.hear("220")
			c.say("EHLO client.test")
			c.hear("250")
			c.say(openMessage...)
			c.hear("250", "250", "354")
			c.say("text", ".")
			check(t, conn.SetDeadline(time.Time{}))
			begun, most := time.Now(), 30*time.Second
			stopped := make(chan time.Duration)
			go func() { stop(); stopped <- time.Since(begun) }()
			if deaf {
				most += farewell
			} else {
				c.hear("451", "421")
				c.hearEnd()
			}
			if took := <-stopped; took != most {
				t.Errorf("shutdown took %v, want %v", took, most)
			}
		})
	}
}

// TestConnectionLimits: one client's share and the whole are bounded, what is
// given back can be taken again, and exempt networks are only part of the
// whole.
func TestConnectionLimits(t *testing.T) {
	t.Parallel()
	server, address, _ := startLoopback(t, ServerConfig{MaxSessionsPerClient: 2}, &fakeHandler{})
	first, second := dialTalker(t, address), dialTalker(t, address)
	first.hear("220")
	second.hear("220")
	third := dialTalker(t, address)
	third.hear("421 4.7.0")
	third.hearEnd()
	if got := server.Stats(); got.Sessions != 2 || got.Accepted != 2 || got.Refused != 1 {
		t.Errorf("stats %+v", got)
	}
	first.say("QUIT")
	first.hear("221")
	first.hearEnd()
	awaitSessions(t, server, 1)
	dialTalker(t, address).hear("220")

	exempt := []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}
	check(t, server.Reconfigure(ServerConfig{Hostname: "mx.test", MaxSessionsPerClient: 2, MaxSessions: 3, ExemptClients: exempt}, &fakeHandler{}))
	dialTalker(t, address).hear("220")
	dialTalker(t, address).hear("421 4.7.0")
}

func awaitSessions(t *testing.T, s *Server, want int) {
	t.Helper()
	deadline := time.After(time.Minute)
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for s.Stats().Sessions != want {
		select {
		case <-tick.C:
		case <-deadline:
			t.Fatalf("%d sessions, want %d", s.Stats().Sessions, want)
		}
	}
}

func TestClientNetwork(t *testing.T) {
	t.Parallel()
	set := testSettings(t, ServerConfig{ExemptClients: []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")}})
	for _, row := range []struct{ addr, want string }{
		{"192.0.2.1", "192.0.2.1/32"},
		{"::ffff:192.0.2.1", "192.0.2.1/32"},
		{"2001:db8:1:2:3::4", "2001:db8:1:2::/64"},
		{"fe80::1%eth0", "fe80::/64"},
		{"10.1.2.3", "invalid Prefix"},
		{"::ffff:10.1.2.3", "invalid Prefix"},
	} {
		if got := set.clientNetwork(netip.MustParseAddr(row.addr)).String(); got != row.want {
			t.Errorf("%s: got %s, want %s", row.addr, got, row.want)
		}
	}
	if set.clientNetwork(netip.Addr{}).IsValid() {
		t.Error("no address has a network")
	}
}

// TestReconfigure: sessions keep the settings they began with, new ones get
// the new, and a wrong configuration changes nothing.
func TestReconfigure(t *testing.T) {
	t.Parallel()
	before, after := &fakeHandler{}, &fakeHandler{}
	server, address, stop := startLoopback(t, ServerConfig{MaxMessageOctets: 1000}, before)
	old := dialTalker(t, address)
	old.hear("220")
	if err := server.Reconfigure(ServerConfig{}, after); err == nil {
		t.Error("a configuration without a hostname was taken")
	}
	check(t, server.Reconfigure(ServerConfig{Hostname: "new.test", MaxMessageOctets: 10}, after))
	young := dialTalker(t, address)
	young.hear("220 new.test")
	for c, want := range map[*talker]string{old: "250", young: "552"} {
		c.say("EHLO client.test")
		c.hear("250")
		c.say("MAIL FROM:<a@client.test> SIZE=100")
		c.hear(want)
		c.say("QUIT")
		c.hear("221")
	}
	stop()
	if !strings.Contains(before.seen(), "mail <a@client.test>") || strings.Contains(after.seen(), "mail ") {
		t.Error("a session asked the wrong handler")
	}
}

// TestPanicEndsOneSession: the others and the server go on.
func TestPanicEndsOneSession(t *testing.T) {
	t.Parallel()
	_, address, _ := startLoopback(t, ServerConfig{Mode: ModeSubmission, AllowInsecureAuth: true}, &fakeHandler{})
	other := dialTalker(t, address)
	other.hear("220")
	bad := dialTalker(t, address)
	bad.hear("220")
	bad.say("EHLO client.test")
	bad.hear("250")
	bad.say("AUTH PLAIN AHBhbmljAHNlY3JldA==")
	bad.hear("421")
	bad.hearEnd()
	other.say("NOOP")
	other.hear("250")
}

// TestLastReplyIsRead: a session that ends with input unread still gets its
// last reply across a real connection.
func TestLastReplyIsRead(t *testing.T) {
	t.Parallel()
	_, address, _ := startLoopback(t, ServerConfig{}, &fakeHandler{})
	c := dialTalker(t, address)
	c.hear("220")
	c.say("GET / HTTP/1.1", strings.Repeat("Header: value\r\n", 1000))
	c.hear("521")
	c.hearEnd()
}

// TestEarlyTalkerInKernel: input that waits in the kernel when the greeting
// is due is noticed without having been read.
func TestEarlyTalkerInKernel(t *testing.T) {
	t.Parallel()
	talked := make(chan struct{})
	cfg := ServerConfig{LookupHostname: func(context.Context, netip.Addr) mail.ClientName {
		<-talked
		return mail.ClientName{Hostname: "client.test", Reverse: "client.test", Naming: mail.NameVerified}
	}}
	_, address, _ := startLoopback(t, cfg, &fakeHandler{})
	c := dialTalker(t, address)
	c.say("EHLO client.test")
	close(talked)
	c.hear("554 5.5.0")
	c.hearEnd()
}

// TestSlowReaderIsDropped: a client that does not take its replies is not
// waited for without end.
func TestSlowReaderIsDropped(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		h := &fakeHandler{}
		l := smtptest.NewListener()
		server, stop := startServer(t, ServerConfig{WriteTimeout: time.Minute}, h, l)
		conn, err := l.Dial() // and never read
		check(t, err)
		time.Sleep(time.Minute) // synthetic
		synctest.Wait()
		if n := server.Stats().Sessions; n != 0 {
			t.Errorf("%d sessions", n)
		}
		conn.Close()
		stop()
	})
}

// TestManySessions holds sessions from many clients at once.
func TestManySessions(t *testing.T) {
	t.Parallel()
	h := &fakeHandler{}
	_, address, stop := startLoopback(t, ServerConfig{}, h)
	var wg sync.WaitGroup
	for range 20 {
		wg.Go(func() {
			c := dialTalker(t, address)
			c.hear("220")
			c.say("EHLO client.test")
			c.hear("250")
			for range 5 {
				c.say(openMessage...)
				c.hear("250", "250", "354")
				c.say("text", ".")
				c.hear("250")
			}
			c.say("QUIT")
			c.hear("221")
			c.hearEnd()
		})
	}
	wg.Wait()
	stop()
	if n := len(h.messages()); n != 100 {
		t.Errorf("%d messages", n)
	}
}

func TestServerConfigMistakes(t *testing.T) {
	t.Parallel()
	_, err := NewServer(ServerConfig{
		Name: "mx", Mode: 7, Hostname: "a b", Greeting: "a\r\nb", ImplicitTLS: true, MaxLineOctets: 100, BareNewline: 9,
		Pipelining: 9, DiscardEHLO: []string{"ETRN"},
	}, &fakeHandler{}, nil)
	if err == nil {
		t.Fatal("taken")
	}
	for _, part := range []string{"mx", "mode", "hostname", "greeting", "TLS", "MaxLineOctets", "newline", "pipelining", "ETRN"} {
		if !strings.Contains(err.Error(), part) {
			t.Errorf("%q is not in %v", part, err)
		}
	}
	if _, err := NewServer(ServerConfig{Hostname: "mx.test"}, nil, nil); err == nil {
		t.Error("no handler, no error")
	}
}

// TestListenerFails: Serve ends with the listener's error, after its sessions.
func TestListenerFails(t *testing.T) {
	t.Parallel()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	check(t, err)
	server, err := NewServer(ServerConfig{Hostname: "mx.test"}, &fakeHandler{}, nil)
	check(t, err)
	done := make(chan error, 1)
	go func() { done <- server.Serve(t.Context(), l) }()
	c := dialTalker(t, l.Addr().String())
	c.hear("220")
	check(t, l.Close())
	c.hear("421")
	if err := <-done; !errors.Is(err, net.ErrClosed) {
		t.Errorf("Serve: %v", err)
	}
}

// BenchmarkSession measures a session with one small message over loopback.
func BenchmarkSession(b *testing.B) {
	h := &fakeHandler{content: func(_ context.Context, r io.Reader, _ []mail.Address) ([]status.Reply, error) {
		_, err := io.Copy(io.Discard, r)
		return []status.Reply{status.MessageAccepted.Reply()}, err
	}}
	_, address, _ := startLoopback(b, ServerConfig{}, h)
	text := strings.Repeat(strings.Repeat("x", 76)+"\r\n", 50)
	b.ReportAllocs()
	for b.Loop() {
		c := dialTalker(b, address)
		c.hear("220")
		c.say("EHLO client.test")
		c.hear("250")
		c.say(openMessage...)
		c.hear("250", "250", "354")
		c.say(text + ".\r\nQUIT")
		c.hear("250", "221")
		c.Close()
	}
}

// BenchmarkMessage measures a message of 4 kB within a session.
func BenchmarkMessage(b *testing.B) {
	h := &fakeHandler{content: func(_ context.Context, r io.Reader, _ []mail.Address) ([]status.Reply, error) {
		_, err := io.Copy(io.Discard, r)
		return []status.Reply{status.MessageAccepted.Reply()}, err
	}}
	_, address, _ := startLoopback(b, ServerConfig{}, h)
	text := strings.Repeat(strings.Repeat("x", 76)+"\r\n", 50)
	c := dialTalker(b, address)
	c.hear("220")
	c.say("EHLO client.test")
	c.hear("250")
	b.ReportAllocs()
	for b.Loop() {
		c.say(openMessage...)
		c.hear("250", "250", "354")
		c.say(text + ".")
		c.hear("250")
	}
}
