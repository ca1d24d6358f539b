package smtp

import (
	"bytes"
	"fmt"
	"io"
	"net"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/postern-mail/postern/internal/smtptest"
	"github.com/postern-mail/postern/mail"
)

// countdown lets a number of each event through.
type countdown struct {
	mu   sync.Mutex
	left [mail.ClientEvents]int
	asks []netip.Addr
}

func (c *countdown) Take(event mail.ClientEvent, client netip.Addr) mail.Pace {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.asks = append(c.asks, client)
	if c.left[event]--; c.left[event] >= 0 {
		return mail.Pace{}
	}
	return mail.Pace{Over: true, Wait: 22*time.Second + time.Millisecond, Unit: time.Minute, Count: 7, First: c.left[event] == -1}
}

// allow lets everything through but what is named, of which so many.
func allow(only map[mail.ClientEvent]int) *countdown {
	c := &countdown{}
	for e := range mail.ClientEvents {
		c.left[e] = 1000
		if n, ok := only[e]; ok {
			c.left[e] = n
		}
	}
	return c
}

// TestRatesAreAnswered: each kind of event has Postfix's code and words, and
// says when to come back; the log has Postfix's line once.
func TestRatesAreAnswered(t *testing.T) {
	t.Parallel()
	serverTLS, _ := testTLS(t)
	for _, row := range []struct {
		event mail.ClientEvent
		says  []string // after EHLO
		want  []string
		log   string
	}{
		{mail.ClientSendsMessage, []string{"MAIL FROM:<a@client.test>"}, []string{"450 4.7.1 Error: too much mail from 127.0.0.1; try again in 23 seconds\r\n"},
			"Message delivery request rate limit exceeded: 7 from unknown[127.0.0.1] for service mx"},
		{mail.ClientNamesRecipient, []string{"MAIL FROM:<a@client.test>", "RCPT TO:<b@mx.test>"}, []string{"250", "450 4.7.1 Error: too many recipients from 127.0.0.1; try again in 23 seconds\r\n"},
			"Recipient address rate limit exceeded: 7 from unknown[127.0.0.1] for service mx"},
		{mail.ClientAuthenticates, []string{"AUTH PLAIN AGEAc2VjcmV0"}, []string{"450 4.7.1 Error: too many AUTH commands from 127.0.0.1; try again in 23 seconds\r\n"},
			"AUTH command rate limit exceeded: 7 from unknown[127.0.0.1] for service mx"},
		{mail.ClientStartsTLS, []string{"STARTTLS"}, []string{"454 4.7.0 Error: too many new TLS sessions from 127.0.0.1; try again in 23 seconds\r\n"},
			"New TLS session rate limit exceeded: 7 from unknown[127.0.0.1] for service mx"},
		{mail.ClientConnects, nil, []string{"421 4.7.0 Error: too many connections from 127.0.0.1; try again in 23 seconds\r\n"},
			"Connection rate limit exceeded: 7 from unknown[127.0.0.1] for service mx"},
	} {
		t.Run(row.event.String(), func(t *testing.T) {
			t.Parallel()
			var out syncBuffer
			log := hclog.New(&hclog.LoggerOptions{Output: &out, Level: hclog.Info})
			cfg := ServerConfig{Name: "mx", Hostname: "mx.test", TLS: serverTLS, AllowInsecureAuth: true, Rates: allow(map[mail.ClientEvent]int{row.event: 0})}
			var notices notices
			cfg.Noticed = notices.add
			address := serveLogged(t, cfg, log)
			for range 2 {
				c := dialTalker(t, address)
				if row.event != mail.ClientConnects {
					c.hear("220")
					c.say("EHLO client.test")
					c.hear("250")
					c.say(row.says...)
				}
				c.hear(row.want...)
				if row.event == mail.ClientConnects {
					c.hearEnd()
					continue
				}
				c.say("QUIT") // the session goes on
				c.hear("221")
			}
			if n := strings.Count(out.String(), row.log); n != 1 {
				t.Errorf("%d lines in\n%s", n, out.String())
			}
			words, _, _ := strings.Cut(row.log, ":")
			if got, want := notices.String(), "limit refused mx 127.0.0.1 7 "+words+"\n"; got != want {
				t.Errorf("noticed %q, want %q", got, want)
			}
		})
	}
}

// notices are what an audit would be told.
type notices struct {
	mu  sync.Mutex
	all []mail.Event
}

func (n *notices) add(e mail.Event) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.all = append(n.all, e)
}

func (n *notices) String() string {
	n.mu.Lock()
	defer n.mu.Unlock()
	var b strings.Builder
	for _, e := range n.all {
		fmt.Fprintf(&b, "%s %s %s %s %d %s\n", e.Kind, e.Result, e.Service, e.Remote.Addr(), e.Count, e.Detail)
	}
	return b.String()
}

// TestCrowdIsNoticed: a client with too many sessions is told of, once in a
// while; that the server is full is nobody's doing.
func TestCrowdIsNoticed(t *testing.T) {
	t.Parallel()
	for _, row := range []struct {
		cfg  ServerConfig
		want string
	}{
		{ServerConfig{MaxSessionsPerClient: 1}, "limit refused mx 127.0.0.1 2 Connection concurrency limit exceeded\n"},
		{ServerConfig{MaxSessions: 1}, ""},
	} {
		var notices notices
		row.cfg.Name, row.cfg.Noticed = "mx", notices.add
		_, address, stop := startLoopback(t, row.cfg, &fakeHandler{})
		dialTalker(t, address).hear("220")
		for range 2 {
			dialTalker(t, address).hear("421")
		}
		stop()
		if got := notices.String(); got != row.want {
			t.Errorf("noticed %q, want %q", got, row.want)
		}
	}
}

// TestImplicitTLSRate: before the handshake nothing can be said.
func TestImplicitTLSRate(t *testing.T) {
	t.Parallel()
	serverTLS, _ := testTLS(t)
	_, address, _ := startLoopback(t, ServerConfig{TLS: serverTLS, ImplicitTLS: true, Rates: allow(map[mail.ClientEvent]int{mail.ClientStartsTLS: 0})}, &fakeHandler{})
	dialTalker(t, address).hearEnd()
}

// TestExemptClientsAreNotCounted: neither for what they do nor for how many
// they are.
func TestExemptClientsAreNotCounted(t *testing.T) {
	t.Parallel()
	rates := allow(map[mail.ClientEvent]int{mail.ClientConnects: 0, mail.ClientSendsMessage: 0})
	_, address, _ := startLoopback(t, ServerConfig{Rates: rates, ExemptClients: []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}}, &fakeHandler{})
	c := dialTalker(t, address)
	c.hear("220")
	c.say("EHLO client.test")
	c.hear("250")
	c.say(openMessage...)
	c.hear("250", "250", "354")
	if len(rates.asks) > 0 {
		t.Errorf("asked about %v", rates.asks)
	}
}

// TestSlowMessage: one that comes slower than min_data_rate ends, whatever its
// pieces are; one that comes fast enough may take its time.
func TestSlowMessage(t *testing.T) {
	t.Parallel()
	for _, row := range []struct {
		name  string
		piece int
		every time.Duration
		ends  bool
	}{
		{"an octet at a time", 1, 50 * time.Second, true},
		{"somewhat too slow", 4000, 10 * time.Second, true},
		{"fast enough", 6000, 10 * time.Second, false},
	} {
		t.Run(row.name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				l := smtptest.NewListener()
				_, stop := startServer(t, ServerConfig{MinDataRate: 500, BlockTimeout: time.Minute, MessageTimeout: 24 * time.Hour}, &fakeHandler{}, l)
				conn, err := l.Dial()
				c := talkTo(t, conn, err)
				check(t, conn.SetDeadline(time.Time{}))
				c.hear("220")
				c.say("EHLO client.test")
				c.hear("250")
				c.say(openMessage...)
				c.hear("250", "250", "354")
				began := time.Now()
				ended := make(chan struct{})
				go func() {
					defer close(ended)
					for range 100 {
						if _, err := c.Write(bytes.Repeat([]byte("x"), row.piece)); err != nil {
							return
						}
						time.Sleep(row.every)
					}
					_, _ = io.WriteString(c, "\r\n.\r\n")
				}()
				if row.ends {
					c.hear("421 4.4.2")
					if took := time.Since(began); took > 10*time.Minute {
						t.Errorf("it took %v", took)
					}
				} else {
					c.hear("250")
				}
				c.Close()
				<-ended
				stop()
			})
		})
	}
}

// TestStress: a server that is nearly full waits less long, for those who are
// idle already too, and is strict; with fewer clients it is as before.
func TestStress(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		l := smtptest.NewListener()
		server, stop := startServer(t, ServerConfig{MaxSessions: 10, Stress: 50, StressTimeout: 10 * time.Second, ErrorDelay: -1}, &fakeHandler{}, l)
		open := func() *talker {
			conn, err := l.Dial()
			c := talkTo(t, conn, err)
			check(t, conn.SetDeadline(time.Time{}))
			c.hear("220")
			return c
		}
		var clients []*talker
		for range 4 {
			clients = append(clients, open())
		}
		time.Sleep(4 * time.Minute)
		if server.Stats().Stressed {
			t.Fatal("under stress with four of ten")
		}
		for _, c := range clients {
			for range 3 { // junk is free
				c.say("NOOP")
				c.hear("250")
			}
		}
		strict := open()
		synctest.Wait()
		if !server.Stats().Stressed {
			t.Fatal("no stress with five of ten")
		}
		strict.say("MUMBLE")
		strict.hear("500")
		strict.say("MUMBLE")
		strict.hear("421 4.7.0")
		strict.hearEnd()
		began := time.Now()
		for _, c := range clients {
			c.hear("421 4.4.2")
			c.hearEnd()
		}
		if took := time.Since(began); took > 10*time.Second {
			t.Errorf("idle clients were waited for %v", took)
		}
		synctest.Wait()
		if stats := server.Stats(); stats.Stressed || stats.Sessions != 0 {
			t.Errorf("%+v after they went", stats)
		}
		c := open()
		for range 3 {
			c.say("MUMBLE")
			c.hear("500")
		}
		c.Close()
		stop()
	})
}

// TestTarpitHoldsNoBuffers: a client that is made to wait costs a connection,
// and no memory it sends into.
func TestTarpitHoldsNoBuffers(t *testing.T) {
	t.Parallel()
	w := newWire(nopConn{}, time.Second)
	w.enlarge()
	w.rest()
	if w.small != nil || w.large != nil || w.in != nil {
		t.Error("a buffer is held")
	}
	w.wake()
	w.w = copy(w.in, "NOOP\r\n")
	w.rest() // what was sent already is kept
	w.wake()
	if got := string(w.unread()); got != "NOOP\r\n" {
		t.Errorf("kept %q", got)
	}
	w.enlarge()
	w.rest()
	if w.large != nil || string(w.unread()) != "NOOP\r\n" {
		t.Errorf("kept %q", w.unread())
	}
	w.wake()
	w.release()
}

type nopConn struct{ net.Conn }

// TestPipelinedIntoTarpit: commands that wait while the session does are all
// answered afterwards.
func TestPipelinedIntoTarpit(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		l := smtptest.NewListener()
		_, stop := startServer(t, ServerConfig{SoftErrors: 1, HardErrors: 1000, ErrorDelay: 2 * time.Second, Pipelining: PipeliningTolerate}, &fakeHandler{}, l)
		conn, err := l.Dial()
		c := talkTo(t, conn, err)
		check(t, conn.SetDeadline(time.Time{}))
		c.hear("220")
		began := time.Now()
		go io.WriteString(c, strings.Repeat("MUMBLE\r\n", 1000)+"NOOP\r\n")
		for range 1000 {
			c.hear("500")
		}
		c.hear("250")
		if took := time.Since(began); took != 999*2*time.Second {
			t.Errorf("it took %v", took)
		}
		c.Close()
		stop()
	})
}

// TestConfiguredCommands: noop_commands and forbidden_commands.
func TestConfiguredCommands(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		l := smtptest.NewListener()
		_, stop := startServer(t, ServerConfig{Noop: []string{"xping", "ETRN"}, Forbidden: []string{"PROPFIND"}}, &fakeHandler{}, l)
		open := func() *talker {
			conn, err := l.Dial()
			c := talkTo(t, conn, err)
			c.hear("220")
			return c
		}
		c := open()
		c.say("XPing please")
		c.hear("250")
		c.say("etrn x")
		c.hear("250")
		c.say("GET / HTTP/1.1") // no longer forbidden
		c.hear("500")
		c.say("propfind / HTTP/1.1")
		c.hear("521")
		c.hearEnd()
		c = open()
		c.say("{\"method\": \"x\"}")
		c.hear("521")
		c.hearEnd()
		stop()
	})
	for _, verb := range []string{"", "NO-OP", "SEVENTEENLETTERSX", "ÄTRN"} {
		if _, err := NewServer(ServerConfig{Hostname: "mx.test", Noop: []string{verb}}, &fakeHandler{}, nil); err == nil {
			t.Errorf("command %q was taken", verb)
		}
	}
}

// syncBuffer is a buffer that a logger and a test share.
type syncBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (b *syncBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *syncBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}

// serveLogged serves on the loopback interface with a logger.
func serveLogged(t *testing.T, cfg ServerConfig, log hclog.Logger) (address string) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	check(t, err)
	server, err := NewServer(cfg, &fakeHandler{}, log)
	check(t, err)
	done := make(chan error, 1)
	go func() { done <- server.Serve(t.Context(), l) }()
	t.Cleanup(func() {
		if err := <-done; err != nil {
			t.Error(fmt.Errorf("serve: %w", err))
		}
	})
	return l.Addr().String()
}
