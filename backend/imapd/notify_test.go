package imapd

import (
	"fmt"
	"strings"
	"testing"

	"github.com/postern-mail/postern/backend/mailstore"
	"github.com/postern-mail/postern/mail"
)

// told reads so many responses that come without a command.
func (c *client) told(n int) []string {
	c.t.Helper()
	lines := make([]string, n)
	for i := range lines {
		lines[i] = c.line()
	}
	return lines
}

// nothing makes sure that nothing more is told before the next command's answer.
func (c *client) nothing(after string) {
	c.t.Helper()
	if got := c.ok("NOOP"); len(got) > 0 {
		c.t.Errorf("after %s: told %q", after, got)
	}
}

// TestNotifyOtherMailbox follows section 3.1: the STATUS of what is watched at
// once, and again whenever messages come and go, without a command.
func TestNotifyOtherMailbox(t *testing.T) {
	t.Parallel()
	s := startServer(t, testConfig())
	bob, alice := s.login("alice"), s.login("alice")
	alice.ok("CREATE Lists/Lemonade")
	alice.ok("CREATE Lists/Im2000")
	alice.append("Lists/Lemonade", "", message("one", "x"))
	untagged := bob.ok("NOTIFY SET STATUS (selected (MessageNew (uid body.peek[header.fields (subject)]) MessageExpunge)) (subtree Lists (MessageNew MessageExpunge))")
	expect(t, "first", withoutValidity(untagged),
		"* STATUS Lists/Im2000 (MESSAGES 0 UIDNEXT 1 UIDVALIDITY UNSEEN 0)", "* STATUS Lists/Lemonade (MESSAGES 1 UIDNEXT 2 UIDVALIDITY UNSEEN 1)")
	bob.ok("SELECT INBOX")
	alice.append("Lists/Lemonade", "", message("two", "x"))
	expect(t, "a new message", withoutValidity(bob.told(1)), "* STATUS Lists/Lemonade (MESSAGES 2 UIDNEXT 3 UIDVALIDITY UNSEEN 2)")
	alice.append("INBOX", "", message("three", "x"))
	expect(t, "in the selected mailbox", bob.told(2), "* 1 EXISTS",
		"* 1 FETCH (UID 1 BODY[HEADER.FIELDS (subject)] {18}\r\nSubject: three\r\n\r\n)")
	alice.ok("SELECT Lists/Lemonade")
	alice.ok(`STORE 1 +FLAGS.SILENT (\Flagged)`)
	alice.ok(`STORE 1 +FLAGS.SILENT (\Deleted)`)
	alice.ok("EXPUNGE")
	expect(t, "an expunge", withoutValidity(bob.told(1)), "* STATUS Lists/Lemonade (MESSAGES 1 UIDNEXT 3 UIDVALIDITY UNSEEN 1)")
	alice.ok("CREATE Elsewhere")
	alice.append("Elsewhere", "", message("four", "x"))
	bob.nothing("a change elsewhere")
	bob.append("Lists/Lemonade", "", message("mine", "x"))
	bob.nothing("one's own message")
}

// withoutValidity takes the UIDVALIDITY out of STATUS responses.
func withoutValidity(lines []string) []string {
	out := make([]string, len(lines))
	for i, line := range lines {
		words := strings.Fields(line)
		for k, word := range words {
			if word == "UIDVALIDITY" || word == "(UIDVALIDITY" {
				close := ""
				if strings.HasSuffix(words[k+1], ")") {
					close = ")"
				}
				words = append(words[:k+1], words[k+2:]...)
				words[k] += close
				break
			}
		}
		out[i] = strings.Join(words, " ")
		if strings.Contains(line, "\n") {
			out[i] = line
		}
	}
	return out
}

// TestNotifyNames: mailboxes that others make, rename and delete (section 5.4),
// and the client's own that it is not told of.
func TestNotifyNames(t *testing.T) {
	t.Parallel()
	s := startServer(t, testConfig())
	c, other := s.login("alice"), s.login("alice")
	c.ok("NOTIFY SET (personal (MailboxName))")
	other.ok("CREATE Work")
	expect(t, "create", c.told(1), `* LIST (\HasNoChildren) "/" Work`)
	other.ok("CREATE Work/2020")
	expect(t, "create below", c.told(2), `* LIST (\HasNoChildren) "/" Work/2020`, `* LIST (\HasChildren) "/" Work`)
	other.ok("CREATE Far/Away")
	expect(t, "create below a level", c.told(2), `* LIST (\HasNoChildren) "/" Far/Away`, `* LIST (\NonExistent \HasChildren) "/" Far`)
	other.ok("RENAME Work Play")
	expect(t, "rename", c.told(1), `* LIST (\HasChildren) "/" Play ("OLDNAME" (Work))`)
	other.ok("DELETE Play/2020")
	expect(t, "delete", c.told(2), `* LIST (\NonExistent \HasNoChildren) "/" Play/2020`, `* LIST (\HasNoChildren) "/" Play`)
	other.ok("SUBSCRIBE Gone")
	other.ok("CREATE Gone")
	expect(t, "create what is subscribed", c.told(1), `* LIST (\HasNoChildren \Subscribed) "/" Gone`)
	c.ok("CREATE Mine")
	c.ok("DELETE Mine")
	c.nothing("what one does oneself")
	other.ok("RENAME INBOX Old")
	expect(t, "rename of INBOX", c.told(1), `* LIST (\HasNoChildren) "/" Old`)
}

// TestNotifySubscriptions is section 5.5, and the filter that follows them.
func TestNotifySubscriptions(t *testing.T) {
	t.Parallel()
	s := startServer(t, testConfig())
	c, other := s.login("alice"), s.login("alice")
	other.ok("CREATE Lists")
	c.ok("NOTIFY SET (personal (SubscriptionChange)) (subscribed (MessageNew MessageExpunge))")
	other.append("Lists", "", message("one", "x"))
	c.nothing("a change where there is no subscription")
	other.ok("SUBSCRIBE Lists")
	expect(t, "subscribe", c.told(1), `* LIST (\HasNoChildren \Subscribed) "/" Lists`)
	other.append("Lists", "", message("two", "x"))
	expect(t, "now it is watched", withoutValidity(c.told(1)), "* STATUS Lists (MESSAGES 2 UIDNEXT 3 UIDVALIDITY UNSEEN 2)")
	other.ok("UNSUBSCRIBE Lists")
	expect(t, "unsubscribe", c.told(1), `* LIST (\HasNoChildren) "/" Lists`)
	other.append("Lists", "", message("three", "x"))
	other.ok("SUBSCRIBE Nowhere")
	expect(t, "a name", c.told(1), `* LIST (\NonExistent \HasNoChildren \Subscribed) "/" Nowhere`)
	other.ok("SUBSCRIBE Nowhere")
	other.ok("DELETE Lists")
	c.nothing("what changes no subscription")
}

// TestNotifyMetadata is sections 5.6 and 5.7.
func TestNotifyMetadata(t *testing.T) {
	t.Parallel()
	s := startServer(t, testConfig())
	c, other := s.login("alice"), s.login("alice")
	other.ok("CREATE Work")
	c.ok("NOTIFY SET (mailboxes INBOX (MailboxMetadataChange)) (personal (ServerMetadataChange))")
	other.ok(`SETMETADATA INBOX (/shared/comment "x" /private/comment "y")`)
	expect(t, "set", c.told(1), `* METADATA INBOX /private/comment /shared/comment`)
	other.ok(`SETMETADATA INBOX (/shared/comment NIL)`)
	expect(t, "removed", c.told(1), `* METADATA INBOX /shared/comment`)
	other.ok(`SETMETADATA Work (/shared/comment "x")`)
	other.ok(`SETMETADATA "" (/private/comment "x")`)
	expect(t, "server", c.told(1), `* METADATA "" /private/comment`)
	c.ok(`SETMETADATA INBOX (/shared/comment "mine")`)
	c.nothing("one's own")
}

// TestNotifyFlags is section 5.1 for other mailboxes, with and without CONDSTORE.
func TestNotifyFlags(t *testing.T) {
	t.Parallel()
	s := startServer(t, testConfig())
	c, other := s.login("alice"), s.login("alice")
	other.append("INBOX", "", message("one", "x"))
	other.ok("SELECT INBOX")
	c.ok("NOTIFY SET (personal (MessageNew MessageExpunge FlagChange))")
	other.ok(`STORE 1 +FLAGS (\Flagged)`)
	c.nothing("a flag that STATUS does not show")
	other.ok(`STORE 1 +FLAGS (\Seen)`)
	expect(t, "seen", withoutValidity(c.told(1)), "* STATUS INBOX (UIDVALIDITY UNSEEN 0)")
	c.ok("ENABLE CONDSTORE")
	other.ok(`STORE 1 -FLAGS (\Flagged)`)
	if line := withoutValidity(c.told(1))[0]; !strings.HasPrefix(line, "* STATUS INBOX (UIDVALIDITY UNSEEN 0 HIGHESTMODSEQ ") {
		t.Errorf("another flag, with CONDSTORE: %q", line)
	}
	other.append("INBOX", "", message("two", "x"))
	if line := c.line(); !strings.Contains(line, "MESSAGES 2 UIDNEXT 3") || !strings.Contains(line, "HIGHESTMODSEQ") {
		t.Errorf("with CONDSTORE: %q", line)
	}
}

// TestNotifyRefuses is what is wrong, and how it is answered; after all of it
// nothing is watched.
func TestNotifyRefuses(t *testing.T) {
	t.Parallel()
	cfg := testConfig()
	cfg.MaxBadCommands = 100
	s := startServer(t, cfg)
	c, other := s.login("alice"), s.login("alice")
	bad := "NO [BADEVENT (MessageNew MessageExpunge FlagChange MailboxName SubscriptionChange MailboxMetadataChange ServerMetadataChange)]"
	for text, want := range map[string]string{
		"NOTIFY":                                   "BAD",
		"NOTIFY SET":                               "BAD",
		"NOTIFY SET ":                              "BAD",
		"NOTIFY NONE x":                            "BAD",
		"NOTIFY SOME":                              "BAD",
		"NOTIFY SET STATUS":                        "BAD",
		"NOTIFY SET (personal)":                    "BAD",
		"NOTIFY SET (personal ())":                 "BAD",
		"NOTIFY SET (personal SOME)":               "BAD",
		"NOTIFY SET (nowhere NONE)":                "BAD",
		"NOTIFY SET (mailboxes NONE)":              "BAD",
		"NOTIFY SET personal (x)":                  "BAD",
		"NOTIFY SET (personal NONE":                "BAD",
		"NOTIFY SET (personal NONE) (x":            "BAD",
		"NOTIFY SET (personal (MessageNew))":       "BAD",
		"NOTIFY SET (personal (MessageExpunge))":   "BAD",
		"NOTIFY SET (personal (FlagChange))":       "BAD",
		"NOTIFY SET (personal (AnnotationChange))": "BAD",
		"NOTIFY SET (selected (MessageNew MessageExpunge)) (selected-delayed (MessageNew MessageExpunge))": "BAD",
		"NOTIFY SET (selected NONE) (selected NONE)":                                                       "BAD",
		"NOTIFY SET (selected (MailboxName))":                                                              "BAD",
		"NOTIFY SET (personal (MessageNew (FLAGS) MessageExpunge))":                                        "BAD",
		"NOTIFY SET (selected (MessageNew (NOTHING) MessageExpunge))":                                      "BAD",
		"NOTIFY SET (personal (MessageNew MessageExpunge AnnotationChange))":                               bad,
		"NOTIFY SET (personal (Surprise))":                                                                 bad,
		"NOTIFY SET (subtree (" + strings.Repeat("x ", maxNotifyNames) + "x) (MailboxName))":               "NO [NOTIFICATIONOVERFLOW]",
		"NOTIFY SET" + strings.Repeat(" (personal NONE)", maxNotifyGroups+1):                               "NO [NOTIFICATIONOVERFLOW]",
		"NOTIFY NONE ": "OK",
		"notify set status (SubTree (a \"b\") ((MailboxName)))": "BAD",
	} {
		c.fails(text, want)
	}
	c.ok("NOTIFY NONE")
	c.ok("notify set status (INBOXES (messagenew MESSAGEEXPUNGE)) (mailboxes (a//b INBOX {1+}\r\nx) NONE) (Subscribed NONE)")
	c.ok("NOTIFY SET (personal NONE)")
	other.append("INBOX", "", message("x", "x"))
	c.nothing("a change nobody asked for")
	early := s.dial()
	early.line()
	early.fails("NOTIFY NONE", "BAD")
}

// TestNotifyReplaced: each NOTIFY replaces what was asked for, NONE ends it, and
// so does the end of the login.
func TestNotifyReplaced(t *testing.T) {
	t.Parallel()
	s := startServer(t, testConfig())
	c, other := s.login("alice"), s.login("alice")
	c.ok("NOTIFY SET (personal (MailboxName))")
	c.ok("NOTIFY SET (personal (SubscriptionChange))")
	other.ok("CREATE a")
	other.ok("SUBSCRIBE a")
	expect(t, "the second", c.told(1), `* LIST (\HasNoChildren \Subscribed) "/" a`)
	c.fails("NOTIFY SET (personal (FlagChange))", "BAD")
	other.ok("UNSUBSCRIBE a")
	expect(t, "a refused one changes nothing", c.told(1), `* LIST (\HasNoChildren) "/" a`)
	c.ok("NOTIFY NONE")
	other.ok("SUBSCRIBE a")
	c.nothing("NONE")
	c.ok("NOTIFY SET (personal (MailboxName))")
	c.ok("UNAUTHENTICATE")
	c.ok("LOGIN alice secret")
	other.ok("CREATE b")
	c.nothing("another login")
}

// TestNotifyDelivery: mail that is delivered is told of, in the selected mailbox
// and in others.
func TestNotifyDelivery(t *testing.T) {
	t.Parallel()
	s := startServer(t, testConfig())
	c := s.login("alice")
	c.ok("CREATE Lists")
	c.ok("NOTIFY SET (selected (MessageNew (UID) MessageExpunge)) (personal (MessageNew MessageExpunge))")
	s.deliver("alice", "Lists", "1")
	expect(t, "not selected", withoutValidity(c.told(1)), "* STATUS Lists (MESSAGES 1 UIDNEXT 2 UIDVALIDITY UNSEEN 1)")
	c.ok("SELECT Lists")
	s.deliver("alice", "Lists", "2")
	expect(t, "selected", c.told(2), "* 2 EXISTS", "* 2 FETCH (UID 2)")
	c.ok("UNSELECT")
	s.deliver("alice", "Lists", "3")
	expect(t, "not selected any more", withoutValidity(c.told(1)), "* STATUS Lists (MESSAGES 3 UIDNEXT 4 UIDVALIDITY UNSEEN 3)")
}

// deliver delivers a message as LMTP does.
func (s *server) deliver(account, mailbox, id string) {
	s.t.Helper()
	a, err := s.store.Account(s.t.Context(), mail.Account{Name: account})
	if err != nil {
		s.t.Fatal(err)
	}
	defer a.Close()
	content, err := s.store.Stage(s.t.Context(), strings.NewReader(message("delivered"+id, "x")))
	if err != nil {
		s.t.Fatal(err)
	}
	defer content.Discard()
	if err := a.Deliver(s.t.Context(), []mailstore.Delivery{{ID: id, Mailbox: mailbox, Content: content}})[0]; err != nil {
		s.t.Fatal(err)
	}
}

// TestNotifyOverflow: who cannot be told all is told that, and nothing more.
func TestNotifyOverflow(t *testing.T) {
	t.Parallel()
	s := startServer(t, testConfig())
	c, other := s.login("alice"), s.login("alice")
	c.ok("NOTIFY SET (personal (SubscriptionChange))")
	// The client's command is under way while more happens than is kept.
	c.send("a APPEND INBOX {10}\r\n")
	if line := c.line(); !strings.HasPrefix(line, "+") {
		t.Fatal(line)
	}
	s.changeMuch("alice")
	c.send("A: b\r\n\r\nc\r\n\r\n")
	c.until("a")
	if line := c.line(); !strings.HasPrefix(line, "* OK [NOTIFICATIONOVERFLOW]") {
		t.Errorf("told %q", line)
	}
	other.ok("SUBSCRIBE x")
	c.nothing("an overflow")
	c.ok("NOTIFY SET (personal (SubscriptionChange))")
	other.ok("UNSUBSCRIBE x")
	expect(t, "another NOTIFY", c.told(1), `* LIST (\NonExistent \HasNoChildren) "/" x`)
}

// changeMuch does more in an account than a watcher keeps.
func (s *server) changeMuch(name string) {
	s.t.Helper()
	account, err := s.store.Account(s.t.Context(), mail.Account{Name: name})
	if err != nil {
		s.t.Fatal(err)
	}
	defer account.Close()
	box, err := account.Find(inbox)
	if err != nil {
		s.t.Fatal(err)
	}
	for _, mailbox := range []mailstore.GUID{{}, box.GUID} {
		for some := range mailstore.MaxEntries / 100 {
			var list []mailstore.Entry
			for i := range 100 {
				list = append(list, mailstore.Entry{Space: mailstore.SpaceMetadata, Mailbox: mailbox, Key: fmt.Sprintf("/shared/vendor/test/%d", 100*some+i), Value: []byte("x")})
			}
			if err := account.SetEntries(s.t.Context(), list); err != nil {
				s.t.Fatal(err)
			}
		}
	}
	if err := account.Subscribe(s.t.Context(), "one/more", true); err != nil {
		s.t.Fatal(err)
	}
	if err := account.Subscribe(s.t.Context(), "one/more", false); err != nil {
		s.t.Fatal(err)
	}
}

// TestNotifyUnshared: an account that shares nothing any more is not watched, so
// that not even how much happens there can be seen. What it shares again is told.
func TestNotifyUnshared(t *testing.T) {
	t.Parallel()
	s := startServer(t, sharingConfig())
	alice, bob := s.login("alice"), s.login("bob")
	alice.ok("CREATE Team")
	alice.ok("SETACL Team bob lr")
	bob.ok(`NOTIFY SET (subtree "Other Users" (MessageNew MessageExpunge MailboxName))`)
	for _, withdraw := range []string{"DELETEACL Team bob", "SETACL Team bob p", "DELETE Team"} {
		alice.ok(withdraw)
		if told := bob.told(2); !strings.HasSuffix(told[0], `\NonExistent \HasNoChildren) "/" "Other Users/alice/Team"`) || !strings.HasSuffix(told[1], `"Other Users/alice"`) {
			t.Errorf("%s: told %q", withdraw, told)
		}
		// The client's command is under way while more happens than is kept.
		bob.send("a APPEND INBOX {10}\r\n")
		if line := bob.line(); !strings.HasPrefix(line, "+") {
			t.Fatal(line)
		}
		s.changeMuch("alice")
		bob.send("A: b\r\n\r\nc\r\n\r\n")
		bob.until("a")
		bob.nothing(withdraw)
		if withdraw == "DELETE Team" {
			alice.ok("CREATE Team")
		}
		alice.ok("SETACL Team bob lr")
		expect(t, "shared again", bob.told(2), `* LIST (\HasNoChildren) "/" "Other Users/alice/Team"`, `* LIST (\NonExistent \HasChildren) "/" "Other Users/alice"`)
		alice.append("Team", "", message("m", "x"))
		if line := bob.line(); !strings.HasPrefix(line, `* STATUS "Other Users/alice/Team" (MESSAGES `) {
			t.Errorf("watched again: %q", line)
		}
	}
}

// TestNotifySharing: mailboxes of others, as far as the rights go, which change
// meanwhile (sections 3.1, 5.4 and 5.9).
func TestNotifySharing(t *testing.T) {
	t.Parallel()
	s := startServer(t, sharingConfig())
	alice, bob := s.login("alice"), s.login("bob")
	alice.ok("CREATE Team")
	alice.ok("CREATE Blind")
	alice.ok("CREATE Secret")
	alice.ok("SETACL Team bob lr")
	alice.ok("SETACL Blind bob l")
	got := bob.ok(`NOTIFY SET STATUS (subtree "Other Users" (MessageNew MessageExpunge MailboxName MailboxMetadataChange)) (personal (MailboxName))`)
	expect(t, "first", withoutValidity(got), `* LIST (\NoAccess \HasNoChildren) "/" "Other Users/alice/Blind"`,
		`* STATUS "Other Users/alice/Team" (MESSAGES 0 UIDNEXT 1 UIDVALIDITY UNSEEN 0)`)
	alice.append("Secret", "", message("a", "x"))
	alice.append("Blind", "", message("b", "x"))
	alice.append("Team", "", message("c", "x"))
	team := `* STATUS "Other Users/alice/Team" (MESSAGES 1 UIDNEXT 2 UIDVALIDITY UNSEEN 1)`
	expect(t, "messages", withoutValidity(bob.told(1)), team)
	alice.ok("CREATE Team/Sub")
	expect(t, "made with the rights of the one above", bob.told(2),
		`* LIST (\HasNoChildren) "/" "Other Users/alice/Team/Sub"`, `* LIST (\HasChildren) "/" "Other Users/alice/Team"`)
	alice.ok("SETACL Blind bob lr")
	expect(t, "read is granted", bob.told(1), `* LIST (\HasNoChildren) "/" "Other Users/alice/Blind"`)
	alice.append("Blind", "", message("d", "x"))
	expect(t, "and told of", withoutValidity(bob.told(1)), `* STATUS "Other Users/alice/Blind" (MESSAGES 2 UIDNEXT 3 UIDVALIDITY UNSEEN 2)`)
	alice.ok("SETACL Blind bob l")
	expect(t, "read is taken", bob.told(1), `* LIST (\NoAccess \HasNoChildren) "/" "Other Users/alice/Blind"`)
	alice.ok("SETACL Secret bob lr")
	expect(t, "granted", bob.told(2), `* LIST (\HasNoChildren) "/" "Other Users/alice/Secret"`, `* LIST (\NonExistent \HasChildren) "/" "Other Users/alice"`)
	alice.ok("DELETEACL Secret bob")
	expect(t, "taken", bob.told(2), `* LIST (\NoAccess \NonExistent \HasNoChildren) "/" "Other Users/alice/Secret"`, `* LIST (\NonExistent \HasChildren) "/" "Other Users/alice"`)
	alice.append("Secret", "", message("e", "x"))
	alice.ok("RENAME Secret Hidden")
	alice.ok("DELETE Hidden")
	alice.ok(`SETMETADATA Team (/private/comment "mine")`)
	bob.ok(`SETMETADATA "Other Users/alice/Team" (/private/comment "mine")`)
	bob.nothing("what is not bob's to know")
	alice.ok(`SETMETADATA Team (/shared/comment "ours")`)
	expect(t, "annotation", bob.told(1), `* METADATA "Other Users/alice/Team" /shared/comment`)
	s.login("bob").ok(`SETMETADATA "Other Users/alice/Team" (/private/comment "here")`)
	expect(t, "one's own, from elsewhere", bob.told(1), `* METADATA "Other Users/alice/Team" /private/comment`)
	alice.ok("RENAME Team Crew")
	expect(t, "rename", bob.told(1), `* LIST (\HasChildren) "/" "Other Users/alice/Crew" ("OLDNAME" ("Other Users/alice/Team"))`)
	alice.ok("DELETE Crew/Sub")
	expect(t, "delete", bob.told(2), `* LIST (\NonExistent \HasNoChildren) "/" "Other Users/alice/Crew/Sub"`, `* LIST (\HasNoChildren) "/" "Other Users/alice/Crew"`)
}

// TestNotifyNewSharer: an account that begins to share is found; the selected
// mailbox of somebody else is told of, too; and so are public ones.
func TestNotifyNewSharer(t *testing.T) {
	t.Parallel()
	s := startServer(t, sharingConfig())
	alice, bob := s.login("alice"), s.login("bob")
	bob.ok("CREATE Shared/All")
	bob.ok(`NOTIFY SET (selected (MessageNew (UID) MessageExpunge)) (subtree "Other Users" (MessageNew MessageExpunge MailboxName)) (mailboxes Shared/All (MessageNew MessageExpunge))`)
	alice.ok("SETACL INBOX bob lr")
	expect(t, "granted", bob.told(2), `* LIST (\HasNoChildren) "/" "Other Users/alice/INBOX"`, `* LIST (\NonExistent \HasChildren) "/" "Other Users/alice"`)
	alice.append("INBOX", "", message("one", "x"))
	expect(t, "watched", withoutValidity(bob.told(1)), `* STATUS "Other Users/alice/INBOX" (MESSAGES 1 UIDNEXT 2 UIDVALIDITY UNSEEN 1)`)
	bob.ok(`SELECT "Other Users/alice/INBOX"`)
	alice.append("INBOX", "", message("two", "x"))
	expect(t, "selected", bob.told(2), "* 2 EXISTS", "* 2 FETCH (UID 2)")
	s.deliver("public", "All", "1")
	expect(t, "public", withoutValidity(bob.told(1)), `* STATUS Shared/All (MESSAGES 1 UIDNEXT 2 UIDVALIDITY UNSEEN 1)`)
	bob.ok("NOTIFY SET (selected (MessageNew MessageExpunge))")
	alice.append("INBOX", "", message("three", "x"))
	expect(t, "selected alone", bob.told(1), "* 3 EXISTS")
}
