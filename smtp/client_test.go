package smtp

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/postern-mail/postern/mail"
	"github.com/postern-mail/postern/status"
)

// clientPeer is the far end of a conversation played by a test.
type clientPeer struct {
	net.Conn
	r *bufio.Reader
}

func clientNewPeer(conn net.Conn) *clientPeer { return &clientPeer{conn, bufio.NewReader(conn)} }

// line reads one command.
func (p *clientPeer) line() string {
	s, err := p.r.ReadString('\n')
	if err != nil {
		return ""
	}
	return strings.TrimRight(s, "\r\n")
}

// say sends lines, each ended by CRLF.
func (p *clientPeer) say(lines ...string) {
	_, _ = io.WriteString(p, strings.Join(lines, "\r\n")+"\r\n")
}

// expect reads one command and answers when it begins with prefix.
func (p *clientPeer) expect(t *testing.T, prefix string, answers ...string) string {
	t.Helper()
	got := p.line()
	if !strings.HasPrefix(got, prefix) {
		t.Errorf("peer got %q, want %s", got, prefix)
	}
	if len(answers) > 0 {
		p.say(answers...)
	}
	return got
}

// content reads up to the final dot and returns it as it came.
func (p *clientPeer) content() string {
	var b strings.Builder
	for {
		line, err := p.r.ReadString('\n')
		if err != nil || line == ".\r\n" {
			return b.String()
		}
		b.WriteString(line)
	}
}

// clientAgainst runs a conversation with peer over a unix socket and waits
// until peer has returned and its end is closed.
func clientAgainst(t *testing.T, cfg ClientConfig, peer func(*clientPeer), use func(*Client)) {
	t.Helper()
	dir, err := os.MkdirTemp("", "p")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	l, err := net.Listen("unix", filepath.Join(dir, "s"))
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	done := make(chan struct{})
	go func() {
		defer close(done)
		conn, err := l.Accept()
		if err != nil {
			return
		}
		defer conn.Close()
		peer(clientNewPeer(conn))
	}()
	c, err := Dial(t.Context(), "unix", l.Addr().String(), cfg)
	if err != nil {
		t.Fatalf("dial: %v", err)
	}
	use(c)
	_ = c.Close()
	<-done
}

func clientText(octets int64, body string, to ...string) ClientMessage {
	m := ClientMessage{
		From:    MailCommand{ReversePath: mail.MustAddress("sender@example.org")},
		Octets:  octets,
		Content: strings.NewReader(body),
	}
	for _, address := range to {
		m.To = append(m.To, RcptCommand{ForwardPath: mail.MustAddress(address)})
	}
	return m
}

const clientLetter = "Subject: hello\r\n\r\n.dot\r\nbody\r\n"

func TestClientSendPipelined(t *testing.T) {
	t.Parallel()
	var group, content string
	clientAgainst(t, ClientConfig{Hello: "mx.example.com"}, func(p *clientPeer) {
		p.say("220 peer.example ESMTP")
		p.expect(t, "EHLO mx.example.com", "250-peer.example", "250-pipelining", "250 Size 1000")
		// The whole group must be there before any answer was given.
		for range 4 {
			group += p.line() + "\n"
		}
		p.say("250 2.1.0 ok", "250 2.1.5 ok", "550 5.1.1 <b@example.com>: no such user", "354 go")
		content = p.content()
		p.say("250 2.0.0 queued as 1")
	}, func(c *Client) {
		got := c.Send(t.Context(), clientText(0, clientLetter, "a@example.com", "b@example.com"))
		if got[0].Err != nil || got[0].Reply.String() != "250 2.0.0 queued as 1" {
			t.Errorf("first: %+v", got[0])
		}
		var refused *status.Error
		if !errors.As(got[1].Err, &refused) || refused.Remote.String() != "550 5.1.1 <b@example.com>: no such user" {
			t.Errorf("second: %+v", got[1])
		}
		if c.PeerName() != "peer.example" || !c.Answered() {
			t.Errorf("peer %q, answered %v", c.PeerName(), c.Answered())
		}
	})
	want := "MAIL FROM:<sender@example.org>\nRCPT TO:<a@example.com>\nRCPT TO:<b@example.com>\nDATA\n"
	if group != want {
		t.Errorf("group %q, want %q", group, want)
	}
	if want := strings.Replace(clientLetter, ".dot", "..dot", 1); content != want {
		t.Errorf("content %q, want %q", content, want)
	}
}

func TestClientSendWithoutPipelining(t *testing.T) {
	t.Parallel()
	clientAgainst(t, ClientConfig{}, func(p *clientPeer) {
		p.say("220 old")
		p.expect(t, "EHLO", "502 what?")
		p.expect(t, "HELO", "250 old")
		p.expect(t, "MAIL FROM:<sender@example.org>", "250 ok")
		p.expect(t, "RCPT", "250 ok")
		if p.r.Buffered() > 0 {
			t.Error("client did not wait for the reply to RCPT")
		}
		p.expect(t, "DATA", "354 go")
		p.content()
		p.say("250 ok")
		// A message without a recipient ends before DATA; the next begins with RSET.
		p.expect(t, "MAIL", "250 ok")
		p.expect(t, "RCPT", "450 later")
		p.expect(t, "RSET", "250 ok")
		p.expect(t, "MAIL", "451 not now")
		p.expect(t, "RSET", "250 ok")
	}, func(c *Client) {
		for i, want := range []string{"", "450 later", "451 not now"} {
			got := c.Send(t.Context(), clientText(0, clientLetter, "a@example.com"))[0]
			if want == "" && got.Err != nil || want != "" && got.Reply.String() != want {
				t.Errorf("message %d: %+v, want %q", i, got, want)
			}
			if !c.Usable() {
				t.Fatalf("message %d: connection given up", i)
			}
		}
		if err := c.Reset(t.Context()); err != nil {
			t.Error(err)
		}
	})
}

func TestClientParametersOnlyWhenOffered(t *testing.T) {
	t.Parallel()
	m := clientText(int64(len(clientLetter)), clientLetter, "a@example.com")
	m.From.Body = mail.Body8BitMIME
	m.From.SMTPUTF8 = true
	m.From.Return = mail.ReturnHeaders
	m.From.EnvelopeID = "id+1 é"
	m.From.DeliveryID = "q1=2"
	m.To[0].Notify = mail.NotifySuccess | mail.NotifyDelay
	m.To[0].Original = "rfc822;a+b@example.com"
	for _, tt := range []struct {
		name       string
		lmtp       bool
		offered    []string
		mail, rcpt string
	}{
		{"all", true, []string{"PIPELINING", "SIZE", "8BITMIME", "SMTPUTF8", "DSN", "XPOSTERN"},
			fmt.Sprintf("MAIL FROM:<sender@example.org> SIZE=%d BODY=8BITMIME SMTPUTF8 RET=HDRS ENVID=id+2B1+20+C3+A9 DELIVERYID=q1+3D2", len(clientLetter)),
			"RCPT TO:<a@example.com> NOTIFY=SUCCESS,DELAY ORCPT=rfc822;a+2Bb@example.com"},
		{"utf8 only", true, []string{"SMTPUTF8"}, "MAIL FROM:<sender@example.org> SMTPUTF8", "RCPT TO:<a@example.com>"},
		{"no delivery id in SMTP", false, []string{"SMTPUTF8", "XPOSTERN"}, "MAIL FROM:<sender@example.org> SMTPUTF8", "RCPT TO:<a@example.com>"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			clientAgainst(t, ClientConfig{LMTP: tt.lmtp}, func(p *clientPeer) {
				p.say("220 x")
				p.line()
				p.say("250-x", "250-"+strings.Join(tt.offered, "\r\n250-"), "250 HELP")
				if got := p.expect(t, "MAIL", "250 ok"); got != tt.mail {
					t.Errorf("got %q, want %q", got, tt.mail)
				}
				if got := p.expect(t, "RCPT", "250 ok"); got != tt.rcpt {
					t.Errorf("got %q, want %q", got, tt.rcpt)
				}
				p.expect(t, "DATA", "354 go")
				p.content()
				p.say("250 ok")
			}, func(c *Client) {
				m := m
				m.Content = strings.NewReader(clientLetter)
				if got := c.Send(t.Context(), m); got[0].Err != nil {
					t.Error(got[0].Err)
				}
			})
		})
	}
}

// TestClientTooManyRecipients: 552 to RCPT is the old way to say "no more in
// one go" and loses nobody; to anything else it stays permanent.
func TestClientTooManyRecipients(t *testing.T) {
	t.Parallel()
	clientAgainst(t, ClientConfig{}, func(p *clientPeer) {
		p.say("220 x")
		p.line()
		p.say("250 x")
		p.expect(t, "MAIL", "250 ok")
		p.expect(t, "RCPT", "250 ok")
		p.expect(t, "RCPT", "552 5.5.3 too many recipients")
		p.expect(t, "DATA", "354 go")
		p.content()
		p.say("552 5.3.4 too big")
	}, func(c *Client) {
		m := clientText(int64(len(clientLetter)), clientLetter, "a@example.com", "b@example.com")
		got := c.Send(t.Context(), m)
		if got[0].Reply.Code != 552 || got[1].Reply.Code != 452 || got[1].Reply.Enhanced != [3]int{4, 5, 3} {
			t.Errorf("got %+v", got)
		}
		if reply := status.ReplyOf(got[1].Err); !reply.Transient() {
			t.Errorf("the error says %s", reply)
		}
	})
}

// TestClientLMTPReplies: each recipient has its own reply, and one whose reply
// was not read is never taken for delivered.
func TestClientLMTPReplies(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name    string
		replies []string
		want    string // per recipient: + delivered, 4 and 5 refused, ? uncertain
	}{
		{"each its own", []string{"250 a", "452 4.2.2 full", "550 5.7.1 no"}, "+45"},
		{"lost after one", []string{"250 a"}, "+??"},
		{"lost at once", nil, "???"},
		{"half a reply", []string{"250 a", "250-b"}, "+??"},
		{"nonsense", []string{"250 a", "hello", "250 c"}, "+??"},
		{"intermediate reply", []string{"250 a", "354 b", "250 c"}, "+??"},
		{"contradiction", []string{"250-a", "550 a", "250 b", "250 c"}, "???"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			clientAgainst(t, ClientConfig{LMTP: true}, func(p *clientPeer) {
				p.say("220 x")
				p.expect(t, "LHLO", "250-x", "250 PIPELINING")
				for range 4 {
					p.line()
				}
				p.expect(t, "DATA", "250 m", "250 r", "250 r", "250 r", "354 go")
				p.content()
				if len(tt.replies) > 0 {
					p.say(tt.replies...)
				}
			}, func(c *Client) {
				results := c.Send(t.Context(), clientText(0, clientLetter, "a@example.com", "b@example.com", "c@example.com"))
				if got := clientSketch(results); got != tt.want {
					t.Errorf("got %s, want %s: %+v", got, tt.want, results)
				}
				if strings.Contains(tt.want, "?") && c.Usable() {
					t.Error("connection still usable")
				}
			})
		})
	}
}

// clientSketch draws results one sign each; "-" is lost before the end of data.
func clientSketch(results []ClientResult) string {
	var b strings.Builder
	for _, r := range results {
		switch {
		case r.Err == nil && r.Reply.Code/100 == 2:
			b.WriteByte('+')
		case r.Err == nil:
			b.WriteByte('!')
		case r.Uncertain && status.Of(r.Err) == status.ConnectionLost:
			b.WriteByte('?')
		case r.Reply.Code != 0:
			b.WriteByte(byte('0' + r.Reply.Code/100))
		case status.ReplyOf(r.Err).Permanent():
			b.WriteByte('P')
		default:
			b.WriteByte('-')
		}
	}
	return b.String()
}

// TestClientDisconnects hangs up at every phase.
func TestClientDisconnects(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name    string
		answers []string // to MAIL, RCPT, RCPT, DATA
		want    string
	}{
		{"at MAIL", nil, "--"},
		{"after MAIL", []string{"250 ok"}, "--"},
		{"421 to MAIL", []string{"421 4.3.2 closing"}, "44"},
		{"after a refusal", []string{"250 ok", "550 no"}, "5-"},
		{"after RCPT", []string{"250 ok", "250 ok", "250 ok"}, "--"},
		{"in DATA", []string{"250 ok", "250 ok", "550 no", "354 go"}, "-5"},
		{"DATA refused", []string{"250 ok", "250 ok", "550 no", "451 later"}, "45"},
		{"all refused, 354", []string{"250 ok", "550 no", "450 later", "354 go"}, "54"},
		{"all refused", []string{"250 ok", "550 no", "450 later", "554 none"}, "54"},
		{"MAIL refused", []string{"550 no", "503 what", "503 what", "503 what"}, "55"},
		{"250 to DATA", []string{"250 ok", "250 ok", "250 ok", "250 what"}, "--"},
		{"354 to RCPT", []string{"250 ok", "354 what", "250 ok", "354 go"}, "--"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			clientAgainst(t, ClientConfig{}, func(p *clientPeer) {
				p.say("220 x")
				p.expect(t, "EHLO", "250-x", "250 PIPELINING")
				for range 4 {
					p.line()
				}
				if len(tt.answers) > 0 {
					p.say(tt.answers...)
				}
			}, func(c *Client) {
				// Too long to be taken by the socket's buffer before the end shows.
				body := strings.Repeat(clientLetter, 1<<17)
				got := c.Send(t.Context(), clientText(0, body, "a@example.com", "b@example.com"))
				if sketch := clientSketch(got); sketch != tt.want {
					t.Errorf("got %s, want %s: %+v", sketch, tt.want, got)
				}
			})
		})
	}
}

// TestClientEndlessReply: a reply has a size limit, and costs no more than it.
func TestClientEndlessReply(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct{ name, flood string }{
		{"lines", "250-more\r\n"}, {"one line", "250-moremoremore"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			clientAgainst(t, ClientConfig{}, func(p *clientPeer) {
				p.say("220 x")
				p.expect(t, "EHLO", "250 x")
				p.line()
				for {
					if _, err := io.WriteString(p, tt.flood); err != nil {
						return
					}
				}
			}, func(c *Client) {
				got := c.Send(t.Context(), clientText(0, clientLetter, "a@example.com"))
				if status.Of(got[0].Err) != status.ConnectionLost || !errors.Is(got[0].Err, errClientReplyLong) {
					t.Errorf("%+v", got[0])
				}
			})
		})
	}
}

// TestClientDeadlines uses a clock of its own and a pipe, on which a peer that
// does not read stops the writer at the first octet.
func TestClientDeadlines(t *testing.T) {
	t.Parallel()
	times := ClientTimeouts{
		Greeting: 1 * time.Second, Command: 2 * time.Second, DataInit: 3 * time.Second,
		DataBlock: 4 * time.Second, DataDone: 5 * time.Second,
	}
	for _, tt := range []struct {
		name string
		peer func(*clientPeer)
		want time.Duration
	}{
		{"greeting", func(p *clientPeer) {}, times.Greeting},
		{"trickled greeting", func(p *clientPeer) {
			for _, c := range "220 slowly" {
				time.Sleep(300 * time.Millisecond)
				if _, err := p.Write([]byte{byte(c)}); err != nil {
					return
				}
			}
		}, times.Greeting},
		{"write MAIL", func(p *clientPeer) { p.say("220 x"); p.line(); p.say("250 x") }, times.DataBlock},
		{"MAIL", func(p *clientPeer) { p.say("220 x"); p.line(); p.say("250 x"); p.line() }, times.Command},
		{"DATA", func(p *clientPeer) {
			p.say("220 x")
			for range 3 {
				p.line()
				p.say("250 x")
			}
			p.line()
		}, times.DataInit},
		{"content", func(p *clientPeer) {
			p.say("220 x")
			for range 3 {
				p.line()
				p.say("250 x")
			}
			p.line()
			p.say("354 go")
		}, times.DataBlock},
		{"end of data", func(p *clientPeer) {
			p.say("220 x")
			for range 3 {
				p.line()
				p.say("250 x")
			}
			p.line()
			p.say("354 go")
			p.content()
		}, times.DataDone},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				near, far := net.Pipe()
				done := make(chan struct{})
				go func() { defer close(done); tt.peer(clientNewPeer(far)) }()
				defer func() { far.Close(); <-done }()
				start := time.Now()
				c, err := NewClient(t.Context(), near, ClientConfig{Timeouts: times, TLS: ClientTLSNone})
				if err == nil {
					start = time.Now()
					err = c.Send(t.Context(), clientText(0, clientLetter, "a@example.com"))[0].Err
				}
				if status.Of(err) != status.ConnectionLost || !errors.Is(err, os.ErrDeadlineExceeded) {
					t.Errorf("got %v", err)
				}
				if took := time.Since(start); took != tt.want {
					t.Errorf("took %v, want %v", took, tt.want)
				}
			})
		})
	}
}

// TestClientSlowReader: a peer that takes a little content now and then is not
// waited for longer than one block may take.
func TestClientSlowReader(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		near, far := net.Pipe()
		done := make(chan struct{})
		defer func() { far.Close(); <-done }()
		go func() {
			defer close(done)
			p := clientNewPeer(far)
			p.say("220 x")
			for range 3 {
				p.line()
				p.say("250 x")
			}
			p.line()
			p.say("354 go")
			block := make([]byte, 32<<10)
			for {
				time.Sleep(time.Minute)
				if _, err := p.Conn.Read(block[:1]); err != nil {
					return
				}
				time.Sleep(time.Minute)
				if _, err := io.ReadFull(p.Conn, block); err != nil {
					return
				}
			}
		}()
		c, err := NewClient(t.Context(), near, ClientConfig{TLS: ClientTLSNone})
		if err != nil {
			t.Fatal(err)
		}
		start := time.Now()
		got := c.Send(t.Context(), clientText(0, strings.Repeat(clientLetter, 1<<20), "a@example.com"))
		if status.Of(got[0].Err) != status.ConnectionLost || got[0].Uncertain {
			t.Errorf("%+v", got[0])
		}
		if took := time.Since(start); took > 5*time.Minute {
			t.Errorf("fed for %v", took)
		}
	})
}

func TestClientContextEnds(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		near, far := net.Pipe()
		defer far.Close()
		go func() {
			p := clientNewPeer(far)
			p.say("220 x")
			p.line()
			p.say("250 x")
			p.line()
		}()
		c, err := NewClient(t.Context(), near, ClientConfig{TLS: ClientTLSNone})
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), 7*time.Second)
		defer cancel()
		start := time.Now()
		got := c.Send(ctx, clientText(0, clientLetter, "a@example.com"))
		if !status.ReplyOf(got[0].Err).Transient() || time.Since(start) != 7*time.Second || c.Usable() {
			t.Errorf("%v after %v", got[0].Err, time.Since(start))
		}
	})
}

// TestClientHandshakeRefusals: whatever the peer says to us, no message may be
// bounced for it.
func TestClientHandshakeRefusals(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name  string
		cfg   ClientConfig
		peer  []string // answers in turn
		stage string
		want  status.Reason
	}{
		{"greeting", ClientConfig{}, []string{"554 5.7.1 go away"}, "greeting", status.ConnectionFailed},
		{"EHLO", ClientConfig{}, []string{"220 x", "550 no", "550 no"}, "HELO", status.ConnectionFailed},
		{"LHLO", ClientConfig{LMTP: true}, []string{"220 x", "550 no"}, "LHLO", status.ConnectionFailed},
		{"no STARTTLS", ClientConfig{TLS: ClientTLSEncrypt}, []string{"220 x", "250 x"}, "", status.PeerNeedsTLS},
		{"STARTTLS refused", ClientConfig{TLS: ClientTLSVerify}, []string{"220 x", "250-x\r\n250 STARTTLS", "554 no"}, "STARTTLS", status.PeerNeedsTLS},
		{"no AUTH", ClientConfig{Login: "a", Password: "b"}, []string{"220 x", "250 x"}, "", status.ConnectionFailed},
		{"AUTH refused", ClientConfig{Login: "a", Password: "b"}, []string{"220 x", "250-x\r\n250 AUTH PLAIN", "535 no"}, "AUTH", status.ConnectionFailed},
		{"injection after STARTTLS", ClientConfig{TLS: ClientTLSEncrypt},
			[]string{"220 x", "250-x\r\n250 STARTTLS", "220 go\r\n250 AUTH PLAIN"}, "", status.ConnectionLost},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			near, far := clientSocketpair(t)
			go func() {
				defer far.Close()
				p := clientNewPeer(far)
				for i, answer := range tt.peer {
					if i > 0 {
						p.line()
					}
					p.say(answer)
				}
				p.line()
			}()
			_, err := NewClient(t.Context(), near, tt.cfg)
			if status.Of(err) != tt.want || !status.ReplyOf(err).Transient() {
				t.Errorf("got %v (%v), want %v", err, status.Of(err), tt.want)
			}
			var refused *HandshakeError
			if errors.As(err, &refused) != (tt.stage != "") || refused != nil && refused.Stage != tt.stage {
				t.Errorf("got %v, want stage %q", err, tt.stage)
			}
		})
	}
}

// clientSocketpair returns both ends of a unix connection.
func clientSocketpair(t *testing.T) (near, far net.Conn) {
	t.Helper()
	dir, err := os.MkdirTemp("", "p")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	l, err := net.Listen("unix", filepath.Join(dir, "s"))
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if near, err = net.Dial("unix", l.Addr().String()); err != nil {
		t.Fatal(err)
	}
	if far, err = l.Accept(); err != nil {
		t.Fatal(err)
	}
	return near, far
}

func TestClientOffers(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name    string
		offered string
		change  func(*ClientMessage)
		want    string
	}{
		{"too big", "SIZE 10", func(m *ClientMessage) { m.Octets = 11 }, "P"},
		{"utf8 declared", "X", func(m *ClientMessage) { m.From.SMTPUTF8 = true }, "P"},
		{"utf8 recipient", "X", func(m *ClientMessage) { m.To[0].ForwardPath.Local = "é" }, "P"},
		{"injected sender", "X", func(m *ClientMessage) { m.From.ReversePath.Local = "a\r\nRSET" }, "P"},
		{"injected recipient", "X", func(m *ClientMessage) { m.To[0].ForwardPath.Local = "a\nDATA" }, "P"},
		{"short content", "X", func(m *ClientMessage) { m.Octets = 1000 }, "-"},
		{"unreadable content", "X", func(m *ClientMessage) { m.Content = iotestErrReader{} }, "-"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			clientAgainst(t, ClientConfig{}, func(p *clientPeer) {
				p.say("220 x")
				p.expect(t, "EHLO", "250-x", "250 "+tt.offered)
				if got := p.line(); got != "" {
					t.Errorf("client said %q", got)
				}
			}, func(c *Client) {
				m := clientText(0, clientLetter, "a@example.com")
				tt.change(&m)
				if got := c.Send(t.Context(), m); clientSketch(got) != tt.want || !c.Usable() {
					t.Errorf("%+v, usable %v", got, c.Usable())
				}
			})
		})
	}
}

type iotestErrReader struct{}

func (iotestErrReader) Read([]byte) (int, error) { return 0, errors.New("bad disk") }

// TestClientContentFails: content that turns out short or unreadable on the
// way must not arrive as a whole message.
func TestClientContentFails(t *testing.T) {
	t.Parallel()
	long := strings.Repeat(clientLetter, 1<<13)
	for _, chunking := range []bool{false, true} {
		for name, content := range map[string]io.Reader{
			"short": strings.NewReader(long),
			"error": io.MultiReader(strings.NewReader(long), iotestErrReader{}),
			"long":  strings.NewReader(long + long + long),
		} {
			t.Run(fmt.Sprintf("%s chunking=%v", name, chunking), func(t *testing.T) {
				t.Parallel()
				clientAgainst(t, ClientConfig{Chunking: chunking}, func(p *clientPeer) {
					p.say("220 x")
					p.expect(t, "EHLO", "250-x", "250 CHUNKING")
					p.expect(t, "MAIL", "250 ok")
					p.expect(t, "RCPT", "250 ok")
					if !chunking {
						p.expect(t, "DATA", "354 go")
					} else {
						p.expect(t, fmt.Sprintf("BDAT %d LAST", 2*len(long)))
					}
					got, _ := io.ReadAll(p.r)
					if len(got) >= 2*len(long) || bytes.HasSuffix(got, []byte("\r\n.\r\n")) {
						t.Errorf("peer got a whole message of %d octets", len(got))
					}
				}, func(c *Client) {
					m := clientText(int64(2*len(long)), "", "a@example.com")
					m.Content = content
					got := c.Send(t.Context(), m)
					if status.Of(got[0].Err) != status.StoreDown || got[0].Uncertain || c.Usable() {
						t.Errorf("%+v", got[0])
					}
				})
			})
		}
	}
}

func TestClientChunking(t *testing.T) {
	t.Parallel()
	small, large := "a\rb\n.\r\nno line end", strings.Repeat(clientLetter, 1<<14)
	clientAgainst(t, ClientConfig{LMTP: true, Chunking: true}, func(p *clientPeer) {
		chunk := func(want string) {
			p.expect(t, fmt.Sprintf("BDAT %d LAST", len(want)))
			got := make([]byte, len(want))
			if _, err := io.ReadFull(p.r, got); err != nil || string(got) != want {
				t.Errorf("chunk %.40q, %v", got, err)
			}
		}
		p.say("220 x")
		p.expect(t, "LHLO", "250-x", "250-PIPELINING", "250 CHUNKING")
		p.expect(t, "MAIL")
		p.expect(t, "RCPT")
		p.expect(t, "RCPT")
		chunk(small)
		p.say("250 m", "250 r", "250 r", "250 one", "452 two")
		p.expect(t, "MAIL")
		p.expect(t, "RCPT")
		p.say("250 m", "250 r")
		chunk(large)
		p.say("250 ok")
		p.expect(t, "MAIL")
		p.expect(t, "RCPT")
		p.say("250 m", "550 r")
		p.expect(t, "RSET")
		p.expect(t, "MAIL")
		p.expect(t, "RCPT")
		chunk(small)
		p.say("250 reset", "250 m", "550 r", "503 nobody")
	}, func(c *Client) {
		for i, tt := range []struct {
			body, want string
			to         []string
		}{
			{small, "+4", []string{"a@example.com", "b@example.com"}},
			{large, "+", []string{"a@example.com"}},
			{large, "5", []string{"a@example.com"}},
			{small, "5", []string{"a@example.com"}},
		} {
			got := c.Send(t.Context(), clientText(int64(len(tt.body)), tt.body, tt.to...))
			if clientSketch(got) != tt.want {
				t.Fatalf("message %d: %+v, want %s", i, got, tt.want)
			}
		}
	})
}

// TestClientChunkLost: the whole message was in the first write, so whoever
// was not refused may have it.
func TestClientChunkLost(t *testing.T) {
	t.Parallel()
	clientAgainst(t, ClientConfig{LMTP: true, Chunking: true}, func(p *clientPeer) {
		p.say("220 x")
		p.expect(t, "LHLO", "250-x", "250-PIPELINING", "250 CHUNKING")
		for range 6 {
			p.line()
		}
		p.say("250 m", "550 r")
	}, func(c *Client) {
		body := "a\r\nb\r\n"
		got := c.Send(t.Context(), clientText(int64(len(body)), body, "a@example.com", "b@example.com", "c@example.com"))
		if clientSketch(got) != "5??" {
			t.Errorf("%+v", got)
		}
	})
}

func TestClientUsableAfterFarewell(t *testing.T) {
	t.Parallel()
	for _, farewell := range []string{"421 4.4.2 idle too long\r\n", ""} {
		near, far := clientSocketpair(t)
		go func() {
			p := clientNewPeer(far)
			p.say("220 x")
			p.line()
			p.say("250 x")
			_, _ = io.WriteString(p, farewell)
			_ = p.Close()
		}()
		c, err := NewClient(t.Context(), near, ClientConfig{})
		if err != nil {
			t.Fatal(err)
		}
		for deadline := time.Now().Add(time.Minute); c.Usable(); {
			if time.Now().After(deadline) {
				t.Fatalf("usable after %q", farewell)
			}
		}
		_ = c.Close()
	}
}

// TestClientManyRecipients: groups are cut before both sides could wait for
// each other's full buffers.
func TestClientManyRecipients(t *testing.T) {
	t.Parallel()
	const recipients = 5000
	clientAgainst(t, ClientConfig{}, func(p *clientPeer) {
		p.say("220 x")
		p.expect(t, "EHLO", "250-x", "250 PIPELINING")
		for {
			switch line := p.line(); {
			case line == "DATA":
				p.say("354 go")
				p.content()
				p.say("250 ok")
				return
			case line == "":
				return
			}
			p.say("250-" + strings.Repeat("long winded ", 20) + "\r\n250 ok")
		}
	}, func(c *Client) {
		var to []string
		for i := range recipients {
			to = append(to, fmt.Sprintf("user%d@example.com", i))
		}
		got := c.Send(t.Context(), clientText(0, clientLetter, to...))
		if want := strings.Repeat("+", recipients); clientSketch(got) != want {
			t.Errorf("got %.100s", clientSketch(got))
		}
	})
}
