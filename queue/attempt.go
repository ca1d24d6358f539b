package queue

import (
	"context"
	"fmt"
	"runtime/debug"
	"time"

	"github.com/postern-mail/postern/mail"
	"github.com/postern-mail/postern/status"
	"github.com/postern-mail/postern/store"
)

// loadUntriedLocked puts every group of m that was not tried in line. It
// returns false when one had no room: its due entry has to bring it again.
func (q *Queue) loadUntriedLocked(m *message) (all bool) {
	all = true
	for g := range m.work {
		if m.untried(g) && !q.loadLocked(m, g, nil) {
			all = false
		}
	}
	return all
}

// loadLocked puts group g of m in line. It returns false when there was no
// room; then entry, if given, is remembered with the destination.
func (q *Queue) loadLocked(m *message, g int, entry []byte) bool {
	if m.work[g].place != idle {
		return true
	}
	d := q.schedule.destination(q.destinationOf(m, g))
	anywhere, here := q.schedule.room(d, m.envelope.ReversePath, m.envelope.Priority)
	if !anywhere || !here {
		if anywhere && entry != nil {
			d.skip(entry)
		}
		return false
	}
	m.work[g].place, m.work[g].to = ready, d
	m.moving++
	q.schedule.push(item{m: m, group: g, to: d})
	return true
}

// dispatchLocked starts a worker for each group that may be tried now.
func (q *Queue) dispatchLocked() {
	for q.running {
		it, ok := q.nextLocked()
		if !ok {
			return
		}
		q.workers.Go(func() { q.work(it) })
	}
}

func (q *Queue) nextLocked() (item, bool) {
	if !q.running {
		return item{}, false
	}
	return q.schedule.next(time.Now(), q.deadLocked)
}

// deadLocked drops a group that was held, deleted or given up while it was in
// line.
func (q *Queue) deadLocked(it item) bool {
	if s := it.m.work[it.group].state; s != nil && s.pending() == 0 {
		q.restLocked(it.m, it.group)
		return true
	}
	if !it.m.held && !it.m.removed && it.m.home.open() {
		it.m.work[it.group].place = inFlight
		return false
	}
	it.m.work[it.group].place = idle
	it.m.moving--
	q.forgetIfIdleLocked(it.m)
	return true
}

// work tries groups until none is left that may be tried.
func (q *Queue) work(it item) {
	for ok := true; ok; {
		started := time.Now()
		m, barred := it.m, q.barred(it.m)
		attempt := q.attempt
		if barred {
			attempt = q.putOff
		}
		outcomes := attempt(it)
		it, ok = q.settleAttempt(it, outcomes, time.Since(started))
		if barred {
			q.holdBarred(m)
		}
	}
}

// attempt makes one delivery and returns what became of each recipient.
func (q *Queue) attempt(it item) []mail.Outcome {
	return q.deliverSafely(it.m.home.deliver, q.delivery(it), q.deps.Transport.Deliver)
}

// delivery describes the next attempt at a group.
func (q *Queue) delivery(it item) mail.Delivery {
	m := it.m
	q.mu.Lock()
	attempt, recipients := 1, m.groups[it.group]
	var kept []mail.Outcome
	if s := m.work[it.group].state; s != nil {
		attempt, recipients, kept = s.attempts+1, stillPending(s, recipients), s.kept()
	}
	ctx, envelope := m.home.deliver, m.envelope // of which an operator may change the priority
	q.mu.Unlock()
	d := mail.Delivery{
		QueueID: m.id, ID: deliveryID(m.id, it.group), Envelope: envelope,
		Octets: m.ref.Octets, Attempt: attempt, Kept: kept,
		Open: func() (mail.Content, error) { return q.open(ctx, m.ref) },
	}
	d.Envelope.Recipients = recipients
	return d
}

// deliveryID names a delivery for as long as the message lives: the groups of
// a message never change, and the backend tells recipients of one apart.
func deliveryID(id mail.QueueID, group int) string { return fmt.Sprintf("%s.%d", id, group) }

func stillPending(s *groupState, recipients []mail.Recipient) []mail.Recipient {
	left := make([]mail.Recipient, 0, len(recipients))
	for i := range recipients {
		if s.recipients[i].progress == pending {
			left = append(left, recipients[i])
		}
	}
	return left
}

// deliverSafely gives every recipient an outcome whatever deliver does.
func (q *Queue) deliverSafely(ctx context.Context, d mail.Delivery, deliver func(context.Context, mail.Delivery) []mail.Outcome) (outcomes []mail.Outcome) {
	defer func() {
		if p := recover(); p != nil {
			q.log.Error("transport panicked", "qid", d.QueueID, "panic", p, "stack", string(debug.Stack()))
			outcomes = nil
		}
		now := time.Now()
		whole := make([]mail.Outcome, len(d.Envelope.Recipients))
		for i := range whole {
			if len(outcomes) == len(whole) {
				whole[i] = outcomes[i]
			} else {
				whole[i] = mail.Outcome{Class: mail.Deferred, Reply: status.Unknown.Reply()}
			}
			whole[i].Recipient = d.Envelope.Recipients[i].Address
			if whole[i].At.IsZero() {
				whole[i].At = now
			}
		}
		outcomes = whole
	}()
	return deliver(ctx, d)
}

// settleAttempt gives the outcomes to the keeper, or the group back to its
// line when the destination will be tried again in a moment, and returns the
// next group to try.
func (q *Queue) settleAttempt(it item, outcomes []mail.Outcome, took time.Duration) (item, bool) {
	now := time.Now()
	m := it.m
	q.mu.Lock()
	again := q.schedule.done(it, contactOf(outcomes), outcomes[0], now, jitter()) &&
		!nextAttempt(m.arrived, now, 1, q.rules(m), 0).IsZero() && !m.held && !m.removed && !m.home.lost && m.work[it.group].after == nil
	if again {
		m.work[it.group].place = ready
		q.schedule.pushBack(it)
		q.poke() // the end of the pause is the keeper's
	} else {
		m.work[it.group].place = settling
	}
	q.refillLocked(it.to)
	news := m.work[it.group].state.news(outcomes)
	q.mu.Unlock()

	if !again {
		q.note(it.m, it.group, it.to, news, took)
		q.changes <- &change{
			outcomeOf: m,
			prepare: func(b *store.Batch) error {
				q.mu.Lock()
				defer q.mu.Unlock()
				if err := q.ownLocked(b, m); err != nil {
					return err
				}
				q.settleLocked(b, m, it.group, outcomes, now)
				return nil
			},
			done: func(err error) { q.settled(it, err) },
		}
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	next, ok := q.nextLocked()
	if ok {
		q.dispatchLocked()
	}
	return next, ok
}

// refillLocked has the keeper load more once a line that left entries in the
// store is half as full as one sender may make it, or memory is half empty.
func (q *Queue) refillLocked(d *destination) {
	if d.skipped != nil && d.waiting() <= q.cfg.ActiveLimit/8 {
		for _, key := range d.skipped {
			q.rewindLocked(key)
		}
		d.skipped = nil
	}
	if q.crowded && q.schedule.groups <= q.cfg.ActiveLimit/2 {
		q.crowded = false
		q.poke()
	}
}

// settled is called by the keeper when the outcomes of an attempt are on
// record. Where they could not be recorded the group stays out of reach: the
// next start finds it as it was and tries it again.
func (q *Queue) settled(it item, err error) {
	if q.isLost(it.m) {
		q.log.Warn("outcome is not on record: another process serves the message, and tries it again", "qid", it.m.id)
		return
	}
	if err != nil {
		q.log.Error("outcome is not on record, the recipients will be tried again after a restart",
			"qid", it.m.id, "err", err)
		return
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	q.restLocked(it.m, it.group)
}

// restLocked lets group g of m wait for its time. When the whole message is at
// rest, the sender is told what there is to tell.
func (q *Queue) restLocked(m *message, g int) {
	m.work[g].place = idle
	m.moving--
	if m.removed {
		q.endLocked(m)
		q.forgetIfIdleLocked(m)
		return
	}
	if !m.work[g].entry.IsZero() {
		q.noteDueLocked(m.work[g].entry, m.entryKey(g))
	}
	if m.grown {
		q.recallLocked(m)
	}
	q.reportIfOwedLocked(m)
	q.forgetIfIdleLocked(m)
}
