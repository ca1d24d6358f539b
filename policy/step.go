package policy

import (
	"context"
	"time"

	"github.com/postern-mail/postern/mail"
	"github.com/postern-mail/postern/status"
)

// Step is one restriction that an evaluation went through.
type Step struct {
	List   List
	Stage  string
	Action mail.Action
	Reason status.Reason // of what refuses or defers
	Reply  *status.Reply // in the place of the reason's
	Detail string
	// Err is why the stage could not decide, nil for one that did.
	Err error
	// Cost is how long it took.
	Cost time.Duration

	item *item
}

// Steps says which steps the audit names.
type Steps int

const (
	// DecisiveSteps are those that did more than to let others decide.
	DecisiveSteps Steps = iota
	// AllSteps are all.
	AllSteps
	// NoSteps are none.
	NoSteps
)

// maxSteps bounds what is kept of one evaluation.
const maxSteps = 1000

// Informed is a Stage that tells what it looked at, where its subject does not
// say it all. It is asked only when somebody wants to know.
type Informed interface {
	Stage
	Input(tx *mail.Transaction) string
}

// Input tells what the stage looked at, of the transaction it was asked about.
func (s *Step) Input(tx *mail.Transaction) string {
	if i, ok := s.item.stage.(Informed); ok {
		return i.Input(tx)
	}
	if s.item.input != nil {
		return s.item.input(tx)
	}
	about := s.item.about
	if about == aboutList {
		about = listSubject[s.List]
	}
	return about.what(tx)
}

// Verdict names what the stage said.
func (s *Step) Verdict() string {
	if s.Err != nil {
		return "error"
	}
	return s.Action.String()
}

// step keeps what an item did. The buffer is used again at the next evaluation.
func (s *Session) step(r *run, it *item, v mail.Verdict, err error, began time.Duration) {
	if len(s.steps) >= maxSteps {
		return
	}
	s.steps = append(s.steps, Step{
		List: r.current.name, Stage: it.stage.Name(), Action: v.Action, Reason: v.Reason, Reply: v.Reply, Detail: v.Detail, Err: err,
		Cost: time.Since(r.start) - began, item: it,
	})
}

// Steps returns what the last evaluation went through, in order. They are the
// Session's, until its next call.
func (s *Session) Steps() []Step { return s.steps }

// Audited returns what the audit is to know of the last evaluation, of tx.
func (s *Session) Audited(tx *mail.Transaction) []mail.PolicyStep {
	which := s.chain.cfg.Steps
	if which == NoSteps {
		return nil
	}
	var told []mail.PolicyStep
	for i := range s.steps {
		if step := &s.steps[i]; which == AllSteps || step.decisive() {
			told = append(told, step.Record(tx))
		}
	}
	return told
}

// decisive reports whether the stage did more than to let others decide.
func (s *Step) decisive() bool { return s.Action != mail.Dunno || s.Detail != "" || s.Err != nil }

// Record returns the step as the audit has it.
func (s *Step) Record(tx *mail.Transaction) mail.PolicyStep {
	record := mail.PolicyStep{
		List: string(s.List), Stage: s.Stage, Input: s.Input(tx), Verdict: s.Verdict(), Detail: s.Detail, Cost: s.Cost,
	}
	if s.Err != nil {
		record.Detail = s.Err.Error()
	}
	if tx.Phase == mail.PhaseRecipient && tx.Recipient != nil {
		record.Recipient = tx.Recipient.Address.String()
	}
	return record
}

type rehearsalKey struct{}

// Rehearsal returns a context whose evaluations are not for mail: they are
// neither logged, counted nor audited, and stages that remember what they see
// do not.
func Rehearsal(ctx context.Context) context.Context {
	return context.WithValue(ctx, rehearsalKey{}, true)
}

// IsRehearsal reports whether ctx is of an evaluation that is not for mail.
func IsRehearsal(ctx context.Context) bool { return ctx.Value(rehearsalKey{}) != nil }
