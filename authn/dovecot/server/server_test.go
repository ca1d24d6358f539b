package server

import (
	"bufio"
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/postern-mail/postern/authn"
	"github.com/postern-mail/postern/authn/dovecot/wire"
	"github.com/postern-mail/postern/authn/sasl"
	"github.com/postern-mail/postern/mail"
	"github.com/postern-mail/postern/status"
)

// verifier knows by the login what to answer.
type verifier struct {
	sasl.Verifier // panics for all but passwords

	mu       sync.Mutex
	attempts []authn.Attempt
	hold     chan struct{} // the login "slow" waits for it
}

// TakesPasswords implements sasl.Verifier.
func (v *verifier) TakesPasswords() bool { return true }

// Covers tells that no secrets are held.
func (v *verifier) Covers(string) authn.Coverage { return authn.CoversNone }

// Verify implements sasl.Verifier.
func (v *verifier) Verify(ctx context.Context, a authn.Attempt) (mail.Identity, error) {
	v.mu.Lock()
	v.attempts = append(v.attempts, a)
	v.mu.Unlock()
	login, _, _ := strings.Cut(a.Login, "@")
	switch {
	case login == "outage":
		return mail.Identity{}, status.Errorf(status.AuthTemporary, "the directory is down")
	case login == "locked":
		return mail.Identity{}, status.Errorf(status.AuthTooMany, "wait")
	case login == "other":
		return mail.Identity{}, status.Errorf(status.AuthorizationDenied, "no")
	case login == "slow":
		select {
		case <-v.hold:
		case <-ctx.Done():
			return mail.Identity{}, status.New(status.AuthTemporary, ctx.Err())
		}
	}
	if a.Password != "right" {
		return mail.Identity{}, status.Errorf(status.AuthFailed, "wrong password")
	}
	return mail.Identity{Authentication: login, Authorization: login}, nil
}

// bed is a server on a unix or TCP socket.
type bed struct {
	*Server
	verifier *verifier
	address  net.Addr
	stop     context.CancelFunc
	ended    chan error
}

func newBed(t *testing.T, cfg Config, policy sasl.Config) *bed {
	t.Helper()
	b := &bed{verifier: &verifier{hold: make(chan struct{})}, ended: make(chan error, 1)}
	cfg.Name = "test"
	var err error
	b.Server, err = New(cfg, func() (*sasl.Mechanisms, error) { return sasl.New(policy, sasl.Deps{Verifier: b.verifier}) }, hclog.NewNullLogger())
	if err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	b.address = l.Addr()
	ctx, stop := context.WithCancel(context.Background())
	b.stop = stop
	go func() { b.ended <- b.Serve(ctx, l); close(b.ended) }()
	t.Cleanup(func() {
		stop()
		for err := range b.ended {
			if err != nil {
				t.Error(err)
			}
		}
	})
	return b
}

// client is the other end.
type client struct {
	t *testing.T
	net.Conn
	lines    *bufio.Reader
	greeting [][]string
}

// dial connects and reads the greeting; VERSION 1.minor is sent.
func (b *bed) dial(t *testing.T, minor string) *client {
	t.Helper()
	conn, err := net.Dial("tcp", b.address.String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	if err := conn.SetDeadline(time.Now().Add(2 * time.Minute)); err != nil {
		t.Fatal(err)
	}
	c := &client{t: t, Conn: conn, lines: wire.NewReader(conn)}
	c.say("VERSION", "1", minor)
	c.say("CPID", "99")
	for {
		fields := c.read()
		c.greeting = append(c.greeting, fields)
		if fields[0] == "DONE" {
			return c
		}
	}
}

func (c *client) say(fields ...string) {
	c.t.Helper()
	if _, err := c.Write([]byte(strings.Join(fields, "\t") + "\n")); err != nil {
		c.t.Fatal(err)
	}
}

func (c *client) read() []string {
	c.t.Helper()
	fields, err := wire.ReadLine(c.lines)
	if err != nil {
		c.t.Fatal(err)
	}
	return fields
}

func (c *client) want(fields ...string) {
	c.t.Helper()
	if got := c.read(); !slices.Equal(got, fields) {
		c.t.Fatalf("got %q, want %q", got, fields)
	}
}

// wantEnd reads to the end of the connection, where nothing more may come.
func (c *client) wantEnd() {
	c.t.Helper()
	if rest, err := io.ReadAll(c.lines); len(rest) > 0 || errors.Is(err, context.DeadlineExceeded) {
		c.t.Fatalf("%q came before the end (%v)", rest, err)
	}
}

func plain(login, password string) string {
	return "resp=" + base64.StdEncoding.EncodeToString([]byte("\x00"+login+"\x00"+password))
}

func b64(s string) string { return base64.StdEncoding.EncodeToString([]byte(s)) }

const (
	wrongReason = "reason=Authentication credentials invalid"
	tempReason  = "reason=Temporary authentication failure"
)

func TestGreeting(t *testing.T) {
	t.Parallel()
	c := newBed(t, Config{}, sasl.Config{}).dial(t, "2")
	var commands []string
	for _, fields := range c.greeting {
		commands = append(commands, fields[0])
	}
	if got := strings.Join(commands, " "); got != "VERSION MECH MECH SPID CUID COOKIE DONE" {
		t.Errorf("greeting %s", got)
	}
	if got := c.greeting[0]; !slices.Equal(got, []string{"VERSION", "1", "2"}) {
		t.Errorf("version %q", got)
	}
	if got := c.greeting[1]; got[1] != "PLAIN" || !slices.Contains(got, "plaintext") || slices.Contains(got, "mutual-auth") || slices.Contains(got, "anonymous") {
		t.Errorf("mechanism %q", got)
	}
}

// TestAnswers: what each decision is in the protocol, for clients that know
// "temp".
func TestAnswers(t *testing.T) {
	t.Parallel()
	c := newBed(t, Config{}, sasl.Config{}).dial(t, "1")
	for i, test := range []struct {
		name string
		auth []string
		want []string
	}{
		{"right", []string{"PLAIN", "service=smtp", "secured", plain("alice@example.com", "right")}, []string{"OK", "user=alice"}},
		{"secured, as later versions say it", []string{"PLAIN", "secured=tls", plain("alice", "right")}, []string{"OK", "user=alice"}},
		{"wrong", []string{"PLAIN", "secured", plain("alice", "wrong")}, []string{"FAIL", wrongReason}},
		{"outage", []string{"PLAIN", "secured", plain("outage", "right")}, []string{"FAIL", "temp", "code=temp_fail", tempReason}},
		{"held off", []string{"PLAIN", "secured", plain("locked", "right")}, []string{"FAIL", "temp", "code=temp_fail", tempReason}},
		{"as somebody else", []string{"PLAIN", "secured", plain("other", "right")}, []string{"FAIL", "authz", "code=authz_fail", "reason=Authorization identity refused"}},
		{"unknown mechanism", []string{"NTLM", "secured"}, []string{"FAIL", "code=auth_mech_invalid", "reason=Unrecognized authentication type"}},
		{"without TLS", []string{"PLAIN", plain("alice", "right")}, []string{"FAIL", "code=auth_mech_ssl_required", "reason=Encryption required for requested authentication mechanism"}},
		{"no base64", []string{"PLAIN", "secured", "resp=%%"}, []string{"FAIL", "code=invalid_base64", "reason=" + status.BadBase64.Reply().Text}},
		{"malformed", []string{"PLAIN", "secured", "resp=AAAA"}, []string{"FAIL", wrongReason}},
		{"nothing behind resp counts", []string{"PLAIN", plain("alice", "right"), "secured"}, []string{"FAIL", "code=auth_mech_ssl_required", "reason=Encryption required for requested authentication mechanism"}},
	} {
		id := fmt.Sprint(i + 1)
		c.say(append([]string{"AUTH", id}, test.auth...)...)
		if got, want := c.read(), slices.Insert(test.want, 1, id); !slices.Equal(got, want) {
			t.Errorf("%s: got %q, want %q", test.name, got, want)
		}
	}
}

// TestAttempt: what the chain is told of the client.
func TestAttempt(t *testing.T) {
	t.Parallel()
	b := newBed(t, Config{}, sasl.Config{AllowWithoutTLS: true})
	c := b.dial(t, "0")
	c.say("AUTH", "1", "plain", "service=SMTP", "nologin", "lip=192.0.2.1", "rip=::ffff:192.0.2.7", "lport=587", "rport=4711", plain("alice", "right"))
	c.want("OK", "1", "user=alice")
	c.say("AUTH", "2", "PLAIN", "service=a b", "rip=unix", plain("alice", "right"))
	c.want("OK", "2", "user=alice")
	first, second := b.verifier.attempts[0], b.verifier.attempts[1]
	if first.Service != "smtp" || first.Remote != netip.MustParseAddrPort("192.0.2.7:4711") || first.Mechanism != "PLAIN" || first.Session == "" {
		t.Errorf("got %+v", first)
	}
	if second.Service != "unknown" || second.Remote.IsValid() || second.Session == first.Session {
		t.Errorf("got %+v", second)
	}
}

// TestSteps: mechanisms that take several responses, two of them interleaved.
func TestSteps(t *testing.T) {
	t.Parallel()
	c := newBed(t, Config{}, sasl.Config{}).dial(t, "2")
	c.say("AUTH", "1", "LOGIN", "secured")
	c.want("CONT", "1", b64("Username:"))
	c.say("AUTH", "2", "PLAIN", "secured")
	c.want("CONT", "2", "")
	c.say("CONT", "1", b64("alice"))
	c.want("CONT", "1", b64("Password:"))
	c.say("CONT", "2", b64("\x00bob\x00wrong"))
	c.want("FAIL", "2", wrongReason)
	c.say("CONT", "1", b64("right"))
	c.want("OK", "1", "user=alice")
	c.say("AUTH", "3", "LOGIN", "secured", "resp="+b64("alice"))
	c.want("CONT", "3", b64("Password:"))
	c.say("CANCEL", "3")
	c.say("CONT", "3", b64("right"))
	c.want("FAIL", "3", "temp", "code=temp_fail", tempReason)
}

// TestOldClients: clients of version 1.0 take every FAIL for a wrong password,
// so an outage ends the connection, after what was to be said before.
func TestOldClients(t *testing.T) {
	t.Parallel()
	b := newBed(t, Config{}, sasl.Config{})
	c := b.dial(t, "0")
	c.say("AUTH", "1", "PLAIN", "secured", plain("alice", "wrong"))
	c.want("FAIL", "1", wrongReason)
	c.say("AUTH", "2", "PLAIN", "secured", plain("outage", "right"))
	c.wantEnd()
	if got := b.Results(); got[ResultRefused] != 1 || got[ResultTemporary] != 1 {
		t.Errorf("results %v", got)
	}
}

// TestPipelined: requests are decided side by side, and never more than the
// bound at a time.
func TestPipelined(t *testing.T) {
	t.Parallel()
	b := newBed(t, Config{Workers: 3}, sasl.Config{})
	c := b.dial(t, "2")
	c.say("AUTH", "1", "PLAIN", "secured", plain("slow", "right"))
	c.say("AUTH", "2", "PLAIN", "secured", plain("alice", "right"))
	c.want("OK", "2", "user=alice") // overtakes
	close(b.verifier.hold)
	c.want("OK", "1", "user=slow")
	const many = 200
	var text strings.Builder
	for i := range many {
		fmt.Fprintf(&text, "AUTH\t%d\tPLAIN\tsecured\t%s\n", 100+i, plain("alice", "right"))
	}
	go func() { _, _ = c.Write([]byte(text.String())) }()
	seen := map[string]bool{}
	for range many {
		fields := c.read()
		if fields[0] != "OK" || seen[fields[1]] {
			t.Fatalf("got %q", fields)
		}
		seen[fields[1]] = true
	}
}

func TestBoundOfRequests(t *testing.T) {
	t.Parallel()
	c := newBed(t, Config{MaxRequests: 2}, sasl.Config{}).dial(t, "2")
	for _, id := range []string{"1", "2"} {
		c.say("AUTH", id, "LOGIN", "secured")
		c.want("CONT", id, b64("Username:"))
	}
	c.say("AUTH", "3", "LOGIN", "secured")
	c.want("FAIL", "3", "temp", "code=temp_fail", tempReason)
}

// TestRequestsExpire: an exchange nobody goes on with makes room for others.
func TestRequestsExpire(t *testing.T) {
	t.Parallel()
	b := newBed(t, Config{MaxRequests: 1, RequestTimeout: 20 * time.Millisecond}, sasl.Config{})
	c := b.dial(t, "2")
	n := 0
	ask := func(want string, parameters ...string) (asked bool) {
		n++
		c.say(append([]string{"AUTH", fmt.Sprint(n)}, parameters...)...)
		return c.read()[0] == want
	}
	for !ask("CONT", "LOGIN", "secured") { // on a busy machine it may be late itself
	}
	for !ask("OK", "PLAIN", "secured", plain("alice", "right")) { // until it has expired
	}
	if b.Results()[ResultAbandoned] != 1 {
		t.Errorf("results %v", b.Results())
	}
}

// TestRequestThatIsLate: a request whose time ends while it is being decided is
// not left waiting for its client afterwards: nothing would end it any more.
func TestRequestThatIsLate(t *testing.T) {
	t.Parallel()
	b := newBed(t, Config{}, sasl.Config{})
	near, far := net.Pipe()
	defer far.Close()
	s := newSession(b.Server, b.cfg.Load(), near)
	s.live, s.cut = context.WithCancel(t.Context())
	defer s.cut()
	r, err := s.open(1, "LOGIN", []string{"secured"})
	if err != nil {
		t.Fatal(err)
	}
	s.expire(r)
	s.step(r, nil)
	if got := strings.Fields(string(<-s.out)); got[0] != "FAIL" || got[2] != "temp" || len(s.requests) != 0 {
		t.Errorf("answered %q, and %d requests are left", got, len(s.requests))
	}
}

// TestNonsense ends the connection and nothing else.
func TestNonsense(t *testing.T) {
	t.Parallel()
	b := newBed(t, Config{}, sasl.Config{})
	for name, lines := range map[string]string{
		"number":             "AUTH\tx\tPLAIN\n",
		"large number":       "AUTH\t99999999999\tPLAIN\n",
		"no number":          "AUTH\n",
		"no mechanism":       "AUTH\t1\n",
		"twice":              "AUTH\t1\tLOGIN\tsecured\nAUTH\t1\tLOGIN\tsecured\n",
		"version again":      "VERSION\t1\t2\n",
		"too long":           strings.Repeat("x", wire.MaxLineOctets+1),
		"response too early": "AUTH\t1\tPLAIN\tsecured\t" + plain("slow", "right") + "\nCONT\t1\t\n",
	} {
		c := b.dial(t, "2")
		if _, err := c.Write([]byte(lines)); err != nil {
			t.Fatal(err)
		}
		for {
			fields, err := wire.ReadLine(c.lines)
			if err != nil {
				break
			}
			if fields[0] != "CONT" {
				t.Errorf("%s: got %q", name, fields)
			}
		}
	}
	early, err := net.Dial("tcp", b.address.String())
	if err != nil {
		t.Fatal(err)
	}
	defer early.Close()
	if _, err := early.Write([]byte("AUTH\t1\tPLAIN\tsecured\t" + plain("alice", "right") + "\n")); err != nil {
		t.Fatal(err)
	}
	if said, _ := io.ReadAll(early); strings.Contains(string(said), "OK\t") {
		t.Errorf("somebody logged in before VERSION: %q", said)
	}
	b.dial(t, "2") // and others are served
}

// TestStop: a stop waits for what is being decided and closes idle connections
// at once.
func TestStop(t *testing.T) {
	t.Parallel()
	b := newBed(t, Config{}, sasl.Config{})
	idle, busy := b.dial(t, "2"), b.dial(t, "2")
	busy.say("AUTH", "1", "PLAIN", "secured", plain("slow", "right"))
	busy.say("AUTH", "2", "PLAIN", "secured", plain("alice", "right"))
	busy.want("OK", "2", "user=alice")
	b.stop()
	idle.wantEnd()
	close(b.verifier.hold)
	busy.want("OK", "1", "user=slow")
	busy.wantEnd()
	if err := <-b.ended; err != nil || b.Sessions() != 0 {
		t.Errorf("ended with %v, %d connections", err, b.Sessions())
	}
}

// TestGraceEnds: a stop does not wait for ever.
func TestGraceEnds(t *testing.T) {
	t.Parallel()
	b := newBed(t, Config{Grace: time.Millisecond}, sasl.Config{})
	c := b.dial(t, "2")
	c.say("AUTH", "1", "PLAIN", "secured", plain("slow", "right"))
	c.say("AUTH", "2", "PLAIN", "secured", plain("alice", "right"))
	c.want("OK", "2", "user=alice")
	b.stop()
	if err := <-b.ended; err != nil {
		t.Error(err)
	}
}

func TestWhoMayConnect(t *testing.T) {
	t.Parallel()
	cfg := Config{Networks: []netip.Prefix{netip.MustParsePrefix("192.0.2.0/24")}}
	for address, want := range map[string]bool{"127.0.0.1": true, "::1": true, "192.0.2.9": true, "::ffff:192.0.2.9": true, "192.0.3.9": false, "2001:db8::1": false} {
		if got := cfg.admits(&net.TCPAddr{IP: net.ParseIP(address), Port: 1}); got != want {
			t.Errorf("%s: %v", address, got)
		}
	}
	if !cfg.admits(&net.UnixAddr{Net: "unix"}) {
		t.Error("a unix socket is guarded by its permissions")
	}
}

func TestBoundOfConnections(t *testing.T) {
	t.Parallel()
	b := newBed(t, Config{MaxConnections: 1}, sasl.Config{})
	b.dial(t, "2")
	second, err := net.Dial("tcp", b.address.String())
	if err != nil {
		t.Fatal(err)
	}
	defer second.Close()
	if said, _ := io.ReadAll(second); len(said) > 0 {
		t.Errorf("a second connection was greeted: %q", said)
	}
}

// TestNothingOnOffer: without a mechanism there is no greeting that could make
// a client believe in one.
func TestNothingOnOffer(t *testing.T) {
	t.Parallel()
	b := newBed(t, Config{}, sasl.Config{Mechanisms: []string{"GSSAPI"}})
	conn, err := net.Dial("tcp", b.address.String())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if said, _ := io.ReadAll(conn); len(said) > 0 {
		t.Errorf("greeted with %q", said)
	}
}

func FuzzSession(f *testing.F) {
	f.Add([]byte("VERSION\t1\t2\nCPID\t1\nAUTH\t1\tPLAIN\tsecured\tresp=AGEAcmlnaHQ=\n"))
	f.Add([]byte("VERSION\t1\t0\nAUTH\t1\tLOGIN\tsecured\nCONT\t1\tYQ==\nCONT\t1\tYQ==\nCANCEL\t1\n"))
	f.Add([]byte("AUTH\t1\n"))
	f.Fuzz(func(t *testing.T, said []byte) {
		v := &verifier{hold: make(chan struct{})}
		s, err := New(Config{Name: "fuzz", Workers: 2, MaxRequests: 4}, func() (*sasl.Mechanisms, error) {
			return sasl.New(sasl.Config{}, sasl.Deps{Verifier: v})
		}, hclog.NewNullLogger())
		if err != nil {
			t.Fatal(err)
		}
		close(v.hold)
		near, far := net.Pipe()
		var all sync.WaitGroup
		all.Go(func() { s.serveConn(context.Background(), near) })
		all.Go(func() { _, _ = io.Copy(io.Discard, far) })
		_ = far.SetWriteDeadline(time.Now().Add(time.Minute))
		_, _ = far.Write(said)
		_ = far.Close()
		all.Wait()
	})
}
