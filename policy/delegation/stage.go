package delegation

import (
	"context"

	"github.com/postern-mail/postern/mail"
	"github.com/postern-mail/postern/policy"
)

// Stage is check_policy_service. Its answers are actions; policy.Build makes
// them verdicts.
type Stage struct {
	service *Service
	cfg     Config
}

// NewStage returns the restriction that asks a service. default_action and
// policy_context are the restriction's own.
func NewStage(cfg Config, s *Service) *Stage { return &Stage{s, cfg.withDefaults()} }

// Name implements policy.Stage.
func (s *Stage) Name() string { return StageName }

// Evaluate implements policy.Stage; the chain asks Action.
func (s *Stage) Evaluate(context.Context, *mail.Transaction) (mail.Verdict, error) {
	return mail.Verdict{}, nil
}

// Input tells which service is asked.
func (s *Stage) Input(*mail.Transaction) string { return s.cfg.Address }

// rehearsed is the action of a rehearsal: services such as those that greylist
// remember what they are asked.
const rehearsed = "INFO the service is asked about real mail only, since it may remember it"

// Action implements policy.Actor. A service that gives none is answered for by
// the default action.
func (s *Stage) Action(ctx context.Context, tx *mail.Transaction) (string, error) {
	if policy.IsRehearsal(ctx) {
		return rehearsed, nil
	}
	action, err := s.service.Ask(ctx, tx)
	if err != nil {
		return s.cfg.DefaultAction, nil
	}
	return action, nil
}
