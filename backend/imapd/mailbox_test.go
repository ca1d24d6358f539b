package imapd

import (
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/txtar"
)

// volatile numbers stand in transcripts by name.
var volatile = []struct {
	pattern *regexp.Regexp
	to      string
}{
	{regexp.MustCompile(`(UIDVALIDITY|APPENDUID|COPYUID) \d{5,}`), "$1 <uidvalidity>"},
	{regexp.MustCompile(`INTERNALDATE "[ \d]\d-\w{3}-20[^"]*"`), "INTERNALDATE <now>"},
	{regexp.MustCompile(`((?:MAILBOXID|EMAILID) \([FM])[0-9a-f]{32}\)`), "$1<id>)"},
	{regexp.MustCompile(`(CAPABILITY IMAP4rev1) [^\]]* IDLE [^\]]*`), "$1 <capabilities>"}, // docs/rfc.md has them
	{regexp.MustCompile(`(APPENDLIMIT=)\d+`), "${1}<limit>"},
	{regexp.MustCompile(`(HIGHESTMODSEQ|MODSEQ|MODSEQ \() ?\d+`), "$1 <modseq>"},
}

// TestTranscripts plays the dialogues in testdata: "C: " lines are sent, "S: "
// lines are what must come back. Every section of an archive is a connection
// to one server. UPDATE_GOLDEN=1 writes what comes back into the archive.
func TestTranscripts(t *testing.T) {
	t.Parallel()
	files, err := filepath.Glob("testdata/*.txtar")
	if err != nil || len(files) == 0 {
		t.Fatalf("no transcripts: %v", err)
	}
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".txtar"), func(t *testing.T) {
			t.Parallel()
			archive, err := txtar.ParseFile(file)
			if err != nil {
				t.Fatal(err)
			}
			s := startServer(t, testConfig())
			for i := range archive.Files {
				archive.Files[i].Data = play(t, s, archive.Files[i].Name, string(archive.Files[i].Data))
			}
			if os.Getenv("UPDATE_GOLDEN") == "1" {
				if err := os.WriteFile(file, txtar.Format(archive), 0o644); err != nil {
					t.Fatal(err)
				}
			}
		})
	}
}

func play(t *testing.T, s *server, name, script string) []byte {
	c := s.dial()
	var out strings.Builder
	lines := strings.Split(strings.TrimRight(script, "\n"), "\n")
	for i := 0; i < len(lines); {
		if sent, ok := strings.CutPrefix(lines[i], "C: "); ok {
			c.send(sent + "\r\n")
			out.WriteString(lines[i] + "\n")
			i++
			if i < len(lines) && strings.HasPrefix(lines[i], "C: ") && os.Getenv("UPDATE_GOLDEN") != "1" {
				continue
			}
		}
		want := i
		for want < len(lines) && strings.HasPrefix(lines[want], "S: ") {
			want++
		}
		if os.Getenv("UPDATE_GOLDEN") == "1" {
			for _, l := range c.quiet() {
				out.WriteString("S: " + l + "\n")
			}
		} else {
			for ; i < want; i++ {
				if got := "S: " + stable(c.textLine()); got != lines[i] {
					t.Fatalf("%s, line %d:\n got %s\nwant %s", name, i+1, got, lines[i])
				}
			}
		}
		i = want
		for i < len(lines) && !strings.HasPrefix(lines[i], "C: ") && !strings.HasPrefix(lines[i], "S: ") {
			out.WriteString(lines[i] + "\n") // a comment
			i++
		}
	}
	// A client that says no more is told all there is to tell, and closed on.
	c.patient()
	if err := c.conn.(*net.TCPConn).CloseWrite(); err != nil {
		t.Errorf("%s: %v", name, err)
	}
	if extra, err := io.ReadAll(c.r); err != nil || len(extra) > 0 {
		t.Errorf("%s: more than expected: %q, %v", name, extra, err)
	}
	return []byte(out.String())
}

func stable(line string) string {
	for _, v := range volatile {
		line = v.pattern.ReplaceAllString(line, v.to)
	}
	return line
}

func (c *client) textLine() string {
	c.t.Helper()
	c.patient()
	line, err := c.r.ReadString('\n')
	if err != nil {
		c.t.Fatalf("read: %v after %q", err, line)
	}
	return strings.TrimRight(line, "\r\n")
}

// quiet reads lines until the server has been silent for a while.
func (c *client) quiet() []string {
	var lines []string
	for {
		_ = c.conn.SetReadDeadline(time.Now().Add(300 * time.Millisecond))
		line, err := c.r.ReadString('\n')
		if err != nil {
			c.patient()
			return lines
		}
		lines = append(lines, stable(strings.TrimRight(line, "\r\n")))
	}
}

func TestExamineIsReadOnly(t *testing.T) {
	t.Parallel()
	s := startServer(t, testConfig())
	c := s.login("alice")
	c.append("INBOX", `\Deleted`, message("one", "x"))
	c.append("INBOX", "", message("two", "x"))
	c.ok("CREATE other")
	c.ok("EXAMINE INBOX")
	c.fails(`STORE 1:2 +FLAGS (\Seen)`, "NO [NOPERM]")
	c.fails(`UID STORE 1:* +FLAGS.SILENT (\Deleted)`, "NO [NOPERM]")
	c.fails("EXPUNGE", "NO [NOPERM]")
	c.fails("UID EXPUNGE 1:*", "NO [NOPERM]")
	c.fails("MOVE 1 other", "NO [NOPERM]")
	c.fails("UID MOVE 1 other", "NO [NOPERM]")
	c.ok("FETCH 1:2 BODY[]") // and sets no \Seen
	c.ok("COPY 1 other")
	c.ok("CLOSE") // and expunges nothing
	c.ok("SELECT INBOX")
	expect(t, "flags after EXAMINE", c.ok("FETCH 1:* FLAGS"), `* 1 FETCH (FLAGS (\Deleted))`, `* 2 FETCH (FLAGS ())`)
	c.ok("CLOSE")
	expect(t, "after CLOSE", c.ok("STATUS INBOX (MESSAGES)"), "* STATUS INBOX (MESSAGES 1)")
}

func TestCopyOfNothing(t *testing.T) {
	t.Parallel()
	s := startServer(t, testConfig())
	c := s.login("alice")
	c.append("INBOX", "", message("one", "x"))
	c.ok("SELECT INBOX")
	for _, command := range []string{"UID COPY 100:200 Sent", "UID MOVE 100:200 Sent", "UID EXPUNGE 100", "UID STORE 100 FLAGS (x)", "UID FETCH 100 FLAGS"} {
		untagged, tagged := c.cmd(command)
		if len(untagged) > 0 || tagged != "OK Completed" {
			t.Errorf("%s: %q %s", command, untagged, tagged)
		}
	}
	c.fails("COPY 2 Sent", "BAD")
	c.fails("COPY 1 nowhere", "NO [TRYCREATE]")
	c.fails("UID COPY 100 nowhere", "NO [TRYCREATE]")
}

func TestExpungeWaitsForItsTime(t *testing.T) {
	t.Parallel()
	s := startServer(t, testConfig())
	a, b := s.login("alice"), s.login("alice")
	for i := range 4 {
		a.append("INBOX", "", message(fmt.Sprint("m", i), "x"))
	}
	a.ok("SELECT INBOX")
	b.ok("SELECT INBOX")
	b.ok(`UID STORE 2 +FLAGS.SILENT (\Deleted)`)
	b.ok("EXPUNGE")
	b.append("INBOX", "", message("m5", "x"))
	b.ok(`STORE 1 +FLAGS.SILENT (\Flagged)`)

	// Sequence numbers hold through FETCH, STORE and SEARCH; flags are told.
	expect(t, "FETCH", a.ok("FETCH 3 UID"), `* 1 FETCH (FLAGS (\Flagged))`, "* 3 FETCH (UID 3)")
	expect(t, "STORE", a.ok(`STORE 3 +FLAGS (\Seen)`), `* 3 FETCH (FLAGS (\Seen))`)
	expect(t, "silent STORE", a.ok(`STORE 4 +FLAGS.SILENT (\Answered)`))
	expect(t, "SEARCH", a.ok("SEARCH UID 4"), "* SEARCH 4")
	expect(t, "FETCH again", a.ok("FETCH 4 UID"), "* 4 FETCH (UID 4)")
	if _, tagged := a.cmd("FETCH 2 BODY.PEEK[]"); !strings.HasPrefix(tagged, "NO [EXPUNGEISSUED]") {
		t.Errorf("FETCH of an expunged message: %s", tagged)
	}
	// Commands by UID may tell, before they look.
	expect(t, "UID SEARCH", a.ok("UID SEARCH ALL"), "* 2 EXPUNGE", "* 4 EXISTS", "* SEARCH 1 3 4 5")
	expect(t, "NOOP", a.ok("NOOP"))
	expect(t, "FETCH at the end", a.ok("FETCH 1:* (UID FLAGS)"), `* 1 FETCH (UID 1 FLAGS (\Flagged))`,
		`* 2 FETCH (UID 3 FLAGS (\Seen))`, `* 3 FETCH (UID 4 FLAGS (\Answered))`, `* 4 FETCH (UID 5 FLAGS ())`)
}

func TestSilentStoreTellsForeignChanges(t *testing.T) {
	t.Parallel()
	s := startServer(t, testConfig())
	a, b := s.login("alice"), s.login("alice")
	a.append("INBOX", "", message("m", "x"))
	a.ok("SELECT INBOX")
	b.ok("SELECT INBOX")
	b.ok(`STORE 1 +FLAGS.SILENT (\Flagged)`)
	a.ok("NOOP")
	b.ok(`STORE 1 -FLAGS.SILENT (\Flagged)`)
	expect(t, "own change", a.ok(`UID STORE 1 +FLAGS.SILENT (\Seen)`), `* 1 FETCH (UID 1 FLAGS (\Seen))`)
	expect(t, "nothing to do", a.ok(`STORE 1 +FLAGS (\Seen)`), `* 1 FETCH (FLAGS (\Seen))`)
}

func TestIdle(t *testing.T) {
	t.Parallel()
	s := startServer(t, testConfig())
	a, b := s.login("alice"), s.login("alice")
	a.ok("SELECT INBOX")
	a.send("i IDLE\r\n")
	expect(t, "continuation", []string{a.line()}, "+ idling")
	started := time.Now()
	b.append("INBOX", "", message("m", "x"))
	expect(t, "news", []string{a.line()}, "* 1 EXISTS")
	t.Logf("told %s after the APPEND began", time.Since(started))
	b.ok("SELECT INBOX")
	b.ok(`STORE 1 +FLAGS.SILENT (\Deleted $X)`)
	expect(t, "flags", []string{a.line(), a.line(), a.line()}, `* FLAGS (\Answered \Flagged \Deleted \Seen \Draft $X)`,
		`* OK [PERMANENTFLAGS (\Answered \Flagged \Deleted \Seen \Draft $X \*)] Flags permitted`, `* 1 FETCH (FLAGS (\Deleted $X))`)
	b.ok("EXPUNGE")
	expect(t, "expunge", []string{a.line()}, "* 1 EXPUNGE")
	a.send("DONE\r\ni2 NOOP\r\n")
	if line := a.line(); !strings.HasPrefix(line, "i OK") {
		t.Errorf("DONE: %s", line)
	}
	if line := a.line(); !strings.HasPrefix(line, "i2 OK") {
		t.Errorf("after IDLE: %s", line)
	}
	a.send("i3 IDLE\r\n")
	a.line()
	a.send("NOOP\r\n")
	if line := a.line(); !strings.HasPrefix(line, "i3 BAD") {
		t.Errorf("not DONE: %s", line)
	}
	a.send("i4 IDLE\r\n")
	a.line()
	_ = a.conn.Close() // the session ends by itself: startServer's cleanup waits for it
}

// A change between the last command and IDLE is told at once, as are changes
// while IDLE begins.
func TestIdleLosesNoWakeUp(t *testing.T) {
	t.Parallel()
	s := startServer(t, testConfig())
	a, b := s.login("alice"), s.login("alice")
	a.ok("SELECT INBOX")
	for n := 1; n <= 30; n++ {
		done := make(chan struct{})
		text := message("m", "x")
		go func() {
			defer close(done)
			fmt.Fprintf(b.conn, "x APPEND INBOX {%d+}\r\n%s\r\n", len(text), text)
			b.until("x")
		}()
		if n%2 == 0 {
			<-done
		}
		a.send("i IDLE\r\n")
		for want := fmt.Sprintf("* %d EXISTS", n); ; {
			line := a.line()
			if line == want {
				break
			}
			if line != "+ idling" {
				t.Fatalf("idle %d: %s", n, line)
			}
		}
		<-done
		a.send("DONE\r\n")
		a.until("i")
	}
}

func TestIdleTimeout(t *testing.T) {
	t.Parallel()
	cfg := testConfig()
	cfg.IdleTimeout = 50 * time.Millisecond
	s := startServer(t, cfg)
	c := s.login("alice")
	if lines := c.closed(); len(lines) != 1 || !strings.HasPrefix(lines[0], "* BYE Autologout") {
		t.Errorf("waiting: %q", lines)
	}
	c = s.dial()
	c.send("a LOGIN alice secret\r\nb IDLE\r\n")
	if lines := c.closed(); len(lines) != 4 || lines[2] != "+ idling" || !strings.HasPrefix(lines[3], "* BYE Autologout") {
		t.Errorf("in IDLE: %q", lines)
	}
}

func TestDeletedMailboxEndsItsSessions(t *testing.T) {
	t.Parallel()
	s := startServer(t, testConfig())
	a, b := s.login("alice"), s.login("alice")
	a.ok("CREATE gone")
	a.ok("SELECT gone")
	b.ok("SELECT gone")
	b.send("i IDLE\r\n")
	b.line()
	untagged := a.ok("DELETE gone")
	if len(untagged) != 1 || !strings.HasPrefix(untagged[0], "* OK [CLOSED]") {
		t.Errorf("DELETE of the selected mailbox: %q", untagged)
	}
	a.fails("FETCH 1 FLAGS", "BAD")
	if lines := b.closed(); len(lines) != 1 || !strings.HasPrefix(lines[0], "* BYE") {
		t.Errorf("other session: %q", lines)
	}
}

func TestSearch(t *testing.T) {
	t.Parallel()
	s := startServer(t, testConfig())
	c := s.login("alice")
	add := func(date, flags, text string) {
		t.Helper()
		c.ok(fmt.Sprintf("APPEND INBOX (%s) %q {%d+}\r\n%s", flags, date, len(text), text))
	}
	add(" 1-Jan-2020 12:00:00 +0000", `\Seen`, message("first", "needle in the hay"))
	add("15-Feb-2021 23:59:59 +0000", `\Flagged $Junk`, "From: =?utf-8?q?J=C3=B6rg?= <j@example.com>\r\nSubject: =?iso-8859-1?Q?Gr=FC=DFe?=\r\n aus Berlin\r\n"+
		"MIME-Version: 1.0\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Transfer-Encoding: base64\r\n\r\nSGlkZGVuIG5lZWRsZSB3aXRoIMOcbWzDpHV0\r\n")
	add(" 3-Mar-2022 00:00:00 +0000", `\Answered \Deleted`, "Subject: parts\r\nMIME-Version: 1.0\r\nContent-Type: multipart/mixed; boundary=b\r\n\r\n"+
		"--b\r\nContent-Type: text/plain; charset=\"iso-8859-1\"\r\nContent-Transfer-Encoding: quoted-printable\r\n\r\nsoft li=\r\nne and caf=E9\r\n"+
		"--b\r\nContent-Type: application/octet-stream\r\n\r\nattached needle\r\n"+
		"--b\r\nContent-Type: message/rfc822\r\n\r\nSubject: enclosed\r\n\r\ninner text\r\n--b--\r\n")
	add(" 4-Apr-2023 00:00:00 +0000", `\Draft`, "\r\nno header at all "+strings.Repeat("x", 5000)+"\r\n")
	c.ok("SELECT INBOX")
	for _, tt := range []struct{ keys, want string }{
		{"ALL", "1 2 3 4"},
		{"SEEN", "1"}, {"UNSEEN", "2 3 4"}, {"FLAGGED", "2"}, {"UNFLAGGED", "1 3 4"}, {"ANSWERED", "3"}, {"UNANSWERED", "1 2 4"},
		{"DELETED", "3"}, {"UNDELETED", "1 2 4"}, {"DRAFT", "4"}, {"UNDRAFT", "1 2 3"},
		{"KEYWORD $junk", "2"}, {"UNKEYWORD $Junk", "1 3 4"}, {"RECENT", ""}, {"NEW", ""}, {"OLD", "1 2 3 4"},
		{"BEFORE 15-Feb-2021", "1"}, {"ON 15-Feb-2021", "2"}, {"SINCE 15-Feb-2021", "2 3 4"}, {`SINCE "1-Jan-2023"`, "4"},
		{"SENTON 7-Feb-1994", "1"}, {"SENTBEFORE 8-Feb-1994", "1"}, {"SENTSINCE 8-Feb-1994", ""},
		{"LARGER 4000", "4"}, {"SMALLER 4000", "1 2 3"},
		{"2:3", "2 3"}, {"*", "4"}, {"5", ""}, {"3:99", "3 4"}, {"NOT 5:9", "1 2 3 4"}, {"99:*", "4"}, {"UID 1,3:*", "1 3 4"}, {"UID 100:200", ""}, {"UID 100:*", "4"},
		{"SUBJECT FIRST", "1"}, {"SUBJECT \"gr\u00fc\u00dfe aus\"", "2"}, {"CHARSET UTF-8 FROM {5+}\r\nJ\u00d6RG", "2"},
		{"HEADER Message-ID first@", "1"}, {`HEADER MIME-Version ""`, "2 3"}, {"TO bob", "1"}, {"CC bob", ""}, {"BCC x", ""},
		{"BODY needle", "1 2"}, {"BODY \"with \u00fcml\"", "2"}, {"BODY \"soft line and CAF\u00c9\"", "3"}, {"BODY enclosed", ""}, {"TEXT enclosed", "3"}, {"BODY inner", "3"},
		{"TEXT aus", "2"}, {"TEXT hay", "1"}, {"BODY first", ""}, {"TEXT \"no header\"", "4"},
		{"OR SEEN DRAFT", "1 4"}, {"NOT SEEN NOT DRAFT", "2 3"}, {"(SEEN) OR (FLAGGED) (ANSWERED BODY x)", ""}, {"NOT (OR SEEN (DRAFT))", "2 3"},
		{"UNSEEN BODY needle", "2"}, {"CHARSET US-ASCII ALL", "1 2 3 4"}, {"MODSEQ 1", "1 2 3 4"},
	} {
		got := c.ok("SEARCH " + tt.keys)
		want := strings.TrimRight("* SEARCH "+tt.want, " ")
		if len(got) == 0 || !strings.HasPrefix(got[len(got)-1]+" ", want+" ") || len(tt.want) > 0 && !strings.Contains(tt.keys, "MODSEQ") && got[len(got)-1] != want {
			t.Errorf("SEARCH %s: %q, want %q", tt.keys, got, want)
		}
	}
	c.fails("SEARCH CHARSET X-OTHER ALL", "NO [BADCHARSET")
	c.fails("FETCH 1 ()", "BAD")
	c.fails("STATUS INBOX ()", "BAD")

	expect(t, "ESEARCH", c.ok("UID SEARCH RETURN (MIN MAX COUNT ALL) UNSEEN"), fmt.Sprintf(`* ESEARCH (TAG "t%d") UID MIN 2 MAX 4 ALL 2:4 COUNT 3`, c.tag))
	expect(t, "ESEARCH", c.ok("SEARCH RETURN () OR SEEN DRAFT"), fmt.Sprintf(`* ESEARCH (TAG "t%d") ALL 1,4`, c.tag))
	expect(t, "ESEARCH of nothing", c.ok("SEARCH RETURN (MIN COUNT) RECENT"), fmt.Sprintf(`* ESEARCH (TAG "t%d") COUNT 0`, c.tag))
}

func TestCondstore(t *testing.T) {
	t.Parallel()
	s := startServer(t, testConfig())
	a, b := s.login("alice"), s.login("alice")
	for i := range 3 {
		a.append("INBOX", "", message(fmt.Sprint("m", i), "x"))
	}
	var modseq, first uint64
	for _, line := range a.ok("SELECT INBOX (CONDSTORE)") {
		_, _ = fmt.Sscanf(line, "* OK [HIGHESTMODSEQ %d]", &modseq)
	}
	if modseq == 0 {
		t.Fatal("no HIGHESTMODSEQ")
	}
	if _, err := fmt.Sscanf(a.ok("FETCH 1 (FLAGS)")[0], "* 1 FETCH (FLAGS () MODSEQ (%d))", &first); err != nil || first > modseq {
		t.Errorf("MODSEQ %d, %v", first, err)
	}
	b.ok("SELECT INBOX")
	b.ok(`STORE 2 +FLAGS.SILENT (\Flagged)`)
	got := a.ok("NOOP")
	var changed uint64
	if len(got) != 1 {
		t.Fatalf("NOOP: %q", got)
	}
	if _, err := fmt.Sscanf(got[0], `* 2 FETCH (FLAGS (\Flagged) MODSEQ (%d))`, &changed); err != nil || changed <= modseq {
		t.Errorf("unsolicited FETCH %q: %v", got[0], err)
	}
	if got := a.ok(fmt.Sprintf("FETCH 1:* (UID) (CHANGEDSINCE %d)", modseq)); len(got) != 1 || !strings.HasPrefix(got[0], fmt.Sprintf("* 2 FETCH (UID 2 MODSEQ (%d))", changed)) {
		t.Errorf("CHANGEDSINCE: %q", got)
	}
	// Message 2 has changed since, message 1 has not.
	untagged, tagged := a.cmd(fmt.Sprintf(`STORE 1:2 (UNCHANGEDSINCE %d) +FLAGS.SILENT (\Seen)`, modseq))
	if !strings.HasPrefix(tagged, "OK [MODIFIED 2]") || len(untagged) != 1 || !strings.HasPrefix(untagged[0], "* 1 FETCH (MODSEQ (") {
		t.Errorf("UNCHANGEDSINCE: %q %s", untagged, tagged)
	}
	if _, tagged := a.cmd(`UID STORE 1:3 (UNCHANGEDSINCE 0) +FLAGS (\Seen)`); !strings.HasPrefix(tagged, "OK [MODIFIED 1:3]") {
		t.Errorf("UNCHANGEDSINCE 0: %s", tagged)
	}
	if got := a.ok(fmt.Sprintf("SEARCH MODSEQ %d", changed)); len(got) != 1 || !strings.HasPrefix(got[0], "* SEARCH 1 2 (MODSEQ ") {
		t.Errorf("SEARCH MODSEQ: %q", got)
	}
	if got := a.ok(fmt.Sprintf("SEARCH RETURN (MIN) MODSEQ %d", changed)); len(got) != 1 || !strings.Contains(got[0], " MIN 1 MODSEQ ") {
		t.Errorf("ESEARCH MODSEQ: %q", got)
	}
	if got := b.ok("ENABLE CONDSTORE X-FOO"); len(got) < 2 || got[0] != "* ENABLED CONDSTORE" || !strings.HasPrefix(got[1], "* OK [HIGHESTMODSEQ ") {
		t.Errorf("ENABLE: %q", got)
	}
}
