package sessions

import (
	"bufio"
	"context"
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

	"github.com/postern-mail/postern/mail"
)

type recorder struct {
	mu     sync.Mutex
	events []mail.Event
}

func (r *recorder) Record(e mail.Event) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.events = append(r.events, e)
}

// toy is a protocol of one-word lines: "as NAME" logs in, "work" is a command
// that lasts until the context ends or the connection breaks, anything else is
// answered with itself.
type toy struct{ registry *Registry }

func (p toy) serve(ctx context.Context, s *Session) string {
	r := bufio.NewReader(s.Conn())
	for {
		on, err := s.Wait(time.Now().Add(time.Hour))
		if !on {
			return p.bye(s)
		}
		if err != nil {
			return err.Error()
		}
		line, err := r.ReadString('\n')
		s.Resume()
		select {
		case <-s.Ending():
			return p.bye(s)
		default:
		}
		if err != nil {
			return "gone"
		}
		line = strings.TrimSpace(line)
		s.Begin(line)
		if name, ok := strings.CutPrefix(line, "as "); ok {
			if !s.Login(name) {
				_, _ = io.WriteString(s.Conn(), "too many\n")
				continue
			}
			s.LoggedIn(name, name)
		}
		if line == "work" {
			_, _ = io.WriteString(s.Conn(), "working\n")
			closed := make(chan struct{})
			go func() {
				_ = s.Conn().SetReadDeadline(time.Time{})
				_, _ = r.ReadByte()
				close(closed)
			}()
			select {
			case <-ctx.Done():
				return "cut"
			case <-closed:
				return "broken"
			}
		}
		_, _ = io.WriteString(s.Conn(), line+"\n")
	}
}

func (toy) bye(s *Session) string {
	words := map[Reason]string{Shutdown: "shutdown", Drained: "drained", Disabled: "disabled", Kicked: "kicked"}
	_, _ = io.WriteString(s.Conn(), words[s.Why()]+"\n")
	return words[s.Why()]
}

func newDoor(r *Registry, name string, cfg Config) (*Door, *recorder) {
	audit := &recorder{}
	d := NewDoor(r, Protocol{Name: name, Serve: toy{r}.serve, TurnAway: func(c net.Conn) { _, _ = io.WriteString(c, "full\n") }}, audit, hclog.NewNullLogger())
	d.Configure(cfg)
	return d, audit
}

func unlimited() Config {
	return Config{Listener: "door", MaxSessions: 1000, MaxPerClient: -1, MaxPerAccount: -1, Grace: time.Minute}
}

// from is a connection that says where it comes from.
type from struct {
	net.Conn
	remote net.Addr
}

func (f from) RemoteAddr() net.Addr { return f.remote }

type client struct {
	t    *testing.T
	conn net.Conn
	r    *bufio.Reader
}

// connect opens a session at a door, from an address.
func connect(t *testing.T, d *Door, remote string) *client {
	near, far := net.Pipe()
	var conn net.Conn = far
	if remote != "" {
		conn = from{far, net.TCPAddrFromAddrPort(netip.AddrPortFrom(netip.MustParseAddr(remote), 4711))}
	}
	go d.ServeConn(context.Background(), conn)
	t.Cleanup(func() { _ = near.Close() })
	return &client{t, near, bufio.NewReader(near)}
}

func (c *client) say(line string) string {
	if _, err := io.WriteString(c.conn, line+"\n"); err != nil {
		return err.Error()
	}
	return c.hear()
}

func (c *client) hear() string {
	line, err := c.r.ReadString('\n')
	if err != nil {
		return "gone"
	}
	return strings.TrimSpace(line)
}

func TestLimits(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := NewRegistry()
		cfg := unlimited()
		cfg.MaxPerClient, cfg.MaxPerAccount, cfg.Proxies = 2, 2, []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")}
		plain, _ := newDoor(r, "imap", cfg)
		tls, _ := newDoor(r, "imap", cfg)
		other, _ := newDoor(r, "pop3", cfg)
		for _, tt := range []struct {
			door   *Door
			remote string
			want   string
		}{
			{plain, "192.0.2.1", "x"}, {tls, "192.0.2.1", "x"}, {plain, "192.0.2.1", "full"}, {tls, "::ffff:192.0.2.1", "full"},
			{other, "192.0.2.1", "x"}, {plain, "192.0.2.2", "x"},
			{plain, "2001:db8:1:2::1", "x"}, {tls, "2001:db8:1:2:9::", "x"}, {plain, "2001:db8:1:2:ffff::", "full"}, {plain, "2001:db8:1:3::", "x"},
			{plain, "10.1.1.1", "x"}, {plain, "10.1.1.1", "x"}, {plain, "10.1.1.1", "x"}, // many clients'
			{plain, "", "x"}, {plain, "", "x"}, {plain, "", "x"}, // unix sockets
		} {
			c := connect(t, tt.door, tt.remote)
			got := ""
			if tt.want == "full" {
				got = c.hear()
			} else {
				got = c.say("x")
			}
			if got != tt.want {
				t.Errorf("from %q: %q, want %q", tt.remote, got, tt.want)
			}
		}
		a, b, c := connect(t, plain, ""), connect(t, tls, ""), connect(t, plain, "")
		for _, one := range []*client{a, b} {
			if got := one.say("as alice"); got != "as alice" {
				t.Error(got)
			}
		}
		if got := c.say("as alice"); got != "too many" {
			t.Errorf("the third of an account: %q", got)
		}
		if got := c.say("as bob"); got != "as bob" {
			t.Errorf("another account: %q", got)
		}
		if got := c.say("as alice"); got != "too many" {
			t.Errorf("again: %q", got)
		}
		_ = a.conn.Close()
		synctest.Wait()
		if got := c.say("as alice"); got != "as alice" {
			t.Errorf("after one went: %q", got)
		}
	})
	// Everything is given back: nothing is left of any count.
	synctest.Test(t, func(t *testing.T) {
		r := NewRegistry()
		cfg := unlimited()
		cfg.MaxSessions = 1
		d, _ := newDoor(r, "imap", cfg)
		c := connect(t, d, "192.0.2.1")
		c.say("as alice")
		if got := connect(t, d, "192.0.2.2").hear(); got != "full" {
			t.Errorf("over max sessions: %q", got)
		}
		_ = c.conn.Close()
		synctest.Wait()
		if len(r.sessions)+len(r.clients)+len(r.accounts) > 0 || d.Sessions() != 0 {
			t.Errorf("left behind: %v %v %v", r.sessions, r.clients, r.accounts)
		}
	})
}

// A proxy's session counts for the client it speaks for, from then on.
func TestBehalf(t *testing.T) {
	t.Parallel()
	r := NewRegistry()
	cfg := unlimited()
	cfg.MaxPerClient, cfg.Proxies = 1, []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")}
	d, _ := newDoor(r, "imap", cfg)
	g := new(group)
	open := func() *Session {
		near, far := net.Pipe()
		t.Cleanup(func() { _ = near.Close() })
		s := newSession(d, &cfg, g, from{far, &net.TCPAddr{IP: net.IPv4(10, 0, 0, 1), Port: 1}}, func() {})
		if !r.enter(s) {
			t.Fatal("a proxy's connection was turned away")
		}
		return s
	}
	first, second := open(), open()
	client := netip.MustParseAddrPort("192.0.2.7:99")
	if !first.Behalf(client, "named") || second.Behalf(client, "") {
		t.Error("the client's limit does not hold behind a proxy")
	}
	if i := first.Info(); i.ID != "named" || i.Remote != client || i.Via.Addr().String() != "10.0.0.1" {
		t.Errorf("%+v", i)
	}
	r.leave(first)
	if !second.Behalf(client, "") {
		t.Error("a place is not given back")
	}
	if other := netip.MustParseAddrPort("192.0.2.8:99"); !second.Behalf(other, "") || !open().Behalf(client, "") {
		t.Error("a session counts for two clients")
	}
	for s := range r.sessions {
		r.leave(s)
	}
	if len(r.clients) > 0 {
		t.Error(r.clients)
	}
}

func TestKick(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := NewRegistry()
		d, audit := newDoor(r, "imap", unlimited())
		idle, busy, other := connect(t, d, "192.0.2.1"), connect(t, d, "192.0.2.1"), connect(t, d, "192.0.2.1")
		idle.say("as alice")
		busy.say("as alice")
		busy.say("work")
		other.say("as bob")
		kicked := r.Kick(func(i Info) bool { return i.Login == "alice" })
		if len(kicked) != 2 || kicked[0].Account != "alice" {
			t.Errorf("kicked %+v", kicked)
		}
		if again := r.Kick(func(i Info) bool { return i.Login == "alice" }); len(again) > 0 {
			t.Errorf("kicked again: %+v", again)
		}
		if got := idle.hear(); got != "kicked" {
			t.Errorf("one that waits hears %q", got)
		}
		started := time.Now()
		if got := busy.hear(); got != "gone" || time.Since(started) != kickPatience {
			t.Errorf("one that is busy hears %q after %s", got, time.Since(started))
		}
		synctest.Wait()
		if got := other.say("x"); got != "x" {
			t.Errorf("another hears %q", got)
		}
		causes := map[string]int{}
		for _, e := range audit.events {
			if e.Kind == mail.EventDisconnect {
				causes[e.Detail]++
			}
		}
		if causes["kicked"] != 1 || causes["broken"]+causes["cut"] != 1 {
			t.Errorf("audited %v", causes)
		}
	})
}

// A command that does not look at the connection is cut off as well; so is one
// of a session that was asked to go before, for another reason.
func TestKickOfSlow(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := NewRegistry()
		causes := make(chan string, 1)
		deaf := func(ctx context.Context, s *Session) string {
			s.Begin("work")
			<-ctx.Done()
			causes <- "cut"
			return "cut"
		}
		d := NewDoor(r, Protocol{Name: "imap", Serve: deaf}, &recorder{}, hclog.NewNullLogger())
		d.Configure(unlimited())
		connect(t, d, "")
		synctest.Wait()
		if left := d.Dismiss(1); left != 0 {
			t.Errorf("left %d", left)
		}
		everything := func(Info) bool { return true }
		if kicked := r.Kick(everything); len(kicked) != 1 {
			t.Errorf("kicked %+v", kicked)
		}
		if again := r.Kick(everything); len(again) > 0 {
			t.Errorf("kicked again: %+v", again)
		}
		time.Sleep(kickPatience)
		synctest.Wait()
		if len(causes) != 1 || d.Sessions() != 0 {
			t.Errorf("%d sessions are left", d.Sessions())
		}
	})
}

func TestDismissAndDisconnect(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := NewRegistry()
		d, _ := newDoor(r, "imap", unlimited())
		elsewhere, _ := newDoor(r, "imap", unlimited())
		var all []*client
		for range 3 {
			c := connect(t, d, "")
			c.say("as alice")
			all = append(all, c)
		}
		stays := connect(t, elsewhere, "")
		stays.say("as alice")
		if left := d.Dismiss(2); left != 1 {
			t.Errorf("left %d", left)
		}
		if left := d.Dismiss(2); left != 0 {
			t.Errorf("left %d", left)
		}
		for _, c := range all {
			if got := c.hear(); got != "drained" {
				t.Errorf("hears %q", got)
			}
		}
		if names := elsewhere.Accounts(); len(names) != 1 || names[0] != "alice" {
			t.Errorf("accounts %v", names)
		}
		if n := elsewhere.Disconnect("alice"); n != 1 {
			t.Errorf("%d were disconnected", n)
		}
		if got := stays.hear(); got != "disabled" {
			t.Errorf("hears %q", got)
		}
	})
}

func TestInfo(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := NewRegistry()
		d, _ := newDoor(r, "imap", unlimited())
		c := connect(t, d, "192.0.2.1")
		time.Sleep(time.Minute)
		if got := c.say("as alice"); got != "as alice" {
			t.Fatal(got)
		}
		time.Sleep(time.Hour / 2)
		list := r.List(func(Info) bool { return true })
		if len(list) != 1 {
			t.Fatal(list)
		}
		i := list[0]
		if i.Login != "alice" || i.State != Authenticated || i.Command != "as alice" || i.Commands != 1 || i.In != 9 || i.Out != 9 ||
			time.Since(i.IdleSince) != time.Hour/2 || time.Since(i.Since) != time.Hour/2+time.Minute || i.Remote.String() != "192.0.2.1:4711" {
			t.Errorf("%+v", i)
		}
		s := r.all()[0]
		s.Secured("TLSv1.3")
		s.Compressed()
		s.Enter(Idle, "INBOX")
		if i := s.Info(); i.TLS != "TLSv1.3" || !i.Compressed || i.Mailbox != "INBOX" || i.State != Idle || i.IdleSince.IsZero() {
			t.Errorf("%+v", i)
		}
		for _, count := range r.Counts() {
			want := 0
			if count.State == Idle {
				want = 1
			}
			if count.Sessions != want {
				t.Errorf("%+v", count)
			}
		}
		s.Logout()
		if i := s.Info(); i.Login != "" || i.State != NotAuthenticated || i.Mailbox != "" || len(r.accounts) > 0 {
			t.Errorf("%+v", i)
		}
		if e := s.Event(mail.EventExpunge); e.Service != "imap" || e.TLS != "TLSv1.3" || e.Detail != "door" || e.Session != s.ID() {
			t.Errorf("%+v", e)
		}
	})
}

// When the server ends, who waits goes at once, who is busy at the end of the
// grace time, and who comes meanwhile at once.
func TestServe(t *testing.T) {
	t.Parallel()
	r := NewRegistry()
	cfg := unlimited()
	cfg.Grace = 50 * time.Millisecond
	d, audit := newDoor(r, "imap", cfg)
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- d.Serve(ctx, ln) }()
	dial := func() *client {
		conn, err := net.Dial("tcp", ln.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = conn.Close() })
		return &client{t, conn, bufio.NewReader(conn)}
	}
	idle, busy := dial(), dial()
	idle.say("x")
	busy.say("work")
	stop()
	if got := idle.hear(); got != "shutdown" {
		t.Errorf("who waits hears %q", got)
	}
	if got := busy.hear(); got != "gone" {
		t.Errorf("who is busy hears %q", got)
	}
	if err := <-ended; err != nil {
		t.Error(err)
	}
	if d.Sessions() != 0 {
		t.Error("sessions are left")
	}
	audit.mu.Lock()
	defer audit.mu.Unlock()
	if len(audit.events) != 4 {
		t.Errorf("audited %+v", audit.events)
	}
}

// A session that begins when its listener has ended is asked to go at once.
func TestLateSession(t *testing.T) {
	t.Parallel()
	r := NewRegistry()
	cfg := unlimited()
	d, _ := newDoor(r, "imap", cfg)
	g := new(group)
	d.endGroup(g)
	near, far := net.Pipe()
	ended := make(chan struct{})
	go func() { d.serveConn(t.Context(), far, g); close(ended) }()
	c := &client{t, near, bufio.NewReader(near)}
	if got := c.hear(); got != "shutdown" {
		t.Errorf("hears %q", got)
	}
	<-ended
}

// TestOnEnding: who does not wait by Wait is told once that the session is to
// go, also when it was asked before.
func TestOnEnding(t *testing.T) {
	t.Parallel()
	for _, early := range []bool{false, true} {
		r, told, ready := NewRegistry(), make(chan Reason, 2), make(chan struct{})
		d := NewDoor(r, Protocol{Name: "imap", Serve: func(_ context.Context, s *Session) string {
			if early {
				r.Kick(func(Info) bool { return true })
			}
			s.OnEnding(func() { told <- s.Why() })
			close(ready)
			return fmt.Sprint(<-told)
		}}, &recorder{}, hclog.NewNullLogger())
		d.Configure(unlimited())
		near, far := net.Pipe()
		ended := make(chan struct{})
		go func() { d.ServeConn(t.Context(), far); close(ended) }()
		<-ready
		r.Kick(func(Info) bool { return true })
		<-ended
		_ = near.Close()
		if len(told) > 0 {
			t.Error("told twice")
		}
	}
}

// TestTogether: doors of one protocol count apart where they say so.
func TestTogether(t *testing.T) {
	t.Parallel()
	r := NewRegistry()
	cfg := unlimited()
	cfg.MaxPerClient = 1
	backend, _ := newDoor(r, "imap", cfg)
	front := NewDoor(r, Protocol{Name: "imap", Together: "proxy imap", Serve: toy{r}.serve, TurnAway: backend.protocol.TurnAway}, &recorder{}, hclog.NewNullLogger())
	front.Configure(cfg)
	for _, d := range []*Door{backend, front} {
		if got := connect(t, d, "192.0.2.7").say("hello"); got != "hello" {
			t.Errorf("the first hears %q", got)
		}
		if got := connect(t, d, "192.0.2.7").hear(); got != "full" {
			t.Errorf("the second hears %q", got)
		}
	}
}
