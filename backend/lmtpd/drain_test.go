package lmtpd

import (
	"testing"

	"github.com/postern-mail/postern/mail"
	"github.com/postern-mail/postern/smtp"
	"github.com/postern-mail/postern/status"
)

// TestDraining: a node that is drained lets transactions under way end, and
// answers 421 to whatever would begin.
func TestDraining(t *testing.T) {
	t.Parallel()
	f := newFixture(t, Config{})
	draining := false
	f.deps.Draining = func() bool { return draining }
	s, err := f.NewSession(t.Context(), &mail.Client{Session: "s1"})
	if err != nil {
		t.Fatal(err)
	}
	tx, err := s.Mail(t.Context(), smtp.MailCommand{})
	if err != nil {
		t.Fatal(err)
	}
	draining = true
	if err := rcpt(t, tx, "kim@example.org"); err != nil {
		t.Errorf("the transaction under way: %v", err)
	}
	tx.Abort()
	if _, err := s.Mail(t.Context(), smtp.MailCommand{}); status.Of(err) != status.ShuttingDown {
		t.Errorf("a further transaction: %v", err)
	}
	if _, err := f.NewSession(t.Context(), &mail.Client{}); status.Of(err) != status.ShuttingDown {
		t.Errorf("a further session: %v", err)
	}
	draining = false
	if _, err := s.Mail(t.Context(), smtp.MailCommand{}); err != nil {
		t.Errorf("after the drain: %v", err)
	}
}
