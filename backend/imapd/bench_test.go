package imapd

import (
	"bufio"
	"fmt"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/emersion/go-imap/v2"

	"github.com/postern-mail/postern/backend/mailstore"
)

// benchView is a mailbox of n messages that costs nothing to read.
type benchView struct {
	mailstore.View
	messages []*mailstore.Message
}

func newBenchView(n int) *benchView {
	v := &benchView{messages: make([]*mailstore.Message, n)}
	for i := range v.messages {
		v.messages[i] = &mailstore.Message{
			UID: imap.UID(i + 1), ModSeq: 1, Flags: mailstore.FlagSeen,
			Instance: &mailstore.Instance{Octets: 2200, InternalDate: time.Unix(1577934245, 0)},
		}
	}
	return v
}

func (v *benchView) Len() int                    { return len(v.messages) }
func (v *benchView) At(i int) *mailstore.Message { return v.messages[i] }

type sink struct{ net.Conn }

func (sink) Write(p []byte) (int, error)      { return len(p), nil }
func (sink) SetWriteDeadline(time.Time) error { return nil }
func (sink) RemoteAddr() net.Addr             { return &net.TCPAddr{} }
func (sink) LocalAddr() net.Addr              { return &net.TCPAddr{} }

// BenchmarkFetchFraming is the price of a FETCH response without the socket.
func BenchmarkFetchFraming(b *testing.B) {
	const n = 50_000
	for _, items := range []string{"FLAGS", "(UID FLAGS RFC822.SIZE INTERNALDATE)"} {
		b.Run(items, func(b *testing.B) {
			cfg, err := testConfig().withDefaults()
			if err != nil {
				b.Fatal(err)
			}
			s := &session{cfg: &cfg, w: writer{conn: sink{}, timeout: cfg.WriteTimeout}}
			v := newBenchView(n)
			s.box = &selection{ground: ground{told: v, now: v}}
			a, err := parseFetch(false)(&parser{b: []byte(" 1:* " + items)})
			if err != nil {
				b.Fatal(err)
			}
			b.ReportAllocs()
			for b.Loop() {
				if _, err := s.fetch(b.Context(), a); err != nil {
					b.Fatal(err)
				}
			}
			b.ReportMetric(float64(b.N)*n/b.Elapsed().Seconds(), "responses/s")
		})
	}
}

// BenchmarkCommand is one small command over loopback and back.
func BenchmarkCommand(b *testing.B) {
	s := startServer(b, testConfig())
	c := s.login("alice")
	c.ok("SELECT INBOX")
	_ = c.conn.SetDeadline(time.Time{})
	r := bufio.NewReader(c.conn)
	for b.Loop() {
		if _, err := c.conn.Write([]byte("a NOOP\r\n")); err != nil {
			b.Fatal(err)
		}
		if _, err := r.ReadSlice('\n'); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkOperations are the operations of a mail program on a mailbox of
// 2000 messages, through the store and loopback.
func BenchmarkOperations(b *testing.B) {
	s := startServer(b, testConfig())
	c := s.login("alice")
	_ = c.conn.SetDeadline(time.Time{})
	const n = 2000
	for i := 0; i < n; i += 100 {
		text := "APPEND INBOX"
		for k := range 100 {
			m := message(fmt.Sprintf("m%d", i+k), "some text in the body of the message")
			text += fmt.Sprintf(" {%d+}\r\n%s", len(m), m)
		}
		c.ok(text)
	}
	c.ok("SELECT INBOX")
	for _, command := range []string{
		"NOOP", "SELECT INBOX", "FETCH 1:* (BODYSTRUCTURE)",
		"FETCH 1:* (UID FLAGS)", "FETCH 1:* (ENVELOPE)", "FETCH 1:* (BODY.PEEK[HEADER.FIELDS (DATE FROM TO SUBJECT)])",
		"FETCH 1:* (BODY.PEEK[])", "UID SEARCH HEADER SUBJECT m1999", "UID SEARCH BODY needle", "UID SEARCH UNSEEN",
		`STORE 1:* +FLAGS.SILENT (\Flagged)`,
	} {
		b.Run(command, func(b *testing.B) {
			for b.Loop() {
				c.ok(command)
			}
			b.ReportMetric(float64(b.N)*n/b.Elapsed().Seconds(), "messages/s")
		})
	}
}

// resyncBench is a mailbox of 50 000 messages in which 100 have changed and 50
// were expunged since a client was there.
func resyncBench(b *testing.B) (c *client, validity, before string) {
	b.Helper()
	s := startServer(b, testConfig())
	r := &resyncer{client: s.login("alice"), other: s.login("alice"), server: s}
	for _, c := range []*client{r.client, r.other} {
		_ = c.conn.SetDeadline(time.Time{})
	}
	const n = 50_000
	m := message("m", "some text in the body of the message")
	text := "APPEND INBOX" + strings.Repeat(fmt.Sprintf(" {%d+}\r\n%s", len(m), m), 100)
	for range n / 100 {
		r.other.ok(text)
	}
	r.ok("ENABLE QRESYNC")
	r.open("INBOX")
	r.other.ok("SELECT INBOX")
	before = r.modSeq
	for i := range 100 {
		r.other.ok(fmt.Sprintf(`UID STORE %d +FLAGS.SILENT (\Flagged)`, 1+i*500))
	}
	for i := range 50 {
		r.other.ok(fmt.Sprintf(`UID STORE %d +FLAGS.SILENT (\Deleted)`, 7+i*999))
	}
	r.other.ok("EXPUNGE")
	return r.client, r.validity, before
}

// BenchmarkResync is how a client of a large mailbox comes back: SELECT with
// QRESYNC, and what does the same in an open mailbox.
func BenchmarkResync(b *testing.B) {
	c, validity, before := resyncBench(b)
	for _, command := range []string{
		fmt.Sprintf("SELECT INBOX (QRESYNC (%s %s))", validity, before),
		fmt.Sprintf("SELECT INBOX (QRESYNC (%s %s 1:50000))", validity, before),
		fmt.Sprintf("UID FETCH 1:* (FLAGS) (CHANGEDSINCE %s VANISHED)", before),
		fmt.Sprintf("UID FETCH 1:* (FLAGS) (CHANGEDSINCE %s)", before),
	} {
		name, _, _ := strings.Cut(command, validity)
		b.Run(strings.TrimSuffix(name, " (QRESYNC ("), func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				c.ok(command)
			}
		})
	}
}
