package queue

import (
	"context"
	"time"

	"github.com/postern-mail/postern/mail"
	"github.com/postern-mail/postern/status"
	"github.com/postern-mail/postern/store"
)

// Expire gives a message up, as at the end of its lifetime: those who have not
// got it will not, and its sender is told. A hold ends with that. A delivery
// under way still counts, and what it puts off is given up; should the process
// end before it does, that delivery is tried again.
func (q *Queue) Expire(ctx context.Context, id mail.QueueID) error {
	return q.operate(ctx, id, "expire", func(b *store.Batch, m *message) error {
		q.endHoldLocked(b, m)
		now := time.Now()
		for g := range m.work {
			w := &m.work[g]
			switch {
			case w.isUnderWay():
				m.expired = true
			case !w.finished && !m.removed:
				q.expireLocked(b, m, g, now)
			}
		}
		return nil
	})
}

// ExpireAll: see HoldAll.
func (q *Queue) ExpireAll(ctx context.Context, f Filter) (int, error) {
	return q.each(ctx, f, q.Expire)
}

// expireLocked fails whoever of group g waits.
func (q *Queue) expireLocked(b *store.Batch, m *message, g int, now time.Time) {
	w := &m.work[g]
	if w.state == nil {
		s := newGroupState(len(m.groups[g]))
		w.state = &s
	}
	for i, r := range m.groups[g] {
		rcpt := &w.state.recipients[i]
		if rcpt.progress != pending {
			continue
		}
		if rcpt.last.Kept() {
			rcpt.expire(m.record, r.Notify)
			continue
		}
		if rcpt.last.At.IsZero() {
			rcpt.last = q.lastWordLocked(m.envelope.ReversePath, r, now)
		}
		rcpt.progress = failed
		rcpt.owed = q.rules(m).owesFailure(m.record, r.Notify)
	}
	w.state.due = now
	w.finished = w.state.finished()
	q.noteUnconfirmed(m, g)
	q.storeLocked(b, m, g)
}

// lastWordLocked is what there is to say of a recipient that was never tried:
// what became of others at the same destination, if that is out of reach.
func (q *Queue) lastWordLocked(from mail.Address, r mail.Recipient, now time.Time) mail.Outcome {
	o := mail.Outcome{Class: mail.Deferred, Reply: status.DeliveryExpired.Reply(), At: now}
	if to := q.schedule.lines[q.deps.Transport.Destination(from, r)]; to != nil && to.failures > 0 {
		o = to.last
	}
	o.Recipient = r.Address
	return o
}
