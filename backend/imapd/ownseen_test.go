package imapd

import (
	"fmt"
	"strings"
	"testing"
)

// publicServer has a public mailbox with three messages, in which alice may do
// nearly everything and bob all.
func publicServer(t *testing.T, shared bool) *server {
	t.Helper()
	cfg := sharingConfig()
	cfg.Sharing.SeenShared = shared
	s := startServer(t, cfg)
	bob := s.login("bob")
	bob.ok("CREATE Shared/News")
	bob.ok("SETACL Shared/News alice lrswite")
	for _, subject := range []string{"one", "two", "three"} {
		bob.append("Shared/News", "", message(subject, "hello"))
	}
	bob.ok("LOGOUT")
	return s
}

// modSeqIn finds the number behind a word in untagged responses.
func modSeqIn(t *testing.T, lines []string, word string) (n uint64) {
	t.Helper()
	for _, l := range lines {
		if _, rest, ok := strings.Cut(l, word+" "); ok {
			if _, err := fmt.Sscan(strings.TrimLeft(rest, "("), &n); err == nil || n > 0 {
				return n
			}
			fmt.Sscanf(strings.TrimLeft(rest, "("), "%d", &n)
			return n
		}
	}
	t.Fatalf("no %s in %q", word, lines)
	return 0
}

// TestSeenIsOnesOwn: every command sees the client's own \Seen in a mailbox of
// others, and others are told nothing of it.
func TestSeenIsOnesOwn(t *testing.T) {
	t.Parallel()
	s := publicServer(t, false)
	alice, bob, again := s.login("alice"), s.login("bob"), s.login("alice")
	for _, c := range []*client{alice, bob, again} {
		c.ok("SELECT Shared/News")
	}
	alice.ok("FETCH 2 (BODY[TEXT])")
	expect(t, "the reader's other session", again.ok("NOOP"), `* 2 FETCH (FLAGS (\Seen))`)
	expect(t, "others", bob.ok("NOOP"))
	expect(t, "FLAGS", alice.ok("FETCH 1:* FLAGS"), `* 1 FETCH (FLAGS ())`, `* 2 FETCH (FLAGS (\Seen))`, `* 3 FETCH (FLAGS ())`)
	expect(t, "FLAGS of others", bob.ok("FETCH 2 FLAGS"), `* 2 FETCH (FLAGS ())`)
	expect(t, "STORE", alice.ok(`STORE 3 +FLAGS (\Seen \Flagged)`), `* 3 FETCH (FLAGS (\Seen \Flagged))`)
	expect(t, "what is not \\Seen is everybody's", bob.ok("NOOP"), `* 3 FETCH (FLAGS (\Flagged))`)
	expect(t, "SEARCH SEEN", alice.ok("SEARCH SEEN"), "* SEARCH 2 3")
	expect(t, "SEARCH UNSEEN", bob.ok("SEARCH UNSEEN"), "* SEARCH 1 2 3")
	expect(t, "SORT", alice.ok("SORT (REVERSE ARRIVAL) UTF-8 UNSEEN"), "* SORT 1")
	expect(t, "THREAD", alice.ok("THREAD ORDEREDSUBJECT UTF-8 SEEN"), "* THREAD (2)(3)")
	expect(t, "STATUS", alice.ok("STATUS Shared/News (MESSAGES UNSEEN)"), "* STATUS Shared/News (MESSAGES 3 UNSEEN 1)")
	expect(t, "STATUS of others", bob.ok("STATUS Shared/News (UNSEEN)"), "* STATUS Shared/News (UNSEEN 3)")
	expect(t, "LIST-STATUS", alice.ok(`LIST "" Shared/News RETURN (STATUS (UNSEEN))`),
		`* LIST (\HasNoChildren) "/" Shared/News`, "* STATUS Shared/News (UNSEEN 1)")

	alice.ok("COPY 1:3 INBOX")
	alice.ok("EXAMINE INBOX")
	expect(t, "COPY out", alice.ok("SEARCH SEEN"), "* SEARCH 2 3")
	alice.ok("SELECT INBOX")
	alice.ok("MOVE 2 Shared/News")
	alice.append("Shared/News", `\Seen`, message("four", "hello"))
	expect(t, "what came in", bob.ok("NOOP"), "* 5 EXISTS")
	expect(t, "is unread for others", bob.ok("SEARCH UNSEEN"), "* SEARCH 1 2 3 4 5")
	alice.ok("SELECT Shared/News")
	expect(t, "and read for who put it there", alice.ok("SEARCH SEEN"), "* SEARCH 2 3 4 5")
	again.ok("NOOP")
	expect(t, "expunge", func() []string { bob.ok(`STORE 2 +FLAGS.SILENT (\Deleted)`); return bob.ok("EXPUNGE") }(), "* 2 EXPUNGE")
	expect(t, "expunge elsewhere", alice.ok("NOOP"), "* 2 EXPUNGE")
	expect(t, "the rest", alice.ok("SEARCH SEEN"), "* SEARCH 2 3 4")
}

// TestSeenOfOwner: what is shared from an account has the owner's \Seen stored
// with it; who gets to see it begins with everything unread.
func TestSeenOfOwner(t *testing.T) {
	t.Parallel()
	s := startServer(t, sharingConfig())
	alice, bob := s.login("alice"), s.login("bob")
	alice.append("INBOX", `\Seen`, message("one", "hello"))
	s.share("alice", "INBOX", "bob", "lrs")
	alice.ok("SELECT INBOX")
	bob.ok(`SELECT "Other Users/alice/INBOX"`)
	expect(t, "at first", bob.ok("SEARCH UNSEEN"), "* SEARCH 1")
	alice.ok(`STORE 1 -FLAGS (\Seen)`)
	expect(t, "the other", bob.ok(`STORE 1 +FLAGS (\Seen)`), `* 1 FETCH (FLAGS (\Seen))`)
	expect(t, "the owner", alice.ok("NOOP"))
	expect(t, "the owner's", alice.ok("SEARCH UNSEEN"), "* SEARCH 1")
	s.share("alice", "INBOX", "bob", "lr")
	bob.fails(`STORE 1 -FLAGS (\Seen)`, "NO [NOPERM]")
	bob.ok("FETCH 1 BODY[]")
	expect(t, "without the right", bob.ok("SEARCH SEEN"), "* SEARCH 1")
}

// TestSeenIsShared: where the configuration says so, \Seen is one for all.
func TestSeenIsShared(t *testing.T) {
	t.Parallel()
	s := publicServer(t, true)
	alice, bob := s.login("alice"), s.login("bob")
	alice.ok("SELECT Shared/News")
	bob.ok("SELECT Shared/News")
	alice.ok(`STORE 1 +FLAGS (\Seen)`)
	expect(t, "the other", bob.ok("NOOP"), `* 1 FETCH (FLAGS (\Seen))`)
	expect(t, "STATUS", bob.ok("STATUS Shared/News (UNSEEN)"), "* STATUS Shared/News (UNSEEN 2)")
}

// TestSeenIsResynchronized: CONDSTORE and QRESYNC tell the reader of its own
// changes, and others of none.
func TestSeenIsResynchronized(t *testing.T) {
	t.Parallel()
	s := publicServer(t, false)
	alice, bob, again := s.login("alice"), s.login("bob"), s.login("alice")
	for _, c := range []*client{alice, bob, again} {
		c.ok("ENABLE QRESYNC")
	}
	selected := alice.ok("SELECT Shared/News")
	validity, before := modSeqIn(t, selected, "[UIDVALIDITY"), modSeqIn(t, selected, "[HIGHESTMODSEQ")
	bob.ok("SELECT Shared/News")
	stored := modSeqIn(t, alice.ok(`UID STORE 2 +FLAGS (\Seen)`), "MODSEQ")
	if stored <= before {
		t.Errorf("MODSEQ %d after %d", stored, before)
	}
	resync := fmt.Sprintf("SELECT Shared/News (QRESYNC (%d %d))", validity, before)
	expect(t, "what the reader missed", fetches(again.ok(resync)), fmt.Sprintf(`* 2 FETCH (UID 2 FLAGS (\Seen) MODSEQ (%d))`, stored))
	expect(t, "what another missed", fetches(bob.ok(resync)))
	if now := modSeqIn(t, bob.ok("STATUS Shared/News (HIGHESTMODSEQ)"), "HIGHESTMODSEQ"); now != before {
		t.Errorf("another has HIGHESTMODSEQ %d, had %d", now, before)
	}
	if now := modSeqIn(t, again.ok("STATUS Shared/News (HIGHESTMODSEQ)"), "HIGHESTMODSEQ"); now != stored {
		t.Errorf("the reader has HIGHESTMODSEQ %d, want %d", now, stored)
	}
	expect(t, "CHANGEDSINCE", alice.ok(fmt.Sprintf("UID FETCH 1:* (FLAGS) (CHANGEDSINCE %d)", before)),
		fmt.Sprintf(`* 2 FETCH (UID 2 FLAGS (\Seen) MODSEQ (%d))`, stored))
	_, tagged := again.cmd(fmt.Sprintf(`UID STORE 1:3 (UNCHANGEDSINCE %d) +FLAGS.SILENT (\Seen)`, before))
	if !strings.HasPrefix(tagged, "OK [MODIFIED 2]") {
		t.Errorf("UNCHANGEDSINCE: %s", tagged)
	}
	alice.ok("NOOP")
	expect(t, "all are read", alice.ok("UID SEARCH UNSEEN"), "* SEARCH")
	bob.append("Shared/News", "", message("four", "hello"))
	expect(t, "what comes later", alice.ok("NOOP"), "* 4 EXISTS")
}

// fetches are the FETCH responses among others.
func fetches(lines []string) (some []string) {
	for _, l := range lines {
		if strings.Contains(l, " FETCH (") {
			some = append(some, l)
		}
	}
	return some
}

// TestSeenInIdle: a client in IDLE is told what the same person reads elsewhere.
func TestSeenInIdle(t *testing.T) {
	t.Parallel()
	s := publicServer(t, false)
	alice, again := s.login("alice"), s.login("alice")
	alice.ok("SELECT Shared/News")
	again.ok("SELECT Shared/News")
	again.send("i1 IDLE\r\n")
	if line := again.line(); !strings.HasPrefix(line, "+") {
		t.Fatal(line)
	}
	alice.ok(`STORE 3 +FLAGS.SILENT (\Seen)`)
	expect(t, "IDLE", []string{again.line()}, `* 3 FETCH (FLAGS (\Seen))`)
	again.send("DONE\r\n")
	if line := again.line(); !strings.HasPrefix(line, "i1 OK") {
		t.Error(line)
	}
}

// TestSeenContexts: a search with UPDATE follows the reader's own \Seen.
func TestSeenContexts(t *testing.T) {
	t.Parallel()
	s := publicServer(t, false)
	alice, again := s.login("alice"), s.login("alice")
	alice.ok("SELECT Shared/News")
	again.ok("SELECT Shared/News")
	again.ok("SEARCH RETURN (UPDATE ALL) UNSEEN")
	alice.ok(`STORE 3 +FLAGS.SILENT (\Seen)`)
	lines := again.ok("NOOP")
	if len(lines) != 2 || !strings.HasSuffix(lines[1], "REMOVEFROM (0 3)") {
		t.Errorf("got %q", lines)
	}
}
