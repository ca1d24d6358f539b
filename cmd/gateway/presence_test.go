package main

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/emersion/go-sasl"
	gosmtp "github.com/emersion/go-smtp"

	"github.com/postern-mail/postern/internal/testenv"
	"github.com/postern-mail/postern/testdata/ldif"
)

// disable locks an account in the company's file, or unlocks it.
func (s *site) disable(uid string, off bool) {
	s.t.Helper()
	content := ldif.OpenLDAP().LDIF
	if off {
		dn := fmt.Sprintf("dn: uid=%s,ou=people,dc=example,dc=com\n", uid)
		if !bytes.Contains(content, []byte(dn)) {
			s.t.Fatalf("the company has no %s", uid)
		}
		content = bytes.Replace(content, []byte(dn), []byte(dn+"pwdAccountLockedTime: 000001010000Z\n"), 1)
	}
	next := filepath.Join(s.Dir, "next.ldif")
	must(s.t, os.WriteFile(next, content, 0o600))
	must(s.t, os.Rename(next, filepath.Join(s.Dir, "company.ldif")))
}

// TestDisabledAccountsLoseTheirSessions: an account that is disabled in the
// directory is out of IMAP, IDLE or not, and of SMTP, others stay; what it has
// in the queue is put on hold and not sent.
func TestDisabledAccountsLoseTheirSessions(t *testing.T) {
	t.Parallel()
	s := newSite(t, standard, nil).start()
	disabledIsOut(t, s, s.disable)
}

// TestDisabledInAFollowedDirectory: the same of an account that an administrator
// disables on the directory's server, which tells of it: nobody has to wait for
// the time that answers are remembered for.
func TestDisabledInAFollowedDirectory(t *testing.T) {
	t.Parallel()
	slapd := followedSlapd(t)
	s := newLDAPSite(t, slapd, ldapAuthn)
	text, err := os.ReadFile(s.Config)
	must(t, err)
	// An answer from memory would serve the whole test.
	must(t, os.WriteFile(s.Config, bytes.Replace(text, []byte("\n  timeout            = \"1m\""), []byte("\n  timeout            = \"1m\"\n  cache_ttl          = \"1h\""), 1), 0o600))
	s.start()
	waitForOutput(t, s, `, followed`, "directory", "status")
	disabledIsOut(t, s, func(uid string, off bool) {
		change := fmt.Sprintf("dn: uid=%s,ou=people,dc=example,dc=com\nchangetype: modify\n", uid)
		if off {
			slapd.Modify(t, change+"replace: pwdAccountLockedTime\npwdAccountLockedTime: 000001010000Z\n")
		} else {
			slapd.Modify(t, change+"delete: pwdAccountLockedTime\n")
		}
	})
}

// disabledIsOut has alice disabled while she is logged in and has mail in the
// queue, and enabled again.
func disabledIsOut(t *testing.T, s *site, disable func(uid string, off bool)) {
	t.Helper()
	must(t, s.submit("alice", ldif.Password("alice"), "alice@example.com", []string{"far@elsewhere.example"}, "secret plans"))
	must(t, s.submit("bob", ldif.Password("bob"), "bob@example.com", []string{"far@elsewhere.example"}, "greetings"))

	idle, err := s.imap("alice", ldif.Password("alice"))
	must(t, err)
	defer func() { _ = idle.Close() }()
	_, err = idle.Select("INBOX", nil).Wait()
	must(t, err)
	waiting, err := idle.Idle()
	must(t, err)
	other, err := s.imap("bob", ldif.Password("bob"))
	must(t, err)
	defer func() { _ = other.Close() }()
	submitting, err := gosmtp.DialStartTLS(s.address("Submission"), s.trust)
	must(t, err)
	defer func() { _ = submitting.Close() }()
	must(t, submitting.Auth(sasl.NewPlainClient("", "alice", ldif.Password("alice"))))

	disable("alice", true)
	ended := make(chan error, 1)
	go func() { ended <- waiting.Wait() }()
	select {
	case <-ended:
	case <-time.After(time.Minute):
		t.Fatal("IDLE of a disabled account goes on")
	}
	testenv.Eventually(t, time.Minute, func() error {
		if err := submitting.Noop(); err == nil {
			return errors.New("the SMTP session goes on")
		}
		return nil
	})
	if err := other.Noop().Wait(); err != nil {
		t.Errorf("bob is out, too: %v", err)
	}
	if _, err := s.imap("alice", ldif.Password("alice")); err == nil {
		t.Error("alice logs in again")
	}

	s.run("queue", "retry", "ALL")
	var list string
	testenv.Eventually(t, time.Minute, func() error {
		list = s.run("queue", "list", "--state", "hold")
		if !strings.Contains(list, "alice@example.com") {
			return fmt.Errorf("not on hold:\n%s", list)
		}
		return nil
	})
	if strings.Contains(list, "bob@example.com") {
		t.Errorf("bob's mail is on hold:\n%s", list)
	}
	s.waitForLog(`submitter's account is disabled: message put on hold .*login=alice directory=company`)

	disable("alice", false)
	testenv.Eventually(t, time.Minute, func() error {
		c, err := s.imap("alice", ldif.Password("alice"))
		if err == nil {
			_ = c.Close()
		}
		return err
	})
	s.run("queue", "release", "ALL")
	if list := s.run("queue", "list"); !strings.Contains(list, "alice@example.com") {
		t.Errorf("alice's mail is gone:\n%s", list)
	}
}
