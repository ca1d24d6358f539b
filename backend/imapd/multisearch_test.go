package imapd

import (
	"fmt"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// multi runs an ESEARCH command and returns the responses from the mailbox on,
// without UIDVALIDITY.
func (c *client) multi(command string) []string {
	c.t.Helper()
	var out []string
	for _, line := range c.ok("ESEARCH " + command) {
		line = strings.TrimPrefix(line, fmt.Sprintf(`* ESEARCH (TAG "t%d" MAILBOX `, c.tag))
		out = append(out, regexp.MustCompile(` UIDVALIDITY [1-9]\d*\) UID`).ReplaceAllString(line, ""))
	}
	return out
}

func TestMultiSearch(t *testing.T) {
	t.Parallel()
	s := startServer(t, testConfig())
	c := s.login("alice")
	for _, name := range []string{"folder1", "folder1/a", "folder1/a/b", "folder2", `"two words"`, "empty"} {
		c.ok("CREATE " + name)
		if name != "empty" {
			c.fill(name, 3)
		}
	}
	c.fill("INBOX", 2)
	c.ok("SUBSCRIBE folder2")
	c.ok("SUBSCRIBE gone")
	for _, tt := range []struct {
		command string
		want    []string
	}{
		{"IN (mailboxes folder1) SUBJECT m2", []string{"folder1 ALL 2"}},
		{`IN (mailboxes ("two words" folder2 none folder2)) RETURN (COUNT MIN) ALL`, []string{`"two words" MIN 1 COUNT 3`, "folder2 MIN 1 COUNT 3"}},
		{"IN (subtree folder1) UID 1", []string{"folder1 ALL 1", "folder1/a ALL 1", "folder1/a/b ALL 1"}},
		{"in (Subtree-One folder1) RETURN () CHARSET UTF-8 UID 1", []string{"folder1 ALL 1", "folder1/a ALL 1"}},
		{"IN (subscribed) UID 2:3", []string{"INBOX ALL 2", "folder2 ALL 2:3"}},
		{"IN (inboxes) ALL", []string{"INBOX ALL 1:2"}},
		{"IN (personal) SUBJECT m3", []string{"folder1 ALL 3", "folder1/a ALL 3", "folder1/a/b ALL 3", "folder2 ALL 3", `"two words" ALL 3`}},
		{"IN (inboxes mailboxes folder2 subtree folder2) RETURN (PARTIAL -1:-1) ALL", []string{"INBOX PARTIAL (-1:-1 2)", "folder2 PARTIAL (-1:-1 3)"}},
		{"IN (mailboxes (none empty)) ALL", nil},
		{"IN (mailboxes folder1) RETURN (COUNT) SUBJECT none", nil},
	} {
		if got := c.multi(tt.command); !slices.Equal(got, tt.want) {
			t.Errorf("%s:\n got %q\nwant %q", tt.command, got, tt.want)
		}
	}
	for command, prefix := range map[string]string{
		"IN (selected) ALL": "BAD", "ALL": "BAD", "IN (mailboxes folder1) 1": "BAD", "IN (mailboxes folder1) UID $": "BAD",
		"IN (mailboxes folder1) RETURN (SAVE) ALL": "BAD", "IN (selected personal) RETURN (UPDATE) ALL": "BAD", "IN () ALL": "BAD",
		"IN (selected-delayed) ALL": "BAD", "IN (mailboxes) ALL": "BAD", "IN (mailboxes folder1)": "BAD",
		"IN (mailboxes folder1) CHARSET X-OTHER ALL":                         "NO [BADCHARSET",
		"IN (mailboxes (" + strings.Repeat("x ", maxSourceNames) + "x)) ALL": "NO [LIMIT",
	} {
		c.fails("ESEARCH "+command, prefix)
		c.ok("NOOP") // too many bad commands in a row end a session
	}

	c.ok("SELECT folder1")
	for _, tt := range []struct{ command, want string }{
		{"2", "folder1 ALL 2"}, {"IN (selected) RETURN (SAVE MAX) ALL", "folder1 MAX 3"}, {"$", "folder1 ALL 3"},
		{"IN (selected inboxes) RETURN (COUNT) ALL", "folder1 COUNT 3;INBOX COUNT 2"},
	} {
		if got := strings.Join(c.multi(tt.command), ";"); got != tt.want {
			t.Errorf("%s: %q, want %q", tt.command, got, tt.want)
		}
	}
	c.ok("ESEARCH RETURN (UPDATE COUNT) UNSEEN")
	tag := c.tag
	expect(t, "update", c.ok(`STORE 3 +FLAGS.SILENT (\Seen)`), fmt.Sprintf(`* ESEARCH (TAG "t%d") UID REMOVEFROM (0 3)`, tag))
}

// Of others' mailboxes those are searched that the client may read, and see or
// can name.
func TestMultiSearchOfOthers(t *testing.T) {
	t.Parallel()
	s := startServer(t, sharingConfig())
	alice := s.login("alice")
	for _, name := range []string{"open", "hidden", "closed"} {
		alice.ok("CREATE " + name)
		alice.fill(name, 2)
	}
	s.share("alice", "open", "bob", "lr")
	s.share("alice", "hidden", "bob", "r")
	s.share("alice", "closed", "bob", "l")
	bob := s.login("bob")
	expect(t, "seen", bob.multi(`IN (subtree "Other Users") ALL`), `"Other Users/alice/open" ALL 1:2`)
	expect(t, "named", bob.multi(`IN (mailboxes ("Other Users/alice/hidden" "Other Users/alice/closed" "Other Users/alice/none")) UID 1`),
		`"Other Users/alice/hidden" ALL 1`)
	expect(t, "personal", bob.multi("IN (personal) ALL"))
}
