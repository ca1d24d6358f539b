package smtpd

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/postern-mail/postern/mail"
	"github.com/postern-mail/postern/queue"
	"github.com/postern-mail/postern/status"
	"github.com/postern-mail/postern/store"
)

var _ Queue = (*queue.Queue)(nil)

func mailAddress(s string) mail.Address { return mail.MustAddress(s) }

func TestNewRefusesHalfAConfiguration(t *testing.T) {
	t.Parallel()
	q, audit := &fakeQueue{}, &recorder{}
	whole := scene{}.build(t, q, audit)
	for name, change := range map[string]func(*Config, *Deps){
		"no policy":           func(_ *Config, d *Deps) { d.Policy = nil },
		"no queue":            func(_ *Config, d *Deps) { d.Queue = nil },
		"no audit":            func(_ *Config, d *Deps) { d.Audit = nil },
		"no hostname":         func(c *Config, _ *Deps) { c.Hostname = "" },
		"not a hostname":      func(c *Config, _ *Deps) { c.Hostname = "mx example" },
		"auth without anyone": func(c *Config, d *Deps) { c.RequireAuth, d.Authn = true, nil },
		"negative":            func(c *Config, _ *Deps) { c.MaxHops = -1 },
	} {
		cfg, deps := whole.cfg, whole.deps
		change(&cfg, &deps)
		if _, err := New(cfg, deps); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
	deps := whole.deps
	deps.Metrics = prometheus.NewRegistry()
	for range 2 { // as after a reload
		h, err := New(whole.cfg, deps)
		if err != nil {
			t.Fatal(err)
		}
		h.count.message(resultAccepted)
	}
}

// TestDisconnects drops the connection after each line of a dialogue: nothing
// may be accepted, and no body stay behind.
func TestDisconnects(t *testing.T) {
	t.Parallel()
	lines := []string{
		"EHLO client.example", "MAIL FROM:<s@sender.example>", "RCPT TO:<alice@example.com>", "DATA",
		"Subject: x\r\n\r\nhalf a message", "the other half\r\n.",
	}
	for n := range lines {
		t.Run(fmt.Sprintf("after %d lines", n), func(t *testing.T) {
			t.Parallel()
			l, err := net.Listen("tcp", "127.0.0.1:0")
			if err != nil {
				t.Fatal(err)
			}
			st := scene{}.serve(t, l, nil)
			conn, err := net.Dial("tcp", l.Addr().String())
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			if err := conn.SetDeadline(time.Now().Add(time.Minute)); err != nil {
				t.Fatal(err)
			}
			buf := make([]byte, 4096)
			for i, line := range lines[:n] {
				if _, err := conn.Read(buf); err != nil && i < 5 {
					t.Fatal(err)
				}
				if _, err := conn.Write([]byte(line + "\r\n")); err != nil {
					t.Fatal(err)
				}
				if i == 4 {
					break
				}
			}
			conn.Close()
			deadline := time.After(time.Minute)
			for !strings.Contains(st.audit.String(), "disconnect") {
				select {
				case <-deadline:
					t.Fatal("the session does not end")
				case <-time.After(time.Millisecond):
				}
			}
			st.stop()
			if got := st.queue.String(); got != "" {
				t.Errorf("the queue holds\n%s", got)
			}
			if got := st.audit.String(); !strings.Contains(got, "disconnect ConnectionLost") {
				t.Errorf("audit\n%s", got)
			}
		})
	}
}

func TestStoreErrors(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		err  error
		want status.Reason
	}{
		{store.ErrFull, status.MailSystemFull},
		{fmt.Errorf("stage: %w", store.ErrFull), status.MailSystemFull},
		{status.New(status.MailSystemFull, nil), status.MailSystemFull},
		{status.New(status.TooManyRecipients, nil), status.TooManyRecipients},
		{status.New(status.NoSuchUser, nil), status.StoreDown},
		{errors.New("input/output error"), status.StoreDown},
		{context.Canceled, status.ServerBusy},
	} {
		if got := status.Of(storeError(tt.err)); got != tt.want {
			t.Errorf("%v: got %s, want %s", tt.err, got, tt.want)
		}
	}
}

func TestRecipientSet(t *testing.T) {
	t.Parallel()
	people := func(from, count int) (all []mail.Recipient) {
		for i := range count {
			all = append(all, mail.Recipient{Address: mail.Address{Local: mail.LocalPart(fmt.Sprint("p", from+i)), Domain: "example.com"}})
		}
		return all
	}
	var s recipientSet
	for range 2 {
		for _, n := range []int{5, 20, 90} {
			if err := s.add(people(0, n), 100); err != nil {
				t.Fatal(err)
			}
		}
	}
	if len(s.all) != 90 {
		t.Errorf("%d recipients, want 90", len(s.all))
	}
	if err := s.add(people(85, 16), 100); status.Of(err) != status.TooManyRecipients || len(s.all) != 90 {
		t.Errorf("11 more: %v, %d recipients", err, len(s.all))
	}
	if err := s.add(people(0, 101), 100); status.Of(err) != status.AddressLoop {
		t.Errorf("101 at once: %v", err)
	}
	if err := s.add(people(90, 10), 100); err != nil || len(s.all) != 100 {
		t.Errorf("10 more: %v, %d recipients", err, len(s.all))
	}
	other := people(0, 1)
	other[0].Route.Transport = "elsewhere"
	if err := s.add(other, 200); err != nil || len(s.all) != 101 {
		t.Errorf("another route: %v, %d recipients", err, len(s.all))
	}
	long := recipientSet{}
	var err error
	for i := 0; err == nil && i < 100_000; i++ {
		r := people(i, 1)
		r[0].Original = strings.Repeat("x", 500)
		err = long.add(r, 1<<20)
	}
	if status.Of(err) != status.TooManyRecipients || long.octets > store.MaxBatchOctets {
		t.Errorf("%v with %d octets", err, long.octets)
	}
}

func TestNotifyOfMergedRecipients(t *testing.T) {
	t.Parallel()
	const never, success, failure, delay = mail.NotifyNever, mail.NotifySuccess, mail.NotifyFailure, mail.NotifyDelay
	for _, tt := range []struct{ a, b, want mail.Notify }{
		{0, 0, 0},
		{never, never, never},
		{never, 0, failure | delay},
		{never, success, success},
		{0, success, success | failure | delay},
		{success, failure, success | failure},
	} {
		if got := either(tt.a, tt.b); got != tt.want {
			t.Errorf("%d and %d: got %d, want %d", tt.a, tt.b, got, tt.want)
		}
		if got := either(tt.b, tt.a); got != tt.want {
			t.Errorf("%d and %d: got %d, want %d", tt.b, tt.a, got, tt.want)
		}
	}
}

func TestTraceField(t *testing.T) {
	t.Parallel()
	one := []mail.Recipient{{Accepted: mail.MustAddress("a@example.com")}}
	two := append(one, one...)
	tls := &mail.TLSInfo{Version: "TLSv1.3", Cipher: "TLS_AES_128_GCM_SHA256"}
	alice := &mail.Identity{Authentication: "alice"}
	v4, v6 := netip.MustParseAddrPort("192.0.2.1:25"), netip.MustParseAddrPort("[2001:db8::1]:25")
	const end = ";\r\n\tSat, 21 Nov 2026 14:00:00 +0000\r\n"
	for _, tt := range []struct {
		name   string
		client mail.Client
		utf8   bool
		login  bool
		to     []mail.Recipient
		want   string
	}{
		{"HELO", mail.Client{Helo: "client", Remote: v4}, false, false, two,
			"Received: from client ([192.0.2.1])\r\n\tby mx.example (Postern) with SMTP id Q1" + end},
		{"one recipient, a verified name", mail.Client{Helo: "client", Hostname: "c.example", Remote: v4, Extended: true}, false, false, one,
			"Received: from client (c.example [192.0.2.1])\r\n\tby mx.example (Postern) with ESMTP id Q1\r\n\tfor <a@example.com>" + end},
		{"TLS over IPv6", mail.Client{Helo: "client", Remote: v6, Extended: true, TLS: tls}, false, false, two,
			"Received: from client ([IPv6:2001:db8::1])\r\n\tby mx.example (Postern) with ESMTPS id Q1\r\n\ttls TLS_AES_128_GCM_SHA256 (TLSv1.3)" + end},
		{"login without TLS", mail.Client{Helo: "client", Remote: v4, Extended: true, Identity: alice}, false, false, two,
			"Received: from client ([192.0.2.1])\r\n\tby mx.example (Postern) with ESMTPA id Q1" + end},
		{"login with TLS, named", mail.Client{Helo: "client", Remote: v4, Extended: true, Identity: alice, TLS: tls}, false, true, two,
			"Received: from client ([192.0.2.1])\r\n\t(Authenticated sender: alice)\r\n\tby mx.example (Postern) with ESMTPSA id Q1\r\n\ttls TLS_AES_128_GCM_SHA256 (TLSv1.3)" + end},
		{"SMTPUTF8", mail.Client{Helo: "client", Remote: v4, Extended: true, Identity: alice, TLS: tls}, true, false, two,
			"Received: from client ([192.0.2.1])\r\n\tby mx.example (Postern) with UTF8SMTPSA id Q1\r\n\ttls TLS_AES_128_GCM_SHA256 (TLSv1.3)" + end},
		{"a client that forges", mail.Client{Helo: "x) by evil (y <z@w>;\r\n\tdate", Remote: v4}, false, false, two,
			"Received: from x??by?evil??y??z?w?????date ([192.0.2.1])\r\n\tby mx.example (Postern) with SMTP id Q1" + end},
		{"a socket", mail.Client{}, false, false, two,
			"Received: from unknown\r\n\tby mx.example (Postern) with SMTP id Q1" + end},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			tx := &transaction{session: &session{handler: &Handler{cfg: Config{Hostname: "mx.example", TraceLogin: tt.login}}}}
			tx.tx.Client, tx.tx.QueueID = tt.client, "Q1"
			tx.tx.Envelope = mail.Envelope{SMTPUTF8: tt.utf8, Recipients: tt.to}
			got, _ := tx.prepend(headerFacts{}, time.Date(2026, 11, 21, 15, 0, 0, 0, time.FixedZone("", 3600)))
			if got != tt.want {
				t.Errorf("got\n%q\nwant\n%q", got, tt.want)
			}
		})
	}
}

func TestHeaderFacts(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name, message string
		want          headerFacts
	}{
		{"empty", "", headerFacts{}},
		{"no header", "\r\nDate: in the body\r\n", headerFacts{}},
		{"usual", "Received: a\r\n\tb\r\nRECEIVED : c\r\nDate: x\r\nMessage-Id: <1@x>\r\n\r\nReceived: body\r\n", headerFacts{received: 2, date: true, messageID: "<1@x>"}},
		{"forwarded", "Delivered-To: A.B@Example.com\r\ndelivered-to:\r\n c@d.example\r\nDelivered-To: 12\r\n\r\nDelivered-To: e@f.example\r\n",
			headerFacts{deliveredTo: []mail.Address{mail.MustAddress("a.b@example.com"), mail.MustAddress("c@d.example")}}},
		{"folded", "Message-ID:\r\n <1@x>\r\n\r\n", headerFacts{messageID: "<1@x>"}},
		{"names that only begin so", "Received-SPF: pass\r\nDated: x\r\nMessage-IDs: y\r\n\r\n", headerFacts{}},
		{"continuation", "Subject: x\r\n Received: y\r\n Date: z\r\n\r\n", headerFacts{}},
		{"text only", "hello\r\n", headerFacts{headless: true}},
		{"text with a colon", "well, so: hello\r\n", headerFacts{headless: true}},
		{"begins as if it went on", " Received: x\r\n\r\n", headerFacts{headless: true}},
		{"no name", ": x\r\n\r\n", headerFacts{headless: true}},
		{"no body", "Date: x", headerFacts{date: true}},
		{"TLS not required", "TLS-Required: no\r\n\r\n", headerFacts{requirements: 1, refusals: 1}},
		{"TLS not required, folded", "Tls-required :\r\n\tNo\r\n\r\nTLS-Required: No\r\n", headerFacts{requirements: 1, refusals: 1}},
		{"TLS required by another word", "TLS-Required: Yes\r\nTLS-Required: No\r\n\r\n", headerFacts{requirements: 2, refusals: 1}},
		{"long beyond the buffer", strings.Repeat("X: "+strings.Repeat("x", maxHeadOctets/2)+"\r\n", 3) + "Date: y\r\n\r\n", headerFacts{date: true}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			for _, step := range []int{1, 7, 1 << 20} {
				h := newHead()
				r := &chunks{rest: tt.message, step: step}
				if err := h.read(r, 102400); err != nil {
					t.Fatal(err)
				}
				if got := h.facts(); !reflect.DeepEqual(got, tt.want) {
					t.Errorf("in steps of %d: got %+v, want %+v", step, got, tt.want)
				}
				h.free()
			}
		})
	}
}

// TestTLSOptional: the field counts once and with its one value.
func TestTLSOptional(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]bool{
		"": false, "TLS-Required: No\r\n": true, "TLS-Required: Nope\r\n": false, "TLS-Required:\r\n": false,
		"TLS-Required: No\r\nTLS-Required: No\r\n": false, "TLS-Required: No\r\nTLS-Required: x\r\n": false,
	} {
		h := newHead()
		if err := h.read(strings.NewReader(text+"\r\n"), 102400); err != nil {
			t.Fatal(err)
		}
		if f := h.facts(); f.tlsOptional() != want {
			t.Errorf("%q: %v", text, !want)
		}
		h.free()
	}
}

func FuzzHeaderFacts(f *testing.F) {
	for _, seed := range []string{"", "\r\n", "Received: a\r\n\r\nbody", "Message-ID:\r\n <x>\r\n\r\n", "Date : x\r\n", ":\r\n", "r\n\nm:\r\n"} {
		f.Add(seed, 3)
	}
	f.Add(strings.Repeat("A: b\r\n c\r\n", 40), -1)
	f.Add("A: "+strings.Repeat("b", 70)+"\r\n\r\n", -1)
	f.Fuzz(func(t *testing.T, message string, step int) {
		h := newHead()
		defer h.free()
		r := &chunks{rest: message, step: max(1, step)}
		limit := 102400
		if step < 0 {
			limit = 64
		}
		if err := h.read(r, limit); err != nil {
			if status.Of(err) != status.HeaderTooBig || len(message) <= limit {
				t.Fatalf("%q: %v", message, err)
			}
			return
		}
		facts := h.facts()
		if facts.received > strings.Count(strings.ToLower(message), "received") {
			t.Errorf("%d Received fields in %q", facts.received, message)
		}
		if got := string(h.octets) + r.rest; got != message {
			t.Errorf("read lost octets: %q of %q", got, message)
		}
	})
}

// chunks is a reader of small pieces.
type chunks struct {
	rest string
	step int
}

func (c *chunks) Read(p []byte) (int, error) {
	if c.rest == "" {
		return 0, io.EOF
	}
	n := copy(p[:min(len(p), c.step)], c.rest)
	c.rest = c.rest[n:]
	return n, nil
}

func TestClientNames(t *testing.T) {
	t.Parallel()
	good := mail.ClientName{Hostname: "good.example", Reverse: "good.example", Naming: mail.NameVerified}
	for ip, want := range map[string]mail.ClientName{
		"192.0.2.1":        good,
		"::ffff:192.0.2.1": good,
		"192.0.2.2":        {Reverse: "good.example", Naming: mail.NameForged},
		"192.0.2.3":        good,
		"192.0.2.9":        {Naming: mail.NameMissing},
		"192.0.2.4":        {Reverse: "a.example", Naming: mail.NameForged},
		"192.0.2.5":        {Naming: mail.NameUnknown},
		"192.0.2.6":        {Reverse: "slow.example", Naming: mail.NameUnknown},
		"192.0.2.7":        {Naming: mail.NameMissing},
	} {
		if got := ClientNames(fakeDNS{})(t.Context(), netip.MustParseAddr(ip)); got != want {
			t.Errorf("%s: got %+v, want %+v", ip, got, want)
		}
	}
}

type fakeDNS struct{}

func (fakeDNS) LookupAddr(_ context.Context, address string) ([]string, error) {
	switch address {
	case "192.0.2.1":
		return []string{"Good.Example."}, nil
	case "192.0.2.2":
		return []string{"good.example."}, nil // a lie
	case "192.0.2.3":
		return []string{"bad..name", "localhost.", "good.example."}, nil
	case "192.0.2.4":
		return []string{"a.example.", "a.example.", "a.example.", "a.example.", "good.example."}, nil
	case "192.0.2.5":
		return nil, &net.DNSError{IsTimeout: true, IsTemporary: true}
	case "192.0.2.6":
		return []string{"slow.example.", "a.example."}, nil
	case "192.0.2.7":
		return []string{"bad..name", "localhost."}, nil
	}
	return nil, &net.DNSError{IsNotFound: true}
}

func (fakeDNS) LookupNetIP(_ context.Context, _, host string) ([]netip.Addr, error) {
	if host == "good.example." {
		return []netip.Addr{netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("192.0.2.3"), netip.MustParseAddr("192.0.2.4")}, nil
	}
	if host == "slow.example." {
		return nil, &net.DNSError{IsTemporary: true}
	}
	return nil, &net.DNSError{IsNotFound: true}
}
