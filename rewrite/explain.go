package rewrite

import (
	"context"

	"github.com/postern-mail/postern/mail"
)

// Step is what an address becomes in one place.
type Step struct {
	Class   Class
	Address mail.Address
}

// Explain tells what an address becomes in each place of our own clients'
// mail. The steps before one that fails come with the error.
func (r *Rewriter) Explain(ctx context.Context, a mail.Address) ([]Step, error) {
	var steps []Step
	for _, class := range []Class{EnvelopeSender, EnvelopeRecipient, HeaderSender, HeaderRecipient} {
		to, err := r.address(ctx, a, class, r.cfg.Origin, r.cfg.AppendDomain)
		if err != nil {
			return steps, err
		}
		steps = append(steps, Step{class, to})
	}
	return steps, nil
}

// Explain tells what an address becomes on the way out.
func (o *Outbound) Explain(ctx context.Context, a mail.Address) (mail.Address, error) {
	return o.generic(ctx, a)
}
