package rules

import (
	"context"
	"io"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/postern-mail/postern/mail"
	"github.com/postern-mail/postern/policy"
	"github.com/postern-mail/postern/status"
)

// company is example.com: alice manages, bob is a contractor, and the directory
// is down for whatever concerns carol and the group downs.
type company struct{}

func (company) Class(d mail.Domain) policy.DomainClass {
	if d == "example.com" {
		return policy.Local
	}
	return policy.Other
}

var errDown = status.Errorf(status.DirectoryDown, "ldap1: connection refused")

func (company) AccountOf(_ context.Context, id mail.Identity) (mail.Account, error) {
	switch id.Authentication {
	case "bob":
		return mail.Account{Name: "bob", Attributes: map[string][]string{"employeetype": {"Contractor"}}}, nil
	case "carol":
		return mail.Account{}, errDown
	case "alice":
		return mail.Account{Name: "alice"}, nil
	}
	return mail.Account{}, status.New(status.NoSuchUser, nil)
}

func (c company) Holder(ctx context.Context, a mail.Address) (mail.Account, error) {
	return c.AccountOf(ctx, mail.Identity{Authentication: string(a.Local)})
}

func (company) Belongs(_ context.Context, who mail.Poster, group mail.Address) (bool, error) {
	name := string(who.Address.Local)
	if who.Identity != nil {
		name = who.Identity.Authentication
	}
	switch group.Local {
	case "managers":
		return name == "alice" && (who.Identity != nil || who.Trusted), nil
	case "downs":
		return false, errDown
	}
	return false, status.New(status.NoSuchUser, nil)
}

// letter is a message in memory that applies no edits.
type letter struct {
	fields []mail.Field
	body   string
}

func (l letter) Fields() []mail.Field { return l.fields }
func (letter) Ours() int              { return 1 }
func (l letter) Body() io.ReadSeeker  { return strings.NewReader(l.body) }
func (l letter) BodyOctets() int64    { return int64(len(l.body)) }
func (letter) Apply(mail.Edit) error  { panic("the chain applies edits") }

func address(s string) mail.Address { return mail.MustAddress(s) }

func pattern(t *testing.T, text string) []Pattern {
	t.Helper()
	p, err := ParsePattern(text)
	if err != nil {
		t.Fatal(err)
	}
	return []Pattern{p}
}

// sends is a transaction: "alice" logged in, or a client of nobody's.
func sends(login, from, to string) *mail.Transaction {
	tx := &mail.Transaction{Phase: mail.PhaseRecipient, Client: mail.Client{Remote: netip.MustParseAddrPort("198.51.100.7:1"), Hostname: "mx.far.example"}}
	if login != "" {
		tx.Client.Identity = &mail.Identity{Authentication: login, Authorization: login, Mechanism: "PLAIN"}
	}
	if from != "" {
		tx.Envelope.ReversePath = address(from)
	}
	tx.Recipient = &mail.Recipient{Address: address(to)}
	return tx
}

func evaluate(t *testing.T, tx *mail.Transaction, all ...Rule) (mail.Verdict, error) {
	t.Helper()
	for i := range all {
		if err := all[i].Check(); err != nil {
			t.Fatal(err)
		}
	}
	deps := Deps{Domains: company{}, Accounts: company{}, Groups: company{}, Networks: []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")}}
	return New(all, deps, tx.Message != nil).Evaluate(t.Context(), tx)
}

func yes() *bool { b := true; return &b }
func no() *bool  { b := false; return &b }

func TestConditions(t *testing.T) {
	t.Parallel()
	attributes := []Attribute{ParseAttribute("employeeType = contractor")}
	for _, tt := range []struct {
		name string
		when Condition
		tx   *mail.Transaction
		want bool
	}{
		{"nothing asked", Condition{}, sends("", "a@far.example", "x@example.com"), true},
		{"incoming", Condition{Direction: Incoming}, sends("", "a@far.example", "x@example.com"), true},
		{"incoming, but he logged in", Condition{Direction: Incoming}, sends("alice", "a@far.example", "x@example.com"), false},
		{"internal", Condition{Direction: Internal}, sends("alice", "alice@example.com", "x@example.com"), true},
		{"outgoing", Condition{Direction: Outgoing}, sends("alice", "alice@example.com", "x@far.example"), true},
		{"outgoing, but ours", Condition{Direction: Outgoing}, sends("alice", "alice@example.com", "x@example.com"), false},
		{"logged in", Condition{Authenticated: yes()}, sends("alice", "", "x@example.com"), true},
		{"nobody logged in", Condition{Authenticated: no()}, sends("alice", "", "x@example.com"), false},
		{"no TLS", Condition{TLS: no()}, sends("", "", "x@example.com"), true},
		{"a client's network", Condition{Clients: []netip.Prefix{netip.MustParsePrefix("198.51.100.0/24")}}, sends("", "", "x@example.com"), true},
		{"a client's name", Condition{ClientNames: pattern(t, ".far.example")}, sends("", "", "x@example.com"), true},
		{"another name", Condition{ClientNames: pattern(t, "far.example")}, sends("", "", "x@example.com"), false},
		{"a login", Condition{Logins: []string{"Alice"}}, sends("alice", "", "x@example.com"), true},
		{"a sender", Condition{Senders: pattern(t, "a@far.example")}, sends("", "a@FAR.example", "x@example.com"), true},
		{"a sender's domain", Condition{Senders: pattern(t, "@far.example")}, sends("", "b@far.example", "x@example.com"), true},
		{"domains below", Condition{Senders: pattern(t, ".far.example")}, sends("", "b@far.example", "x@example.com"), false},
		{"reports", Condition{Senders: pattern(t, "<>")}, sends("", "", "x@example.com"), true},
		{"a sender, not a report", Condition{Senders: pattern(t, "far.example")}, sends("", "", "x@example.com"), false},
		{"a recipient", Condition{Recipients: pattern(t, "all-staff@example.com")}, sends("", "", "all-staff@example.com"), true},
		{"a manager", Condition{SenderGroups: []mail.Address{address("managers@example.com")}}, sends("alice", "alice@example.com", "x@example.com"), true},
		{"who says he is one", Condition{SenderGroups: []mail.Address{address("managers@example.com")}}, sends("", "alice@example.com", "x@example.com"), false},
		{"to a manager", Condition{RecipientGroups: []mail.Address{address("managers@example.com")}}, sends("", "a@far.example", "alice@example.com"), true},
		{"to another", Condition{RecipientGroups: []mail.Address{address("managers@example.com")}}, sends("", "a@far.example", "bob@example.com"), false},
		{"a contractor", Condition{SenderAttributes: attributes}, sends("bob", "bob@example.com", "x@example.com"), true},
		{"no contractor", Condition{SenderAttributes: attributes}, sends("alice", "alice@example.com", "x@example.com"), false},
		{"nobody's attribute", Condition{SenderAttributes: attributes}, sends("", "bob@example.com", "x@example.com"), false},
		{"to a contractor", Condition{RecipientAttributes: attributes}, sends("", "a@far.example", "bob@example.com"), true},
		{"to nobody", Condition{RecipientAttributes: attributes}, sends("", "a@far.example", "nobody@example.com"), false},
		{"two conditions, one holds", Condition{Direction: Incoming, Senders: pattern(t, "near.example")}, sends("", "a@far.example", "x@example.com"), false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			when := Rule{Name: "r", When: tt.when, Then: Action{Reject: "no"}}
			unless := Rule{Name: "r", Unless: []Condition{{Senders: pattern(t, "never@never.example")}, tt.when}, Then: Action{Reject: "no"}}
			for rule, want := range map[*Rule]bool{&when: tt.want, &unless: !tt.want} {
				v, err := evaluate(t, tt.tx, *rule)
				if err != nil || (v.Action == mail.Reject) != want {
					t.Errorf("%+v: %v, %v", rule, v.Action, err)
				}
			}
		})
	}
}

// TestNobodyCanTell: a condition whose truth is not known is neither true nor
// false, in when and in unless.
func TestNobodyCanTell(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]Condition{
		"group":               {SenderGroups: []mail.Address{address("downs@example.com")}},
		"group that is not":   {SenderGroups: []mail.Address{address("gone@example.com")}},
		"attribute":           {SenderAttributes: []Attribute{{"employeetype", "contractor"}}},
		"recipient attribute": {RecipientAttributes: []Attribute{{"employeetype", ""}}},
	} {
		for _, r := range []Rule{{Name: "r", When: c, Then: Action{Reject: "no"}}, {Name: "r", Unless: []Condition{c}, Then: Action{Reject: "no"}}} {
			v, err := evaluate(t, sends("carol", "carol@example.com", "carol@example.com"), r)
			if err == nil || status.Of(err).Permanent() || !strings.Contains(err.Error(), `rule "r"`) {
				t.Errorf("%s: %v, %v", name, v.Action, err)
			}
		}
	}
}

func TestActions(t *testing.T) {
	t.Parallel()
	archive, boss := address("archive@example.com"), address("boss@example.com")
	tx := sends("", "a@far.example", "bob@example.com")
	v, err := evaluate(t, tx,
		Rule{Name: "keep", Then: Action{CopyTo: []mail.Address{archive}, Log: "kept"}},
		Rule{Name: "away", When: Condition{Recipients: pattern(t, "bob@example.com")}, Then: Action{Redirect: &boss, RequireTLS: true}},
		Rule{Name: "wait", Then: Action{Hold: "look at it", Stop: true}},
		Rule{Name: "after", Then: Action{Reject: "never reached"}})
	if err != nil || v.Action != mail.Hold || v.Detail != "rule keep: kept; rule away; rule wait: look at it" {
		t.Fatalf("%+v, %v", v, err)
	}
	if len(v.Edits) != 4 || *v.Edits[0].Copy != archive || !v.Edits[1].RequireTLS || *v.Edits[2].Remove != tx.Recipient.Address || v.Edits[3].Add.Address != boss {
		t.Errorf("%+v", v.Edits)
	}
	v, err = evaluate(t, tx,
		Rule{Name: "keep", Then: Action{CopyTo: []mail.Address{archive}}},
		Rule{Name: "no", Then: Action{Reject: "not here"}})
	if err != nil || v.Action != mail.Reject || v.WireReply().String() != "554 5.7.1 not here" || len(v.Edits) != 0 || v.Detail != "rule keep; rule no" {
		t.Errorf("%+v, %v", v, err)
	}
	v, err = evaluate(t, tx, Rule{Name: "slow", Then: Action{Defer: "later"}})
	if err != nil || v.WireReply().String() != "450 4.7.1 later" {
		t.Errorf("%+v, %v", v, err)
	}
}

// TestOnlySomeRecipients: a rule about one recipient sends on that one only.
func TestOnlySomeRecipients(t *testing.T) {
	t.Parallel()
	tx := sends("", "a@far.example", "bob@example.com")
	tx.Recipient = nil
	tx.Envelope.Recipients = []mail.Recipient{
		{Address: address("alice@example.com"), Accepted: address("alice@example.com")},
		{Address: address("bob@example.com"), Accepted: address("bob@example.com"), Notify: mail.NotifyNever},
	}
	tx.Message = letter{fields: []mail.Field{"Received: x", "Subject: hi"}}
	partner := mail.Route{Transport: "partner"}
	v, err := evaluate(t, tx, Rule{Name: "r", When: Condition{Above: -1, Recipients: pattern(t, "bob@example.com"), Headers: header(t, "Subject")}, Then: Action{Route: &partner}})
	if err != nil || len(v.Edits) != 2 || v.Edits[0].Remove.String() != "bob@example.com" {
		t.Fatalf("%+v, %v", v.Edits, err)
	}
	if add := v.Edits[1].Add; add.Route != partner || add.Address.String() != "bob@example.com" || add.Notify != mail.NotifyNever {
		t.Errorf("%+v", add)
	}
}

func header(t *testing.T, text string) []HeaderMatch {
	t.Helper()
	h, err := ParseHeaderMatch(text)
	if err != nil {
		t.Fatal(err)
	}
	return []HeaderMatch{h}
}

func TestContentConditions(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name string
		when Condition
		want bool
	}{
		{"a field is there", Condition{Headers: header(t, "list-id")}, true},
		{"a field says", Condition{Headers: header(t, "Subject: ^re: .*invoice$")}, true},
		{"a field says otherwise", Condition{Headers: header(t, "Subject: offer")}, false},
		{"our own field does not count", Condition{Headers: header(t, "Received: ours")}, false},
		{"an author", Condition{From: pattern(t, "boss@example.com")}, true},
		{"another author", Condition{From: pattern(t, "a@far.example")}, false},
		{"larger", Condition{Above: 99}, true},
		{"not larger", Condition{Above: 100}, false},
		{"found", Condition{Headers: header(t, "Subject"), Findings: []FindingMatch{ParseFindingMatch("dmarc=fail")}}, true},
		{"not found", Condition{Headers: header(t, "Subject"), Findings: []FindingMatch{ParseFindingMatch("dmarc=pass"), ParseFindingMatch("spf=fail")}}, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			tx := sends("", "a@far.example", "bob@example.com")
			tx.Octets = 100
			tx.Findings = []mail.Finding{{Method: "dmarc", Result: "fail"}, {Method: "spf", Result: "pass"}}
			tx.Message = letter{fields: []mail.Field{"Received: ours", "List-Id: <x>", "Subject: Re:\r\n your invoice", `From: "The, boss" <Boss@Example.com>, other@example.com`}}
			v, err := evaluate(t, tx, Rule{Name: "r", When: tt.when, Then: Action{Reject: "no"}})
			if err != nil || (v.Action == mail.Reject) != tt.want {
				t.Errorf("%v, %v", v.Action, err)
			}
		})
	}
}

// TestFieldEdits: edits are of the places that the fields had, from the bottom to
// the top, whichever rules asked for them.
func TestFieldEdits(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct{ name, subject, want string }{
		{"tagged", "Subject: hello", "Subject: [EXTERNAL] hello"},
		{"folded", "Subject: hello\r\n world", "Subject: [EXTERNAL] hello\r\n world"},
		{"tagged already", "Subject: Re: [EXTERNAL] hello", "Subject: Re: [EXTERNAL] hello"},
		{"tagged already, encoded", "Subject: =?utf-8?Q?Re:_[EXTERNAL]_h=C3=A4?=", "Subject: =?utf-8?Q?Re:_[EXTERNAL]_h=C3=A4?="},
		{"empty", "Subject:", "Subject: [EXTERNAL]"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			tx := sends("", "a@far.example", "bob@example.com")
			tx.Message = letter{fields: []mail.Field{"Received: ours", "X-Spam: no", mail.Field(tt.subject), "x-spam: yes"}}
			v, err := evaluate(t, tx,
				Rule{Name: "a", Then: Action{Strip: []string{"X-Spam"}, Headers: []mail.Field{"X-A: 1", "X-B: 2"}}},
				Rule{Name: "b", Then: Action{Tag: "[EXTERNAL]"}}, Rule{Name: "c", Then: Action{Tag: "[EXTERNAL]"}})
			if err != nil {
				t.Fatal(err)
			}
			got := applied(tx.Message.Fields(), v.Edits)
			want := []mail.Field{"X-A: 1", "X-B: 2", "Received: ours", mail.Field(tt.want)}
			if !slices.Equal(got, want) {
				t.Errorf("%q", got)
			}
		})
	}
	t.Run("without a subject", func(t *testing.T) {
		t.Parallel()
		tx := sends("", "a@far.example", "bob@example.com")
		tx.Message = letter{fields: []mail.Field{"Received: ours"}}
		v, err := evaluate(t, tx, Rule{Name: "a", Then: Action{Tag: "[外部]"}})
		if got := applied(tx.Message.Fields(), v.Edits); err != nil || len(got) != 2 || got[1] != "Subject: =?utf-8?q?[=E5=A4=96=E9=83=A8]?=" {
			t.Errorf("%q, %v", got, err)
		}
	})
}

// applied does what the message does with edits of fields.
func applied(fields []mail.Field, edits []mail.Edit) []mail.Field {
	fields = slices.Clone(fields)
	for _, e := range edits {
		switch {
		case e.PrependHeader != "":
			fields = slices.Insert(fields, 0, mail.Field(e.PrependHeader))
		case e.Insert != nil:
			fields = slices.Insert(fields, e.Insert.At, e.Insert.Field)
		case e.Change != nil && e.Change.Field == "":
			fields = slices.Delete(fields, e.Change.At, e.Change.At+1)
		case e.Change != nil:
			fields[e.Change.At] = e.Change.Field
		}
	}
	return fields
}

// TestWhereRulesAreAsked: what only the message can tell waits for it.
func TestWhereRulesAreAsked(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		rule Rule
		want bool
	}{
		{Rule{When: Condition{Findings: []FindingMatch{{"spf", "fail"}}}, Then: Action{Reject: "no"}}, false},
		{Rule{When: Condition{Findings: []FindingMatch{{"dmarc", "fail"}}}, Then: Action{Reject: "no"}}, true},
		{Rule{Unless: []Condition{{Above: 1}}, Then: Action{Reject: "no"}}, true},
		{Rule{Then: Action{Tag: "[X]"}}, true},
		{Rule{Then: Action{Hold: "x", CopyTo: []mail.Address{address("a@example.com")}}}, false},
	} {
		if tt.rule.InMessage() != tt.want {
			t.Errorf("%+v", tt.rule)
		}
	}
}

func TestCheck(t *testing.T) {
	t.Parallel()
	boss := address("boss@example.com")
	for want, a := range map[string]Action{
		"then says nothing":      {},
		"exclude each other":     {Reject: "no", Hold: "x"},
		"redirect and deliver":   {Redirect: &boss, Route: &mail.Route{Transport: "x"}},
		"refused or thrown away": {Reject: "no", Tag: "[X]"},
		"no header field":        {Headers: []mail.Field{"X-A"}},
		"no name of a header":    {Headers: []mail.Field{"X A: b"}},
		"reject is one line":     {Reject: "a\r\nb"},
		"field Received shows":   {Strip: []string{"received"}},
		"banner has more":        {Banner: strings.Repeat("x", maxText+1)},
	} {
		r := Rule{Name: "r", Then: a}
		if err := r.Check(); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want %s", err, want)
		}
	}
}
