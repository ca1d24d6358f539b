package mailauth

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/postern-mail/postern/internal/dns"
	"github.com/postern-mail/postern/internal/dns/dnstest"
	"github.com/postern-mail/postern/mail"
	"github.com/postern-mail/postern/policy"
	"github.com/postern-mail/postern/policy/mailauth/dmarc"
	"github.com/postern-mail/postern/policy/mailauth/spf"
)

// world is the DNS of a test.
func world(t *testing.T) (*dnstest.Server, *dns.Resolver) {
	t.Helper()
	server := dnstest.New(t)
	server.Add(
		`strict.example. 60 TXT "v=spf1 ip4:192.0.2.1 -all exp=why.strict.example"`,
		`why.strict.example. 60 TXT "%{c} is not ours, see http://strict.example/%{L}"`,
		`soft.example. 60 TXT "v=spf1 ~all"`,
		`neutral.example. 60 TXT "v=spf1 ?all"`,
		`broken.example. 60 TXT "v=spf1 moo"`,
		`client.strict.example. 60 TXT "v=spf1 -all"`,
		`none.example. 60 A 192.0.2.3`,
		`_dmarc.strict.example. 60 TXT "v=DMARC1; p=reject; rua=mailto:dmarc@strict.example"`,
		`_dmarc.soft.example. 60 TXT "v=DMARC1; p=quarantine"`,
		`_dmarc.neutral.example. 60 TXT "v=DMARC1; p=none"`,
		`list.example. 60 TXT "v=spf1 ip4:192.0.2.99 -all"`,
		`1.2.0.192.in-addr.arpa. 60 PTR mx.strict.example.`, `mx.strict.example. 60 A 192.0.2.1`,
		`9.2.0.192.in-addr.arpa. 60 PTR mx.strict.example.`,
	)
	server.Fail("down.example", "TXT", "SERVFAIL")
	server.Fail("_dmarc.down.example", "TXT", "SERVFAIL")
	server.HangUp("silent.example", "TXT")
	none := t.TempDir() + "/none"
	r, err := dns.New(dns.Config{Servers: []string{server.Addr}, ResolvConf: none, HostsFile: none, Timeout: time.Minute, Attempts: 1})
	if err != nil {
		t.Fatal(err)
	}
	return server, r
}

type nothing struct{}

func (nothing) Class(d mail.Domain) policy.DomainClass {
	if d == "example.com" {
		return policy.Local
	}
	return policy.Other
}
func (nothing) Record(mail.Event) {}

var ours = []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")}

// chainOf builds a chain with one restriction of the room in one list.
func chainOf(t *testing.T, list policy.List, name string, args map[string][]string, d Deps) (*policy.Chain, error) {
	t.Helper()
	cfg := policy.Config{AcceptUnlisted: true, Networks: ours}
	return policy.Build(cfg, map[policy.List][]policy.Spec{list: {{Name: name, Args: args}}}, policy.Deps{
		Domains: nothing{}, Audit: nothing{}, Logger: hclog.NewNullLogger(),
		Stages: map[string]func(policy.Spec) (policy.Stage, error){
			CheckSPF: func(s policy.Spec) (policy.Stage, error) {
				return NewCheckSPF(s, SPFDeps{Checker: d.SPF, Networks: ours, Metrics: d.Metrics})
			},
			Authenticate: func(s policy.Spec) (policy.Stage, error) { return NewAuthenticate(s, d) },
		},
	})
}

func mustChain(t *testing.T, list policy.List, name string, args map[string][]string, d Deps) *policy.Chain {
	t.Helper()
	c, err := chainOf(t, list, name, args, d)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func transaction(client, helo, from string) *mail.Transaction {
	tx := &mail.Transaction{Phase: mail.PhaseRecipient, Client: mail.Client{Remote: netip.AddrPortFrom(netip.MustParseAddr(client), 999), Helo: helo}}
	if from != "" {
		tx.Envelope.ReversePath = mail.MustAddress(from)
	}
	to := mail.MustAddress("alice@example.com")
	tx.Recipient = &mail.Recipient{Address: to, Accepted: to}
	return tx
}

// TestCheckSPF: what each result leads to, by the standard and when it is told.
func TestCheckSPF(t *testing.T) {
	t.Parallel()
	_, resolver := world(t)
	d := Deps{SPF: &spf.Checker{Resolver: resolver, Receiver: "mx.example.com"}}
	all := func(action string) map[string][]string {
		args := map[string][]string{}
		for _, result := range []string{"fail", "softfail", "neutral", "none", "permerror", "temperror"} {
			if action != "reject" || result != "temperror" {
				args[result] = []string{action}
			}
		}
		return args
	}
	for _, row := range []struct {
		from, result string
		standard     string // reply; "" accepts
		deferred     string
	}{
		{"a&b@strict.example", "fail",
			"550 5.7.23 <a&b@strict.example>: Sender address rejected: 192.0.2.9 is not allowed to send mail of strict.example (SPF fail); strict.example explains: 192.0.2.9 is not ours, see http://strict.example/a%26b",
			"450 4.7.23 <a&b@strict.example>: Sender address rejected: 192.0.2.9 is not allowed to send mail of strict.example (SPF fail); strict.example explains: 192.0.2.9 is not ours, see http://strict.example/a%26b"},
		{"a@soft.example", "softfail", "", "450 4.7.23 <a@soft.example>: Sender address rejected: 192.0.2.9 is not allowed to send mail of soft.example (SPF softfail)"},
		{"a@neutral.example", "neutral", "", "450 4.7.23 <a@neutral.example>: Sender address rejected: 192.0.2.9 is not allowed to send mail of neutral.example (SPF neutral)"},
		{"a@none.example", "none", "", "450 4.7.23 <a@none.example>: Sender address rejected: 192.0.2.9 is not allowed to send mail of none.example (SPF none)"},
		{"a@broken.example", "permerror", "", "451 4.7.24 <a@broken.example>: Sender address rejected: the SPF record of broken.example makes no sense"},
		{"a@down.example", "temperror", "", "451 4.7.24 <a@down.example>: Sender address rejected: the SPF record of down.example cannot be looked up now"},
		{"a@silent.example", "temperror", "", "451 4.7.24 <a@silent.example>: Sender address rejected: the SPF record of silent.example cannot be looked up now"},
	} {
		for _, how := range []string{"standard", "defer", "hold", "warn", "none", "reject"} {
			args := map[string][]string{}
			if how != "standard" {
				args = all(how)
			}
			tx := transaction("192.0.2.9", "client.example", row.from)
			got := mustChain(t, policy.ListSender, CheckSPF, args, d).Session().Evaluate(t.Context(), tx)
			want := map[string]string{"standard": row.standard, "defer": row.deferred}[how]
			if how == "reject" {
				if want = strings.Replace(row.deferred, "450 4", "550 5", 1); row.result == "permerror" {
					want = strings.Replace(row.deferred, "451 4", "550 5", 1)
				} else if row.result == "temperror" {
					want = ""
				}
			}
			said := ""
			if got.Refused {
				said = got.Verdict.WireReply().String()
			}
			if said != want || got.Hold != (how == "hold") {
				t.Errorf("%s, %s: %q, held %v; want %q", row.from, how, said, got.Hold, want)
			}
			if len(tx.Findings) != 1 || tx.Findings[0].Result != row.result || tx.Findings[0].Domain != string(tx.Envelope.ReversePath.Domain) {
				t.Errorf("%s, %s: findings %+v", row.from, how, tx.Findings)
			}
		}
	}
}

func TestCheckSPFIdentities(t *testing.T) {
	t.Parallel()
	server, resolver := world(t)
	d := Deps{SPF: &spf.Checker{Resolver: resolver}}
	for _, row := range []struct {
		name             string
		client, as, from string
		identity         []string
		login            bool
		want             string
	}{
		{"allowed", "192.0.2.1", "mx.strict.example", "a@strict.example", nil, false, "pass"},
		{"HELO is not asked about", "192.0.2.1", "client.strict.example", "a@strict.example", nil, false, "pass"},
		{"HELO is", "192.0.2.1", "client.strict.example", "a@strict.example", []string{"helo", "mailfrom"}, false, "refused"},
		{"HELO alone", "192.0.2.9", "mx.none.example", "a@strict.example", []string{"helo"}, false, "none"},
		{"both pass", "192.0.2.1", "strict.example", "a@strict.example", []string{"helo", "mailfrom"}, false, "pass pass"},
		{"null reverse-path", "192.0.2.9", "client.strict.example", "", nil, false, "refused"},
		{"null reverse-path, allowed", "192.0.2.1", "strict.example", "", nil, false, "pass"},
		{"a literal says hello", "192.0.2.9", "[192.0.2.9]", "", nil, false, "none"},
		{"somebody who logged in", "192.0.2.9", "x", "a@strict.example", nil, true, ""},
		{"a network of ours", "10.1.2.3", "x", "a@strict.example", nil, false, ""},
		{"the same, mapped", "::ffff:10.1.2.3", "x", "a@strict.example", nil, false, ""},
		{"a trusted forwarder", "198.51.100.7", "x", "a@strict.example", nil, false, ""},
	} {
		args := map[string][]string{"trusted": {"198.51.100.0/24"}}
		if row.identity != nil {
			args["identity"] = row.identity
		}
		tx := transaction(row.client, row.as, row.from)
		if row.login {
			tx.Client.Identity = &mail.Identity{Authentication: "a"}
		}
		got := mustChain(t, policy.ListHelo, CheckSPF, args, d).Session().Evaluate(t.Context(), tx)
		var results []string
		for _, f := range tx.Findings {
			results = append(results, f.Result)
		}
		said := strings.Join(results, " ")
		if got.Refused {
			said = "refused"
		}
		if said != row.want {
			t.Errorf("%s: %s %+v, want %s", row.name, said, tx.Findings, row.want)
		}
	}
	// Once a message is enough, whatever the number of its recipients.
	session := mustChain(t, policy.ListSender, CheckSPF, nil, d).Session()
	server.Add(`once.example. 0 TXT "v=spf1 ?all"`)
	tx := transaction("192.0.2.9", "x", "a@once.example")
	for range 3 {
		session.Evaluate(t.Context(), tx)
	}
	if n := server.Asked("once.example", "TXT"); n != 1 || len(tx.Findings) != 1 {
		t.Errorf("asked %d times, %d findings", n, len(tx.Findings))
	}
}

func TestReceivedSPF(t *testing.T) {
	t.Parallel()
	_, resolver := world(t)
	d := Deps{SPF: &spf.Checker{Resolver: resolver, Receiver: "mx.example.com"}}
	chain := mustChain(t, policy.ListSender, CheckSPF, map[string][]string{"received_spf": {"yes"}}, d)
	got := chain.Session().Evaluate(t.Context(), transaction("192.0.2.1", "evil\" (x)\\", "a@strict.example"))
	want := "Received-SPF: pass (mx.example.com: domain of strict.example designates 192.0.2.1 as permitted sender)\r\n" +
		"\tclient-ip=192.0.2.1; receiver=mx.example.com; identity=mailfrom;\r\n\tenvelope-from=\"a@strict.example\";\r\n" +
		"\thelo=\"evil\\\" (x)\\\\\";\r\n\tmechanism=\"ip4:192.0.2.1\""
	if len(got.Headers) != 1 || got.Headers[0] != want {
		t.Errorf("got %q\nwant %q", got.Headers, want)
	}
}

func TestMistakes(t *testing.T) {
	t.Parallel()
	for _, row := range []struct {
		stage string
		args  map[string][]string
		want  string
	}{
		{CheckSPF, map[string][]string{"fail": {"refuse"}}, `fail is "refuse": use reject, defer, hold, warn, none`},
		{CheckSPF, map[string][]string{"temperror": {"reject"}}, `temperror is "reject": use defer, hold, warn, none`},
		{CheckSPF, map[string][]string{"identity": {"from"}}, `identity is "from": use some of mailfrom, helo`},
		{CheckSPF, map[string][]string{"trusted": {"x"}}, `trusted is "x"`},
		{CheckSPF, map[string][]string{"fale": {"reject"}}, `does not know the attribute "fale"`},
		{Authenticate, map[string][]string{"timeout": {"0"}}, `timeout is "0": write a time`},
		{Authenticate, map[string][]string{"methods": {"spf", "dnssec"}}, `methods is "spf dnssec": use some of iprev, auth, spf, dkim, arc, dmarc`},
		{Authenticate, map[string][]string{"authserv_id": {"a b"}}, `authserv_id is "a b": write the name of a host`},
	} {
		list := policy.ListSender
		if row.stage == Authenticate {
			list = policy.ListContent
		}
		_, err := chainOf(t, list, row.stage, row.args, Deps{})
		if err == nil || !strings.Contains(err.Error(), row.want) {
			t.Errorf("%v: %v, want %s", row.args, err, row.want)
		}
	}
	if _, err := chainOf(t, policy.ListSender, Authenticate, nil, Deps{}); err == nil || !strings.Contains(err.Error(), "move it to the content list") {
		t.Errorf("authenticate before the message: %v", err)
	}
}

// signed is what DKIM finds in a test.
type signed struct {
	findings []mail.Finding
	err      error
}

func (s signed) Verify(context.Context, mail.Message) ([]mail.Finding, error) {
	return s.findings, s.err
}

func signature(domain, result string) mail.Finding {
	return mail.Finding{Method: "dkim", Result: result, Domain: domain, Props: []mail.Property{{Type: "header", Name: "d", Value: domain}}}
}

// sealed is what ARC finds in a test.
type sealed struct{ arc ARC }

func (s sealed) Verify(context.Context, mail.Message) (ARC, error) { return s.arc, nil }

// heard collects what reports are made of.
type heard struct{ all []Evaluation }

func (h *heard) Note(e Evaluation) { h.all = append(h.all, e) }

func evaluate(t *testing.T, chain *policy.Chain, tx *mail.Transaction, m *message) mail.Decision {
	t.Helper()
	tx.Phase, tx.Message = mail.PhaseEndOfData, m
	tx.Envelope.Recipients, tx.Recipient = []mail.Recipient{*tx.Recipient}, nil
	return chain.Session().Evaluate(t.Context(), tx)
}

// TestPolicies: what is done about each result, for each thing that is
// configured.
func TestPolicies(t *testing.T) {
	t.Parallel()
	_, resolver := world(t)
	arcPass := func(sealer, results string) ARC {
		return ARC{Finding: mail.Finding{Method: "arc", Result: "pass"}, Seals: []Seal{{sealer, results}}}
	}
	reject := Rules{Honour: dmarc.PolicyReject, Sealers: []string{"arc.example"}, Forwarders: []string{"list.example", "signs.example"}}
	for _, row := range []struct {
		name, author, client, from string
		dkim                       []mail.Finding
		arc                        ARC
		rules                      Rules
		want                       string // "refused", "held", "junk" or ""
		field                      string // part of Authentication-Results
		applied                    dmarc.Policy
		override                   string
	}{
		{"aligned SPF", "a@strict.example", "192.0.2.1", "a@strict.example", nil, ARC{}, reject, "", "dmarc=pass header.from=strict.example policy.dmarc=none", dmarc.PolicyNone, ""},
		{"aligned DKIM", "a@strict.example", "192.0.2.9", "b@none.example", []mail.Finding{signature("sub.strict.example", "pass")}, ARC{}, reject, "", "dmarc=pass", dmarc.PolicyNone, ""},
		{"refused", "a@strict.example", "192.0.2.9", "b@none.example", nil, ARC{}, reject, "refused", "dmarc=fail header.from=strict.example policy.dmarc=reject", dmarc.PolicyReject, ""},
		{"only quarantine here", "a@strict.example", "192.0.2.9", "b@none.example", nil, ARC{}, Rules{Honour: dmarc.PolicyQuarantine}, "junk", "policy.dmarc=quarantine", dmarc.PolicyQuarantine, "local_policy"},
		{"nothing here", "a@strict.example", "192.0.2.9", "b@none.example", nil, ARC{}, Rules{}, "", "dmarc=fail header.from=strict.example policy.dmarc=none", dmarc.PolicyNone, "local_policy"},
		{"junk", "a@soft.example", "192.0.2.9", "b@none.example", nil, ARC{}, reject, "junk", "policy.dmarc=quarantine", dmarc.PolicyQuarantine, ""},
		{"hold", "a@soft.example", "192.0.2.9", "b@none.example", nil, ARC{}, Rules{Honour: dmarc.PolicyReject, Quarantine: QuarantineHold}, "held", "policy.dmarc=quarantine", dmarc.PolicyQuarantine, ""},
		{"mark", "a@soft.example", "192.0.2.9", "b@none.example", nil, ARC{}, Rules{Honour: dmarc.PolicyReject, Quarantine: QuarantineMark}, "", "policy.dmarc=quarantine", dmarc.PolicyQuarantine, ""},
		{"policy none", "a@neutral.example", "192.0.2.9", "b@none.example", nil, ARC{}, reject, "", "dmarc=fail header.from=neutral.example policy.dmarc=none", dmarc.PolicyNone, ""},
		{"no policy", "a@none.example", "192.0.2.9", "b@none.example", nil, ARC{}, reject, "", "dmarc=none header.from=none.example", "", ""},
		{"DNS down", "a@down.example", "192.0.2.9", "b@none.example", nil, ARC{}, reject, "", "dmarc=temperror header.from=down.example", "", ""},
		{"SPF not known", "a@strict.example", "192.0.2.9", "b@down.strict.example", nil, ARC{}, reject, "refused", "dmarc=fail", dmarc.PolicyReject, ""},
		{"DKIM not known", "a@strict.example", "192.0.2.9", "b@none.example", []mail.Finding{signature("strict.example", "temperror")}, ARC{}, reject, "", "dmarc=temperror", "", ""},
		{"a mailing list by SPF", "a@strict.example", "192.0.2.99", "bounces@list.example", nil, ARC{}, reject, "", "policy.dmarc=none", dmarc.PolicyNone, "trusted_forwarder"},
		{"a mailing list that is not", "a@strict.example", "192.0.2.9", "bounces@list.example", nil, ARC{}, reject, "refused", "", dmarc.PolicyReject, ""},
		{"a mailing list by DKIM", "a@strict.example", "192.0.2.9", "b@none.example", []mail.Finding{signature("signs.example", "pass")}, ARC{}, reject, "", "", dmarc.PolicyNone, "trusted_forwarder"},
		{"sealed", "a@strict.example", "192.0.2.9", "b@none.example", nil, arcPass("arc.example", " arc.example; dmarc=pass header.from=strict.example"), reject, "", "arc=pass", dmarc.PolicyNone, "local_policy"},
		{"sealed by a stranger", "a@strict.example", "192.0.2.9", "b@none.example", nil, arcPass("evil.example", " evil.example; dmarc=pass header.from=strict.example"), reject, "refused", "", dmarc.PolicyReject, ""},
		{"sealed, failing there", "a@strict.example", "192.0.2.9", "b@none.example", nil, arcPass("arc.example", " arc.example; dmarc=fail header.from=strict.example"), reject, "refused", "", dmarc.PolicyReject, ""},
		{"sealed for another", "a@strict.example", "192.0.2.9", "b@none.example", nil, arcPass("arc.example", " arc.example; dmarc=pass header.from=other.example"), reject, "refused", "", dmarc.PolicyReject, ""},
		{"sealed without sense", "a@strict.example", "192.0.2.9", "b@none.example", nil, arcPass("arc.example", " arc.example; ((("), reject, "refused", "", dmarc.PolicyReject, ""},
	} {
		h := &heard{}
		chain := mustChain(t, policy.ListContent, Authenticate, nil, Deps{
			Hostname: "mx.example.com", SPF: &spf.Checker{Resolver: resolver}, DMARC: &dmarc.Checker{Resolver: resolver},
			Signatures: signed{findings: row.dkim}, Chains: sealed{row.arc}, Counter: h, Rules: row.rules, Networks: ours,
		})
		m := newMessage("From: " + row.author + "\nSubject: x\n\nbody\n")
		got := evaluate(t, chain, transaction(row.client, "client.none.example", row.from), m)
		what := ""
		switch {
		case got.Refused:
			what = "refused"
			want := "550 5.7.26 message from strict.example refused by the DMARC policy of strict.example"
			if reply := got.Verdict.WireReply().String(); reply != want {
				t.Errorf("%s: %s", row.name, reply)
			}
		case got.Hold:
			what = "held"
		case strings.Contains(m.header(), "X-Spam-Flag: YES\n"):
			what = "junk"
		}
		if what != row.want {
			t.Errorf("%s: %s, want %s", row.name, what, row.want)
		}
		if top := strings.ReplaceAll(string(m.fields[0]), "\r\n\t", " "); !strings.HasPrefix(top, "Authentication-Results: mx.example.com; iprev=") || !strings.Contains(top, row.field) {
			t.Errorf("%s: on top is %s", row.name, top)
		}
		if (row.applied != "") != (len(h.all) == 1) || len(h.all) == 1 && (h.all[0].Applied != row.applied || h.all[0].Override.Type != row.override) {
			t.Errorf("%s: reported %+v", row.name, h.all)
		}
		counted, session := len(h.all), chain.Session()
		tx := transaction(row.client, "client.none.example", row.from)
		tx.Phase, tx.Message = mail.PhaseEndOfData, newMessage("From: "+row.author+"\nSubject: x\n\nbody\n")
		session.Evaluate(policy.Rehearsal(t.Context()), tx)
		session.Close()
		if len(h.all) != counted {
			t.Errorf("%s: a rehearsal was reported", row.name)
		}
	}
}

// TestRehearsalIsNotReported: what is only tried out is in no report, and not
// counted.
func TestRehearsalIsNotReported(t *testing.T) {
	t.Parallel()
	_, resolver := world(t)
	h, registry := &heard{}, prometheus.NewRegistry()
	chain := mustChain(t, policy.ListContent, Authenticate, nil, Deps{
		Hostname: "mx.example.com", SPF: &spf.Checker{Resolver: resolver}, DMARC: &dmarc.Checker{Resolver: resolver},
		Counter: h, Rules: Rules{Honour: dmarc.PolicyReject}, Metrics: registry,
	})
	tx := transaction("192.0.2.9", "client.none.example", "b@none.example")
	tx.Phase, tx.Message = mail.PhaseEndOfData, newMessage("From: a@strict.example\n\nbody\n")
	tx.Envelope.Recipients, tx.Recipient = []mail.Recipient{*tx.Recipient}, nil
	if d := chain.Session().Evaluate(policy.Rehearsal(t.Context()), tx); !d.Refused {
		t.Errorf("%+v", d)
	}
	families, err := registry.Gather()
	if err != nil || len(h.all) > 0 || len(families) > 0 {
		t.Errorf("reported %+v, counted %v, %v", h.all, families, err)
	}
}

// TestMalformedAuthors: a message that names no author, or several, is not let
// past by that.
func TestMalformedAuthors(t *testing.T) {
	t.Parallel()
	_, resolver := world(t)
	for _, row := range []struct {
		from, want, field string
		how               Malformed
	}{
		{"", "", `dmarc=permerror reason="no From field"`, MalformedAccept},
		{"", "", `dmarc=permerror`, ""},
		{"", "refused", `dmarc=permerror`, MalformedReject},
		{"", "held", ``, MalformedHold},
		{"", "junk", ``, MalformedJunk},
		{"From: <a@none.example", "refused", `dmarc=permerror reason="malformed From field"`, MalformedReject},
		{"From: a@none.example\nFrom: b@none.example", "refused", `dmarc=none`, MalformedReject},
		{"From: a@none.example\nFrom: b@strict.example", "dmarc", `dmarc=fail header.from=strict.example policy.dmarc=reject`, MalformedAccept},
		{"From: a@none.example, b@strict.example", "dmarc", `dmarc=fail header.from=strict.example`, MalformedAccept},
		{"From: g: a@strict.example;", "dmarc", `dmarc=fail header.from=strict.example`, MalformedAccept},
		{"From: a@none.example, c@none.example", "", `dmarc=none`, MalformedReject},

		// What cannot be read as RFC 5322 asks may be shown to people all the same.
		{"From: x, boss@strict.example", "dmarc", `dmarc=fail header.from=strict.example policy.dmarc=reject`, MalformedAccept},
		{"From: a@localhost, boss@strict.example", "dmarc", `dmarc=fail header.from=strict.example`, MalformedAccept},
		{"From: \"Boss <boss@strict.example>", "dmarc", `dmarc=fail header.from=strict.example`, MalformedAccept},
		{"From: Boss <boss@strict.example", "dmarc", `dmarc=fail header.from=strict.example`, MalformedAccept},
		{"From: (boss@strict.example", "dmarc", `dmarc=fail header.from=strict.example`, MalformedAccept},
		{"From: <boss@ strict.example <a@none.example>>", "dmarc", `dmarc=fail header.from=strict.example`, MalformedAccept},
		{"From: " + crowd(11) + ", boss@strict.example", "refused", `dmarc=`, MalformedAccept},
	} {
		chain := mustChain(t, policy.ListContent, Authenticate, nil, Deps{
			Hostname: "mx.example.com", SPF: &spf.Checker{Resolver: resolver}, DMARC: &dmarc.Checker{Resolver: resolver},
			Rules: Rules{Honour: dmarc.PolicyReject, Malformed: row.how},
		})
		m := newMessage(row.from + "\nSubject: x\n\nbody\n")
		got := evaluate(t, chain, transaction("192.0.2.9", "client.none.example", "b@none.example"), m)
		what := ""
		switch {
		case got.Refused && got.Verdict.WireReply().Enhanced == [3]int{5, 7, 26}:
			what = "dmarc"
		case got.Refused:
			what = "refused"
		case got.Hold:
			what = "held"
		case strings.Contains(m.header(), "X-Spam-Flag"):
			what = "junk"
		}
		if top := strings.ReplaceAll(string(m.fields[0]), "\r\n\t", " "); what != row.want || !strings.Contains(top, row.field) {
			t.Errorf("%q with %s: %s, want %s; %s", row.from, row.how, what, row.want, top)
		}
	}
}

// crowd is so many authors, of a domain each.
func crowd(n int) string {
	var all []string
	for i := range n {
		all = append(all, fmt.Sprintf("a@d%d.none.example", i))
	}
	return strings.Join(all, ", ")
}

// TestMalformedAuthorsNeverPass: an author that is not certain gets nobody's
// pass.
func TestMalformedAuthorsNeverPass(t *testing.T) {
	t.Parallel()
	_, resolver := world(t)
	chain := mustChain(t, policy.ListContent, Authenticate, nil, Deps{
		Hostname: "mx.example.com", SPF: &spf.Checker{Resolver: resolver}, DMARC: &dmarc.Checker{Resolver: resolver},
		Rules: Rules{Honour: dmarc.PolicyReject},
	})
	m := newMessage("From: Boss <a@strict.example\n\nbody\n")
	got := evaluate(t, chain, transaction("192.0.2.1", "mx.strict.example", "a@strict.example"), m)
	if top := string(m.fields[0]); got.Refused || !strings.Contains(top, "spf=pass") || !strings.Contains(top, "dmarc=permerror") {
		t.Errorf("%+v: %s", got, top)
	}
}

// TestSlowAuthor: name servers of one author that never answer do not hide the
// policy of another.
func TestSlowAuthor(t *testing.T) {
	t.Parallel()
	_, resolver := world(t)
	chain := mustChain(t, policy.ListContent, Authenticate, map[string][]string{"timeout": {"1s"}, "methods": {"spf", "dmarc"}}, Deps{
		Hostname: "mx.example.com", SPF: &spf.Checker{Resolver: resolver}, DMARC: &dmarc.Checker{Resolver: slowNames{resolver}},
		Rules: Rules{Honour: dmarc.PolicyReject},
	})
	m := newMessage("From: a@slow.example, boss@strict.example\n\nbody\n")
	if got := evaluate(t, chain, transaction("192.0.2.9", "x", "b@none.example"), m); !got.Refused {
		t.Errorf("%+v: %s", got, m.fields[0])
	}
}

// slowNames never answers for one domain.
type slowNames struct{ spf.Resolver }

func (s slowNames) TXT(ctx context.Context, name string) (dns.Answer[string], error) {
	if strings.HasSuffix(name, "slow.example.") {
		return silence{}.TXT(ctx, name)
	}
	return s.Resolver.TXT(ctx, name)
}

// TestVeryManyForgedFields: none is left because there are too many.
func TestVeryManyForgedFields(t *testing.T) {
	t.Parallel()
	_, resolver := world(t)
	chain := mustChain(t, policy.ListContent, Authenticate, nil, Deps{
		Hostname: "mx.example.com", SPF: &spf.Checker{Resolver: resolver}, DMARC: &dmarc.Checker{Resolver: resolver},
	})
	m := newMessage(strings.Repeat("Authentication-Results: mx.example.com; dmarc=pass\n", 3000) + "From: a@none.example\n\nbody\n")
	evaluate(t, chain, transaction("192.0.2.9", "x", "b@none.example"), m)
	if n := strings.Count(m.header(), "Authentication-Results"); n != 1 {
		t.Errorf("%d fields", n)
	}
}

// TestForgedFields: what claims to be ours goes, what others wrote stays.
func TestForgedFields(t *testing.T) {
	t.Parallel()
	_, resolver := world(t)
	text := "Authentication-Results: mx.example.com; dmarc=pass header.from=bank.example\nX: 1\nAuthentication-Results: other.example; spf=pass\n" +
		"authentication-results:\n MX.EXAMPLE.COM (hi) ; spf=pass\nAuthentication-Results: (mx.example.com; spf=pass\nFrom: a@none.example\nX: 2\n\nbody\n"
	stays := "X: 1\nAuthentication-Results: other.example; spf=pass\nFrom: a@none.example\nX: 2\n"
	for _, row := range []struct {
		name, client string
		login        bool
		want         string // the top; "" for no field
		keeps        bool
	}{
		{"a stranger", "192.0.2.9", false, "Authentication-Results: mx.example.com; iprev=fail policy.iprev=192.0.2.9; spf=none smtp.mailfrom=none.example; dkim=none; dmarc=none header.from=none.example\n", false},
		{"who logged in", "192.0.2.9", true, "Authentication-Results: mx.example.com; auth=pass smtp.mailfrom=b@none.example\n", false},
		{"a network of ours", "10.0.0.1", false, "", true},
	} {
		chain := mustChain(t, policy.ListContent, Authenticate, nil, Deps{
			Hostname: "mx.example.com", SPF: &spf.Checker{Resolver: resolver}, DMARC: &dmarc.Checker{Resolver: resolver}, Networks: ours,
		})
		tx := transaction(row.client, "client.none.example", "b@none.example")
		if row.login {
			tx.Client.Identity = &mail.Identity{Authentication: "secret-login"}
		}
		m := newMessage(text)
		if got := evaluate(t, chain, tx, m); got.Refused {
			t.Fatal(got.Verdict.WireReply())
		}
		want := row.want + "Received: from client by mx.example.com; now\n" + stays
		if row.keeps {
			want = newMessage(text).header()
		}
		if got := m.header(); got != want {
			t.Errorf("%s: got\n%s\nwant\n%s", row.name, got, want)
		}
	}
}

func TestFieldOfAll(t *testing.T) {
	t.Parallel()
	_, resolver := world(t)
	registry := prometheus.NewRegistry()
	d := Deps{
		Hostname: "mx.example.com", SPF: &spf.Checker{Resolver: resolver}, DMARC: &dmarc.Checker{Resolver: resolver}, Metrics: registry,
		Signatures: signed{findings: []mail.Finding{signature("strict.example", "pass"), signature("other.example", "fail")}},
		Chains:     sealed{ARC{Finding: mail.Finding{Method: "arc", Result: "fail", Reason: "seal 2 does not verify"}}},
	}
	chain := mustChain(t, policy.ListContent, Authenticate, map[string][]string{"authserv_id": {"border.example.com"}}, d)
	m := newMessage("From: a@strict.example\n\nbody\n")
	tx := transaction("192.0.2.1", "mx.strict.example", "a@strict.example")
	evaluate(t, chain, tx, m)
	want := "Authentication-Results: border.example.com; iprev=pass policy.iprev=192.0.2.1; spf=pass smtp.mailfrom=strict.example; " +
		"dkim=pass header.d=strict.example; dkim=fail header.d=other.example; arc=fail reason=\"seal 2 does not verify\"; " +
		"dmarc=pass header.from=strict.example policy.dmarc=none"
	if got := strings.ReplaceAll(string(m.fields[0]), "\r\n\t", " "); got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
	if len(tx.Findings) != 6 || slices.ContainsFunc(tx.Findings, func(f mail.Finding) bool { return f.Stage != Authenticate }) {
		t.Errorf("findings %+v", tx.Findings)
	}
	families, err := registry.Gather()
	if err != nil || len(families) != 1 || len(families[0].Metric) != 6 {
		t.Errorf("metrics %v, %v", families, err)
	}
}

// TestUnreadable: a message that cannot be read is our trouble, not its
// sender's.
func TestUnreadable(t *testing.T) {
	t.Parallel()
	_, resolver := world(t)
	chain := mustChain(t, policy.ListContent, Authenticate, nil, Deps{
		Hostname: "mx.example.com", SPF: &spf.Checker{Resolver: resolver}, DMARC: &dmarc.Checker{Resolver: resolver},
		Signatures: signed{err: errors.Join(io.ErrUnexpectedEOF)},
	})
	got := evaluate(t, chain, transaction("192.0.2.1", "x", "a@strict.example"), newMessage("From: a@strict.example\n\nbody\n"))
	if !got.Refused || !got.Verdict.WireReply().Transient() {
		t.Errorf("%+v", got)
	}
}

// silence answers nothing until it is given up.
type silence struct{ spf.Resolver }

func (silence) TXT(ctx context.Context, _ string) (dns.Answer[string], error) {
	<-ctx.Done()
	return dns.Answer[string]{}, ctx.Err()
}

func (silence) PTR(ctx context.Context, _ netip.Addr) (dns.Answer[string], error) {
	<-ctx.Done()
	return dns.Answer[string]{}, ctx.Err()
}

func (silence) MX(ctx context.Context, _ string) (dns.Answer[dns.MX], error) {
	<-ctx.Done()
	return dns.Answer[dns.MX]{}, ctx.Err()
}

// TestTimeBound: all methods together take no longer than is configured, and
// what they did not learn refuses nothing.
func TestTimeBound(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		chain := mustChain(t, policy.ListContent, Authenticate, map[string][]string{"timeout": {"7s"}}, Deps{
			Hostname: "mx.example.com", SPF: &spf.Checker{Resolver: silence{}}, DMARC: &dmarc.Checker{Resolver: silence{}},
			Rules: Rules{Honour: dmarc.PolicyReject},
		})
		began := time.Now()
		m := newMessage("From: a@strict.example\n\nbody\n")
		got := evaluate(t, chain, transaction("192.0.2.1", "x", "a@strict.example"), m)
		top := string(m.fields[0])
		if took := time.Since(began); got.Refused || took != 7*time.Second {
			t.Errorf("%+v after %v", got, took)
		}
		for _, part := range []string{"iprev=temperror", "spf=temperror", "dmarc=temperror"} {
			if !strings.Contains(top, part) {
				t.Errorf("no %s in %s", part, top)
			}
		}
	})
}
