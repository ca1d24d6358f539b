package delivery

import (
	"context"

	"github.com/postern-mail/postern/mail"
)

// Finder is a Transport that can tell where it would connect to.
type Finder interface {
	// Endpoints looks up where the mail of a recipient goes, in the order in
	// which hosts are tried. It connects to none of them.
	Endpoints(ctx context.Context, rcpt mail.Recipient) ([]Endpoint, error)
}

// Explanation is where mail goes and what decided so.
type Explanation struct {
	Route mail.Route
	// Why names what decided, with the rule's key and where it stands.
	Why string
	// Says is what is done with the mail in place of sending it; "" where it
	// is sent.
	Says string
}

// Explain returns where mail of a sender to rcpt goes and the endpoints it
// would be offered to, as far as the transport can tell. It connects to none of
// them.
func (r *Router) Explain(ctx context.Context, from mail.Address, rcpt mail.Recipient) (Explanation, []Endpoint, error) {
	d := r.decide(from, rcpt)
	e := Explanation{Route: d.route, Why: d.reason}
	if d.key != "" {
		e.Why += " " + d.key + " in " + d.where
	}
	t := r.transports[d.route.Transport]
	if class, reply, ok := builtIn(d.route); ok && t == nil {
		e.Says = class.String() + " " + reply.String()
		return e, nil, nil
	}
	if t == nil {
		e.Says = "waits, there is no target for " + d.route.Transport
		return e, nil, nil
	}
	finder, ok := t.(Finder)
	if !ok {
		return e, nil, nil
	}
	rcpt.Route = d.route
	endpoints, err := finder.Endpoints(ctx, rcpt)
	return e, endpoints, err
}
