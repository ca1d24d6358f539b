package smtpd

import (
	"context"
	"testing"

	"github.com/hashicorp/go-hclog"

	"github.com/postern-mail/postern/mail"
	"github.com/postern-mail/postern/policy"
	"github.com/postern-mail/postern/smtp"
	"github.com/postern-mail/postern/status"
)

// hearer refuses commands that nobody knows in words of its own, once the client
// has greeted.
type hearer struct{ reader }

func (h hearer) Attend() policy.Attendance { return h }

func (hearer) Step(context.Context, *mail.Transaction) (mail.Verdict, error) {
	return mail.Verdict{}, nil
}

func (hearer) Content(context.Context, *mail.Transaction) (mail.Verdict, error) {
	return mail.Verdict{}, nil
}

func (hearer) Abort() {}
func (hearer) Close() {}

func (hearer) Unknown(_ context.Context, tx *mail.Transaction, line string) mail.Verdict {
	if tx.Phase != mail.PhaseHelo || line != "NO ONE" {
		return mail.Verdict{}
	}
	return mail.Verdict{Action: mail.Reject, Reason: status.FilterRejected}
}

// Filters hear of commands that the server does not know, and what they say is
// what the client hears.
func TestUnknownCommand(t *testing.T) {
	t.Parallel()
	directory, audit := &fakeDirectory{}, &recorder{}
	lists := policy.DefaultMX()
	lists[policy.ListContent] = []policy.Spec{{Name: "hear"}}
	chain, err := policy.Build(policy.Config{}, lists, policy.Deps{
		Domains: directory, Recipients: directory, Owners: directory, Audit: audit, Logger: hclog.NewNullLogger(),
		Stages: map[string]func(policy.Spec) (policy.Stage, error){
			"hear": func(policy.Spec) (policy.Stage, error) { return hearer{reader{name: "hear"}}, nil },
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	h, _ := asking(t, &fakeQueue{}, audit, nil)
	h.deps.Policy = chain
	client := &mail.Client{}
	s, err := h.NewSession(t.Context(), client)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close(nil)
	hears := s.(smtp.UnknownSession)
	if err := hears.Unknown(t.Context(), "NO ONE"); err != nil {
		t.Errorf("before the greeting: %v", err)
	}
	client.Helo = "client.example"
	if err := hears.Unknown(t.Context(), "NO ONE"); err == nil || status.ReplyOf(err).String() != "550 5.7.1 Command rejected" {
		t.Errorf("after it: %v", err)
	}
	if err := hears.Unknown(t.Context(), "NOTHING"); err != nil {
		t.Errorf("another one: %v", err)
	}
	if s.(*session).refused != 1 {
		t.Errorf("%d refused", s.(*session).refused)
	}
}
