package replica

import (
	"context"
	"fmt"
	"time"

	"github.com/postern-mail/postern/internal/mutant"
)

// begin starts an attachment: the node that is not home attaches, the home asks
// for it. Both stop giving out UIDs of their own meanwhile.
// known is the home as the partner knows it.
func (c *Channel) begin(ctx context.Context, known Home) {
	c.forget()
	position, err := c.account.BeginAttach(ctx)
	if err != nil {
		c.events.Failed(c.id, "begin to attach", err)
		c.state = Pending // it may have come half the way
		c.leave(ctx)
		c.backOff()
		return
	}
	c.leaving = false
	position.Home = merged(position.Home, known)
	c.home, c.origin = position.Home, position.Origin
	c.tx.own = max(c.tx.own, seqOf(position.Vector, position.Origin))
	c.deadline = c.now.Add(c.limits.AnswerTimeout)
	c.out.Wake(c.deadline)
	g := greeting{name: c.name, position: position}
	if position.Home.Class == c.class {
		c.state, c.attachment = Asked, 0
		c.out.Send(ClassOps, KindAsk, g.encode())
		return
	}
	c.state = Pending
	c.drawn++
	c.attachment = c.drawn<<1 | uint64(c.class)
	g.attachment = c.attachment
	c.out.Send(ClassOps, KindAttach, g.encode())
}

// backOff sets when an attachment is tried again.
func (c *Channel) backOff() {
	c.retryAt = c.now.Add(backOff(c.limits, c.tries))
	c.tries++
	c.out.Wake(c.retryAt)
}

func backOff(l Limits, tries int) time.Duration {
	return min(l.RetryMin<<min(tries, 20), l.RetryMax)
}

// again ends the attachment for another to be made later.
func (c *Channel) again(ctx context.Context, detail string) {
	c.detach(ctx, ReasonAgain, detail)
	c.backOff()
}

// detach ends the attachment and tells the partner.
func (c *Channel) detach(ctx context.Context, reason Reason, detail string) {
	if c.state == Unattached {
		return
	}
	if c.linked {
		c.out.Send(ClassOps, KindDetach, refusal{c.attachment, reason, detail}.encode())
	}
	c.leave(ctx)
}

// leave ends the attachment on this side.
func (c *Channel) leave(ctx context.Context) {
	if c.state == Unattached {
		return
	}
	c.state = Unattached
	c.forget()
	c.leaving = true
	c.finishLeaving(ctx)
}

// finishLeaving has the store detach, and tries again when it cannot: clients
// wait for it.
func (c *Channel) finishLeaving(ctx context.Context) {
	if err := c.account.Detach(ctx); err != nil {
		c.events.Failed(c.id, "detach", err)
		c.out.Wake(c.now.Add(detachRetry))
		return
	}
	c.leaving = false
}

const detachRetry = time.Second

// unknownHome is what every other home wins against, or equals.
var unknownHome = Home{Class: 1}

// forget drops what an attachment has under way.
func (c *Channel) forget() {
	c.early, c.settleAt, c.rehomed = nil, time.Time{}, 0
	c.tx.reset()
	c.rx.reset()
	c.pull.reset()
	c.verify.reset()
}

// merged is the home both sides arrive at who know mine and theirs.
func merged(mine, theirs Home) Home {
	if theirs.Epoch > mine.Epoch || theirs.Epoch == mine.Epoch && theirs.Class < mine.Class {
		return theirs
	}
	return mine
}

// greeted takes in the three messages of the handshake.
func (c *Channel) greeted(ctx context.Context, kind Kind, g *greeting) error {
	if c.name == "" {
		c.name = g.name
	}
	if kind == KindAccept {
		return c.accepted(ctx, g)
	}
	c.wanted = true
	if reason, detail := c.unwilling(); reason != 0 {
		c.out.Send(ClassOps, KindRefuse, refusal{g.attachment, reason, detail}.encode())
		return nil
	}
	mine, err := c.account.Position(ctx)
	if err != nil {
		return c.cannot(g, err)
	}
	c.home, c.origin = mine.Home, mine.Origin
	if merged(mine.Home, g.position.Home).Class != c.class {
		c.attachInstead(ctx, kind, g)
		return nil
	}
	if kind == KindAsk {
		// Both think they are home, and we are right: ask, so that the partner
		// learns it.
		if c.state == Unattached {
			c.retryAt = time.Time{}
		}
		return nil
	}
	if refusal := c.compare(&mine, &g.position); refusal != 0 {
		c.out.Send(ClassOps, KindRefuse, encodeRefusal(g.attachment, refusal))
		c.leave(ctx)
		return nil
	}
	return c.accept(ctx, g)
}

func encodeRefusal(attachment uint64, reason Reason) []byte {
	return refusal{attachment: attachment, reason: reason}.encode()
}

// unwilling says why the account cannot be attached.
func (c *Channel) unwilling() (Reason, string) {
	switch {
	case c.paused:
		return ReasonPaused, ""
	case c.poisoned != "":
		return ReasonQuarantined, c.poisoned
	case c.stale:
		return ReasonIAmStale, ""
	}
	return 0, ""
}

// attachInstead is for who is asked to attach, or was attached to by mistake:
// the partner is home.
func (c *Channel) attachInstead(ctx context.Context, kind Kind, g *greeting) {
	switch {
	case c.state == Pending:
		return // our attach is on its way
	case c.state == Attached && kind == KindAsk:
		return // it was asked before it saw our attach
	}
	// The home's word counts before its operation arrives.
	c.retryAt = time.Time{}
	c.begin(ctx, g.position.Home)
}

// compare finds out who of the two has lost operations of its own: a node that
// was brought back from a backup must not go on under its old name.
func (c *Channel) compare(mine, theirs *Position) Reason {
	switch {
	case c.without.Has(mutant.AcceptStale):
	case seqOf(theirs.Vector, mine.Origin) > seqOf(mine.Vector, mine.Origin), theirs.Origin == mine.Origin:
		c.stale = true
		c.events.Stale(c.id, true)
		return ReasonIAmStale
	case seqOf(mine.Vector, theirs.Origin) > seqOf(theirs.Vector, theirs.Origin):
		c.peerIs = true
		c.events.Stale(c.id, false)
		return ReasonYouAreStale
	}
	return 0
}

// cannot answers that this node's store failed.
func (c *Channel) cannot(g *greeting, err error) error {
	c.events.Failed(c.id, "attach", err)
	c.out.Send(ClassOps, KindRefuse, refusal{g.attachment, ReasonAgain, ""}.encode())
	return nil
}

// accept is the home's part of the handshake.
func (c *Channel) accept(ctx context.Context, g *greeting) error {
	// What an earlier attachment left under way is void.
	c.forget()
	c.state, c.leaving = Pending, false
	position, err := c.account.BeginAttach(ctx)
	if err == nil {
		err = c.account.Attached(ctx, g.position)
	}
	if err != nil {
		c.leave(ctx)
		c.backOff()
		return c.cannot(g, err)
	}
	answer := greeting{attachment: g.attachment, name: c.name, position: position}
	c.attachment = g.attachment
	c.out.Send(ClassOps, KindAccept, answer.encode())
	c.established(&position, &g.position)
	return nil
}

// accepted is the other node's last part of it.
func (c *Channel) accepted(ctx context.Context, g *greeting) error {
	if c.state != Pending || g.attachment != c.attachment {
		if c.state != Attached || g.attachment != c.attachment {
			c.out.Send(ClassOps, KindDetach, encodeRefusal(g.attachment, ReasonTimeout))
		}
		return nil
	}
	mine, err := c.account.Position(ctx)
	if err != nil {
		return err
	}
	if reason := c.compare(&mine, &g.position); reason != 0 {
		c.detach(ctx, reason, "")
		return nil
	}
	if err := c.account.Attached(ctx, g.position); err != nil {
		return err
	}
	c.established(&mine, &g.position)
	early := c.early
	c.early = nil
	for _, f := range early {
		if err := c.attachedFrame(ctx, f.Kind, f.Payload); err != nil {
			return err
		}
	}
	return nil
}

// established sets where the streams begin.
func (c *Channel) established(mine, theirs *Position) {
	c.state = Attached
	c.retryAt = time.Time{}
	c.home = merged(mine.Home, theirs.Home)
	c.origin = mine.Origin
	own := seqOf(mine.Vector, mine.Origin)
	c.tx.begin(max(c.tx.own, own), seqOf(theirs.Vector, mine.Origin))
	c.rx.begin(theirs.Origin, seqOf(mine.Vector, theirs.Origin))
	if c.home.Class == c.class && c.rx.applied < seqOf(theirs.Vector, theirs.Origin) {
		c.settleAt = c.now.Add(settleAfter)
	}
	c.events.Durable(c.id, c.tx.acked)
	c.pull.due = c.pull.due || mine.Merging // by an earlier process
	if differ(mine, theirs.Vector, theirs.Digest, theirs.Settled) {
		c.differs()
	}
}

// settleAfter is a little more than the store holds its own messages back for.
const settleAfter = 1100 * time.Millisecond

// refused takes in that there is no attachment, or no longer.
func (c *Channel) refused(ctx context.Context, kind Kind, r refusal) {
	if c.state == Unattached || r.attachment != c.attachment && !(c.state == Asked && kind == KindRefuse) {
		return
	}
	switch r.reason {
	case ReasonYouAreStale:
		c.stale = true
		c.events.Stale(c.id, true)
	case ReasonIAmStale:
		c.peerIs = true
		c.events.Stale(c.id, false)
	case ReasonPaused, ReasonQuarantined:
		c.wanted = false // the partner begins when that ends, or our next change
		c.events.Failed(c.id, "attach", fmt.Errorf("the partner refuses: %s %s", r.reason, r.detail))
	}
	c.leave(ctx)
	c.backOff()
}
