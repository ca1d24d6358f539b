package rewrite

import (
	"bytes"
	"context"
	"io"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/postern-mail/postern/mail"
	"github.com/postern-mail/postern/rewrite/srs"
	"github.com/postern-mail/postern/status"
	"github.com/postern-mail/postern/table"
)

type body struct{ *bytes.Reader }

func (body) Close() error { return nil }

const letter = "Received: x\r\nFrom: Ann <ann@host.example.com>\r\nTo: x@far.example\r\n\r\nFrom: ann@host.example.com\r\n"

// sent is what next was given.
type sent struct {
	from string
	to   []string
	text string
	utf8 bool
}

// next takes deliveries, checks their content and refuses nobody.
func next(t *testing.T, all *[]sent) func(context.Context, mail.Delivery) []mail.Outcome {
	return func(_ context.Context, d mail.Delivery) []mail.Outcome {
		if before := d.Routed().Recipients; len(before) != len(d.Envelope.Recipients) || before[0].Accepted != d.Envelope.Recipients[0].Accepted {
			t.Errorf("routed as %v, goes to %v", before, d.Envelope.Recipients)
		}
		s := sent{from: d.Envelope.ReversePath.String(), utf8: d.Envelope.SMTPUTF8}
		outcomes := make([]mail.Outcome, len(d.Envelope.Recipients))
		for i, r := range d.Envelope.Recipients {
			s.to = append(s.to, r.Address.String())
			outcomes[i] = mail.Outcome{Recipient: r.Address, Class: mail.Delivered}
		}
		for range 2 { // transports open a message more than once
			content, err := d.Open()
			if err != nil {
				t.Fatal(err)
			}
			text, err := io.ReadAll(content)
			if err != nil || int64(len(text)) != d.Octets {
				t.Errorf("%d octets of %d, %v", len(text), d.Octets, err)
			}
			if err := iotest.TestReader(content, text); err != nil && len(text) > 0 {
				_, err = content.Seek(0, io.SeekStart)
				if err == nil {
					err = iotest.TestReader(content, text)
				}
				if err != nil {
					t.Error(err)
				}
			}
			if err := content.Close(); err != nil {
				t.Error(err)
			}
			s.text = string(text)
		}
		*all = append(*all, s)
		return outcomes
	}
}

func delivery(from string, to ...mail.Recipient) mail.Delivery {
	d := mail.Delivery{Octets: int64(len(letter)), Open: func() (mail.Content, error) { return body{bytes.NewReader([]byte(letter))}, nil }}
	if from != "" {
		d.Envelope.ReversePath = mail.MustAddress(from)
	}
	d.Envelope.Recipients = to
	return d
}

func to(address, accepted string) mail.Recipient {
	return mail.Recipient{Address: mail.MustAddress(address), Accepted: mail.MustAddress(accepted)}
}

func ours(d mail.Domain) bool { return d == "example.com" || d == "srs.example" }

func outbound(t *testing.T, cfg OutboundConfig) *Outbound {
	t.Helper()
	cfg.Ours = ours
	if cfg.SRS == nil {
		r, err := srs.New(srs.Config{Domain: "srs.example", Keys: [][]byte{[]byte("0123456789abcdef")}})
		if err != nil {
			t.Fatal(err)
		}
		cfg.SRS = r
	}
	return NewOutbound(config(), cfg)
}

// TestForwardedSender: only strangers' mail that goes on to strangers is sent
// under a domain of ours.
func TestForwardedSender(t *testing.T) {
	t.Parallel()
	o := outbound(t, OutboundConfig{})
	for name, row := range map[string]struct {
		from   string
		to     mail.Recipient
		signed bool
		mark   string
	}{
		"forwarded":          {"ann@far.example", to("x@else.example", "bob@example.com"), true, "bob@example.com"},
		"ours forwarded":     {"ann@example.com", to("x@else.example", "bob@example.com"), false, "bob@example.com"},
		"passed on":          {"ann@far.example", to("x@else.example", "x@else.example"), false, ""},
		"ours":               {"ann@far.example", to("bob@example.com", "info@example.com"), false, ""},
		"report":             {"", to("x@else.example", "bob@example.com"), false, "bob@example.com"},
		"routing characters": {"ann%x@far.example", to("x@else.example", "bob@example.com"), false, "bob@example.com"},
		"postmaster":         {"ann@far.example", mail.Recipient{Address: mail.MustAddress("x@else.example"), Accepted: mail.Address{Local: "postmaster"}}, true, ""},
		"too long":           {"ann@" + strings.Repeat("sub.", 58) + "example", to("x@else.example", "bob@example.com"), false, "bob@example.com"},
		"needs SMTPUTF8":     {"ann@far.example", to("x@else.example", "böb@example.com"), true, ""},
	} {
		var all []sent
		d := delivery(row.from, row.to)
		outcomes := o.Deliver(t.Context(), d, next(t, &all))
		if len(all) != 1 || len(outcomes) != 1 || outcomes[0].Class != mail.Delivered {
			t.Fatalf("%s: %+v, %+v", name, all, outcomes)
		}
		want := letter
		if row.mark != "" {
			want = "Delivered-To: " + row.mark + "\r\n" + letter
		}
		if signed := strings.HasPrefix(all[0].from, "SRS0="); signed != row.signed || !signed && all[0].from != row.from || all[0].text != want {
			t.Errorf("%s: %+v", name, all[0])
		}
	}
}

// TestPartsKeepOutcomes: recipients of one delivery that go on in different
// copies get each its own outcome.
func TestPartsKeepOutcomes(t *testing.T) {
	t.Parallel()
	o := outbound(t, OutboundConfig{})
	d := delivery("ann@far.example", to("a@else.example", "bob@example.com"), to("b@else.example", "b@else.example"),
		to("c@else.example", "carol@example.com"), to("d@else.example", "bob@example.com"))
	var all []sent
	take := next(t, &all)
	outcomes := o.Deliver(t.Context(), d, func(ctx context.Context, d mail.Delivery) []mail.Outcome {
		got := take(ctx, d)
		for i := range got {
			got[i].Remote = "for " + d.Envelope.Recipients[i].Address.String()
		}
		return got
	})
	if len(all) != 3 {
		t.Fatalf("%d copies: %+v", len(all), all)
	}
	for i, want := range []string{"a", "b", "c", "d"} {
		if outcomes[i].Recipient.String() != want+"@else.example" || outcomes[i].Remote != "for "+want+"@else.example" {
			t.Errorf("%d: %+v", i, outcomes[i])
		}
	}
}

func TestGeneric(t *testing.T) {
	t.Parallel()
	generic := text(t, "ann@host.example.com ann.public@isp.example\n@host.example.com @isp.example\nann.public@isp.example never@twice.example")
	o := outbound(t, OutboundConfig{Generic: []table.Table{generic}})
	var all []sent
	d := delivery("ann@host.example.com", to("bob@host.example.com", "bob@host.example.com"), to("x@far.example", "x@far.example"))
	outcomes := o.Deliver(t.Context(), d, next(t, &all))
	want := sent{
		from: "ann.public@isp.example", to: []string{"bob@isp.example", "x@far.example"},
		text: "Received: x\r\nFrom: Ann <ann.public@isp.example>\r\nTo: x@far.example\r\n\r\nFrom: ann@host.example.com\r\n",
	}
	if len(all) != 1 || all[0].from != want.from || strings.Join(all[0].to, " ") != strings.Join(want.to, " ") || all[0].text != want.text {
		t.Errorf("sent %+v, want %+v", all, want)
	}
	if outcomes[0].Recipient.String() != "bob@host.example.com" {
		t.Errorf("the queue does not know %s", outcomes[0].Recipient)
	}
}

func TestGenericOutage(t *testing.T) {
	t.Parallel()
	o := outbound(t, OutboundConfig{Generic: []table.Table{down{}}})
	var all []sent
	outcomes := o.Deliver(t.Context(), delivery("ann@far.example", to("x@far.example", "x@far.example")), next(t, &all))
	if len(all) != 0 || len(outcomes) != 1 || outcomes[0].Class != mail.Deferred || outcomes[0].Reply.Permanent() {
		t.Errorf("%+v, %+v", all, outcomes)
	}
}

func TestLoops(t *testing.T) {
	t.Parallel()
	outcomes := Loops{}.Deliver(t.Context(), delivery("ann@far.example", to("bob@example.com", "bob@example.com")))
	if len(outcomes) != 1 || outcomes[0].Class != mail.Bounced || outcomes[0].Reply.Enhanced != status.ForwardingLoop.Reply().Enhanced ||
		!strings.Contains(outcomes[0].Reply.Text, "bob@example.com") {
		t.Errorf("%+v", outcomes)
	}
}
