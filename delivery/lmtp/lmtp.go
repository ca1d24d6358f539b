// Package lmtp delivers to mailbox servers by LMTP (RFC 2033): over a unix
// socket or TCP, with STARTTLS or TLS from the start, on pooled connections.
//
// A recipient is Delivered when the server said so for this recipient after
// the whole message. When a reply is lost the recipient is Deferred, and the
// message offered again under the same delivery id, which a server that knows
// XPOSTERN drops when it has it already. It is Deferred, too, when the server
// has the message but asks us to keep it for the partner in its replication
// pair: mail.Outcome.Kept.
package lmtp

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/postern-mail/postern/delivery"
	"github.com/postern-mail/postern/mail"
	"github.com/postern-mail/postern/status"
)

// defaultPort is Postfix's lmtp_tcp_port; LMTP has no port of its own.
const defaultPort = "24"

// probePatience bounds how long a client may wait for what the first connections
// tell.
const probePatience = time.Second

// Transport delivers to one target. It may be used concurrently.
type Transport struct {
	pool      *delivery.Pool
	endpoints []delivery.Endpoint
	direct    delivery.CutThrough
	probed    chan struct{} // closed when the first connections were made or failed
}

var (
	_ delivery.Transport = (*Transport)(nil)
	_ delivery.Direct    = (*Transport)(nil)
	_ delivery.Finder    = (*Transport)(nil)
)

// New returns the transport of a target, which must speak LMTP. Only one that
// serves next hops of the directory may be without addresses. hostname is the
// name given in LHLO. It reads the files the target names.
func New(target delivery.Target, hostname string, log hclog.Logger) (*Transport, error) {
	if target.Protocol != delivery.LMTP && target.Protocol != "" {
		return nil, fmt.Errorf("delivery target %q does not speak LMTP", target.Name)
	}
	if len(target.Addresses) == 0 && target.Name != delivery.Local {
		return nil, fmt.Errorf("delivery target %q has no address", target.Name)
	}
	pool, err := delivery.NewPool(target, hostname, log)
	if err != nil {
		return nil, err
	}
	t := &Transport{pool: pool, direct: target.CutThrough, probed: make(chan struct{})}
	for _, a := range target.Addresses {
		hop, err := delivery.ParseNextHop(a)
		if err != nil {
			return nil, fmt.Errorf("delivery target %q: %w", target.Name, err)
		}
		t.endpoints = append(t.endpoints, hop.Endpoint(defaultPort))
	}
	return t, nil
}

// Run learns what the target's servers can do and then looks after idle
// connections, until ctx ends. It must be called once only.
func (t *Transport) Run(ctx context.Context) error {
	var probe sync.WaitGroup
	probe.Go(func() {
		defer close(t.probed)
		if t.direct != delivery.CutThroughAlways && t.direct != delivery.CutThroughNever {
			t.pool.Probe(ctx, t.endpoints)
		}
	})
	err := t.pool.Run(ctx)
	probe.Wait()
	return err
}

// Direct implements delivery.Direct. What a server does with repeats is known
// after the first connection, which Run makes to the target's own addresses; a
// client that comes before waits for it, but not long.
func (t *Transport) Direct(nextHop string) bool {
	switch t.direct {
	case delivery.CutThroughNever:
		return false
	case delivery.CutThroughAlways:
		return true
	}
	endpoints, err := t.find(nextHop)
	if err != nil {
		return false
	}
	t.awaitProbe()
	return t.pool.DropsRepeats(endpoints)
}

func (t *Transport) awaitProbe() {
	select {
	case <-t.probed:
		return
	default:
	}
	patience := time.NewTimer(probePatience)
	defer patience.Stop()
	select {
	case <-t.probed:
	case <-patience.C:
	}
}

// find returns where a next hop is, "" being the target's own addresses.
func (t *Transport) find(nextHop string) ([]delivery.Endpoint, error) {
	if nextHop == "" {
		return t.endpoints, nil
	}
	hop, err := delivery.ParseNextHop(nextHop)
	if err != nil {
		return nil, status.New(status.ConfigurationError, err)
	}
	return []delivery.Endpoint{hop.Endpoint(defaultPort)}, nil
}

// Endpoints implements delivery.Finder.
func (t *Transport) Endpoints(_ context.Context, rcpt mail.Recipient) ([]delivery.Endpoint, error) {
	return t.find(rcpt.Route.NextHop)
}

// Deliver makes one attempt. A next hop in the recipients' Route takes the
// place of the target's addresses.
func (t *Transport) Deliver(ctx context.Context, d mail.Delivery) []mail.Outcome {
	if len(d.Envelope.Recipients) == 0 {
		return nil
	}
	endpoints, err := t.find(d.Envelope.Recipients[0].Route.NextHop)
	if err != nil {
		return delivery.AllFailed(d, err)
	}
	t.awaitProbe() // or there would be a connection more than needed
	return t.pool.Deliver(ctx, d, endpoints)
}
