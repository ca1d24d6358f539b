package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/postern-mail/postern/testdata/ldif"
)

// TestImportIntoRunningServer: mail comes in while somebody is connected, who
// sees it; once; and it can be taken out and brought to another person, also
// while the server is stopped.
func TestImportIntoRunningServer(t *testing.T) {
	t.Parallel()
	s := newSite(t, standard, nil)
	s.start()
	alice, err := s.imap("alice", ldif.Password("alice"))
	must(t, err)
	defer func() { _ = alice.Close() }()
	_, err = alice.Select("INBOX", nil).Wait()
	must(t, err)

	box := filepath.Join(s.Dir, "old.mbox")
	must(t, os.WriteFile(box, []byte("From kim Sat Feb 29 12:30:00 2020\nMessage-ID: <1@x>\nStatus: RO\nSubject: one\n\n1\n\n"+
		"From kim Sat Feb 29 12:31:00 2020\nSubject: two\n\n2\n"), 0o600))
	if out := s.run("import", "mbox", box, "--user", "alice@example.com", "--dry-run"); !strings.Contains(out, "2 to copy") {
		t.Errorf("dry run: %s", out)
	}
	if out := s.run("import", "mbox", box, "--user", "alice@example.com"); !strings.Contains(out, "2 copied") {
		t.Errorf("import: %s", out)
	}
	if out := s.run("import", "mbox", box, "--user", "alice@example.com"); !strings.Contains(out, "0 copied") || !strings.Contains(out, "2 known") {
		t.Errorf("again: %s", out)
	}
	must(t, alice.Noop().Wait())
	if n := alice.Mailbox().NumMessages; n != 2 {
		t.Errorf("alice sees %d messages", n)
	}
	if out := s.failing("import", "mbox", box, "--user", "nobody@example.com"); !strings.Contains(out, "no account") {
		t.Errorf("for nobody: %s", out)
	}
	if out := s.failing("import", "mbox", box); !strings.Contains(out, "--user") {
		t.Errorf("without a user: %s", out)
	}
	dir := filepath.Join(s.Dir, "out")
	if out := s.run("export", "maildir", dir, "--user", "alice"); !strings.Contains(out, "2 message(s)") {
		t.Errorf("export: %s", out)
	}
	if out := s.failing("export", "maildir", dir, "--user", "alice"); !strings.Contains(out, "exists already") {
		t.Errorf("export over another: %s", out)
	}
	s.proc.Stop()
	if out := s.run("import", "maildir", dir, "--user", "bob", "--into", "From Alice", "--json"); !strings.Contains(out, `"copied":2`) {
		t.Errorf("import while stopped: %s", out)
	}
	if text := read(t, filepath.Join(s.Dir, "audit.log")); strings.Count(text, "transfer of account") < 4 {
		t.Errorf("the audit does not tell who moved mail:\n%s", text)
	}
}

// TestImportOfMany: several people come in at a time, and one who cannot does
// not keep the others.
func TestImportOfMany(t *testing.T) {
	t.Parallel()
	s := newSite(t, standard, nil)
	s.start()
	for _, user := range []string{"alice", "bob", "carol", "nobody"} {
		text := strings.Repeat("From kim Sat Feb 29 12:30:00 2020\nSubject: for "+user+"\n\n1\n\n", 3)
		must(t, os.WriteFile(filepath.Join(s.Dir, user+".mbox"), []byte(text), 0o600))
	}
	people := filepath.Join(s.Dir, "people")
	must(t, os.WriteFile(people, []byte("alice@example.com\nnobody@example.com\nbob,"+filepath.Join(s.Dir, "bob.mbox")+"\ncarol@example.com\n"), 0o600))
	place := filepath.Join(s.Dir, "%n.mbox")
	out := s.failing("import", "mbox", place, "--users", people, "--parallel", "3")
	for _, want := range []string{"1 of 4 people failed: nobody@example.com", "alice@example.com: 1 mailbox(es), 3 message(s): 3 copied", "bob: 1 mailbox(es)", "carol@example.com: 1 mailbox(es)"} {
		if !strings.Contains(out, want) {
			t.Errorf("not told: %q in\n%s", want, out)
		}
	}
	for _, user := range []string{"alice", "bob", "carol"} {
		if out := s.run("mailbox", "search", "-u", user, "mailbox", "INBOX", "subject", "for "+user); strings.Count(out, "\n") != 3 {
			t.Errorf("%s has %q", user, out)
		}
	}
	if out := s.failing("import", "mbox", filepath.Join(s.Dir, "bob.mbox"), "--users", people); !strings.Contains(out, "would both get") {
		t.Errorf("one place for all: %s", out)
	}
	if out := s.failing("import", "mbox", place, "--users", people, "--parallel", "0"); !strings.Contains(out, "--parallel is 1 to 64") {
		t.Errorf("--parallel 0: %s", out)
	}
}

// TestPeople: the file of a migration day.
func TestPeople(t *testing.T) {
	t.Parallel()
	all, err := readPeople(strings.NewReader("# people\nkim\nlee, lee@old.example.com\nmax,max,\"pass,word\"\n"), "people.csv")
	must(t, err)
	if len(all) != 3 || all[0] != (remotePerson{"kim", "kim", ""}) || all[1].login != "lee@old.example.com" || all[2].password != "pass,word" {
		t.Errorf("%+v", all)
	}
	for _, bad := range []string{"", ",x\n", "a,b,c,d\n", "a\na\n", "a,\"b\n"} {
		if _, err := readPeople(strings.NewReader(bad), "people.csv"); err == nil {
			t.Errorf("%q is taken", bad)
		}
	}
}
