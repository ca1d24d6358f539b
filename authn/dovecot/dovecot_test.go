package dovecot

import (
	"bytes"
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/postern-mail/postern/authn"
	"github.com/postern-mail/postern/authn/dovecot/wire"
	"github.com/postern-mail/postern/internal/testenv"
	"github.com/postern-mail/postern/status"
)

func TestMain(m *testing.M) { os.Exit(testenv.Main(m)) }

// newVerifier returns a running verifier.
func newVerifier(t *testing.T, cfg Config) *Verifier {
	t.Helper()
	if cfg.Timeout == 0 {
		cfg.Timeout = time.Minute // of a busy machine
	}
	v, err := New(cfg, hclog.NewNullLogger())
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() { _ = v.Run(ctx) })
	t.Cleanup(func() { cancel(); running.Wait() })
	return v
}

func attempt(login, password string) authn.Attempt {
	return authn.Attempt{Login: login, Password: password, Service: "imaps", Session: "s1", Remote: netip.MustParseAddrPort("192.0.2.7:4711")}
}

// kind sorts an answer the way the chain does.
func kind(err error) string {
	switch {
	case err == nil:
		return "yes"
	case errors.Is(err, authn.ErrRefused) && status.Of(err) == status.AuthFailed:
		return "account"
	case status.Of(err) == status.AuthFailed:
		return "no"
	case errors.Is(err, authn.ErrUnknownLogin):
		return "not mine"
	}
	return "unknown"
}

// TestDovecot asks a real one: right and wrong passwords, many at a time, over
// its restart, and while it is away.
func TestDovecot(t *testing.T) {
	t.Parallel()
	s := testenv.Dovecot(t, "alice@example.com", "bob@example.com")
	v := newVerifier(t, Config{Socket: s.Auth})
	identity, err := v.Verify(t.Context(), attempt("alice@example.com", s.Password))
	if err != nil || identity.Authentication != "alice@example.com" {
		t.Fatalf("right password: %+v, %v", identity, err)
	}
	var all sync.WaitGroup
	for i := range 20 {
		all.Go(func() {
			password, want := s.Password, "yes"
			if i%4 == 0 {
				password, want = fmt.Sprint("wrong", i), "no"
			}
			if _, err := v.Verify(t.Context(), attempt("bob@example.com", password)); kind(err) != want {
				t.Errorf("login %d: %v, want %s", i, err, want)
			}
		})
	}
	all.Wait()
	if _, err := v.Verify(t.Context(), attempt("nobody@example.com", s.Password)); kind(err) != "no" {
		t.Errorf("a login nobody has: %v", err)
	}
	s.Process().Stop()
	s.Process().Kill() // its auth process serves those who are connected to the end
	if _, err := newVerifier(t, Config{Socket: s.Auth}).Verify(t.Context(), attempt("alice@example.com", s.Password)); kind(err) != "unknown" {
		t.Errorf("without Dovecot: %v", err)
	}
	s.Restart()
	if _, err := v.Verify(t.Context(), attempt("alice@example.com", s.Password)); kind(err) != "yes" {
		t.Errorf("after a restart: %v", err)
	}
}

// fake is a server whose answers are written in the test.
type fake struct {
	socket string
	asked  chan []string // fields of each AUTH
}

const goodGreeting = "VERSION\t1\t2\nMECH\tPLAIN\tplaintext\nSPID\t1\nCUID\t1\nCOOKIE\t00\nDONE\n"

// newFake greets each connection and answers each AUTH by what answer makes of
// its number; "" closes the connection.
func newFake(t *testing.T, greeting string, answer func(id string) string) *fake {
	t.Helper()
	f := &fake{socket: filepath.Join(testenv.TempDir(t), "auth"), asked: make(chan []string, 100)}
	l, err := net.Listen("unix", f.socket)
	if err != nil {
		t.Fatal(err)
	}
	var all sync.WaitGroup
	t.Cleanup(func() { l.Close(); all.Wait() })
	all.Go(func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			all.Go(func() { f.serve(conn, greeting, answer) })
		}
	})
	return f
}

func (f *fake) serve(conn net.Conn, greeting string, answer func(string) string) {
	defer conn.Close()
	if _, err := conn.Write([]byte(greeting)); err != nil {
		return
	}
	lines := wire.NewReader(conn)
	for {
		fields, err := wire.ReadLine(lines)
		if err != nil {
			return
		}
		if fields[0] != "AUTH" {
			continue
		}
		f.asked <- fields
		said := answer(fields[1])
		if said == "" {
			return
		}
		if _, err := conn.Write([]byte(said)); err != nil {
			return
		}
	}
}

func TestAnswers(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct{ answer, want string }{
		"yes":                     {"OK\t%s\tuser=Alice@Example.com\n", "yes"},
		"yes without a name":      {"OK\t%s\n", "unknown"},
		"yes with a name not one": {"OK\t%s\tuser=a\x01tb\n", "unknown"},
		"no":                      {"FAIL\t%s\tuser=alice\n", "no"},
		"no, bare":                {"FAIL\t%s\n", "no"},
		"temporary":               {"FAIL\t%s\tuser=alice\ttemp\n", "unknown"},
		"temporary, by code":      {"FAIL\t%s\tcode=temp_fail\n", "unknown"},
		"disabled":                {"FAIL\t%s\tuser_disabled\tcode=user_disabled\n", "account"},
		"expired":                 {"FAIL\t%s\tpass_expired\n", "account"},
		"not authorized":          {"FAIL\t%s\tauthz\treason=no\n", "account"},
		"needs TLS":               {"FAIL\t%s\tcode=auth_mech_ssl_required\n", "unknown"},
		"goes on":                 {"CONT\t%s\t\n", "unknown"},
		"for somebody else first": {"OK\t77\tuser=bob\nNEWS\nFAIL\t%s\n", "no"},
		"nonsense":                {"OK\tx%s\n", "unknown"},
		"half a line":             {"OK", "unknown"},
		"a line without end":      {strings.Repeat("x", 20000), "unknown"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := newFake(t, goodGreeting, func(id string) string {
				if strings.Contains(test.answer, "%s") {
					return fmt.Sprintf(test.answer, id)
				}
				return test.answer
			})
			cfg := Config{Socket: f.socket}
			if test.want == "unknown" {
				cfg.Timeout = 300 * time.Millisecond // some of these never end
			}
			identity, err := newVerifier(t, cfg).Verify(t.Context(), attempt("alice", "secret"))
			if kind(err) != test.want {
				t.Errorf("got %v, want %s", err, test.want)
			}
			if err == nil && identity.Authentication != "alice@example.com" {
				t.Errorf("identity %+v", identity)
			}
		})
	}
}

func TestGreetings(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct{ greeting, want string }{
		"another version": {"VERSION\t2\t0\n", "another version"},
		"master socket":   {"VERSION\t1\t2\nSPID\t1\n", "auth-client"},
		"no PLAIN":        {"VERSION\t1\t2\nMECH\tGSSAPI\nSPID\t1\nDONE\n", "auth_mechanisms"},
		"no end":          {strings.Repeat("X\n", 500), "no end"},
	} {
		f := newFake(t, test.greeting, func(string) string { return "" })
		_, err := newVerifier(t, Config{Socket: f.socket}).Verify(t.Context(), attempt("alice", "secret"))
		if kind(err) != "unknown" || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestRequest: what Dovecot is told, with resp last and the password nowhere
// else; and that a connection that ends before the answer is asked again, once.
func TestRequest(t *testing.T) {
	t.Parallel()
	var asked atomic.Int32
	f := newFake(t, goodGreeting, func(id string) string {
		if asked.Add(1) == 1 {
			return ""
		}
		return "OK\t" + id + "\tuser=alice\n"
	})
	v := newVerifier(t, Config{Socket: f.socket})
	if _, err := v.Verify(t.Context(), attempt("alice", "sec\tret")); err != nil {
		t.Fatal(err)
	}
	<-f.asked
	fields := <-f.asked
	resp := "resp=" + base64.StdEncoding.EncodeToString([]byte("\x00alice\x00sec\tret"))
	want := "PLAIN service=imap nologin secured no-penalty session=s1 rip=192.0.2.7 rport=4711 " + resp
	if got := strings.Join(fields[2:], " "); got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
}

// TestSilence: an answer that does not come is not known, and spoils nothing
// for others on the connection.
func TestSilence(t *testing.T) {
	t.Parallel()
	var asked atomic.Int32
	f := newFake(t, goodGreeting, func(id string) string {
		if asked.Add(1) == 1 {
			return "CUID\t1\n" // a command that is no answer
		}
		return "OK\t" + id + "\tuser=alice\n"
	})
	v := newVerifier(t, Config{Socket: f.socket, Timeout: 200 * time.Millisecond})
	if _, err := v.Verify(t.Context(), attempt("alice", "secret")); kind(err) != "unknown" {
		t.Errorf("no answer: %v", err)
	}
	// A busy machine may take longer than that, too.
	testenv.Eventually(t, time.Minute, func() error {
		_, err := v.Verify(t.Context(), attempt("alice", "secret"))
		return err
	})
}

func TestNoSocket(t *testing.T) {
	t.Parallel()
	v := newVerifier(t, Config{Socket: filepath.Join(testenv.TempDir(t), "absent")})
	if _, err := v.Verify(t.Context(), attempt("alice", "secret")); kind(err) != "unknown" {
		t.Errorf("got %v", err)
	}
	if _, err := v.Verify(t.Context(), attempt("alice", "")); kind(err) != "no" {
		t.Errorf("an empty password: %v", err)
	}
}

func FuzzAnswers(f *testing.F) {
	f.Add([]byte("OK\t1\tuser=alice\n"))
	f.Add([]byte("FAIL\t1\ttemp\nOK\t1\n"))
	f.Add([]byte("CONT\t1\n\n\t\n"))
	f.Fuzz(func(t *testing.T, said []byte) {
		conn, other := net.Pipe()
		defer other.Close()
		l := &link{conn: conn, waiting: map[uint32]chan []string{1: make(chan []string, 1)}}
		answer := l.waiting[1]
		_ = l.read(wire.NewReader(bytes.NewReader(said)))
		if fields, ok := <-answer; ok {
			if identity, err := judge(fields); err == nil && identity.Authentication == "" {
				t.Fatal("somebody without a name")
			}
		}
	})
}
