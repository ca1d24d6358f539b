package imapd

import (
	"bufio"
	"compress/flate"
	"fmt"
	"io"
	"net"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// lineWith returns the first of some responses that holds text.
func lineWith(lines []string, text string) string {
	if i := slices.IndexFunc(lines, func(s string) bool { return strings.Contains(s, text) }); i >= 0 {
		return lines[i]
	}
	return ""
}

// TestRev2Select: SELECT of a client of IMAP4rev2 tells the name, and neither
// RECENT nor UNSEEN; that of another is as it was.
func TestRev2Select(t *testing.T) {
	t.Parallel()
	s := startServer(t, testConfig())
	c := s.login("alice")
	c.append("INBOX", "", message("one", "text"))
	before := c.ok("SELECT INBOX")
	if lineWith(before, "* 0 RECENT") == "" || lineWith(before, "[UNSEEN 1]") == "" || lineWith(before, "* LIST") != "" {
		t.Errorf("IMAP4rev1: %q", before)
	}
	expect(t, "ENABLE", c.ok("ENABLE IMAP4rev2 X-UNKNOWN"), "* ENABLED IMAP4rev2")
	expect(t, "ENABLE again", c.ok("ENABLE IMAP4rev2"), "* ENABLED")
	after := c.ok("SELECT inbox")
	if lineWith(after, "RECENT") != "" || lineWith(after, "UNSEEN") != "" || lineWith(after, `* LIST () "/" INBOX`) != `* LIST () "/" INBOX` ||
		after[0] != "* OK [CLOSED] Previous mailbox is closed" {
		t.Errorf("IMAP4rev2: %q", after)
	}
	// The name in another normal form is told with the one that was asked for.
	c.ok("CREATE \"Cafe\u0301\"")
	after = c.ok("SELECT \"Cafe\u0301\"")
	if want := "* LIST () \"/\" \"Caf\u00e9\" (\"OLDNAME\" (\"Cafe\u0301\"))"; lineWith(after, "* LIST") != want {
		t.Errorf("normalised name: %q, want %q", lineWith(after, "* LIST"), want)
	}
}

// TestRev2FlagsOfOthers: to a client of IMAP4rev2, flags that it did not ask for are
// told with the UID (RFC 9051 section 7.5.2).
func TestRev2FlagsOfOthers(t *testing.T) {
	t.Parallel()
	s := startServer(t, testConfig())
	modern, old, other := s.login("alice"), s.login("alice"), s.login("alice")
	for range 2 {
		other.append("INBOX", "", message("one", "text"))
	}
	other.append("INBOX", "", message("two", "text"))
	modern.ok("ENABLE IMAP4rev2")
	for _, c := range []*client{modern, old, other} {
		c.ok("SELECT INBOX")
		c.ok("UID STORE 1 +FLAGS.SILENT (\\Deleted)")
	}
	other.ok("EXPUNGE")
	other.ok("STORE 2 +FLAGS (\\Flagged)")
	expect(t, "IMAP4rev2", modern.ok("NOOP"), `* 3 FETCH (UID 3 FLAGS (\Flagged))`, `* 1 EXPUNGE`)
	expect(t, "IMAP4rev1", old.ok("NOOP"), `* 3 FETCH (FLAGS (\Flagged))`, `* 1 EXPUNGE`)
}

// TestRev2Names: mailbox names are UTF-8, and "&" is a letter like others; a
// client without says it in modified UTF-7, of the same mailboxes.
func TestRev2Names(t *testing.T) {
	t.Parallel()
	s := startServer(t, testConfig())
	for _, name := range []string{"IMAP4rev2", "UTF8=ACCEPT"} {
		modern, old := s.login("alice"), s.login("alice")
		modern.ok("ENABLE " + name)
		modern.ok("CREATE \"Entw\u00fcrfe &-Co " + name + "\"")
		expect(t, "LIST", modern.ok(`LIST "" "Entw*"`), "* LIST (\\HasNoChildren) \"/\" \"Entw\u00fcrfe &-Co "+name+"\"")
		expect(t, "LIST of an older client", old.ok(`LIST "" "Entw*"`), `* LIST (\HasNoChildren) "/" "Entw&APw-rfe &--Co `+name+`"`)
		expect(t, "STATUS", modern.ok("STATUS \"Entw\u00fcrfe &-Co "+name+"\" (MESSAGES SIZE DELETED)"),
			"* STATUS \"Entw\u00fcrfe &-Co "+name+"\" (MESSAGES 0 DELETED 0 SIZE 0)")
		modern.fails("CREATE \"a\xff\"", "BAD")
		modern.ok("DELETE \"Entw\u00fcrfe &-Co " + name + "\"")
	}
}

// TestUTF8Append: a message may come in the parentheses of RFC 6855.
func TestUTF8Append(t *testing.T) {
	t.Parallel()
	s := startServer(t, testConfig())
	c := s.login("alice")
	c.ok("ENABLE UTF8=ACCEPT")
	text := message("gr\u00fc\u00dfe", "text")
	c.ok("CREATE \"Entw\u00fcrfe\"")
	c.ok(fmt.Sprintf("APPEND \"Entw\u00fcrfe\" (\\Seen) UTF8 (~{%d+}\r\n%s)", len(text), text))
	c.fails(fmt.Sprintf("APPEND INBOX UTF8 (~{%d+}\r\n%s", len(text), text), "BAD")
	c.ok("SELECT \"Entw\u00fcrfe\"")
	expect(t, "what came", c.ok("FETCH 1 (FLAGS BODY.PEEK[])"), fmt.Sprintf("* 1 FETCH (FLAGS (\\Seen) BODY[] {%d}\r\n%s)", len(text), text))
	c.ok("SELECT INBOX")
	expect(t, "nothing came of the other", c.ok("SEARCH ALL"), "* SEARCH")
}

// TestRev2Search: ESEARCH is the only answer, and "$" what SAVE found.
func TestRev2Search(t *testing.T) {
	t.Parallel()
	s := startServer(t, testConfig())
	c := s.login("alice")
	for range 3 {
		c.append("INBOX", "", message("m", "text"))
	}
	c.ok("SELECT INBOX")
	expect(t, "rev1", c.ok("SEARCH ALL"), "* SEARCH 1 2 3")
	c.ok("ENABLE IMAP4rev2")
	expect(t, "SEARCH", c.ok("SEARCH ALL"), fmt.Sprintf(`* ESEARCH (TAG "t%d") ALL 1:3`, c.tag))
	expect(t, "UID SEARCH of nothing", c.ok("UID SEARCH DELETED"), fmt.Sprintf(`* ESEARCH (TAG "t%d") UID`, c.tag))
	c.ok("UID SEARCH RETURN (SAVE) 2:3")
	expect(t, "FETCH of what was saved", c.ok("FETCH $ (UID)"), "* 2 FETCH (UID 2)", "* 3 FETCH (UID 3)")
	expect(t, "a part that there is not", c.ok("FETCH 1 BODY.PEEK[7]"), "* 1 FETCH (BODY[7] NIL)")
	expect(t, "CHARSET", c.ok(`SEARCH CHARSET UTF-8 SUBJECT m`), fmt.Sprintf(`* ESEARCH (TAG "t%d") ALL 1:3`, c.tag))
	utf8 := s.login("alice")
	utf8.ok("SELECT INBOX")
	utf8.ok("ENABLE UTF8=ACCEPT")
	utf8.fails("SEARCH CHARSET UTF-8 SUBJECT m", "BAD")
	expect(t, "SEARCH of UTF8=ACCEPT", utf8.ok("SEARCH SUBJECT m"), "* SEARCH 1 2 3")
	utf8.fails("ESEARCH IN (personal) CHARSET UTF-8 ALL", "BAD")
}

// TestUIDOnly: no sequence number is told or taken (RFC 9586).
func TestUIDOnly(t *testing.T) {
	t.Parallel()
	s := startServer(t, testConfig())
	c, other := s.login("alice"), s.login("alice")
	for range 4 {
		c.append("INBOX", "", message("m", "text"))
	}
	other.ok("SELECT INBOX")
	other.ok(`STORE 1 +FLAGS (\Deleted)`)
	other.ok("EXPUNGE")
	expect(t, "ENABLE", c.ok("ENABLE UIDONLY"), "* ENABLED UIDONLY")
	selected := c.ok("SELECT INBOX")
	if lineWith(selected, "UNSEEN") != "" {
		t.Errorf("SELECT: %q", selected)
	}
	for _, command := range []string{"FETCH 1 FLAGS", `STORE 1 +FLAGS (\Seen)`, "COPY 1 Trash", "MOVE 1 Trash", "SEARCH ALL", "UID SEARCH 1:3", "SEARCH RETURN (ALL) UID 1", "REPLACE 1 INBOX {1+}\r\nx"} {
		c.fails(command, "BAD [UIDREQUIRED]")
	}
	expect(t, "UID FETCH", c.ok("UID FETCH 2:3 FLAGS"), "* 2 UIDFETCH (FLAGS ())", "* 3 UIDFETCH (FLAGS ())")
	expect(t, "UID STORE", c.ok(`UID STORE 2 +FLAGS (\Deleted)`), `* 2 UIDFETCH (FLAGS (\Deleted))`)
	expect(t, "UID SEARCH", c.ok("UID SEARCH ALL"), "* SEARCH 2 3 4")
	expect(t, "EXPUNGE", c.ok("EXPUNGE"), "* VANISHED 2")
	other.ok(`UID STORE 3 +FLAGS (\Deleted)`)
	other.ok("EXPUNGE")
	other.append("INBOX", "", message("m", "text"))
	expect(t, "changes of others", c.ok("NOOP"), "* VANISHED 3", "* 2 EXISTS")
	other.ok(`UID STORE 4 +FLAGS (\Flagged)`)
	expect(t, "flags of others", c.ok("NOOP"), `* 4 UIDFETCH (FLAGS (\Flagged))`)
}

// TestUIDOnlyEndsContexts: a search that is kept up to date by number is not
// any more when there are none.
func TestUIDOnlyEndsContexts(t *testing.T) {
	t.Parallel()
	s := startServer(t, testConfig())
	c := s.login("alice")
	c.append("INBOX", "", message("m", "text"))
	c.append("INBOX", "", message("m", "text"))
	c.ok("SELECT INBOX")
	c.ok(`UID STORE 1 +FLAGS (\Deleted)`)
	c.ok("EXPUNGE")
	c.send("B01 SEARCH RETURN (UPDATE COUNT) FLAGGED\r\n")
	c.until("B01")
	c.send("B02 UID SEARCH RETURN (UPDATE COUNT) FLAGGED\r\n")
	c.until("B02")
	expect(t, "ENABLE", c.ok("ENABLE UIDONLY"), "* ENABLED UIDONLY", `* NO [NOUPDATE "B01"] Message numbers are not used any more`)
	expect(t, "STORE", c.ok(`UID STORE 2 +FLAGS (\Flagged)`), `* 2 UIDFETCH (FLAGS (\Flagged))`, `* ESEARCH (TAG "B02") UID ADDTO (0 2)`)
}

// TestUnauthenticate: the connection becomes nobody's, and the next user has
// nothing of the last one's (RFC 8437).
func TestUnauthenticate(t *testing.T) {
	t.Parallel()
	cfg := testConfig()
	cfg.MaxSessionsPerAccount = 1
	s := startServer(t, cfg)
	c := s.login("alice")
	c.ok("ENABLE IMAP4rev2 CONDSTORE UIDONLY")
	c.append("INBOX", `\Deleted`, message("m", "text"))
	c.ok("SELECT INBOX")
	_, tagged := c.cmd("UNAUTHENTICATE")
	if !strings.HasPrefix(tagged, "OK [CAPABILITY ") || !strings.Contains(tagged, "AUTH=PLAIN") || strings.Contains(tagged, "IDLE") {
		t.Errorf("UNAUTHENTICATE: %s", tagged)
	}
	c.fails("SELECT INBOX", "BAD")
	c.fails("UNAUTHENTICATE", "BAD")
	other := s.login("alice") // her only session has ended
	c.ok("LOGIN bob hunter2")
	selected := c.ok("SELECT INBOX")
	if lineWith(selected, "* 0 EXISTS") == "" || lineWith(selected, "RECENT") == "" || lineWith(selected, "* LIST") != "" {
		t.Errorf("SELECT of the next: %q", selected)
	}
	expect(t, "SEARCH of the next", c.ok("SEARCH ALL"), "* SEARCH")
	if lineWith(other.ok("SELECT INBOX"), "* 1 EXISTS") == "" {
		t.Error("leaving expunged")
	}
}

// TestCompress: what follows the answer is compressed, both ways, literals and
// IDLE too.
func TestCompress(t *testing.T) {
	t.Parallel()
	s := startServer(t, testConfig())
	c := s.login("alice")
	c.fails("COMPRESS", "BAD")
	c.fails("COMPRESS LZ4", "BAD")
	c.ok("COMPRESS DEFLATE")
	plain := c.conn
	w, _ := flate.NewWriter(plain, flate.BestCompression)
	c.conn = deflating{plain, w}
	c.r = bufio.NewReader(flate.NewReader(plain))
	c.fails("COMPRESS DEFLATE", "NO [COMPRESSIONACTIVE]")
	if line := c.ok("CAPABILITY")[0]; strings.Contains(line, "COMPRESS") {
		t.Errorf("offered again: %s", line)
	}
	text := message("big", strings.Repeat("all work and no play makes jack a dull boy\r\n", 5000))
	c.append("INBOX", "", text)
	c.ok("SELECT INBOX")
	got := c.ok("FETCH 1 BODY.PEEK[]")
	if len(got) != 1 || !strings.Contains(got[0], text) {
		t.Errorf("FETCH: %d responses", len(got))
	}
	c.send("i IDLE\r\n")
	c.line()
	s.login("alice").append("INBOX", "", message("n", "text"))
	if line := c.line(); line != "* 2 EXISTS" {
		t.Errorf("in IDLE: %q", line)
	}
	c.send("DONE\r\n")
	c.until("i")
	list := s.deps.Sessions.List(isAlice)
	if !list[0].Compressed || list[0].Out > uint64(len(text))/10 || list[0].In > uint64(len(text))/10 {
		t.Errorf("on the wire: %+v", list[0])
	}
	// Octets that are no compressed data end the session.
	_, _ = io.WriteString(plain, "\x07\x07\x07\x07")
	c.closed()
}

// deflating compresses and flushes each write.
type deflating struct {
	net.Conn
	w *flate.Writer
}

func (d deflating) Write(p []byte) (int, error) {
	if _, err := d.w.Write(p); err != nil {
		return 0, err
	}
	return len(p), d.w.Flush()
}

// TestInProgress: a client hears of a command that takes long (RFC 9585).
func TestInProgress(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		near, far := net.Pipe()
		heard := make(chan string, 10)
		go func() {
			for r := bufio.NewReader(near); ; {
				line, err := r.ReadString('\n')
				if err != nil {
					return
				}
				heard <- line
			}
		}()
		s := &session{tag: `a"1`, began: time.Now(), w: writer{conn: far, timeout: time.Minute}}
		s.patiently(manyMessages, func() { time.Sleep(2*patience + time.Second) })
		s.patiently(manyMessages-1, func() { time.Sleep(2 * patience) })
		_ = far.Close()
		synctest.Wait()
		if len(heard) != 2 || <-heard != "* OK [INPROGRESS (\"a\\\"1\" NIL NIL)] Still working on it\r\n" {
			t.Errorf("heard %d lines", len(heard))
		}
		defer func() {
			if recover() == nil {
				t.Error("a panic of the work is lost")
			}
		}()
		s.patiently(manyMessages, func() { panic("work is broken") })
	})
}
