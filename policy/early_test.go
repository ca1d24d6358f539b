package policy

import (
	"context"
	"testing"

	"github.com/postern-mail/postern/mail"
)

// early is a stage of another room that begins at connect and needs HELO.
type early struct{ started *int }

func (early) Name() string      { return "early" }
func (early) Needs() mail.Phase { return mail.PhaseHelo }

func (e early) Start(*mail.Transaction) { *e.started++ }

func (early) Evaluate(context.Context, *mail.Transaction) (mail.Verdict, error) {
	return mail.Verdict{}, nil
}

func TestStarters(t *testing.T) {
	t.Parallel()
	started := 0
	f := &fixture{}
	d := deps(f)
	d.Stages["early"] = func(Spec) (Stage, error) { return early{&started}, nil }
	lists := map[List][]Spec{ListClient: words("early"), ListRelay: words("reject_unauth_destination")}
	chain, err := Build(Config{Networks: prefixes("192.0.2.0/24")}, lists, d)
	if err != nil {
		t.Fatal(err)
	}
	tx := transaction("", "")
	tx.Phase = mail.PhaseConnect
	chain.Session().Evaluate(t.Context(), tx)
	if started != 1 {
		t.Errorf("started %d times for a stranger", started)
	}
	tx.Client.Remote = addrPort("192.0.2.1:25")
	chain.Session().Evaluate(t.Context(), tx)
	if started != 1 {
		t.Error("started for a client of ours")
	}
	if _, err := Build(Config{EarlyReject: true}, lists, d); err == nil {
		t.Error("a stage that needs HELO may stand in a list that is asked before")
	}
}
