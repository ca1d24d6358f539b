package queue

import (
	"sync/atomic"
	"time"

	"github.com/postern-mail/postern/mail"
)

// counts are kept for Stats.
type counts struct {
	queued, held                           atomic.Int64
	accepted, delivered, deferred, bounced atomic.Int64
	kept, unconfirmed                      atomic.Int64
}

// Stats tells how much is queued and what happened since the start.
type Stats struct {
	Messages int64 // queued, held ones included
	Held     int64
	Active   int // groups of recipients in memory
	InFlight int // deliveries under way
	// Since the start: messages accepted, reports included, and the outcomes
	// of attempts by recipient.
	Accepted  int64
	Delivered int64
	Deferred  int64
	Bounced   int64
	// Kept counts recipients whose message a node had and that was kept for its
	// partner; Unconfirmed those for whom that ended with the queue's patience.
	Kept, Unconfirmed int64
	// NoSpace: mail is put off for want of room on the disk. Full: for the
	// number of messages. Pressed: mail comes in faster than it goes out.
	NoSpace, Full, Pressed bool
	// Down lists the destinations that cannot be reached.
	Down []string
}

// Stats may be called at any time; it does not touch the store.
func (q *Queue) Stats() Stats {
	c := &q.counts
	s := Stats{
		Messages: c.queued.Load(), Held: c.held.Load(), Accepted: c.accepted.Load(),
		Delivered: c.delivered.Load(), Deferred: c.deferred.Load(), Bounced: c.bounced.Load(),
		Kept: c.kept.Load(), Unconfirmed: c.unconfirmed.Load(),
	}
	s.NoSpace, s.Full, s.Pressed = q.Full(), q.isFull(), q.Pressed()
	q.mu.Lock()
	defer q.mu.Unlock()
	s.Active, s.InFlight = q.schedule.groups, q.schedule.inFlight
	s.Down = q.schedule.unreachable()
	return s
}

// note logs, audits and counts the outcomes of an attempt, those that read the
// same in one line.
func (q *Queue) note(m *message, group int, to *destination, outcomes []mail.Outcome, took time.Duration) {
	for len(outcomes) > 0 {
		n := 1
		for n < len(outcomes) && sameOutcome(&outcomes[n], &outcomes[0]) {
			n++
		}
		q.noteRun(m, group, to.name, outcomes[:n], took)
		outcomes = outcomes[n:]
	}
}

func sameOutcome(a, b *mail.Outcome) bool {
	return a.Class == b.Class && a.Reply == b.Reply && a.Remote == b.Remote
}

func (q *Queue) noteRun(m *message, group int, destination string, outcomes []mail.Outcome, took time.Duration) {
	o := &outcomes[0]
	to := make([]mail.Address, len(outcomes))
	for i := range outcomes {
		to[i] = outcomes[i].Recipient
	}
	switch {
	case o.Kept():
		q.counts.kept.Add(int64(len(to)))
	case o.Class == mail.Delivered:
		q.counts.delivered.Add(int64(len(to)))
	case o.Class == mail.Deferred:
		q.counts.deferred.Add(int64(len(to)))
	case o.Class == mail.Bounced:
		q.counts.bounced.Add(int64(len(to)))
	}
	reply := o.Reply.String()
	q.tellFault(m, o)
	if q.log.IsInfo() {
		q.log.Info(resultOf(o), "qid", m.id, "from", m.envelope.ReversePath, "rcpt", to,
			"remote", o.Remote, "reply", reply, "dur", took)
	}
	q.audit(mail.Event{
		Kind: mail.EventDelivery, Result: resultOf(o), Queue: m.id, Delivery: deliveryID(m.id, group),
		From: &m.envelope.ReversePath, To: to, Peer: o.Remote, Reply: reply, TLS: o.TLS, Octets: m.ref.Octets, Duration: took, Destination: destination,
	})
}

// endLocked accounts for the end of a message, once.
func (q *Queue) endLocked(m *message) {
	if m.ended {
		return
	}
	m.ended = true
	q.counts.queued.Add(-1)
	if m.held {
		q.counts.held.Add(-1)
	}
	result := m.result
	if result == "" {
		result = m.outcome()
	}
	q.tellLost(m)
	q.tellEnd(m, result)
}

// tellEnd logs and audits that a message came to its end.
func (q *Queue) tellEnd(m *message, result string) {
	age := time.Since(m.arrived)
	q.log.Info("removed", "qid", m.id, "result", result, "dur", age)
	q.audit(mail.Event{
		Kind: mail.EventFinal, Result: result, Queue: m.id, From: &m.envelope.ReversePath,
		Octets: m.ref.Octets, Duration: age,
	})
}

// outcome is what became of a finished message as a whole.
func (m *message) outcome() string {
	for g := range m.work {
		if s := m.work[g].state; s != nil {
			for i := range s.recipients {
				if s.recipients[i].progress == failed {
					return mail.Bounced.String()
				}
			}
		}
	}
	return mail.Delivered.String()
}
