package imapd

import (
	"fmt"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// resyncer is a client with QRESYNC enabled, and another without that changes
// the mailbox under it.
type resyncer struct {
	*client
	server   *server
	other    *client
	validity string
	modSeq   string // HIGHESTMODSEQ that was told last
}

var modSeqTold = regexp.MustCompile(`\[HIGHESTMODSEQ (\d+)\]`)

// newResyncer fills INBOX with n messages.
func newResyncer(t *testing.T, n int) *resyncer {
	t.Helper()
	s := startServer(t, testConfig())
	r := &resyncer{server: s, client: s.login("alice"), other: s.login("alice")}
	for i := range n {
		r.other.append("INBOX", "", message(fmt.Sprintf("m%d", i+1), "text"))
	}
	expect(t, "ENABLE", r.ok("ENABLE QRESYNC"), "* ENABLED QRESYNC")
	r.open("INBOX")
	r.other.ok("SELECT INBOX")
	return r
}

// open selects a mailbox and remembers its state.
func (r *resyncer) open(arguments string) []string {
	r.t.Helper()
	untagged := r.ok("SELECT " + arguments)
	r.learn(untagged...)
	return untagged
}

func (r *resyncer) learn(lines ...string) {
	for _, line := range lines {
		if m := regexp.MustCompile(`\[UIDVALIDITY (\d+)\]`).FindStringSubmatch(line); m != nil {
			r.validity = m[1]
		}
		if m := modSeqTold.FindStringSubmatch(line); m != nil {
			r.modSeq = m[1]
		}
	}
}

// again selects INBOX with the state that was learned and returns what is told
// of messages, mod-sequences left out.
func (r *resyncer) again(more string) []string {
	r.t.Helper()
	return aboutMessages(r.open(fmt.Sprintf("INBOX (QRESYNC (%s %s%s))", r.validity, r.modSeq, more)))
}

var modSeqValue = regexp.MustCompile(` MODSEQ \(\d+\)`)

// aboutMessages leaves FETCH and VANISHED responses.
func aboutMessages(lines []string) []string {
	var out []string
	for _, line := range lines {
		if strings.Contains(line, " FETCH (") || strings.HasPrefix(line, "* VANISHED") || strings.HasSuffix(line, " EXPUNGE") {
			out = append(out, modSeqValue.ReplaceAllString(line, ""))
		}
	}
	return out
}

// RFC 7162 section 3.2.5.1: the state of a mailbox in one round trip.
func TestQresyncSelect(t *testing.T) {
	t.Parallel()
	r := newResyncer(t, 12)
	r.other.ok(`UID STORE 2,4:6,9 +FLAGS.SILENT (\Deleted)`)
	r.other.ok("UID EXPUNGE 2,4:6,9")
	r.other.ok(`UID STORE 7 FLAGS.SILENT (\Seen \Answered)`)
	r.other.ok(`UID STORE 12 FLAGS.SILENT (\Draft $MDNSent)`)
	expect(t, "other session", aboutMessages(r.ok("NOOP")),
		"* VANISHED 2,4:6,9", `* 3 FETCH (UID 7 FLAGS (\Seen \Answered))`, `* 7 FETCH (UID 12 FLAGS (\Draft $MDNSent))`)
	before := r.modSeq
	untagged := r.open(fmt.Sprintf("INBOX (QRESYNC (%s %s))", r.validity, before))
	if untagged[0] != "* OK [CLOSED] Previous mailbox is closed" {
		t.Errorf("no CLOSED first: %q", untagged[0])
	}
	want := []string{"* VANISHED (EARLIER) 2,4:6,9", `* 3 FETCH (UID 7 FLAGS (\Seen \Answered))`, `* 7 FETCH (UID 12 FLAGS (\Draft $MDNSent))`}
	expect(t, "resync", aboutMessages(untagged), want...)
	if !strings.Contains(untagged[len(untagged)-1], " MODSEQ (") || r.modSeq == before {
		t.Errorf("no mod-sequences: %q, %s", untagged, r.modSeq)
	}
	expect(t, "nothing new", r.again(""))
	r.modSeq = before
	expect(t, "known UIDs", r.again(" 1:5,9:11"), "* VANISHED (EARLIER) 2,4:5,9")
	r.modSeq = before
	expect(t, "known UIDs, EXAMINE", aboutMessages(r.ok(fmt.Sprintf("EXAMINE INBOX (QRESYNC (%s %s 6,7))", r.validity, before))),
		"* VANISHED (EARLIER) 6", `* 3 FETCH (UID 7 FLAGS (\Seen \Answered))`)
	r.modSeq = before
	expect(t, "known UIDs and sample", r.again(" 1:12 (1,3,12 1,3,12)"), want...)
	r.modSeq = before
	expect(t, "sample alone", r.again(" (1,3 1,3)"), want...)
	wrong := aboutMessages(r.ok(fmt.Sprintf("SELECT INBOX (QRESYNC (%d %s))", 1, before)))
	expect(t, "other UIDVALIDITY", wrong)
	if untagged := r.ok(fmt.Sprintf("SELECT INBOX (QRESYNC (%s %s) CONDSTORE)", r.validity, before)); len(aboutMessages(untagged)) != 3 {
		t.Errorf("with CONDSTORE: %q", untagged)
	}
}

// A state that this server never had: everything known that is not there has
// vanished, and all flags are told.
func TestQresyncUnknownState(t *testing.T) {
	t.Parallel()
	r := newResyncer(t, 6)
	r.other.ok(`UID STORE 1,3 +FLAGS.SILENT (\Deleted)`)
	r.other.ok("UID EXPUNGE 1,3")
	flags := []string{"* 1 FETCH (UID 2 FLAGS ())", "* 2 FETCH (UID 4 FLAGS ())", "* 3 FETCH (UID 5 FLAGS ())", "* 4 FETCH (UID 6 FLAGS ())"}
	for _, invented := range []string{"999999999999", "9223372036854775807"} {
		r.modSeq = invented
		expect(t, invented, r.again(" 1:6,8,10:11"), append([]string{"* VANISHED (EARLIER) 1,3,8,10:11"}, flags...)...)
		if r.modSeq == invented {
			t.Error("an invented mod-sequence is shown as HIGHESTMODSEQ")
		}
		r.modSeq = invented
		expect(t, invented, r.again(""), append([]string{"* VANISHED (EARLIER) 1,3,7:65542"}, flags...)...)
	}
}

// RFC 7162 section 3.2.5.2: when the server has forgotten expunges, the sample
// tells below which UID there were none.
func TestQresyncSample(t *testing.T) {
	t.Parallel()
	r := newResyncer(t, 10)
	r.other.ok(`UID STORE 2,5,8 +FLAGS.SILENT (\Deleted)`)
	r.other.ok("UID EXPUNGE 2,5,8")
	b := baseline{modSeq: 1, exact: true}
	view := r.server.view(t)
	for _, tt := range []struct {
		numbers, uids string
		want          uint32
	}{
		{"1", "1", 1}, {"1:3", "1:3", 1}, {"1,2", "1,3", 3}, {"2:3,6", "3:4,9", 9}, {"7", "10", 10}, {"8", "10", 0}, {"2", "2", 0},
		{"1,99", "1,200", 1},
	} {
		a, err := (&parser{b: fmt.Appendf(nil, " (5 6 (%s %s))", tt.numbers, tt.uids)}).resyncParameter()
		if err != nil {
			t.Fatal(err)
		}
		s := &session{box: &selection{ground: ground{told: view}}}
		if got := s.matchedUpTo(a, b); got != tt.want {
			t.Errorf("(%s %s): %d, want %d", tt.numbers, tt.uids, got, tt.want)
		}
		if got := s.matchedUpTo(a, baseline{modSeq: 1}); got != 0 {
			t.Errorf("(%s %s) of another node: %d", tt.numbers, tt.uids, got)
		}
	}
}

// RFC 7162 section 3.2.6.
func TestUIDFetchVanished(t *testing.T) {
	t.Parallel()
	r := newResyncer(t, 9)
	before := r.modSeq
	r.other.ok(`UID STORE 3,4,6 +FLAGS.SILENT (\Deleted)`)
	r.other.ok("UID EXPUNGE 3,4,6")
	r.other.ok(`UID STORE 5 +FLAGS.SILENT (\Seen)`)
	expect(t, "some", aboutMessages(r.ok("UID FETCH 4:7 (FLAGS) (CHANGEDSINCE "+before+" VANISHED)")),
		"* VANISHED 3:4,6", `* 3 FETCH (UID 5 FLAGS (\Seen))`, "* VANISHED (EARLIER) 4,6", `* 3 FETCH (UID 5 FLAGS (\Seen))`)
	expect(t, "all, other order", aboutMessages(r.ok("UID FETCH 1:* (FLAGS) (VANISHED CHANGEDSINCE "+before+")")),
		"* VANISHED (EARLIER) 3:4,6", `* 3 FETCH (UID 5 FLAGS (\Seen))`)
	expect(t, "beyond the end", aboutMessages(r.ok("UID FETCH 8:4294967295 (FLAGS) (CHANGEDSINCE "+before+" VANISHED)")))
	for _, command := range []string{
		"UID FETCH 1:* (FLAGS) (VANISHED)", "FETCH 1:* (FLAGS) (CHANGEDSINCE " + before + " VANISHED)", "UID FETCH 1 (FLAGS) (CHANGEDSINCE 0)",
		"UID FETCH 1 (FLAGS) (CHANGEDSINCE 9223372036854775808)",
	} {
		r.fails(command, "BAD")
	}
	r.ok("UID FETCH 1 (FLAGS) (CHANGEDSINCE 9223372036854775807)")
	r.other.fails("UID FETCH 1:* (FLAGS) (CHANGEDSINCE "+before+" VANISHED)", "BAD Invalid command: QRESYNC is not enabled")
}

// RFC 7162 sections 3.2.7 to 3.2.10: VANISHED for EXPUNGE, and how far the
// client knows the mailbox then.
func TestQresyncExpunge(t *testing.T) {
	t.Parallel()
	r := newResyncer(t, 12)
	tell := func(command string, want ...string) {
		t.Helper()
		before := r.modSeq
		untagged, tagged := r.cmd(command)
		if !modSeqTold.MatchString(tagged) {
			t.Errorf("%s: %s", command, tagged)
		}
		if r.learn(tagged); r.modSeq == before {
			t.Errorf("%s: HIGHESTMODSEQ is still %s", command, before)
		}
		expect(t, command, aboutMessages(untagged), want...)
	}
	r.ok(`STORE 3:5 +FLAGS.SILENT (\Deleted)`)
	tell("EXPUNGE", "* VANISHED 3:5")
	if _, tagged := r.cmd("EXPUNGE"); tagged != "OK Completed" {
		t.Errorf("EXPUNGE of nothing: %s", tagged)
	}
	r.ok(`UID STORE 1,7,9 +FLAGS.SILENT (\Deleted)`)
	tell("UID EXPUNGE 7,9", "* VANISHED 7,9")
	tell("UID MOVE 2,6 Trash", "* VANISHED 2,6")
	tell(`UID STORE 8 +FLAGS (\Flagged)`, `* 2 FETCH (UID 8 FLAGS (\Flagged))`)
	tell("CLOSE")
	expect(t, "after all this", r.again(""))
	r.other.ok(`UID STORE 8 +FLAGS.SILENT (\Deleted)`)
	before := r.modSeq
	untagged, tagged := r.cmd("CLOSE") // what somebody else marked, this client does not know of
	if len(untagged) > 0 || !strings.Contains(tagged, "[HIGHESTMODSEQ "+before+"]") {
		t.Errorf("CLOSE beside another: %q %s", untagged, tagged)
	}
	expect(t, "after CLOSE", r.again(""), "* VANISHED (EARLIER) 8")
}

func TestQresyncIdle(t *testing.T) {
	t.Parallel()
	r := newResyncer(t, 5)
	r.send("i IDLE\r\n")
	r.line()
	r.other.ok(`UID STORE 2:3,5 +FLAGS.SILENT (\Deleted)`)
	r.other.ok("EXPUNGE")
	var told []string
	for len(told) == 0 || !strings.HasPrefix(told[len(told)-1], "* VANISHED") {
		told = append(told, r.line())
	}
	if last := told[len(told)-1]; last != "* VANISHED 2:3,5" {
		t.Errorf("IDLE: %q", told)
	}
	if line := r.line(); !modSeqTold.MatchString(line) {
		t.Errorf("IDLE does not say how far it got: %q", line)
	}
	r.send("DONE\r\n")
	r.until("i")
}

// What may not be told yet must not be skipped by a client that loses its
// connection now (RFC 7162 section 3.2).
func TestQresyncWithheldExpunge(t *testing.T) {
	t.Parallel()
	r := newResyncer(t, 4)
	before := r.modSeq
	r.other.ok(`STORE 1 +FLAGS.SILENT (\Deleted)`)
	r.other.ok("EXPUNGE")
	r.other.ok(`STORE 3 +FLAGS.SILENT (\Seen)`)
	untagged := r.ok("FETCH 1:* (FLAGS)")
	if slices.ContainsFunc(untagged, func(l string) bool { return strings.Contains(l, "VANISHED") }) {
		t.Errorf("VANISHED inside FETCH: %q", untagged)
	}
	if last := untagged[len(untagged)-1]; !strings.Contains(last, "[HIGHESTMODSEQ "+before+"]") {
		t.Errorf("the state is not taken back: %q", untagged)
	}
	expect(t, "NOOP", aboutMessages(r.ok("NOOP")), "* VANISHED 1")
}

func TestQresyncNeedsEnable(t *testing.T) {
	t.Parallel()
	s := startServer(t, testConfig())
	c := s.login("alice")
	c.ok("SELECT Sent")
	c.fails("SELECT INBOX (QRESYNC (5 6))", "BAD Invalid command: QRESYNC is not enabled")
	c.ok("FETCH 1:* FLAGS") // Sent is still selected
	expect(t, "ENABLE", c.ok("ENABLE QRESYNC CONDSTORE")[:1], "* ENABLED CONDSTORE QRESYNC")
	expect(t, "ENABLE again", c.ok("ENABLE QRESYNC"), "* ENABLED")
	c.ok("SELECT INBOX (QRESYNC (5 6))")
}

// collector is a connection that keeps what is written.
type collector struct {
	sink
	written []byte
}

func (c *collector) Write(p []byte) (int, error) {
	c.written = append(c.written, p...)
	return len(p), nil
}

// A response ends before it gets too long for clients.
func TestVanishedLines(t *testing.T) {
	t.Parallel()
	conn := &collector{}
	w := writer{conn: conn}
	v := vanished{w: &w, earlier: true}
	const n = 3000
	for i := range uint32(n) {
		v.add(4_000_000_000+3*i, 4_000_000_000+3*i+1)
	}
	v.end()
	if err := w.flush(); err != nil {
		t.Fatal(err)
	}
	lines := strings.Split(strings.TrimSuffix(string(conn.written), "\r\n"), "\r\n")
	var uids int
	for _, line := range lines {
		set, ok := strings.CutPrefix(line, "* VANISHED (EARLIER) ")
		if !ok || len(line) > maxVanishedOctets+60 {
			t.Errorf("line of %d octets: %.60q", len(line), line)
		}
		uids += len(strings.Split(set, ","))
	}
	if uids != n || len(lines) < 5 {
		t.Errorf("%d ranges in %d lines", uids, len(lines))
	}
}

func TestObjectID(t *testing.T) {
	t.Parallel()
	s := startServer(t, testConfig())
	c := s.login("alice")
	id := regexp.MustCompile(`(MAILBOXID|EMAILID) \(([FM][0-9a-f]{32})\)`)
	find := func(what string, lines ...string) string {
		t.Helper()
		m := id.FindStringSubmatch(strings.Join(lines, "\n"))
		if m == nil {
			t.Fatalf("%s: %q", what, lines)
		}
		return m[2]
	}
	_, tagged := c.cmd("CREATE box")
	created := find("CREATE", tagged)
	c.ok("RENAME box other")
	if got := find("SELECT", c.ok("SELECT other")...); got != created {
		t.Errorf("MAILBOXID %s, was created as %s", got, created)
	}
	if got := find("STATUS", c.ok("STATUS other (MESSAGES MAILBOXID)")...); got != created {
		t.Errorf("MAILBOXID %s in STATUS, want %s", got, created)
	}
	c.ok("DELETE other")
	_, tagged = c.cmd("CREATE box")
	if find("CREATE", tagged) == created {
		t.Error("another mailbox of the name has the same MAILBOXID")
	}
	c.append("INBOX", "", message("one", "text"))
	c.append("INBOX", "", message("two", "text"))
	c.ok("SELECT INBOX")
	fetched := c.ok("FETCH 1 (EMAILID THREADID)")
	one := find("FETCH", fetched...)
	c.ok("COPY 1 box")
	c.ok("MOVE 1 INBOX")
	expect(t, "SEARCH", c.ok("UID SEARCH EMAILID "+one), "* SEARCH 3")
	expect(t, "SEARCH for another", c.ok("UID SEARCH OR EMAILID F00 THREADID T1"), "* SEARCH")
	c.fails("UID SEARCH EMAILID *", "BAD")
	c.ok("SELECT box")
	if got := find("FETCH of the copy", c.ok("FETCH 1 EMAILID")...); got != one {
		t.Errorf("EMAILID of the copy is %s, want %s", got, one)
	}
}

// A message that gets another UID, as happens after a pair of nodes was apart,
// leaves at the one and comes at the other, whatever the session is doing.
func TestRenumbering(t *testing.T) {
	t.Parallel()
	for _, enable := range []string{"CONDSTORE", "QRESYNC"} {
		s := startServer(t, testConfig())
		c, other := s.login("alice"), s.login("alice")
		for i := range 4 {
			c.append("INBOX", "", message(fmt.Sprint(i), "text"))
		}
		c.ok("ENABLE " + enable)
		c.ok("SELECT INBOX")
		other.ok("SELECT INBOX")
		gone := func(number, uid int) string {
			if enable == "QRESYNC" {
				return fmt.Sprintf("* VANISHED %d", uid)
			}
			return fmt.Sprintf("* %d EXPUNGE", number)
		}
		other.ok("UID MOVE 2 INBOX") // one commit takes UID 2 away and adds the message as 5
		expect(t, "NOOP", c.ok("NOOP"), gone(2, 2), "* 4 EXISTS")
		other.ok("UID MOVE 3 INBOX")
		untagged, tagged := c.cmd("FETCH 1:4 (UID BODY.PEEK[TEXT])")
		if len(aboutMessages(untagged)) != 3 || !strings.HasPrefix(tagged, "NO [EXPUNGEISSUED]") {
			t.Errorf("FETCH: %q %s", untagged, tagged)
		}
		// Two commands in one write: the numbers of the second are those told by
		// the end of the first, in which nothing may move.
		c.send("p1 FETCH 4 (UID)\r\np2 UID FETCH 1:* (FLAGS)\r\n")
		first, _ := c.until("p1")
		if len(first) == 0 || !strings.HasPrefix(first[0], "* 4 FETCH (UID 5") {
			t.Errorf("FETCH by number: %q", first)
		}
		second, _ := c.until("p2")
		if len(second) != 6 || second[0] != gone(2, 3) || second[1] != "* 4 EXISTS" || !strings.HasPrefix(second[5], "* 4 FETCH (UID 6 ") {
			t.Errorf("UID FETCH: %q", second)
		}
		c.send("i IDLE\r\n")
		c.line()
		other.ok("UID MOVE 4 INBOX")
		expect(t, "IDLE", []string{c.line(), c.line()}, gone(2, 4), "* 4 EXISTS")
		if enable == "QRESYNC" && !modSeqTold.MatchString(c.line()) {
			t.Error("IDLE does not say how far it got")
		}
		c.send("DONE\r\n")
		c.until("i")
		c.ok("LOGOUT")
	}
}
