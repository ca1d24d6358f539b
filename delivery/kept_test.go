package delivery_test

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"strings"
	"sync"
	"testing"
	"testing/synctest"

	"github.com/postern-mail/postern/mail"
)

// keepServer is the node of a pair that asks to keep what it takes.
type keepServer struct {
	mu     sync.Mutex
	sign   string // of the answers to KEPT
	taken  int
	tokens []string // that were asked after
}

func (s *keepServer) set(sign string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.sign = sign
}

func (s *keepServer) seen() (taken int, tokens []string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.taken, s.tokens
}

func (s *keepServer) answer(line string) string {
	s.mu.Lock()
	defer s.mu.Unlock()
	words := strings.Fields(line)
	switch {
	case len(words) == 0:
		return ""
	case words[0] == "LHLO":
		return "250-x\r\n250-XPOSTERN PAIR=p CLASS=0 KEEP\r\n250 PIPELINING\r\n"
	case words[0] == "MAIL" && !strings.HasSuffix(line, " KEEP\r\n"):
		return "501 does not keep\r\n"
	case words[0] == "DATA":
		return "354 go\r\n"
	case words[0] == ".":
		s.taken++
		return fmt.Sprintf("250 2.0.0 Saved KEEP=t%d\r\n", s.taken)
	case words[0] == "KEPT":
		s.tokens = append(s.tokens, words[1:]...)
		return "250 2.0.0 KEPT " + strings.Repeat(s.sign, len(words)-1) + "\r\n"
	case words[0] == "MAIL", words[0] == "RCPT", words[0] == "RSET", words[0] == "QUIT":
		return "250 ok\r\n"
	}
	return ""
}

func (s *keepServer) serve(conn net.Conn) {
	_, _ = io.WriteString(conn, "220 x\r\n")
	r := bufio.NewReader(conn)
	for {
		line, err := r.ReadString('\n')
		if err != nil {
			return
		}
		_, _ = io.WriteString(conn, s.answer(line))
	}
}

// TestKept: the node that has a message is asked whether its partner has it. It
// is delivered then; it is offered again, to the same node, where that does not
// know it, and to the partner where the node is gone.
func TestKept(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var w wires
		a, b := &keepServer{sign: "-"}, &keepServer{sign: "-"}
		const first, second = "/a", "/b"
		stop := w.listen(t, first, a.serve)
		w.listen(t, second, b.serve)
		tr := newLMTP(t, w.target(first, second))
		synctest.Wait() // for the first connections, which look at the servers
		d := message("a@example.com")
		o := tr.Deliver(t.Context(), d)[0]
		if !o.Kept() || o.Remote != first || !o.Final {
			t.Fatalf("%+v", o)
		}
		ask := func() mail.Outcome {
			d.Kept = []mail.Outcome{o}
			return tr.Deliver(t.Context(), d)[0]
		}
		if got := ask(); got != o {
			t.Errorf("not yet: %+v, want %+v", got, o)
		}
		a.set("?")
		if got := ask(); !got.Kept() || got.Reply.Text != "Saved KEEP=t2" {
			t.Errorf("unknown: %+v", got)
		}
		a.set("+")
		var all sync.WaitGroup
		for range 20 { // they share questions
			all.Go(func() {
				d := message("a@example.com")
				d.Kept = []mail.Outcome{o}
				if got := tr.Deliver(t.Context(), d)[0]; got.Class != mail.Delivered || !got.Final {
					t.Errorf("replicated: %+v", got)
				}
			})
		}
		all.Wait()
		if taken, tokens := a.seen(); taken != 2 || len(tokens) != 22 || tokens[0] != "t1" {
			t.Errorf("%d messages, asked after %q", taken, tokens)
		}
		stop()
		if got := ask(); !got.Kept() || got.Remote != second {
			t.Errorf("gone: %+v", got)
		}
		if taken, _ := b.seen(); taken != 1 {
			t.Errorf("the partner took %d", taken)
		}
	})
}
