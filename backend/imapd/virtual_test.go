package imapd

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/emersion/go-imap/v2"

	"github.com/postern-mail/postern/backend/mailstore"
	"github.com/postern-mail/postern/mail"
)

// virtualConfig has All mail without Trash and Junk, and Flagged.
func virtualConfig(t testing.TB) Config {
	t.Helper()
	cfg := sharingConfig()
	match, err := VirtualProgram("FLAGGED UNDELETED")
	if err != nil {
		t.Fatal(err)
	}
	cfg.Virtual = []*mailstore.VirtualMailbox{
		{Name: "All mail", SpecialUse: imap.MailboxAttrAll, Exclude: []string{"Trash", "Junk"}},
		{Name: "Flagged", SpecialUse: imap.MailboxAttrFlagged, Match: match},
	}
	return cfg
}

// TestVirtualIsListed: the virtual mailboxes stand among the others, with their
// special uses, and hide what has their names.
func TestVirtualIsListed(t *testing.T) {
	t.Parallel()
	s := startServer(t, testConfig())
	alice := s.login("alice")
	alice.ok("CREATE Flagged")
	alice.append("Flagged", `\Flagged`, message("hidden", "hello"))
	s = startServerOn(t, virtualConfig(t), s.store)
	alice = s.login("alice")
	expect(t, "LIST", alice.ok(`LIST "" (*l* INBOX)`),
		`* LIST (\HasNoChildren \All) "/" "All mail"`, `* LIST (\HasNoChildren \Flagged) "/" Flagged`, `* LIST (\HasNoChildren) "/" INBOX`)
	expect(t, "no subscription", alice.ok(`LSUB "" "All*"`))
	alice.ok(`SUBSCRIBE "All mail"`)
	expect(t, "a subscription", alice.ok(`LSUB "" "All*"`), `* LSUB () "/" "All mail"`)
	expect(t, "LIST with STATUS", alice.ok(`LIST (SPECIAL-USE) "" (Flagged) RETURN (STATUS (MESSAGES UNSEEN))`),
		`* LIST (\HasNoChildren \Flagged) "/" Flagged`, "* STATUS Flagged (MESSAGES 1 UNSEEN 1)")
	alice.ok("SELECT Flagged")
	if lines := alice.ok("FETCH 1 BODY[HEADER.FIELDS (SUBJECT)]"); !anyHas(lines, "hidden") {
		t.Errorf("what lies in the mailbox that is hidden: %q", lines)
	}
	expect(t, "MYRIGHTS", alice.ok(`MYRIGHTS "All mail"`), `* MYRIGHTS "All mail" lrswted`)
	bob := s.login("bob")
	expect(t, "everybody's own", bob.ok(`STATUS "All mail" (MESSAGES)`), `* STATUS "All mail" (MESSAGES 0)`)
}

// TestVirtualTakesNothingIn: nothing is put there, and it is nobody's to change.
func TestVirtualTakesNothingIn(t *testing.T) {
	t.Parallel()
	s := startServer(t, virtualConfig(t))
	alice := s.login("alice")
	alice.append("INBOX", "", message("one", "hello"))
	alice.ok("SELECT INBOX")
	for _, command := range []string{
		`APPEND "All mail" {3+}` + "\r\nabc", `COPY 1 "All mail"`, `MOVE 1 "All mail"`, `REPLACE 1 Flagged {3+}` + "\r\nabc",
		`DELETE "All mail"`, `RENAME "All mail" x`, `RENAME Flagged x`, `SETACL Flagged bob lr`, `GETACL Flagged`,
	} {
		alice.fails(command, "NO [CANNOT] Mailbox is virtual")
	}
	alice.fails(`CREATE "All mail"`, "NO [ALREADYEXISTS]")
	alice.fails(`RENAME INBOX "All mail"`, "NO [ALREADYEXISTS]")
	expect(t, "all is where it was", alice.ok("UID SEARCH ALL"), "* SEARCH 1")
}

// TestVirtualIsUsed: what is done there happens to the real messages, and all
// sessions are told.
func TestVirtualIsUsed(t *testing.T) {
	t.Parallel()
	s := startServer(t, virtualConfig(t))
	alice, again, real := s.login("alice"), s.login("alice"), s.login("alice")
	alice.append("INBOX", "", message("one", "hello one"))
	alice.ok("CREATE Work")
	alice.append("Work", `\Seen`, message("two", "hello two"))
	alice.append("Junk", "", message("spam", "hello spam"))
	lines, tagged := alice.cmd(`SELECT "All mail"`)
	if !strings.HasPrefix(tagged, "OK [READ-WRITE]") || !anyHas(lines, "* 2 EXISTS") || !anyHas(lines, "[UIDNEXT 3]") {
		t.Fatalf("SELECT: %q %s", lines, tagged)
	}
	again.ok(`SELECT "All mail"`)
	real.ok("SELECT INBOX")
	expect(t, "FETCH", alice.ok("FETCH 1:* (UID FLAGS BODY.PEEK[TEXT])"),
		"* 1 FETCH (UID 1 FLAGS () BODY[TEXT] {11}\r\nhello one\r\n)", "* 2 FETCH (UID 2 FLAGS (\\Seen) BODY[TEXT] {11}\r\nhello two\r\n)")
	email := alice.ok("FETCH 1 (EMAILID THREADID RFC822.SIZE INTERNALDATE ENVELOPE BODYSTRUCTURE)")
	expect(t, "identity and structure", email, real.ok("FETCH 1 (EMAILID THREADID RFC822.SIZE INTERNALDATE ENVELOPE BODYSTRUCTURE)")...)

	alice.append("Work", "", message("three", "hello three"))
	expect(t, "who added it was told by that", alice.ok("NOOP"))
	expect(t, "what came", again.ok("NOOP"), "* 3 EXISTS")
	expect(t, "STORE", alice.ok(`STORE 1 +FLAGS (\Flagged $x)`), `* FLAGS (\Answered \Flagged \Deleted \Seen \Draft $x)`,
		`* OK [PERMANENTFLAGS (\Answered \Flagged \Deleted \Seen \Draft $x \*)] Flags permitted`, `* 1 FETCH (FLAGS (\Flagged $x))`)
	expect(t, "the real one", fetches(real.ok("NOOP")), `* 1 FETCH (FLAGS (\Flagged $x))`)
	expect(t, "the other session", fetches(again.ok("NOOP")), `* 1 FETCH (FLAGS (\Flagged $x))`)
	expect(t, "SEARCH by header", alice.ok("SEARCH SUBJECT t"), "* SEARCH 2 3")
	expect(t, "SEARCH by text", alice.ok(`SEARCH TEXT "hello one"`), "* SEARCH 1")
	expect(t, "SORT", alice.ok("SORT (SUBJECT) UTF-8 ALL"), "* SORT 1 3 2")
	expect(t, "THREAD", alice.ok("THREAD REFERENCES UTF-8 ALL"), "* THREAD (1)(2)(3)")
	expect(t, "STATUS", alice.ok(`STATUS Flagged (MESSAGES UNSEEN UIDNEXT)`), "* STATUS Flagged (MESSAGES 1 UIDNEXT 2 UNSEEN 1)")

	_, tagged = alice.cmd("UID COPY 1:2 Trash")
	if !strings.Contains(tagged, "[COPYUID") || !strings.Contains(tagged, " 1:2 ") {
		t.Errorf("COPY: %s", tagged)
	}
	expect(t, "MOVE out", alice.ok("MOVE 2 Trash")[1:], "* 2 EXPUNGE")
	expect(t, "is told", again.ok("NOOP"), "* 2 EXPUNGE")
	expect(t, "STATUS of the real one", alice.ok("STATUS Work (MESSAGES)"), "* STATUS Work (MESSAGES 1)")
	real.ok(`STORE 1 +FLAGS.SILENT (\Deleted)`)
	again.ok("NOOP")
	expect(t, "UID EXPUNGE", again.ok("UID EXPUNGE 1"), "* 1 EXPUNGE")
	expect(t, "the real one", real.ok("NOOP"), "* 1 EXPUNGE")
	expect(t, "the other session", alice.ok("NOOP"), "* 1 EXPUNGE")
	expect(t, "what is left", alice.ok("UID SEARCH ALL"), "* SEARCH 3")
	alice.ok("CLOSE")
	alice.append("INBOX", "", message("four", "hello"))
	if lines := alice.ok(`SELECT "All mail"`); !anyHas(lines, "* 2 EXISTS") || !anyHas(lines, "[UIDNEXT 5]") {
		t.Errorf("SELECT: %q", lines)
	}
	again.ok("UNSELECT")
	if lines := alice.ok(`ESEARCH IN (mailboxes "All mail") RETURN (COUNT) ALL`); len(lines) != 1 || !strings.HasSuffix(lines[0], ") UID COUNT 2") {
		t.Errorf("MULTISEARCH: %q", lines)
	}
	if lines := alice.ok(`ESEARCH IN (personal) RETURN (COUNT) ALL`); !anyHas(lines, "MAILBOX INBOX") || anyHas(lines, "All mail") {
		t.Errorf("MULTISEARCH of all: %q", lines)
	}
}

// TestVirtualByFlagsIsTold: a message comes into Flagged, and leaves it, when
// another session flags it elsewhere; a client in IDLE is told at once.
func TestVirtualByFlagsIsTold(t *testing.T) {
	t.Parallel()
	s := startServer(t, virtualConfig(t))
	alice, idle := s.login("alice"), s.login("alice")
	alice.append("INBOX", "", message("one", "hello"))
	alice.ok("SELECT INBOX")
	idle.ok("SELECT Flagged")
	idle.send("i1 IDLE\r\n")
	if line := idle.line(); !strings.HasPrefix(line, "+") {
		t.Fatal(line)
	}
	alice.ok(`STORE 1 +FLAGS (\Flagged)`)
	expect(t, "it comes", []string{idle.line()}, "* 1 EXISTS")
	alice.ok(`STORE 1 +FLAGS (\Seen)`)
	expect(t, "its flags", []string{idle.line()}, `* 1 FETCH (FLAGS (\Seen \Flagged))`)
	alice.ok(`STORE 1 -FLAGS (\Flagged)`)
	expect(t, "it leaves", []string{idle.line()}, "* 1 EXPUNGE")
	idle.send("DONE\r\n")
	if line := idle.line(); !strings.HasPrefix(line, "i1 OK") {
		t.Error(line)
	}
	// A STORE that takes the message out of the very mailbox.
	alice.ok(`STORE 1 +FLAGS (\Flagged)`)
	expect(t, "it is back", idle.ok("NOOP"), "* 1 EXISTS")
	idle.ok(`UID STORE 2 -FLAGS.SILENT (\Flagged)`)
	idle.ok("NOOP")
	expect(t, "nothing is left", idle.ok("SEARCH ALL"), "* SEARCH")
}

// TestVirtualSelectedIsNotified: NOTIFY tells of the virtual mailbox that is selected,
// and nothing of the real one that it hides.
func TestVirtualSelectedIsNotified(t *testing.T) {
	t.Parallel()
	s := startServer(t, testConfig())
	s.login("alice").ok("CREATE Flagged")
	s = startServerOn(t, virtualConfig(t), s.store)
	alice, c := s.login("alice"), s.login("alice")
	c.ok(`SELECT "All mail"`)
	expect(t, "first", withoutValidity(c.ok("NOTIFY SET STATUS (selected (MessageNew (UID) MessageExpunge)) (mailboxes (INBOX Flagged) (MessageNew MessageExpunge MailboxName))")),
		"* STATUS INBOX (MESSAGES 0 UIDNEXT 1 UIDVALIDITY UNSEEN 0)", "* STATUS Flagged (MESSAGES 0 UIDNEXT 1 UIDVALIDITY UNSEEN 0)")
	alice.append("INBOX", "", message("one", "hello"))
	expect(t, "shown in both", withoutValidity(c.told(3)), "* 1 EXISTS", "* 1 FETCH (UID 1)", "* STATUS INBOX (MESSAGES 1 UIDNEXT 2 UIDVALIDITY UNSEEN 1)")
	s.deliver("alice", "Flagged", "1")
	expect(t, "into the hidden one", c.told(2), "* 2 EXISTS", "* 2 FETCH (UID 2)")
	c.nothing("the hidden one")
}

// TestVirtualIsResynchronized: QRESYNC tells what went and what changed.
func TestVirtualIsResynchronized(t *testing.T) {
	t.Parallel()
	s := startServer(t, virtualConfig(t))
	alice, again := s.login("alice"), s.login("alice")
	for i := range 4 {
		alice.append("INBOX", "", message(fmt.Sprint("m", i), "hello"))
	}
	alice.ok("ENABLE QRESYNC")
	again.ok("ENABLE QRESYNC")
	selected := again.ok(`SELECT "All mail"`)
	validity, before := modSeqIn(t, selected, "[UIDVALIDITY"), modSeqIn(t, selected, "[HIGHESTMODSEQ")
	again.ok("UNSELECT")
	alice.ok("SELECT INBOX")
	alice.ok("MOVE 2 Trash")
	stored := modSeqIn(t, alice.ok(`UID STORE 3 +FLAGS (\Seen)`), "MODSEQ")
	alice.append("INBOX", "", message("m5", "hello"))
	lines := again.ok(fmt.Sprintf(`SELECT "All mail" (QRESYNC (%d %d))`, validity, before))
	if !anyHas(lines, "* VANISHED (EARLIER) 2") || !anyHas(lines, "* 4 EXISTS") {
		t.Errorf("got %q", lines)
	}
	told := fetches(lines)
	if len(told) != 2 || told[0] != fmt.Sprintf(`* 2 FETCH (UID 3 FLAGS (\Seen) MODSEQ (%d))`, stored) || !strings.HasPrefix(told[1], "* 4 FETCH (UID 5 FLAGS ()") {
		t.Errorf("told %q", told)
	}
	since := modSeqIn(t, lines, "[HIGHESTMODSEQ")
	expect(t, "nothing more", fetches(again.ok(fmt.Sprintf("UID FETCH 1:* (FLAGS) (CHANGEDSINCE %d VANISHED)", since))))
	alice.ok(`UID STORE 3 +FLAGS.SILENT (\Flagged)`)
	_, tagged := again.cmd(fmt.Sprintf(`UID STORE 1:* (UNCHANGEDSINCE %d) +FLAGS.SILENT (\Answered)`, since))
	if !strings.HasPrefix(tagged, "OK [MODIFIED 3]") {
		t.Errorf("UNCHANGEDSINCE: %s", tagged)
	}
}

// TestVirtualIsAudited: the audit names the real mailbox of what was expunged.
func TestVirtualIsAudited(t *testing.T) {
	t.Parallel()
	s := startServer(t, virtualConfig(t))
	alice := s.login("alice")
	alice.ok("CREATE Work")
	alice.append("Work", "", message("other", "hello"))
	alice.append("INBOX", `\Deleted`, message("one", "hello"))
	alice.append("INBOX", "", message("two", "hello"))
	alice.append("Work", `\Deleted`, message("three", "hello"))
	alice.ok(`SELECT "All mail"`)
	alice.ok("EXPUNGE")
	alice.ok("MOVE 1:2 Trash")
	var got []string
	for _, e := range s.audit.Find(mail.EventExpunge) {
		got = append(got, fmt.Sprintf("%s %s %s %s", e.Mailbox, e.UIDs, e.Result, e.Detail))
	}
	slices.Sort(got)
	expect(t, "audit", got, "INBOX 1 ok expunge in All mail", "INBOX 2 ok move to Trash in All mail",
		"Work 1 ok move to Trash in All mail", "Work 2 ok expunge in All mail")
}

// TestVirtualIsNotified: NOTIFY tells of virtual mailboxes when what they show
// changes, and never of what they hide.
func TestVirtualIsNotified(t *testing.T) {
	t.Parallel()
	s := startServer(t, testConfig())
	alice := s.login("alice")
	alice.ok("CREATE Flagged")
	s = startServerOn(t, virtualConfig(t), s.store)
	alice, bob := s.login("alice"), s.login("alice")
	alice.append("INBOX", `\Flagged`, message("one", "x"))
	first := bob.ok(`NOTIFY SET STATUS (mailboxes ("All mail" Flagged) (MessageNew MessageExpunge FlagChange))`)
	for i := range first {
		first[i] = first[i][:strings.Index(first[i], " HIGHESTMODSEQ")] + ")"
	}
	expect(t, "first", withoutValidity(first),
		`* STATUS "All mail" (MESSAGES 1 UIDNEXT 2 UIDVALIDITY UNSEEN 1)`, "* STATUS Flagged (MESSAGES 1 UIDNEXT 2 UIDVALIDITY UNSEEN 1)")
	alice.append("INBOX", "", message("two", "x"))
	expect(t, "new", withoutValidity(bob.told(1)), `* STATUS "All mail" (MESSAGES 2 UIDNEXT 3 UIDVALIDITY UNSEEN 2)`)
	alice.ok("SELECT INBOX")
	alice.ok(`STORE 1 +FLAGS.SILENT ($x)`)
	bob.nothing("a flag that STATUS does not tell")
	alice.ok(`STORE 1 +FLAGS.SILENT (\Seen)`)
	expect(t, "read", withoutValidity(bob.told(2)), `* STATUS "All mail" (UIDVALIDITY UNSEEN 1)`, "* STATUS Flagged (UIDVALIDITY UNSEEN 0)")
	alice.ok(`STORE 1 -FLAGS.SILENT (\Flagged)`)
	expect(t, "not flagged", withoutValidity(bob.told(1)), "* STATUS Flagged (MESSAGES 0 UIDNEXT 2 UIDVALIDITY UNSEEN 0)")
	bob.ok("SELECT Flagged")
	bob.ok("NOTIFY SET (selected (MessageNew MessageExpunge)) (personal (MessageNew MessageExpunge))")
	alice.ok(`STORE 2 +FLAGS.SILENT (\Flagged)`)
	expect(t, "the selected one", bob.told(1), "* 1 EXISTS")
	alice.ok("MOVE 2 Junk")
	got := withoutValidity(bob.told(5))
	slices.Sort(got)
	expect(t, "all of the account", got, "* 1 EXISTS", "* 1 EXPUNGE", `* STATUS "All mail" (MESSAGES 1 UIDNEXT 3 UIDVALIDITY UNSEEN 0)`,
		"* STATUS INBOX (MESSAGES 1 UIDNEXT 3 UIDVALIDITY UNSEEN 0)", "* STATUS Junk (MESSAGES 1 UIDNEXT 2 UIDVALIDITY UNSEEN 1)")
	bob.ok("NOTIFY NONE")
	alice.append("INBOX", "", message("three", "x"))
	bob.nothing("NOTIFY NONE")
}

// TestVirtualOutlivesMailboxes: where a mailbox was deleted meanwhile, what is
// done to the messages of others is done.
func TestVirtualOutlivesMailboxes(t *testing.T) {
	t.Parallel()
	s := startServer(t, virtualConfig(t))
	alice, other := s.login("alice"), s.login("alice")
	alice.ok("CREATE Work")
	alice.append("Work", "", message("one", "hello one"))
	alice.append("INBOX", "", message("two", "hello two"))
	for _, command := range []string{`STORE 1:* +FLAGS.SILENT (\Answered)`, "UID COPY 1:* Sent", "EXPUNGE"} {
		alice.ok(`SELECT "All mail"`)
		other.ok("DELETE Work")
		if _, tagged := alice.cmd(command); !strings.HasPrefix(tagged, "OK") {
			t.Errorf("%s: %s", command, tagged)
		}
		alice.ok("UNSELECT")
		other.ok("CREATE Work")
		other.append("Work", `\Deleted`, message("more", "hello more"))
	}
	expect(t, "what is left", alice.ok("STATUS Sent (MESSAGES)"), "* STATUS Sent (MESSAGES 1)")
}
