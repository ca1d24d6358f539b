package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/postern-mail/postern/foreign/imap"
	"github.com/postern-mail/postern/internal/testenv"
	"github.com/postern-mail/postern/testdata/ldif"
)

// mirroring is the standard site that takes its people over from a Dovecot.
const mirroring = standard + `
mirror "migration" {
  left {
    uri         = "imap://{{.Extra.dovecot}}"
    ca_file     = "{{.Extra.ca}}"
    logins_file = "{{.Dir}}/left.logins"
  }
  right {
    uri         = "imaps://{{.Extra.ours}}"
    ca_file     = "{{.Dir}}/cert.pem"
    logins_file = "{{.Dir}}/right.logins"
  }
  accounts_file = "{{.Dir}}/accounts"
  direction     = "left-to-right"
  exclude       = ["Trash"]
}
`

// newMigration is a site, not started, and the Dovecot that people come from.
func newMigration(t *testing.T) (*site, *imap.Client) {
	t.Helper()
	dovecot := testenv.Dovecot(t, "alice@old.example.com")
	extra := map[string]string{"dovecot": dovecot.IMAP, "ca": dovecot.CAFile}
	s := newSite(t, standard, extra)
	extra["ours"] = s.address("IMAPS")
	for name, text := range map[string]string{
		"accounts": "# who moves\nalice alice@old.example.com alice\n", "left.logins": "alice@old.example.com:" + dovecot.Password + "\n",
		"right.logins": "alice:" + ldif.Password("alice") + "\n",
	} {
		must(t, os.WriteFile(filepath.Join(s.Dir, name), []byte(text), 0o600))
	}
	s.configure(mirroring)
	old, err := imap.Dial(t.Context(), dovecot.IMAP, nil, time.Minute)
	must(t, err)
	t.Cleanup(func() { _ = old.Close() })
	must(t, old.Login(t.Context(), "alice@old.example.com", "", dovecot.Password))
	return s, old
}

func leave(t *testing.T, old *imap.Client, box, subject string) {
	t.Helper()
	text := fmt.Sprintf("From: a@elsewhere.example\r\nTo: alice@example.com\r\nMessage-ID: <%s@elsewhere.example>\r\nSubject: %s\r\n\r\nText.\r\n",
		strings.ReplaceAll(subject, " ", "."), subject)
	_, _, err := old.Append(t.Context(), box, []string{`\Seen`}, "", int64(len(text)), strings.NewReader(text))
	must(t, err)
}

// TestMigration moves somebody from a Dovecot to us and takes changes back to it
// after the cut, so that the way back stays open.
func TestMigration(t *testing.T) {
	t.Parallel()
	s, old := newMigration(t)
	leave(t, old, "INBOX", "before")
	must(t, old.Create(t.Context(), "Work"))
	leave(t, old, "Work", "filed")
	s.start()
	s.waitFor("alice", "before", 1)
	if out := s.run("mirror", "check", "alice"); !strings.Contains(out, "left: 2 mailbox(es), 2 message(s); changes by notify") || !strings.Contains(out, "right: ") {
		t.Errorf("mirror check says\n%s", out)
	}
	waitForOutput(t, s, `migration +alice +in step(?s:.*)\nINBOX +1 .*\nWork +1 `, "mirror", "status", "alice")
	leave(t, old, "INBOX", "while people still read there")
	s.waitFor("alice", "while people still read there", 1)
	// What happens here stays here, until the direction is changed.
	must(t, s.inject("a@elsewhere.example", []string{"alice@example.com"}, "after the cut"))
	s.waitFor("alice", "after the cut", 1)
	s.proc.Stop()
	s.configure(strings.Replace(mirroring, "left-to-right", "both", 1))
	s.start()
	testenv.Eventually(t, time.Minute, func() error {
		if _, err := old.Select(t.Context(), "INBOX", nil); err != nil {
			return err
		}
		n := 0
		err := old.Fetch(t.Context(), "1:*", func(m imap.Message) error {
			if strings.Contains(m.Header, "after the cut") {
				n++
			}
			return nil
		})
		if err == nil && n != 1 {
			err = fmt.Errorf("%d copies of the mail on the old server, want 1", n)
		}
		return err
	})
	waitForOutput(t, s, `migration +alice +in step(?s:.*)\nINBOX +3 `, "mirror", "status", "alice")
}

// TestMirrorOnce mirrors without a server in between.
func TestMirrorOnce(t *testing.T) {
	t.Parallel()
	s, old := newMigration(t)
	leave(t, old, "INBOX", "moved by a script")
	backend := strings.Replace(mirroring, "data_dir = \"{{.Dir}}/data\"", "data_dir = \"{{.Dir}}/mirrored\"", 1)
	backend = strings.Replace(backend, "{{.Dir}}/audit.log", "{{.Dir}}/mirror-audit.log", 1)
	s.configure(standard)
	s.start()
	other := *s
	other.Config = filepath.Join(s.Dir, "mirror.hcl")
	other.configure(backend)
	for range 2 {
		other.run("mirror", "run", "--once")
	}
	if n := count(t, s, "alice")["moved by a script"]; n != 1 {
		t.Errorf("%d copies, want 1", n)
	}
}

// TestMirrorKilled kills the process again and again while it mirrors.
func TestMirrorKilled(t *testing.T) {
	t.Parallel()
	s, old := newMigration(t)
	s.configure(strings.Replace(mirroring, "left-to-right", "both", 1))
	want := 0
	for range 5 {
		for range 25 {
			leave(t, old, "INBOX", fmt.Sprintf("number %d", want))
			want++
		}
		s.start()
		before := want - 25
		testenv.Eventually(t, time.Minute, func() error {
			subjects, err := s.subjects("alice")
			if err == nil && len(subjects) <= before {
				err = fmt.Errorf("%d messages, want more than %d", len(subjects), before)
			}
			return err
		})
		s.proc.Kill() // in the middle, as a rule
	}
	s.start()
	waitForOutput(t, s, fmt.Sprintf(`migration +alice +in step(?s:.*)\nINBOX +%d `, want), "mirror", "status", "alice")
	for subject, n := range count(t, s, "alice") {
		if n != 1 {
			t.Errorf("%q is there %d times", subject, n)
		}
	}
	if n := len(count(t, s, "alice")); n != want {
		t.Errorf("%d messages here, want %d", n, want)
	}
	if status, err := old.Status(t.Context(), "INBOX"); err != nil || int(status.Messages) != want {
		t.Errorf("%d messages there, want %d; %v", status.Messages, want, err)
	}
}
