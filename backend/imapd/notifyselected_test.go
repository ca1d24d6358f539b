package imapd

import (
	"bufio"
	"bytes"
	"compress/flate"
	"fmt"
	"io"
	"slices"
	"strings"
	"testing"
)

// notified are two sessions of alice with INBOX, which has so many messages,
// selected; the first has sent NOTIFY.
func notified(t *testing.T, messages int, notify string) (c, other *client) {
	t.Helper()
	s := startServer(t, testConfig())
	c, other = s.login("alice"), s.login("alice")
	for i := range messages {
		other.append("INBOX", "", message(fmt.Sprint("m", i+1), "x"))
	}
	other.ok("SELECT INBOX")
	c.ok("SELECT INBOX")
	if notify != "" {
		c.ok("NOTIFY SET " + notify)
	}
	return c, other
}

// expunge takes a message away.
func (c *client) expunge(uid int) {
	c.t.Helper()
	c.ok(fmt.Sprintf(`UID STORE %d +FLAGS.SILENT (\Deleted)`, uid))
	c.ok(fmt.Sprintf("UID EXPUNGE %d", uid))
}

// TestNotifySelected: everything that happens in the selected mailbox is told at
// once, with UIDs (sections 5.1 to 5.3).
func TestNotifySelected(t *testing.T) {
	t.Parallel()
	c, other := notified(t, 3, "(selected (MessageNew (UID FLAGS) MessageExpunge FlagChange))")
	other.ok(`STORE 2 +FLAGS.SILENT (\Flagged)`)
	expect(t, "flags", c.told(1), `* 2 FETCH (UID 2 FLAGS (\Flagged))`)
	other.append("INBOX", `\Seen`, message("new", "x"))
	expect(t, "new", c.told(2), "* 4 EXISTS", `* 4 FETCH (UID 4 FLAGS (\Seen))`)
	other.ok("COPY 1:2 INBOX")
	expect(t, "several at once", c.told(3), "* 6 EXISTS", "* 5 FETCH (UID 5 FLAGS ())", `* 6 FETCH (UID 6 FLAGS (\Flagged))`)
	other.ok(`STORE 1,3 +FLAGS.SILENT (\Deleted)`)
	expect(t, "deleted", c.told(2), `* 1 FETCH (UID 1 FLAGS (\Deleted))`, `* 3 FETCH (UID 3 FLAGS (\Deleted))`)
	other.ok("EXPUNGE")
	expect(t, "expunged", c.told(2), "* 3 EXPUNGE", "* 1 EXPUNGE")
	c.append("INBOX", "", message("mine", "x"))
	c.ok("COPY 1 INBOX")
	c.ok(`UID STORE 2 +FLAGS.SILENT (\Answered)`)
	c.nothing("what one does oneself")
	other.ok("NOOP")
	other.append("INBOX", "", message("last", "x"))
	expect(t, "and what is new then", c.told(2), "* 7 EXISTS", "* 7 FETCH (UID 9 FLAGS ())")
	if got := c.ok("UID FETCH 9 BODY.PEEK[HEADER.FIELDS (Subject)]"); len(got) != 1 || !strings.Contains(got[0], "last") {
		t.Errorf("told %q", got)
	}
}

// TestNotifySelectedDelayed: expunges wait for a command, new messages and flags
// do not (section 6.1.2), and the numbers are right all the time.
func TestNotifySelectedDelayed(t *testing.T) {
	t.Parallel()
	c, other := notified(t, 4, "(selected-delayed (MessageNew (UID) MessageExpunge FlagChange))")
	other.expunge(2)
	expect(t, "deleted", c.told(1), `* 2 FETCH (UID 2 FLAGS (\Deleted))`)
	other.append("INBOX", "", message("new", "x"))
	expect(t, "new", c.told(2), "* 5 EXISTS", "* 5 FETCH (UID 5)")
	other.ok(`UID STORE 3 +FLAGS.SILENT (\Flagged)`)
	expect(t, "flags", c.told(1), `* 3 FETCH (UID 3 FLAGS (\Flagged))`)
	other.append("INBOX", "", message("newer", "x"))
	expect(t, "newer", c.told(2), "* 6 EXISTS", "* 6 FETCH (UID 6)")
	expect(t, "FETCH", c.ok("FETCH 3:6 UID"), "* 3 FETCH (UID 3)", "* 4 FETCH (UID 4)", "* 5 FETCH (UID 5)", "* 6 FETCH (UID 6)")
	expect(t, "STORE", c.ok(`STORE 5 +FLAGS (\Seen)`), `* 5 FETCH (UID 5 FLAGS (\Seen))`)
	expect(t, "SEARCH", c.ok("SEARCH SEEN"), "* SEARCH 5")
	expect(t, "NOOP", c.ok("NOOP"), "* 2 EXPUNGE")
	expect(t, "FETCH", c.ok("FETCH 2:* UID"), "* 2 FETCH (UID 3)", "* 3 FETCH (UID 4)", "* 4 FETCH (UID 5)", "* 5 FETCH (UID 6)")
	other.expunge(6)
	other.append("INBOX", "", message("newest", "x"))
	expect(t, "gone at the end, and new", c.told(3), `* 5 FETCH (UID 6 FLAGS (\Deleted))`, "* 6 EXISTS", "* 6 FETCH (UID 7)")
	c.send("i IDLE\r\n")
	if line := c.line(); !strings.HasPrefix(line, "+") {
		t.Fatal(line)
	}
	expect(t, "IDLE allows it", c.told(1), "* 5 EXPUNGE")
	other.expunge(1)
	expect(t, "in IDLE", c.told(2), `* 1 FETCH (UID 1 FLAGS (\Deleted))`, "* 1 EXPUNGE")
	c.send("DONE\r\n")
	c.until("i")
}

// TestNotifySelectedNone: a client that wants nothing of the selected mailbox has
// a picture of it that stays, but for what it does itself (sections 3.1 and 5).
func TestNotifySelectedNone(t *testing.T) {
	t.Parallel()
	for _, notify := range []string{"(selected NONE)", "(personal (MailboxName))", ""} {
		c, other := notified(t, 3, "")
		other.append("INBOX", "", message("accumulated", "x"))
		if notify == "" {
			c.ok("NOOP")
			c.ok("NOTIFY NONE")
		} else {
			expect(t, "NOTIFY SET is a NOOP, too", c.ok("NOTIFY SET "+notify), "* 4 EXISTS")
		}
		other.append("INBOX", "", message("new", "x"))
		other.ok(`STORE 1 +FLAGS.SILENT (\Flagged)`)
		other.expunge(2)
		c.nothing("changes of others")
		expect(t, "UID SEARCH", c.ok("UID SEARCH ALL"), "* SEARCH 1 2 3 4")
		expect(t, "STORE", c.ok(`STORE 3 +FLAGS (\Seen)`), `* 3 FETCH (UID 3 FLAGS (\Seen))`)
		c.append("INBOX", "", message("mine", "x"))
		c.nothing("one's own APPEND")
		c.ok(`STORE 4 +FLAGS.SILENT (\Deleted)`)
		got := c.ok("EXPUNGE")
		if !slices.Contains(got, "* 4 EXPUNGE") || !slices.Contains(got, "* 2 EXPUNGE") || !slices.Contains(got, "* 4 EXISTS") {
			t.Errorf("%s: EXPUNGE tells %q", notify, got)
		}
		expect(t, "all", c.ok("FETCH 1:* UID"), "* 1 FETCH (UID 1)", "* 2 FETCH (UID 3)", "* 3 FETCH (UID 5)", "* 4 FETCH (UID 6)")
		c.ok("SELECT INBOX")
		other.append("INBOX", "", message("newer", "x"))
		c.nothing("another SELECT")
		c.ok("NOTIFY NONE")
		if got := c.ok("NOTIFY SET (selected (MessageNew MessageExpunge))"); !slices.Contains(got, "* 5 EXISTS") {
			t.Errorf("%s: what gathered: %q", notify, got)
		}
	}
}

// TestNotifyWithoutFlags: flags of others are not told, and the client is never
// made to believe that it knows them.
func TestNotifyWithoutFlags(t *testing.T) {
	t.Parallel()
	c, other := notified(t, 2, "")
	enabled := c.ok("ENABLE QRESYNC")
	before := modSeqIn(t, enabled, "[HIGHESTMODSEQ")
	c.ok("NOTIFY SET (selected (MessageNew MessageExpunge))")
	other.ok(`STORE 1 +FLAGS.SILENT (\Flagged)`)
	other.append("INBOX", "", message("new", "x"))
	expect(t, "new", c.told(1), "* 3 EXISTS")
	if told := modSeqIn(t, c.told(1), "[HIGHESTMODSEQ"); told != before {
		t.Errorf("the client is told HIGHESTMODSEQ %d, and knows the flags up to %d", told, before)
	}
	other.expunge(2)
	expect(t, "gone", c.told(1), "* VANISHED 2")
	if told := modSeqIn(t, c.told(1), "[HIGHESTMODSEQ"); told != before {
		t.Errorf("behind VANISHED the client is told HIGHESTMODSEQ %d, and knows the flags up to %d", told, before)
	}
	expect(t, "one's own", fetches(c.ok(`UID STORE 3 +FLAGS (\Seen)`))[:1], fetches(c.ok("UID FETCH 3 (FLAGS)"))[0])
}

// TestNotifyResync: with QRESYNC the mailbox tells VANISHED and mod-sequences,
// and how far that goes; with UIDONLY nothing has a number.
func TestNotifyResync(t *testing.T) {
	t.Parallel()
	c, other := notified(t, 3, "")
	c.ok("ENABLE QRESYNC")
	c.ok("NOTIFY SET (selected (MessageNew (FLAGS) MessageExpunge FlagChange))")
	other.expunge(2)
	var lines []string
	for !slices.ContainsFunc(lines, func(l string) bool { return strings.HasPrefix(l, "* VANISHED") }) {
		lines = append(lines, c.line())
	}
	if lines[len(lines)-1] != "* VANISHED 2" {
		t.Errorf("told %q", lines)
	}
	if line := c.line(); !strings.Contains(line, "[HIGHESTMODSEQ ") {
		t.Errorf("behind VANISHED: %q", line)
	}
	other.append("INBOX", "", message("new", "x"))
	expect(t, "exists", c.told(1), "* 3 EXISTS")
	if line := c.line(); !strings.HasPrefix(line, "* 3 FETCH (UID 4 FLAGS () MODSEQ (") {
		t.Errorf("new: %q", line)
	}
	if line := c.line(); !strings.Contains(line, "[HIGHESTMODSEQ ") {
		t.Errorf("behind it: %q", line)
	}
	c.ok("ENABLE UIDONLY")
	other.append("INBOX", "", message("newer", "x"))
	c.told(1)
	if line := c.line(); !strings.HasPrefix(line, "* 5 UIDFETCH (FLAGS () MODSEQ (") {
		t.Errorf("without numbers: %q", line)
	}
}

// TestNotifyIdle: IDLE tells exactly what NOTIFY asked for (section 4).
func TestNotifyIdle(t *testing.T) {
	t.Parallel()
	c, other := notified(t, 2, "(selected (MessageNew (UID) MessageExpunge)) (personal (MessageNew MessageExpunge MailboxName))")
	c.send("i IDLE\r\n")
	if line := c.line(); !strings.HasPrefix(line, "+") {
		t.Fatal(line)
	}
	other.ok("CREATE Work")
	expect(t, "create", c.told(1), `* LIST (\HasNoChildren) "/" Work`)
	other.ok(`STORE 1 +FLAGS.SILENT (\Flagged)`)
	other.append("Work", "", message("a", "x"))
	expect(t, "another mailbox", withoutValidity(c.told(1)), "* STATUS Work (MESSAGES 1 UIDNEXT 2 UIDVALIDITY UNSEEN 1)")
	other.append("INBOX", "", message("b", "x"))
	expect(t, "new", c.told(2), "* 3 EXISTS", "* 3 FETCH (UID 3)")
	c.send("DONE\r\n")
	if got, _ := c.until("i"); len(got) > 0 {
		t.Errorf("behind DONE: %q", got)
	}
	c.ok("NOTIFY NONE")
	c.send("j IDLE\r\n")
	c.line()
	other.append("INBOX", "", message("c", "x"))
	other.ok("CREATE More")
	c.send("DONE\r\n")
	if got, _ := c.until("j"); len(got) > 0 {
		t.Errorf("IDLE of a client that wants to know nothing: %q", got)
	}
}

// TestNotifyUpdate is section 7: data items behind UPDATE, before the ESEARCH
// they belong to; together with those of NOTIFY one response behind it.
func TestNotifyUpdate(t *testing.T) {
	t.Parallel()
	c, other := notified(t, 2, "")
	expect(t, "search", c.ok("UID SEARCH RETURN (COUNT UPDATE (UID FLAGS)) SUBJECT boss"), `* ESEARCH (TAG "t3") UID COUNT 0`)
	other.append("INBOX", "", message("boss1", "x"))
	other.append("INBOX", "", message("other", "x"))
	expect(t, "NOOP", c.ok("NOOP"), "* 4 EXISTS", "* 3 FETCH (UID 3 FLAGS ())", `* ESEARCH (TAG "t3") UID ADDTO (0 3)`)
	c.append("INBOX", "", message("boss2", "x"))
	c.nothing("one's own message, told behind APPEND")
	c.ok("UID SEARCH RETURN (UPDATE (RFC822.SIZE UID)) UNFLAGGED")
	c.ok("NOTIFY SET (selected (MessageNew (UID) MessageExpunge FlagChange))")
	other.append("INBOX", "", message("boss3", "x"))
	expect(t, "with NOTIFY", c.told(4), "* 6 EXISTS", `* ESEARCH (TAG "t3") UID ADDTO (0 6)`, `* ESEARCH (TAG "t7") UID ADDTO (0 6)`,
		"* 6 FETCH (UID 6 FLAGS () RFC822.SIZE 146)")
	other.ok("NOOP")
	other.ok(`STORE 4 +FLAGS.SILENT (\Flagged)`)
	expect(t, "flags", c.told(2), `* 4 FETCH (UID 4 FLAGS (\Flagged))`, `* ESEARCH (TAG "t7") UID REMOVEFROM (0 4)`)
	other.ok(`STORE 4 -FLAGS.SILENT (\Flagged)`)
	expect(t, "a member by its flags is not fetched", c.told(2), `* 4 FETCH (UID 4 FLAGS ())`, `* ESEARCH (TAG "t7") UID ADDTO (0 4)`)
	c.fails("SEARCH RETURN (UPDATE (NOTHING)) ALL", "BAD")
	c.fails("SEARCH RETURN (UPDATE ()) ALL", "OK")
}

// TestNotifyPeeks: what is fetched of a new message does not make it read.
func TestNotifyPeeks(t *testing.T) {
	t.Parallel()
	c, other := notified(t, 0, "(selected (MessageNew (BODY[TEXT]) MessageExpunge))")
	other.append("INBOX", "", message("new", "hello"))
	expect(t, "new", c.told(2), "* 1 EXISTS", "* 1 FETCH (BODY[TEXT] {7}\r\nhello\r\n)")
	expect(t, "unseen", c.ok("SEARCH UNSEEN"), "* SEARCH 1")
}

// TestNotifyCompressed: the wait for a command is interrupted inside of
// compression, too, wherever the client's octets stop meanwhile.
func TestNotifyCompressed(t *testing.T) {
	t.Parallel()
	s := startServer(t, testConfig())
	c, other := s.login("alice"), s.login("alice")
	c.ok("COMPRESS DEFLATE")
	plain := c.conn
	var packed bytes.Buffer
	w, _ := flate.NewWriter(&packed, flate.HuffmanOnly)
	c.r = bufio.NewReader(flate.NewReader(plain))
	c.conn = &deflating{plain, w}
	say := func(text string) []byte {
		packed.Reset()
		_, _ = io.WriteString(w, text)
		_ = w.Flush()
		return bytes.Clone(packed.Bytes())
	}
	_, _ = plain.Write(say("n NOTIFY SET (personal (MailboxName))\r\n"))
	c.until("n")
	// Before the first octet of the command comes the header of its block.
	octets := say("x NOOP\r\ny " + strings.Repeat("The quick brown fox jumps over 1234567890 lazy dogs ", 20) + "\r\n")
	if octets[0]>>1&3 != 2 {
		t.Fatalf("block of type %d", octets[0]>>1&3)
	}
	for i := range octets {
		if i == 12 {
			_, _ = plain.Write(octets[i:])
			break
		}
		_, _ = plain.Write(octets[i : i+1])
		other.ok(fmt.Sprint("CREATE Box", i))
		expect(t, "between octets", c.told(1), fmt.Sprintf(`* LIST (\HasNoChildren) "/" Box%d`, i))
	}
	if got, tagged := c.until("x"); len(got) > 0 || !strings.HasPrefix(tagged, "OK") {
		t.Errorf("%q, %s", got, tagged)
	}
	c.until("y")
}
