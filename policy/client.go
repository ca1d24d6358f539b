package policy

import (
	"context"
	"net"
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
func rejectAlways(about subject, tx *mail.Transaction) mail.Verdict {
	return about.refuse(tx, mail.Reject, status.AccessDenied, "Access denied")
}

func deferAlways(about subject, tx *mail.Transaction) mail.Verdict {
	return about.refuse(tx, mail.Reject, status.PolicyLater, "Try again later")
}

func flagPermit(about subject, tx *mail.Transaction) mail.Verdict {
	return about.refuse(tx, mail.DeferIfPermit, status.PolicyFlag, "defer_if_permit requested")
}

func flagReject(about subject, tx *mail.Transaction) mail.Verdict {
	return about.refuse(tx, mail.DeferIfReject, status.PolicyFlag, "defer_if_reject requested")
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

// permitInterfaces permits clients on this machine: those with one of its own
// addresses, and those that came by a unix socket. The addresses are those at
// the time of the call.
func permitInterfaces() func(*mail.Transaction) mail.Verdict {
	own := make(map[netip.Addr]bool)
	addrs, _ := net.InterfaceAddrs() // without them, the connection's own address tells
	for _, a := range addrs {
		if network, err := netip.ParsePrefix(a.String()); err == nil {
			own[network.Addr().Unmap().WithZone("")] = true
		}
	}
	return func(tx *mail.Transaction) mail.Verdict {
		if !tx.Client.Remote.IsValid() {
			return permitted(true)
		}
		addr := tx.Client.Remote.Addr().Unmap().WithZone("")
		return permitted(own[addr] || addr == tx.Client.Local.Addr().Unmap().WithZone(""))
	}
}

// rejectPipelining refuses a client that sent on where it had to wait for a
// reply. Listeners of mode mx have ended its session by then.
func rejectPipelining(about subject, tx *mail.Transaction) mail.Verdict {
	if tx.Client.Hasty == nil || !tx.Client.Hasty() {
		return mail.Verdict{}
	}
	return about.refuse(tx, mail.Reject, status.ImproperPipelining, "Improper use of SMTP command pipelining")
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
