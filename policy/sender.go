package policy

import (
	"context"

	"github.com/postern-mail/postern/mail"
	"github.com/postern-mail/postern/status"
)

func rejectUnqualifiedSender(tx *mail.Transaction) mail.Verdict {
	from := tx.Envelope.ReversePath
	if from.IsNull() || qualified(from.Domain) {
		return mail.Verdict{}
	}
	return aboutSender.say(tx, mail.Reject, status.SenderNotQualified)
}

// rejectUnlistedSender refuses senders in our own domains that the directory
// does not know.
func rejectUnlistedSender(cfg Config, deps Deps) asked {
	return func(ctx context.Context, tx *mail.Transaction) (mail.Verdict, error) {
		from := tx.Envelope.ReversePath
		if from.IsNull() || deps.Domains.Class(from.Domain) == Other {
			return mail.Verdict{}, nil
		}
		// The memory is the recipient's: a sender is asked about beside it.
		missing, err := listed(context.WithValue(ctx, memoryKey{}, nil), deps.Recipients, from)
		if err != nil || missing == nil {
			return mail.Verdict{}, err
		}
		v := aboutSender.refuse(tx, mail.Reject, status.NoSuchSender, unknownUser(cfg, deps.Domains.Class(from.Domain)))
		v.Detail = missing.Error()
		return v, nil
	}
}

// ownership is the reject_sender_login_mismatch family.
type ownership struct {
	name            string
	owners          Owners
	authenticated   bool // who logged in must own the sender
	unauthenticated bool // who did not log in must not use an owned sender
	knownOnly       bool // senders nobody owns are free
}

// Name returns the restriction's name.
func (o ownership) Name() string { return o.name }

// Evaluate refuses a sender that is not the client's own. The null
// reverse-path belongs to everybody.
func (o ownership) Evaluate(ctx context.Context, tx *mail.Transaction) (mail.Verdict, error) {
	from := tx.Envelope.ReversePath
	if from.IsNull() {
		return mail.Verdict{}, nil
	}
	identity := tx.Client.Identity
	if identity == nil {
		return o.stranger(ctx, tx, from)
	}
	if !o.authenticated {
		return mail.Verdict{}, nil
	}
	if o.knownOnly {
		if owners, err := o.owners.Owners(ctx, from); err != nil || len(owners) == 0 {
			return mail.Verdict{}, err
		}
	}
	own, err := o.owners.MaySendAs(ctx, *identity, from)
	if err != nil || own {
		return mail.Verdict{}, err
	}
	return aboutSender.refuse(tx, mail.Reject, status.SenderNotOwned, "not owned by user "+identity.Authentication), nil
}

func (o ownership) stranger(ctx context.Context, tx *mail.Transaction, from mail.Address) (mail.Verdict, error) {
	if !o.unauthenticated {
		return mail.Verdict{}, nil
	}
	owners, err := o.owners.Owners(ctx, from)
	if err != nil || len(owners) == 0 {
		return mail.Verdict{}, err
	}
	return aboutSender.refuse(tx, mail.Reject, status.SenderNotLoggedIn, "not logged in"), nil
}
