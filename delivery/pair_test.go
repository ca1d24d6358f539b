package delivery_test

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/postern-mail/postern/mail"
)

// pairServer speaks enough LMTP to take messages, and loses the reply to one
// when it is told to.
type pairServer struct {
	taken  atomic.Int32
	lose   atomic.Bool // hang up in place of the next reply to a message
	greets atomic.Bool
}

func newPairServer() *pairServer {
	s := &pairServer{}
	s.greets.Store(true)
	return s
}

func (s *pairServer) serve(conn net.Conn) {
	r := bufio.NewReader(conn)
	if !s.greets.Load() {
		_, _ = r.ReadString('\n') // until the client hangs up
		return
	}
	_, _ = io.WriteString(conn, "220 x\r\n")
	for {
		line, err := r.ReadString('\n')
		switch {
		case err != nil:
			return
		case strings.HasPrefix(line, "LHLO"):
			_, _ = io.WriteString(conn, "250-x\r\n250-XPOSTERN\r\n250 PIPELINING\r\n")
		case strings.HasPrefix(line, "DATA"):
			_, _ = io.WriteString(conn, "354 go\r\n")
		case line == ".\r\n":
			s.taken.Add(1)
			if s.lose.Swap(false) {
				return
			}
			_, _ = io.WriteString(conn, "250 ok\r\n")
		case strings.HasPrefix(line, "MAIL"), strings.HasPrefix(line, "RCPT"), strings.HasPrefix(line, "QUIT"):
			_, _ = io.WriteString(conn, "250 ok\r\n")
		}
	}
}

// TestPairKeepsDoubtfulDeliveries: a message that the primary may have is not
// offered to the partner while the primary is away, other messages are; when
// the primary is back it gets the message again, and nobody else.
func TestPairKeepsDoubtfulDeliveries(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var w wires
		primary, partner := newPairServer(), newPairServer()
		stop := w.listen(t, "/1", primary.serve)
		w.listen(t, "/2", partner.serve)
		tr := newLMTP(t, w.target("/1", "/2"))
		synctest.Wait() // for the first connections, which look at the servers
		primary.lose.Store(true)
		doubtful, other := message("a@example.com"), message("a@example.com")
		other.ID = "Q2-0"
		if got := tr.Deliver(t.Context(), doubtful); got[0].Class != mail.Deferred || primary.taken.Load() != 1 {
			t.Fatalf("%+v after %d messages", got, primary.taken.Load())
		}
		stop()
		for range 3 {
			if got := tr.Deliver(t.Context(), doubtful); got[0].Class != mail.Deferred || got[0].Remote != "/1" {
				t.Fatalf("offered elsewhere while the primary may have it: %+v", got)
			}
		}
		if got := tr.Deliver(t.Context(), other); got[0].Class != mail.Delivered || got[0].Remote == "/1" {
			t.Errorf("another message: %+v", got)
		}
		w.listen(t, "/1", primary.serve)
		if got := tr.Deliver(t.Context(), doubtful); got[0].Class != mail.Delivered || got[0].Remote != "/1" {
			t.Errorf("when the primary is back: %+v", got)
		}
		if n := partner.taken.Load(); n != 1 {
			t.Errorf("the partner took %d messages, want the other one only", n)
		}
	})
}

// TestPairStaleConnectionThatMayHaveIt: the idle connection breaks after the
// message was handed over and the primary is gone at once: the partner is not
// asked, although the primary drops repeats.
func TestPairStaleConnectionThatMayHaveIt(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var w wires
		partner := newPairServer()
		w.listen(t, "/2", partner.serve)
		w.listen(t, "/1", func(conn net.Conn) {
			r := bufio.NewReader(conn)
			_, _ = io.WriteString(conn, "220 x\r\n")
			for messages := 0; messages < 2; {
				line, err := r.ReadString('\n')
				switch {
				case err != nil:
					return
				case strings.HasPrefix(line, "LHLO"):
					_, _ = io.WriteString(conn, "250-x\r\n250-XPOSTERN\r\n250-CHUNKING\r\n250 PIPELINING\r\n")
				case strings.HasPrefix(line, "BDAT"):
					if _, err := r.Discard(len(body)); err != nil {
						return
					}
					if messages++; messages == 1 {
						_, _ = io.WriteString(conn, "250 ok\r\n250 ok\r\n250 ok\r\n") // MAIL, RCPT, BDAT
					} else {
						w.at("/1", nil)
					}
				}
			}
		})
		tr := newLMTP(t, w.target("/1", "/2"))
		synctest.Wait() // for the first connections, which look at the servers
		if got := tr.Deliver(t.Context(), message("a@example.com")); got[0].Class != mail.Delivered {
			t.Fatalf("%+v", got)
		}
		second := message("a@example.com")
		second.ID = "Q2-0"
		if got := tr.Deliver(t.Context(), second); got[0].Class != mail.Deferred || partner.taken.Load() != 0 {
			t.Errorf("%+v, and the partner took %d", got, partner.taken.Load())
		}
	})
}

// TestPairHungPrimary: a primary that accepts connections and says nothing
// costs seconds, once, not the minutes a lone server is given.
func TestPairHungPrimary(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var w wires
		hung, alive := newPairServer(), newPairServer()
		hung.greets.Store(false)
		w.listen(t, "/1", hung.serve)
		w.listen(t, "/2", alive.serve)
		tr := newLMTP(t, w.target("/1", "/2"))
		synctest.Wait() // for the first connections, which look at the servers
		began := time.Now()
		for n := range 3 {
			d := message("a@example.com")
			d.ID = fmt.Sprint(n)
			if got := tr.Deliver(t.Context(), d); got[0].Class != mail.Delivered {
				t.Fatalf("%+v", got)
			}
		}
		if n, took := alive.taken.Load(), time.Since(began); n != 3 || took > 10*time.Second {
			t.Errorf("the partner took %d, in %v", n, took)
		}
	})
}
