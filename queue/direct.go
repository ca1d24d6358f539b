package queue

import (
	"context"
	"slices"
	"strings"
	"time"

	"github.com/postern-mail/postern/mail"
	"github.com/postern-mail/postern/status"
	"github.com/postern-mail/postern/store"
)

// Direct is a Transport with next hops that take mail while the client waits
// for its answer: those that are near, and drop a delivery whose id they have
// seen.
type Direct interface{ Direct(destination string) bool }

// A client waits for a next hop before the queue takes its message: for
// directPatience, and a second more for each directPace octets, which have to be
// sent and stored, but never so long that it gives up itself (RFC 5321 section
// 4.5.3.2.6 asks ten minutes of it; many wait for five).
const (
	directPatience    = 30 * time.Second
	directPace        = 512 << 10
	maxDirectPatience = 4 * time.Minute
)

// patience is how long a next hop may take with a message of so many octets.
func patience(octets int64) time.Duration {
	return min(directPatience+time.Duration(octets/directPace)*time.Second, maxDirectPatience)
}

// Submit takes responsibility for a message as Accept does, but brings it to
// its next hop first where that is Direct: a message taken there needs no
// record here. delivered tells that somebody has it there. What is not settled by the one
// attempt is queued with what was learnt, under the same delivery id, so that
// a next hop that has the message though its reply was lost keeps one.
//
// An error whose Remote is set is the next hop's refusal, for good, for every
// recipient: nothing was stored and nobody will be told but the client. Other
// errors are Accept's, and the same holds of them. A message on hold, one that
// asks for a report of success and one for several destinations go through
// the queue.
func (q *Queue) Submit(ctx context.Context, s Submission) (delivered bool, err error) {
	m, err := q.newMessage(s)
	if err != nil {
		s.Content.Discard()
		return false, err
	}
	var to *destination
	if len(s.Expanded) == 0 {
		to = q.beginDirect(m)
	}
	if to == nil {
		return false, q.take(ctx, m, s)
	}
	started := time.Now()
	outcomes := q.deliverDirect(ctx, m, s.Content)
	q.endDirect(item{m: m, group: 0, to: to}, outcomes, time.Since(started))
	if !tried(outcomes) {
		// Nobody was reached, or not even called: that counts as no attempt.
		return false, q.take(ctx, m, s)
	}
	if refusal := refusedByAll(outcomes, m.envelope.SMTPUTF8); refusal != nil {
		s.Content.Discard()
		q.note(m, 0, to, outcomes, time.Since(started))
		return false, refusal
	}
	if !q.settledDirect(m, outcomes) {
		err := q.take(ctx, m, s)
		if err == nil {
			q.note(m, 0, to, outcomes, time.Since(started))
		}
		return false, err
	}
	s.Content.Discard()
	q.counts.accepted.Add(1)
	q.auditAccept(m, s)
	q.note(m, 0, to, outcomes, time.Since(started))
	q.tellEnd(m, m.outcome())
	return slices.ContainsFunc(outcomes, func(o mail.Outcome) bool { return o.Class == mail.Delivered }), nil
}

// beginDirect returns the destination that takes m now, or nil when m has to
// be queued.
func (q *Queue) beginDirect(m *message) *destination {
	direct, ok := q.deps.Transport.(Direct)
	if !ok || m.held || len(m.groups) != 1 {
		return nil
	}
	for i := range m.groups[0] {
		if m.groups[0][i].Notify&mail.NotifySuccess != 0 {
			return nil
		}
	}
	name := q.deps.Transport.Destination(m.envelope.ReversePath, m.groups[0][0])
	if !direct.Direct(name) {
		return nil
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	if !q.running {
		return nil
	}
	return q.schedule.begin(name, time.Now())
}

// deliverDirect makes the attempt, with the id that those of the queue would
// have.
func (q *Queue) deliverDirect(ctx context.Context, m *message, body store.Staged) []mail.Outcome {
	ctx, cancel := context.WithTimeout(ctx, patience(m.ref.Octets))
	defer cancel()
	d := mail.Delivery{
		QueueID: m.id, ID: deliveryID(m.id, 0), Envelope: m.envelope, Octets: m.ref.Octets, Attempt: 1,
		Open: func() (mail.Content, error) { return opened(body.Open()) },
	}
	d.Envelope.Recipients = m.groups[0]
	return q.deliverSafely(ctx, d, q.deps.Transport.Deliver)
}

// endDirect tells the schedule how the destination did. One that has nothing to
// say for so long is as good as out of reach: the next clients do not wait.
func (q *Queue) endDirect(it item, outcomes []mail.Outcome, took time.Duration) {
	c := contactOf(outcomes)
	if took >= patience(it.m.ref.Octets) && outcomes[0].Class == mail.Deferred {
		c = unreachable
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	q.schedule.done(it, c, outcomes[0], time.Now(), jitter())
	if c == unreachable {
		q.poke() // the end of the pause is the keeper's
	}
	q.refillLocked(it.to)
	q.dispatchLocked()
}

// tried reports whether the next hop had a say in the outcomes.
func tried(outcomes []mail.Outcome) bool {
	for i := range outcomes {
		if o := &outcomes[i]; o.Class != mail.Deferred || o.Uncertain || o.FromPeer && !o.Reply.Closes() {
			return true
		}
	}
	return false
}

// settledDirect applies the outcomes to m, which nobody else knows of yet, and
// reports whether nothing is left to do.
func (q *Queue) settledDirect(m *message, outcomes []mail.Outcome) bool {
	if m.allDone(m.groups[0], outcomes) {
		return true
	}
	state := newGroupState(len(m.groups[0]))
	state.settle(m.record, m.groups[0], outcomes, q.rules(m), time.Now(), jitter())
	m.work[0].state = &state
	m.work[0].finished = state.finished()
	return m.work[0].finished
}

// refusedByAll returns the refusal that the client gets when every recipient
// was refused for good: the first one's.
func refusedByAll(outcomes []mail.Outcome, smtpUTF8 bool) error {
	for i := range outcomes {
		if outcomes[i].Class != mail.Bounced {
			return nil
		}
	}
	return &status.Error{Reason: status.RemoteReply, Remote: passedOn(outcomes[0].Reply, smtpUTF8)}
}

// passedOn makes a next hop's refusal one of ours: with an enhanced status code
// (RFC 2034 section 4), not so long that a client could choke on it, and about
// a message: where the next hop takes no mail at all (521, RFC 7504) we do. To a
// client without SMTPUTF8 a reply is ASCII (RFC 6531 section 3.7.4.2); what
// that cannot hold is written as in reports.
func passedOn(r status.Reply, smtpUTF8 bool) *status.Reply {
	if r.Closes() {
		r.Code = status.PolicyReject.Reply().Code
	}
	if r.Enhanced[0] == 0 {
		r.Enhanced = [3]int{r.Code / 100, 0, 0}
	}
	r.Text = strings.ToValidUTF8(r.Text, "?")
	if !smtpUTF8 {
		r.Text = mail.EscapeNonASCII(r.Text)
	}
	r.Text = strings.ToValidUTF8(r.Text[:min(len(r.Text), maxPassedOctets)], "")
	return &r
}

// maxPassedOctets leaves room for the codes in a reply line of RFC 5321 section
// 4.5.3.1.5.
const maxPassedOctets = 490
