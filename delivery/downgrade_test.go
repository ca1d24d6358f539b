package delivery_test

import (
	"bytes"
	"net"
	"strings"
	"sync"
	"testing"

	"github.com/hashicorp/go-hclog"

	"github.com/postern-mail/postern/delivery"
	"github.com/postern-mail/postern/delivery/relay"
	"github.com/postern-mail/postern/delivery/tlspolicy"
)

// oldServer takes mail without knowing any extension but those given, and
// returns what each message was.
func oldServer(t *testing.T, address string, extensions ...string) (port string, got chan string) {
	t.Helper()
	l, err := net.Listen("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	got = make(chan string, 10)
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			go serveOld(conn, extensions, got)
		}
	}()
	t.Cleanup(func() { _ = l.Close(); <-done })
	_, port, _ = net.SplitHostPort(l.Addr().String())
	return port, got
}

func serveOld(conn net.Conn, extensions []string, got chan<- string) {
	defer conn.Close()
	l := newLines(conn)
	l.say("220 old ESMTP")
	dialogue := ""
	for {
		line := l.read()
		switch verb, _, _ := strings.Cut(line, " "); verb {
		case "":
			return
		case "EHLO":
			l.say("250-old\r\n" + strings.Join(append(extensions, "250 ENHANCEDSTATUSCODES"), "\r\n"))
		case "DATA":
			l.say("354 go")
			for line = l.read(); line != "."; line = l.read() {
				dialogue += line + "\n"
			}
			got <- dialogue
			dialogue = ""
			l.say("250 ok")
		case "MAIL":
			dialogue = line + "\n"
			l.say("250 ok")
		default:
			l.say("250 ok")
		}
	}
}

const eightBitLetter = "MIME-Version: 1.0\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Transfer-Encoding: 8bit\r\n\r\n.Gr\u00fc\u00dfe\r\n"

func TestDowngrade(t *testing.T) {
	t.Parallel()
	port, got := oldServer(t, "127.0.0.1:0", "250-SIZE 1000")
	target := delivery.Target{Addresses: []string{"[127.0.0.1]:" + port}, TLS: tlspolicy.None}
	tr := newRelay(t, target, names{})
	deliver := func(text, want string) {
		t.Helper()
		d := messageOf(text, "x@example.net")
		if out := tr.Deliver(t.Context(), d); sketch(out) != want {
			t.Errorf("got %s: %+v", sketch(out), out)
		}
	}
	deliver(eightBitLetter, "delivered by peer")
	const converted = "MIME-Version: 1.0\nContent-Type: text/plain; charset=utf-8\nContent-Transfer-Encoding: quoted-printable\n\n..Gr=C3=BC=C3=9Fe\n"
	if text := <-got; text != "MAIL FROM:<a@example.org> SIZE=125\n"+converted {
		t.Errorf("got %q", text)
	}
	deliver(body, "delivered by peer")
	if text := <-got; !strings.HasSuffix(text, "and lines\n") {
		t.Errorf("ASCII: got %q", text)
	}
	deliver("Content-Type: multipart/signed; boundary=b\r\n\r\n--b\r\n\r\n\u00fc\r\n--b--\r\n", "bounced 5.6.3")
	deliver("X: y\r\n\r\n"+strings.Repeat("\u00fc\u00fc\r\n", 100), "bounced 5.3.4") // too large once converted

	target.KeepEightBit = true
	tr = newRelay(t, target, names{})
	deliver(eightBitLetter, "delivered by peer")
	if text := <-got; !strings.Contains(text, "Gr\u00fc\u00dfe") {
		t.Errorf("kept: got %q", text)
	}
}

// TestDowngradeBreaksDKIM: the log tells of signatures that a conversion breaks.
func TestDowngradeBreaksDKIM(t *testing.T) {
	t.Parallel()
	port, got := oldServer(t, "127.0.0.1:0")
	var log bytes.Buffer
	var mu sync.Mutex // over log
	tr, err := relay.New(delivery.Target{Name: "test", Protocol: delivery.SMTP, Addresses: []string{"[127.0.0.1]:" + port}, TLS: tlspolicy.None},
		"mx.example.com", names{}, nil, hclog.New(&hclog.LoggerOptions{Output: &log, Mutex: &mu}))
	if err != nil {
		t.Fatal(err)
	}
	running(t, tr.Run)
	for text, warns := range map[string]bool{
		eightBitLetter: false,
		"dkim-signature: v=1\r\n" + eightBitLetter:         true,
		"X-DKIM-Signature: v=1\r\n" + eightBitLetter:       false,
		"DKIM-Signature: v=1\r\n" + body:                   false, // ASCII
		eightBitLetter + "DKIM-Signature: in the body\r\n": false,
	} {
		if out := tr.Deliver(t.Context(), messageOf(text, "x@example.net")); sketch(out) != "delivered by peer" {
			t.Errorf("%q: %+v", text, out)
		}
		<-got
		mu.Lock()
		if warned := strings.Contains(log.String(), "its DKIM signature does not hold there"); warned != warns {
			t.Errorf("%q: the log has %q", text, log.String())
		}
		log.Reset()
		mu.Unlock()
	}
}

// TestDowngradeOnlyWhereNeeded: what cannot be converted goes on to a host that
// takes it as it is.
func TestDowngradeOnlyWhereNeeded(t *testing.T) {
	t.Parallel()
	port, old := oldServer(t, loopbackAt(t))
	_, able := oldServer(t, "127.0.0.2:"+port, "250-8BITMIME")
	tr := newRelay(t, delivery.Target{Addresses: []string{"[127.0.0.1]:" + port, "[127.0.0.2]:" + port}, TLS: tlspolicy.None}, names{})
	signed := "Content-Type: multipart/signed; boundary=b\r\n\r\n--b\r\n\r\n\u00fc\r\n--b--\r\n"
	if out := tr.Deliver(t.Context(), messageOf(signed, "x@example.net")); sketch(out) != "delivered by peer" {
		t.Errorf("%+v", out)
	}
	if text := <-able; !strings.Contains(text, "\u00fc") || len(old) > 0 {
		t.Errorf("got %q, and %d the old one", text, len(old))
	}
}
