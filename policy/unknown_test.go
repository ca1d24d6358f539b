package policy

import (
	"context"
	"slices"
	"testing"

	"github.com/postern-mail/postern/mail"
	"github.com/postern-mail/postern/status"
)

// hearer is a follower who wants to hear of commands that nobody knows.
type hearer struct{ follower }

func (h hearer) Attend() Attendance { return h }

func (h hearer) Unknown(_ context.Context, _ *mail.Transaction, line string) mail.Verdict {
	v, _ := h.note(line)
	return v
}

// Those who attend hear of an unknown command until one of them has words for
// it; under warn_if_reject they are logged only, and without any it is for the
// server to say what it says.
func TestUnknownCommands(t *testing.T) {
	t.Parallel()
	refusal := mail.Verdict{Action: mail.Reject, Reason: status.FilterRejected}
	for list, want := range map[string]struct {
		refused bool
		told    []string
		audited string
	}{
		"first second":                {true, []string{"first:NO ONE", "second:NO ONE"}, "refused:second"},
		"second first":                {true, []string{"second:NO ONE"}, "refused:second"},
		"warn_if_reject second first": {false, []string{"second:NO ONE", "first:NO ONE"}, "warned:second"},
		"first":                       {false, []string{"first:NO ONE"}, ""},
		"deaf first":                  {false, []string{"first:NO ONE"}, ""},
	} {
		var told []string
		f := &fixture{}
		d := deps(f)
		for name, v := range map[string]mail.Verdict{"first": {}, "second": refusal} {
			d.Stages[name] = func(Spec) (Stage, error) {
				return hearer{follower{name: name, told: &told, verdicts: map[string]mail.Verdict{"NO ONE": v}}}, nil
			}
		}
		d.Stages["deaf"] = func(Spec) (Stage, error) { return follower{name: "deaf", told: &told}, nil }
		chain, err := Build(Config{}, map[List][]Spec{ListContent: words(list)}, d)
		if err != nil {
			t.Fatal(err)
		}
		s := chain.Session()
		tx := transaction("s@sender.example", "alice@example.com")
		tx.Phase, tx.Recipient = mail.PhaseConnect, nil
		s.Evaluate(context.Background(), tx)
		told = nil
		got := s.Unknown(context.Background(), tx, "NO ONE")
		if got.Refused != want.refused || !slices.Equal(told, want.told) || f.audit.results() != want.audited {
			t.Errorf("%s: told %q, refused %v, audited %q", list, told, got.Refused, f.audit.results())
		}
		if got.Refused && got.Verdict.WireReply().String() != "550 5.7.1 Command rejected" {
			t.Errorf("%s: %v", list, got.Verdict.WireReply())
		}
		s.Close()
	}
}

// Nobody attends a session that was not told of its connection.
func TestUnknownCommandBeforeAnything(t *testing.T) {
	t.Parallel()
	f := attending(t, "first", follower{name: "first", told: new([]string)})
	s := f.chain.Session()
	defer s.Close()
	if d := s.Unknown(context.Background(), transaction("s@sender.example", ""), "NO ONE"); d.Refused {
		t.Error(outcome(d))
	}
}
