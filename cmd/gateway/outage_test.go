package main

import (
	"testing"

	"github.com/postern-mail/postern/internal/testenv"
)

// TestDirectoryDiesAfterRCPT: the directory answers who an address is and is
// dead when the mailbox is asked for: the message is in the mailbox when its
// client is answered, though it is the first one for that person.
func TestDirectoryDiesAfterRCPT(t *testing.T) {
	t.Parallel()
	slapd := testenv.Slapd(t, testenv.SlapdOptions{})
	s := newLDAPSite(t, slapd, ldapAuthn).start()
	d := s.dial("MX")
	for _, step := range []struct{ say, hear string }{
		{"EHLO x.example\r\n", "250 "},
		{"MAIL FROM:<a@elsewhere.example>\r\n", "250 "},
		{"RCPT TO:<bob@example.com>\r\n", "250 "},
		{"DATA\r\n", "354 "},
	} {
		d.send(step.say)
		d.expect(step.hear)
	}
	slapd.Kill()
	d.send("Subject: in between\r\n\r\n.\r\n")
	d.expect("250 2.0.0 Ok: delivered as ")
	waitForOutput(t, s, "The queue is empty", "queue", "list")
	slapd.Restart()
	s.waitFor("bob", "in between", 1)
}
