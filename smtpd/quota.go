package smtpd

import (
	"context"

	"github.com/postern-mail/postern/mail"
)

// Quotas bounds what people send. Implemented by policy/limits.
type Quotas interface {
	// Begin returns what a message of somebody may cost; nil for one without a
	// quota.
	Begin(ctx context.Context, id mail.Identity) Allowance
}

// Allowance is what one message takes of its sender's quota.
type Allowance interface {
	// Take counts a recipient, or returns why there is none left.
	Take() error
	// Return takes the last Take back.
	Return()
	// Held tells that the message is beyond the quota and has to be held.
	Held() bool
	// Settle ends it: what was taken counts when the message was accepted. Only
	// the first call does anything.
	Settle(accepted bool)
}

// unbounded is the Allowance of those who may send what they like.
type unbounded struct{}

func (unbounded) Take() error { return nil }
func (unbounded) Return()     {}
func (unbounded) Held() bool  { return false }
func (unbounded) Settle(bool) {}

// allowance begins to count for who is known.
func (s *session) allowance(ctx context.Context) Allowance {
	if s.handler.deps.Quotas == nil || s.client.Identity == nil {
		return unbounded{}
	}
	if a := s.handler.deps.Quotas.Begin(ctx, *s.client.Identity); a != nil {
		return a
	}
	return unbounded{}
}
