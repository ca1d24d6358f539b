package proxy

import (
	"bufio"
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/postern-mail/postern/backend/sessions"
	"github.com/postern-mail/postern/backend/sessions/sessionstest"
	"github.com/postern-mail/postern/internal/testenv"
	"github.com/postern-mail/postern/mail"
	"github.com/postern-mail/postern/status"
)

const patient = 2 * time.Minute // longer than any machine takes

// people is an Authenticator and Places: everybody's password is "secret", the
// login "down" meets an outage; who ends with a digit is at home there.
type people struct{ cell *Cell }

func (people) Mechanisms(*mail.Client) []string { return []string{"PLAIN"} }

func (p people) Start(ctx context.Context, _ string, client mail.Client) (sessions.Authentication, error) {
	return sessionstest.Plain(func(login, password string) (mail.Identity, error) { return p.Login(ctx, login, password, client) }), nil
}

func (people) Login(_ context.Context, login, password string, _ mail.Client) (mail.Identity, error) {
	switch {
	case login == "down":
		return mail.Identity{}, status.New(status.DirectoryDown, nil)
	case password != "secret":
		return mail.Identity{}, status.New(status.AuthFailed, nil)
	}
	return mail.Identity{Authentication: login, Authorization: login}, nil
}

func (p people) Place(_ context.Context, identity mail.Identity) (Place, error) {
	name := identity.Authorization
	return Place{Login: name, Home: mail.Home(name[len(name)-1:]), Cell: p.cell}, nil
}

// fakeNode is a mailbox server that says which one it is.
type fakeNode struct {
	name string
	l    net.Listener
	all  sync.WaitGroup

	mu     sync.Mutex
	conns  []net.Conn
	logins []string // "authzid authcid id"
	dead   chan struct{}
	hang   bool   // says nothing to anybody
	say    string // in place of OK to a login
	bye    bool   // in place of a greeting
	pop3   bool   // the language it speaks
}

// startNode starts a node on a port of its own, at which nobody else answers
// once the node is dead.
func startNode(t *testing.T, name string) *fakeNode {
	t.Helper()
	n := newNode(t, name)
	addr := net.JoinHostPort("127.0.0.1", strconv.Itoa(testenv.FreePort(t)))
	testenv.Eventually(t, patient, func() (err error) {
		n.l, err = net.Listen("tcp", addr)
		return err
	})
	n.all.Go(func() {
		for {
			conn, err := n.l.Accept()
			if err != nil {
				return
			}
			n.take(conn)
		}
	})
	return n
}

// newNode is a node that does not listen: its connections are brought by take.
func newNode(t *testing.T, name string) *fakeNode {
	n := &fakeNode{name: name, dead: make(chan struct{})}
	t.Cleanup(func() { n.kill(); close(n.dead); n.all.Wait() })
	return n
}

// take serves a connection.
func (n *fakeNode) take(conn net.Conn) {
	n.mu.Lock()
	n.conns = append(n.conns, conn)
	n.mu.Unlock()
	n.all.Go(func() { defer conn.Close(); n.serve(conn) })
}

// kill ends all it has, as the end of its process would.
func (n *fakeNode) kill() {
	if n.l != nil {
		_ = n.l.Close()
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, conn := range n.conns {
		_ = conn.Close()
	}
}

func (n *fakeNode) with(change func()) {
	n.mu.Lock()
	defer n.mu.Unlock()
	change()
}

// hung waits for the end where the node hangs.
func (n *fakeNode) hung() {
	n.mu.Lock()
	hang := n.hang
	n.mu.Unlock()
	if hang {
		<-n.dead
	}
}

func (n *fakeNode) serve(conn net.Conn) {
	n.hung()
	r := bufio.NewReader(conn)
	say := func(text string) { _, _ = io.WriteString(conn, text+"\r\n") }
	n.mu.Lock()
	bye, refusal, pop3 := n.bye, n.say, n.pop3
	n.mu.Unlock()
	if pop3 {
		n.servePOP3(conn, r, bye, refusal)
		return
	}
	if bye {
		say("* BYE [UNAVAILABLE] draining")
		return
	}
	say("* OK [CAPABILITY IMAP4rev1 ID] ready")
	id := ""
	for {
		line, err := r.ReadString('\n')
		if err != nil {
			return
		}
		n.hung()
		tag, rest, _ := strings.Cut(strings.TrimSpace(line), " ")
		verb, argument, _ := strings.Cut(rest, " ")
		switch strings.ToUpper(verb) {
		case "ID":
			id = argument
			say("* ID NIL")
			say(tag + " OK done")
		case "AUTHENTICATE":
			say("+ ")
			response, _ := r.ReadString('\n')
			decoded, _ := base64.StdEncoding.DecodeString(strings.TrimSpace(response))
			n.with(func() { n.logins = append(n.logins, strings.ReplaceAll(string(decoded), "\x00", " ")+" "+id) })
			if refusal != "" {
				say(tag + " " + refusal)
				return
			}
			say("* CAPABILITY IMAP4rev1 LITERAL+ UNAUTHENTICATE X-" + n.name)
			say(tag + " OK in")
		case "APPEND":
			_, size, _ := strings.Cut(argument, "{")
			var octets int
			_, _ = fmt.Sscanf(size, "%d", &octets)
			content := make([]byte, octets)
			if _, err := io.ReadFull(r, content); err != nil {
				return
			}
			_, _ = r.ReadString('\n')
			say(fmt.Sprintf("%s OK [%s] %s", tag, n.name, content))
		case "LOGOUT":
			say("* BYE logging out")
			say(tag + " OK bye")
			return
		case "HALF":
			_, _ = io.WriteString(conn, "* half a li")
		default:
			say(tag + " OK " + n.name)
		}
	}
}

// front is a running proxy.
type front struct {
	*Server
	t        *testing.T
	addr     string
	open     func() (net.Conn, error) // as a client
	cell     *Cell
	registry *sessions.Registry
	stop     context.CancelFunc
	ended    chan struct{}
}

// list returns the sessions, the oldest first.
func (f *front) list() []sessions.Info {
	return f.registry.List(func(sessions.Info) bool { return true })
}

func startProxy(t *testing.T, cfg sessions.Terms, cellCfg CellConfig) *front {
	t.Helper()
	cellCfg.Name, cellCfg.User, cellCfg.Secret = "cell", "proxy", "pw"
	return startProxyAs(t, cfg, cellCfg)
}

func startProxyAs(t *testing.T, cfg sessions.Terms, cellCfg CellConfig) *front {
	t.Helper()
	return startProxyIn(t, IMAP(), cfg, cellCfg)
}

func startProxyIn(t *testing.T, dialect Dialect, cfg sessions.Terms, cellCfg CellConfig) *front {
	t.Helper()
	f := newFront(t, dialect, cfg, cellCfg)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	f.addr = l.Addr().String()
	f.open = func() (net.Conn, error) { return net.Dial("tcp", f.addr) }
	f.run(func(ctx context.Context) { _ = f.Serve(ctx, l) })
	return f
}

// newFront is a proxy that does not run.
func newFront(t *testing.T, dialect Dialect, cfg sessions.Terms, cellCfg CellConfig) *front {
	t.Helper()
	cfg.MaxSessionsPerClient, cfg.Hostname, cfg.AllowInsecureAuth, cfg.AuthDelay, cfg.Grace = -1, "mail.example.com", true, -1, patient
	cell, err := NewCell(cellCfg, dialect, hclog.NewNullLogger())
	if err != nil {
		t.Fatal(err)
	}
	registry := sessions.NewRegistry()
	s, err := New(cfg, dialect, Deps{Auth: people{cell}, Places: people{cell}, Audit: &sessionstest.Recorder{}, Sessions: registry}, hclog.NewNullLogger())
	if err != nil {
		t.Fatal(err)
	}
	return &front{Server: s, registry: registry, t: t, cell: cell, ended: make(chan struct{})}
}

// run runs the proxy until the test ends, with serve for its clients.
func (f *front) run(serve func(context.Context)) {
	ctx, stop := context.WithCancel(context.Background())
	f.stop = stop
	var all sync.WaitGroup
	all.Go(func() { _ = f.cell.Run(ctx) })
	all.Go(func() { serve(ctx) })
	go func() { all.Wait(); close(f.ended) }()
	f.t.Cleanup(func() { stop(); <-f.ended })
}

// client speaks line by line.
type client struct {
	t *testing.T
	net.Conn
	r *bufio.Reader
}

func (f *front) dial() *client {
	f.t.Helper()
	c := f.connect()
	c.want("* OK")
	return c
}

// connect is dial without the greeting.
func (f *front) connect() *client {
	f.t.Helper()
	conn, err := f.open()
	if err != nil {
		f.t.Fatal(err)
	}
	f.t.Cleanup(func() { _ = conn.Close() })
	return &client{t: f.t, Conn: conn, r: bufio.NewReader(conn)}
}

func (c *client) line() string {
	c.t.Helper()
	_ = c.SetReadDeadline(time.Now().Add(patient))
	line, err := c.r.ReadString('\n')
	if err != nil {
		c.t.Fatalf("%q, %v", line, err)
	}
	return strings.TrimRight(line, "\r\n")
}

func (c *client) want(prefix string) string {
	c.t.Helper()
	line := c.line()
	if !strings.HasPrefix(line, prefix) {
		c.t.Fatalf("got %q, want %q", line, prefix)
	}
	return line
}

func (c *client) send(text string) {
	c.t.Helper()
	if _, err := io.WriteString(c, text); err != nil {
		c.t.Fatal(err)
	}
}

// eof wants the end of the connection.
func (c *client) eof() {
	c.t.Helper()
	_ = c.SetReadDeadline(time.Now().Add(patient))
	if rest, err := io.ReadAll(c.r); err != nil || len(rest) > 0 {
		c.t.Fatalf("%q, %v; want the end", rest, err)
	}
}

func (c *client) login(name string) string {
	c.t.Helper()
	c.send("a LOGIN " + name + " secret\r\n")
	return c.want("a OK [CAPABILITY")
}

// on wants to be connected to a node.
func (c *client) on(name string) {
	c.t.Helper()
	c.send("x NOOP\r\n")
	c.want("x OK " + name)
}

// pair is two nodes behind a proxy, which has all the time to reach them.
func pair(t *testing.T) (*front, [2]*fakeNode) {
	t.Helper()
	nodes := [2]*fakeNode{startNode(t, "zero"), startNode(t, "one")}
	f := startProxy(t, sessions.Terms{}, CellConfig{
		Addresses: []string{nodes[0].l.Addr().String(), nodes[1].l.Addr().String()}, TLS: CellNone, Failover: patient,
	})
	return f, nodes
}

// pairInBubble is a pair without a network, for tests of how long a node may
// take: in a bubble, where no node is ever slow but those that are to be.
func pairInBubble(t *testing.T) (*front, [2]*fakeNode) {
	t.Helper()
	nodes := [2]*fakeNode{newNode(t, "zero"), newNode(t, "one")}
	f := newFront(t, IMAP(), sessions.Terms{}, CellConfig{
		Name: "cell", User: "proxy", Secret: "pw", Addresses: []string{"zero:143", "one:143"}, TLS: CellNone,
	})
	f.cell.dial = func(_ context.Context, _, address string) (net.Conn, error) {
		near, far := net.Pipe()
		nodes[map[string]int{"zero:143": 0, "one:143": 1}[address]].take(far)
		return near, nil
	}
	var clients sync.WaitGroup
	f.open = func() (net.Conn, error) {
		near, far := net.Pipe()
		clients.Go(func() { f.ServeConn(context.Background(), far) })
		return near, nil
	}
	f.run(func(ctx context.Context) { <-ctx.Done(); clients.Wait() })
	return f, nodes
}

// TestLoginGoesHome: everybody is connected to the node of their home, as
// themselves, by the proxy's own identity; the node hears where they come from
// and cannot be told otherwise by them.
func TestLoginGoesHome(t *testing.T) {
	t.Parallel()
	f, nodes := pair(t)
	c := f.dial()
	c.send(`i ID ("name" "Mail \"er" "X-Originating-IP" "192.0.2.66" "os" NIL)` + "\r\n")
	c.want("* ID")
	c.want("i OK")
	if offered := c.login("user1"); !strings.Contains(offered, "X-one") || strings.Contains(offered, "UNAUTHENTICATE") {
		t.Errorf("offered %q", offered)
	}
	c.on("one")
	d := f.dial()
	d.send("a AUTHENTICATE PLAIN " + base64.StdEncoding.EncodeToString([]byte("\x00user0\x00secret")) + "\r\n")
	d.want("a OK [CAPABILITY")
	d.on("zero")
	nodes[1].mu.Lock()
	defer nodes[1].mu.Unlock()
	host, port, _ := net.SplitHostPort(c.LocalAddr().String())
	if len(nodes[1].logins) != 1 {
		t.Fatalf("%q", nodes[1].logins)
	}
	got := nodes[1].logins[0]
	for _, part := range []string{"user1 proxy pw (", `"x-originating-ip" "` + host + `"`, `"x-originating-port" "` + port + `"`, `"name" "Mail \"er"`, `"x-session-id"`} {
		if !strings.Contains(got, part) {
			t.Errorf("%q lacks %q", got, part)
		}
	}
	if strings.Contains(got, "192.0.2.66") {
		t.Errorf("the client chose where it comes from: %q", got)
	}
	if got := f.Logins(); got[LoginHome] != 2 || got[LoginPartner]+got[LoginNobody] != 0 {
		t.Errorf("%v", got)
	}
}

// TestPipelined: what a client sends behind its login without waiting reaches
// the node, literals included, and in pieces too.
func TestPipelined(t *testing.T) {
	t.Parallel()
	f, _ := pair(t)
	for _, login := range []string{
		"a LOGIN user0 secret\r\n",
		"a LOGIN {5+}\r\nuser0 {6+}\r\nsecret\r\n",
		"a LOGIN \"user0\" \"secret\"\r\n",
	} {
		c := f.dial()
		c.send(login + "b APPEND x {5+}\r\nhello\r\nc NOOP\r\nd LOGOUT\r\n")
		c.want("a OK")
		c.want("b OK [zero] hello")
		c.want("c OK zero")
		c.want("* BYE logging out")
		c.want("d OK")
		c.eof()
	}
	c := f.dial()
	c.send("a LOGIN {5}\r\n")
	c.want("+ ")
	for _, octet := range []byte("user0 {6}\r\n") {
		c.send(string(octet))
	}
	c.want("+ ")
	c.send("secret\r\n")
	c.want("a OK")
	c.on("zero")
}

// TestLargeTransfers: megabytes in both directions arrive whole.
func TestLargeTransfers(t *testing.T) {
	t.Parallel()
	f, _ := pair(t)
	c := f.dial()
	c.login("user1")
	text := strings.Repeat("0123456789abcdef", 1<<17)
	go func() { _, _ = fmt.Fprintf(c, "b APPEND x {%d+}\r\n%s\r\n", len(text), text) }()
	if got := c.line(); got != "b OK [one] "+text {
		t.Errorf("%d octets came back, want %d", len(got), len(text)+11)
	}
}

// TestRefusals: a wrong password is one; an outage is none.
func TestRefusals(t *testing.T) {
	t.Parallel()
	f, nodes := pair(t)
	c := f.dial()
	c.send("a LOGIN user0 wrong\r\n")
	c.want("a NO [AUTHENTICATIONFAILED]")
	c.send("b LOGIN down secret\r\n")
	c.want("b NO [UNAVAILABLE]")
	c.send("c SELECT INBOX\r\n")
	c.want("c BAD")
	c.send("d AUTHENTICATE CRAM-MD5\r\n")
	c.want("d NO [CANNOT]")
	c.send("e CAPABILITY\r\n")
	c.want("* CAPABILITY IMAP4rev1 LITERAL+ SASL-IR ID AUTH=PLAIN")
	c.want("e OK")
	for said, want := range map[string]string{
		"NO [AUTHENTICATIONFAILED] who are you": "a NO [UNAVAILABLE]",
		"NO [LIMIT] too many":                   "a NO [LIMIT]",
		"NO [UNAVAILABLE] not yet":              "a NO [UNAVAILABLE]",
		"BAD what":                              "a NO [UNAVAILABLE]",
	} {
		for _, n := range nodes {
			n.with(func() { n.say = said })
		}
		c := f.dial()
		c.send("a LOGIN user0 secret\r\n")
		c.want(want)
		for _, n := range nodes {
			n.with(func() { n.say = "" })
		}
		c.login("user0")
		c.on("zero") // a refusal does not make a node dead
	}
	if len(nodes[1].logins) != 4 {
		t.Errorf("the partner was asked %d times of 4", len(nodes[1].logins))
	}
}

// TestPartnerTakesOver: the home is gone, hangs, or turns logins away.
func TestPartnerTakesOver(t *testing.T) {
	t.Parallel()
	threeLogins := func(t *testing.T, f *front) {
		for range 3 {
			c := f.dial()
			c.login("user1")
			c.on("zero")
		}
		if got := f.Logins(); got[LoginPartner] != 3 {
			t.Errorf("%v", got)
		}
		if stats := f.cell.Stats(); stats[1].Up || !stats[0].Up || stats[0].Sessions == 0 {
			t.Errorf("%+v", stats)
		}
	}
	for name, break_ := range map[string]func(n *fakeNode){
		"killed":   func(n *fakeNode) { n.kill() },
		"draining": func(n *fakeNode) { n.with(func() { n.bye = true }) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f, nodes := pair(t)
			break_(nodes[1])
			threeLogins(t, f)
		})
	}
	t.Run("hangs", func(t *testing.T) {
		t.Parallel()
		synctest.Test(t, func(t *testing.T) {
			f, nodes := pairInBubble(t)
			nodes[1].with(func() { nodes[1].hang = true })
			began := time.Now()
			threeLogins(t, f)
			if took := time.Since(began); took != f.cell.cfg.Failover {
				t.Errorf("three logins took %s: the first waits, and the others know", took)
			}
		})
	})
}

// TestNodeDiesUnderSessions: clients of a node that dies read BYE, but for one
// in the middle of a line, come again and are on the partner.
func TestNodeDiesUnderSessions(t *testing.T) {
	t.Parallel()
	f, nodes := pair(t)
	c, half := f.dial(), f.dial()
	c.login("user1")
	c.on("one")
	half.login("user1")
	half.send("h HALF\r\n")
	buffer := make([]byte, len("* half a li"))
	if _, err := io.ReadFull(half.r, buffer); err != nil {
		t.Fatal(err)
	}
	nodes[1].kill()
	c.want("* BYE [UNAVAILABLE]")
	c.eof()
	half.eof()
	again := f.dial()
	again.login("user1")
	again.on("zero")
}

// TestNodeHangsUnderSessions: a node that is stopped keeps its connections;
// its clients are not left to it.
func TestNodeHangsUnderSessions(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		f, nodes := pairInBubble(t)
		idle, waits := f.dial(), f.dial()
		idle.login("user1")
		idle.on("one")
		waits.login("user1")
		nodes[1].with(func() { nodes[1].hang = true })
		waits.send("w NOOP\r\n")
		waits.want("* BYE [UNAVAILABLE]")
		idle.want("* BYE [UNAVAILABLE]")
		idle.eof()
	})
}

// TestComesBack: a node that is back serves its people again.
func TestComesBack(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		f, nodes := pairInBubble(t)
		nodes[1].with(func() { nodes[1].bye = true })
		c := f.dial()
		c.login("user1")
		c.on("zero")
		nodes[1].with(func() { nodes[1].bye = false })
		time.Sleep((wellAfter + 1) * 2 * probeEvery)
		again := f.dial()
		again.login("user1")
		again.on("one")
	})
}

// TestShutdown: whoever has not logged in, and whoever waits, reads BYE; a
// command under way is answered first.
func TestShutdown(t *testing.T) {
	t.Parallel()
	f, nodes := pair(t)
	early, idle, busy := f.dial(), f.dial(), f.dial()
	idle.login("user0")
	idle.on("zero")
	busy.login("user1")
	busy.on("one")
	busy.send("b APPEND x {5+}\r\nhel")
	testenv.Eventually(t, patient, func() error {
		if !busyAt(f.cell, nodes[1]) {
			return fmt.Errorf("the command is not under way yet")
		}
		return nil
	})
	f.stop()
	early.want("* BYE [UNAVAILABLE]")
	idle.want("* BYE [UNAVAILABLE]")
	idle.eof()
	busy.send("lo\r\n")
	busy.want("b OK [one] hello")
	busy.want("* BYE [UNAVAILABLE]")
	<-f.ended
}

// busyAt reports whether a client of the node waits for an answer.
func busyAt(c *Cell, fake *fakeNode) bool {
	for _, n := range c.nodes {
		if n.address != fake.l.Addr().String() {
			continue
		}
		n.mu.Lock()
		defer n.mu.Unlock()
		for r := range n.relays {
			if !r.quiet() {
				return true
			}
		}
	}
	return false
}

// TestLimits: of sessions, of octets, of failures.
func TestLimits(t *testing.T) {
	t.Parallel()
	n := startNode(t, "zero")
	f := startProxy(t, sessions.Terms{MaxSessions: 2, MaxAuthFailures: 2}, CellConfig{Addresses: []string{n.l.Addr().String()}, TLS: CellNone})
	one, two := f.dial(), f.dial()
	conn, err := net.Dial("tcp", f.addr)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	third := &client{t: t, Conn: conn, r: bufio.NewReader(conn)}
	third.want("* BYE [UNAVAILABLE] Too many")
	third.eof()
	one.send("a LOGIN x wrong\r\nb LOGIN x wrong\r\n")
	one.want("a NO")
	one.want("b NO")
	one.want("* BYE")
	two.send("a LOGIN {20000+}\r\n")
	two.want("* BYE")
}

// TestListedAndKicked: an operator sees who is connected to a node and as whom,
// and ends the session, which the client is told once nothing is under way;
// others stay.
func TestListedAndKicked(t *testing.T) {
	t.Parallel()
	f, _ := pair(t)
	c, other := f.dial(), f.dial()
	c.login("user0")
	other.login("user1")
	other.on("one")
	c.on("zero")
	all := f.list()
	if len(all) != 2 || all[0].Account != "user0" || all[0].Login != "user0" || all[0].Protocol != "imap" || all[0].Command != "proxied" ||
		all[0].Remote.String() != c.LocalAddr().String() || all[0].State != sessions.Authenticated {
		t.Errorf("%+v", all)
	}
	if names := f.Accounts(); !slices.Equal(names, []string{"user0", "user1"}) {
		t.Errorf("accounts %q", names)
	}
	c.send("h HALF\r\n")
	testenv.Eventually(t, patient, func() error {
		if f.list()[0].Out == all[0].Out {
			return errors.New("nothing has come")
		}
		return nil
	})
	early := f.dial() // who has not logged in is told why, too
	f.registry.Kick(func(i sessions.Info) bool { return i.Account == "" })
	early.want("* BYE [UNAVAILABLE] Ended by the administrator")
	early.eof()
	if kicked := f.registry.Kick(func(i sessions.Info) bool { return i.Account == "user0" }); len(kicked) != 1 {
		t.Errorf("kicked %+v", kicked)
	}
	c.send("ne\r\n") // to a node that answers to it with the rest of the line
	_ = c.SetReadDeadline(time.Now().Add(patient))
	rest, _ := io.ReadAll(c.r)
	if text := string(rest); !strings.HasPrefix(text, "* half a line OK zero\r\n") || !strings.Contains(text, "* BYE [UNAVAILABLE] Ended by the administrator") {
		t.Errorf("kicked in the middle of a line: %q", text)
	}
	other.on("one")
}
