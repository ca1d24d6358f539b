package replica

import (
	"context"
	"encoding/binary"
	"errors"
	"time"

	"github.com/postern-mail/postern/backend/mailstore"
	"github.com/postern-mail/postern/store"
)

// pulling is a state merge: of this node from the partner, and the answers to
// the partner's own.
type pulling struct {
	due    bool
	deep   bool // the next one compares message by message
	puller Puller
	isDeep bool   // the one under way does
	asked  uint64 // number of the question under way; 0 for none
	number uint64
	need   []store.Ref // bodies of the answer
	// question is the partner's, to be answered when there is room.
	question []byte
	// after is when the next may begin: what does not help is not repeated at
	// once.
	after time.Time
	tries int
	// done are told of the end of the next, doing of that of the one under way.
	done, doing []func(Applied, error)
}

// reset has a merge that was under way begin anew with the next attachment.
func (p *pulling) reset() {
	*p = pulling{
		due: p.due || p.puller != nil, deep: p.deep || p.isDeep, after: p.after, tries: p.tries, done: append(p.doing, p.done...),
	}
}

// giveUp tells who waits for a merge that there will be none.
func (p *pulling) giveUp(why error) {
	waiting := append(p.doing, p.done...)
	p.doing, p.done = nil, nil
	for _, fn := range waiting {
		fn(Applied{}, why)
	}
}

// active reports whether records must wait for a merge.
func (p *pulling) active() bool { return p.puller != nil }

// differs has everything compared, as equal vectors with different contents
// ask for.
func (c *Channel) differs() {
	c.events.Differs(c.id)
	c.pull.due = true
}

// Join has the whole account brought over: this node does not have it yet.
func (c *Channel) Join() {
	if p := &c.pull; p.puller == nil {
		p.due, p.after = true, time.Time{}
	}
}

// Compare has everything compared with the partner, message by message, and
// what this node lacks brought over; done is told what that changed.
func (c *Channel) Compare(done func(Applied, error)) {
	p := &c.pull
	if err := c.leftOut(); err != nil {
		done(Applied{}, err)
		return
	}
	p.due, p.deep, p.after, p.tries = true, true, time.Time{}, 0
	p.done = append(p.done, done)
	c.wanted = true
}

// workPull takes the next step of a merge, and answers the partner's.
func (c *Channel) workPull(ctx context.Context) (more bool, err error) {
	if err := c.answer(ctx); err != nil {
		return false, err
	}
	p := &c.pull
	switch {
	case p.puller == nil && !p.due, p.asked != 0:
		return false, nil
	case c.now.Before(c.rx.retryAt):
		c.out.Wake(c.rx.retryAt)
		return false, nil
	case p.puller == nil:
		if c.now.Before(p.after) {
			c.out.Wake(p.after)
			return false, nil
		}
		if p.puller, err = c.account.Pull(ctx, p.deep); err != nil {
			return false, err
		}
		p.due, p.isDeep, p.deep = false, p.deep, false
		p.doing, p.done = p.done, nil
		return true, nil
	case len(p.need) > 0:
		return c.give(ctx)
	}
	query, err := p.puller.Query(ctx)
	if err != nil {
		return c.notPulled(ctx, err)
	}
	if query == nil {
		return true, c.pulled(ctx)
	}
	p.number++
	p.asked = p.number
	c.out.Send(ClassBulk, KindPull, stamped(c.attachment, numbered(p.asked, query)))
	return false, nil
}

func numbered(number uint64, rest []byte) []byte {
	return append(binary.AppendUvarint(make([]byte, 0, len(rest)+10), number), rest...)
}

// gotState takes in a question of the partner, or its answer to ours.
func (c *Channel) gotState(ctx context.Context, kind Kind, payload []byte) error {
	_, rest, err := unstamp(payload)
	if err != nil {
		return err
	}
	p := &c.pull
	if kind == KindPull {
		p.question = rest // it asks one at a time
		return nil
	}
	number, answer, err := unstamp(rest)
	if err != nil || number != p.asked || p.puller == nil {
		return err
	}
	p.asked = 0
	if p.need, err = p.puller.Take(ctx, answer); err != nil {
		_, err = c.notPulled(ctx, err)
		return err
	}
	// What was gone before the answer may be back by now.
	for _, ref := range p.need {
		delete(c.rx.gone, ref.Hash)
		if w := c.rx.wants[ref.Hash]; w != nil {
			w.again = true
		}
	}
	return nil
}

// answer answers the partner's question.
func (c *Channel) answer(ctx context.Context) error {
	p := &c.pull
	if p.question == nil || !c.out.Room(ClassBulk) {
		return nil
	}
	number, query, err := unstamp(p.question)
	if err != nil {
		return err
	}
	p.question = nil
	answer, err := c.account.Answer(ctx, query)
	if err != nil {
		return err
	}
	c.out.Send(ClassBulk, KindState, stamped(c.attachment, numbered(number, answer)))
	return nil
}

// give hands over the bodies that an answer needs, once they are here.
func (c *Channel) give(ctx context.Context) (more bool, err error) {
	p, r := &c.pull, &c.rx
	var missing []store.Ref
	for _, ref := range p.need {
		if r.staged[ref.Hash] == nil && !r.isGone(ref, 0) {
			missing = append(missing, ref)
		}
	}
	if len(missing) > 0 {
		return false, c.ask(ctx, missing)
	}
	err = p.puller.Give(ctx, r.staged, r.gone)
	var still *MissingBodies
	if errors.As(err, &still) {
		p.need = still.Refs
		for _, ref := range still.Refs {
			r.unstage(ref.Hash) // it could not be read
		}
		return true, nil
	}
	for _, ref := range p.need {
		r.unstage(ref.Hash)
		delete(r.gone, ref.Hash)
	}
	if err != nil {
		return c.notPulled(ctx, err)
	}
	p.need = nil
	return true, nil
}

// pulled ends a merge that is complete: the partner's records go on behind what
// it brought.
func (c *Channel) pulled(ctx context.Context) error {
	p, r := &c.pull, &c.rx
	applied := p.puller.Applied()
	if err := c.account.Joined(ctx); err != nil {
		return err
	}
	// What came may need UIDs that only the home gives.
	if err := c.account.Acked(ctx, Ack{Seq: c.tx.acked}); err != nil {
		return err
	}
	// The partner needs the floors of all mailboxes to give out UIDs again.
	position, err := c.account.Position(ctx)
	if err != nil {
		return err
	}
	applied.Floors, applied.Vector, applied.Digest = position.Floors, position.Vector, position.Digest
	applied.Settled, applied.Seq = position.Settled, seqOf(position.Vector, position.Origin)
	done := p.doing
	p.puller, p.isDeep, p.doing = nil, false, nil
	p.after = c.now.Add(pullPause << min(p.tries, 10))
	p.tries++
	c.tries = 0
	r.blocked, r.tries = false, 0
	r.applied = max(r.applied, seqOf(applied.Vector, r.origin))
	c.drop()
	c.tx.own = max(c.tx.own, applied.Seq)
	c.noteAck(&applied)
	c.events.Pulled(c.id, applied)
	c.events.Joined(c.id)
	for _, fn := range done {
		fn(applied, nil)
	}
	return nil
}

// pullPause is how long a merge that found nothing to be different may not be
// followed by another, at least.
const pullPause = 10 * time.Second

// drop forgets held records that a merge has brought.
func (c *Channel) drop() {
	r := &c.rx
	for len(r.held) > 0 && r.held[0].Last <= r.applied {
		r.heldOctets -= len(r.held[0].Raw)
		r.held = r.held[1:]
	}
}

// notPulled decides what follows from an error of a merge. It is begun again
// with the next attachment.
func (c *Channel) notPulled(ctx context.Context, err error) (bool, error) {
	if errors.Is(err, mailstore.ErrMalformed) {
		c.events.Quarantined(c.id, nil, err)
		c.Quarantine(ctx, err.Error())
		return false, nil
	}
	return false, err
}
