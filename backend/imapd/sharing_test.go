package imapd

import (
	"strings"
	"testing"

	"github.com/postern-mail/postern/backend/mailstore/acl"
	"github.com/postern-mail/postern/mail"
)

// sharingConfig has other people's mailboxes and one public namespace, which
// bob administers.
func sharingConfig() Config {
	cfg := testConfig()
	cfg.Sharing = Sharing{
		Others: "Other Users",
		Public: []Public{{Name: "Shared", Account: "public", Access: acl.List{
			{Identifier: "anyone", Rights: acl.Lookup | acl.Read}, {Identifier: "bob", Rights: acl.All},
		}}},
	}
	return cfg
}

// share gives an identifier rights in a mailbox of an account.
func (s *server) share(account, mailbox, identifier, rights string) {
	s.t.Helper()
	a, err := s.store.Account(s.t.Context(), mail.Account{Name: account})
	if err != nil {
		s.t.Fatal(err)
	}
	defer a.Close()
	m, err := a.Find(mailbox)
	if err != nil {
		s.t.Fatal(err)
	}
	r, err := acl.Parse(rights)
	if err != nil {
		s.t.Fatal(err)
	}
	if err := a.SetAccess(s.t.Context(), m.GUID, identifier, &r); err != nil {
		s.t.Fatal(err)
	}
}

// TestNothingIsSharedByDefault: without configuration there are no namespaces
// of others, and names that look like theirs are ordinary ones.
func TestNothingIsSharedByDefault(t *testing.T) {
	t.Parallel()
	s := startServer(t, testConfig())
	alice := s.login("alice")
	expect(t, "namespaces", alice.ok("NAMESPACE"), `* NAMESPACE (("" "/")) NIL NIL`)
	alice.ok(`CREATE "Other Users/bob/x"`)
	s.share("alice", "INBOX", "bob", "lr")
	bob := s.login("bob")
	bob.fails(`SELECT "Other Users/alice/INBOX"`, "NO [NONEXISTENT]")
}

// TestSharedMailboxIsUsed: what one shares the other sees, lists and reads, as
// far as the rights go.
func TestSharedMailboxIsUsed(t *testing.T) {
	t.Parallel()
	s := startServer(t, sharingConfig())
	alice, bob := s.login("alice"), s.login("bob")
	expect(t, "namespaces", bob.ok("NAMESPACE"), `* NAMESPACE (("" "/")) (("Other Users/" "/")) (("Shared/" "/"))`)
	alice.append("INBOX", "", message("one", "hello"))
	alice.ok("CREATE Work")
	alice.ok("CREATE Work/Secret")
	s.share("alice", "Work", "bob", "lrs")
	alice.append("Work", "", message("two", "hello"))

	expect(t, "list", bob.ok(`LIST "" "Other*"`),
		`* LIST (\NonExistent \Noselect \HasChildren) "/" "Other Users"`,
		`* LIST (\NonExistent \Noselect \HasChildren) "/" "Other Users/alice"`,
		`* LIST (\HasNoChildren) "/" "Other Users/alice/Work"`)
	expect(t, "list of one level", bob.ok(`LIST "" "Other Users/%"`),
		`* LIST (\NonExistent \Noselect \HasChildren) "/" "Other Users/alice"`)
	for _, hidden := range []string{"INBOX", "Work/Secret", "Nothing"} {
		name := `"Other Users/alice/` + hidden + `"`
		bob.fails("SELECT "+name, "NO [NONEXISTENT] No such mailbox")
		bob.fails("STATUS "+name+" (MESSAGES)", "NO [NONEXISTENT] No such mailbox")
		bob.fails("DELETE "+name, "NO [NONEXISTENT] No such mailbox")
		bob.fails("RENAME "+name+" x", "NO [")
		bob.fails("CREATE "+name, "NO [NOPERM]")
	}
	bob.fails(`CREATE "Other Users/nobody/x"`, "NO [NOPERM]")
	bob.fails(`CREATE "Other Users/alice"`, "NO [NOPERM]")
	bob.fails(`SELECT "Other Users/alice"`, "NO [NONEXISTENT]")
	bob.fails(`SELECT "Other Users/bob/INBOX"`, "NO [NONEXISTENT]")

	lines, tagged := bob.cmd(`SELECT "Other Users/alice/Work"`)
	if !strings.HasPrefix(tagged, "OK [READ-WRITE]") || !anyHas(lines, `[PERMANENTFLAGS (\Seen)]`) {
		t.Errorf("SELECT: %q %s", lines, tagged)
	}
	bob.fails(`STORE 1 +FLAGS (\Deleted)`, "NO [NOPERM]")
	bob.fails("EXPUNGE", "NO [NOPERM]")
	expect(t, "flags that may be changed are", bob.ok(`STORE 1 FLAGS (\Seen \Flagged x)`), `* 1 FETCH (FLAGS (\Seen))`)
	bob.fails(`MOVE 1 INBOX`, "NO [NOPERM]")
	bob.ok("COPY 1 INBOX")
	bob.fails(`APPEND "Other Users/alice/Work" {3+}`+"\r\nabc", "NO [NOPERM]")
	bob.fails(`DELETE "Other Users/alice/Work"`, "NO [NOPERM]")
	bob.fails(`RENAME "Other Users/alice/Work" "Other Users/alice/Play"`, "NO [NOPERM]")

	// Rights that go away count at once.
	s.share("alice", "Work", "bob", "l")
	bob.fails("FETCH 1 FLAGS", "NO [NOPERM]")
	alice.append("Work", "", message("three", "hello"))
	expect(t, "what happens there is not told", bob.ok("NOOP"))
	bob.ok("CLOSE")
}

func anyHas(lines []string, part string) bool {
	for _, l := range lines {
		if strings.Contains(l, part) {
			return true
		}
	}
	return false
}

// TestSharedMailboxIsChanged: with the rights everything works as at home.
func TestSharedMailboxIsChanged(t *testing.T) {
	t.Parallel()
	s := startServer(t, sharingConfig())
	alice, bob := s.login("alice"), s.login("bob")
	alice.ok("CREATE Work")
	s.share("alice", "Work", "bob", "lrswikxte")
	bob.append(`"Other Users/alice/Work"`, `\Flagged`, message("one", "hello"))
	bob.ok(`CREATE "Other Users/alice/Work/Sub"`)
	bob.ok(`RENAME "Other Users/alice/Work/Sub" "Other Users/alice/Work/Below"`)
	bob.fails(`CREATE "Other Users/alice/Elsewhere"`, "NO [NOPERM]")
	bob.ok(`SELECT "Other Users/alice/Work"`)
	bob.ok(`STORE 1 +FLAGS (\Deleted)`)
	bob.ok(`COPY 1 "Other Users/alice/Work/Below"`)
	expect(t, "expunge", bob.ok("EXPUNGE"), "* 1 EXPUNGE")
	bob.ok(`DELETE "Other Users/alice/Work/Below"`)
	expect(t, "alice's", alice.ok(`LIST "" Work*`), `* LIST (\HasNoChildren) "/" Work`)

	bob.ok(`SUBSCRIBE "Other Users/alice/Work"`)
	expect(t, "subscriptions", bob.ok(`LIST (SUBSCRIBED) "" "Other*"`), `* LIST (\HasNoChildren \Subscribed) "/" "Other Users/alice/Work"`)
	expect(t, "not alice's", alice.ok(`LSUB "" Work`))
	found := false
	for _, e := range s.audit.Find(mail.EventExpunge) {
		found = found || e.Login == "bob" && e.Mailbox == "Other Users/alice/Work" && e.Owner == "alice"
	}
	if !found {
		t.Errorf("the audit does not say who expunged: %+v", s.audit.Find(mail.EventExpunge))
	}
}

// TestRenameAcrossAccounts: mailboxes stay in their account, whatever rights
// somebody has, and the answer says what to do. It tells nothing of mailboxes that
// are not to be seen.
func TestRenameAcrossAccounts(t *testing.T) {
	t.Parallel()
	s := startServer(t, sharingConfig())
	alice, bob := s.login("alice"), s.login("bob")
	alice.ok("CREATE Work/Below")
	alice.ok("CREATE Secret")
	alice.ok("CREATE Read")
	bob.ok("CREATE Mine")
	bob.ok("CREATE Shared/News")
	s.share("alice", "Work/Below", "bob", "lrswikxte")
	s.share("alice", "Read", "bob", "lr")
	for _, names := range []string{
		`"Other Users/alice/Work/Below" Moved`, `"Other Users/alice/Work/Below" Shared/Moved`, `"Other Users/alice/Work" Moved`,
		`Mine "Other Users/alice/Work/Below/Moved"`, "Mine Shared/News/Moved", "Shared/News Moved", "INBOX Shared/Moved",
		`"Other Users/alice/Read" Moved`, `"Other Users/alice/Secret" Moved`, `"Other Users/alice/Missing" Moved`,
	} {
		bob.fails("RENAME "+names, "NO [CANNOT] Mailboxes stay in their account: create one there and move the messages")
	}
	expect(t, "what bob sees", bob.ok(`LIST "" (*Moved* Mine *News* *Below)`), `* LIST (\HasNoChildren) "/" Mine`,
		`* LIST (\HasNoChildren) "/" "Other Users/alice/Work/Below"`, `* LIST (\HasNoChildren) "/" Shared/News`)

	// What the answer says works.
	bob.append("Mine", "", message("one", "hello"))
	bob.ok(`CREATE "Other Users/alice/Work/Below/Moved"`)
	bob.ok("SELECT Mine")
	bob.ok(`MOVE 1 "Other Users/alice/Work/Below/Moved"`)
	expect(t, "moved", alice.ok("STATUS Work/Below/Moved (MESSAGES)"), "* STATUS Work/Below/Moved (MESSAGES 1)")
}

// TestPublicNamespace: everybody has the configured rights, and mailboxes made
// there inherit.
func TestPublicNamespace(t *testing.T) {
	t.Parallel()
	s := startServer(t, sharingConfig())
	alice, bob := s.login("alice"), s.login("bob")
	bob.ok("CREATE Shared/News")
	bob.append("Shared/News", "", message("one", "hello"))
	alice.fails("CREATE Shared/Mine", "NO [NOPERM]")
	expect(t, "list", alice.ok(`LIST "" "Shared/N%"`), `* LIST (\HasNoChildren) "/" Shared/News`)
	if _, tagged := alice.cmd("SELECT Shared/News"); !strings.HasPrefix(tagged, "OK [READ-ONLY]") {
		t.Errorf("SELECT: %s", tagged)
	}
	alice.fails(`STORE 1 +FLAGS (\Seen)`, "NO [NOPERM]")
	if lines := alice.ok("FETCH 1 (FLAGS BODY[TEXT])"); anyHas(lines, `\Seen`) {
		t.Errorf("reading changed flags: %q", lines)
	}
	alice.fails("DELETE Shared/News", "NO [NOPERM]")
	s.share("public", "News", "anyone", "")
	alice.fails("SELECT Shared/News", "NO [NONEXISTENT]")
	bob.ok("SELECT Shared/News")
	bob.ok("CREATE Shared/News/Old")
	alice.fails("SELECT Shared/News/Old", "NO [NONEXISTENT]")
}

// TestRenameOfInboxIsReading: it moves messages to where another list holds, so
// that the right to delete a mailbox is not enough.
func TestRenameOfInboxIsReading(t *testing.T) {
	t.Parallel()
	s := startServer(t, sharingConfig())
	alice, bob := s.login("alice"), s.login("bob")
	alice.append("INBOX", "", message("secret", "hello"))
	alice.ok("CREATE Work")
	s.share("alice", "Work", "bob", "lrkxte")
	s.share("alice", "INBOX", "bob", "lx")
	const rename = `RENAME "Other Users/alice/INBOX" "Other Users/alice/Work/all"`
	bob.fails(rename, "NO [NOPERM]")
	s.share("alice", "INBOX", "bob", "x")
	bob.fails(rename, "NO [NONEXISTENT]")
	expect(t, "inbox", alice.ok("STATUS INBOX (MESSAGES)"), "* STATUS INBOX (MESSAGES 1)")
	s.share("alice", "INBOX", "bob", "lrxte")
	bob.ok(rename)
	alice.ok("RENAME INBOX mine")
}
