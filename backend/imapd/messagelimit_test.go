package imapd

import (
	"fmt"
	"strings"
	"testing"
)

// sixMessages is a server whose commands work on up to 3 messages, and a client
// with an INBOX of 6, UIDs 1 to 7 without 3.
func sixMessages(t *testing.T, limits MessageLimits) (*server, *client) {
	t.Helper()
	cfg := testConfig()
	cfg.Messages = limits
	s := startServer(t, cfg)
	c := s.login("alice")
	for i := range 7 {
		c.append("INBOX", "", message(fmt.Sprint("m", i+1), "text"))
	}
	c.ok("SELECT INBOX")
	c.ok(`STORE 3 +FLAGS (\Deleted)`)
	c.ok("EXPUNGE")
	c.ok("CREATE Archive")
	return s, c
}

var three = MessageLimits{Most: 3}

// answers runs a command and compares all that it is answered.
func (c *client) answers(text, wantTagged string, want ...string) {
	c.t.Helper()
	untagged, tagged := c.cmd(text)
	expect(c.t, text, untagged, want...)
	if !strings.HasPrefix(tagged, wantTagged) {
		c.t.Errorf("%s: %s, want %s", text, tagged, wantTagged)
	}
}

// The examples of RFC 9738 section 3.1, with 3 for 1000.
func TestMessageLimitPerCommand(t *testing.T) {
	t.Parallel()
	_, c := sixMessages(t, three)
	if caps := c.ok("CAPABILITY")[0]; !strings.Contains(caps, " MESSAGELIMIT=3") || strings.Contains(caps, "SAVELIMIT") {
		t.Errorf("capabilities: %s", caps)
	}
	c.answers("FETCH 1:* (UID FLAGS)", "OK [MESSAGELIMIT 3 5]",
		`* 6 FETCH (UID 7 FLAGS ())`, `* 5 FETCH (UID 6 FLAGS ())`, `* 4 FETCH (UID 5 FLAGS ())`)
	c.answers("FETCH 4:6 UID", "OK Completed", "* 4 FETCH (UID 5)", "* 5 FETCH (UID 6)", "* 6 FETCH (UID 7)")
	c.answers("UID FETCH 1:2,5:6 FLAGS", "OK [MESSAGELIMIT 3 2]",
		`* 5 FETCH (UID 6 FLAGS ())`, `* 4 FETCH (UID 5 FLAGS ())`, `* 2 FETCH (UID 2 FLAGS ())`)

	c.answers("UID SEARCH UID 1:100 UNDELETED", "OK [MESSAGELIMIT 3 5]", "* SEARCH 5 6 7")
	c.answers("UID SEARCH UID 1:100 UIDBEFORE 6", "OK [MESSAGELIMIT 3 2]", "* SEARCH 2 4 5")
	c.answers("UID SEARCH UIDBEFORE 4", "OK Completed", "* SEARCH 1 2")
	c.answers("SEARCH SUBJECT m1", "OK [MESSAGELIMIT 3 5]", "* SEARCH")
	c.answers("SEARCH RETURN (MIN MAX COUNT) ALL", "OK [MESSAGELIMIT 3 5]", `* ESEARCH (TAG "`+c.nextTag()+`") MIN 4 MAX 6 COUNT 3`)

	c.answers("UID COPY 1:7 Archive", "NO [MESSAGELIMIT 3 5]")
	c.answers("UID COPY 5:7 Missing", "NO [TRYCREATE]")
	c.answers("STATUS Archive (MESSAGES)", "OK", "* STATUS Archive (MESSAGES 0)")

	c.answers(`UID STORE 1:7 +FLAGS (\Seen)`, "OK [MESSAGELIMIT 3 5]",
		`* 4 FETCH (UID 5 FLAGS (\Seen))`, `* 5 FETCH (UID 6 FLAGS (\Seen))`, `* 6 FETCH (UID 7 FLAGS (\Seen))`)
	c.answers(`UID STORE 1:4 +FLAGS.SILENT (\Deleted)`, "OK Completed")
	c.answers("STATUS INBOX (UNSEEN DELETED)", "OK", "* STATUS INBOX (UNSEEN 3 DELETED 3)")
	c.ok(`UID STORE 5 +FLAGS.SILENT (\Deleted)`)
	c.answers("UID EXPUNGE 1:100", "OK [MESSAGELIMIT 3 2]", "* 4 EXPUNGE", "* 3 EXPUNGE", "* 2 EXPUNGE")

	for i := range 3 {
		c.append("INBOX", "", message(fmt.Sprint("n", i+1), "text"))
	}
	c.ok("NOOP")
	untagged, tagged := c.cmd("UID MOVE 1:* Archive")
	if len(untagged) != 4 || !strings.HasPrefix(untagged[0], "* OK [COPYUID ") || !strings.Contains(untagged[0], " 8:10 1:3]") ||
		untagged[1] != "* 6 EXPUNGE" || !strings.HasPrefix(tagged, "OK [MESSAGELIMIT 3 8]") {
		t.Errorf("UID MOVE: %q %s", untagged, tagged)
	}
	c.answers("UID MOVE 6:7 Archive", "OK Completed", c.moved("6:7", "4:5")...)

	// EXPUNGE, CLOSE and STATUS know no limit.
	c.ok("SELECT Archive")
	for _, uids := range []string{"1:3", "4:5"} {
		c.ok("UID STORE " + uids + ` +FLAGS.SILENT (\Deleted)`)
	}
	c.answers("EXPUNGE", "OK Completed", "* 5 EXPUNGE", "* 4 EXPUNGE", "* 3 EXPUNGE", "* 2 EXPUNGE", "* 1 EXPUNGE")
}

// nextTag is the tag that cmd gives the next command.
func (c *client) nextTag() string { return fmt.Sprint("t", c.tag+1) }

// moved is what a MOVE of the messages 2 and 3 is answered.
func (c *client) moved(from, to string) []string {
	c.t.Helper()
	status := c.ok("STATUS Archive (UIDVALIDITY)")[0]
	_, validity, _ := strings.Cut(status, "(UIDVALIDITY ")
	return []string{"* OK [COPYUID " + strings.TrimSuffix(validity, ")") + " " + from + " " + to + "] Moved", "* 3 EXPUNGE", "* 2 EXPUNGE"}
}

// With PARTIAL what counts is the page; a page over the limit is refused.
func TestMessageLimitPages(t *testing.T) {
	t.Parallel()
	_, c := sixMessages(t, three)
	c.answers("UID FETCH 1:* (UID) (PARTIAL -1:-4)", "NO [MESSAGELIMIT 3]")
	c.answers("UID FETCH 1:* (UID) (PARTIAL 1:3)", "OK Completed", "* 1 FETCH (UID 1)", "* 2 FETCH (UID 2)", "* 3 FETCH (UID 4)")
	c.answers("UID SEARCH RETURN (PARTIAL 1:4) UIDAFTER 5", "NO [MESSAGELIMIT 3]")
	c.answers("UID SEARCH RETURN (PARTIAL -1:-2) ALL", "OK [MESSAGELIMIT 3 5]", `* ESEARCH (TAG "`+c.nextTag()+`") UID PARTIAL (-1:-2 6:7)`)
}

// "$" holds what was searched (RFC 9738 section 3.4); a context is refused
// where not all was.
func TestMessageLimitSavedResults(t *testing.T) {
	t.Parallel()
	_, c := sixMessages(t, three)
	c.answers("UID SEARCH RETURN (SAVE) ALL", "OK [MESSAGELIMIT 3 5]")
	c.answers("UID FETCH $ UID", "OK Completed", "* 4 FETCH (UID 5)", "* 5 FETCH (UID 6)", "* 6 FETCH (UID 7)")
	c.answers("UID SEARCH RETURN (SAVE) UIDBEFORE 5", "OK Completed")
	c.answers("UID SEARCH $ UIDAFTER 1", "OK Completed", "* SEARCH 2 4")
	tag := c.nextTag()
	c.answers("SEARCH RETURN (UPDATE COUNT) ALL", "OK [MESSAGELIMIT 3 5]",
		`* ESEARCH (TAG "`+tag+`") COUNT 3`, `* NO [NOUPDATE "`+tag+`"] Not all messages were searched`)
}

// What has to be known whole is refused over the limit (RFC 9738 section 3.3).
func TestMessageLimitSortAndThread(t *testing.T) {
	t.Parallel()
	_, c := sixMessages(t, three)
	c.answers("SORT (SUBJECT) UTF-8 ALL", "NO [MESSAGELIMIT 3]")
	c.answers("THREAD REFERENCES UTF-8 ALL", "NO [MESSAGELIMIT 3]")
	c.answers("UID SORT (REVERSE SUBJECT) UTF-8 UID 1:4", "OK Completed", "* SORT 4 2 1")
	c.answers("UID THREAD ORDEREDSUBJECT UTF-8 UIDAFTER 5", "OK Completed", "* THREAD (6)(7)")
	c.answers(`ESEARCH IN (mailboxes ("INBOX" "Archive")) RETURN (COUNT) ALL`, "NO [MESSAGELIMIT 3]")
	validity := c.uidValidity()
	c.answers(`ESEARCH IN (mailboxes ("INBOX" "Archive")) RETURN (COUNT) UIDAFTER 5`, "OK Completed",
		fmt.Sprintf(`* ESEARCH (TAG "%s" MAILBOX INBOX UIDVALIDITY %d) UID COUNT 2`, c.nextTag(), validity))
}

func (c *client) uidValidity() int {
	c.t.Helper()
	var n int
	if _, err := fmt.Sscanf(c.ok("STATUS INBOX (UIDVALIDITY)")[0], "* STATUS INBOX (UIDVALIDITY %d)", &n); err != nil {
		c.t.Fatal(err)
	}
	return n
}

// Where the tagged response has another code, the limit is told before it.
func TestMessageLimitBesideOtherCodes(t *testing.T) {
	t.Parallel()
	s, c := sixMessages(t, three)
	c.ok("ENABLE QRESYNC")
	// STORE with messages that others changed.
	other := s.login("alice")
	other.ok("SELECT INBOX")
	before := c.ok("STATUS INBOX (HIGHESTMODSEQ)")[0]
	_, modSeq, _ := strings.Cut(before, "HIGHESTMODSEQ ")
	modSeq = strings.TrimSuffix(modSeq, ")")
	other.ok(`UID STORE 7 +FLAGS (\Flagged)`)
	untagged, tagged := c.cmd("UID STORE 1:* (UNCHANGEDSINCE " + modSeq + `) +FLAGS.SILENT (\Seen)`)
	if !strings.HasPrefix(tagged, "OK [MODIFIED 7]") || lineWith(untagged, "* NO [MESSAGELIMIT 3 5]") == "" {
		t.Errorf("STORE UNCHANGEDSINCE: %q %s", untagged, tagged)
	}
	// What did not change is not worked on: a client that resynchronises is told
	// of all that did.
	if untagged, tagged := c.cmd("UID FETCH 1:* (UID) (CHANGEDSINCE " + modSeq + ")"); len(untagged) != 3 || !strings.HasPrefix(tagged, "OK Completed") {
		t.Errorf("CHANGEDSINCE: %q %s", untagged, tagged)
	}
	c.ok(`UID STORE 1:4 +FLAGS.SILENT (\Deleted)`)
	c.ok(`UID STORE 5:7 +FLAGS.SILENT (\Deleted)`)
	untagged, tagged = c.cmd("UID EXPUNGE 1:*")
	if !strings.HasPrefix(tagged, "OK [HIGHESTMODSEQ ") || lineWith(untagged, "* NO [MESSAGELIMIT 3 5]") == "" || lineWith(untagged, "* VANISHED 5:7") == "" {
		t.Errorf("UID EXPUNGE of a client of QRESYNC: %q %s", untagged, tagged)
	}
	c.answers("UID EXPUNGE 4", "OK [HIGHESTMODSEQ ", "* VANISHED 4")
	c.answers("CLOSE", "OK [HIGHESTMODSEQ ")
}

func TestMessageLimitUIDOnly(t *testing.T) {
	t.Parallel()
	_, c := sixMessages(t, three)
	c.ok("ENABLE UIDONLY")
	c.answers("UID FETCH 1:* FLAGS", "OK [MESSAGELIMIT 3 5]", `* 7 UIDFETCH (FLAGS ())`, `* 6 UIDFETCH (FLAGS ())`, `* 5 UIDFETCH (FLAGS ())`)
	c.answers("UID SEARCH ALL", "OK [MESSAGELIMIT 3 5]", "* SEARCH 5 6 7")
}

// SAVELIMIT is of COPY and APPEND alone.
func TestSaveLimit(t *testing.T) {
	t.Parallel()
	_, c := sixMessages(t, MessageLimits{Most: 3, SavesOnly: true})
	if caps := c.ok("CAPABILITY")[0]; strings.Contains(caps, "MESSAGELIMIT") || !strings.Contains(caps, " SAVELIMIT=3") {
		t.Errorf("capabilities: %s", caps)
	}
	c.answers("UID SEARCH ALL", "OK Completed", "* SEARCH 1 2 4 5 6 7")
	c.answers("COPY 1:6 Archive", "NO [MESSAGELIMIT 3 5]")
	one := fmt.Sprintf(" {%d+}\r\n%s", len(message("x", "y")), message("x", "y"))
	c.fails("APPEND Archive"+strings.Repeat(one, 4), "NO [MESSAGELIMIT 3]")
	c.answers("STATUS Archive (MESSAGES)", "OK", "* STATUS Archive (MESSAGES 0)")
	c.fails("APPEND Archive"+strings.Repeat(one, 3), "OK [APPENDUID ")
	if untagged, tagged := c.cmd("UID MOVE 1:7 Archive"); len(untagged) != 7 || !strings.HasPrefix(tagged, "OK Completed") {
		t.Errorf("MOVE: %q %s", untagged, tagged)
	}
}

// A limit may be announced below the one that is enforced (RFC 9738 section 4.2).
func TestMessageLimitEnforcedLater(t *testing.T) {
	t.Parallel()
	_, c := sixMessages(t, MessageLimits{Most: 3, Enforced: 5})
	if caps := c.ok("CAPABILITY")[0]; !strings.Contains(caps, " MESSAGELIMIT=3") {
		t.Errorf("capabilities: %s", caps)
	}
	c.answers("UID SEARCH UIDBEFORE 7", "OK Completed", "* SEARCH 1 2 4 5 6")
	c.answers("UID SEARCH ALL", "OK [MESSAGELIMIT 5 2]", "* SEARCH 2 4 5 6 7")
}

// UIDAFTER and UIDBEFORE leave the UID itself out, at both ends of what there
// can be.
func TestSearchBesideUID(t *testing.T) {
	t.Parallel()
	_, c := sixMessages(t, MessageLimits{})
	if caps := c.ok("CAPABILITY")[0]; strings.Contains(caps, "LIMIT=3") {
		t.Errorf("capabilities: %s", caps)
	}
	for search, want := range map[string]string{
		"UIDAFTER 5": "* SEARCH 6 7", "UIDAFTER 7": "* SEARCH", "UIDAFTER 100": "* SEARCH", "UIDAFTER 4294967295": "* SEARCH",
		"UIDBEFORE 4": "* SEARCH 1 2", "UIDBEFORE 1": "* SEARCH", "UIDBEFORE 4294967295": "* SEARCH 1 2 4 5 6 7",
		"NOT UIDAFTER 2": "* SEARCH 1 2", "OR UIDBEFORE 2 UIDAFTER 6": "* SEARCH 1 7",
	} {
		c.answers("UID SEARCH "+search, "OK", want)
	}
	for _, bad := range []string{"UIDAFTER", "UIDAFTER 0", "UIDBEFORE 1:2", "UIDBEFORE *", "UIDAFTER 4294967296"} {
		c.fails("UID SEARCH "+bad, "BAD")
	}
}
