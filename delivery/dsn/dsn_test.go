package dsn

import (
	"bufio"
	"bytes"
	"errors"
	"flag"
	"fmt"
	"io"
	"net/textproto"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/emersion/go-message"

	"github.com/postern-mail/postern/mail"
	"github.com/postern-mail/postern/status"
)

type memory struct{ *bytes.Reader }

func (memory) Close() error { return nil }

func open(s string) func() (mail.Content, error) {
	return func() (mail.Content, error) { return memory{bytes.NewReader([]byte(s))}, nil }
}

const letter = "From: sender@example.org\r\nTo: a@example.com\r\nSubject: hello\r\nMessage-ID: <1@example.org>\r\n\r\nThe body.\r\n"

var (
	now     = time.Date(2026, 11, 21, 15, 4, 5, 0, time.UTC)
	arrived = now.Add(-3 * time.Hour)
)

func sample(kind mail.ReportKind) mail.Report {
	return mail.Report{
		Kind:    kind,
		QueueID: "4QxyZ1",
		Envelope: mail.Envelope{
			ReversePath: mail.MustAddress("sender@example.org"),
			EnvelopeID:  "env+1",
			Recipients: []mail.Recipient{
				{Address: mail.MustAddress("a@example.com"), Original: "rfc822;alias@example.com", Accepted: mail.MustAddress("alias@example.com")},
				{Address: mail.MustAddress("b@example.com"), Accepted: mail.MustAddress("b@example.com")},
			},
		},
		Arrived:      arrived,
		ReceivedFrom: "client.example.net",
		Outcomes: []mail.Outcome{
			{
				Recipient: mail.MustAddress("a@example.com"), FromPeer: true,
				Reply:  status.Reply{Code: 550, Enhanced: [3]int{5, 1, 1}, Text: "<a@example.com>: Recipient address rejected:\nUser unknown in virtual mailbox table"},
				Remote: "mx.example.com[192.0.2.1]:25", RemoteMTA: "mx.example.com", At: now.Add(-time.Minute),
			},
			{
				Recipient: mail.MustAddress("b@example.com"),
				Reply:     status.ConnectionLost.Reply(),
				Remote:    "/run/lmtp", At: now.Add(-time.Minute),
			},
		},
		Open: open(letter),
	}
}

func reply(code int, enhanced [3]int, text string) status.Reply {
	return status.Reply{Code: code, Enhanced: enhanced, Text: text}
}

func reports() map[string]mail.Report {
	failed := sample(mail.ReportFailed)
	headers := sample(mail.ReportFailed)
	headers.Envelope.Return = mail.ReturnHeaders
	delayed := sample(mail.ReportDelayed)
	delayed.Until = arrived.Add(120 * time.Hour)
	for i := range delayed.Outcomes {
		delayed.Outcomes[i].Reply = reply(451, [3]int{4, 7, 1}, "Greylisted, come back later")
	}
	relayed := sample(mail.ReportRelayed)
	for i := range relayed.Outcomes {
		relayed.Outcomes[i].Reply = reply(250, [3]int{}, "ok")
		relayed.Outcomes[i].FromPeer = true
	}
	utf8 := sample(mail.ReportFailed)
	utf8.Envelope.SMTPUTF8 = true
	utf8.Envelope.ReversePath = mail.MustAddress("jürgen@example.org")
	utf8.Envelope.Recipients[0] = mail.Recipient{Address: mail.MustAddress("zoë@example.com"), Original: "utf-8;zoë@example.com"}
	utf8.Outcomes[0].Recipient = utf8.Envelope.Recipients[0].Address
	utf8.Open = open("Subject: grüße\r\n\r\nGrüße\r\n")
	downgraded := sample(mail.ReportFailed)
	downgraded.Envelope.Recipients[0] = utf8.Envelope.Recipients[0]
	downgraded.Outcomes[0].Recipient = utf8.Outcomes[0].Recipient
	downgraded.Outcomes[0].Reply.Text = "geht nicht, schöner Gruß"
	global := sample(mail.ReportFailed)
	global.Envelope.SMTPUTF8 = true
	global.Envelope.Recipients[0] = utf8.Envelope.Recipients[0]
	global.Outcomes[0].Recipient = utf8.Outcomes[0].Recipient
	global.Open = utf8.Open
	return map[string]mail.Report{
		"global": global, "failed": failed, "headers": headers, "delayed": delayed, "relayed": relayed, "utf8": utf8, "downgraded": downgraded,
	}
}

func compose(t testing.TB, r mail.Report) (string, mail.Envelope) {
	t.Helper()
	c, err := New(Config{Hostname: "mail.example.net"})
	if err != nil {
		t.Fatal(err)
	}
	var b bytes.Buffer
	env, err := c.Compose(&b, r, now, "id1")
	if err != nil {
		t.Fatal(err)
	}
	return b.String(), env
}

var update = flag.Bool("update", os.Getenv("UPDATE_GOLDEN") == "1", "rewrite golden files")

func TestComposeGolden(t *testing.T) {
	t.Parallel()
	for name, r := range reports() {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			got, _ := compose(t, r)
			if strings.Contains(strings.ReplaceAll(got, "\r\n", ""), "\n") {
				t.Error("bare LF")
			}
			got = strings.ReplaceAll(got, "\r\n", "\n")
			path := filepath.Join("testdata", name+".eml")
			if *update {
				if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			if got != string(want) {
				t.Errorf("got\n%s\nwant\n%s", got, want)
			}
		})
	}
}

// parsed is a report as another implementation reads it.
type parsed struct {
	header  message.Header
	types   []string
	parts   []string
	message textproto.MIMEHeader
	rcpts   []textproto.MIMEHeader
}

func parse(t testing.TB, s string) parsed {
	t.Helper()
	entity, err := message.Read(strings.NewReader(s))
	if err != nil {
		t.Fatalf("%v in\n%s", err, s)
	}
	p := parsed{header: entity.Header}
	multipart := entity.MultipartReader()
	if multipart == nil {
		t.Fatalf("not multipart:\n%s", s)
	}
	for {
		part, err := multipart.NextPart()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatalf("%v in\n%s", err, s)
		}
		kind, _, _ := part.Header.ContentType()
		body, err := io.ReadAll(part.Body)
		if err != nil {
			t.Fatal(err)
		}
		p.types, p.parts = append(p.types, kind), append(p.parts, string(body))
	}
	r := textproto.NewReader(bufio.NewReader(strings.NewReader(p.parts[1] + "\r\n")))
	for n := 0; ; n++ {
		group, err := r.ReadMIMEHeader()
		if len(group) > 0 && n == 0 {
			p.message = group
		} else if len(group) > 0 {
			p.rcpts = append(p.rcpts, group)
		}
		if errors.Is(err, io.EOF) {
			return p
		}
		if err != nil {
			t.Fatalf("%v in\n%s", err, p.parts[1])
		}
	}
}

func TestComposeParsesBack(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct {
		types              []string
		action, status     string
		original, final    string
		diagnostic, attach string
		until              bool
		body               mail.Body
	}{
		"failed": {[]string{"text/plain", "message/delivery-status", "message/rfc822"}, "failed", "5.1.1",
			"rfc822;alias@example.com", "rfc822;a@example.com",
			"smtp; 550 5.1.1 <a@example.com>: Recipient address rejected: User unknown in virtual mailbox table", letter, false, mail.Body7Bit},
		"headers": {[]string{"text/plain", "message/delivery-status", "text/rfc822-headers"}, "failed", "5.1.1",
			"rfc822;alias@example.com", "rfc822;a@example.com",
			"smtp; 550 5.1.1 <a@example.com>: Recipient address rejected: User unknown in virtual mailbox table", letter[:strings.Index(letter, "\r\nThe")], false, mail.Body7Bit},
		"delayed": {[]string{"text/plain", "message/delivery-status", "text/rfc822-headers"}, "delayed", "4.7.1",
			"rfc822;alias@example.com", "rfc822;a@example.com", "smtp; 451 4.7.1 Greylisted, come back later", letter[:strings.Index(letter, "\r\nThe")], true, mail.Body7Bit},
		"relayed": {[]string{"text/plain", "message/delivery-status", "text/rfc822-headers"}, "relayed", "2.0.0",
			"rfc822;alias@example.com", "rfc822;a@example.com", "smtp; 250 ok", letter[:strings.Index(letter, "\r\nThe")], false, mail.Body7Bit},
		"utf8": {[]string{"text/plain", "message/global-delivery-status", "message/global"}, "failed", "5.1.1",
			"utf-8;zoë@example.com", "utf-8;zoë@example.com",
			"smtp; 550 5.1.1 <a@example.com>: Recipient address rejected: User unknown in virtual mailbox table", "Subject: grüße\r\n\r\nGrüße\r\n", false, mail.Body8BitMIME},
		"downgraded": {[]string{"text/plain", "message/delivery-status", "message/rfc822"}, "failed", "5.1.1",
			`utf-8;zo\x{EB}@example.com`, `utf-8;zo\x{EB}@example.com`, "smtp; 550 5.1.1 geht nicht, sch\\x{F6}ner Gru\\x{DF}", letter, false, mail.Body7Bit},
		// A sender that ASCII can name has a way back without SMTPUTF8.
		"global": {[]string{"text/plain", "message/delivery-status", "message/global"}, "failed", "5.1.1",
			`utf-8;zo\x{EB}@example.com`, `utf-8;zo\x{EB}@example.com`,
			"smtp; 550 5.1.1 <a@example.com>: Recipient address rejected: User unknown in virtual mailbox table", "Subject: grüße\r\n\r\nGrüße\r\n", false, mail.Body7Bit},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := reports()[name]
			s, env := compose(t, r)
			p := parse(t, s)
			if fmt.Sprint(p.types) != fmt.Sprint(tt.types) {
				t.Errorf("parts %v, want %v", p.types, tt.types)
			}
			if len(p.rcpts) != 2 {
				t.Fatalf("%d recipients in\n%s", len(p.rcpts), p.parts[1])
			}
			first := p.rcpts[0]
			for field, want := range map[string]string{
				"Action": tt.action, "Status": tt.status, "Original-Recipient": tt.original, "Final-Recipient": tt.final,
				"Diagnostic-Code": tt.diagnostic, "Remote-Mta": "dns; mx.example.com", "Last-Attempt-Date": "Sat, 21 Nov 2026 15:03:05 +0000",
			} {
				if got := first.Get(field); got != want {
					t.Errorf("%s: got %q, want %q", field, got, want)
				}
			}
			if got := first.Get("Will-Retry-Until") != ""; got != tt.until {
				t.Errorf("Will-Retry-Until present: %v", got)
			}
			for field, want := range map[string]string{
				"Reporting-Mta": "dns; mail.example.net", "Original-Envelope-Id": "env+1",
				"Received-From-Mta": "dns; client.example.net", "Arrival-Date": "Sat, 21 Nov 2026 12:04:05 +0000",
			} {
				if got := p.message.Get(field); got != want {
					t.Errorf("%s: got %q, want %q", field, got, want)
				}
			}
			if got := strings.TrimRight(p.parts[2], "\r\n"); got != strings.TrimRight(tt.attach, "\r\n") {
				t.Errorf("attached %q, want %q", got, tt.attach)
			}
			if p.header.Get("Auto-Submitted") != "auto-replied" || !env.ReversePath.IsNull() ||
				len(env.Recipients) != 1 || env.Recipients[0].Address != r.Envelope.ReversePath || env.Recipients[0].Notify != mail.NotifyNever {
				t.Errorf("envelope %+v", env)
			}
			if env.Body != tt.body || env.SMTPUTF8 != (name == "utf8") {
				t.Errorf("body %v, utf8 %v", env.Body, env.SMTPUTF8)
			}
			if name != "utf8" && !isASCII([]byte(s)) {
				t.Error("report is not ASCII")
			}
		})
	}
}

func TestComposeNothingForNullReversePath(t *testing.T) {
	t.Parallel()
	c, err := New(Config{})
	if err != nil {
		t.Fatal(err)
	}
	r := sample(mail.ReportFailed)
	r.Envelope.ReversePath = mail.Address{}
	var b bytes.Buffer
	if _, err := c.Compose(&b, r, now, "id"); !errors.Is(err, ErrNullReversePath) || b.Len() > 0 {
		t.Errorf("%v, wrote %q", err, b.String())
	}
	if _, err := c.Compose(&b, r, time.Now(), ""); !errors.Is(err, ErrNullReversePath) {
		t.Error(err)
	}
}

func TestComposeBounded(t *testing.T) {
	t.Parallel()
	r := sample(mail.ReportFailed)
	r.Open = open("Subject: big\r\nX: y\r\n\r\n" + strings.Repeat("a line\r\n", 1<<14))
	s, _ := compose(t, r)
	if p := parse(t, s); p.types[2] != "text/rfc822-headers" || strings.TrimSpace(p.parts[2]) != "Subject: big\r\nX: y" {
		t.Errorf("large message: %s %q", p.types[2], p.parts[2])
	}
	r.Open = open(strings.Repeat("X-Field: value\r\n", 1<<14) + "\r\nbody")
	if s, _ := compose(t, r); len(s) > maxHeader+4096 {
		t.Errorf("large header: report of %d octets", len(s))
	}
	r.Open = func() (mail.Content, error) { return nil, errors.New("gone") }
	s, _ = compose(t, r)
	if p := parse(t, s); len(p.types) != 2 || len(p.rcpts) != 2 {
		t.Errorf("unreadable message: parts %v", p.types)
	}
}

// TestComposeForgedBoundary: a sender who knows the report's id cannot add
// parts to it.
func TestComposeForgedBoundary(t *testing.T) {
	t.Parallel()
	r := sample(mail.ReportFailed)
	r.Open = open("Subject: x\r\n\r\n--report_id1\r\nContent-Type: text/html\r\n\r\n--report_id1--\r\n")
	s, _ := compose(t, r)
	if p := parse(t, s); len(p.parts) != 3 || !strings.Contains(p.parts[2], "--report_id1--") {
		t.Errorf("parts %q", p.parts)
	}
}

func TestNewRefusesBadHostname(t *testing.T) {
	t.Parallel()
	for _, name := range []string{"a b", "a\r\nTo: x", "a>", "é"} {
		if _, err := New(Config{Hostname: name}); err == nil {
			t.Errorf("%q accepted", name)
		}
	}
}

// FuzzCompose: whatever peers and senders wrote, the report has its three
// parts, its fields and no others, and no line longer than RFC 5322 allows.
func FuzzCompose(f *testing.F) {
	f.Add("no\r\nAction: delivered", "a\nb@x", "rfc822;x\r\n\r\nFinal-Recipient: y", "e\r\nX: y", "mx\r\n.", 550, true)
	f.Add("\xff\x00 \u2028 \u0085", "é", "utf-8;\xff", "", "", 421, false)
	f.Add(strings.Repeat("long ", 500), strings.Repeat("l", 2000), strings.Repeat(";", 3000), strings.Repeat("é", 999), " ", 250, true)
	f.Fuzz(func(t *testing.T, text, local, original, envid, mta string, code int, utf8 bool) {
		r := sample(mail.ReportFailed)
		r.Envelope.SMTPUTF8 = utf8
		r.Envelope.EnvelopeID, r.ReceivedFrom, r.QueueID = envid, mta, mail.QueueID(text)
		rcpt := mail.Address{Local: mail.LocalPart(local), Domain: "example.com"}
		r.Envelope.Recipients[0] = mail.Recipient{Address: rcpt, Accepted: rcpt, Original: original}
		r.Outcomes[0].Recipient = rcpt
		r.Outcomes[0].Reply = status.Reply{Code: 200 + (code%400+400)%400, Text: text}
		r.Outcomes[0].RemoteMTA = mta
		s, _ := compose(t, r)
		for line := range strings.SplitSeq(s, "\r\n") {
			if len(line) > 998 || strings.ContainsAny(line, "\r\n") {
				t.Fatalf("line %q", line)
			}
		}
		p := parse(t, s)
		if len(p.parts) != 3 || len(p.rcpts) != 2 || p.rcpts[0].Get("Action") != "failed" || len(p.rcpts[0]["Action"]) != 1 {
			t.Fatalf("parts %d, recipients %v in\n%s", len(p.parts), p.rcpts, s)
		}
		for _, group := range append(p.rcpts, p.message) {
			for name := range group {
				if !known[name] {
					t.Fatalf("field %q in\n%s", name, s)
				}
			}
		}
		for fields := p.header.Fields(); fields.Next(); {
			if !known[textproto.CanonicalMIMEHeaderKey(fields.Key())] {
				t.Fatalf("header field %q in\n%s", fields.Key(), s)
			}
		}
	})
}

var known = func() map[string]bool {
	names := map[string]bool{}
	for _, name := range []string{
		"Content-Language", "In-Reply-To", "References", "From", "To", "Subject", "Date", "Message-ID", "Auto-Submitted", "MIME-Version", "Content-Transfer-Encoding", "Content-Type",
		"Reporting-MTA", "Original-Envelope-Id", "Received-From-MTA", "Arrival-Date", "X-Postern-Queue-ID", "X-Postern-Sender",
		"Original-Recipient", "Final-Recipient", "Action", "Status", "Remote-MTA", "Diagnostic-Code", "Last-Attempt-Date", "Will-Retry-Until",
	} {
		names[textproto.CanonicalMIMEHeaderKey(name)] = true
	}
	return names
}()

// TestComposeRequireTLS: a report on a message that required TLS requires it
// too, and tells no more of it than its header (RFC 8689 section 5).
func TestComposeRequireTLS(t *testing.T) {
	t.Parallel()
	r := sample(mail.ReportFailed)
	r.Envelope.RequireTLS, r.Envelope.Return = true, mail.ReturnFull
	s, env := compose(t, r)
	if p := parse(t, s); !env.RequireTLS || p.types[2] != "text/rfc822-headers" || strings.Contains(s, "The body.") {
		t.Errorf("envelope %+v, report\n%s", env, s)
	}
}
