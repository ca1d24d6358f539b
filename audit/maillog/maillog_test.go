package maillog

import (
	"bytes"
	"errors"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/postern-mail/postern/internal/testenv"
	"github.com/postern-mail/postern/mail"
)

var noon = time.Date(2026, 2, 3, 12, 0, 0, 0, time.UTC)

// event begins an event of a client of the mx listener.
func event(kind mail.EventKind, result string) mail.Event {
	return mail.Event{
		Time: noon, Kind: kind, Result: result, Service: "mx", Remote: netip.MustParseAddrPort("198.51.100.7:4711"),
		Client: "client.example", Helo: "helo.example", Protocol: "ESMTP",
	}
}

func address(s string) *mail.Address { a := mail.MustAddress(s); return &a }

// decided is a decision of policy at RCPT.
func decided(result, reply, detail string) mail.Event {
	e := event(mail.EventPolicy, result)
	e.Phase, e.Reply, e.Detail, e.Stage = "recipient", reply, detail, "stage"
	e.From, e.To = address("s@sender.example"), []mail.Address{*address("alice@example.com")}
	return e
}

func with(e mail.Event, change func(*mail.Event)) mail.Event { change(&e); return e }

// examples are events and what Postfix logs of the like.
var examples = []struct {
	event mail.Event
	want  string // daemon and text, lines separated by "\n"
}{
	{event(mail.EventConnect, ""), "postfix/smtpd: connect from client.example[198.51.100.7]"},
	{with(event(mail.EventConnect, ""), func(e *mail.Event) { e.Client, e.Remote = "", netip.MustParseAddrPort("[2001:db8::7]:25") }), "postfix/smtpd: connect from unknown[2001:db8::7]"},
	{with(event(mail.EventDisconnect, ""), func(e *mail.Event) { e.Reason = "quit" }), "postfix/smtpd: disconnect from client.example[198.51.100.7]"},
	{with(event(mail.EventDisconnect, ""), func(e *mail.Event) { e.Reason, e.Phase = "ConnectionLost", "helo" }),
		"postfix/smtpd: lost connection after EHLO from client.example[198.51.100.7]\npostfix/smtpd: disconnect from client.example[198.51.100.7]"},
	{with(event(mail.EventDisconnect, ""), func(e *mail.Event) { e.Reason, e.Phase = "TooManyErrors", "recipient" }),
		"postfix/smtpd: too many errors after RCPT from client.example[198.51.100.7]\npostfix/smtpd: disconnect from client.example[198.51.100.7]"},
	{with(event(mail.EventDisconnect, ""), func(e *mail.Event) { e.Reason, e.Phase = "Timeout", "data" }),
		"postfix/smtpd: timeout after DATA from client.example[198.51.100.7]\npostfix/smtpd: disconnect from client.example[198.51.100.7]"},
	{with(event(mail.EventDisconnect, ""), func(e *mail.Event) { e.Reason, e.Phase = "EarlyTalker", "helo" }),
		"postfix/smtpd: improper command pipelining after EHLO from client.example[198.51.100.7]\npostfix/smtpd: disconnect from client.example[198.51.100.7]"},
	{with(event(mail.EventAuth, "refused"), func(e *mail.Event) { e.Mechanism, e.Login = "PLAIN", "alice" }),
		"postfix/smtpd: warning: client.example[198.51.100.7]: SASL PLAIN authentication failed: authentication failure, sasl_username=alice"},
	{with(event(mail.EventAuth, "unknown"), func(e *mail.Event) { e.Mechanism, e.Login = "PLAIN", "alice" }),
		"postfix/smtpd: warning: client.example[198.51.100.7]: SASL PLAIN authentication failed: Connection lost to authentication server, sasl_username=alice"},
	{event(mail.EventAuth, "ok"), ""},
	{decided("refused", "554 5.7.1 <alice@example.com>: Relay access denied", "x"),
		"postfix/smtpd: NOQUEUE: reject: RCPT from client.example[198.51.100.7]: 554 5.7.1 <alice@example.com>: Relay access denied; from=<s@sender.example> to=<alice@example.com> proto=ESMTP helo=<helo.example>"},
	{with(decided("deferred", "450 4.7.1 later", ""), func(e *mail.Event) { e.Queue, e.Login = "Q1", "bob" }),
		"postfix/smtpd: Q1: reject: RCPT from client.example[198.51.100.7]: 450 4.7.1 later; from=<s@sender.example> to=<alice@example.com> proto=ESMTP helo=<helo.example> sasl_username=<bob>"},
	{with(decided("refused", "554 5.7.1 <client.example[198.51.100.7]>: Client host rejected: Access denied", ""), func(e *mail.Event) { e.Phase, e.From, e.To, e.Helo, e.Protocol = "connect", nil, nil, "", "" }),
		"postfix/smtpd: NOQUEUE: reject: CONNECT from client.example[198.51.100.7]: 554 5.7.1 <client.example[198.51.100.7]>: Client host rejected: Access denied; proto=SMTP"},
	{decided("warned", "554 5.7.1 no", ""),
		"postfix/smtpd: NOQUEUE: reject_warning: RCPT from client.example[198.51.100.7]: 554 5.7.1 no; from=<s@sender.example> to=<alice@example.com> proto=ESMTP helo=<helo.example>"},
	{decided("warned", "", "<s@sender.example>: Sender address look"),
		"postfix/smtpd: NOQUEUE: warn: RCPT from client.example[198.51.100.7]: <s@sender.example>: Sender address look; from=<s@sender.example> to=<alice@example.com> proto=ESMTP helo=<helo.example>"},
	{decided("informed", "", "so"), "postfix/smtpd: NOQUEUE: info: RCPT from client.example[198.51.100.7]: so; from=<s@sender.example> to=<alice@example.com> proto=ESMTP helo=<helo.example>"},
	{decided("held", "", "so"), "postfix/smtpd: NOQUEUE: hold: RCPT from client.example[198.51.100.7]: so; from=<s@sender.example> to=<alice@example.com> proto=ESMTP helo=<helo.example>"},
	{decided("discarded", "", "so"), "postfix/smtpd: NOQUEUE: discard: RCPT from client.example[198.51.100.7]: so; from=<s@sender.example> to=<alice@example.com> proto=ESMTP helo=<helo.example>"},
	{decided("filtered", "", "so"), "postfix/smtpd: NOQUEUE: filter: RCPT from client.example[198.51.100.7]: so; from=<s@sender.example> to=<alice@example.com> proto=ESMTP helo=<helo.example>"},
	{decided("redirected", "", "so"), "postfix/smtpd: NOQUEUE: redirect: RCPT from client.example[198.51.100.7]: so; from=<s@sender.example> to=<alice@example.com> proto=ESMTP helo=<helo.example>"},
	{decided("copied", "", "so"), "postfix/smtpd: NOQUEUE: bcc: RCPT from client.example[198.51.100.7]: so; from=<s@sender.example> to=<alice@example.com> proto=ESMTP helo=<helo.example>"},
	{with(decided("accepted", "", ""), func(e *mail.Event) {
		e.Queue, e.Octets, e.MessageID, e.Login, e.Mechanism = "Q1", 1234, "<m@client.example>", "bob", "PLAIN"
	}),
		"postfix/smtpd: Q1: client=client.example[198.51.100.7], sasl_method=PLAIN, sasl_username=bob\npostfix/cleanup: Q1: message-id=<m@client.example>"},
	{mail.Event{Time: noon, Kind: mail.EventAccept, Queue: "Q1", From: address("s@sender.example"), To: []mail.Address{*address("alice@example.com"), *address("bob@example.com")}, Octets: 1234},
		"postfix/qmgr: Q1: from=<s@sender.example>, size=1234, nrcpt=2 (queue active)"},
	{mail.Event{Time: noon, Kind: mail.EventDelivery, Result: "delivered", Queue: "Q1", To: []mail.Address{*address("alice@example.com")}, Peer: "mail.example[192.0.2.1]:25", Reply: "250 2.0.0 Ok: queued", Duration: 1500 * time.Millisecond},
		"postfix/smtp: Q1: to=<alice@example.com>, relay=mail.example[192.0.2.1]:25, delay=1.50, delays=0/0/0/1.50, dsn=2.0.0, status=sent (250 2.0.0 Ok: queued)"},
	{mail.Event{Time: noon, Kind: mail.EventDelivery, Result: "bounced", Queue: "Q1", To: []mail.Address{*address("alice@example.com")}, Reply: "550 gone", Duration: time.Second},
		"postfix/smtp: Q1: to=<alice@example.com>, relay=none, delay=1.00, delays=0/0/0/1.00, dsn=5.0.0, status=bounced (550 gone)"},
	{mail.Event{Time: noon, Kind: mail.EventDelivery, Result: "delivered", Queue: "Q1", Destination: "box/", To: []mail.Address{*address("bob@example.com")}, Peer: "/run/lmtp", Reply: "250 2.1.5 Ok", Duration: time.Second},
		"postfix/lmtp: Q1: to=<bob@example.com>, relay=/run/lmtp, delay=1.00, delays=0/0/0/1.00, dsn=2.1.5, status=sent (250 2.1.5 Ok)"},
	{mail.Event{Time: noon, Kind: mail.EventDelivery, Result: "deferred", Queue: "Q1", Destination: "elsewhere/mx.example", To: []mail.Address{*address("bob@example.com")}, Reply: "451 4.4.1 later", Duration: time.Second},
		"postfix/smtp: Q1: to=<bob@example.com>, relay=none, delay=1.00, delays=0/0/0/1.00, dsn=4.4.1, status=deferred (451 4.4.1 later)"},
	{mail.Event{Time: noon, Kind: mail.EventDelivery, Result: "bounced", Queue: "Q1", Destination: "error/5.1.6 moved", To: []mail.Address{*address("bob@example.com")}, Reply: "550 5.1.6 moved", Duration: time.Second},
		"postfix/error: Q1: to=<bob@example.com>, relay=none, delay=1.00, delays=0/0/0/1.00, dsn=5.1.6, status=bounced (550 5.1.6 moved)"},
	{mail.Event{Time: noon, Kind: mail.EventDelivery, Result: "delivered", Queue: "Q1", Destination: "discard/", To: []mail.Address{*address("bob@example.com")}, Reply: "250 2.0.0 Ok", Duration: time.Second},
		"postfix/discard: Q1: to=<bob@example.com>, relay=none, delay=1.00, delays=0/0/0/1.00, dsn=2.0.0, status=sent (250 2.0.0 Ok)"},
	{mail.Event{Time: noon, Kind: mail.EventDelivery, Service: "lmtp", Result: "deferred", Delivery: "Q1.0", To: []mail.Address{*address("bob@example.com")}, Reply: "452 4.2.2 full"}, ""},
	{with(event(mail.EventLimit, "refused"), func(e *mail.Event) { e.Client, e.Detail, e.Count = "", "Connection rate limit exceeded", 31 }),
		"postfix/smtpd: warning: Connection rate limit exceeded: 31 from unknown[198.51.100.7] for service smtp"},
	{with(event(mail.EventLimit, "refused"), func(e *mail.Event) {
		e.Service, e.Detail, e.Count = "submission", "AUTH command rate limit exceeded", 11
	}),
		"postfix/submission/smtpd: warning: AUTH command rate limit exceeded: 11 from client.example[198.51.100.7] for service submission"},
	{with(event(mail.EventPregreet, "refused"), func(e *mail.Event) { e.Duration, e.Count, e.Detail = 70*time.Millisecond, 11, `EHLO x\r\n` }),
		`postfix/postscreen: PREGREET 11 after 0.07 from [198.51.100.7]:4711: EHLO x\r\n`},
	{with(event(mail.EventDisconnect, ""), func(e *mail.Event) {
		e.Reason, e.Command, e.Commands = "quit", "QUIT", "ehlo=1 auth=1 mail=1 rcpt=0/1 data=1 quit=1 commands=5/6"
	}),
		"postfix/smtpd: disconnect from client.example[198.51.100.7] ehlo=1 auth=1 mail=1 rcpt=0/1 data=1 quit=1 commands=5/6"},
	{with(event(mail.EventDisconnect, ""), func(e *mail.Event) {
		e.Reason, e.Phase, e.Command, e.Commands = "ConnectionLost", "helo", "AUTH", "ehlo=1 auth=0/2 commands=1/3"
	}),
		"postfix/smtpd: lost connection after AUTH from client.example[198.51.100.7]\npostfix/smtpd: disconnect from client.example[198.51.100.7] ehlo=1 auth=0/2 commands=1/3"},
	{with(event(mail.EventDisconnect, ""), func(e *mail.Event) {
		e.Reason, e.Phase, e.Command, e.Commands = "ConnectionLost", "connect", "UNKNOWN", "unknown=0/1 commands=0/1"
	}),
		"postfix/smtpd: lost connection after UNKNOWN from client.example[198.51.100.7]\npostfix/smtpd: disconnect from client.example[198.51.100.7] unknown=0/1 commands=0/1"},
	{with(event(mail.EventDisconnect, ""), func(e *mail.Event) {
		e.Reason, e.Phase, e.Command, e.Commands = "ConnectionLost", "end-of-data", "DATA", "data=0/1 commands=0/1"
	}),
		"postfix/smtpd: lost connection after END-OF-MESSAGE from client.example[198.51.100.7]\npostfix/smtpd: disconnect from client.example[198.51.100.7] data=0/1 commands=0/1"},
	{mail.Event{Time: noon, Kind: mail.EventFinal, Queue: "Q1"}, "postfix/qmgr: Q1: removed"},
	{with(event(mail.EventConnect, ""), func(e *mail.Event) { e.Service = "imap" }), ""},
	{with(event(mail.EventConnect, ""), func(e *mail.Event) { e.Service = "submission" }), "postfix/submission/smtpd: connect from client.example[198.51.100.7]"},
}

func services() map[string]string {
	return map[string]string{"mx": Daemon("mx"), "submission": Daemon("submission"), "submissions": Daemon("submissions")}
}

// written returns the lines of events.
func written(t *testing.T, events ...mail.Event) string {
	t.Helper()
	var out bytes.Buffer
	l := New(Config{Hostname: "mx.example.com", Services: services(), Targets: map[string]string{"box": "postfix/lmtp"}}, &out, hclog.NewNullLogger())
	for _, e := range events {
		l.Record(e)
	}
	return out.String()
}

func TestLines(t *testing.T) {
	t.Parallel()
	process := regexp.MustCompile(`\[\d+\]: `)
	for _, tt := range examples {
		var got []string
		for line := range strings.Lines(written(t, tt.event)) {
			text, ok := strings.CutPrefix(strings.TrimSuffix(line, "\n"), "Feb  3 12:00:00 mx ")
			if !ok {
				t.Errorf("line %q", line)
			}
			at := process.FindStringIndex(text)
			got = append(got, text[:at[0]]+": "+text[at[1]:])
		}
		if joined := strings.Join(got, "\n"); joined != tt.want {
			t.Errorf("got  %s\nwant %s", joined, tt.want)
		}
	}
}

// TestOneLineStaysOneLine: what a client says ends no line.
func TestOneLineStaysOneLine(t *testing.T) {
	t.Parallel()
	e := decided("refused", "554 5.7.1 no\r\nFeb  3 12:00:00 mx postfix/smtpd[1]: connect from x[192.0.2.9]", "")
	e.Helo, e.Client = "a\nb", "c\x00d"
	if got := written(t, e); strings.Count(got, "\n") != 1 || strings.ContainsAny(got, "\r\x00") {
		t.Errorf("%q", got)
	}
}

type broken struct{}

func (broken) Write([]byte) (int, error) { return 0, errors.New("disk is full") }

// TestLostLinesAreTold: once, until it works again.
func TestLostLinesAreTold(t *testing.T) {
	t.Parallel()
	var said bytes.Buffer
	l := New(Config{Hostname: "mx", Services: services()}, broken{}, hclog.New(&hclog.LoggerOptions{Output: &said}))
	for range 3 {
		l.Record(event(mail.EventConnect, ""))
	}
	if got := strings.Count(said.String(), "disk is full"); got != 1 {
		t.Errorf("told %d times: %s", got, said.String())
	}
	l.Serve(nil, nil)
	l.Record(event(mail.EventConnect, "")) // of nobody's any more
}

// TestFail2ban has the real filter find the clients that it looks for.
func TestFail2ban(t *testing.T) {
	t.Parallel()
	program := testenv.Program(t, "fail2ban-regex")
	var events []mail.Event
	for _, tt := range examples {
		e := tt.event
		e.Time = time.Now()
		events = append(events, e)
	}
	for _, reply := range []string{
		"550 5.1.1 <nobody@example.com>: Recipient address rejected: User unknown",
		"504 5.5.2 <helo>: Helo command rejected: need fully-qualified hostname",
		"450 4.7.1 <x>: Sender address rejected: Domain not found",
		"554 5.7.1 Service unavailable; Client host [198.51.100.7] blocked using dnsbl.example",
	} {
		events = append(events, with(decided("refused", reply, ""), func(e *mail.Event) { e.Time = time.Now() }))
	}
	file := filepath.Join(t.TempDir(), "mail.log")
	if err := os.WriteFile(file, []byte(written(t, events...)), 0o600); err != nil {
		t.Fatal(err)
	}
	matched := regexp.MustCompile(`(\d+) matched`)
	for mode, want := range map[string]string{
		"normal": "7", "more": "7", "auth": "1", "rbl": "1", "ddos": "5", "extra": "8", "aggressive": "13", "errors": "1",
	} {
		out := testenv.Run(t, program, file, "postfix[mode="+mode+"]")
		found := matched.FindStringSubmatch(out)
		if len(found) != 2 || found[1] != want {
			t.Errorf("mode %s: %v matched, want %s\n%s", mode, found, want, out)
		}
	}
}

// TestPflogsumm has the real program count.
func TestPflogsumm(t *testing.T) {
	t.Parallel()
	program := testenv.Program(t, "pflogsumm")
	var events []mail.Event
	for _, tt := range examples {
		events = append(events, tt.event)
	}
	file := filepath.Join(t.TempDir(), "mail.log")
	if err := os.WriteFile(file, []byte(written(t, events...)), 0o600); err != nil {
		t.Fatal(err)
	}
	out := testenv.Run(t, program, "--smtpd-stats", file)
	for _, want := range []string{
		`\n +1 +received\n`, `\n +3 +delivered\n`, `\n +1 +deferred`, `\n +2 +bounced`, `\n +3 +rejected`, `\n +1 +reject warnings\n`, `\n +1 +held\n`, `\n +1 +discarded`,
		`\n +2 +recipients\n`, `Connection rate limit exceeded`, `AUTH command rate limit exceeded`, `Relay access denied`,
	} {
		if !regexp.MustCompile(want).MatchString(out) {
			t.Errorf("pflogsumm does not say %s:\n%s", want, out)
		}
	}
}
