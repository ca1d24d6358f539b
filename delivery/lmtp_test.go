package delivery_test

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/emersion/go-imap/v2"
	"github.com/emersion/go-imap/v2/imapclient"
	gosmtp "github.com/emersion/go-smtp"
	"github.com/hashicorp/go-hclog"

	"github.com/postern-mail/postern/delivery"
	"github.com/postern-mail/postern/delivery/lmtp"
	"github.com/postern-mail/postern/delivery/tlspolicy"
	"github.com/postern-mail/postern/internal/testenv"
	"github.com/postern-mail/postern/mail"
	"github.com/postern-mail/postern/status"
)

func newLMTP(t testing.TB, target delivery.Target) *lmtp.Transport {
	t.Helper()
	target.Name = "test"
	tr, err := lmtp.New(target, "mx.example.com", hclog.NewNullLogger())
	if err != nil {
		t.Fatal(err)
	}
	running(t, tr.Run)
	return tr
}

// newQuietLMTP is newLMTP without the connection that looks at the server: for
// tests that count connections, or serve one after the other. It may be made
// before the first delivery, beside it and after it.
func newQuietLMTP(t testing.TB, target delivery.Target) *lmtp.Transport {
	t.Helper()
	target.CutThrough = delivery.CutThroughNever
	return newLMTP(t, target)
}

// running runs something for as long as the test.
func running(t testing.TB, run func(context.Context) error) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

func TestLMTPDeliversOnOneConnection(t *testing.T) {
	t.Parallel()
	p := newPeer(t, "unix", func(p *peer) {
		p.refuseRcpt["unknown@example.com"] = &gosmtp.SMTPError{Code: 550, EnhancedCode: gosmtp.EnhancedCode{5, 1, 1}, Message: "no such user"}
		p.refuseData["full@example.com"] = &gosmtp.SMTPError{Code: 452, EnhancedCode: gosmtp.EnhancedCode{4, 2, 2}, Message: "full"}
	})
	tr := newQuietLMTP(t, delivery.Target{Addresses: []string{p.addr}})
	for range 5 {
		got := tr.Deliver(t.Context(), message("ok@example.com", "unknown@example.com", "full@example.com"))
		if s := sketch(got); s != "delivered by peer 2.0.0, bounced by peer 5.1.1, deferred by peer 4.2.2" {
			t.Fatalf("got %s: %+v", s, got)
		}
		if got[1].Reply.Text != "no such user" || got[0].RemoteMTA != "peer.example" || got[0].Remote == "" || !got[0].Final || got[0].Relayed {
			t.Fatalf("%+v", got)
		}
	}
	letters := p.letters()
	if len(letters) != 5 || letters[4].data != body || letters[4].from != "a@example.org" {
		t.Errorf("%+v", letters)
	}
	if total, _ := p.connections(); total != 1 {
		t.Errorf("%d connections", total)
	}
}

func TestLMTPLargeMessage(t *testing.T) {
	t.Parallel()
	p := newPeer(t, "tcp", nil)
	tr := newLMTP(t, delivery.Target{Addresses: []string{p.addr}})
	large := body + strings.Repeat("a line like any other\r\n", 50000)
	if got := tr.Deliver(t.Context(), messageOf(large, "a@example.com")); sketch(got) != "delivered by peer 2.0.0" {
		t.Fatalf("%+v", got)
	}
	if got := p.letters()[0].data; got != large {
		t.Errorf("%d octets, want %d", len(got), len(large))
	}
}

// TestLMTPFailover: the primary is used while it is there; while it is not,
// the next address is, without asking the primary each time.
func TestLMTPFailover(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var w wires
		w.listen(t, "/partner", newPairServer().serve)
		tr := newLMTP(t, w.target("/primary", "/partner"))
		synctest.Wait() // for the first connections, which look at the servers
		wantAt := func(address string) {
			t.Helper()
			if got := tr.Deliver(t.Context(), message("a@example.com")); got[0].Class != mail.Delivered || got[0].Remote != address {
				t.Errorf("%+v, want it delivered to %s", got, address)
			}
		}
		wantAt("/partner")
		stop := w.listen(t, "/primary", newPairServer().serve)
		wantAt("/partner") // it is too soon to ask the primary
		time.Sleep(time.Minute)
		wantAt("/primary")
		stop()
		wantAt("/partner")
	})
}

func TestLMTPBoundedConnections(t *testing.T) {
	t.Parallel()
	p := newPeer(t, "unix", func(p *peer) { p.hold = make(chan struct{}) })
	tr := newQuietLMTP(t, delivery.Target{Addresses: []string{p.addr}, MaxConnections: 3})
	var wg sync.WaitGroup
	for range 12 {
		wg.Go(func() {
			if got := tr.Deliver(t.Context(), message("a@example.com")); got[0].Class != mail.Delivered {
				t.Errorf("%+v", got)
			}
		})
	}
	testenv.Eventually(t, time.Minute, func() error {
		if _, most := p.connections(); most < 3 {
			return fmt.Errorf("%d connections", most)
		}
		return nil
	})
	// One that waits for its turn gives up when its time is over.
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	if got := tr.Deliver(ctx, message("a@example.com")); got[0].Class != mail.Deferred {
		t.Errorf("%+v", got)
	}
	close(p.hold)
	wg.Wait()
	if total, most := p.connections(); most > 3 || total > 3 {
		t.Errorf("%d connections, %d at once", total, most)
	}
}

// TestLMTPStaleConnection: a server that closes idle connections costs no attempt.
func TestLMTPStaleConnection(t *testing.T) {
	t.Parallel()
	p := newPeer(t, "tcp", nil)
	tr := newQuietLMTP(t, delivery.Target{Addresses: []string{p.addr}})
	for n := 1; n <= 3; n++ {
		if got := tr.Deliver(t.Context(), message("a@example.com")); got[0].Class != mail.Delivered {
			t.Fatalf("%+v", got)
		}
		p.hangUp()
		testenv.Eventually(t, time.Minute, func() error {
			p.mu.Lock()
			defer p.mu.Unlock()
			if p.current > 0 {
				return errors.New("connection still open")
			}
			return nil
		})
	}
	if got := len(p.letters()); got != 3 {
		t.Errorf("%d letters", got)
	}
}

// TestLMTPLostOnReuse: a server that hangs up on a connection used again gets
// the message on a new one at once, unless it may have it and could not tell
// a repeat.
func TestLMTPLostOnReuse(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct{ name, offered, want string }{
		{"not handed over", "250 PIPELINING\r\n", "delivered by peer"},
		{"handed over", "250-CHUNKING\r\n250 PIPELINING\r\n", "deferred 4.4.2"},
		{"handed over, repeats dropped", "250-CHUNKING\r\n250-XPOSTERN\r\n250 PIPELINING\r\n", "delivered by peer"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			address := scripted(t, func(conn net.Conn, r *bufio.Reader) {
				_, _ = io.WriteString(conn, "220 x\r\n")
				for messages := 0; ; {
					line, err := r.ReadString('\n')
					switch {
					case err != nil, messages > 0:
						return
					case strings.HasPrefix(line, "LHLO"):
						_, _ = io.WriteString(conn, "250-x\r\n"+tt.offered)
					case strings.HasPrefix(line, "DATA"):
						_, _ = io.WriteString(conn, "354 go\r\n")
					case strings.HasPrefix(line, "BDAT"):
						if _, err := r.Discard(len(body)); err != nil {
							return
						}
						messages++
						_, _ = io.WriteString(conn, "250 ok\r\n")
					case line == ".\r\n":
						messages++
						_, _ = io.WriteString(conn, "250 ok\r\n")
					case strings.HasPrefix(line, "MAIL"), strings.HasPrefix(line, "RCPT"):
						_, _ = io.WriteString(conn, "250 ok\r\n")
					}
				}
			})
			tr := newQuietLMTP(t, delivery.Target{Addresses: []string{address}})
			for _, want := range []string{"delivered by peer", tt.want} {
				if got := tr.Deliver(t.Context(), message("a@example.com")); sketch(got) != want || got[0].Uncertain != (got[0].Class == mail.Deferred) {
					t.Fatalf("%+v, want %s", got, want)
				}
			}
		})
	}
}

func TestLMTPClosesIdleConnections(t *testing.T) {
	t.Parallel()
	p := newPeer(t, "unix", nil)
	tr := newQuietLMTP(t, delivery.Target{Addresses: []string{p.addr}, IdleTime: 10 * time.Millisecond})
	if got := tr.Deliver(t.Context(), message("a@example.com")); got[0].Class != mail.Delivered {
		t.Fatalf("%+v", got)
	}
	testenv.Eventually(t, time.Minute, func() error {
		p.mu.Lock()
		defer p.mu.Unlock()
		if p.current > 0 {
			return errors.New("connection still open")
		}
		return nil
	})
}

func TestLMTPTransportSecurity(t *testing.T) {
	t.Parallel()
	var caFile string
	p := newPeer(t, "tcp", func(p *peer) { caFile = withTLS(t, p) })
	plain := newPeer(t, "tcp", nil)
	otherCA := testenv.NewCA(t).WriteFile(testenv.TempDir(t))
	_, port, _ := net.SplitHostPort(p.addr)
	for _, tt := range []struct {
		name   string
		target delivery.Target
		want   string
	}{
		{"verify", delivery.Target{Addresses: []string{p.addr}, TLS: tlspolicy.Verify, CAFile: caFile}, "delivered by peer 2.0.0"},
		{"verify by name", delivery.Target{Addresses: []string{"localhost:" + port}, TLS: tlspolicy.Verify, CAFile: caFile}, "delivered by peer 2.0.0"},
		{"unknown authority", delivery.Target{Addresses: []string{p.addr}, TLS: tlspolicy.Verify, CAFile: otherCA}, "deferred 4.7.5"},
		{"wrong name", delivery.Target{Addresses: []string{p.addr}, TLS: tlspolicy.Verify, CAFile: caFile, ServerName: "mail.example.com"}, "deferred 4.7.5"},
		{"encrypt", delivery.Target{Addresses: []string{p.addr}, TLS: tlspolicy.Encrypt}, "delivered by peer 2.0.0"},
		{"may", delivery.Target{Addresses: []string{p.addr}}, "delivered by peer 2.0.0"},
		{"encrypt, not offered", delivery.Target{Addresses: []string{plain.addr}, TLS: tlspolicy.Encrypt}, "deferred 4.7.4"},
		{"may, not offered", delivery.Target{Addresses: []string{plain.addr}}, "delivered by peer 2.0.0"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			got := newLMTP(t, tt.target).Deliver(t.Context(), message("a@example.com"))
			if sketch(got) != tt.want {
				t.Errorf("got %s, want %s: %+v", sketch(got), tt.want, got)
			}
		})
	}
}

// scripted serves each connection by f.
func scripted(t *testing.T, f func(net.Conn, *bufio.Reader)) (address string) {
	t.Helper()
	l, err := net.Listen("unix", filepath.Join(testenv.TempDir(t), "s"))
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			wg.Go(func() { defer conn.Close(); f(conn, bufio.NewReader(conn)) })
		}
	})
	t.Cleanup(func() { _ = l.Close(); wg.Wait() })
	return "unix:" + l.Addr().String()
}

// TestLMTPLostReplies: recipients whose reply was not read are deferred, and
// nobody else is offered the message the server may have.
func TestLMTPLostReplies(t *testing.T) {
	t.Parallel()
	primary := scripted(t, func(conn net.Conn, r *bufio.Reader) {
		_, _ = io.WriteString(conn, "220 x\r\n")
		for {
			line, err := r.ReadString('\n')
			switch {
			case err != nil:
				return
			case strings.HasPrefix(line, "DATA"):
				_, _ = io.WriteString(conn, "354 go\r\n")
			case line == ".\r\n":
				_, _ = io.WriteString(conn, "250 2.0.0 one\r\n")
				return
			case !strings.HasPrefix(line, "LHLO") && !strings.HasPrefix(line, "MAIL") && !strings.HasPrefix(line, "RCPT"):
			default:
				_, _ = io.WriteString(conn, "250 ok\r\n")
			}
		}
	})
	partner := newPeer(t, "unix", nil)
	tr := newQuietLMTP(t, delivery.Target{Addresses: []string{primary, partner.addr}})
	got := tr.Deliver(t.Context(), message("a@example.com", "b@example.com"))
	if sketch(got) != "delivered by peer 2.0.0, deferred 4.4.2" || got[0].Uncertain || !got[1].Uncertain {
		t.Errorf("%+v", got)
	}
	if n := len(partner.letters()); n > 0 {
		t.Errorf("partner got %d letters", n)
	}
}

// TestLMTPNeverBouncesForOutages: a server that refuses us as such, or is not
// there, or hangs up, bounces nobody.
func TestLMTPNeverBouncesForOutages(t *testing.T) {
	t.Parallel()
	for name, greeting := range map[string]string{
		"refused":       "554 5.7.1 go away\r\n",
		"hung up":       "",
		"not a server":  "hello\r\n",
		"refuses hello": "220 x\r\n550 no\r\n",
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			address := scripted(t, func(conn net.Conn, r *bufio.Reader) {
				_, _ = io.WriteString(conn, greeting)
				if strings.Count(greeting, "\n") > 1 {
					_, _ = r.ReadString('\n')
				}
			})
			got := newLMTP(t, delivery.Target{Addresses: []string{address}}).Deliver(t.Context(), message("a@example.com"))
			if got[0].Class != mail.Deferred {
				t.Errorf("%+v", got)
			}
			if name == "refused" && (got[0].Reply.Text != "go away" || !got[0].FromPeer) {
				t.Errorf("the peer's words are lost: %+v", got[0])
			}
		})
	}
	t.Run("absent", func(t *testing.T) {
		t.Parallel()
		got := newLMTP(t, delivery.Target{Addresses: []string{"unix:/nonexistent/lmtp"}}).Deliver(t.Context(), message("a@example.com"))
		if sketch(got) != "deferred 4.4.1" {
			t.Errorf("%+v", got)
		}
	})
	t.Run("bad route", func(t *testing.T) {
		t.Parallel()
		d := message("a@example.com")
		d.Envelope.Recipients[0].Route.NextHop = "unix:"
		got := newLMTP(t, delivery.Target{Addresses: []string{"unix:/nonexistent"}}).Deliver(t.Context(), d)
		if got[0].Class != mail.Deferred {
			t.Errorf("%+v", got)
		}
	})
}

// TestLMTPContent: content that is missing, unreadable or not whole stays here.
func TestLMTPContent(t *testing.T) {
	t.Parallel()
	p := newPeer(t, "unix", nil)
	tr := newLMTP(t, delivery.Target{Addresses: []string{p.addr}})
	short := message("a@example.com")
	short.Octets++
	gone := message("a@example.com")
	gone.Open = func() (mail.Content, error) { return nil, errors.New("gone") }
	for name, d := range map[string]mail.Delivery{"short": short, "gone": gone} {
		if got := tr.Deliver(t.Context(), d); got[0].Class != mail.Deferred || got[0].Reply != status.StoreDown.Reply() {
			t.Errorf("%s: %+v", name, got)
		}
	}
	if n := len(p.letters()); n > 0 {
		t.Errorf("%d letters", n)
	}
}

// TestLMTPSMTPUTF8: a declaration nobody needs does not keep a message from a
// peer without the extension; a header or an address that needs it does.
func TestLMTPSMTPUTF8(t *testing.T) {
	t.Parallel()
	p := newPeer(t, "unix", func(p *peer) { p.server.EnableSMTPUTF8 = false })
	able := newPeer(t, "unix", nil)
	for _, tt := range []struct {
		name, address, text, to, want string
	}{
		{"not needed", p.addr, body, "a@example.com", "delivered by peer 2.0.0"},
		{"header", p.addr, "Subject: grüße\r\n\r\nx\r\n", "a@example.com", "bounced 5.6.7"},
		{"body", p.addr, "Subject: x\r\n\r\ngrüße\r\n", "a@example.com", "delivered by peer 2.0.0"},
		{"address", p.addr, body, "ä@example.com", "bounced 5.6.7"},
		{"offered", able.addr, "Subject: grüße\r\n\r\nx\r\n", "ä@example.com", "delivered by peer 2.0.0"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			d := messageOf(tt.text, tt.to)
			d.Envelope.SMTPUTF8 = true
			got := newLMTP(t, delivery.Target{Addresses: []string{tt.address}}).Deliver(t.Context(), d)
			if sketch(got) != tt.want {
				t.Errorf("%+v", got)
			}
		})
	}
}

// TestLMTPDovecot delivers to a real mailbox server and reads the message
// back over IMAP.
func TestLMTPDovecot(t *testing.T) {
	t.Parallel()
	server := testenv.Dovecot(t, "alice@example.com", "bob@example.com")
	text := body + strings.Repeat("a line, and one more\r\n", 20000)
	for name, target := range map[string]delivery.Target{
		"alice": {Addresses: []string{"unix:" + server.LMTP}},
		"bob":   {Addresses: []string{server.LMTPAddr}, TLS: tlspolicy.Verify, CAFile: server.CAFile},
	} {
		tr := newLMTP(t, target)
		for _, sent := range []string{body, text} {
			got := tr.Deliver(t.Context(), messageOf(sent, name+"@example.com", "nobody@example.com"))
			if len(got) != 2 || got[0].Class != mail.Delivered || got[1].Class != mail.Bounced || got[1].Reply.EnhancedString() != "5.1.1" {
				t.Fatalf("%+v", got)
			}
		}
		stored := fetch(t, server, name+"@example.com")
		if len(stored) != 2 {
			t.Fatalf("%d messages stored for %s", len(stored), name)
		}
		for i, want := range []string{body, text} {
			if !bytes.HasSuffix(stored[i], []byte(want)) {
				t.Errorf("stored %.300q (%d octets)", stored[i], len(stored[i]))
			}
		}
	}
	tr := newLMTP(t, delivery.Target{Addresses: []string{"unix:" + server.LMTP}, DownTime: time.Millisecond})
	if got := tr.Deliver(t.Context(), message("bob@example.com")); got[0].Class != mail.Delivered {
		t.Fatalf("%+v", got)
	}
	server.Process().Kill()
	testenv.Eventually(t, time.Minute, func() error {
		// Dovecot's children may outlive it for a moment.
		if got := tr.Deliver(t.Context(), message("bob@example.com")); got[0].Class != mail.Deferred {
			return fmt.Errorf("%+v", got)
		}
		return nil
	})
	server.Restart()
	if got := tr.Deliver(t.Context(), message("bob@example.com")); got[0].Class != mail.Delivered {
		t.Errorf("after restart: %+v", got)
	}
}

// fetch returns the messages in a user's INBOX.
func fetch(t *testing.T, server *testenv.DovecotServer, user string) [][]byte {
	t.Helper()
	c, err := imapclient.DialInsecure(server.IMAP, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if err := c.Login(user, server.Password).Wait(); err != nil {
		t.Fatal(err)
	}
	selected, err := c.Select("INBOX", nil).Wait()
	if err != nil {
		t.Fatal(err)
	}
	var all imap.SeqSet
	all.AddRange(1, selected.NumMessages)
	section := &imap.FetchItemBodySection{Peek: true}
	messages, err := c.Fetch(all, &imap.FetchOptions{BodySection: []*imap.FetchItemBodySection{section}}).Collect()
	if err != nil {
		t.Fatal(err)
	}
	var found [][]byte
	for _, m := range messages {
		found = append(found, m.FindBodySection(section))
	}
	return found
}

func BenchmarkLMTP(b *testing.B) {
	for _, octets := range []int{5 << 10, 50 << 10} {
		for _, parallel := range []int{1, 16} {
			b.Run(fmt.Sprintf("%dKB/%d", octets>>10, parallel), func(b *testing.B) { benchmarkLMTP(b, octets, parallel) })
		}
	}
}

// benchmarkLMTP delivers to a sink that speaks just enough LMTP.
func benchmarkLMTP(b *testing.B, octets, parallel int) {
	l, err := net.Listen("unix", filepath.Join(testenv.TempDir(b), "s"))
	if err != nil {
		b.Fatal(err)
	}
	defer l.Close()
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			go sink(conn)
		}
	}()
	tr := newLMTP(b, delivery.Target{Addresses: []string{"unix:" + l.Addr().String()}, MaxConnections: parallel})
	text := body + strings.Repeat("a line of the usual length, as there are many in a mail message\r\n", octets/66)
	d := messageOf(text, "a@example.com")
	b.SetBytes(int64(len(text)))
	b.ReportAllocs()
	b.SetParallelism(max(parallel/2, 1))
	b.ResetTimer()
	if parallel == 1 {
		for b.Loop() {
			if got := tr.Deliver(context.Background(), d); got[0].Class != mail.Delivered {
				b.Fatalf("%+v", got)
			}
		}
		return
	}
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			if got := tr.Deliver(context.Background(), d); got[0].Class != mail.Delivered {
				b.Errorf("%+v", got)
				return
			}
		}
	})
}

func sink(conn net.Conn) {
	defer conn.Close()
	r := bufio.NewReaderSize(conn, 128<<10)
	_, _ = io.WriteString(conn, "220 sink\r\n")
	var out []byte
	for {
		line, err := r.ReadSlice('\n')
		if err != nil {
			return
		}
		var n int
		switch {
		case bytes.HasPrefix(line, []byte("LHLO")):
			out = append(out, "250-sink\r\n250-PIPELINING\r\n250 CHUNKING\r\n"...)
		case bytes.HasPrefix(line, []byte("BDAT")):
			if _, err := fmt.Sscanf(string(line), "BDAT %d LAST", &n); err != nil {
				return
			}
			if _, err := r.Discard(n); err != nil {
				return
			}
			out = append(out, "250 ok\r\n"...)
		default:
			out = append(out, "250 ok\r\n"...)
		}
		if r.Buffered() == 0 {
			if _, err := conn.Write(out); err != nil {
				return
			}
			out = out[:0]
		}
	}
}
