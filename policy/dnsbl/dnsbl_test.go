package dnsbl

import (
	"bytes"
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/postern-mail/postern/internal/dns"
	"github.com/postern-mail/postern/internal/dns/dnstest"
	"github.com/postern-mail/postern/mail"
	"github.com/postern-mail/postern/policy"
)

// ours is example.com.
type ours struct{}

func (ours) Class(d mail.Domain) policy.DomainClass {
	if d == "example.com" {
		return policy.Local
	}
	return policy.Other
}

// fixture is a private name server, and lists that ask it.
type fixture struct {
	*Lists
	dns *dnstest.Server
	log *bytes.Buffer
	reg *prometheus.Registry
}

func start(t *testing.T, cfg Config) *fixture {
	t.Helper()
	f := &fixture{dns: dnstest.New(t), log: new(bytes.Buffer), reg: prometheus.NewRegistry()}
	for _, list := range []string{"rbl.example", "wl.example", "rhs.example", "rhswl.example", "deadfail.example", "deadwlfail.example", "l.example", "gone.example", "big.example", "dead.example", "deadwl.example"} {
		cfg.Lists = append(cfg.Lists, ListConfig{Domain: list, Timeout: time.Minute}) // of a busy machine
	}
	none := t.TempDir() + "/none"
	resolver, err := dns.New(dns.Config{Servers: []string{f.dns.Addr}, ResolvConf: none, HostsFile: none, Timeout: time.Minute, Attempts: 1})
	if err != nil {
		t.Fatal(err)
	}
	f.Lists, err = New(cfg, resolver, NewMemory(), hclog.New(&hclog.LoggerOptions{Output: f.log}), f.reg)
	if err != nil {
		t.Fatal(err)
	}
	f.dns.Add(
		"3.2.0.192.rbl.example. 60 IN A 127.0.0.2", `3.2.0.192.rbl.example. 60 IN TXT "see http://rbl.example/"`,
		"1.2.0.192.rbl.example. 60 IN A 127.0.0.9",
		"4.2.0.192.wl.example. 60 IN A 127.0.0.2",
		reversed(netip.MustParseAddr("2001:db8::7"))+".rbl.example. 60 IN A 127.0.0.3",
		"bad.example.rhs.example. 60 IN A 127.0.1.2", `bad.example.rhs.example. 60 IN TXT "one"`, `bad.example.rhs.example. 60 IN TXT "two"`,
		"good.example.rhswl.example. 60 IN A 127.0.0.2",
		"cname.example.rhs.example. 60 IN CNAME cname.example.rhs.example.",
		"other.wl.example. 60 IN A 127.0.0.2", "other.rhswl.example. 60 IN A 127.0.0.2",
	)
	for _, label := range []string{"5.2.0.192", "bad.example", "servfail.example", "good.example"} {
		for _, list := range []string{"dead", "deadwl"} {
			f.dns.HangUp(label+"."+list+".example", "A")
			f.dns.Fail(label+"."+list+"fail.example", "A", "SERVFAIL")
		}
	}
	return f
}

// up reads the metric of a list.
func (f *fixture) up(t *testing.T, list string) float64 {
	t.Helper()
	families, err := f.reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, family := range families {
		for _, m := range family.Metric {
			if family.GetName() == "gateway_dnsbl_list_up" && m.Label[0].GetValue() == list {
				return m.Gauge.GetValue()
			}
		}
	}
	return -1
}

// evaluate asks a restriction, written as name(attribute=value&...).
func (f *fixture) evaluate(t *testing.T, text string, tx *mail.Transaction) mail.Verdict {
	t.Helper()
	return f.evaluateStage(t, f.stage(t, text), tx)
}

func (f *fixture) stage(t *testing.T, text string) policy.Stage {
	t.Helper()
	s, err := f.Stages(ours{})[specOf(text).Name](specOf(text))
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func (f *fixture) evaluateStage(t *testing.T, s policy.Stage, tx *mail.Transaction) mail.Verdict {
	t.Helper()
	v, err := s.Evaluate(t.Context(), tx)
	if err != nil {
		t.Fatal(err)
	}
	return v
}

func specOf(text string) policy.Spec {
	name, attributes, _ := strings.Cut(strings.TrimSuffix(text, ")"), "(")
	spec := policy.Spec{Name: name, Args: map[string][]string{}}
	for attribute := range strings.SplitSeq(attributes, "&") {
		key, value, _ := strings.Cut(attribute, "=")
		if key != "" {
			spec.Args[key] = strings.Split(value, ",")
		}
	}
	return spec
}

func from(address string) *mail.Transaction {
	return &mail.Transaction{
		Client: mail.Client{Remote: netip.AddrPortFrom(netip.MustParseAddr(address), 4711), Hostname: "host.example", ReverseName: "host.example", Helo: "host.example"},
		Phase:  mail.PhaseRecipient, Envelope: mail.Envelope{ReversePath: mail.MustAddress("s@sender.example")},
		Recipient: &mail.Recipient{Address: mail.MustAddress("bob@example.com")},
	}
}

func said(v mail.Verdict) string {
	if v.Action == mail.Dunno || v.Action == mail.Permit {
		return v.Action.String()
	}
	return v.Action.String() + " " + v.WireReply().String()
}

// TestRestrictions holds each restriction's rows: hit, miss, filtered, a
// server that fails, one that is silent, an alias that leads to itself. The
// texts are those that Postfix 3.7 sends.
func TestRestrictions(t *testing.T) {
	t.Parallel()
	const blocked = "reject 554 5.7.1 Service unavailable; "
	f := start(t, Config{})
	edit := func(address string, change func(*mail.Transaction)) *mail.Transaction {
		tx := from(address)
		change(tx)
		return tx
	}
	bad := func(change func(tx *mail.Transaction, name string)) *mail.Transaction {
		return edit("192.0.2.9", func(tx *mail.Transaction) { change(tx, "bad.example") })
	}
	for _, tt := range []struct {
		restriction string
		tx          *mail.Transaction
		want        string
		warned      bool
	}{
		{"reject_rbl_client(list=rbl.example)", from("192.0.2.3"), blocked + "Client host [192.0.2.3] blocked using rbl.example; see http://rbl.example/", true},
		{"reject_rbl_client(list=RBL.example)", from("192.0.2.1"), blocked + "Client host [192.0.2.1] blocked using rbl.example", true},
		{"reject_rbl_client(list=rbl.example)", from("::ffff:192.0.2.1"), blocked + "Client host [192.0.2.1] blocked using rbl.example", true},
		{"reject_rbl_client(list=rbl.example)", from("2001:db8::7"), blocked + "Client host [2001:db8::7] blocked using rbl.example", true},
		{"reject_rbl_client(list=rbl.example=127.0.0.[1;3..9])", from("192.0.2.3"), "dunno", false},
		{"reject_rbl_client(list=rbl.example=127.0.0.[1;3..9])", from("192.0.2.1"), blocked + "Client host [192.0.2.1] blocked using rbl.example", true},
		{"reject_rbl_client(list=rbl.example&answers=127.0.0.2)", from("192.0.2.1"), "dunno", false},
		{"reject_rbl_client(list=rbl.example)", from("192.0.2.77"), "dunno", false},
		{"reject_rbl_client(list=dead.example)", from("192.0.2.5"), "dunno", true},
		{"reject_rbl_client(list=deadfail.example)", from("192.0.2.5"), "dunno", true},
		{"reject_rbl_client(list=rbl.example&code=450)", from("192.0.2.1"), "reject 450 4.7.1 Service unavailable; Client host [192.0.2.1] blocked using rbl.example", true},
		{"reject_rbl_client(list=rbl.example&reply=$rbl_code 5.7.9 No: $client_name: ${rbl_txt?$rbl_txt}${sender_domain:x})", from("192.0.2.3"), "reject 554 5.7.9 No: host.example: see http://rbl.example/", true},

		{"reject_rhsbl_client(list=rhs.example)", bad(func(tx *mail.Transaction, n string) { tx.Client.Hostname = n }), blocked + "Client host [bad.example] blocked using rhs.example; one / two", true},
		{"reject_rhsbl_client(list=rhs.example)", bad(func(tx *mail.Transaction, _ string) { tx.Client.Hostname = "" }), "dunno", false},
		{"reject_rhsbl_client(list=dead.example)", bad(func(tx *mail.Transaction, n string) { tx.Client.Hostname = n }), "dunno", true},
		{"reject_rhsbl_reverse_client(list=rhs.example)", bad(func(tx *mail.Transaction, n string) { tx.Client.ReverseName = n }), blocked + "Unverified Client host [bad.example] blocked using rhs.example; one / two", true},
		{"reject_rhsbl_reverse_client(list=deadfail.example)", bad(func(tx *mail.Transaction, n string) { tx.Client.ReverseName = n }), "dunno", true},
		{"reject_rhsbl_helo(list=rhs.example)", bad(func(tx *mail.Transaction, n string) { tx.Client.Helo = n }), blocked + "Helo command [bad.example] blocked using rhs.example; one / two", true},
		{"reject_rhsbl_helo(list=rhs.example)", bad(func(tx *mail.Transaction, _ string) { tx.Client.Helo = "[192.0.2.1]" }), "dunno", false},
		{"reject_rhsbl_helo(list=rhs.example)", bad(func(tx *mail.Transaction, _ string) { tx.Client.Helo = "192.0.2.1" }), "dunno", false},
		{"reject_rhsbl_sender(list=rhs.example)", bad(func(tx *mail.Transaction, n string) { tx.Envelope.ReversePath = mail.MustAddress("a@" + n) }), blocked + "Sender address [a@bad.example] blocked using rhs.example; one / two", true},
		{"reject_rhsbl_sender(list=rhs.example)", bad(func(tx *mail.Transaction, _ string) { tx.Envelope.ReversePath = mail.Address{} }), "dunno", false},
		{"reject_rhsbl_sender(list=rhs.example)", bad(func(tx *mail.Transaction, _ string) { tx.Envelope.ReversePath = mail.MustAddress("a@cname.example") }), "dunno", true},
		{"reject_rhsbl_recipient(list=rhs.example)", bad(func(tx *mail.Transaction, n string) { tx.Recipient.Address = mail.MustAddress("a@" + n) }), blocked + "Recipient address [a@bad.example] blocked using rhs.example; one / two", true},
		{"reject_rhsbl_recipient(list=dead.example)", bad(func(tx *mail.Transaction, n string) { tx.Recipient.Address = mail.MustAddress("a@" + n) }), "dunno", true},

		{"permit_dnswl_client(list=wl.example)", from("192.0.2.4"), "permit", true},
		{"permit_dnswl_client(list=wl.example)", edit("192.0.2.4", func(tx *mail.Transaction) { tx.Recipient.Address = mail.MustAddress("a@other.example") }), "dunno", false},
		{"permit_dnswl_client(list=wl.example)", edit("192.0.2.4", func(tx *mail.Transaction) { tx.Recipient.Address = mail.MustAddress("a%b@example.com") }), "dunno", false},
		{"permit_dnswl_client(list=wl.example=127.0.0.3)", from("192.0.2.4"), "dunno", false},
		{"permit_dnswl_client(list=wl.example)", from("192.0.2.8"), "dunno", false},
		{"permit_dnswl_client(list=deadwl.example)", from("192.0.2.5"), "defer_if_reject 450 4.7.1 <192.0.2.5>: Client host rejected: Service unavailable", true},
		{"permit_rhswl_client(list=rhswl.example)", edit("192.0.2.8", func(tx *mail.Transaction) { tx.Client.Hostname = "good.example" }), "permit", true},
		{"permit_rhswl_client(list=deadwlfail.example)", edit("192.0.2.8", func(tx *mail.Transaction) { tx.Client.Hostname = "good.example" }), "defer_if_reject 450 4.7.1 <good.example>: Client host rejected: Service unavailable", true},
		{"permit_rhswl_client(list=rhswl.example)", edit("192.0.2.8", func(tx *mail.Transaction) { tx.Client.Hostname = "" }), "dunno", false},
	} {
		v := f.evaluate(t, tt.restriction, tt.tx)
		if got := said(v); got != tt.want || (v.Detail != "") != tt.warned {
			t.Errorf("%s: %s (%q)\nwant %s", tt.restriction, got, v.Detail, tt.want)
		}
	}
}

// TestAttributes refuses what does not make sense, before anybody is asked.
func TestAttributes(t *testing.T) {
	t.Parallel()
	f := start(t, Config{})
	for text, want := range map[string]string{
		"reject_rbl_client":                                         "needs one list",
		"reject_rbl_client(list=a.example,b.example)":               "needs one list",
		"reject_rbl_client(list=a..example)":                        "not the domain",
		"reject_rbl_client(list=a.example*3)":                       "has a weight",
		"reject_rbl_client(list=a.example=127.0.0.x)":               "not an octet",
		"reject_rbl_client(list=a.example=1.2.3.4&answers=1.2.3.4)": "given twice",
		"reject_rbl_client(list=a.example&code=250)":                "does not refuse",
		"reject_rbl_client(list=a.example&reply=$rbl_what)":         "does not begin with a code",
		"reject_rbl_client(list=a.example&reply=554 $nosuch)":       "no macro $nosuch",
		"reject_rbl_client(list=a.example&reply=554 ${rbl_what)":    "not closed",
		"permit_dnswl_client(list=a.example&code=550)":              "does not know the attribute",
		"dns_score":                           "needs from 1",
		"dns_score(lists=a.example&permit=1)": "below zero",
		"dns_score(lists=a.example&reject=0)": "above zero",
		"dns_score(lists=a.example&reject=x)": "not a number",
		"dns_score(lists=a.example*x)":        "not a number",
	} {
		if _, err := f.Stages(ours{})[specOf(text).Name](specOf(text)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", text, err, want)
		}
	}
}

// TestScore adds up what lists say, silent ones counting nothing.
func TestScore(t *testing.T) {
	t.Parallel()
	f := start(t, Config{})
	const lists = "lists=rbl.example=127.0.0.2*3,rbl.example=127.0.0.9*1,wl.example*-4,dead.example*9"
	relayed := from("192.0.2.4")
	relayed.Recipient.Address = mail.MustAddress("a@other.example")
	for _, tt := range []struct {
		attributes string
		tx         *mail.Transaction
		want, tell string
	}{
		{"&reject=3&defer=1", from("192.0.2.3"), "reject 554 5.7.1 Service unavailable; Client host [192.0.2.3] blocked using rbl.example; see http://rbl.example/", "score 3: rbl.example 3"},
		{"&reject=3&defer=1", from("192.0.2.1"), "reject 450 4.7.1 Service unavailable; Client host [192.0.2.1] blocked using rbl.example", "score 1: rbl.example 1"},
		{"&reject=3", from("192.0.2.1"), "dunno", ""},
		{"&reject=3&permit=-4", from("192.0.2.4"), "permit", "score -4: wl.example -4"},
		{"&reject=3&permit=-4", relayed, "dunno", ""},
		{"&reject=3", from("192.0.2.5"), "dunno", "score 0; without dead.example"},
	} {
		v := f.evaluate(t, "dns_score("+lists+tt.attributes+")", tt.tx)
		if got := said(v); got != tt.want || v.Detail != tt.tell {
			t.Errorf("%s of %s: %s (%q)\nwant %s (%q)", tt.attributes, tt.tx.Client.Remote, got, v.Detail, tt.want, tt.tell)
		}
		if len(v.Findings) != 1 || v.Findings[0].Method != "x-dns-score" {
			t.Errorf("%s: findings %+v", tt.attributes, v.Findings)
		}
	}
}

// TestStartedEarly: what is asked when the client connects is not asked again
// at RCPT, nor for the next client with the same address.
func TestStartedEarly(t *testing.T) {
	t.Parallel()
	f := start(t, Config{})
	s := f.stage(t, "reject_rbl_client(list=rbl.example)")
	tx := from("192.0.2.3")
	s.(policy.Starter).Start(tx)
	for range 3 {
		if v := f.evaluateStage(t, s, tx); v.Action != mail.Reject {
			t.Errorf("%+v", v)
		}
	}
	if n := f.dns.Asked("3.2.0.192.rbl.example", "A"); n != 1 {
		t.Errorf("asked %d times", n)
	}
}

// TestLists holds what makes a list be left out, that it is told once, and
// that it comes back.
func TestLists(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct {
		records []string
		reason  string
	}{
		"as it should be":      {[]string{"2.0.0.127.l.example. 60 IN A 127.0.0.2"}, ""},
		"everybody":            {[]string{"2.0.0.127.l.example. 60 IN A 127.0.0.2", "1.0.0.127.l.example. 60 IN A 127.0.0.2"}, "lists 127.0.0.1"},
		"empty":                {nil, "no entry for 127.0.0.2"},
		"for sale":             {[]string{"1.0.0.127.l.example. 60 IN A 203.0.113.80"}, "may be gone"},
		"by a public resolver": {[]string{"1.0.0.127.l.example. 60 IN A 127.255.255.254"}, "refuses to answer us"},
	} {
		f := start(t, Config{})
		f.dns.Add(tt.records...)
		f.dns.Add("9.2.0.192.l.example. 60 IN A 127.0.0.2")
		s := f.stage(t, "reject_rbl_client(list=l.example)")
		f.testDue(t.Context())
		f.testDue(t.Context())
		st := f.States()[0]
		if st.Down != (tt.reason != "") || !strings.Contains(st.Reason, tt.reason) {
			t.Errorf("%s: %+v", name, st)
		}
		want := "reject"
		if tt.reason != "" {
			want = "dunno"
		}
		if v := f.evaluateStage(t, s, from("192.0.2.9")); v.Action.String() != want {
			t.Errorf("%s: %s", name, said(v))
		}
		if n := strings.Count(f.log.String(), "out of order"); n != map[bool]int{true: 1}[tt.reason != ""] {
			t.Errorf("%s: told %d times: %s", name, n, f.log)
		}
		up := 1.0
		if st.Down {
			up = 0
		}
		if got := f.up(t, "l.example"); got != up {
			t.Errorf("%s: metric %v", name, got)
		}
	}
}

// TestLyingAnswer: an answer that no list may give is no listing, and the list
// is left out from then on.
func TestLyingAnswer(t *testing.T) {
	t.Parallel()
	for code, want := range map[string]string{"203.0.113.80": "may be gone", "127.255.255.255": "refuses to answer us"} {
		f := start(t, Config{})
		f.dns.Add("9.2.0.192.l.example. 60 IN A "+code, "8.2.0.192.l.example. 60 IN A 127.0.0.2")
		s := f.stage(t, "reject_rbl_client(list=l.example)")
		if v := f.evaluateStage(t, s, from("192.0.2.9")); v.Action != mail.Dunno || !strings.Contains(v.Detail, want) {
			t.Errorf("%s: %+v", code, v)
		}
		if v := f.evaluateStage(t, s, from("192.0.2.8")); v.Action != mail.Dunno || v.Detail != "" {
			t.Errorf("%s: %+v", code, v)
		}
	}
}

// TestDeadListIsSkipped: after some failures nobody waits for a list any more,
// and a reload does not forget that.
func TestDeadListIsSkipped(t *testing.T) {
	t.Parallel()
	f := start(t, Config{})
	s := f.stage(t, "reject_rbl_client(list=gone.example)")
	for i := range 20 {
		label := fmt.Sprintf("%d.2.0.192.gone.example", i)
		f.dns.Fail(label, "A", "SERVFAIL")
		f.evaluateStage(t, s, from(fmt.Sprintf("192.0.2.%d", i)))
	}
	asked := 0
	for i := range 20 {
		asked += f.dns.Asked(fmt.Sprintf("%d.2.0.192.gone.example", i), "A")
	}
	if asked != inARow {
		t.Errorf("asked %d times, want %d", asked, inARow)
	}
	next, err := New(Config{}, f.resolver, f.memory, hclog.NewNullLogger(), f.reg)
	if err != nil {
		t.Fatal(err)
	}
	next.list("gone.example", false, false)
	if st := next.States(); len(st) != 1 || !st[0].Down {
		t.Errorf("%+v", st)
	}
}

// TestKeyIsSecret: the key of a paid list stands in what is asked, and nowhere
// else.
func TestKeyIsSecret(t *testing.T) {
	t.Parallel()
	f := start(t, Config{Lists: []ListConfig{{Domain: "paid.example", Key: "s3cret"}}})
	f.dns.Add("9.2.0.192.s3cret.paid.example. 60 IN A 127.0.0.2", `9.2.0.192.s3cret.paid.example. 60 IN TXT "see S3cret.paid.example"`)
	s := f.stage(t, "reject_rbl_client(list=paid.example)")
	v := f.evaluateStage(t, s, from("192.0.2.9"))
	if got := said(v); got != "reject 554 5.7.1 Service unavailable; Client host [192.0.2.9] blocked using paid.example; see ***.paid.example" {
		t.Error(got)
	}
	for i := range inARow {
		f.dns.Fail(fmt.Sprintf("%d.2.0.192.s3cret.paid.example", 20+i), "A", "SERVFAIL")
		v := f.evaluateStage(t, s, from(fmt.Sprintf("192.0.2.%d", 20+i)))
		if strings.Contains(strings.ToLower(v.Detail), "s3cret") {
			t.Error(v.Detail)
		}
	}
	if !strings.Contains(f.log.String(), "out of order") || strings.Contains(strings.ToLower(f.log.String()), "s3cret") {
		t.Error(f.log)
	}
}

// TestHugeAnswers are cut: a TXT of any length, and more codes than a list has.
func TestHugeAnswers(t *testing.T) {
	t.Parallel()
	f := start(t, Config{})
	for i := range 200 {
		f.dns.Add(fmt.Sprintf("9.2.0.192.big.example. 60 IN A 127.0.%d.2", i), fmt.Sprintf(`9.2.0.192.big.example. 60 IN TXT "%d %s"`, i, strings.Repeat("x", 200)))
	}
	v := f.evaluate(t, "reject_rbl_client(list=big.example)", from("192.0.2.9"))
	if text := v.WireReply().Text; v.Action != mail.Reject || len(text) > maxText+100 {
		t.Errorf("%d octets: %s", len(text), text)
	}
}

// TestMemoryIsBounded keeps answers within the limits of number and time.
func TestMemoryIsBounded(t *testing.T) {
	t.Parallel()
	m, now := NewMemory(), time.Now()
	for i := range maxAnswers + 100 {
		m.put(question{"l.example", fmt.Sprint(i)}, Answer{}, now, now)
	}
	if len(m.answers) != maxAnswers || m.recent.Len() != maxAnswers {
		t.Errorf("%d answers", len(m.answers))
	}
	m.put(question{"l.example", "short"}, Answer{}, now, now)
	m.put(question{"l.example", "long"}, Answer{}, now.Add(24*time.Hour), now)
	for label, life := range map[string]time.Duration{"short": minTTL, "long": maxTTL} {
		if _, ok := m.get(question{"l.example", label}, now.Add(life-1)); !ok {
			t.Errorf("%s forgotten too early", label)
		}
		if _, ok := m.get(question{"l.example", label}, now.Add(life)); ok {
			t.Errorf("%s kept too long", label)
		}
	}
}

// TestHealth goes through the states of a list by the clock.
func TestHealth(t *testing.T) {
	t.Parallel()
	h, now := &health{}, time.Now()
	for i := range windowSize * 3 { // every second one fails: too many, but never in a row
		if i%2 == 0 {
			h.answered(now, true)
		} else if h.failed(now, errUseless) == wentDown {
			break
		}
	}
	if !h.down || h.usable(now, true) || h.usable(now, false) {
		t.Fatalf("%+v", h)
	}
	now = now.Add(firstPause)
	if h.usable(now, true) || !h.usable(now, false) || h.usable(now, false) {
		t.Error("while down one question passes after each pause, and none where tests ask")
	}
	if h.answered(now, true) != unchanged || h.answered(now, false) != cameUp || h.down {
		t.Error("an answer does not end it")
	}
	h.lies(now, "x")
	for range 20 {
		now = now.Add(longestPause)
		h.failed(now, errUseless)
	}
	if h.pause != longestPause || h.passed(now) != cameUp || h.passed(now) != unchanged || h.testDue(now) || !h.testDue(now.Add(testInterval)) {
		t.Errorf("%+v", h)
	}
}

// FuzzReply holds that a reply which is taken makes one that refuses.
func FuzzReply(f *testing.F) {
	for _, seed := range []string{DefaultReply, "$rbl_code $$ ${rbl_reason?a}${rbl_reason:b}", "554 $(client)", "${", "$rbl_code ${rbl_what?${rbl_what?${rbl_what?x}}}"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, template string) {
		if checkReply(template) != nil {
			return
		}
		l := &listing{code: 554, domain: "l.example", class: "Client host", what: "192.0.2.1", reason: "r", tx: from("192.0.2.1")}
		if r := l.say(template); r.Code < 400 || r.Code > 599 || r.Text == "" {
			t.Fatalf("%q: %+v", template, r)
		}
	})
}
