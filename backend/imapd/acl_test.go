package imapd

import (
	"fmt"
	"strings"
	"testing"

	"github.com/postern-mail/postern/mail"
)

// TestACLCommands: the dialogues of RFC 4314.
func TestACLCommands(t *testing.T) {
	t.Parallel()
	s := startServer(t, sharingConfig())
	alice, bob := s.login("alice"), s.login("bob")
	alice.ok("CREATE Drafts/x")
	name := `"Other Users/alice/Drafts/x"`
	const all = "lrswipkxteacd"

	expect(t, "the owner's list", alice.ok("GETACL Drafts/x"), "* ACL Drafts/x alice "+all)
	expect(t, "the owner's rights", alice.ok("MYRIGHTS Drafts/x"), "* MYRIGHTS Drafts/x "+all)
	bob.fails("MYRIGHTS "+name, "NO [NONEXISTENT]")

	alice.ok("SETACL Drafts/x bob lr")
	expect(t, "bob's rights", bob.ok("MYRIGHTS "+name), "* MYRIGHTS "+name+" lr")
	alice.ok("SETACL Drafts/x bob +cda") // a client of RFC 2086
	expect(t, "added", alice.ok("GETACL Drafts/x"), "* ACL Drafts/x alice "+all+" bob lrkxteacd")
	alice.ok("SETACL Drafts/x bob -tkxr")
	expect(t, "taken away", bob.ok("GETACL "+name), "* ACL "+name+" alice "+all+" bob lead")
	bob.ok("SETACL " + name + " anyone lr")
	bob.ok("SETACL " + name + " -bob r")
	expect(t, "negative rights count", bob.ok("MYRIGHTS "+name), "* MYRIGHTS "+name+" lead")
	bob.ok("SETACL " + name + ` $staff ""`)
	expect(t, "whole list", bob.ok("GETACL "+name), "* ACL "+name+" $staff \"\" -bob r alice "+all+" anyone lr bob lead")
	bob.ok("DELETEACL " + name + " -bob")
	bob.ok("DELETEACL " + name + " $staff")
	expect(t, "union", bob.ok("MYRIGHTS "+name), "* MYRIGHTS "+name+" lread")

	expect(t, "what can be granted", alice.ok("LISTRIGHTS Drafts/x bob"), `* LISTRIGHTS Drafts/x bob "" l r s w i p k x t e a c d`)
	expect(t, "what the owner has anyway", alice.ok("LISTRIGHTS Drafts/x alice"), `* LISTRIGHTS Drafts/x alice la r s w i p k x t e c d`)

	// Nobody takes the owner's right to mend the list.
	bob.ok("SETACL " + name + " alice r")
	bob.ok("SETACL " + name + " -alice lrswipkxtea")
	expect(t, "what is left to the owner", alice.ok("MYRIGHTS Drafts/x"), "* MYRIGHTS Drafts/x la")
	alice.fails("SELECT Drafts/x", "NO [NOPERM]")
	alice.ok("DELETEACL Drafts/x -alice")
	alice.ok("SETACL Drafts/x alice " + all)
	alice.ok("SELECT Drafts/x")

	alice.fails("SETACL Drafts/x bob lrz", "BAD")
	alice.fails("SETACL Drafts/x bob", "BAD")
	alice.fails(`SETACL Drafts/x "" lr`, "NO")
	alice.fails("SETACL Drafts/x stranger lr", "NO No such user")
	alice.fails("SETACL Drafts/x nobody@example.com lr", "NO No such user")
	alice.ok("SETACL Drafts/x robert@example.com lra") // is bob
	expect(t, "by address", bob.ok("MYRIGHTS "+name), "* MYRIGHTS "+name+" lra")
	alice.fails("SETACL Drafts/x down lr", "NO [UNAVAILABLE]")
	alice.fails("GETACL Nothing", "NO [NONEXISTENT]")
	bob.ok("DELETEACL " + name + " bob")
	bob.fails("GETACL "+name, "NO [NOPERM]") // anyone has l
	bob.fails("SETACL "+name+" bob lra", "NO [NOPERM]")
	bob.fails("LISTRIGHTS "+name+" bob", "NO [NOPERM]")
	alice.ok("DELETEACL Drafts/x anyone")
	for _, command := range []string{"GETACL " + name, "MYRIGHTS " + name, "SETACL " + name + " bob lra", "LISTRIGHTS " + name + " bob", "DELETEACL " + name + " alice"} {
		bob.fails(command, "NO [NONEXISTENT] No such mailbox")
	}
	refused, done := false, false
	for _, e := range s.audit.Find(mail.EventMailbox) {
		if e.Login == "bob" && e.Owner == "alice" && strings.HasPrefix(e.Detail, "set rights of ") {
			refused = refused || e.Result == "refused"
			done = done || e.Result == "ok" && e.Detail == `set rights of anyone to "lr"`
		}
	}
	if !refused || !done {
		t.Errorf("audit: %+v", s.audit.Find(mail.EventMailbox))
	}
}

// TestRightsAreInherited: a new mailbox has the list of the one above it, and
// a renamed one keeps its own.
func TestRightsAreInherited(t *testing.T) {
	t.Parallel()
	s := startServer(t, sharingConfig())
	alice, bob := s.login("alice"), s.login("bob")
	alice.ok("CREATE Work")
	alice.ok("SETACL Work bob lrk")
	alice.ok("CREATE Work/a/b") // "Work/a" is no mailbox
	expect(t, "inherited", alice.ok("GETACL Work/a/b"), "* ACL Work/a/b alice lrswipkxteacd bob lrkc")
	bob.ok(`CREATE "Other Users/alice/Work/c"`)
	alice.ok("SETACL Work bob \"\"")
	expect(t, "a list of its own", bob.ok(`MYRIGHTS "Other Users/alice/Work/c"`), `* MYRIGHTS "Other Users/alice/Work/c" lrkc`)
	alice.ok("RENAME Work/c Elsewhere")
	expect(t, "kept by a rename", bob.ok(`MYRIGHTS "Other Users/alice/Elsewhere"`), `* MYRIGHTS "Other Users/alice/Elsewhere" lrkc`)
	alice.ok("DELETE Elsewhere")
	alice.ok("CREATE Elsewhere")
	bob.fails(`MYRIGHTS "Other Users/alice/Elsewhere"`, "NO [NONEXISTENT]")
}

// TestListMyRights: RFC 8440.
func TestListMyRights(t *testing.T) {
	t.Parallel()
	s := startServer(t, sharingConfig())
	alice, bob := s.login("alice"), s.login("bob")
	alice.ok("CREATE Work/Sub")
	alice.ok("SETACL Work/Sub bob lri")
	expect(t, "rights", bob.ok(`LIST "" ("Sent" "Other Users/alice/*") RETURN (MYRIGHTS CHILDREN)`),
		`* LIST (\NonExistent \HasChildren) "/" "Other Users/alice/Work"`,
		`* LIST (\HasNoChildren) "/" "Other Users/alice/Work/Sub"`,
		`* MYRIGHTS "Other Users/alice/Work/Sub" lri`,
		`* LIST (\HasNoChildren \Sent) "/" Sent`,
		`* MYRIGHTS Sent lrswipkxteacd`)
	if lines := bob.ok("CAPABILITY"); !anyHas(lines, " ACL RIGHTS=kxte LIST-MYRIGHTS") {
		t.Errorf("capabilities %q", lines)
	}
	plain := startServer(t, testConfig()).login("bob")
	if lines := plain.ok("CAPABILITY"); anyHas(lines, "ACL") || anyHas(lines, "RIGHTS") {
		t.Errorf("capabilities without sharing %q", lines)
	}
}

// TestSeparator: clients that are told of "." never see a "/" between levels,
// and what had dots in its name is still reached.
func TestSeparator(t *testing.T) {
	t.Parallel()
	st := openStore(t)
	slash := startServerOn(t, testConfig(), st).login("alice")
	slash.ok("CREATE example.com/old")
	cfg := sharingConfig()
	cfg.Separator = "."
	s := startServerOn(t, cfg, st)
	alice, bob := s.login("alice"), s.login("bob")
	expect(t, "namespaces", alice.ok("NAMESPACE"), `* NAMESPACE (("" ".")) (("Other Users." ".")) (("Shared." "."))`)
	expect(t, "root", alice.ok(`LIST "" ""`), `* LIST (\Noselect) "." ""`)
	alice.ok("CREATE inbox.Sub.Sub")
	expect(t, "levels", alice.ok(`LIST "INBOX." %.%`), `* LIST (\HasNoChildren) "." INBOX.Sub.Sub`)
	expect(t, "a dot", alice.ok(`LIST "" example/com.%`), `* LIST (\HasNoChildren) "." example/com.old`)
	alice.ok("SETACL example/com.old bob lr")
	expect(t, "shared", bob.ok(`LIST "" "Other Users.alice.*"`),
		`* LIST (\NonExistent \Noselect \HasChildren) "." "Other Users.alice.example/com"`,
		`* LIST (\HasNoChildren) "." "Other Users.alice.example/com.old"`)
	bob.ok(`SELECT "Other Users.alice.example/com.old"`)
	alice.append("INBOX.Sub.Sub", "", message("one", "hello"))
	if got := alice.multi("IN (mailboxes inbox.Sub.Sub subtree-one INBOX.Sub) ALL"); len(got) != 1 || got[0] != "INBOX.Sub.Sub ALL 1" {
		t.Errorf("found in %q", got)
	}
	expect(t, "stored", slash.ok(`LIST "" INBOX/*`),
		`* LIST (\NonExistent \Noselect \HasChildren) "/" INBOX/Sub`, `* LIST (\HasNoChildren) "/" INBOX/Sub/Sub`)
}

// TestNamespacesMustMakeSense: what cannot work is refused at the start.
func TestNamespacesMustMakeSense(t *testing.T) {
	t.Parallel()
	for _, bad := range []Sharing{
		{Others: "INBOX"}, {Others: "a*"}, {Others: "a/"}, {Others: "/a"},
		{Others: "Shared", Public: []Public{{Name: "Shared", Account: "p"}}},
		{Others: "Shared", Public: []Public{{Name: "Shared/x", Account: "p"}}},
		{Public: []Public{{Name: "Shared"}}},
		{Public: []Public{{Name: "A", Account: "p"}, {Name: "B", Account: "p"}}},
	} {
		cfg := testConfig()
		cfg.Sharing = bad
		if _, err := cfg.withDefaults(); err == nil {
			t.Errorf("%+v is taken", bad)
		}
	}
	cfg := testConfig()
	cfg.Separator = "|"
	if _, err := cfg.withDefaults(); err == nil {
		t.Error("a separator nobody can use is taken")
	}
}

// TestManySharers: who shares is found without looking at everybody.
func TestManySharers(t *testing.T) {
	t.Parallel()
	s := startServer(t, sharingConfig())
	for i := range 30 {
		s.share(fmt.Sprintf("user%d", i), "INBOX", "anyone", "lr")
	}
	bob := s.login("bob")
	if lines := bob.ok(`LIST "" "Other Users/%/INBOX"`); len(lines) != 30 {
		t.Errorf("%d mailboxes: %q", len(lines), lines)
	}
	bob.ok(`STATUS "Other Users/user7/INBOX" (MESSAGES)`)
}
