package policy

import (
	"context"
	"strings"

	"github.com/postern-mail/postern/mail"
	"github.com/postern-mail/postern/status"
)

// routing are the octets of a local-part that some mail system reads as the
// way to another one: user%domain@us, host!user@us, "user@domain"@us and the
// source route in quotes.
const routing = "%!@"

// authorized reports whether mail for the address is accepted from anyone. An
// address that carries another one in its local-part is not, whatever its
// domain: what lies behind us might follow it (allow_untrusted_routing = no).
func authorized(domains Domains, address mail.Address) bool {
	if address.IsPostmaster() {
		return true
	}
	if strings.ContainsAny(string(address.Local), routing) {
		return false
	}
	return domains.Class(address.Domain) != Other
}

// Authorized reports whether mail for the address is accepted from anyone, for
// rooms whose restrictions must not open more.
func Authorized(domains Domains, address mail.Address) bool { return authorized(domains, address) }

func permitAuthDestination(domains Domains) func(*mail.Transaction) mail.Verdict {
	return func(tx *mail.Transaction) mail.Verdict {
		return permitted(tx.Recipient != nil && authorized(domains, tx.Recipient.Address))
	}
}

// refuseUnauthDestination is the relay check, with 5xx or 4xx by reason.
func refuseUnauthDestination(domains Domains, reason status.Reason) func(*mail.Transaction) mail.Verdict {
	return func(tx *mail.Transaction) mail.Verdict {
		if tx.Recipient == nil || authorized(domains, tx.Recipient.Address) {
			return mail.Verdict{}
		}
		return aboutRecipient.say(tx, mail.Reject, reason)
	}
}

func rejectUnqualifiedRecipient(tx *mail.Transaction) mail.Verdict {
	if tx.Recipient == nil || tx.Recipient.Address.IsPostmaster() || qualified(tx.Recipient.Address.Domain) {
		return mail.Verdict{}
	}
	return aboutRecipient.say(tx, mail.Reject, status.RecipientNotQualified)
}

// rejectUnlistedRecipient refuses recipients in our own domains that the
// directory does not know.
func rejectUnlistedRecipient(cfg Config, deps Deps) asked {
	return func(ctx context.Context, tx *mail.Transaction) (mail.Verdict, error) {
		if tx.Recipient == nil || deps.Domains.Class(tx.Recipient.Address.Domain) == Other {
			return mail.Verdict{}, nil
		}
		missing, err := listed(ctx, deps.Recipients, tx.Recipient.Address)
		if err != nil || missing == nil {
			return mail.Verdict{}, err
		}
		text := missing.Reply().Text
		if missing.Reason == status.NoSuchUser {
			text = unknownUser(cfg, deps.Domains.Class(tx.Recipient.Address.Domain))
		}
		v := aboutRecipient.refuse(tx, mail.Reject, missing.Reason, text)
		v.Detail = missing.Error()
		return v, nil
	}
}

// unknownUser says that nobody has an address.
func unknownUser(cfg Config, class DomainClass) string {
	switch {
	case !cfg.ShowUnknownTable:
		return "User unknown"
	case class == Relay:
		return "User unknown in relay recipient table"
	default:
		return "User unknown in local recipient table"
	}
}

// rejectBounceToMany refuses a null reverse-path with several recipients:
// no notification has more than one.
func rejectBounceToMany(about subject, tx *mail.Transaction) mail.Verdict {
	count := len(tx.Envelope.Recipients)
	if tx.Phase == mail.PhaseRecipient {
		count++
	}
	if !tx.Envelope.ReversePath.IsNull() || count < 2 {
		return mail.Verdict{}
	}
	return about.refuse(tx, mail.Reject, status.BounceToMany, "Multi-recipient bounce")
}
