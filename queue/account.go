package queue

import (
	"context"
	"sync/atomic"
	"time"

	"github.com/postern-mail/postern/mail"
	"github.com/postern-mail/postern/store"
)

// counters are kept since the start; messages is what is queued now.
type counters struct {
	accepted, delivered, deferred, bounced, reports atomic.Int64
	messages                                        atomic.Int64
	counted                                         atomic.Bool
}

// Stats is how the queue does.
type Stats struct {
	// Messages queued now; exact once Counted.
	Messages int64
	Counted  bool
	// Waiting and Active are groups due in memory and under way.
	Waiting, Active int
	// Recipients since the start, and messages accepted and reports sent.
	Accepted, Delivered, Deferred, Bounced, Reports int64
}

// Stats returns the figures of this moment; it is cheap.
func (q *Queue) Stats() Stats {
	c := &q.counts
	s := Stats{
		Messages: c.messages.Load(), Counted: c.counted.Load(),
		Accepted: c.accepted.Load(), Delivered: c.delivered.Load(), Deferred: c.deferred.Load(),
		Bounced: c.bounced.Load(), Reports: c.reports.Load(),
	}
	s.Waiting, s.Active = q.ready.load()
	return s
}

// count adds what was queued before this start to the number of messages;
// what came since has been counted as it came.
func (q *Queue) count(ctx context.Context) {
	var after mail.QueueID
	for {
		n := 0
		err := q.Store.View(ctx, func(snap store.Snapshot) error {
			lo, hi := messageRange(after)
			for pair, err := range snap.Range(lo, hi, 10_000, false) {
				if err != nil {
					return err
				}
				if after = mail.QueueID(pair.Key[2:]); after < q.born {
					n++
				}
			}
			return nil
		})
		if err != nil {
			return // the figure stays marked as uncounted
		}
		q.counts.messages.Add(int64(n))
		if n < 10_000 {
			q.counts.counted.Store(true)
			return
		}
	}
}

// record logs, counts and audits what an attempt brought.
func (q *Queue) record(j job, r verdictOnGroup) {
	now := time.Now()
	delay := now.Sub(j.message.arrived)
	for i, o := range r.outcomes {
		level := q.Log.Info
		switch o.Class {
		case mail.Delivered:
			q.counts.delivered.Add(1)
		case mail.Deferred:
			q.counts.deferred.Add(1)
		case mail.Bounced:
			q.counts.bounced.Add(1)
			level = q.Log.Warn
		}
		level(o.Class.String(), "qid", j.ref.id, "from", j.message.envelope.ReversePath.Path(), "rcpt", o.Recipient,
			"relay", o.Remote, "attempt", j.group.attempts, "dur", delay, "dsn", o.Reply.EnhancedString(), "reply", o.Reply.Text)
		if q.Audit == nil {
			continue
		}
		q.Audit.Record(mail.Event{
			Kind: mail.EventDelivery, Result: o.Class.String(), Queue: j.ref.id, Delivery: j.ref.deliveryID(),
			From: &j.message.envelope.ReversePath, To: []mail.Address{j.group.recipients[i].Address},
			Peer: o.Remote, Reply: o.Reply.String(), Duration: delay,
		})
	}
}

// ended counts and audits a message of which nothing is left.
func (q *Queue) ended(m *message) {
	q.counts.messages.Add(-1)
	if q.Audit != nil {
		q.Audit.Record(mail.Event{Kind: mail.EventFinal, Result: "removed", Queue: m.id, Duration: time.Since(m.arrived)})
	}
}
