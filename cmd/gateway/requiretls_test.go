package main

import (
	"io"
	"strings"
	"testing"

	"github.com/emersion/go-sasl"
	gosmtp "github.com/emersion/go-smtp"

	"github.com/postern-mail/postern/testdata/ldif"
)

// TestRequireTLS: a message that requires TLS goes into our mailboxes, and back
// to its sender, without its body, where the next hop has none.
func TestRequireTLS(t *testing.T) {
	t.Parallel()
	outside := startOutside(t)
	s := newSite(t, strings.Replace(standard, nobodyListens, outside.Address, 1), nil).start()
	for _, to := range []string{"bob@example.com", "far@elsewhere.example"} {
		c, err := gosmtp.DialStartTLS(s.address("Submission"), s.trust)
		must(t, err)
		must(t, c.Auth(sasl.NewPlainClient("", "alice", ldif.Password("alice"))))
		must(t, c.Mail("alice@example.com", &gosmtp.MailOptions{RequireTLS: true, Return: gosmtp.DSNReturnFull}))
		must(t, c.Rcpt(to, nil))
		w, err := c.Data()
		must(t, err)
		_, err = io.Copy(w, letter("alice@example.com", []string{to}, "for your eyes"))
		must(t, err)
		must(t, w.Close())
		must(t, c.Quit())
	}
	s.waitFor("bob", "for your eyes", 1)
	s.waitFor("alice", "Undelivered Mail Returned to Sender", 1)
	report := s.message(t, "alice", 1)
	if err := holds(report, "Status: 5.7.10", "Subject: for your eyes", "text/rfc822-headers"); err != nil {
		t.Error(err)
	}
	if strings.Contains(report, "Dear reader") {
		t.Errorf("the report holds the body:\n%s", report)
	}
	if n := len(outside.got()); n != 0 {
		t.Errorf("%d messages went out unprotected", n)
	}
}
