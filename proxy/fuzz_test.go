package proxy

import (
	"bufio"
	"bytes"
	"net"
	"strings"
	"testing"
	"time"
)

// FuzzCommand: no command before the login breaks the parser, and what it reads
// of an ID goes to the node in well-formed strings.
func FuzzCommand(f *testing.F) {
	for _, seed := range []string{
		"a LOGIN kim secret", "a LOGIN {3}\r\nkim {6+}\r\nsecret", `a LOGIN "k\"im" "x"`, `a ID ("name" "x" "os" NIL)`, "a ID NIL",
		"a AUTHENTICATE PLAIN AGtpbQBzZWNyZXQ=", "a ID (", "", "a", "a LOGIN {99999999999999999999}\r\n",
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, line []byte) {
		p := &imapParser{b: line}
		p.word()
		verb := p.nextWord()
		rest := *p
		if fields, err := p.idList(); err == nil {
			for _, field := range fields {
				q := &imapParser{b: []byte(quote(field))}
				if _, err := q.astring(); err != nil || !q.ended() {
					t.Errorf("%q is written as %q", field, quote(field))
				}
			}
		}
		_, _ = rest.nextString()
		_, _ = rest.nextString()
		_, _, _ = literalAt(line)
		_ = verb
	})
}

// FuzzAnswer: whatever a node says, reading it ends, and a refusal is never
// taken for an OK.
func FuzzAnswer(f *testing.F) {
	for _, seed := range []string{
		"p4 OK in\r\n", "* CAPABILITY IMAP4rev1\r\np4 OK [CAPABILITY X] in\r\n", "+ \r\np4 NO [UNAVAILABLE] x\r\n", "* BYE gone\r\n", "p4 BAD\r\n", "+\r\n+\r\n+\r\n",
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, said []byte) {
		near, far := net.Pipe()
		defer near.Close()
		_ = far.Close()
		_ = near.SetDeadline(time.Now().Add(time.Second))
		b := &backend{Conn: near, in: bufio.NewReaderSize(bytes.NewReader(said), upstreamBuffer)}
		if _, err := b.imapAnswer("p4", "x"); err == nil && !strings.Contains(strings.ToUpper(string(said)), "P4 OK") {
			t.Errorf("%q is an OK", said)
		}
		_ = imapDialect{}.hail(b)
	})
}
