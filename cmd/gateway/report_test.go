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
	w, err := c.Data()
	must(t, err)
	_, err = w.Write([]byte("Subject: tell me\r\n\r\n"))
	must(t, err)
	must(t, w.Close())
	s.waitFor("bob", "tell me", 1)
	s.waitFor("alice", "Successful Mail Delivery Report", 1)
}
