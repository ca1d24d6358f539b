package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/postern-mail/postern/testdata/ldif"
)

// TestMailboxCommands: an operator works in a mailbox to which somebody is
// connected, and in that of a server that is stopped.
func TestMailboxCommands(t *testing.T) {
	t.Parallel()
	s := newSite(t, standard, nil)
	s.start()
	alice, err := s.imap("alice", ldif.Password("alice"))
	must(t, err)
	defer func() { _ = alice.Close() }()
	_, err = alice.Select("INBOX", nil).Wait()
	must(t, err)

	letter := filepath.Join(s.Dir, "letter.eml")
	must(t, os.WriteFile(letter, []byte("Subject: =?utf-8?q?Gr=C3=BC=C3=9Fe?=\r\n\r\nhello\r\n"), 0o600))
	for range 3 {
		s.run("mailbox", "save", letter, "-u", "alice@example.com", "--flags", `\Flagged`)
	}
	must(t, alice.Noop().Wait())
	if n := alice.Mailbox().NumMessages; n != 3 {
		t.Errorf("alice sees %d messages", n)
	}
	if out := s.run("mailbox", "fetch", "-u", "alice", "uid,hdr.subject,flags", "mailbox", "INBOX", "since", "2weeks", "--format", "tab"); !strings.Contains(out, "3\tGrüße\t\\\\Flagged\n") {
		t.Errorf("fetch: %s", out)
	}
	if out := s.run("mailbox", "fetch", "-u", "alice", "text", "uid 2", "--format", "raw"); out != read(t, letter) {
		t.Errorf("raw: %q", out)
	}
	if out := s.failing("mailbox", "expunge", "-u", "alice", "mailbox", "INBOX", "uid", "1"); !strings.Contains(out, "--yes") {
		t.Errorf("expunge without --yes: %s", out)
	}
	must(t, alice.Noop().Wait())
	if n := alice.Mailbox().NumMessages; n != 3 {
		t.Errorf("without --yes alice sees %d messages", n)
	}
	if out := s.run("mailbox", "expunge", "-u", "alice", "mailbox", "INBOX", "uid", "1", "--yes"); !strings.Contains(out, "1 message(s) expunged") {
		t.Errorf("expunge: %s", out)
	}
	must(t, alice.Noop().Wait())
	if n := alice.Mailbox().NumMessages; n != 2 {
		t.Errorf("alice sees %d messages", n)
	}
	s.run("mailbox", "create", "-u", "alice", "Büro", "--subscribe")
	s.run("mailbox", "move", "-u", "alice", "Büro", "uid", "2")
	if out := s.run("mailbox", "list", "-u", "alice", "B*", "--format", "json"); !strings.Contains(out, `"mailbox":"Büro"`) || !strings.Contains(out, `"subscribed":true`) {
		t.Errorf("list: %s", out)
	}
	if out := s.failing("mailbox", "search", "-u", "alice", "-u", "nobody", "all"); !strings.Contains(out, "1 of 2 accounts failed: nobody") {
		t.Errorf("search of nobody: %s", out)
	}
	if out := s.failing("mailbox", "search", "-u", "alice", "since", "soon"); !strings.Contains(out, "a date is such as") {
		t.Errorf("a bad query: %s", out)
	}
	people := filepath.Join(s.Dir, "people")
	must(t, os.WriteFile(people, []byte("# all\nalice\n\n"), 0o600))
	if out := s.run("mailbox", "status", "-F", people, "INBOX", "--format", "tab"); !strings.Contains(out, "INBOX\t1\t") {
		t.Errorf("status: %s", out)
	}

	s.proc.Stop()
	if out := s.run("mailbox", "deduplicate", "-A", "all", "--dry-run"); !strings.Contains(out, "no message is there twice") {
		t.Errorf("deduplicate: %s", out)
	}
	if out := s.run("mailbox", "flags", "add", "-u", "alice", `\Seen,$Checked`, "mailbox Büro"); !strings.Contains(out, "Büro: 1 message(s) given") {
		t.Errorf("flags while stopped: %s", out)
	}
	s.run("mailbox", "delete", "-u", "alice", "Büro", "--yes")
	log := read(t, filepath.Join(s.Dir, "audit.log"))
	for _, want := range []string{`"event":"expunge"`, `"detail":"move to Büro"`, `"detail":"mailbox fetch"`, `"detail":"mailbox delete Büro; of alice"`} {
		if !strings.Contains(log, want) {
			t.Errorf("the audit does not tell %s", want)
		}
	}
	must(t, exec.Command(program, "audit", "verify", filepath.Join(s.Dir, "audit.log")).Run())
}
