package smtpd

import (
	"context"
	"net/netip"
	"strings"
	"testing"

	"github.com/postern-mail/postern/mail"
	"github.com/postern-mail/postern/policy/content"
	"github.com/postern-mail/postern/smtp"
	"github.com/postern-mail/postern/status"
)

// TestShareOfTheSpool: who holds much of it is put off, and others are not.
func TestShareOfTheSpool(t *testing.T) {
	t.Parallel()
	h, spool := asking(t, &fakeQueue{}, silent{}, map[string]func(context.Context, *mail.Transaction) (mail.Verdict, error){
		"look": func(context.Context, *mail.Transaction) (mail.Verdict, error) { return mail.Verdict{}, nil },
	}, "look")
	h.cfg.FlowExempt = []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")}
	for _, client := range []string{"192.0.2.1/32", "2001:db8:1:2::/64"} { // a quarter of 4 MiB
		m, err := content.New(spool, content.Limits{Client: netip.MustParsePrefix(client)}, nil, nil, strings.NewReader(strings.Repeat("x", 1<<20-1000)))
		if err != nil {
			t.Fatal(err)
		}
		defer m.Close()
	}
	for address, want := range map[string]int{
		"192.0.2.1": 452, "::ffff:192.0.2.1": 452, "192.0.2.2": 250, "10.1.2.3": 250, "2001:db8:1:2::7": 452, "2001:db8:1:3::7": 250,
	} {
		s, err := h.NewSession(t.Context(), &mail.Client{Helo: "client.example", Extended: true, Remote: netip.AddrPortFrom(netip.MustParseAddr(address), 40000)})
		if err != nil {
			t.Fatal(err)
		}
		tx, err := s.Mail(t.Context(), smtp.MailCommand{ReversePath: mailAddress("s@sender.example")})
		if err == nil {
			err = tx.Rcpt(t.Context(), smtp.RcptCommand{ForwardPath: mailAddress("alice@example.com")})
		}
		if err == nil {
			err = tx.Data(t.Context())
		}
		if err != nil {
			t.Fatal(err)
		}
		code := 250
		if _, err := tx.Content(t.Context(), strings.NewReader("Subject: x\r\n\r\nhello\r\n")); err != nil {
			code = status.ReplyOf(err).Code
		}
		if code != want {
			t.Errorf("%s: %d, want %d", address, code, want)
		}
		s.Close(nil)
	}
}
