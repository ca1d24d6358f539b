package dsn

import (
	"bytes"
	"errors"
	"strings"
	"testing"

	"github.com/postern-mail/postern/mail"
)

// TestReturned: what is returned of the message, in which clothes.
func TestReturned(t *testing.T) {
	t.Parallel()
	long := strings.Repeat("x", 2000)
	for name, tt := range map[string]struct {
		message            string
		change             func(*mail.Report)
		mediaType, content string
		body               mail.Body
	}{
		"small":      {"A: b\r\n\r\nhello\r\n", nil, "message/rfc822", "A: b\r\n\r\nhello\r\n", mail.Body7Bit},
		"eight bits": {"A: b\r\n\r\nhällo\r\n", nil, "message/rfc822", "A: b\r\n\r\nhällo\r\n", mail.Body8BitMIME},
		"RET=HDRS":   {"A: b\r\n\r\nhello\r\n", func(r *mail.Report) { r.Envelope.Return = mail.ReturnHeaders }, "text/rfc822-headers", "A: b\r\n", mail.Body7Bit},
		"RET=FULL":   {"A: b\r\n\r\nhello\r\n", func(r *mail.Report) { r.Envelope.Return = mail.ReturnFull }, "message/rfc822", "A: b\r\n\r\nhello\r\n", mail.Body7Bit},
		"RET=FULL on success": {"A: b\r\n\r\nhello\r\n", func(r *mail.Report) { r.Kind, r.Envelope.Return = mail.ReportDelivered, mail.ReturnFull },
			"text/rfc822-headers", "A: b\r\n", mail.Body7Bit},
		"RET=FULL, large":  {"A: b\r\n\r\n" + strings.Repeat("line\r\n", 10000), func(r *mail.Report) { r.Envelope.Return = mail.ReturnFull }, "text/rfc822-headers", "A: b\r\n", mail.Body7Bit},
		"REQUIRETLS":       {"A: b\r\n\r\nhello\r\n", func(r *mail.Report) { r.Envelope.RequireTLS = true }, "text/rfc822-headers", "A: b\r\n", mail.Body7Bit},
		"long line":        {"A: b\r\n\r\n" + long + "\r\n", nil, "text/rfc822-headers", "A: b\r\n", mail.Body7Bit},
		"line of 998":      {"A: b\r\n\r\n" + long[:998] + "\r\n", nil, "message/rfc822", "A: b\r\n\r\n" + long[:998] + "\r\n", mail.Body7Bit},
		"line of 999":      {"A: b\r\n\r\n" + long[:999] + "\r\n", nil, "text/rfc822-headers", "A: b\r\n", mail.Body7Bit},
		"long header line": {"A: " + long + "\r\n\r\n", nil, "text/rfc822-headers", "A: " + long + "\r\n", mail.Body7Bit},
		"NUL":              {"A: b\r\n\r\n\x00\r\n", nil, "text/rfc822-headers", "A: b\r\n", mail.Body7Bit},
		"header in Latin-1": {"Subject: gr\xfc\xdfe\r\n\r\nhello\r\n", func(r *mail.Report) { r.Envelope.Return = mail.ReturnHeaders },
			"text/rfc822-headers", "Subject: gr\xfc\xdfe\r\n", mail.Body7Bit},
		"SMTPUTF8 header": {"Subject: grüße\r\n\r\nhello\r\n", func(r *mail.Report) { r.Envelope.SMTPUTF8, r.Envelope.Return = true, mail.ReturnHeaders },
			"message/global-headers", "Subject: grüße\r\n", mail.Body7Bit},
		"broken MIME": {"Content-Type: multipart/mixed; boundary=x\r\n\r\n--x\r\nContent-Type: multipart/mixed; boundary=\r\n\r\n--x", nil,
			"message/rfc822", "Content-Type: multipart/mixed; boundary=x\r\n\r\n--x\r\nContent-Type: multipart/mixed; boundary=\r\n\r\n--x", mail.Body7Bit},
		"no header":        {"\r\nhello\r\n", func(r *mail.Report) { r.Envelope.Return = mail.ReturnHeaders }, "text/rfc822-headers", "", mail.Body7Bit},
		"empty":            {"", nil, "message/rfc822", "", mail.Body7Bit},
		"copy of a bounce": {"A: b\r\n\r\nhello\r\n", func(r *mail.Report) { r.Notice, r.Postmaster = mail.NoticeBounce, mail.MustAddress("pm@example.net") }, "text/rfc822-headers", "A: b\r\n", mail.Body7Bit},
		"double bounce": {"A: b\r\n\r\nhello\r\n", func(r *mail.Report) {
			r.Notice, r.Postmaster, r.Envelope.ReversePath = mail.NoticeDoubleBounce, mail.MustAddress("pm@example.net"), mail.Address{}
		}, "message/rfc822", "A: b\r\n\r\nhello\r\n", mail.Body7Bit},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := sample(mail.ReportFailed)
			r.Open = open(tt.message)
			if tt.change != nil {
				tt.change(&r)
			}
			s, env := compose(t, r)
			for line := range strings.SplitSeq(s, "\r\n") {
				if len(line) > 998 || strings.ContainsAny(line, "\r\n\x00") {
					t.Errorf("line of %d octets: %.40q", len(line), line)
				}
			}
			p := parse(t, s)
			if got := p.types[len(p.types)-1]; got != tt.mediaType {
				t.Errorf("type %s, want %s", got, tt.mediaType)
			}
			if got := p.parts[len(p.parts)-1]; strings.TrimRight(got, "\r\n") != strings.TrimRight(tt.content, "\r\n") {
				t.Errorf("content %.80q, want %.80q", got, tt.content)
			}
			if env.Body != tt.body || env.SMTPUTF8 || env.RequireTLS != r.Envelope.RequireTLS {
				t.Errorf("envelope %+v", env)
			}
		})
	}
}

// TestWarningsToPrograms: automatic and bulk mail gets no warning of a delay,
// unless NOTIFY asks for it; failures are always told.
func TestWarningsToPrograms(t *testing.T) {
	t.Parallel()
	c, err := New(Config{})
	if err != nil {
		t.Fatal(err)
	}
	for header, automatic := range map[string]bool{
		"Subject: x\r\n": false, "Auto-Submitted: no\r\n": false, "Precedence: first-class\r\n": false,
		"Auto-Submitted: auto-generated\r\n": true, "auto-submitted: Auto-Replied; x=y\r\n": true,
		"Precedence: Bulk\r\n": true, "Precedence: list\r\n": true, "Precedence: junk\r\n": true, "List-Id: <l.example.org>\r\n": true,
		"X: y\r\n\r\nPrecedence: bulk\r\n": false,
	} {
		for _, kind := range []mail.ReportKind{mail.ReportDelayed, mail.ReportFailed} {
			for _, notify := range []mail.Notify{0, mail.NotifyDelay | mail.NotifyFailure} {
				r := sample(kind)
				r.Open = open(header + letter)
				r.Envelope.Recipients[1].Notify = notify
				var b bytes.Buffer
				_, err := c.Compose(&b, r, now, "id")
				if want := automatic && kind == mail.ReportDelayed && notify == 0; errors.Is(err, mail.ErrNoReport) != want || (b.Len() == 0) != want {
					t.Errorf("%q, kind %v, notify %v: %v", header, kind, notify, err)
				}
			}
		}
	}
}

// TestConceal: a sender elsewhere does not learn where an alias leads; ours and
// the postmaster do.
func TestConceal(t *testing.T) {
	t.Parallel()
	cfg := Config{Hostname: "mail.example.net", Local: func(d mail.Domain) bool { return d == "example.com" }}
	for name, tt := range map[string]struct {
		change   func(*mail.Report)
		conceals bool
	}{
		"sender elsewhere": {func(*mail.Report) {}, true},
		"sender of ours":   {func(r *mail.Report) { r.Envelope.ReversePath = mail.MustAddress("boss@example.com") }, false},
		"postmaster":       {func(r *mail.Report) { r.Notice, r.Postmaster = mail.NoticeBounce, mail.MustAddress("pm@example.net") }, false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := sample(mail.ReportFailed)
			private := mail.MustAddress("private.box@hidden.example")
			other := mail.MustAddress("second.box@hidden.example")
			alias := mail.MustAddress("alias@example.com")
			r.Envelope.Recipients = []mail.Recipient{{Address: private, Accepted: alias}, {Address: other, Accepted: alias}}
			r.Outcomes[0].Recipient, r.Outcomes[1].Recipient = private, other
			r.Outcomes[0].RemoteMTA = "mx.hidden.example"
			r.Outcomes[0].Remote = "mx.hidden.example[192.0.2.1]:25"
			r.Outcomes[0].Reply.Text = "<Private.Box@HIDDEN.example> is full:\nprivate.box@hidden.example"
			tt.change(&r)
			s := composeWith(t, cfg, r)
			p := parse(t, s)
			if strings.Contains(strings.ToLower(s), "hidden.example") == tt.conceals || strings.Contains(strings.ToLower(s), "private.box") == tt.conceals {
				t.Errorf("report\n%s", s)
			}
			final := p.rcpts[0].Get("Final-Recipient")
			if want := map[bool]string{true: "rfc822;alias@example.com", false: "rfc822;private.box@hidden.example"}[tt.conceals]; final != want {
				t.Errorf("Final-Recipient %q, want %q", final, want)
			}
			if tt.conceals && !strings.Contains(p.rcpts[0].Get("Diagnostic-Code"), "<alias@example.com> is full: alias@example.com") {
				t.Errorf("Diagnostic-Code %q", p.rcpts[0].Get("Diagnostic-Code"))
			}
		})
	}
}

// TestConcealedMembersAreOne: members of a group of whom the same is said are
// told of once.
func TestConcealedMembersAreOne(t *testing.T) {
	t.Parallel()
	r := sample(mail.ReportFailed)
	group := mail.MustAddress("staff@example.com")
	r.Envelope.Recipients = nil
	for i, a := range []string{"a@example.com", "b@example.com"} {
		r.Envelope.Recipients = append(r.Envelope.Recipients, mail.Recipient{Address: mail.MustAddress(a), Accepted: group})
		r.Outcomes[i].Reply = reply(550, [3]int{5, 2, 1}, "<"+a+"> closed")
		r.Outcomes[i].FromPeer = true
	}
	p := parse(t, composeWith(t, Config{Local: func(mail.Domain) bool { return false }}, r))
	if len(p.rcpts) != 1 || strings.Count(p.parts[0], "staff@example.com> closed") != 1 {
		t.Errorf("%d recipients in\n%s", len(p.rcpts), p.parts[0])
	}
}

// TestThreaded: the report refers to the message only by an id that is one.
func TestThreaded(t *testing.T) {
	t.Parallel()
	r := sample(mail.ReportFailed)
	if p := parse(t, composeWith(t, Config{Threaded: true}, r)); p.header.Get("In-Reply-To") != "<1@example.org>" || p.header.Get("References") != "<1@example.org>" {
		t.Errorf("header %v", p.header)
	}
	if p := parse(t, composeWith(t, Config{}, r)); p.header.Get("In-Reply-To") != "" {
		t.Errorf("header %v", p.header)
	}
	for _, id := range []string{"<a> b", "a@b", "<a\tb@c>", "<a<b@c>", "<" + strings.Repeat("x", 600) + "@b>", "<ä@b>"} {
		r.Open = open("Message-ID: " + id + "\r\n\r\n")
		if p := parse(t, composeWith(t, Config{Threaded: true}, r)); p.header.Get("In-Reply-To") != "" {
			t.Errorf("%q: In-Reply-To %q", id, p.header.Get("In-Reply-To"))
		}
	}
}

// TestNotices: what the postmaster gets.
func TestNotices(t *testing.T) {
	t.Parallel()
	c, err := New(Config{Hostname: "mail.example.net", Languages: []string{"de"}})
	if err != nil {
		t.Fatal(err)
	}
	r := mail.Report{
		Notice: mail.NoticeResource, Postmaster: mail.MustAddress("pm@example.net"),
		Detail: "The disk is full.\nFrom now on mail waits.", LeftOut: 3,
	}
	var b bytes.Buffer
	env, err := c.Compose(&b, r, now, "id1")
	if err != nil {
		t.Fatal(err)
	}
	s := b.String()
	for _, want := range []string{
		"To: <pm@example.net>\r\n", "Auto-Submitted: auto-generated\r\n", "Content-Type: text/plain; charset=utf-8\r\n",
		"Subject: Postmaster Notice: no room for mail on mail.example.net\r\n",
		"The disk is full. From now on mail waits.\r\n", "3 more notices of this class (resource) were left out",
	} {
		if !strings.Contains(s, want) {
			t.Errorf("no %q in\n%s", want, s)
		}
	}
	if !env.ReversePath.IsNull() || env.Recipients[0].Address != r.Postmaster || env.Recipients[0].Notify != mail.NotifyNever {
		t.Errorf("envelope %+v", env)
	}
}

// TestManyRecipients: people read of a hundred, programs of all.
func TestManyRecipients(t *testing.T) {
	t.Parallel()
	r := sample(mail.ReportFailed)
	o := r.Outcomes[0]
	r.Outcomes, r.Envelope.Recipients = nil, nil
	for i := range 250 {
		o.Recipient = mail.Address{Local: mail.LocalPart("p" + strings.Repeat("x", i)), Domain: "example.com"}
		r.Outcomes = append(r.Outcomes, o)
	}
	p := parse(t, composeWith(t, Config{}, r))
	if n := strings.Count(p.parts[0], "\r\n  <p"); n != maxExplained || len(p.rcpts) != 250 || !strings.Contains(p.parts[0], "and 150 more") {
		t.Errorf("%d explained, %d in the fields", n, len(p.rcpts))
	}
}
