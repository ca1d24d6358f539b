package main

import (
	"crypto/tls"
	"fmt"
	"net"
	"net/textproto"
	"strings"
	"testing"
	"time"

	gosmtp "github.com/emersion/go-smtp"
)

// dialog is a session typed by hand: it sends what no client would.
type dialog struct {
	t    testing.TB
	conn net.Conn
	text *textproto.Conn
}

// dial opens a session at a listener and reads the greeting.
func (s *site) dial(listener string) *dialog {
	s.t.Helper()
	conn, err := net.Dial("tcp", s.address(listener))
	must(s.t, err)
	d := &dialog{t: s.t, conn: conn, text: textproto.NewConn(conn)}
	s.t.Cleanup(func() { _ = d.conn.Close() })
	d.expect("220 ")
	return d
}

// send writes octets as they are.
func (d *dialog) send(octets string) {
	d.t.Helper()
	must(d.t, d.conn.SetDeadline(time.Now().Add(2*time.Minute)))
	if _, err := d.conn.Write([]byte(octets)); err != nil {
		d.t.Fatalf("send %q: %v", octets, err)
	}
}

// reply reads one reply, of several lines perhaps, and returns its last line.
func (d *dialog) reply() (string, error) {
	must(d.t, d.conn.SetDeadline(time.Now().Add(2*time.Minute)))
	for {
		line, err := d.text.ReadLine()
		if err != nil || len(line) < 4 || line[3] != '-' {
			return line, err
		}
	}
}

// expect reads one reply, which must begin as wanted.
func (d *dialog) expect(want string) {
	d.t.Helper()
	if line, err := d.reply(); err != nil || !strings.HasPrefix(line, want) {
		d.t.Fatalf("the server said %q, %v; want %q", line, err, want)
	}
}

// say sends lines, each after the reply to the one before, and wants replies
// that begin as told: line, reply, line, reply.
func (d *dialog) say(linesAndReplies ...string) {
	d.t.Helper()
	for i := 0; i < len(linesAndReplies); i += 2 {
		d.send(linesAndReplies[i] + "\r\n")
		d.expect(linesAndReplies[i+1])
	}
}

// startTLS performs the handshake that the server waits for.
func (d *dialog) startTLS(trust *tls.Config) {
	d.t.Helper()
	secured := tls.Client(d.conn, trust)
	must(d.t, secured.SetDeadline(time.Now().Add(2*time.Minute)))
	must(d.t, secured.Handshake())
	d.conn, d.text = secured, textproto.NewConn(secured)
}

// outageLimit is how long a site may take to notice that a neighbour is back.
const outageLimit = time.Minute

// answer is an SMTP client's error as "550 5.1.1", or "" for nil.
func answer(err error) string {
	reply, ok := err.(*gosmtp.SMTPError)
	switch {
	case err == nil:
		return ""
	case !ok:
		return err.Error()
	}
	e := reply.EnhancedCode
	return fmt.Sprintf("%d %d.%d.%d", reply.Code, e[0], e[1], e[2])
}

// wantAnswer holds an answer against what it should be.
func wantAnswer(t testing.TB, what string, err error, want string) {
	t.Helper()
	if got := answer(err); got != want {
		t.Errorf("%s: %q (%v), want %q", what, got, err, want)
	}
}

// variant is a configuration with texts in it replaced, which must be there.
func variant(t testing.TB, text string, oldNew ...string) string {
	t.Helper()
	for i := 0; i < len(oldNew); i += 2 {
		if !strings.Contains(text, oldNew[i]) {
			t.Fatalf("the configuration does not hold %q", oldNew[i])
		}
		text = strings.Replace(text, oldNew[i], oldNew[i+1], 1)
	}
	return text
}

// Blocks of the standard configuration that variants replace.
const (
	ldifDirectory = `directory "ldif" "company" {
  file = "{{.Dir}}/company.ldif"
  base = "dc=example,dc=com"
}
`
	ldifAuthn   = `authn "ldif" { directory = directory.company }`
	mxListener  = `listener "mx" { bind = ["127.0.0.1:{{.Port.MX}}"] }`
	backendRole = `backend {
  listener "lmtp" { bind = ["unix:{{.Socket}}"] }
  listener "imaps" { bind = ["127.0.0.1:{{.Port.IMAPS}}"] }
}
`
)
