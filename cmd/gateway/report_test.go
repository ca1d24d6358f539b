package main

import (
	"testing"

	"github.com/emersion/go-sasl"
	gosmtp "github.com/emersion/go-smtp"

	"github.com/postern-mail/postern/testdata/ldif"
)

// TestReportOfSuccess: who asks to be told of success is told, also where our
// own backend is the end of the way (RFC 3461 section 4.1).
func TestReportOfSuccess(t *testing.T) {
	t.Parallel()
	s := newSite(t, standard, nil).start()
	c, err := gosmtp.DialStartTLS(s.address("Submission"), s.trust)
	must(t, err)
	defer func() { _ = c.Close() }()
	must(t, c.Auth(sasl.NewPlainClient("", "alice", ldif.Password("alice"))))
	must(t, c.Mail("alice@example.com", nil))
	must(t, c.Rcpt("bob@example.com", &gosmtp.RcptOptions{Notify: []gosmtp.DSNNotify{gosmtp.DSNNotifySuccess}}))
	// A recipient who is refused here is reported on by nobody.
	if err := c.Rcpt("nobody@example.com", nil); err == nil {
		t.Error("nobody@example.com is taken")
	}
	send := func(header string) {
		t.Helper()
		w, err := c.Data()
		must(t, err)
		_, err = w.Write([]byte(header + "\r\n"))
		must(t, err)
		must(t, w.Close())
	}
	send("Subject: tell me\r\n")
	s.waitFor("bob", "tell me", 1)
	s.waitFor("alice", "Successful Mail Delivery Report", 1)

	// In the language that the message asks for.
	must(t, c.Mail("alice@example.com", nil))
	must(t, c.Rcpt("bob@example.com", &gosmtp.RcptOptions{Notify: []gosmtp.DSNNotify{gosmtp.DSNNotifySuccess}}))
	send("Subject: sag es mir\r\nAccept-Language: de-AT, en;q=0.1\r\n")
	s.waitFor("bob", "sag es mir", 1)
	s.waitFor("alice", "Zugestellt: Ihre Nachricht ist angekommen", 1)
	s.waitFor("alice", "Undelivered", 0)
}
