// Package lmtp delivers to mailbox servers by LMTP (RFC 2033): over a unix
// socket or TCP, with STARTTLS or TLS from the start, on pooled connections.
//
// A recipient is Delivered when the server said so for this recipient after
// the whole message. When a reply is lost the recipient is Deferred, and the
// message offered again under the same delivery id, which a server that knows
// XPOSTERN drops when it has it already.
package lmtp

import (
	"context"
	"fmt"

	"github.com/hashicorp/go-hclog"

	"github.com/postern-mail/postern/delivery"
	"github.com/postern-mail/postern/mail"
	"github.com/postern-mail/postern/status"
)

// defaultPort is Postfix's lmtp_tcp_port; LMTP has no port of its own.
const defaultPort = "24"

// Transport delivers to one target. It may be used concurrently.
type Transport struct {
	pool      *delivery.Pool
	endpoints []delivery.Endpoint
	direct    delivery.CutThrough
}

var (
	_ delivery.Transport = (*Transport)(nil)
	_ delivery.Direct    = (*Transport)(nil)
)

// New returns the transport of a target, which must speak LMTP and have an
// address. hostname is the name given in LHLO. It reads the files the target
// names.
func New(target delivery.Target, hostname string, log hclog.Logger) (*Transport, error) {
	if target.Protocol != delivery.LMTP && target.Protocol != "" {
		return nil, fmt.Errorf("delivery target %q does not speak LMTP", target.Name)
	}
	if len(target.Addresses) == 0 {
		return nil, fmt.Errorf("delivery target %q has no address", target.Name)
	}
	pool, err := delivery.NewPool(target, hostname, log)
	if err != nil {
		return nil, err
	}
	t := &Transport{pool: pool, direct: target.CutThrough}
	for _, a := range target.Addresses {
		hop, err := delivery.ParseNextHop(a)
		if err != nil {
			return nil, fmt.Errorf("delivery target %q: %w", target.Name, err)
		}
		t.endpoints = append(t.endpoints, hop.Endpoint(defaultPort))
	}
	return t, nil
}

// Run looks after idle connections until ctx ends.
func (t *Transport) Run(ctx context.Context) error { return t.pool.Run(ctx) }

// Direct implements delivery.Direct. What a server does with repeats is known
// after the first connection.
func (t *Transport) Direct() bool {
	switch t.direct {
	case delivery.CutThroughNever:
		return false
	case delivery.CutThroughAlways:
		return true
	default:
		return t.pool.DropsRepeats()
	}
}

// Deliver makes one attempt. A next hop in the recipients' Route takes the
// place of the target's addresses.
func (t *Transport) Deliver(ctx context.Context, d mail.Delivery) []mail.Outcome {
	if len(d.Envelope.Recipients) == 0 {
		return nil
	}
	endpoints := t.endpoints
	if next := d.Envelope.Recipients[0].Route.NextHop; next != "" {
		hop, err := delivery.ParseNextHop(next)
		if err != nil {
			return delivery.AllFailed(d, status.New(status.ConfigurationError, err))
		}
		endpoints = []delivery.Endpoint{hop.Endpoint(defaultPort)}
	}
	return t.pool.Attempt(ctx, d, endpoints)
}
