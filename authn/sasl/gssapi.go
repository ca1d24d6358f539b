package sasl

import (
	"context"

	"github.com/postern-mail/postern/authn"
	"github.com/postern-mail/postern/mail"
	"github.com/postern-mail/postern/status"
)

// maxTicketOctets bounds a Kerberos token: tickets of people in many groups of
// an Active Directory grow to 64 KiB.
const maxTicketOctets = 64 << 10

// Principal is who a mechanism with tickets has proven.
type Principal struct {
	// Login is the account that the principal stands for.
	Login string
	// Authorization is whom the client wants to act as; "" for itself.
	Authorization string
	// Name is the principal as the ticket names it: for the audit.
	Name string
	// Accounts is where Login is looked up: a realm's alice is not another
	// directory's. nil for the accounts of the chain's links in their order.
	Accounts authn.Accounts
}

// Acceptor is the server side of one exchange of tokens, for one goroutine.
// For GSSAPI it takes the negotiation of the security layer along (RFC 4752
// section 3.1), of which it accepts none but "no security layer".
type Acceptor interface {
	// Step takes the client's token, which is empty in the first call when the
	// client sent nothing with its command. Done tells that the principal is
	// proven; a reply with it is sent before the success. An error is a
	// *status.Error with AuthFailed when the token proves nothing, and anything
	// else when it cannot be known.
	Step(ctx context.Context, token []byte) (reply []byte, done bool, principal Principal, err error)
	// Close frees what the exchange holds. It is called once.
	Close()
}

// Acceptors opens exchanges. Implemented by what talks to the privileged
// helper. Safe for concurrent use.
type Acceptors interface {
	// Ready tells whether tickets can be taken at all: there is a keytab and a
	// helper. It answers from memory.
	Ready() bool
	// Open begins an exchange for a service of ours, "imap", "submission", ...
	Open(ctx context.Context, mechanism, service string, client mail.Client) (Acceptor, error)
}

// gssapi takes the first token.
func (x *Exchange) gssapi(response []byte) ([]byte, step, error) {
	acceptor, err := x.mechanisms.deps.Acceptors.Open(x.ctx, x.mechanism, x.service, x.client)
	if err != nil {
		return nil, nil, x.refuse(authn.Vouched{By: authn.ByKerberos}, err)
	}
	x.close = acceptor.Close
	return x.accept(acceptor, response)
}

func (x *Exchange) accept(acceptor Acceptor, token []byte) ([]byte, step, error) {
	reply, done, principal, err := acceptor.Step(x.ctx, token)
	proven := authn.Vouched{
		Login: principal.Login, Authorization: principal.Authorization, By: authn.ByKerberos, Detail: principal.Name,
		Accounts: principal.Accounts,
	}
	switch {
	case err != nil:
		return nil, nil, x.refuse(proven, err)
	case !done:
		if reply == nil {
			reply = []byte{}
		}
		return reply, func(response []byte) ([]byte, step, error) { return x.accept(acceptor, response) }, nil
	case principal.Login == "":
		return nil, nil, x.refuse(proven, status.Errorf(status.AuthFailed, "principal %q has no login", principal.Name))
	}
	if err := x.vouch(proven); err != nil {
		return nil, nil, err
	}
	if len(reply) > 0 {
		return reply, x.farewell, nil
	}
	return nil, nil, nil
}
