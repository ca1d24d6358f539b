package delivery

import (
	"context"
	"errors"
	"time"

	"github.com/postern-mail/postern/mail"
	"github.com/postern-mail/postern/smtp"
	"github.com/postern-mail/postern/status"
)

// In durability shadow a node of a pair answers once it has a message on its
// own disk, and gives a token with the reply: the queue keeps the message and
// comes again, and here the node is asked whether its partner has it by now. A
// node that does not answer may have died with its disk. Then the message is
// delivered as one that was never offered, to the partner that is, under the
// same delivery id: the pair keeps one.

// keptPatience bounds a question, with the failover time on top.
const keptPatience = time.Second

// maxAskedAtOnce bounds the tokens that share a question.
const maxAskedAtOnce = 256

// asksToKeep reports whether a positive reply asks us to keep the message.
func (a *attempt) asksToKeep(c *smtp.Client, r status.Reply) bool {
	if a.d.ID == "" || !c.OffersKeep() {
		return false
	}
	_, asked := smtp.KeepToken(r)
	return asked
}

// pickKept returns the outcomes of some recipients, nil when none of them is
// kept.
func pickKept(all []mail.Outcome, indices []int) []mail.Outcome {
	if all == nil {
		return nil
	}
	any, some := false, make([]mail.Outcome, len(indices))
	for n, i := range indices {
		some[n] = all[i]
		any = any || all[i].Kept()
	}
	if !any {
		return nil
	}
	return some
}

// deliverKept asks after the recipients whose message a node has, and delivers
// to the rest, and to those of whom no node says that it has theirs.
func (p *Pool) deliverKept(ctx context.Context, d mail.Delivery, endpoints []Endpoint) []mail.Outcome {
	outcomes := make([]mail.Outcome, len(d.Envelope.Recipients))
	again := &part{}
	byNode := make(map[string][]int)
	for i := range outcomes {
		if d.Kept[i].Kept() {
			byNode[d.Kept[i].Remote] = append(byNode[d.Kept[i].Remote], i)
		} else {
			again.indices = append(again.indices, i)
		}
	}
	for remote, indices := range byNode {
		standings := p.standings(ctx, remote, endpoints, d.Kept, indices)
		for n, i := range indices {
			outcomes[i] = d.Kept[i]
			switch standings[n] {
			case smtp.StandingReplicated:
				outcomes[i].Class, outcomes[i].At = mail.Delivered, time.Now()
			case smtp.StandingWaits:
			default:
				again.indices = append(again.indices, i)
			}
		}
	}
	if len(again.indices) == 0 {
		return outcomes
	}
	rest := again.of(d)
	rest.Kept = nil
	for n, o := range p.Deliver(ctx, rest, endpoints) {
		outcomes[again.indices[n]] = o
	}
	return outcomes
}

// standings asks the node that has messages how it stands with them. It is
// StandingUnknown for all when the node is not one of the endpoints any more,
// or does not answer.
func (p *Pool) standings(ctx context.Context, remote string, endpoints []Endpoint, kept []mail.Outcome, indices []int) []smtp.Standing {
	unknown := make([]smtp.Standing, len(indices))
	tokens := make([]string, len(indices))
	for n, i := range indices {
		unknown[n] = smtp.StandingUnknown
		var whole bool
		if tokens[n], whole = smtp.KeepToken(kept[i].Reply); !whole {
			tokens[n] = noToken // the queue had no room for all of the reply
		}
	}
	for _, e := range endpoints {
		if e.String() != remote {
			continue
		}
		if p.isDown(e) {
			break
		}
		standings, err := p.ask(ctx, e, tokens)
		if err == nil {
			return standings
		}
		p.log.Debug("a node does not tell what its partner has; its mail is offered again", "remote", remote, "error", err)
		if p.cfg.watched && status.Of(err) != status.RemoteReply {
			p.suspect(e)
		}
		break
	}
	return unknown
}

// noToken is one that no server has given.
const noToken = "?"

// question is one delivery's tokens.
type question struct {
	tokens []string
	answer chan []smtp.Standing // capacity 1
	err    chan error           // capacity 1
	lead   chan struct{}        // capacity 1: this one asks for itself and others
}

// questions are what deliveries have to ask one node. One of them asks at a
// time, for all that came meanwhile.
type questions struct {
	busy    bool
	waiting []*question
}

// ask has a node asked about tokens, together with what others ask.
func (p *Pool) ask(ctx context.Context, e Endpoint, tokens []string) ([]smtp.Standing, error) {
	q := &question{tokens: tokens, answer: make(chan []smtp.Standing, 1), err: make(chan error, 1), lead: make(chan struct{}, 1)}
	p.mu.Lock()
	all := p.asking[e.Address]
	if all == nil {
		all = &questions{}
		p.asking[e.Address] = all
	}
	all.waiting = append(all.waiting, q)
	if !all.busy {
		all.busy = true
		q.lead <- struct{}{}
	}
	p.mu.Unlock()
	select {
	case <-q.lead:
		p.askForAll(ctx, e, all)
	case standings := <-q.answer:
		return standings, nil
	case err := <-q.err:
		return nil, err
	case <-ctx.Done():
		p.withdraw(e, all, q)
		return nil, ctx.Err()
	}
	select {
	case standings := <-q.answer:
		return standings, nil
	case err := <-q.err:
		return nil, err
	}
}

// withdraw takes a question back. Should it have been given the lead meanwhile,
// the next one has it.
func (p *Pool) withdraw(e Endpoint, all *questions, q *question) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for i, other := range all.waiting {
		if other == q {
			all.waiting = append(all.waiting[:i], all.waiting[i+1:]...)
			break
		}
	}
	select {
	case <-q.lead:
		p.passLeadLocked(e, all)
	default:
	}
}

// passLeadLocked has the next question asked.
func (p *Pool) passLeadLocked(e Endpoint, all *questions) {
	if len(all.waiting) > 0 {
		all.waiting[0].lead <- struct{}{}
		return
	}
	all.busy = false
	delete(p.asking, e.Address)
}

// askForAll asks what waits, the leader's own first, and passes the lead on.
func (p *Pool) askForAll(ctx context.Context, e Endpoint, all *questions) {
	p.mu.Lock()
	n, tokens := 0, []string(nil)
	for n < len(all.waiting) && (n == 0 || len(tokens)+len(all.waiting[n].tokens) <= maxAskedAtOnce) {
		tokens = append(tokens, all.waiting[n].tokens...)
		n++
	}
	taken := append([]*question(nil), all.waiting[:n]...)
	all.waiting = append([]*question(nil), all.waiting[n:]...)
	p.mu.Unlock()

	standings, err := p.askNode(ctx, e, tokens)
	for _, q := range taken {
		if err != nil {
			q.err <- err
			continue
		}
		q.answer <- standings[:len(q.tokens):len(q.tokens)]
		standings = standings[len(q.tokens):]
	}
	p.mu.Lock()
	p.passLeadLocked(e, all)
	p.mu.Unlock()
}

var errNoKeep = errors.New("the server does not know of kept mail")

// askNode asks on a connection of the pool, on a new one when an idle one turns
// out to be lost.
func (p *Pool) askNode(ctx context.Context, e Endpoint, tokens []string) ([]smtp.Standing, error) {
	release, err := p.enter(ctx)
	if err != nil {
		return nil, err
	}
	defer release()
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), p.cfg.failover+keptPatience)
	defer cancel()
	e.login = p.loginFor(mail.Address{}, e)
	e.patience = p.cfg.failover
	for {
		c, err := p.connect(ctx, e)
		if err != nil {
			return nil, err
		}
		if !c.Client.OffersKeep() {
			p.put(c)
			return nil, errNoKeep
		}
		standings, err := c.Client.Kept(ctx, tokens)
		p.put(c)
		if err != nil && c.reused && status.Of(err) == status.ConnectionLost && ctx.Err() == nil {
			continue // each such connection is gone from the pool
		}
		return standings, err
	}
}
