package imapd

import (
	"fmt"
	"strings"
	"testing"
)

// TestMetadata: the dialogues of RFC 5464.
func TestMetadata(t *testing.T) {
	t.Parallel()
	s := startServer(t, sharingConfig())
	alice, bob := s.login("alice"), s.login("bob")
	alice.ok(`SETMETADATA INBOX (/private/comment "My comment" /shared/COMMENT {6+}` + "\r\nS\r\nha\" /shared/vendor/a/b \"x\" /shared/vendor/a/b/c \"long value\")")
	expect(t, "one", alice.ok(`GETMETADATA "INBOX" /private/Comment`), `* METADATA INBOX (/private/comment "My comment")`)
	expect(t, "several", alice.ok(`GETMETADATA INBOX (/private/comment /shared/comment /private/none)`),
		"* METADATA INBOX (/private/comment \"My comment\" /shared/comment {6}\r\nS\r\nha\" /private/none NIL)")
	expect(t, "depth 0", alice.ok(`GETMETADATA (DEPTH 0) INBOX /shared/vendor/a`), `* METADATA INBOX (/shared/vendor/a NIL)`)
	expect(t, "depth 1", alice.ok(`GETMETADATA (DEPTH 1) INBOX /shared/vendor/a`), `* METADATA INBOX (/shared/vendor/a/b "x")`)
	expect(t, "all of it", alice.ok(`GETMETADATA INBOX (DEPTH infinity) (/shared/vendor/a)`),
		`* METADATA INBOX (/shared/vendor/a/b "x" /shared/vendor/a/b/c "long value")`)
	expect(t, "all that is private", alice.ok(`GETMETADATA (DEPTH infinity) INBOX (/private)`), `* METADATA INBOX (/private/comment "My comment")`)
	if _, tagged := alice.cmd(`GETMETADATA INBOX /private`); !strings.HasPrefix(tagged, "BAD") {
		t.Errorf("the root by itself: %s", tagged)
	}
	lines, tagged := alice.cmd(`GETMETADATA (MAXSIZE 5 DEPTH infinity) INBOX /shared/vendor`)
	expect(t, "small ones", lines, `* METADATA INBOX (/shared/vendor/a/b "x")`)
	if !strings.HasPrefix(tagged, "OK [METADATA LONGENTRIES 10]") {
		t.Errorf("GETMETADATA: %s", tagged)
	}
	alice.ok(`SETMETADATA INBOX (/shared/vendor/a/b NIL /private/empty "")`)
	expect(t, "removed", alice.ok(`GETMETADATA INBOX (/shared/vendor/a/b /private/empty)`),
		`* METADATA INBOX (/shared/vendor/a/b NIL /private/empty "")`)

	// They go with the mailbox.
	alice.ok("CREATE Work")
	alice.ok(`SETMETADATA Work (/private/comment "mine" /shared/comment "ours")`)
	alice.ok("RENAME Work Play")
	expect(t, "renamed", alice.ok(`GETMETADATA Play (/private/comment /shared/comment)`),
		`* METADATA Play (/private/comment "mine" /shared/comment "ours")`)
	alice.ok("CREATE Work")
	expect(t, "another one", alice.ok(`GETMETADATA Work /shared/comment`), `* METADATA Work (/shared/comment NIL)`)

	// The server's.
	alice.ok(`SETMETADATA "" (/private/vendor/x "1")`)
	alice.fails(`SETMETADATA "" (/shared/comment "x")`, "NO [NOPERM]")
	expect(t, "server", alice.ok(`GETMETADATA "" (/private/vendor/x /shared/comment)`), `* METADATA "" (/private/vendor/x "1" /shared/comment NIL)`)
	expect(t, "bob's", bob.ok(`GETMETADATA "" /private/vendor/x`), `* METADATA "" (/private/vendor/x NIL)`)

	// Private ones are private, also in somebody else's mailbox.
	name := `"Other Users/alice/Play"`
	bob.fails("GETMETADATA "+name+" /shared/comment", "NO [NONEXISTENT]")
	alice.ok("SETACL Play bob l")
	bob.fails("GETMETADATA "+name+" /shared/comment", "NO [NOPERM]")
	alice.ok("SETACL Play bob lr")
	expect(t, "what bob sees", bob.ok("GETMETADATA "+name+" (/private/comment /shared/comment)"),
		`* METADATA `+name+` (/private/comment NIL /shared/comment "ours")`)
	bob.fails("SETMETADATA "+name+` (/shared/comment "x")`, "NO [NOPERM]")
	bob.ok("SETMETADATA " + name + ` (/private/comment "bob's")`)
	expect(t, "bob's own", bob.ok("GETMETADATA "+name+" /private/comment"), `* METADATA `+name+` (/private/comment "bob's")`)
	expect(t, "alice's own", alice.ok("GETMETADATA Play /private/comment"), `* METADATA Play (/private/comment "mine")`)
	alice.ok("SETACL Play bob +w")
	bob.ok("SETMETADATA " + name + ` (/shared/comment "all of ours" /private/comment NIL)`)
	expect(t, "changed by bob", alice.ok("GETMETADATA Play (DEPTH infinity) (/shared /private)"[:len("GETMETADATA Play (DEPTH infinity) ")]+"(/shared/comment)"),
		`* METADATA Play (/shared/comment "all of ours")`)
}

func TestMetadataLimits(t *testing.T) {
	t.Parallel()
	alice := startServer(t, testConfig()).login("alice")
	for _, bad := range []string{
		"GETMETADATA INBOX /comment", "GETMETADATA INBOX /private/", "GETMETADATA INBOX /private//x", "GETMETADATA INBOX /shared/*",
		"GETMETADATA INBOX /shared/%", "GETMETADATA INBOX", "GETMETADATA INBOX ()", "GETMETADATA (DEPTH 2) INBOX /shared/x",
		"GETMETADATA (SIZE 2) INBOX /shared/x", "SETMETADATA INBOX ()", "SETMETADATA INBOX (/shared/x)", "SETMETADATA INBOX (/shared/x 5)",
		"SETMETADATA INBOX (/shared/x NIL /shared/X NIL)",
	} {
		alice.fails(bad, "BAD")
	}
	alice.fails("GETMETADATA nothing /shared/x", "NO [NONEXISTENT]")
	value := strings.Repeat("v", maxMetadataOctets)
	alice.ok(fmt.Sprintf("SETMETADATA INBOX (/shared/x {%d+}\r\n%s)", len(value), value))
	alice.fails(fmt.Sprintf("SETMETADATA INBOX (/private/y \"1\" /shared/x {%d+}\r\n%sv)", len(value)+1, value), "NO [METADATA MAXSIZE 32768]")
	expect(t, "nothing of it is done", alice.ok("GETMETADATA INBOX /private/y"), "* METADATA INBOX (/private/y NIL)")
	if lines := alice.ok("GETMETADATA INBOX /shared/x"); len(lines) != 1 || !strings.Contains(lines[0], value) {
		t.Errorf("%d lines", len(lines))
	}
	for i := range 15 {
		var b strings.Builder
		for k := range 70 {
			fmt.Fprintf(&b, " /private/e%d-%d \"\"", i, k)
		}
		command := "SETMETADATA INBOX (" + b.String()[1:] + ")"
		if i < 14 {
			alice.ok(command)
		} else {
			alice.fails(command, "NO [METADATA TOOMANY]")
		}
	}
}

// TestListMetadata: RFC 9590.
func TestListMetadata(t *testing.T) {
	t.Parallel()
	alice := startServer(t, testConfig()).login("alice")
	alice.ok(`SETMETADATA Sent (/shared/vendor/cmu/cyrus-imapd/color "#b71c1c")`)
	expect(t, "colours", alice.ok(`LIST "" (Sent Junk) RETURN (METADATA (/shared/vendor/cmu/cyrus-imapd/color) SPECIAL-USE)`),
		`* LIST (\HasNoChildren \Junk) "/" Junk`, `* METADATA Junk (/shared/vendor/cmu/cyrus-imapd/color NIL)`,
		`* LIST (\HasNoChildren \Sent) "/" Sent`, `* METADATA Sent (/shared/vendor/cmu/cyrus-imapd/color "#b71c1c")`)
	alice.fails(`LIST "" * RETURN (METADATA)`, "BAD")
}
