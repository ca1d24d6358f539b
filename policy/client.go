package policy

import (
	"context"
	"net/netip"

	"github.com/gaissmai/bart"

	"github.com/postern-mail/postern/mail"
	"github.com/postern-mail/postern/status"
)

// asked is the function of a restriction that asks something outside.
type asked func(ctx context.Context, tx *mail.Transaction) (mail.Verdict, error)

// plain is a restriction that needs nothing but a function.
type plain struct {
	name   string
	decide asked
}

// Name returns the restriction's name.
func (p plain) Name() string { return p.name }

// Evaluate asks the function.
func (p plain) Evaluate(ctx context.Context, tx *mail.Transaction) (mail.Verdict, error) {
	return p.decide(ctx, tx)
}

// always returns a restriction whose answer does not depend on anything.
func always(name string, decide func(tx *mail.Transaction) mail.Verdict) Stage {
	return plain{name, func(_ context.Context, tx *mail.Transaction) (mail.Verdict, error) { return decide(tx), nil }}
}

func permitted(yes bool) mail.Verdict {
	if yes {
		return mail.Verdict{Action: mail.Permit}
	}
	return mail.Verdict{}
}

func permitAlways(*mail.Transaction) mail.Verdict { return permitted(true) }

// rejectAlways and its like speak of what their list is about.
func rejectAlways(about subject) func(*mail.Transaction) mail.Verdict {
	return func(tx *mail.Transaction) mail.Verdict {
		return about.refuse(tx, mail.Reject, status.AccessDenied, "Access denied")
	}
}

func deferAlways(about subject) func(*mail.Transaction) mail.Verdict {
	return func(tx *mail.Transaction) mail.Verdict {
		return about.refuse(tx, mail.Reject, status.PolicyLater, "Try again later")
	}
}

func flagAlways(about subject, action mail.Action) func(*mail.Transaction) mail.Verdict {
	return func(tx *mail.Transaction) mail.Verdict {
		return about.refuse(tx, action, status.PolicyFlag, "Service unavailable")
	}
}

// permitNetworks permits clients inside the networks.
func permitNetworks(networks []netip.Prefix) func(*mail.Transaction) mail.Verdict {
	table := new(bart.Lite)
	for _, network := range networks {
		table.Insert(network.Masked())
	}
	return func(tx *mail.Transaction) mail.Verdict {
		return permitted(table.Contains(tx.Client.Remote.Addr().Unmap()))
	}
}

// permitAuthenticated permits clients that logged in as somebody.
func permitAuthenticated(tx *mail.Transaction) mail.Verdict {
	id := tx.Client.Identity
	return permitted(id != nil && id.Mechanism != "ANONYMOUS" && id.Authentication != "")
}

// permitCertificates permits clients with a verified certificate, or only
// those with one of the subjects when there are any.
func permitCertificates(subjects []string) func(*mail.Transaction) mail.Verdict {
	known := make(map[string]bool, len(subjects))
	for _, s := range subjects {
		known[s] = true
	}
	return func(tx *mail.Transaction) mail.Verdict {
		tls := tx.Client.TLS
		if tls == nil || tls.PeerCN == "" {
			return mail.Verdict{}
		}
		return permitted(len(known) == 0 || known[tls.PeerCN])
	}
}

// rejectPlaintext refuses sessions without TLS.
func rejectPlaintext(tx *mail.Transaction) mail.Verdict {
	if tx.Client.TLS != nil {
		return mail.Verdict{}
	}
	reply := status.PolicyDefer.Reply()
	reply.Text = "Session encryption is required"
	return mail.Verdict{Action: mail.Reject, Reason: status.PolicyDefer, Reply: &reply}
}
