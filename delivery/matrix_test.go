package delivery_test

import (
	"bufio"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/postern-mail/postern/delivery"
	"github.com/postern-mail/postern/delivery/tlspolicy"
	"github.com/postern-mail/postern/internal/testenv"
	"github.com/postern-mail/postern/mail"
)

// answering is an LMTP server whose replies follow from the local-part: "full"
// is put off at RCPT, "unknown" refused there, "late" put off and "never"
// refused after the data; "lost" ends the connection in place of that reply.
type answering struct {
	tls      *tls.Config // nil offers none
	implicit bool
	open     atomic.Int32
	hangUp   chan struct{} // closed: connections end that are idle

	mu    sync.Mutex
	taken map[string]int
	over  []uint16 // TLS version of each connection, 0 without
}

func (s *answering) count(who string) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.taken[who]
}

func (s *answering) listen(t *testing.T, network string) (address string) {
	t.Helper()
	at := "127.0.0.1:0"
	if network == "unix" {
		at = filepath.Join(testenv.TempDir(t), "s")
	}
	l, err := net.Listen(network, at)
	if err != nil {
		t.Fatal(err)
	}
	var all sync.WaitGroup
	all.Go(func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			all.Go(func() {
				s.open.Add(1)
				defer s.open.Add(-1)
				defer conn.Close()
				_ = conn.SetDeadline(time.Now().Add(2 * time.Minute))
				s.serve(conn)
			})
		}
	})
	t.Cleanup(func() { _ = l.Close(); s.endIdle(); all.Wait() })
	if network == "unix" {
		return "unix:" + at
	}
	return l.Addr().String()
}

// endIdle ends the connections there are, and later ones work again.
func (s *answering) endIdle() {
	s.mu.Lock()
	defer s.mu.Unlock()
	close(s.hangUp)
	s.hangUp = make(chan struct{})
}

func (s *answering) serve(plain net.Conn) {
	s.mu.Lock()
	end := s.hangUp
	s.mu.Unlock()
	ended := make(chan struct{})
	defer close(ended)
	go func() {
		select {
		case <-end:
			_ = plain.Close()
		case <-ended:
		}
	}()
	conn := plain
	if s.implicit {
		conn = tls.Server(plain, s.tls)
	}
	s.converse(conn, "220 x\r\n")
}

func (s *answering) converse(conn net.Conn, greeting string) {
	r := bufio.NewReader(conn)
	say := func(text string) { _, _ = io.WriteString(conn, text) }
	say(greeting)
	var to []string
	for {
		line, err := r.ReadString('\n')
		if err != nil {
			return
		}
		verb, _, _ := strings.Cut(strings.TrimSpace(line), " ")
		switch verb {
		case "LHLO":
			version := uint16(0)
			c, encrypted := conn.(*tls.Conn)
			if encrypted {
				version = c.ConnectionState().Version
			}
			s.mu.Lock()
			s.over = append(s.over, version)
			s.mu.Unlock()
			if s.tls != nil && !encrypted {
				say("250-x\r\n250-STARTTLS\r\n250 PIPELINING\r\n")
			} else {
				say("250-x\r\n250 PIPELINING\r\n")
			}
		case "STARTTLS":
			say("220 go\r\n")
			s.converse(tls.Server(conn, s.tls), "")
			return
		case "RCPT":
			who, _, _ := strings.Cut(line[strings.IndexByte(line, '<')+1:], "@")
			switch who {
			case "full":
				say("450 4.2.2 full\r\n")
			case "unknown":
				say("550 5.1.1 unknown\r\n")
			default:
				to = append(to, who)
				say("250 2.1.5 ok\r\n")
			}
		case "DATA":
			say("354 go\r\n")
			for line != ".\r\n" {
				if line, err = r.ReadString('\n'); err != nil {
					return
				}
			}
			for _, who := range to {
				switch who {
				case "late":
					say("451 4.3.0 late\r\n")
				case "never":
					say("554 5.6.0 never\r\n")
				case "lost":
					return
				default:
					s.mu.Lock()
					s.taken[who]++
					s.mu.Unlock()
					say("250 2.0.0 ok\r\n")
				}
			}
			to = nil
		default:
			say("250 ok\r\n")
		}
	}
}

// TestLMTPMatrix: over every way to connect each recipient gets the reply that
// is theirs, connections are used again, and one that went stale between
// messages costs nobody an attempt.
func TestLMTPMatrix(t *testing.T) {
	t.Parallel()
	ca, other := testenv.NewCA(t), testenv.NewCA(t)
	caFile, otherFile := ca.WriteFile(testenv.TempDir(t)), other.WriteFile(testenv.TempDir(t))
	good := &tls.Config{Certificates: []tls.Certificate{ca.Issue("localhost", "127.0.0.1").TLS(t)}}
	const untrusted = "deferred 4.7.5"
	for _, tt := range []struct {
		name, network string
		tls           *tls.Config
		implicit      bool
		target        delivery.Target
		encrypted     bool
		refused       string // what every recipient gets; "" where the connection is good
	}{
		{"unix", "unix", nil, false, delivery.Target{}, false, ""},
		{"unix, TLS offered", "unix", good, false, delivery.Target{}, false, ""},
		{"tcp", "tcp", nil, false, delivery.Target{TLS: tlspolicy.None}, false, ""},
		{"starttls, may", "tcp", good, false, delivery.Target{TLS: tlspolicy.May, CAFile: otherFile}, true, ""},
		{"starttls, encrypt", "tcp", good, false, delivery.Target{TLS: tlspolicy.Encrypt, CAFile: otherFile}, true, ""},
		{"starttls, verify", "tcp", good, false, delivery.Target{TLS: tlspolicy.Verify, CAFile: caFile}, true, ""},
		{"starttls, another authority", "tcp", good, false, delivery.Target{TLS: tlspolicy.Verify, CAFile: otherFile}, false, untrusted},
		{"starttls, another name", "tcp", good, false, delivery.Target{TLS: tlspolicy.Verify, CAFile: caFile, ServerName: "mail.example.com"}, false, untrusted},
		{"starttls, not offered", "tcp", nil, false, delivery.Target{TLS: tlspolicy.Verify, CAFile: caFile}, false, "deferred 4.7.4"},
		{"implicit, verify", "tcp", good, true, delivery.Target{ImplicitTLS: true, CAFile: caFile}, true, ""},
		{"implicit, encrypt", "tcp", good, true, delivery.Target{ImplicitTLS: true, TLS: tlspolicy.Encrypt, CAFile: otherFile}, true, ""},
		{"implicit, another authority", "tcp", good, true, delivery.Target{ImplicitTLS: true, CAFile: otherFile}, false, untrusted},
		{"implicit, another name", "tcp", good, true, delivery.Target{ImplicitTLS: true, CAFile: caFile, ServerName: "mail.example.com"}, false, untrusted},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			s := &answering{tls: tt.tls, implicit: tt.implicit, taken: make(map[string]int), hangUp: make(chan struct{})}
			tt.target.Addresses = []string{s.listen(t, tt.network)}
			tr := newQuietLMTP(t, tt.target)
			deliver := func(want string, to ...string) {
				t.Helper()
				if tt.refused != "" {
					want = strings.TrimSuffix(strings.Repeat(tt.refused+", ", len(to)), ", ")
				}
				for i := range to {
					to[i] += "@example.com"
				}
				if got := tr.Deliver(t.Context(), message(to...)); sketch(got) != want {
					t.Errorf("%v: got %s, want %s: %+v", to, sketch(got), want, got)
				}
			}
			mixed := []string{"ok", "full", "unknown", "late", "never"}
			const replies = "delivered by peer 2.0.0, deferred by peer 4.2.2, bounced by peer 5.1.1, deferred by peer 4.3.0, bounced by peer 5.6.0"
			deliver(replies, append([]string(nil), mixed...)...)
			deliver(replies, append([]string(nil), mixed...)...)
			if tt.refused != "" {
				if len(s.taken) > 0 {
					t.Errorf("took %v over a connection that is not good enough", s.taken)
				}
				return
			}
			s.endIdle()
			testenv.Eventually(t, time.Minute, func() error {
				if s.open.Load() > 0 {
					return errors.New("connection still open")
				}
				return nil
			})
			deliver("delivered by peer 2.0.0", "ok")
			deliver("delivered by peer 2.0.0, deferred 4.4.2, deferred 4.4.2", "ok", "lost", "ok2")
			deliver("delivered by peer 2.0.0", "ok")
			if n := s.count("ok"); n != 5 {
				t.Errorf("took %d messages for one recipient, want 5", n)
			}
			s.mu.Lock()
			defer s.mu.Unlock()
			// STARTTLS says LHLO twice; the connection is made at the start, after
			// it went stale and after the reply was lost.
			var protected []uint16
			for _, v := range s.over {
				if v != 0 || !tt.encrypted {
					protected = append(protected, v)
				}
			}
			if len(protected) != 3 || (protected[0] != 0) != tt.encrypted {
				t.Errorf("connections with TLS versions %v", fmt.Sprint(s.over))
			}
		})
	}
}

// TestLMTPOutcomesAreUncertain: of the recipients whose reply was lost nobody
// knows, of the others everybody does.
func TestLMTPOutcomesAreUncertain(t *testing.T) {
	t.Parallel()
	s := &answering{taken: make(map[string]int), hangUp: make(chan struct{})}
	tr := newLMTP(t, delivery.Target{Addresses: []string{s.listen(t, "unix")}})
	got := tr.Deliver(t.Context(), message("late@example.com", "unknown@example.com", "lost@example.com", "ok@example.com"))
	for i, uncertain := range []bool{false, false, true, true} {
		if got[i].Uncertain != uncertain || got[i].Class == mail.Delivered {
			t.Errorf("recipient %d: %+v", i, got[i])
		}
	}
}
