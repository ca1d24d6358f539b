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
