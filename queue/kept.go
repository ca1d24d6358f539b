package queue

import (
	"time"

	"github.com/postern-mail/postern/mail"
)

// A message may be kept although its next hop has it: until that has it on two
// machines (mail.Outcome.Kept). To its sender it is delivered: there is no
// warning, and when its lifetime ends before that is confirmed, no report
// either. What the next hop said last stands in the record of the recipient's
// last outcome, with what the transport needs to ask.

// The first question comes this soon after a message was taken; each of the
// next ones after about as long as the message was kept by then.
const (
	firstQuestion = 100 * time.Millisecond
	lastQuestion  = time.Minute
)

// kept returns the outcomes of those who are pending, the zero Outcome for who
// is not kept; nil when nobody is.
func (s *groupState) kept() []mail.Outcome {
	var list []mail.Outcome
	n := 0
	for i := range s.recipients {
		r := &s.recipients[i]
		if r.progress != pending {
			continue
		}
		if r.last.Kept() {
			for len(list) < n {
				list = append(list, mail.Outcome{})
			}
			list = append(list, r.last)
		}
		n++
	}
	for list != nil && len(list) < n {
		list = append(list, mail.Outcome{})
	}
	return list
}

// onlyKept reports whether somebody is pending, and the message kept for all
// who are.
func (s *groupState) onlyKept() bool {
	any := false
	for i := range s.recipients {
		if r := &s.recipients[i]; r.progress == pending {
			if !r.last.Kept() {
				return false
			}
			any = true
		}
	}
	return any
}

// learn takes in an outcome. Once a next hop has the message, that it or
// another could not be asked takes nothing back.
func (r *recipientState) learn(o mail.Outcome) {
	if r.last.Kept() && o.Class != mail.Delivered && !o.Kept() {
		return
	}
	r.last = o
}

// isLate reports whether the recipient waits for the message.
func (r *recipientState) isLate() bool { return r.progress == pending && !r.last.Kept() }

// expire ends the attempts at a recipient who is pending.
func (r *recipientState) expire(m *record, notify mail.Notify) {
	if !r.last.Kept() {
		r.progress = failed
		return
	}
	r.progress = delivered
	r.owed = m.wantsSuccess(notify, r.last)
}

// nextQuestion returns when to ask again after those for whom the message is
// kept, at the end of its lifetime at the latest.
func (s *groupState) nextQuestion(end, now time.Time, jitter float64) time.Time {
	wait := lastQuestion
	for i := range s.recipients {
		if r := &s.recipients[i]; r.progress == pending {
			wait = min(wait, max(now.Sub(r.last.At), 0))
		}
	}
	next := now.Add(max(wait, firstQuestion) + time.Duration(jitter*float64(wait)/5))
	if next.After(end) {
		return end
	}
	return next
}

// news returns the outcomes of an attempt that tell something new: not that
// those for whom the message is kept are still waited for.
func (s *groupState) news(outcomes []mail.Outcome) []mail.Outcome {
	if s == nil {
		return outcomes
	}
	before := s.kept()
	if before == nil {
		return outcomes
	}
	var list []mail.Outcome
	for i := range outcomes {
		o := &outcomes[i]
		if i >= len(before) || !before[i].Kept() || o.Class == mail.Delivered || o.Kept() && o.Reply != before[i].Reply {
			list = append(list, *o)
		}
	}
	return list
}

// resultOf is what an outcome is called.
func resultOf(o *mail.Outcome) string {
	if o.Kept() {
		return resultKept
	}
	return o.Class.String()
}

const (
	resultKept        = "kept"
	resultUnconfirmed = "unconfirmed"
)

// noteUnconfirmed tells of those for whom the message was kept to the end: the
// node that took it has it, and whether its partner does nobody said.
func (q *Queue) noteUnconfirmed(m *message, g int) {
	var to []mail.Address
	var last *mail.Outcome
	for i := range m.work[g].state.recipients {
		if r := &m.work[g].state.recipients[i]; r.progress == delivered && r.last.Kept() {
			to, last = append(to, m.groups[g][i].Address), &r.last
			r.last.Class = mail.Delivered
		}
	}
	if last == nil {
		return
	}
	q.counts.unconfirmed.Add(int64(len(to)))
	q.log.Warn("delivered, but not known to be on both nodes of the pair; the copy kept for that is given up",
		"qid", m.id, "from", m.envelope.ReversePath, "rcpt", to, "remote", last.Remote)
	q.audit(mail.Event{
		Kind: mail.EventDelivery, Result: resultUnconfirmed, Queue: m.id, Delivery: deliveryID(m.id, g),
		From: &m.envelope.ReversePath, To: to, Peer: last.Remote, Reply: last.Reply.String(), Octets: m.ref.Octets,
		Detail: "the partner's copy was not confirmed before the message was given up",
	})
}

// isKeptFor reports whether recipient i of group g has the message at a node
// that wants it kept.
func (m *message) isKeptFor(g, i int) bool {
	s := m.work[g].state
	return s != nil && s.recipients[i].progress == pending && s.recipients[i].last.Kept()
}

// isKept reports whether the message waits for nothing but that.
func (m *message) isKept() bool {
	any := false
	for g := range m.work {
		if m.work[g].finished {
			continue
		}
		if s := m.work[g].state; s == nil || !s.onlyKept() {
			return false
		}
		any = true
	}
	return any
}
