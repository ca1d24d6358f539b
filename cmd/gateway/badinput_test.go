package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/postern-mail/postern/internal/testenv"
	"github.com/postern-mail/postern/testdata/ldif"
)

// begin opens a transaction to bob up to DATA.
func (d *dialog) begin() {
	d.t.Helper()
	d.say("EHLO client.example", "250 ", "MAIL FROM:<a@elsewhere.example>", "250 2.1.0", "RCPT TO:<bob@example.com>", "250 2.1.5", "DATA", "354 ")
}

func TestOversize(t *testing.T) {
	t.Parallel()
	s := newSite(t, variant(t, standard, mxListener, `listener "mx" {
    bind        = ["127.0.0.1:{{.Port.MX}}"]
    max_message = "10 KiB"
  }`), nil).start()
	line := strings.Repeat("x", 70) + "\r\n"
	d := s.dial("MX")
	d.say("EHLO client.example", "250 ", "MAIL FROM:<a@elsewhere.example> SIZE=10241", "552 5.3.4", "MAIL FROM:<a@elsewhere.example> SIZE=10240", "250 ", "RSET", "250 ")
	d.begin()
	d.send("Subject: too large\r\n\r\n" + strings.Repeat(line, 200) + ".\r\n")
	d.expect("552 5.3.4")
	d.say("MAIL FROM:<a@elsewhere.example>", "250 ", "RCPT TO:<bob@example.com>", "250 ")
	chunk := strings.Repeat(line, 100)
	d.send(fmt.Sprintf("BDAT %d\r\n%s", len(chunk), chunk))
	d.expect("250 ")
	d.send(fmt.Sprintf("BDAT %d LAST\r\n%s", len(chunk), chunk))
	d.expect("552 5.3.4")
	d.begin()
	d.send("Subject: small enough\r\n\r\n" + strings.Repeat(line, 100) + ".\r\n")
	d.expect("250 2.0.0")
	s.waitFor("bob", "small enough", 1)
	if got := count(t, s, "bob"); len(got) != 1 {
		t.Errorf("bob has %v", got)
	}
}

// TestSmuggling: what only some servers take for the end of a message is none,
// so that nobody can hide a second one in the first (SMTP smuggling).
func TestSmuggling(t *testing.T) {
	t.Parallel()
	for mode, shapes := range map[string]map[string]string{
		"normalize": {
			"LF dot LF": "\n.\n", "CRLF dot LF": "\r\n.\n", "LF dot CRLF": "\n.\r\n", "CR dot CR": "\r.\r", "CRLF dot CR": "\r\n.\r",
			"CR dot CRLF": "\r.\r\n", "NUL": "\r\n.\x00\r\n", "CR CRLF": "\r\n.\r\r\n", "LF LF": "\n\n.\n\n",
		},
		"reject": {"LF dot LF": "\n.\n", "CRLF dot LF": "\r\n.\n", "LF dot CRLF": "\n.\r\n"},
	} {
		t.Run(mode, func(t *testing.T) {
			t.Parallel()
			s := newSite(t, variant(t, standard, mxListener, `listener "mx" {
    bind          = ["127.0.0.1:{{.Port.MX}}"]
    bare_newlines = "`+mode+`"
  }`), nil).start()
			for name, shape := range shapes {
				d := s.dial("MX")
				d.begin()
				d.send("Subject: outer " + name + "\r\n\r\nfirst" + shape +
					"MAIL FROM:<a@elsewhere.example>\r\nRCPT TO:<bob@example.com>\r\nDATA\r\nSubject: smuggled\r\n\r\nsecond\r\n.\r\nQUIT\r\n")
				var replies []string
				for {
					line, err := d.reply()
					if err != nil {
						break
					}
					replies = append(replies, line[:min(3, len(line))])
				}
				// One verdict on one message, and the answer to QUIT.
				want := map[string]string{"normalize": "250 221", "reject": "550 221"}[mode]
				if got := strings.Join(replies, " "); got != want {
					t.Errorf("%s: replies %q, want %q", name, got, want)
				}
			}
			must(t, s.inject("a@elsewhere.example", []string{"bob@example.com"}, "mark"))
			s.waitFor("bob", "mark", 1)
			for subject, n := range count(t, s, "bob") {
				if n != 1 || subject == "smuggled" || mode == "reject" && subject != "mark" {
					t.Errorf("%q arrived %d times", subject, n)
				}
			}
		})
	}
}

// TestBDAT: chunks carry octets as they are, pipelined, and give up as a whole.
func TestBDAT(t *testing.T) {
	t.Parallel()
	s := newSite(t, standard, nil).start()
	d := s.dial("MX")
	d.say("EHLO client.example", "250 ")
	first, second := "Subject: in chunks\r\n\r\none\r\n.\r\n", "MAIL FROM:<x@y.example>\r\n.two\r\n"
	d.send("MAIL FROM:<a@elsewhere.example>\r\nRCPT TO:<bob@example.com>\r\n" +
		fmt.Sprintf("BDAT %d\r\n%sBDAT %d\r\n%sBDAT 0 LAST\r\n", len(first), first, len(second), second))
	for range 5 {
		d.expect("250 ")
	}
	s.waitFor("bob", "in chunks", 1)
	if text := s.message(t, "bob", 1); !strings.HasSuffix(text, "\r\n\r\none\r\n.\r\n"+second) {
		t.Errorf("arrived as %q", text)
	}

	d.say("MAIL FROM:<a@elsewhere.example>", "250 ", "RCPT TO:<bob@example.com>", "250 ")
	d.send("BDAT 5\r\nabcdeRSET\r\n")
	d.expect("250 ")
	d.expect("250 ")
	d.send("BDAT 4 LAST\r\nQUIT") // octets of a chunk that nobody wants are no command
	d.expect("503 5.5.1")
	d.say("MAIL FROM:<a@elsewhere.example>", "250 ", "RCPT TO:<nobody@example.com>", "550 5.1.1")
	d.send("BDAT 6 LAST\r\nQUIT\r\n")
	if line, err := d.reply(); err != nil || line[0] != '5' {
		t.Errorf("a chunk without recipients: %q, %v", line, err)
	}
	d.say("NOOP", "250 ")
	d.send("BDAT 99999999999999999999 LAST\r\n")
	if line, err := d.reply(); err != nil || line[0] != '5' && !strings.HasPrefix(line, "421") {
		t.Errorf("an impossible chunk: %q, %v", line, err)
	}
	if got := count(t, s, "bob"); len(got) != 1 {
		t.Errorf("bob has %v", got)
	}
}

// message fetches a whole message out of somebody's INBOX.
func (s *site) message(t *testing.T, login string, number uint32) string {
	t.Helper()
	c, err := s.imap(login, ldif.Password(login))
	must(t, err)
	defer func() { _ = c.Close() }()
	text, err := fetchText(c, number)
	must(t, err)
	return text
}

// TestPipeliningAcrossSTARTTLS: what somebody in between puts behind STARTTLS
// is not taken for what the client said under TLS.
func TestPipeliningAcrossSTARTTLS(t *testing.T) {
	t.Parallel()
	s := newSite(t, standard, nil).start()
	for _, listener := range []string{"MX", "Submission"} {
		d := s.dial(listener)
		d.say("EHLO client.example", "250 ")
		d.send("STARTTLS\r\nEHLO evil.example\r\nMAIL FROM:<evil@elsewhere.example>\r\n")
		d.expect("220 2.0.0")
		d.startTLS(s.trust)
		d.say("RCPT TO:<bob@example.com>", "503 5.5.1") // not even the EHLO before counts
		d.say("EHLO client.example", "250 ", "NOOP", "250 ", "QUIT", "221 ")
	}
}

// TestDiskFull: below the reserve mail is put off before its content is sent,
// and taken again once there is room.
func TestDiskFull(t *testing.T) {
	t.Parallel()
	full := variant(t, standard, `mynetworks = []`, `mynetworks = []
  queue { queue_minfree = "1000000 TiB" }`)
	s := newSite(t, full, nil).start()
	d := s.dial("MX")
	d.say("EHLO client.example", "250 ", "MAIL FROM:<a@elsewhere.example>", "452 4.3.1", "QUIT", "221 ")
	s.proc.Stop()
	must(t, s.proc.Err())
	s.configure(standard)
	s.start()
	must(t, s.inject("a@elsewhere.example", []string{"bob@example.com"}, "room again"))
	s.waitFor("bob", "room again", 1)

	// The mailboxes' disk is full: mail waits in the queue.
	s.proc.Stop()
	s.configure(variant(t, standard, "backend {\n", "backend {\n  minfree = \"1000000 TiB\"\n"))
	s.start()
	must(t, s.inject("a@elsewhere.example", []string{"bob@example.com"}, "waits for room"))
	waitForOutput(t, s, `\(.*lmtp.sock said: 452 4\.[23]\.`, "queue", "list")
	s.proc.Stop()
	s.configure(standard)
	s.start()
	s.run("queue", "retry", "--all")
	s.waitFor("bob", "waits for room", 1)
}

// TestStopWaitsForTransfers: after SIGTERM a message under way is finished and
// kept, and nobody new is let in.
func TestStopWaitsForTransfers(t *testing.T) {
	t.Parallel()
	s := newSite(t, standard, nil).start()
	idle, d := s.dial("MX"), s.dial("MX")
	idle.say("EHLO client.example", "250 ")
	d.begin()
	d.send("Subject: under way\r\n\r\nfirst half\r\n")
	stopped := make(chan struct{})
	go func() {
		defer close(stopped)
		s.proc.Stop()
	}()
	s.waitForLog("stopping: no new sessions")
	idle.expect("421 4.3.2")
	d.send("second half\r\n.\r\n")
	d.expect("250 2.0.0")
	select {
	case <-stopped:
	case <-time.After(time.Minute):
		t.Fatal("the server does not stop")
	}
	must(t, s.proc.Err())
	s.start()
	s.waitFor("bob", "under way", 1)
}

// TestMalformedLDIF: a mistake in the directory's file is told with its place,
// by the check, at the start and by the running server, which goes on with
// what it has.
func TestMalformedLDIF(t *testing.T) {
	t.Parallel()
	s := newSite(t, standard, nil)
	file := filepath.Join(s.Dir, "company.ldif")
	broken := strings.Replace(read(t, file), "\nuid: bob\n", "\nuid bob\n", 1)
	at := 1 + strings.Count(broken[:strings.Index(broken, "\nuid bob\n")+1], "\n")
	place := fmt.Sprintf("%s:%d", file, at)
	write := func(text string) {
		t.Helper()
		must(t, os.WriteFile(file+".new", []byte(text), 0o600))
		must(t, os.Rename(file+".new", file))
	}
	sound := read(t, file)
	write(broken)
	for _, command := range []string{"check", "serve"} {
		args := map[string][]string{"check": {"config", "check"}, "serve": {"serve"}}[command]
		out, err := runFailing(t, append(args, "-c", s.Config)...)
		if err != nil || !strings.Contains(out, place) {
			t.Errorf("%s: %v; want %s in:\n%s", command, err, place, out)
		}
	}
	write(sound)
	s.start()
	write(broken)
	s.waitForLog(fmt.Sprintf(`company\.ldif:%d`, at))
	must(t, s.send("alice", ldif.Password("alice"), "alice@example.com", "bob@example.com", "by what it has"))
	s.waitFor("bob", "by what it has", 1)
	write(strings.Replace(sound, "mail: bob@example.com\n", "mail: robert@example.com\n", 1))
	testenv.Eventually(t, time.Minute, func() error {
		return s.inject("a@elsewhere.example", []string{"robert@example.com"}, "to the new address")
	})
}
