package smtpd

import (
	"strings"
	"testing"

	"github.com/postern-mail/postern/mail"
	"github.com/postern-mail/postern/smtp"
)

// BenchmarkMessage is one message of 5 KB from MAIL to 250, without the wire
// and the disk.
func BenchmarkMessage(b *testing.B) {
	q := &fakeQueue{forget: true}
	h := scene{}.build(b, q, &recorder{})
	h.deps.Audit = silent{}
	client := &mail.Client{Helo: "client.example", Extended: true}
	s, err := h.NewSession(b.Context(), client)
	if err != nil {
		b.Fatal(err)
	}
	from := smtp.MailCommand{ReversePath: mailAddress("s@sender.example")}
	to := smtp.RcptCommand{ForwardPath: mailAddress("alice@example.com")}
	body := "From: a\r\nTo: b\r\nSubject: c\r\n\r\n" + strings.Repeat(strings.Repeat("x", 70)+"\r\n", 70)
	b.ReportAllocs()
	for b.Loop() {
		t, err := s.Mail(b.Context(), from)
		if err != nil {
			b.Fatal(err)
		}
		if err := t.Rcpt(b.Context(), to); err != nil {
			b.Fatal(err)
		}
		if err := t.Data(b.Context()); err != nil {
			b.Fatal(err)
		}
		if _, err := t.Content(b.Context(), strings.NewReader(body)); err != nil {
			b.Fatal(err)
		}
	}
}

type silent struct{}

func (silent) Record(mail.Event) {}
