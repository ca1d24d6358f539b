package imapd

import "testing"

// A client that may not be told of an expunge yet is told of flags all the same.
// What it knows of them then holds: for messages that are expunged in turn, and
// for what a silent STORE need not tell.
func TestKnownBeforeExpungeIsTold(t *testing.T) {
	t.Parallel()
	s := startServer(t, testConfig())
	client, other := s.login("alice"), s.login("alice")
	for range 3 {
		client.append("INBOX", `\Seen`, message("m", "x"))
	}
	other.ok("SELECT INBOX")
	client.ok("SELECT INBOX (CONDSTORE)")

	// Message 1 goes, which shifts numbers, and the last one changes.
	other.ok(`STORE 1 +FLAGS.SILENT (\Deleted)`)
	other.ok("EXPUNGE")
	other.ok(`STORE 2 FLAGS.SILENT (\Flagged)`)
	expect(t, "told", aboutMessages(client.ok("FETCH 2 (UID)")), `* 3 FETCH (FLAGS (\Flagged))`, "* 2 FETCH (UID 2)")

	// What others change back is not what a silent STORE was about.
	other.ok(`STORE 2 FLAGS.SILENT (\Seen)`)
	expect(t, "others' change beside a silent STORE", aboutMessages(client.ok(`STORE 3 +FLAGS.SILENT (\Draft)`)), `* 3 FETCH (FLAGS (\Seen \Draft))`)

	// The last message goes too: it stays as it was told.
	told := client.ok("FETCH 3 (FLAGS MODSEQ)")
	other.ok(`STORE 2 +FLAGS.SILENT (\Deleted)`)
	other.ok("EXPUNGE")
	client.ok("STORE 2 +FLAGS (kw)")
	expect(t, "expunged", client.ok("FETCH 3 (FLAGS MODSEQ)"), told...)
}

// UID EXPUNGE goes by the flags and messages of this moment (RFC 4315 section
// 2.1), not by what the client was told.
func TestUIDExpungeOfWhatIsThere(t *testing.T) {
	t.Parallel()
	s := startServer(t, testConfig())
	client, other := s.login("alice"), s.login("alice")
	client.append("INBOX", "", message("m1", "x"))
	client.ok("SELECT INBOX")
	other.ok("SELECT INBOX")
	other.ok(`STORE 1 +FLAGS.SILENT (\Deleted)`)
	other.append("INBOX", `\Deleted`, message("m2", "x"))
	other.append("INBOX", "", message("m3", "x"))
	client.ok("UID EXPUNGE 1:3")
	expect(t, "what is left", other.ok("UID SEARCH ALL"), "* 2 EXPUNGE", "* 1 EXPUNGE", "* SEARCH 3")
}

// TestShownBeforeExpungeStays: a client that is not told of what others do may ask
// for it. What it was shown of a message that goes then is what that stays: no
// mod-sequence goes back.
func TestShownBeforeExpungeStays(t *testing.T) {
	t.Parallel()
	const show = "FETCH 3 (UID FLAGS MODSEQ)"
	for _, notify := range []string{"NONE", "SET (selected NONE)", "SET (selected-delayed (MessageNew MessageExpunge))"} {
		t.Run(notify, func(t *testing.T) {
			t.Parallel()
			c, other := notified(t, 4, "")
			c.ok("ENABLE CONDSTORE")
			c.ok("NOTIFY " + notify)
			other.expunge(1) // from here on the client's picture stays behind
			before := modSeqIn(t, c.ok(show), "MODSEQ")
			other.ok(`UID STORE 3 +FLAGS.SILENT (\Flagged \Deleted)`)
			shown := c.ok(show)
			if modSeqIn(t, shown, "MODSEQ") <= before {
				t.Fatalf("a change of flags is not shown: %q", shown)
			}
			other.ok("UID EXPUNGE 3")
			expect(t, "behind the expunge", c.ok(show), shown...)
			other.expunge(2)
			expect(t, "behind another", c.ok(show), shown...)
			expect(t, "SEARCH", c.ok("SEARCH FLAGGED"), "* SEARCH 3")
		})
	}
}

// TestResyncAfterShownUnderNotify: a client that does not want to be told of what
// others do, and asks for a message's state, is told that it knows no more of the
// mailbox for that. Else it would miss an expunge for ever.
func TestResyncAfterShownUnderNotify(t *testing.T) {
	t.Parallel()
	for _, notify := range []string{"NONE", "SET (selected (MessageNew MessageExpunge))"} {
		t.Run(notify, func(t *testing.T) {
			t.Parallel()
			r := newResyncer(t, 3)
			r.ok("NOTIFY " + notify)
			known := r.modSeq
			r.other.ok(`UID STORE 2 +FLAGS.SILENT (\Answered)`)
			r.other.ok(`UID STORE 3 +FLAGS.SILENT (\Flagged)`)
			shown := r.ok("UID FETCH 3 (FLAGS)")
			if len(fetches(shown)) != 1 {
				t.Fatalf("shown %q", shown)
			}
			last := modSeqTold.FindStringSubmatch(shown[len(shown)-1])
			if last == nil || last[1] != known {
				t.Errorf("behind FETCH %q, and the client knows the mailbox up to %s", shown, known)
			}
		})
	}
}
