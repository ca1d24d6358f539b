package delegation

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/postern-mail/postern/internal/testenv"
	"github.com/postern-mail/postern/mail"
	"github.com/postern-mail/postern/policy"
)

func rcpt(ip, from, to string) *mail.Transaction {
	tx := &mail.Transaction{Phase: mail.PhaseRecipient, Recipient: &mail.Recipient{Address: mail.MustAddress(to)}, Started: time.Unix(1_700_000_000, 0)}
	tx.Client = mail.Client{
		Session: "s1", Remote: netip.AddrPortFrom(netip.MustParseAddr(ip), 4711), Local: netip.MustParseAddrPort("192.0.2.25:25"),
		Hostname: "client.example", Helo: "helo.example", Extended: true,
	}
	if from != "" {
		tx.Envelope.ReversePath = mail.MustAddress(from)
	}
	return tx
}

// TestRequest is what goes over the wire, octet by octet.
func TestRequest(t *testing.T) {
	t.Parallel()
	tx := rcpt("::ffff:198.51.100.7", "sender@example.org", "alice@example.com")
	tx.Client.TLS = &mail.TLSInfo{Version: "TLSv1.3", Cipher: "TLS_AES_256_GCM_SHA384"}
	tx.Client.Identity = &mail.Identity{Authentication: "bob\nrecipient=x", Mechanism: "PLAIN"}
	tx.Envelope.DeclaredOctets = 1234
	tx.QueueID = "Q1"
	want := `request=smtpd_access_policy
protocol_state=RCPT
protocol_name=ESMTP
client_address=198.51.100.7
client_name=client.example
client_port=4711
reverse_client_name=unknown
server_address=192.0.2.25
server_port=25
helo_name=helo.example
sender=sender@example.org
recipient=alice@example.com
recipient_count=0
queue_id=Q1
instance=s1.17979cfe362a0000
size=1234
etrn_domain=
stress=
sasl_method=PLAIN
sasl_username=bob?recipient=x
sasl_sender=
ccert_subject=
ccert_issuer=
ccert_fingerprint=
ccert_pubkey_fingerprint=
encryption_protocol=TLSv1.3
encryption_cipher=TLS_AES_256_GCM_SHA384
encryption_keysize=256
tls_sni=
policy_context=submission
compatibility_level=3.6
mail_version=1.2

`
	if got := string(appendMessage(nil, attributesOf(tx, &Config{Context: "submission", Version: "1.2"}))); got != want {
		t.Errorf("got:\n%s", got)
	}
	tx.Phase, tx.Recipient, tx.Octets = mail.PhaseEndOfData, nil, 99
	one, two := mail.MustAddress("a@example.com"), mail.MustAddress("b@example.com")
	for _, tt := range []struct {
		to              []mail.Recipient
		recipient, want string
	}{
		{[]mail.Recipient{{Address: two, Accepted: one}}, "a@example.com", "1"},
		{[]mail.Recipient{{Address: one}, {Address: two}}, "", "2"},
	} {
		tx.Envelope.Recipients = tt.to
		all := attributesOf(tx, &Config{})
		for name, want := range map[string]string{"recipient": tt.recipient, "recipient_count": tt.want, "size": "99", "protocol_state": "END-OF-MESSAGE"} {
			if got, _ := valueOf(all, name); got != want {
				t.Errorf("%s is %q, want %q", name, got, want)
			}
		}
	}
	for phase, want := range map[mail.Phase]string{mail.PhaseConnect: "CONNECT", mail.PhaseHelo: "EHLO", mail.PhaseMail: "MAIL", mail.PhaseData: "DATA"} {
		tx.Phase = phase
		if got := stateOf(tx); got != want {
			t.Errorf("%s, want %s", got, want)
		}
	}
}

// program is a policy service that behaves as a test wants.
type program struct {
	net.Listener
	path        string
	connections atomic.Int64
	questions   atomic.Int64
}

// serveWith answers each connection by behave, until the test ends.
func serveWith(t *testing.T, behave func(p *program, in *bufio.Reader, conn net.Conn)) *program {
	t.Helper()
	path := filepath.Join(testenv.TempDir(t), "s")
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	p := &program{Listener: l, path: path}
	var all sync.WaitGroup
	var mu sync.Mutex
	var open []net.Conn
	all.Go(func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			p.connections.Add(1)
			mu.Lock()
			open = append(open, conn)
			mu.Unlock()
			all.Go(func() {
				defer conn.Close()
				behave(p, bufio.NewReaderSize(conn, maxLine), conn)
			})
		}
	})
	t.Cleanup(func() {
		_ = l.Close()
		mu.Lock()
		for _, conn := range open {
			_ = conn.Close()
		}
		mu.Unlock()
		all.Wait()
	})
	return p
}

// answering answers every question alike.
func answering(answer string) func(*program, *bufio.Reader, net.Conn) {
	return func(p *program, in *bufio.Reader, conn net.Conn) {
		for {
			if _, err := readMessage(in, func() {}); err != nil {
				return
			}
			p.questions.Add(1)
			if _, err := io.WriteString(conn, answer); err != nil {
				return
			}
		}
	}
}

func service(t *testing.T, cfg Config) *Service {
	t.Helper()
	s, err := NewService(cfg, hclog.NewNullLogger(), nil)
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- s.Run(ctx) }()
	t.Cleanup(func() {
		stop()
		<-ended
	})
	return s
}

func TestServiceAnswers(t *testing.T) {
	t.Parallel()
	p := serveWith(t, answering("comment=x\naction=DEFER_IF_PERMIT Wait a little\naction=REJECT the last counts\n\n"))
	s := service(t, Config{Address: "unix:" + p.path})
	for range 5 {
		if action, err := s.Ask(t.Context(), rcpt("192.0.2.1", "", "a@example.com")); err != nil || action != "REJECT the last counts" {
			t.Fatalf("%q, %v", action, err)
		}
	}
	if p.connections.Load() != 1 || p.questions.Load() != 5 {
		t.Errorf("%d questions over %d connections", p.questions.Load(), p.connections.Load())
	}
	limited := service(t, Config{Address: "unix:" + p.path, Requests: 2})
	for range 4 {
		if _, err := limited.Ask(t.Context(), rcpt("192.0.2.1", "", "a@example.com")); err != nil {
			t.Fatal(err)
		}
	}
	if n := p.connections.Load(); n != 3 {
		t.Errorf("%d connections, of which each may ask twice", n-1)
	}
}

// TestFaultyServices: whatever a service does, there is an error within the time
// allowed, and memory stays bounded.
func TestFaultyServices(t *testing.T) {
	t.Parallel()
	endless := func(chunk string) func(*program, *bufio.Reader, net.Conn) {
		return func(_ *program, _ *bufio.Reader, conn net.Conn) {
			for {
				if _, err := io.WriteString(conn, chunk); err != nil {
					return
				}
			}
		}
	}
	once := func(answer string) func(*program, *bufio.Reader, net.Conn) {
		return func(_ *program, in *bufio.Reader, conn net.Conn) {
			if _, err := readMessage(in, func() {}); err == nil {
				_, _ = io.WriteString(conn, answer)
			}
		}
	}
	for name, behave := range map[string]func(*program, *bufio.Reader, net.Conn){
		"hangs up":             func(*program, *bufio.Reader, net.Conn) {},
		"hangs up when asked":  once(""),
		"half an answer":       once("action=DUN"),
		"no end of the answer": once("action=DUNNO\n"),
		"no action":            answering("reply=DUNNO\n\n"),
		"an empty action":      answering("action=\n\n"),
		"junk":                 answering("\x00\xff\n\n"),
		"an endless line":      endless(strings.Repeat("x", 4096)),
		"endless attributes":   endless("a=b\n"),
		"slow":                 func(_ *program, in *bufio.Reader, _ net.Conn) { _, _ = io.Copy(io.Discard, in) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p := serveWith(t, behave)
			s := service(t, Config{Address: "unix:" + p.path, Timeout: 300 * time.Millisecond, RetryDelay: time.Millisecond, Tries: 2})
			action, err := s.Ask(t.Context(), rcpt("192.0.2.1", "", "a@example.com"))
			if err == nil {
				t.Errorf("it answered %q", action)
			}
			if s.Status().Failure == nil {
				t.Error("it does not count as down")
			}
			if got, err := NewStage(s.cfg, s).Action(t.Context(), rcpt("192.0.2.1", "", "a@example.com")); err != nil || got != DefaultAction {
				t.Errorf("the stage answers %q, %v", got, err)
			}
		})
	}
}

// TestAServiceThatIsDown is left alone for a while, with one line in the log for
// each change.
func TestAServiceThatIsDown(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var log strings.Builder
		s, err := NewService(Config{Name: "grey", Address: "unix:/nowhere"}, hclog.New(&hclog.LoggerOptions{Output: &log}), nil)
		if err != nil {
			t.Fatal(err)
		}
		down, dials := true, 0
		s.pool.dial = func(context.Context) (net.Conn, error) {
			dials++
			if down {
				return nil, errors.New("connection refused")
			}
			ours, theirs := net.Pipe()
			go answering("action=dunno\n\n")(&program{}, bufio.NewReaderSize(theirs, maxLine), theirs)
			return ours, nil
		}
		tx := rcpt("192.0.2.1", "", "a@example.com")
		for range 1000 {
			if _, err := s.Ask(t.Context(), tx); err == nil {
				t.Fatal("it answers")
			}
		}
		if dials != 2 {
			t.Errorf("%d tries for a thousand questions", dials)
		}
		for range 600 {
			time.Sleep(time.Second)
			_, _ = s.Ask(t.Context(), tx)
		}
		if dials > 60 {
			t.Errorf("%d tries in ten minutes", dials)
		}
		down = false
		time.Sleep(lastPause)
		if action, err := s.Ask(t.Context(), tx); err != nil || action != "dunno" {
			t.Errorf("back again: %q, %v", action, err)
		}
		if got := log.String(); strings.Count(got, "\n") != 2 || !strings.Contains(got, "does not answer") || !strings.Contains(got, "answers again") {
			t.Errorf("the log says:\n%s", got)
		}
		s.pool.close()
	})
}

// TestKeptConnectionsThatEnded: a service that was restarted, or closes idle
// connections, is not down.
func TestKeptConnectionsThatEnded(t *testing.T) {
	t.Parallel()
	p := serveWith(t, func(p *program, in *bufio.Reader, conn net.Conn) {
		if _, err := readMessage(in, func() {}); err == nil {
			p.questions.Add(1)
			_, _ = io.WriteString(conn, "action=DUNNO\n\n")
		}
	})
	s := service(t, Config{Address: "unix:" + p.path, Tries: 1})
	for range 5 {
		if action, err := s.Ask(t.Context(), rcpt("192.0.2.1", "", "a@example.com")); err != nil || action != "DUNNO" {
			t.Fatalf("%q, %v", action, err)
		}
	}
	if p.questions.Load() != 5 {
		t.Errorf("%d questions", p.questions.Load())
	}
}

func TestConnectionsAreBounded(t *testing.T) {
	t.Parallel()
	release := make(chan struct{})
	p := serveWith(t, func(p *program, in *bufio.Reader, conn net.Conn) {
		for {
			if _, err := readMessage(in, func() {}); err != nil {
				return
			}
			<-release
			_, _ = io.WriteString(conn, "action=DUNNO\n\n")
		}
	})
	s := service(t, Config{Address: "unix:" + p.path, Connections: 3})
	var all sync.WaitGroup
	for range 20 {
		all.Go(func() {
			if _, err := s.Ask(context.Background(), rcpt("192.0.2.1", "", "a@example.com")); err != nil {
				t.Error(err)
			}
		})
	}
	for p.connections.Load() < 3 {
		release <- struct{}{} // as long as they come one after the other
	}
	close(release)
	all.Wait()
	if n := p.connections.Load(); n != 3 {
		t.Errorf("%d connections", n)
	}
}

// TestPostgrey: the real one puts off, and passes after its delay.
func TestPostgrey(t *testing.T) {
	t.Parallel()
	s := service(t, Config{Address: "inet:" + testenv.Postgrey(t, 1)})
	tx := rcpt("198.51.100.7", "sender@example.org", "alice@example.com")
	action, err := s.Ask(t.Context(), tx)
	if err != nil || !strings.HasPrefix(action, "DEFER_IF_PERMIT") {
		t.Fatalf("first: %q, %v", action, err)
	}
	testenv.Eventually(t, time.Minute, func() error {
		action, err = s.Ask(t.Context(), tx)
		if err != nil {
			t.Fatal(err)
		}
		if strings.HasPrefix(action, "PREPEND X-Greylist: delayed ") {
			return nil
		}
		return fmt.Errorf("postgrey says %q", action)
	})
	if err := policy.CheckAction(action); err != nil {
		t.Error(err)
	}
}

func TestPolicydSPF(t *testing.T) {
	t.Parallel()
	s := service(t, Config{Address: "unix:" + testenv.PolicydSPF(t)})
	tx := rcpt("192.0.2.7", "sender@example.org", "alice@example.com")
	action, err := s.Ask(t.Context(), tx)
	if err != nil || !strings.HasPrefix(strings.ToUpper(action), "PREPEND ") || !strings.Contains(action, "SPF") {
		t.Fatalf("%q, %v", action, err)
	}
	if err := policy.CheckAction(action); err != nil {
		t.Error(err)
	}
}

func TestRestrictionSays(t *testing.T) {
	t.Parallel()
	blocks := map[string]Config{"grey": {Name: "grey", Address: "inet:127.0.0.1:10023", Timeout: time.Second}}
	spec := func(pairs ...string) policy.Spec {
		args := make(map[string][]string)
		for i := 0; i < len(pairs); i += 2 {
			args[pairs[i]] = []string{pairs[i+1]}
		}
		return policy.Spec{Name: StageName, Args: args}
	}
	c, err := With(spec("service", "policy_service.grey", "default_action", "DUNNO", "policy_context", "mx", "try_limit", "1"), blocks)
	if err != nil || c.Address != "inet:127.0.0.1:10023" || c.Timeout != time.Second || c.DefaultAction != "DUNNO" || c.Context != "mx" || c.Tries != 1 {
		t.Errorf("%+v, %v", c, err)
	}
	c, err = With(spec("address", "unix:/run/x", "timeout", "10s", "max_idle", "1m", "max_ttl", "2m", "retry_delay", "3s", "request_limit", "7", "connections", "9"), nil)
	if err != nil || c.Timeout != 10*time.Second || c.Requests != 7 || c.Connections != 9 {
		t.Errorf("%+v, %v", c, err)
	}
	for want, wrong := range map[string]policy.Spec{
		"it needs service":   spec(),
		"no block":           spec("service", "other"),
		"exclude":            spec("service", "grey", "address", "unix:/x"),
		"neither":            spec("address", "127.0.0.1:1"),
		"absolute":           spec("address", "unix:x"),
		"no time":            spec("address", "unix:/x", "timeout", "10"),
		"no number":          spec("address", "unix:/x", "try_limit", "-1"),
		"above 10":           spec("address", "unix:/x", "try_limit", "11"),
		"default_action":     spec("address", "unix:/x", "default_action", "PERHAPS"),
		"attribute \"time\"": spec("address", "unix:/x", "time", "1"),
	} {
		if _, err := With(wrong, blocks); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v: %v, want %q", wrong.Args, err, want)
		}
	}
}

func FuzzAnswer(f *testing.F) {
	f.Add("action=DUNNO\n\n")
	f.Add("a=b\r\naction=450 x\r\n\r\n")
	f.Add("\n")
	f.Add("0=\n =\n\n")
	f.Add(strings.Repeat("a=b\n", 300))
	f.Fuzz(func(t *testing.T, text string) {
		all, err := readMessage(bufio.NewReaderSize(strings.NewReader(text), maxLine), func() {})
		if err != nil {
			return
		}
		if len(all) > maxAttributes {
			t.Errorf("%d attributes", len(all))
		}
		again, err := readMessage(bufio.NewReaderSize(strings.NewReader(string(appendMessage(nil, all))), maxLine), func() {})
		if err != nil && !errors.Is(err, errTooLarge) || err == nil && len(again) != len(all) {
			t.Errorf("%q is read as %q: %v", all, again, err)
		}
		if action, found := valueOf(all, "action"); found {
			_ = policy.CheckAction(action)
		}
	})
}

// TestRehearsal: a service is not asked about mail that does not come, since it
// might remember it; the step tells so.
func TestRehearsal(t *testing.T) {
	t.Parallel()
	p := serveWith(t, answering("action=REJECT\n\n"))
	s := service(t, Config{Address: "unix:" + p.Addr().String()})
	stage := NewStage(s.cfg, s)
	action, err := stage.Action(policy.Rehearsal(t.Context()), rcpt("198.51.100.7", "", "alice@example.com"))
	if err != nil || policy.CheckAction(action) != nil || !strings.HasPrefix(action, "INFO ") {
		t.Errorf("%q, %v", action, err)
	}
	if len(s.pool.open) != 0 {
		t.Error("the service was connected to")
	}
}
