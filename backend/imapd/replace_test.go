package imapd

import (
	"fmt"
	"strings"
	"testing"

	"github.com/postern-mail/postern/mail"
)

// TestReplace follows RFC 8508 section 3: the new message is there and the old
// one gone, and other sessions see that as well.
func TestReplace(t *testing.T) {
	t.Parallel()
	s := startServer(t, testConfig())
	c, other := s.login("alice"), s.login("alice")
	for i := range 4 {
		c.append("Drafts", `\Flagged $Work`, message(fmt.Sprint("draft ", i), "text"))
	}
	c.ok("SELECT Drafts")
	other.ok("SELECT Drafts")
	validity := s.viewOf(t, "Drafts").UIDValidity()
	got, tagged := c.cmd("REPLACE 2 Drafts (\\Seen \\Draft) {9+}\r\nA: b\r\n\r\nc")
	expect(t, "REPLACE", got, fmt.Sprintf("* OK [APPENDUID %d 5] Replacement message ready", validity), "* 2 EXPUNGE", "* 4 EXISTS")
	if !strings.HasPrefix(tagged, "OK") {
		t.Error(tagged)
	}
	expect(t, "elsewhere", other.ok("NOOP"), "* 2 EXPUNGE", "* 4 EXISTS")
	expect(t, "nothing is inherited", c.ok("FETCH 4 (UID FLAGS BODY.PEEK[])"), "* 4 FETCH (UID 5 FLAGS (\\Seen \\Draft) BODY[] {9}\r\nA: b\r\n\r\nc)")

	// Into another mailbox, by UID, of parts.
	got, _ = c.cmd("UID REPLACE 5 Sent CATENATE (URL \";UID=5\" TEXT {1+}\r\nd)")
	sent := s.viewOf(t, "Sent")
	expect(t, "UID REPLACE", got, fmt.Sprintf("* OK [APPENDUID %d 1] Replacement message ready", sent.UIDValidity()), "* 4 EXPUNGE")
	if sent.Len() != 1 || sent.At(0).Octets != 10 {
		t.Errorf("Sent has %d messages", sent.Len())
	}
	// With QRESYNC the old one vanishes, and the reply says how far one knows.
	other.ok("ENABLE QRESYNC")
	got, tagged = other.cmd("UID REPLACE 1 Drafts {1+}\r\nx")
	if len(got) < 3 || got[len(got)-2] != "* VANISHED 1" || !strings.HasPrefix(tagged, "OK [HIGHESTMODSEQ ") {
		t.Errorf("with QRESYNC: %q %q", got, tagged)
	}
	if n := len(s.audit.Find(mail.EventExpunge)); n != 3 {
		t.Errorf("%d expunges were audited", n)
	}
}

// TestReplaceRefused: nothing changes when it cannot be done, and no octet of
// the message is taken for a command.
func TestReplaceRefused(t *testing.T) {
	t.Parallel()
	s := startServer(t, testConfig())
	c := s.login("alice")
	const text = " {10+}\r\nA LOGOUT\r\n"
	c.fails("REPLACE 1 Drafts"+text, "BAD") // nothing is selected
	c.append("Drafts", "", message("one", "text"))
	c.ok("SELECT Drafts")
	for command, want := range map[string]string{
		"REPLACE 2 Drafts" + text: "BAD", "UID REPLACE 99 Drafts" + text: "NO", "REPLACE 1 nowhere" + text: "NO [TRYCREATE]",
		"REPLACE 1:2 Drafts" + text: "BAD", "REPLACE 1,2 Drafts" + text: "BAD", "REPLACE 1 Drafts (\\Foo" + text: "BAD",
		"REPLACE 1 Drafts" + text + text: "BAD", "REPLACE 1 Drafts {0+}\r\n": "NO", "REPLACE 1 Drafts CATENATE (URL /x/;UID=1 TEXT" + text + ")": "NO [BADURL",
		"REPLACE 1 Drafts": "BAD", "REPLACE Drafts" + text: "BAD",
	} {
		c.fails(command, want)
		c.ok("NOOP")
	}
	c.ok("EXAMINE Drafts")
	c.fails("REPLACE 1 Drafts"+text, "NO")
	if v := s.viewOf(t, "Drafts"); v.Len() != 1 || v.At(0).UID != 1 {
		t.Errorf("Drafts has %d messages", v.Len())
	}
	gone := s.login("alice")
	gone.ok("SELECT Drafts")
	c.ok("SELECT Drafts")
	gone.ok(`STORE 1 +FLAGS.SILENT (\Deleted)`)
	gone.ok("EXPUNGE")
	c.fails("UID REPLACE 1 Drafts"+text, "NO [EXPUNGEISSUED]")
	if n := s.viewOf(t, "Drafts").Len(); n != 0 {
		t.Errorf("a message that was gone was replaced: %d", n)
	}
}

// TestReplaceInFull: what goes makes room for what comes.
func TestReplaceInFull(t *testing.T) {
	t.Parallel()
	s := startServer(t, testConfig())
	c := s.login("small") // 1000 octets
	c.append("INBOX", "", strings.Repeat("x", 900))
	c.ok("SELECT INBOX")
	c.ok("REPLACE 1 INBOX {950+}\r\n" + strings.Repeat("y", 950))
	c.fails("REPLACE 1 INBOX {1001+}\r\n"+strings.Repeat("z", 1001), "NO [OVERQUOTA]")
	expect(t, "FETCH", c.ok("FETCH 1 (UID RFC822.SIZE)"), "* 1 FETCH (UID 2 RFC822.SIZE 950)")
}

// TestReplaceAndCatenateNeedRights: REPLACE takes what MOVE takes away and what
// APPEND adds; a URL leads only where one may read, and does not tell what is
// elsewhere (RFC 8508 section 4.1, RFC 4469 section 3).
func TestReplaceAndCatenateNeedRights(t *testing.T) {
	t.Parallel()
	s := startServer(t, sharingConfig())
	alice, bob := s.login("alice"), s.login("bob")
	alice.ok("CREATE shared")
	alice.append("shared", "", message("one", "text"))
	alice.append("INBOX", "", message("secret", "text"))
	const name = `"Other Users/alice/shared"`
	const text = " {10+}\r\nA LOGOUT\r\n"
	alice.ok("SETACL shared bob li")
	bob.fails(`APPEND INBOX CATENATE (URL "/Other%20Users/alice/shared/;UID=1")`, "NO [BADURL")
	bob.fails(`APPEND INBOX CATENATE (URL "/Other%20Users/alice/INBOX/;UID=1")`, "NO [BADURL")
	alice.ok("SETACL shared bob lri")
	bob.ok(`APPEND INBOX CATENATE (URL "/Other%20Users/alice/shared/;UID=1")`)
	bob.ok("SELECT " + name)
	bob.fails("REPLACE 1 "+name+text, "NO [NOPERM]")
	bob.fails("REPLACE 1 INBOX"+text, "NO [NOPERM]")
	alice.ok("SETACL shared bob lrte")
	bob.fails("REPLACE 1 "+name+text, "NO [NOPERM]")
	bob.ok("REPLACE 1 INBOX" + text) // into the own account
	alice.ok("SETACL shared bob lrtei")
	alice.append("shared", "", message("two", "text"))
	bob.ok("NOOP")
	bob.ok("REPLACE 1 " + name + " (\\Seen \\Flagged)" + text)
	expect(t, "flags need rights of their own", bob.ok("FETCH 1 (UID FLAGS)"), "* 1 FETCH (UID 3 FLAGS ())")
	bob.ok("NOOP")
}
