package delivery

import (
	"cmp"
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/hashicorp/go-hclog"
	"golang.org/x/sync/errgroup"

	"github.com/postern-mail/postern/mail"
	"github.com/postern-mail/postern/status"
	"github.com/postern-mail/postern/table"
)

// Transport carries messages to next hops.
type Transport interface {
	// Deliver makes one attempt and returns one outcome for each of
	// d.Envelope.Recipients, in order. It blocks until the attempt is over or
	// ctx ends. A transport is given recipients that share a Route and reads
	// the next hop from the first.
	Deliver(ctx context.Context, d mail.Delivery) []mail.Outcome
}

// Direct is a Transport whose next hops may take mail while the client waits.
type Direct interface {
	// Direct reports whether the next hop does, which is in the transport's own
	// notation and "" for its own addresses. It may block for a second.
	Direct(nextHop string) bool
}

// Router is the Transport that chooses among the others. It may be used
// concurrently.
type Router struct {
	hostname   mail.Domain
	delimiters string
	domains    map[mail.Domain]string
	relayhost  string
	byMX       map[string]bool // by target
	limits     map[string]int  // deliveries at once, by target
	transports map[string]Transport
	recipients ruleSet
	senders    ruleSet
	hosts      map[string]string
	unknown    string // where mail for other hosts goes
	softBounce bool
	log        hclog.Logger
}

// New returns a Router over transports, by the name of their target. Every
// target must have its transport; a transport without a target in cfg.Targets
// is taken as it is. New reads the files of rules.
func New(cfg Config, transports map[string]Transport, log hclog.Logger) (*Router, error) {
	r := &Router{
		hostname:   mail.Domain(cmp.Or(cfg.Hostname, "localhost")),
		delimiters: delimiters(cfg.RecipientDelimiter),
		domains:    cfg.Domains,
		relayhost:  cmp.Or(cfg.Relayhost, Outbound),
		softBounce: cfg.SoftBounce,
		byMX:       map[string]bool{Outbound: true},
		limits:     make(map[string]int),
		transports: transports,
		hosts:      cfg.Hosts,
		unknown:    cfg.UnknownHost,
		log:        log,
	}
	if err := r.targets(cfg.Targets); err != nil {
		return nil, err
	}
	for domain, name := range cfg.Domains {
		if transports[name] == nil {
			return nil, fmt.Errorf("domain %s is delivered by %q, which is no delivery target", domain, name)
		}
	}
	if cfg.Relayhost != "" && transports[cfg.Relayhost] == nil {
		return nil, fmt.Errorf("relayhost %q is no delivery target", cfg.Relayhost)
	}
	var err error
	if r.recipients, err = cfg.Recipients.open(cfg.TableDir, false, r.knows, log); err != nil {
		return nil, err
	}
	r.senders, err = cfg.Senders.open(cfg.TableDir, true, r.knows, log)
	return r, err
}

func (r *Router) targets(targets []Target) error {
	seen := make(map[string]bool)
	for _, t := range targets {
		if err := t.check(); err != nil {
			return err
		}
		if seen[t.Name] {
			return fmt.Errorf("two delivery targets are named %q", t.Name)
		}
		seen[t.Name] = true
		if r.transports[t.Name] == nil {
			return fmt.Errorf("delivery target %q has no transport", t.Name)
		}
		if r.byMX[t.Name] = t.byMX(); !t.byMX() {
			r.limits[t.Name] = t.maxConnections()
		}
	}
	return nil
}

func (r *Router) knows(transport string) bool { return r.transports[transport] != nil }

// Run reads files of rules again as they change, until ctx ends.
func (r *Router) Run(ctx context.Context) error {
	var g errgroup.Group
	r.recipients.watch(ctx, &g)
	r.senders.watch(ctx, &g)
	g.Go(func() error { <-ctx.Done(); return nil })
	return g.Wait()
}

// Route returns where mail of a sender goes to rcpt: a transport's name, always,
// and its next hop, "" for the transport's own addresses. In this order:
//
//   - the route that the directory gave; a next hop without a transport, such
//     as an account's host, goes with the transport of the domain;
//   - a rule for the recipient;
//   - the target of the recipient's domain, if it is one of ours;
//   - a rule for the sender;
//   - the relay host.
func (r *Router) Route(from mail.Address, rcpt mail.Recipient) mail.Route {
	d := r.decide(from, rcpt)
	return d.route
}

// decision is a route and what led to it.
type decision struct {
	route  mail.Route
	reason string // "directory", "recipient", "domain", "sender", "relay"
	key    string // of the rule
	where  string // the rule stands
}

// The reasons of a decision.
const (
	byDirectory = "directory"
	byRecipient = "rule for the recipient"
	byDomain    = "domain of ours"
	bySender    = "rule for the sender"
	byDefault   = "relay host"
)

func (r *Router) decide(from mail.Address, rcpt mail.Recipient) decision {
	a := rcpt.Address
	if a.Domain == "" {
		a.Domain = r.hostname
	}
	d := decision{route: r.placed(rcpt.Route), reason: byDirectory}
	if d.route == (mail.Route{}) {
		if rule, key, where, found := r.recipients.find(a, r.order().Transport(a)); found && rule != d.route {
			d = decision{route: rule, reason: byRecipient, key: key, where: where}
		}
	}
	if d.route.Transport == "" {
		d = r.byDomain(from, a.Domain, d)
	}
	if d.route.NextHop == "" && r.byMX[d.route.Transport] {
		d.route.NextHop = string(a.Domain)
	}
	return d
}

// byDomain chooses the transport by the recipient's domain or, for the rest of
// the world, by sender. A next hop that d has already stays.
func (r *Router) byDomain(from mail.Address, domain mail.Domain, d decision) decision {
	next := d.route.NextHop
	if name, ours := r.domains[domain]; ours {
		d.route.Transport = name
		if next == "" {
			d.reason = byDomain
		}
		return d
	}
	if next != "" {
		// The login of the relay host is for that host alone.
		d.route.Transport = Outbound
		return d
	}
	if rule, key, where, found := r.senders.find(from, r.order().Sender(from)); found && rule != (mail.Route{}) {
		if rule.Transport == "" {
			rule.Transport = Outbound
		}
		return decision{route: rule, reason: bySender, key: key, where: where}
	}
	return decision{route: mail.Route{Transport: r.relayhost}, reason: byDefault}
}

// placed asks again for a host that was unknown when the mail came.
func (r *Router) placed(route mail.Route) mail.Route {
	host, unknown := strings.CutPrefix(route.Transport, mail.UnknownHost)
	if !unknown {
		return route
	}
	if target, known := r.hosts[strings.ToLower(host)]; known {
		return mail.Route{Transport: target}
	}
	switch r.unknown {
	case "domain":
		return mail.Route{}
	case "connect":
		return mail.Route{NextHop: host}
	default:
		return route
	}
}

// order is how the keys of an address are made.
func (r *Router) order() table.Order { return table.Order{Delimiters: r.delimiters} }

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
	target, nextHop, _ := strings.Cut(destination, "/")
	direct, ok := r.transports[target].(Direct)
	return ok && direct.Direct(nextHop)
}

// Deliver makes one attempt for all recipients, one conversation after the
// other where they do not share a destination. It does not block longer than
// its transports.
func (r *Router) Deliver(ctx context.Context, d mail.Delivery) []mail.Outcome {
	outcomes := make([]mail.Outcome, len(d.Envelope.Recipients))
	for _, g := range r.group(d.Envelope.ReversePath, d.Envelope.Recipients) {
		part := d
		part.Envelope.Recipients = g.recipients
		part.Kept = pickKept(d.Kept, g.indices)
		for n, o := range r.deliverGroup(ctx, g.route, part) {
			if r.softBounce && !d.Probe { // a probe is an answer, and no mail that could be lost
				o = softened(o)
			}
			outcomes[g.indices[n]] = o
		}
	}
	return outcomes
}

// softened defers what was refused for good. The refusal's text stays, so that
// log and queue tell what would have been sent back.
func softened(o mail.Outcome) mail.Outcome {
	if o.Class == mail.Bounced {
		o.Class, o.Reply = mail.Deferred, o.Reply.Softened()
	}
	return o
}

func (r *Router) deliverGroup(ctx context.Context, route mail.Route, d mail.Delivery) []mail.Outcome {
	t := r.transports[route.Transport]
	if t == nil {
		if class, reply, ok := builtIn(route); ok {
			return without(d, class, reply)
		}
		// A route from the directory that the configuration does not know is a
		// mistake of ours, and no reason to send anything back.
		r.log.Error("no target for the route that the directory gives: mail waits until the configuration has one, or the directory another",
			"route", route.Transport, "qid", d.QueueID, "rcpt", d.Envelope.Recipients[0].Address, "rcpts", len(d.Envelope.Recipients))
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
