package delivery

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/postern-mail/postern/mail"
	"github.com/postern-mail/postern/status"
)

// Transport carries messages to next hops.
type Transport interface {
	// Deliver makes one attempt and returns one outcome for each of
	// d.Envelope.Recipients, in order. It blocks until the attempt is over or
	// ctx ends. A transport is given recipients that share a Route and reads
	// the next hop from the first.
	Deliver(ctx context.Context, d mail.Delivery) []mail.Outcome
}

// Direct is a Transport whose next hop may take mail while the client waits.
type Direct interface{ Direct() bool }

// Router is the Transport that chooses among the others. It may be used
// concurrently and never changes.
type Router struct {
	hostname   mail.Domain
	domains    map[mail.Domain]string
	relayhost  string
	byMX       map[string]bool // by target
	limits     map[string]int  // deliveries at once, by target
	transports map[string]Transport
}

// New returns a Router over transports, by the name of their target. Every
// target must have its transport; a transport without a target in cfg.Targets
// is taken as it is.
func New(cfg Config, transports map[string]Transport) (*Router, error) {
	r := &Router{
		hostname:   mail.Domain(cfg.Hostname),
		domains:    cfg.Domains,
		relayhost:  cfg.Relayhost,
		byMX:       map[string]bool{Outbound: true},
		limits:     make(map[string]int),
		transports: transports,
	}
	if r.hostname == "" {
		r.hostname = "localhost"
	}
	if r.relayhost == "" {
		r.relayhost = Outbound
	}
	seen := make(map[string]bool)
	for _, t := range cfg.Targets {
		if err := t.check(); err != nil {
			return nil, err
		}
		if seen[t.Name] {
			return nil, fmt.Errorf("two delivery targets are named %q", t.Name)
		}
		seen[t.Name] = true
		if transports[t.Name] == nil {
			return nil, fmt.Errorf("delivery target %q has no transport", t.Name)
		}
		if r.byMX[t.Name] = t.byMX(); !t.byMX() {
			r.limits[t.Name] = t.maxConnections()
		}
	}
	for domain, name := range cfg.Domains {
		if transports[name] == nil {
			return nil, fmt.Errorf("domain %s is delivered by %q, which is no delivery target", domain, name)
		}
	}
	if cfg.Relayhost != "" && transports[cfg.Relayhost] == nil {
		return nil, fmt.Errorf("relayhost %q is no delivery target", cfg.Relayhost)
	}
	return r, nil
}

// Route returns where r goes: a transport's name, always, and its next hop,
// "" for the transport's own addresses. A route that the directory gave comes
// before the domain's; a next hop without a transport, such as an account's
// host, goes with the transport of the domain.
func (r *Router) Route(from mail.Address, rcpt mail.Recipient) mail.Route {
	domain := rcpt.Address.Domain
	if domain == "" {
		domain = r.hostname
	}
	route := rcpt.Route
	if route.Transport == "" {
		name, local := r.domains[domain]
		if !local {
			name = r.relayhost
		}
		route.Transport = name
	}
	if route.NextHop == "" && r.byMX[route.Transport] {
		route.NextHop = string(domain)
	}
	return route
}

// Destination is the key by which recipients share an attempt and by which
// concurrency is counted.
func (r *Router) Destination(from mail.Address, rcpt mail.Recipient) string {
	route := r.Route(from, rcpt)
	return route.Transport + "/" + route.NextHop
}

// Concurrency implements queue.Limiter: a target with addresses of its own
// takes as much at once as it has connections.
func (r *Router) Concurrency(destination string) (initial, limit int) {
	target, _, _ := strings.Cut(destination, "/")
	return 0, r.limits[target]
}

// Direct reports whether mail for a destination may be brought there while
// the client waits.
func (r *Router) Direct(destination string) bool {
	target, _, _ := strings.Cut(destination, "/")
	direct, ok := r.transports[target].(Direct)
	return ok && direct.Direct()
}

// Deliver makes one attempt for all recipients, one conversation after the
// other where they do not share a destination. It does not block longer than
// its transports.
func (r *Router) Deliver(ctx context.Context, d mail.Delivery) []mail.Outcome {
	outcomes := make([]mail.Outcome, len(d.Envelope.Recipients))
	for _, g := range r.group(d.Envelope.ReversePath, d.Envelope.Recipients) {
		part := d
		part.Envelope.Recipients = g.recipients
		for n, o := range r.deliverGroup(ctx, g.route, part) {
			outcomes[g.indices[n]] = o
		}
	}
	return outcomes
}

func (r *Router) deliverGroup(ctx context.Context, route mail.Route, d mail.Delivery) []mail.Outcome {
	t := r.transports[route.Transport]
	if t == nil {
		// A route from the directory that the configuration does not know is a
		// mistake of ours, and no reason to send anything back.
		return AllFailed(d, status.Errorf(status.ConfigurationError, "no delivery target %q", route.Transport))
	}
	got := t.Deliver(ctx, d)
	if len(got) != len(d.Envelope.Recipients) {
		panic(fmt.Sprintf("delivery: transport %q gave %d outcomes for %d recipients", route.Transport, len(got), len(d.Envelope.Recipients)))
	}
	return got
}

type group struct {
	route      mail.Route
	indices    []int
	recipients []mail.Recipient
}

// group sorts recipients by route, in order of appearance, and writes the
// route decided into each.
func (r *Router) group(from mail.Address, recipients []mail.Recipient) []*group {
	var groups []*group
	byRoute := make(map[mail.Route]*group, 1)
	for i, rcpt := range recipients {
		route := r.Route(from, rcpt)
		g := byRoute[route]
		if g == nil {
			g = &group{route: route}
			byRoute[route] = g
			groups = append(groups, g)
		}
		rcpt.Route = route
		g.indices = append(g.indices, i)
		g.recipients = append(g.recipients, rcpt)
	}
	return groups
}

// AllFailed returns the outcomes of an attempt that err ended for everybody.
func AllFailed(d mail.Delivery, err error) []mail.Outcome {
	outcomes := make([]mail.Outcome, len(d.Envelope.Recipients))
	now := time.Now()
	for i, rcpt := range d.Envelope.Recipients {
		outcomes[i] = failed(rcpt.Address, err, now)
	}
	return outcomes
}
