package smtpd

import (
	"context"
	"time"

	"github.com/postern-mail/postern/mail"
)

// admit asks whether the queue may take the message, now that everybody it goes
// to is known: one that our own backend takes at once needs no place there.
func (t *transaction) admit() error {
	if t.decision.Discard {
		return nil
	}
	e := t.tx.Envelope
	e.Recipients = t.envelope.all
	return t.session.handler.deps.Queue.Admit(&e)
}

// holdBack lets a client from outside wait for its answer while mail comes in
// faster than it goes out. The message is safe by then, nothing is locked, and
// what was delivered at once did not add to the queue.
func (t *transaction) holdBack(ctx context.Context) {
	h := t.session.handler
	if h.cfg.FlowDelay <= 0 || t.delivered || t.decision.Discard || t.flowExempt(&t.tx.Client) || !h.deps.Queue.Pressed() {
		return
	}
	h.count.heldBack()
	timer := time.NewTimer(h.cfg.FlowDelay)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
	}
}

// flowExempt knows who is near: users of this machine, and our networks.
func (t *transaction) flowExempt(c *mail.Client) bool {
	if !c.Remote.IsValid() {
		return true
	}
	addr := c.Remote.Addr().Unmap().WithZone("")
	for _, network := range t.session.handler.cfg.FlowExempt {
		if network.Contains(addr) {
			return true
		}
	}
	return false
}
