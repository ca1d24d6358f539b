package delivery

import (
	"context"
	"slices"
	"strings"
	"sync"

	"github.com/postern-mail/postern/mail"
	"github.com/postern-mail/postern/smtp"
)

// peer is what a server said of itself by XPOSTERN in its reply to LHLO.
type peer struct {
	dropsRepeats bool      // it knows deliveries by their ids
	pair         string    // names the replication pair that it is a node of; "" for none
	class        mail.Home // its class in the pair
}

// peerOf reads "XPOSTERN PAIR=<name> CLASS=<class>". What else stands there is
// of a later release.
func peerOf(c *smtp.Client) peer {
	params, offered := c.Extension("XPOSTERN")
	p := peer{dropsRepeats: offered}
	for word := range strings.FieldsSeq(params) {
		key, value, _ := strings.Cut(word, "=")
		switch key {
		case "PAIR":
			p.pair = value
		case "CLASS":
			p.class = mail.Home(value)
		}
	}
	return p
}

// pair reports whether endpoints are the nodes of one replication pair, as far
// as they were reached: at least one was, and none says otherwise. What such
// servers say of a delivery holds for both: the pair has each delivery id once.
func (p *Pool) pair(endpoints []Endpoint) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.arePairLocked(endpoints)
}

func (p *Pool) arePairLocked(endpoints []Endpoint) bool {
	name := ""
	for _, e := range endpoints {
		who, reached := p.peers[e.Address]
		if !reached {
			continue
		}
		if who.pair == "" || !who.dropsRepeats || name != "" && who.pair != name {
			return false
		}
		name = who.pair
	}
	return len(endpoints) == 2 && name != ""
}

// pairLocked reports whether e may be the node of a pair: it says so, or was
// never reached and others of the pool say so.
func (p *Pool) pairLocked(e Endpoint) bool {
	if who, reached := p.peers[e.Address]; reached {
		return who.pair != ""
	}
	for _, who := range p.peers {
		if who.pair != "" {
			return true
		}
	}
	return false
}

// homeward returns the endpoints of a pair with that of a home first. A node
// that was never reached has the class that its partner does not have.
func (p *Pool) homeward(home mail.Home, endpoints []Endpoint) []Endpoint {
	if home == "" {
		return endpoints
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	at := slices.IndexFunc(endpoints, func(e Endpoint) bool {
		return p.peers[e.Address].class == home || strings.EqualFold(e.Host, string(home)) && e.Host != ""
	})
	if at < 0 && (home == mail.HomeOf(0) || home == mail.HomeOf(1)) {
		at = slices.IndexFunc(endpoints, func(e Endpoint) bool { return p.peers[e.Address].class == "" })
	}
	if at <= 0 {
		return endpoints
	}
	first := []Endpoint{endpoints[at]}
	return append(first, slices.Delete(slices.Clone(endpoints), at, at+1)...)
}

// Deliver makes an attempt as Attempt does. Where the endpoints are the nodes
// of a pair, each recipient's mail goes to the node its account is at home on,
// and to the other while that one is away: one conversation for each node that
// is needed, beside each other, under one delivery id.
//
// Of a message that a node has, and that is kept here for its partner, that
// node is asked first: see kept.go.
func (p *Pool) Deliver(ctx context.Context, d mail.Delivery, endpoints []Endpoint) []mail.Outcome {
	if d.Kept != nil {
		return p.deliverKept(ctx, d, endpoints)
	}
	if !p.pair(endpoints) {
		return p.Attempt(ctx, d, endpoints)
	}
	parts := p.divide(d.Envelope.Recipients, endpoints)
	if len(parts) == 1 {
		return p.Attempt(ctx, d, parts[0].endpoints)
	}
	outcomes := make([]mail.Outcome, len(d.Envelope.Recipients))
	var all sync.WaitGroup
	for _, part := range parts {
		all.Go(func() {
			for n, o := range p.Attempt(ctx, part.of(d), part.endpoints) {
				outcomes[part.indices[n]] = o
			}
		})
	}
	all.Wait()
	return outcomes
}

// part is the recipients of a delivery that one node is asked for first.
type part struct {
	endpoints []Endpoint
	indices   []int
}

// divide groups recipients by the node that takes their mail now.
func (p *Pool) divide(recipients []mail.Recipient, endpoints []Endpoint) []*part {
	var parts []*part
	for i := range recipients {
		order := p.order(p.homeward(recipients[i].Home, endpoints))
		n := slices.IndexFunc(parts, func(other *part) bool { return other.endpoints[0].same(order[0]) })
		if n < 0 {
			n, parts = len(parts), append(parts, &part{endpoints: order})
		}
		parts[n].indices = append(parts[n].indices, i)
	}
	return parts
}

// of returns the delivery for the part's recipients alone.
func (part *part) of(d mail.Delivery) mail.Delivery {
	pick := func(all []mail.Recipient) []mail.Recipient {
		some := make([]mail.Recipient, len(part.indices))
		for n, i := range part.indices {
			some[n] = all[i]
		}
		return some
	}
	d.Envelope.Recipients = pick(d.Envelope.Recipients)
	if d.Before != nil {
		before := *d.Before
		before.Recipients = pick(before.Recipients)
		d.Before = &before
	}
	return d
}

// impatient returns the nodes of a pair with little time to begin: all but the
// last, behind which nobody waits to take over.
func (p *Pool) impatient(endpoints []Endpoint) []Endpoint {
	quick := slices.Clone(endpoints)
	for i := range quick[:len(quick)-1] {
		quick[i].patience = p.cfg.failover
	}
	return quick
}
