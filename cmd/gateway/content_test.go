package main

import (
	"bufio"
	"fmt"
	"net"
	"net/textproto"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/postern-mail/postern/internal/testenv"
)

// lookingInside is the standard site with a content list, that relays what
// clients of this machine bring.
func lookingInside(steps, outside string) string {
	return strings.NewReplacer(
		"mynetworks = []", "mynetworks = [\"127.0.0.0/8\"]\n  policy \"content\" {\n"+steps+"\n  }",
		nobodyListens, outside,
	).Replace(standard)
}

// checksOf are tables of all four checks, in Postfix's notation.
var checksOf = map[string]string{
	"header_checks": `/^Received:.*evil/ IGNORE
/^X-Refused: (.*)/ REJECT not with $1
/^X-Later:/ REJECT 4.7.5 come again
/^X-Coded:/ REJECT 5.7.9 coded
/^X-Gone:/ DISCARD
/^X-Ignored:/ IGNORE
/^X-Stripped:/ STRIP quietly
/^X-Replaced: (\S+)/ REPLACE X-New: <$1>
/^X-Ahead:/ PREPEND X-Before: yes
/^X-Warned:/ WARN look
/^X-Folded: a\n b$/ REPLACE X-Folded: found
/^X-To: (.*)/ REDIRECT $1
/^X-Bcc: (.*)/ BCC $1
/^X-Pass:/ PASS
if /^X-If:/
!/fine/ REJECT if
endif
`,
	"mime_header_checks":   "/^Content-Disposition:.*name=.*\\.exe/ REJECT no programs\n/^X-Part: (.*)/ REPLACE X-Part: part $1\n/^Content-Description:/ IGNORE\n",
	"nested_header_checks": "/^X-Nested:/ PREPEND X-Nested-Before: 1\n/^X-Refused:/ REJECT nested\n",
	"body_checks":          "/^refuse me/ REJECT in the body\n/^ignore me/ IGNORE\n/^replace (me)/ REPLACE replaced $1\n/^prepend me/ PREPEND before\n/^discard me/ DISCARD\n/^far away/ REJECT too far\n",
}

// TestChecksAsPostfix brings the same messages through header_checks and its like
// of a real Postfix and through ours: the replies and what arrives are the same.
func TestChecksAsPostfix(t *testing.T) {
	t.Parallel()
	theirs, ours := startOutside(t), startOutside(t)
	s := newSite(t, "", nil)
	lines := []string{"mynetworks = 127.0.0.0/8", "default_transport = smtp", "relayhost = " + strings.Replace(theirs.Address, "127.0.0.1", "[127.0.0.1]", 1), "smtp_tls_security_level = none"}
	steps := ""
	dir := testenv.TempDir(t)
	must(t, os.Chmod(dir, 0o755))
	for _, name := range []string{"header_checks", "mime_header_checks", "nested_header_checks", "body_checks"} {
		file := filepath.Join(dir, name)
		must(t, os.WriteFile(file, []byte(checksOf[name]), 0o644))
		lines = append(lines, name+" = pcre:"+file)
		steps += fmt.Sprintf("    %s { table = \"pcre:%s\" }\n", name, file)
	}
	s.configure(lookingInside(steps, ours.Address))
	s.start()
	postfix := testenv.PostfixMaster(t, lines...)

	const head = "From: a@client.test\r\nDate: Sun, 22 Nov 2026 04:00:00 +0000\r\nMessage-ID: <%s@client.test>\r\nTo: b@far.example\r\n"
	const multipart = "MIME-Version: 1.0\r\nContent-Type: multipart/mixed; boundary=b\r\n\r\npre\r\n--b\r\n"
	for name, text := range map[string]string{
		"plain":            "Subject: x\r\n\r\nbody\r\n",
		"refused":          "X-Refused: this\r\n\r\nbody\r\n",
		"later":            "X-Later: x\r\n\r\nbody\r\n",
		"coded":            "X-Coded: x\r\n\r\nbody\r\n",
		"gone":             "X-Gone: x\r\n\r\nbody\r\n",
		"ignored":          "X-Ignored: x\r\n y\r\nSubject: z\r\n\r\nbody\r\n",
		"stripped":         "X-Stripped: x\r\nSubject: z\r\n\r\nbody\r\n",
		"replaced":         "X-Replaced: x y\r\nSubject: z\r\n\r\nbody\r\n",
		"ahead":            "X-Ahead: x\r\nSubject: z\r\n\r\nbody\r\n",
		"warned":           "X-Warned: x\r\n\r\nbody\r\n",
		"folded":           "X-Folded: a\r\n b\r\n\r\nbody\r\n",
		"redirected":       "X-To: c@far.example\r\n\r\nbody\r\n",
		"copied":           "X-Bcc: c@far.example\r\n\r\nbody\r\n",
		"passed":           "X-Pass: x\r\nX-Refused: y\r\n\r\nrefuse me\r\n",
		"if":               "X-If: bad\r\n\r\nbody\r\n",
		"if not":           "X-If: fine\r\n\r\nbody\r\n",
		"spaced":           "X-Replaced : x\r\n\r\nbody\r\n",
		"received":         "Received: from evil\r\nSubject: x\r\n\r\nbody\r\n",
		"body refused":     "Subject: x\r\n\r\nok\r\nrefuse me\r\n",
		"body edited":      "Subject: x\r\n\r\nignore me\r\nreplace me now\r\nprepend me\r\nignore me\r\nend\r\n",
		"body discarded":   "Subject: x\r\n\r\ndiscard me\r\n",
		"body far away":    "Subject: x\r\n\r\n" + strings.Repeat("0123456789012345678901234567890123456789\r\n", 1400) + "far away\r\n",
		"part":             multipart + "X-Part: one\r\nContent-Description: x\r\n\r\nignore me\r\nbody\r\n--b--\r\n",
		"part refused":     multipart + "Content-Disposition: attachment;\r\n filename=\"x.exe\"\r\n\r\nbody\r\n--b--\r\n",
		"part of its own":  multipart + "X-Refused: x\r\nX-Ignored: y\r\n\r\nbody\r\n--b--\r\n",
		"nested":           multipart + "Content-Type: message/rfc822\r\n\r\nX-Nested: x\r\nX-Ignored: y\r\n\r\nignore me\r\n--b--\r\n",
		"nested refused":   multipart + "Content-Type: message/rfc822\r\n\r\nX-Refused: x\r\n\r\nbody\r\n--b--\r\n",
		"nested part":      multipart + "Content-Type: message/rfc822\r\n\r\nContent-Description: x\r\n\r\nbody\r\n--b--\r\n",
		"no header":        "no header here\r\n\r\nignore me\r\n",
		"a line cut short": "Subject: x\r\nno field\r\nX-Refused: y\r\n\r\nbody\r\n",
		"dots":             "Subject: x\r\n\r\n..\r\n..ignore me\r\nignore me\r\n",
	} {
		to := strings.ReplaceAll(name, " ", "-") + "@far.example"
		text = fmt.Sprintf(head, strings.ReplaceAll(name, " ", "-")) + text
		text = strings.ReplaceAll(text, "c@far.example", "copy-"+to)
		want := bring(t, postfix.SMTP, to, text)
		if got := bring(t, s.address("MX"), to, text); got != want {
			t.Errorf("%s: we said %q, Postfix %q", name, got, want)
		}
	}
	s.waitForOutput(t, "The queue is empty")
	testenv.Eventually(t, time.Minute, func() error {
		want, got := arrived(theirs), arrived(ours)
		if !slices.Equal(got, want) {
			return fmt.Errorf("%s", difference(got, want))
		}
		return nil
	})
}

func (s *site) waitForOutput(t *testing.T, what string) { waitForOutput(t, s, what, "queue", "list") }

// bring sends one message by hand and returns the reply without the queue id.
func bring(t testing.TB, address, to, text string) string {
	t.Helper()
	conn, err := net.Dial("tcp", address)
	must(t, err)
	d := &dialog{t: t, conn: conn, text: textproto.NewConn(conn)}
	defer func() { _ = conn.Close() }()
	d.expect("220 ")
	d.say("EHLO client.test", "250 ", "MAIL FROM:<a@client.test>", "250 ", "RCPT TO:<"+to+">", "250 ", "DATA", "354 ")
	d.send(text + ".\r\n")
	reply, err := d.reply()
	must(t, err)
	if reply, _, accepted := strings.Cut(reply, "Ok: queued as "); accepted {
		return reply
	}
	return strings.ToLower(reply) // the words of the table, and "message content rejected"
}

// arrived are the messages a server got, without what those on the way added.
func arrived(o *outsideServer) []string {
	var all []string
	for _, m := range o.got() {
		var text strings.Builder
		header, body, _ := strings.Cut(m.Text, "\r\n\r\n")
		ours := false
		for line := range strings.SplitSeq(header, "\r\n") {
			if folded := line != "" && (line[0] == ' ' || line[0] == '\t'); !folded {
				ours = strings.HasPrefix(line, "Received: ")
			}
			if !ours {
				text.WriteString(line + "\n")
			}
		}
		all = append(all, strings.Join(m.To, ",")+"\n"+text.String()+"\n"+strings.ReplaceAll(body, "\r\n", "\n"))
	}
	slices.Sort(all)
	return all
}

func difference(got, want []string) string {
	var b strings.Builder
	for _, m := range got {
		if !slices.Contains(want, m) {
			fmt.Fprintf(&b, "only from us: %.600q\n", m)
		}
	}
	for _, m := range want {
		if !slices.Contains(got, m) {
			fmt.Fprintf(&b, "only from Postfix: %.600q\n", m)
		}
	}
	return b.String()
}

// wireTap is a mail server that keeps what it is sent octet by octet.
type wireTap struct {
	Address string
	mu      sync.Mutex
	texts   []string
}

func startWireTap(t testing.TB) *wireTap {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	w := &wireTap{Address: l.Addr().String()}
	var sessions sync.WaitGroup
	sessions.Go(func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			sessions.Go(func() { w.serve(conn) })
		}
	})
	t.Cleanup(func() {
		_ = l.Close()
		sessions.Wait()
	})
	return w
}

func (w *wireTap) serve(conn net.Conn) {
	defer func() { _ = conn.Close() }()
	_ = conn.SetDeadline(time.Now().Add(2 * time.Minute))
	r := bufio.NewReader(conn)
	say := func(line string) { _, _ = conn.Write([]byte(line + "\r\n")) }
	say("220 tap.example ESMTP")
	for {
		line, err := r.ReadString('\n')
		if err != nil {
			return
		}
		switch verb, _, _ := strings.Cut(strings.ToUpper(strings.TrimRight(line, "\r\n")), " "); verb {
		case "DATA":
			say("354 go on")
			var text strings.Builder
			for !strings.HasSuffix("\r\n"+text.String(), "\r\n.\r\n") {
				c, err := r.ReadByte()
				if err != nil {
					return
				}
				text.WriteByte(c)
			}
			w.mu.Lock()
			w.texts = append(w.texts, text.String())
			w.mu.Unlock()
			say("250 ok")
		case "EHLO":
			say("250-tap.example\r\n250-SMTPUTF8\r\n250 8BITMIME")
		case "QUIT":
			say("221 bye")
			return
		default:
			say("250 ok")
		}
	}
}

func (w *wireTap) got() []string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.Clone(w.texts)
}

// TestWhatTheNextHopSees relays what smuggling is made of, streamed and looked
// into and changed: every line that the next hop reads ends in CRLF, only the last
// is a dot, and it is the same octets both ways.
func TestWhatTheNextHopSees(t *testing.T) {
	t.Parallel()
	const smuggled = "MAIL FROM:<evil@client.test>\r\nRCPT TO:<victim@far.example>\r\nDATA\r\nSubject: smuggled\r\n\r\nx"
	shapes := map[string]string{
		"LF dot LF": "\n.\n", "LF dot CRLF": "\n.\r\n", "CRLF dot LF": "\r\n.\n", "CR dot CR": "\r.\r", "CR dot CRLF": "\r.\r\n", "CRLF dot CR": "\r\n.\r",
		"CRLF CR dot": "\r\n\r.\r\n", "CR CRLF dot": "\r\r\n.\r\r\n", "NUL dot": "\r\n\x00.\r\n", "dot NUL": "\r\n.\x00\r\n", "LF LF": "\n\n.\n\n",
		"dots": "\r\n..\r\n...\r\n", "CR": "\r", "eight bits": "\r\n\xff\xfe\r\n", "dot space": "\r\n. \r\n", "VT dot": "\r\n\x0b.\r\n", "NEL": "\xc2\x85.\xc2\x85",
	}
	var seen [2]map[string]string
	for way, steps := range []string{"", "    header_checks { table = \"inline:{never=DUNNO}\" }\n    body_checks { table = \"inline:{never=IGNORE}\" }\n    attachments { deny_names = [\"*.exe\"] }"} {
		tap := startWireTap(t)
		s := newSite(t, variant(t, lookingInside(steps, tap.Address), `target "smtp" "outside" {`, "target \"smtp\" \"outside\" {\n    convert_8bit = false\n   ", tap.Address+`"] }`, tap.Address+"\"]\n  }"), nil).start()
		n := 0
		for name, shape := range shapes {
			text := "Subject: " + name + "\r\n\r\nfirst" + shape + smuggled + "\r\n"
			d := s.dial("MX")
			d.say("EHLO client.test", "250 ", "MAIL FROM:<a@client.test> BODY=8BITMIME", "250 ", "RCPT TO:<b@far.example>", "250 ", "DATA", "354 ")
			d.send(text + ".\r\n")
			d.expect("250 ")
			// In chunks, divided in the middle of the shape.
			text = strings.Replace(text, "Subject: ", "Subject: BDAT ", 1)
			half := strings.Index(text, "first") + 5 + len(shape)/2
			d.say("MAIL FROM:<a@client.test> BODY=8BITMIME", "250 ", "RCPT TO:<b@far.example>", "250 ")
			d.send(fmt.Sprintf("BDAT %d\r\n%sBDAT %d LAST\r\n%s", half, text[:half], len(text)-half, text[half:]))
			d.expect("250 ")
			d.expect("250 ")
			d.say("QUIT", "221 ")
			n += 2
		}
		testenv.Eventually(t, time.Minute, func() error {
			if got := len(tap.got()); got != n {
				return fmt.Errorf("%d messages arrived of %d", got, n)
			}
			return nil
		})
		seen[way] = make(map[string]string)
		for _, text := range tap.got() {
			if bare := strings.ReplaceAll(text, "\r\n", ""); strings.ContainsAny(bare, "\r\n") {
				t.Errorf("a bare CR or LF was passed on: %q", text)
			}
			if strings.Count("\r\n"+text, "\r\n.\r\n") != 1 {
				t.Errorf("more than one end: %q", text)
			}
			_, subject, _ := strings.Cut(text, "Subject: ")
			subject, body, _ := strings.Cut(subject, "\r\n")
			seen[way][subject] = body
		}
	}
	for subject, body := range seen[0] {
		if seen[1][subject] != body {
			t.Errorf("%s: streamed %q, looked into %q", subject, body, seen[1][subject])
		}
	}
}
