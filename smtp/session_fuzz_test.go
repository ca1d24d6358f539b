package smtp

import (
	"bytes"
	"context"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"golang.org/x/tools/txtar"

	"github.com/hashicorp/go-hclog"
)

// script is a connection whose client sends a text, leaves, and keeps what it
// is told.
type script struct {
	pieces
	told   bytes.Buffer
	closed bool
}

func (s *script) Write(p []byte) (int, error)      { return s.told.Write(p) }
func (s *script) Close() error                     { s.closed = true; return nil }
func (s *script) RemoteAddr() net.Addr             { return &net.UnixAddr{} }
func (s *script) LocalAddr() net.Addr              { return &net.UnixAddr{} }
func (s *script) SetWriteDeadline(time.Time) error { return nil }

var replyLine = regexp.MustCompile(`^[2-5][0-9][0-9][ -][^\x00-\x1f\x7f]*$`)

// FuzzSession feeds a whole session any octets, and holds it to what is true
// of every session: it ends, well-formed replies only, each transaction
// ended once, nothing but whole messages, one call of Close and no panic.
func FuzzSession(f *testing.F) {
	files, err := filepath.Glob("testdata/server/*.txtar")
	if err != nil || len(files) == 0 {
		f.Fatalf("no seeds: %v", err)
	}
	for _, name := range files {
		f.Add(clientSide(f, name), uint8(len(name)%3), uint16(50))
	}
	f.Add("EHLO x\r\nMAIL FROM:<\"\\\">\"@x> SIZE=1\r\nRCPT TO:<b@[IPv6:::1]>\r\nBDAT 3\r\nabcBDAT 0 LAST\r\n", uint8(0), uint16(1))
	f.Fuzz(func(t *testing.T, text string, mode uint8, size uint16) {
		h := &fakeHandler{}
		set, err := newSettings(ServerConfig{
			Hostname: "mx.test", Mode: Mode(mode % 3), Pipelining: PipeliningTolerate, AllowInsecureAuth: true,
			ErrorDelay: time.Nanosecond, MaxMessageOctets: 10000,
		}, h)
		check(t, err)
		conn := &script{pieces: pieces{rest: text, size: int(size) + 1}}
		var log bytes.Buffer
		session := newServerSession(context.Background(), set, conn, "s1", hclog.New(&hclog.LoggerOptions{Output: &log}))
		session.roster = new(roster)
		session.serve()

		if !conn.closed {
			t.Error("the connection is open")
		}
		told := conn.told.String()
		for line := range strings.SplitSeq(strings.TrimSuffix(told, "\r\n"), "\r\n") {
			if told != "" && !replyLine.MatchString(line) {
				t.Errorf("malformed reply %q", line)
			}
		}
		// Words the fake handler was asked to panic for are no finding.
		if log.Len() > 0 && strings.Contains(log.String(), "panicked") && !strings.Contains(strings.ToLower(text), "panic") &&
			!strings.Contains(log.String(), "asked for") {
			t.Errorf("panic:\n%s", log.String())
		}
		var begun, ended, closed int
		for _, event := range h.events {
			switch {
			case strings.HasPrefix(event, "rcpt "):
			case event == "abort" || strings.HasPrefix(event, "content "):
				ended++
			case strings.HasPrefix(event, "close "):
				closed++
			}
		}
		begun = strings.Count(told, "250 2.1.0 ")
		if panicked := strings.Contains(log.String(), "panicked"); !panicked && begun != ended || closed != 1 {
			t.Errorf("%d transactions begun, %d ended, %d closed:\n%s\n%s", begun, ended, closed, h.seen(), told)
		}
		for _, body := range h.bodies {
			if len(body) > 10000 || body != "" && !strings.HasSuffix(body, "\r\n") ||
				strings.ContainsAny(strings.ReplaceAll(body, "\r\n", ""), "\r\n") {
				t.Errorf("message %q", body)
			}
		}
	})
}

// clientSide returns what the client says in a transcript.
func clientSide(t testing.TB, name string) string {
	t.Helper()
	data, err := os.ReadFile(name)
	check(t, err)
	var b strings.Builder
	for _, file := range txtar.Parse(data).Files {
		if file.Name != "transcript" {
			continue
		}
		for line := range strings.Lines(string(file.Data)) {
			if text, ok := strings.CutPrefix(strings.TrimSuffix(line, "\n"), "C: "); ok {
				b.WriteString(text + "\r\n")
			}
		}
	}
	return b.String()
}

// FuzzPathArgument: an address that was read from the wire is written so that
// the next reader sees the same one, whatever was inside its quotes.
func FuzzPathArgument(f *testing.F) {
	for _, seed := range []string{
		`FROM:<a@b.test> SIZE=1`, `from: <"a > b"@c.test>`, `FROM:<"\"@\\"@c.test>`, `FROM:<>`, `FROM:<@r.test:a@b.test>`,
		`FROM:<"v@x.test> ORCPT=rfc822;a"@b.test>`, `FROM:<ü@ü.test>`,
	} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, arg string) {
		if !isText([]byte(arg)) {
			return
		}
		first, rest, err := parsePathArgument(arg, "FROM:", "", true, 0)
		if loose, _, looseErr := parsePathArgument(tightened(arg, "FROM:"), "FROM:", "", true, 0); err == nil && (looseErr != nil || loose != first) {
			t.Errorf("%q: %#v is %#v, %v where less is asked for", arg, first, loose, looseErr)
		}
		if err != nil {
			return
		}
		again, _, err := parsePathArgument("FROM:"+first.Path()+rest, "FROM:", "", true, 0)
		if err != nil || again != first {
			t.Errorf("%q: %#v is written %s and read %#v, %v", arg, first, first.Path(), again, err)
		}
	})
}
