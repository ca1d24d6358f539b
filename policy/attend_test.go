package policy

import (
	"context"
	"errors"
	"io"
	"slices"
	"strings"
	"testing"

	"github.com/postern-mail/postern/mail"
	"github.com/postern-mail/postern/status"
)

// paper is a Message in memory.
type paper struct {
	fields []mail.Field
	body   string
}

func (p *paper) Fields() []mail.Field { return p.fields }
func (p *paper) Ours() int            { return 0 }
func (p *paper) Body() io.ReadSeeker  { return strings.NewReader(p.body) }
func (p *paper) BodyOctets() int64    { return int64(len(p.body)) }

func (p *paper) Apply(e mail.Edit) error {
	switch {
	case e.PrependHeader != "":
		p.fields = slices.Insert(p.fields, 0, mail.Field(e.PrependHeader))
	case e.Change != nil && e.Change.At < len(p.fields):
		p.fields[e.Change.At] = e.Change.Field
	default:
		return errors.New("no such place")
	}
	return nil
}

// follower is an Attender that notes what it is told, and answers with verdicts
// by what it was told.
type follower struct {
	name     string
	told     *[]string
	verdicts map[string]mail.Verdict
	err      error
}

func (f follower) Name() string { return f.name }

func (f follower) Evaluate(context.Context, *mail.Transaction) (mail.Verdict, error) {
	return mail.Verdict{}, errors.New("an attender is not evaluated")
}

func (f follower) Attend() Attendance { return f }

func (f follower) note(what string) (mail.Verdict, error) {
	*f.told = append(*f.told, f.name+":"+what)
	return f.verdicts[what], f.err
}

func (f follower) Step(_ context.Context, tx *mail.Transaction) (mail.Verdict, error) {
	return f.note(tx.Phase.String())
}

func (f follower) Content(_ context.Context, tx *mail.Transaction) (mail.Verdict, error) {
	var names []string
	for _, field := range tx.Message.Fields() {
		names = append(names, field.Name())
	}
	return f.note("content " + strings.Join(names, ","))
}

func (f follower) Abort() { _, _ = f.note("abort") }
func (f follower) Close() { _, _ = f.note("close") }

// attending builds a chain whose content list has these stages.
func attending(t *testing.T, list string, stages ...follower) *fixture {
	t.Helper()
	f := &fixture{}
	d := deps(f)
	for _, s := range stages {
		d.Stages[s.name] = func(Spec) (Stage, error) { return s, nil }
	}
	chain, err := Build(Config{}, map[List][]Spec{ListContent: words(list), ListRelay: words("reject_unauth_destination")}, d)
	if err != nil {
		t.Fatal(err)
	}
	f.chain = chain
	return f
}

// dialogue goes through the phases until one refuses.
func dialogue(s *Session, to string, message mail.Message) (mail.Decision, mail.Phase) {
	tx := transaction("s@sender.example", to)
	to1 := tx.Recipient
	var d mail.Decision
	for phase := mail.PhaseConnect; phase <= mail.PhaseEndOfData; phase++ {
		tx.Phase, tx.Recipient, tx.Message = phase, nil, nil
		if phase == mail.PhaseRecipient {
			tx.Recipient = to1
		}
		if phase == mail.PhaseEndOfData {
			tx.Message = message
		}
		if d = s.Evaluate(context.Background(), tx); d.Refused {
			return d, phase
		}
	}
	return d, mail.PhaseEndOfData
}

func TestAttenders(t *testing.T) {
	t.Parallel()
	var told []string
	first := follower{name: "first", told: &told, verdicts: map[string]mail.Verdict{
		"content Subject": {Edits: []mail.Edit{{PrependHeader: "X-First: 1"}}},
	}}
	second := follower{name: "second", told: &told}
	f := attending(t, "first prepend second", first, second)
	s := f.chain.Session()
	message := &paper{fields: []mail.Field{"Subject: hello"}}
	if d, _ := dialogue(s, "alice@example.com", message); d.Refused {
		t.Fatal(outcome(d))
	}
	s.Close()
	want := "first:connect second:connect first:helo second:helo first:mail second:mail first:recipient second:recipient first:data second:data " +
		"first:content Subject|second:content X-One,X-First,Subject|first:close second:close"
	if got := strings.Join(told, " "); got != strings.ReplaceAll(want, "|", " ") {
		t.Errorf("told %s", got)
	}
}

func TestAttenderIsNotToldOfTheRefused(t *testing.T) {
	t.Parallel()
	var told []string
	f := attending(t, "one", follower{name: "one", told: &told})
	s := f.chain.Session()
	d, phase := dialogue(s, "x@other.example", nil)
	if !d.Refused || phase != mail.PhaseRecipient {
		t.Fatalf("refused %t at %s", d.Refused, phase)
	}
	s.Abort()
	if got := strings.Join(told, " "); got != "one:connect one:helo one:mail one:abort" {
		t.Errorf("told %s", got)
	}
}

func TestAttenderRefuses(t *testing.T) {
	t.Parallel()
	no := mail.Verdict{Action: mail.Reject, Reason: status.PolicyReject, Reply: reply(550, 7, 1, "not this one")}
	for _, at := range []string{"connect", "helo", "mail", "recipient", "data", "content Subject"} {
		var told []string
		f := attending(t, "one", follower{name: "one", told: &told, verdicts: map[string]mail.Verdict{at: no}})
		d, _ := dialogue(f.chain.Session(), "alice@example.com", &paper{fields: []mail.Field{"Subject: x"}})
		if outcome(d) != "550 5.7.1 not this one" || told[len(told)-1] != "one:"+at {
			t.Errorf("at %s: %s after %v", at, outcome(d), told)
		}
	}
}

func TestAttenderOutOfOrder(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct{ onError, want string }{
		{"", "451 4.4.3 <client.example[198.51.100.7]>: Directory temporarily unavailable"},
		{"(on_error=dunno)", "ok"},
		{"(on_error=hold)", "ok held"},
		{"(on_error=shutdown)", "421 4.3.0 <client.example[198.51.100.7]>: Directory temporarily unavailable"},
	} {
		var told []string
		f := attending(t, "one"+tt.onError, follower{name: "one", told: &told, err: errDown})
		d, _ := dialogue(f.chain.Session(), "alice@example.com", &paper{})
		got := outcome(d)
		if d.Hold {
			got += " held"
		}
		if want := strings.ReplaceAll(tt.want, "<client.example[198.51.100.7]>", "<END-OF-MESSAGE>"); got != want {
			t.Errorf("on_error %q: %s, want %s", tt.onError, got, want)
		}
	}
}

// TestEditThatCannotBe: a stage that asks for a change which is impossible could
// not do its work; the message does not go on half changed and unnoticed.
func TestEditThatCannotBe(t *testing.T) {
	t.Parallel()
	var told []string
	f := attending(t, "one", follower{name: "one", told: &told, verdicts: map[string]mail.Verdict{
		"content Subject": {Edits: []mail.Edit{{Change: &mail.ChangeField{At: 7}}}},
	}})
	d, _ := dialogue(f.chain.Session(), "alice@example.com", &paper{fields: []mail.Field{"Subject: x"}})
	if !d.Refused || !d.Verdict.WireReply().Transient() {
		t.Errorf("%s", outcome(d))
	}
}

func TestInspectorsStandInTheContentList(t *testing.T) {
	t.Parallel()
	f := &fixture{}
	d := deps(f)
	d.Stages["one"] = func(Spec) (Stage, error) { return follower{name: "one"}, nil }
	_, err := Build(Config{}, map[List][]Spec{ListSender: words("one")}, d)
	if err == nil || !strings.Contains(err.Error(), "move it to the content list") {
		t.Errorf("%v", err)
	}
}

// TestEnvelopeEdits: what restrictions ask of the envelope reaches the caller
// once, though each RCPT asks again, and nothing of a refused recipient does.
func TestEnvelopeEdits(t *testing.T) {
	t.Parallel()
	f := &fixture{}
	d := deps(f)
	copyTo := mail.MustAddress("archive@example.com")
	d.Stages["copy"] = func(Spec) (Stage, error) {
		return says{name: "copy", verdict: mail.Verdict{Edits: []mail.Edit{{Copy: &copyTo}}}}, nil
	}
	chain, err := Build(Config{}, map[List][]Spec{ListSender: words("copy")}, d)
	if err != nil {
		t.Fatal(err)
	}
	s := chain.Session()
	tx := transaction("s@sender.example", "nobody@example.com")
	if d := s.Evaluate(context.Background(), tx); !d.Refused {
		t.Fatal("nobody was accepted")
	}
	for _, to := range []string{"alice@example.com", "bob@example.com"} {
		tx.Recipient = &mail.Recipient{Address: mail.MustAddress(to)}
		d := s.Evaluate(context.Background(), tx)
		if d.Refused || len(d.Envelope) != 1 || *d.Envelope[0].Copy != copyTo {
			t.Errorf("%s: %s %+v", to, outcome(d), d.Envelope)
		}
	}
}

// TestFindings: a stage's findings reach the stages after it, and those it gave
// for another recipient before are gone.
func TestFindings(t *testing.T) {
	t.Parallel()
	f := &fixture{}
	d := deps(f)
	d.Stages["spf"] = func(Spec) (Stage, error) {
		return says{name: "spf", verdict: mail.Verdict{Findings: []mail.Finding{{Method: "spf", Result: "pass"}}}}, nil
	}
	chain, err := Build(Config{}, map[List][]Spec{ListSender: words("spf")}, d)
	if err != nil {
		t.Fatal(err)
	}
	tx := transaction("s@sender.example", "alice@example.com")
	s := chain.Session()
	for range 3 {
		s.Evaluate(context.Background(), tx)
	}
	if len(tx.Findings) != 1 || tx.Findings[0].Stage != "spf" {
		t.Errorf("%+v", tx.Findings)
	}
}

func TestSteps(t *testing.T) {
	t.Parallel()
	f := build(t, Config{}, map[List]string{ListClient: "dunno yes", ListRecipient: "down(on_error=dunno) no"})
	s := f.chain.Session()
	s.Evaluate(context.Background(), transaction("s@sender.example", "alice@example.com"))
	var got []string
	for _, step := range s.Steps() {
		line := string(step.List) + " " + step.Stage + " " + step.Action.String()
		if step.Err != nil {
			line += " error"
		}
		got = append(got, line)
	}
	want := []string{
		"client dunno dunno", "client yes permit", "relay permit_mynetworks dunno", "relay permit_authenticated dunno",
		"relay reject_unauth_destination dunno", "recipient down dunno error", "recipient no reject",
	}
	if !slices.Equal(got, want) {
		t.Errorf("got %q", got)
	}
}
