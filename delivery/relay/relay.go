// Package relay delivers by SMTP (RFC 5321): to relay hosts, or to whatever
// hosts the MX records of a recipient's domain name.
//
// Addresses of one preference are tried in random order, at most five of a next
// hop, with two conversations at most. A name service that cannot answer defers;
// only one that is sure that a domain does not exist, or takes no mail (RFC
// 7505), bounces, and only for a recipient of that very domain: what is wrong
// with a relay host of ours is no fault of the recipient's.
//
// How each connection must be protected is package tlspolicy's to say. A host
// that does not meet it is passed over; mail that no host is left for waits.
package relay

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/postern-mail/postern/delivery"
	"github.com/postern-mail/postern/delivery/tlspolicy"
	"github.com/postern-mail/postern/mail"
	"github.com/postern-mail/postern/status"
)

const defaultPort = "25"

// lookupTime bounds all lookups of one attempt.
const lookupTime = 30 * time.Second

// Transport delivers to one target. It may be used concurrently.
type Transport struct {
	pool     *delivery.Pool
	hops     []string // as configured; none: by the recipient's domain
	fallback []string
	resolver Resolver
	policies *tlspolicy.Policies
	hostname string
	us       *delivery.Ourselves
}

var (
	_ delivery.Transport = (*Transport)(nil)
	_ delivery.Finder    = (*Transport)(nil)
)

// New returns the transport of a target, which must speak SMTP. hostname is
// the name given in EHLO and the MX host that is ourselves. A nil sts means
// that MTA-STS policies are not asked for. New reads the files the target
// names.
func New(target delivery.Target, hostname string, resolver Resolver, sts *tlspolicy.STS, log hclog.Logger) (*Transport, error) {
	if target.Protocol == delivery.LMTP || target.Protocol == "" && len(target.Addresses) > 0 {
		return nil, fmt.Errorf("delivery target %q does not speak SMTP", target.Name)
	}
	pool, err := delivery.NewPool(target, hostname, log)
	if err != nil {
		return nil, err
	}
	policies, err := tlspolicy.New(tlspolicy.Config{Default: target.Rule(), Destinations: target.Policies}, resolver, sts)
	if err != nil {
		return nil, fmt.Errorf("delivery target %q: %w", target.Name, err)
	}
	return &Transport{
		pool: pool, hops: target.Addresses, fallback: target.Fallback,
		resolver: resolver, policies: policies, hostname: hostname, us: target.Ourselves,
	}, nil
}

// Run looks after idle connections until ctx ends.
func (t *Transport) Run(ctx context.Context) error { return t.pool.Run(ctx) }

// Deliver makes one attempt. A next hop in the recipients' Route takes the
// place of the target's addresses; without either it is the domain of the
// first recipient.
func (t *Transport) Deliver(ctx context.Context, d mail.Delivery) []mail.Outcome {
	if len(d.Envelope.Recipients) == 0 {
		return nil
	}
	// A domain that the recipient was given on the way out has no part in the
	// choice of the hop: what leads to the one before leads to a stranger.
	endpoints, err := t.Endpoints(ctx, d.Routed().Recipients[0])
	if err != nil {
		return delivery.AllFailed(d, err)
	}
	return t.pool.Attempt(ctx, d, endpoints)
}

// Endpoints implements delivery.Finder. The relay hosts to fall back to stand
// behind what is found, and alone where nothing can be found; but not where we
// are an MX of the domain, who would only send it back to us, nor where the
// domain takes no mail.
func (t *Transport) Endpoints(ctx context.Context, first mail.Recipient) ([]delivery.Endpoint, error) {
	ctx, cancel := context.WithTimeout(ctx, lookupTime)
	defer cancel()
	domain := string(first.Address.Domain)
	var hops []string
	for word := range strings.SplitSeq(first.Route.NextHop, ",") {
		if word = strings.TrimSpace(word); word != "" {
			hops = append(hops, word)
		}
	}
	if len(hops) == 0 {
		hops = t.hops
	}
	if len(hops) == 0 {
		hops = []string{domain}
	}
	found, last, err := t.lookupAll(ctx, hops, domain)
	if !last {
		some, _, failed := t.lookupAll(ctx, t.fallback, domain)
		err = worst(err, failed)
		found = append(found, some...)
	}
	if len(found) == 0 {
		return nil, err
	}
	return found, nil
}

// ours makes transient what a next hop of our own choosing gave as permanent.
func ours(err error) error {
	var known *status.Error
	if errors.As(err, &known) && known.Reason.Permanent() {
		return status.New(status.ConfigurationError, err)
	}
	return err
}

// worst returns the error that counts of two lookups, either of which may have
// none: while one of them may have an answer later, nothing is final.
func worst(a, b error) error {
	if a == nil || b != nil && status.Of(a).Permanent() && !status.Of(b).Permanent() {
		return b
	}
	return a
}

// lookupAll returns the endpoints of all hops in order, and the error of those
// that gave none. It is last when nobody else has to be asked: we are an MX
// of the domain, or it takes no mail.
func (t *Transport) lookupAll(ctx context.Context, hops []string, domain string) (found []delivery.Endpoint, last bool, err error) {
	for _, hop := range hops {
		some, weAreMX, failed := t.lookup(ctx, hop, domain)
		last = last || weAreMX || status.Of(failed) == status.NullMX
		err = worst(err, failed)
		found = append(found, some...)
	}
	return found, last, err
}
