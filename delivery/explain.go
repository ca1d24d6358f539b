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

// Explain returns the route of r and the endpoints its mail would be offered
// to, as far as the transport can tell. It connects to none of them.
func (r *Router) Explain(ctx context.Context, from mail.Address, rcpt mail.Recipient) (mail.Route, []Endpoint, error) {
	route := r.Route(from, rcpt)
	finder, ok := r.transports[route.Transport].(Finder)
	if !ok {
		return route, nil, nil
	}
	rcpt.Route = route
	endpoints, err := finder.Endpoints(ctx, rcpt)
	return route, endpoints, err
}
