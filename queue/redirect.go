package queue

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/postern-mail/postern/mail"
	"github.com/postern-mail/postern/status"
	"github.com/postern-mail/postern/store"
)

// Redirection is where recipients of queued mail shall go instead.
type Redirection struct {
	// Route is their new target and next hop, when To is zero. They keep their
	// attempts, and the message its age.
	Route mail.Route
	// To is the address that gets the message instead of them, once, however
	// many they are; nobody who has got the message gets it again.
	To mail.Address
	// Pick tells which of the recipients that still wait are meant; nil for all
	// of them.
	Pick func(Recipient) bool
}

// Redirected counts the recipients of a message that a redirection moved.
type Redirected struct {
	Moved int
	// UnderWay are those that were being delivered: who is not reached by that
	// delivery is moved in the commit that records it. Should the process end
	// before, they stay as they were.
	UnderWay int
}

// ErrNobody means that a command found no recipient to do something to.
var ErrNobody = errors.New("no recipient like that is waiting")

// Redirect sends recipients of a message elsewhere, in one commit, and has
// them tried there at once; on hold they wait for Release.
func (q *Queue) Redirect(ctx context.Context, id mail.QueueID, to Redirection) (n Redirected, err error) {
	r := &redirection{Route: to.Route, to: to.To, pick: to.Pick}
	if r.by = strings.TrimSuffix(r.Transport+"/"+r.NextHop, "/"); !r.to.IsNull() {
		r.by = r.to.Path()
		if r.found, err = q.resolveOne(ctx, r.to); err != nil {
			return n, err
		}
	}
	err = q.operate(ctx, id, "redirect to "+r.by, func(b *store.Batch, m *message) error {
		n, err = q.redirectLocked(b, m, r)
		return err
	})
	if err != nil {
		return Redirected{}, err
	}
	return n, nil
}

// redirection is a Redirection that is ready to be done.
type redirection struct {
	mail.Route
	to    mail.Address
	found []mail.Recipient // who To stands for
	by    string           // what it is called
	pick  func(Recipient) bool
}

// resolveOne asks who an address stands for; one that is not ours, or nobody's
// any more, stands for itself.
func (q *Queue) resolveOne(ctx context.Context, a mail.Address) ([]mail.Recipient, error) {
	itself := []mail.Recipient{{Address: a, Accepted: a}}
	if q.deps.Recipients == nil {
		return itself, nil
	}
	found, err := q.deps.Recipients.Resolve(ctx, a)
	if err != nil && !status.Of(err).Permanent() {
		return nil, fmt.Errorf("resolve %s: %w", a, err)
	}
	if err != nil || len(found) == 0 {
		return itself, nil
	}
	return found, nil
}

func (q *Queue) redirectLocked(b *store.Batch, m *message, r *redirection) (n Redirected, err error) {
	for g, was := 0, len(m.groups); g < was; g++ {
		picked := q.pickLocked(m, g, r.pick)
		switch w := &m.work[g]; {
		case len(picked) == 0:
		case w.isUnderWay():
			later := *r
			later.pick = only(m.groups[g], picked)
			w.after = append(w.after, &later)
			n.UnderWay += len(picked)
		default:
			if err := q.moveLocked(b, m, g, r, picked); err != nil {
				return n, err
			}
			n.Moved += len(picked)
		}
	}
	if n == (Redirected{}) {
		return n, ErrNobody
	}
	return n, nil
}

// pickLocked returns the indices of those in group g who wait and are meant.
func (q *Queue) pickLocked(m *message, g int, pick func(Recipient) bool) (picked []int) {
	destination := q.destinationOf(m, g)
	for i := range m.groups[g] {
		if m.waits(g, i) && !m.isKeptFor(g, i) && (pick == nil || pick(q.describeRecipientLocked(m, g, i, destination))) {
			picked = append(picked, i)
		}
	}
	return picked
}

// only picks the same recipients again.
func only(recipients []mail.Recipient, picked []int) func(Recipient) bool {
	addresses := make(map[mail.Address]bool, len(picked))
	for _, i := range picked {
		addresses[recipients[i].Address] = true
	}
	return func(r Recipient) bool { return addresses[r.Address] }
}

// waits reports whether recipient i of group g is still to be delivered.
func (m *message) waits(g, i int) bool {
	w := &m.work[g]
	return !w.finished && (w.state == nil || w.state.recipients[i].progress == pending)
}

// destinationOf names where a group goes: where those go who wait.
func (q *Queue) destinationOf(m *message, g int) string {
	first := 0
	for i := range m.groups[g] {
		if m.waits(g, i) {
			first = i
			break
		}
	}
	return q.deps.Transport.Destination(m.envelope.ReversePath, m.groups[g][first])
}

// moveLocked redirects recipients of a group that is not being delivered.
func (q *Queue) moveLocked(b *store.Batch, m *message, g int, r *redirection, picked []int) error {
	q.leaveLineLocked(m, g)
	now := time.Now()
	if !r.to.IsNull() {
		return q.moveToAddressLocked(b, m, g, r, picked, now)
	}
	if len(picked) == m.waiting(g) {
		// The group keeps its number: a delivery whose reply was lost is known
		// by it to whoever has seen it.
		m.reroute(g, r.Route, picked)
		q.writeMessageLocked(b, m)
		if w := &m.work[g]; w.state != nil {
			w.state.due = now
			q.storeLocked(b, m, g)
		}
		return nil
	}
	apart := m.split(g, r.Route, picked, now)
	m.leave(g, picked, "redirected to "+r.by, now)
	q.writeMessageLocked(b, m)
	q.storeLocked(b, m, apart)
	q.storeLocked(b, m, g)
	return nil
}

// waiting counts who is still to be delivered in group g.
func (m *message) waiting(g int) int {
	switch w := &m.work[g]; {
	case w.finished:
		return 0
	case w.state == nil:
		return len(m.groups[g])
	default:
		return w.state.pending()
	}
}

// reroute gives recipients of group g another route. Deliveries have the old
// list, which stays as it is.
func (m *message) reroute(g int, to mail.Route, picked []int) {
	recipients := append([]mail.Recipient(nil), m.groups[g]...)
	for _, i := range picked {
		recipients[i].Route = to
	}
	m.setGroup(g, recipients)
}

// setGroup changes a group. Groups are shared with nobody who holds on to them
// without the lock, but for the lists themselves.
func (m *message) setGroup(g int, recipients []mail.Recipient) {
	groups := append([][]mail.Recipient(nil), m.groups...)
	groups[g] = recipients
	m.groups = groups
}

// addGroup appends a group and returns its number.
func (m *message) addGroup(recipients []mail.Recipient) int {
	m.groups = append(m.groups[:len(m.groups):len(m.groups)], recipients)
	m.work = append(m.work, group{})
	m.grown = true
	return len(m.groups) - 1
}

// split makes a group of its own of recipients of group g, with the attempts
// and outcomes that they have behind them.
func (m *message) split(g int, to mail.Route, picked []int, now time.Time) int {
	recipients := make([]mail.Recipient, len(picked))
	s := newGroupState(len(picked))
	s.due = now
	old := m.work[g].state
	for n, i := range picked {
		recipients[n] = m.groups[g][i]
		recipients[n].Route = to
		if old != nil {
			s.recipients[n] = old.recipients[i]
		}
	}
	if old != nil {
		s.attempts, s.warned = old.attempts, old.warned
	}
	apart := m.addGroup(recipients)
	m.work[apart].state = &s
	return apart
}

// leave marks recipients of a group as gone elsewhere: nobody owes their sender
// a report on them here.
func (m *message) leave(g int, picked []int, text string, now time.Time) {
	w := &m.work[g]
	if w.state == nil {
		s := newGroupState(len(m.groups[g]))
		w.state = &s
	}
	reply := status.MessageAccepted.Reply()
	reply.Text = text
	for _, i := range picked {
		w.state.recipients[i] = recipientState{
			progress: delivered, moved: true,
			last: mail.Outcome{Recipient: m.groups[g][i].Address, Class: mail.Delivered, Reply: reply, At: now},
		}
	}
	w.state.due = now
	w.finished = w.state.finished()
}

// moveToAddressLocked gives the message to who an address stands for instead
// of the recipients picked.
func (q *Queue) moveToAddressLocked(b *store.Batch, m *message, g int, r *redirection, picked []int, now time.Time) error {
	first := m.groups[g][picked[0]]
	m.leave(g, picked, "redirected to "+r.by, now)
	envelope := mail.Envelope{ReversePath: m.envelope.ReversePath}
	for _, f := range r.found {
		if !m.has(f.Address) {
			f.Accepted, f.Original, f.Notify = first.Accepted, first.Original, first.Notify
			envelope.Recipients = append(envelope.Recipients, f)
		}
	}
	groups, err := q.divide(&envelope)
	if err != nil {
		return err
	}
	for _, recipients := range groups {
		m.addGroup(recipients)
	}
	if len(groups) > 0 {
		q.writeMessageLocked(b, m)
		q.ensureUntriedLocked(b, m)
	} else if m.finished() {
		m.result = resultRedirected
	}
	q.storeLocked(b, m, g)
	return nil
}

const resultRedirected = "redirected"

// has reports whether the message was delivered to an address or will be.
func (m *message) has(a mail.Address) bool {
	for g, recipients := range m.groups {
		for i := range recipients {
			if recipients[i].Address.Fold() != a.Fold() {
				continue
			}
			s := m.work[g].state
			if s == nil || s.recipients[i].progress != failed && !s.recipients[i].moved {
				return true
			}
		}
	}
	return false
}

// ensureUntriedLocked gives groups that were added their due entry.
func (q *Queue) ensureUntriedLocked(b *store.Batch, m *message) {
	if !m.held && !m.untriedEntry {
		m.untriedEntry = true
		b.Put(m.untriedKey(), m.dueMark())
	}
}

// writeMessageLocked adds to b the message's record as it is by now.
func (q *Queue) writeMessageLocked(b *store.Batch, m *message) {
	first, parts := encodeMessage(m.record)
	b.Put(messageKey(m.id), first)
	for i, p := range parts {
		b.Put(partKey(m.id, i), p)
	}
	for i := len(parts); i < m.parts; i++ {
		b.Delete(partKey(m.id, i))
	}
	m.parts = len(parts)
}

// leaveLineLocked takes a group that is in line out of it.
func (q *Queue) leaveLineLocked(m *message, g int) {
	w := &m.work[g]
	if w.place != ready {
		return
	}
	q.schedule.remove(item{m: m, group: g, to: w.to})
	w.place = idle
	m.moving--
	q.refillLocked(w.to)
}

// afterLocked does to a group what operators wanted while it was being
// delivered, to those whom the delivery did not reach.
func (q *Queue) afterLocked(b *store.Batch, m *message, g int) {
	after := m.work[g].after
	m.work[g].after = nil
	for _, r := range after {
		picked := q.pickLocked(m, g, r.pick)
		if len(picked) == 0 {
			continue
		}
		if err := q.moveLocked(b, m, g, r, picked); err != nil {
			q.log.Error("redirect after a delivery", "qid", m.id, "to", r.by, "err", err)
		}
	}
}
