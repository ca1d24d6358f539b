package delegation

import (
	"bufio"
	"context"
	"io"
	"net"
	"net/textproto"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/postern-mail/postern/internal/testenv"
	"github.com/postern-mail/postern/mail"
	"github.com/postern-mail/postern/policy"
)

// ours is what a chain of a test asks.
type ours struct{}

func (ours) Class(d mail.Domain) policy.DomainClass {
	if d == "example.com" {
		return policy.Local
	}
	return policy.Other
}

func (ours) Resolve(_ context.Context, a mail.Address, _ *mail.Poster) ([]mail.Recipient, error) {
	return []mail.Recipient{{Address: a}}, nil
}

func (ours) Record(mail.Event) {}

// says is a restriction of a test.
type says struct {
	name   string
	answer func(tx *mail.Transaction) mail.Verdict
}

func (s says) Name() string { return s.name }

func (s says) Evaluate(_ context.Context, tx *mail.Transaction) (mail.Verdict, error) {
	return s.answer(tx), nil
}

// chain has what a test needs under names that tell.
func chain(t *testing.T, cfg policy.Config, lists map[policy.List][]policy.Spec) *policy.Chain {
	t.Helper()
	copyTo := mail.MustAddress("archive@example.com")
	stages := make(map[string]func(policy.Spec) (policy.Stage, error))
	add := func(name string, answer func(tx *mail.Transaction) mail.Verdict) {
		stages[name] = func(policy.Spec) (policy.Stage, error) { return says{name, answer}, nil }
	}
	add("mark", func(tx *mail.Transaction) mail.Verdict {
		return mail.Verdict{Edits: []mail.Edit{{PrependHeader: "X-Mark: folded\r\n\tvalue"}}}
	})
	add("copy", func(tx *mail.Transaction) mail.Verdict {
		return mail.Verdict{Edits: []mail.Edit{{Copy: &copyTo}}}
	})
	add("keep", func(tx *mail.Transaction) mail.Verdict {
		if tx.Recipient != nil && tx.Recipient.Address.Local == "held" {
			return mail.Verdict{Action: mail.Hold}
		}
		return mail.Verdict{}
	})
	c, err := policy.Build(cfg, lists, policy.Deps{Domains: ours{}, Recipients: ours{}, Audit: ours{}, Logger: hclog.NewNullLogger(), Stages: stages})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func specs(names string) []policy.Spec {
	var all []policy.Spec
	for name := range strings.FieldsSeq(names) {
		all = append(all, policy.Spec{Name: name})
	}
	return all
}

// serve starts a server on 127.0.0.1 and returns its address.
func serve(t *testing.T, cfg ServerConfig, c *policy.Chain) string {
	t.Helper()
	s, err := NewServer(cfg, func() *policy.Chain { return c }, hclog.NewNullLogger(), nil)
	if err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- s.Serve(ctx, l) }()
	t.Cleanup(func() {
		stop()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
	return l.Addr().String()
}

// questioner asks over one connection.
type questioner struct {
	t    *testing.T
	conn net.Conn
	in   *bufio.Reader
}

func dial(t *testing.T, address string) *questioner {
	t.Helper()
	conn, err := net.Dial("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	if err := conn.SetDeadline(time.Now().Add(time.Minute)); err != nil {
		t.Fatal(err)
	}
	return &questioner{t, conn, bufio.NewReaderSize(conn, maxLine)}
}

// ask asks with what Postfix always says and more, and returns the action.
func (q *questioner) ask(more ...string) string {
	q.t.Helper()
	text := "request=smtpd_access_policy\nprotocol_name=ESMTP\nclient_address=198.51.100.7\nclient_name=unknown\nhelo_name=h.example\n" + strings.Join(more, "\n") + "\n\n"
	if _, err := io.WriteString(q.conn, text); err != nil {
		q.t.Fatal(err)
	}
	all, err := readMessage(q.in, func() {})
	if err != nil {
		return err.Error()
	}
	action, _ := valueOf(all, "action")
	return action
}

func TestServerDecides(t *testing.T) {
	t.Parallel()
	lists := map[policy.List][]policy.Spec{
		policy.ListSender:    specs("reject_non_fqdn_sender"),
		policy.ListRelay:     specs("permit_authenticated reject_unauth_destination"),
		policy.ListRecipient: specs("keep copy mark"),
		policy.ListData:      specs("reject_multi_recipient_bounce"),
	}
	q := dial(t, serve(t, ServerConfig{Listener: "mx"}, chain(t, policy.Config{}, lists)))
	for i, tt := range []struct {
		question []string
		want     string
	}{
		{[]string{"protocol_state=RCPT", "instance=1", "sender=s@example.org", "recipient=a@example.com"}, "BCC archive@example.com"},
		{[]string{"protocol_state=RCPT", "instance=1", "sender=s@example.org", "recipient=b@example.com"}, "PREPEND X-Mark: folded value"},
		{[]string{"protocol_state=RCPT", "instance=1", "sender=s@example.org", "recipient=c@example.com"}, "DUNNO"},
		{[]string{"protocol_state=RCPT", "instance=1", "sender=s@example.org", "recipient=held@example.com"}, "HOLD"},
		{[]string{"protocol_state=RCPT", "instance=2", "sender=s@example.org", "recipient=a@example.com"}, "BCC archive@example.com"},
		{[]string{"protocol_state=RCPT", "instance=3", "sender=s@example.org", "recipient=a@other.example"}, "554 5.7.1 <a@other.example>: Relay access denied"},
		{[]string{"protocol_state=RCPT", "instance=4", "sender=s@example.org", "recipient=a@other.example", "sasl_username=bob", "sasl_method=PLAIN"}, "BCC archive@example.com"},
		{[]string{"protocol_state=RCPT", "instance=5", "sender=root", "recipient=a@example.com"}, "504 5.5.2 <root>: Sender address rejected: need fully-qualified address"},
		{[]string{"protocol_state=RCPT", "instance=6", "sender=a b@@x", "recipient=a@example.com"}, "501 5.1.7 Bad sender address syntax"},
		{[]string{"protocol_state=RCPT", "instance=7", "sender=s@example.org", "recipient=postmaster"}, "DUNNO"},
		{[]string{"protocol_state=DATA", "instance=8", "sender=", "recipient=", "recipient_count=3"}, "550 5.5.3 Multi-recipient bounce"},
		{[]string{"protocol_state=DATA", "instance=9", "sender=", "recipient=a@example.com", "recipient_count=1"}, "DUNNO"},
		{[]string{"protocol_state=ETRN", "instance=10"}, "DUNNO"},
		{[]string{"protocol_state=END-OF-MESSAGE", "instance=11", "size=99", "sender=s@example.org", "recipient_count=2"}, "DUNNO"},
	} {
		if got := q.ask(tt.question...); got != tt.want {
			t.Errorf("question %d: %q, want %q", i, got, tt.want)
		}
	}
}

// TestServerDecidesEarly: with delay_reject off the first lists run at their own
// place, and at a later one, too, where nobody asked before.
func TestServerDecidesEarly(t *testing.T) {
	t.Parallel()
	lists := map[policy.List][]policy.Spec{policy.ListHelo: specs("reject"), policy.ListRelay: specs("reject_unauth_destination")}
	q := dial(t, serve(t, ServerConfig{}, chain(t, policy.Config{EarlyReject: true}, lists)))
	const refused = "554 5.7.1 <h.example>: Helo command rejected: Access denied"
	for _, tt := range []struct{ state, want string }{{"CONNECT", "DUNNO"}, {"EHLO", refused}, {"MAIL", refused}, {"RCPT", refused}, {"RCPT", refused}} {
		if got := q.ask("protocol_state="+tt.state, "instance=1", "sender=s@example.org", "recipient=a@example.com"); got != tt.want {
			t.Errorf("%s: %q, want %q", tt.state, got, tt.want)
		}
	}
}

func TestServerIsBounded(t *testing.T) {
	t.Parallel()
	c := chain(t, policy.Config{}, nil)
	address := serve(t, ServerConfig{Connections: 2, Idle: time.Minute, Timeout: 200 * time.Millisecond}, c)
	for name, text := range map[string]string{
		"no attribute":     "nonsense\n\n",
		"another request":  "request=other\n\n",
		"no client":        "request=smtpd_access_policy\nprotocol_state=RCPT\n\n",
		"no recipient":     "request=smtpd_access_policy\nprotocol_state=RCPT\nclient_address=192.0.2.1\n\n",
		"an endless line":  strings.Repeat("x", maxLine+1) + "\n",
		"endless":          strings.Repeat("a=b\n", maxAttributes+2),
		"half a question":  "request=smtpd",
		"a slow question":  "request=smtpd_access_policy\n",
		"nothing but ends": "\n",
	} {
		q := dial(t, address)
		_, err := io.WriteString(q.conn, text)
		if err == nil {
			_, err = io.ReadAll(q.conn)
		}
		if err != nil && !strings.Contains(err.Error(), "reset") && !strings.Contains(err.Error(), "broken pipe") {
			t.Errorf("%s: %v", name, err)
		}
		_ = q.conn.Close()
	}
	// No more connections than allowed: the third is closed.
	testenv.Eventually(t, time.Minute, func() error {
		a, b := dial(t, address), dial(t, address)
		defer a.conn.Close()
		defer b.conn.Close()
		question := []string{"protocol_state=RCPT", "instance=1", "sender=s@example.org", "recipient=a@example.com"}
		if a.ask(question...) != "DUNNO" || b.ask(question...) != "DUNNO" {
			return io.ErrNoProgress // the ones before are about to be counted out
		}
		third := dial(t, address)
		defer third.conn.Close()
		if _, err := third.conn.Read(make([]byte, 1)); err == nil {
			t.Error("a third connection is answered")
		}
		return nil
	})
	s, err := NewServer(ServerConfig{}, func() *policy.Chain { return c }, hclog.NewNullLogger(), nil)
	if err != nil {
		t.Fatal(err)
	}
	if s.allowed(from("203.0.113.9")) || !s.allowed(from("127.0.0.1")) {
		t.Error("others than this machine may ask")
	}
}

// from is a connection of somebody.
type elsewhere struct {
	net.Conn
	at net.Addr
}

func (e elsewhere) RemoteAddr() net.Addr { return e.at }

func from(ip string) net.Conn { return elsewhere{at: &net.TCPAddr{IP: net.ParseIP(ip), Port: 1}} }

// TestOurselves: our client asks our server, and both mean the same.
func TestOurselves(t *testing.T) {
	t.Parallel()
	address := serve(t, ServerConfig{}, chain(t, policy.Config{}, map[policy.List][]policy.Spec{policy.ListRelay: specs("permit_authenticated reject_unauth_destination")}))
	s := service(t, Config{Address: "inet:" + address})
	var all sync.WaitGroup
	for range 8 {
		all.Go(func() {
			for range 50 {
				if got, err := s.Ask(context.Background(), rcpt("2001:db8::1", "s@example.org", "x@other.example")); err != nil || got != "554 5.7.1 <x@other.example>: Relay access denied" {
					t.Errorf("%q, %v", got, err)
				}
			}
		})
	}
	all.Wait()
	tx := rcpt("2001:db8::1", "s@example.org", "x@other.example")
	tx.Client.Identity = &mail.Identity{Authentication: "bob", Mechanism: "PLAIN"}
	if got, err := s.Ask(t.Context(), tx); err != nil || got != actionDunno {
		t.Errorf("logged in: %q, %v", got, err)
	}
}

// TestPostfixAsks: an existing Postfix decides by our lists.
func TestPostfixAsks(t *testing.T) {
	t.Parallel()
	address := serve(t, ServerConfig{}, chain(t, policy.Config{}, map[policy.List][]policy.Spec{
		policy.ListSender: specs("reject_non_fqdn_sender"), policy.ListRelay: specs("reject_unauth_destination"), policy.ListRecipient: specs("keep mark"),
		policy.ListData: specs("reject_multi_recipient_bounce"),
	}))
	postfix := testenv.PostfixMaster(t,
		"relay_domains = example.com, elsewhere.example", "relay_transport = hold:nowhere", "smtpd_relay_restrictions = permit",
		"smtpd_recipient_restrictions = reject_unauth_destination, check_policy_service inet:"+address,
		"smtpd_data_restrictions = check_policy_service inet:"+address)
	conn, err := textproto.Dial("tcp", postfix.SMTP)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	say := func(line, want string) {
		t.Helper()
		if line != "" {
			if err := conn.PrintfLine("%s", line); err != nil {
				t.Fatal(err)
			}
		}
		code, text, err := conn.ReadResponse(0)
		if err != nil && code == 0 {
			t.Fatal(err)
		}
		if got := strings.TrimSpace(strings.Join([]string{itoa(code), text}, " ")); !strings.HasPrefix(got, want) {
			t.Errorf("%q: %q, want %q\n%s", line, got, want, postfix.Log())
		}
	}
	say("", "220")
	say("EHLO client.example", "250")
	say("MAIL FROM:<sender@unqualified>", "250")
	say("RCPT TO:<alice@example.com>", "504 5.5.2 <alice@example.com>: Recipient address rejected: <sender@unqualified>: Sender address rejected: need fully-qualified address")
	say("RSET", "250")
	say("MAIL FROM:<sender@example.org>", "250")
	say("RCPT TO:<x@elsewhere.example>", "554 5.7.1 <x@elsewhere.example>: Recipient address rejected: <x@elsewhere.example>: Relay access denied")
	say("RCPT TO:<held@example.com>", "250")
	say("RCPT TO:<alice@example.com>", "250")
	say("DATA", "354")
	say("Subject: x\r\n\r\nhello\r\n.", "250")
	say("MAIL FROM:<>", "250")
	say("RCPT TO:<alice@example.com>", "250")
	say("RCPT TO:<bob@example.com>", "250")
	say("DATA", "550 5.5.3 <DATA>: Data command rejected: Multi-recipient bounce")
	if log := postfix.Log(); !strings.Contains(log, "triggers HOLD action") && !strings.Contains(log, ": hold: ") {
		t.Errorf("Postfix does not hold what we said to hold:\n%s", log)
	}
}

func itoa(code int) string {
	return string([]byte{byte('0' + code/100%10), byte('0' + code/10%10), byte('0' + code%10)})
}

func FuzzQuestion(f *testing.F) {
	f.Add("request=smtpd_access_policy\nprotocol_state=RCPT\nclient_address=192.0.2.1\nsender=a@b.example\nrecipient=x@example.com\n\n")
	f.Add("request=smtpd_access_policy\nprotocol_state=DATA\nclient_address=::1\nrecipient_count=99999999999\nsize=-1\n\n")
	f.Fuzz(func(t *testing.T, text string) {
		all, err := readMessage(bufio.NewReaderSize(strings.NewReader(text), maxLine), func() {})
		if err != nil {
			return
		}
		tx, err := transactionOf(all, "mx")
		if err != nil || tx == nil {
			return
		}
		if len(tx.Envelope.Recipients) > maxCounted || tx.Octets < 0 || tx.Envelope.DeclaredOctets < 0 {
			t.Errorf("%+v", tx.Envelope)
		}
		if tx.Phase == mail.PhaseRecipient && tx.Recipient == nil {
			t.Error("RCPT without a recipient")
		}
	})
}
