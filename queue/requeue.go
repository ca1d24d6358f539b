package queue

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/postern-mail/postern/mail"
	"github.com/postern-mail/postern/store"
)

// Requeued tells of a message that was queued anew.
type Requeued struct {
	// ID is the new message; "" when nobody was left to get one, because those
	// whom the old one stands for by now have it.
	ID mail.QueueID
	// UnderWay counts recipients who were being delivered: they stay with the
	// old message.
	UnderWay int
}

// Requeue makes a new message of the recipients who still wait, as if it had
// come just now from where the old one did: what they were named in RCPT is
// resolved and routed anew, with no attempts behind it. The new message comes
// and the old one's part ends in one commit, and the body is not copied.
// Nobody who has the message, or to whom it is being delivered, is in the new
// one. A message on hold is again on hold. An error of the directory leaves
// everything as it was.
func (q *Queue) Requeue(ctx context.Context, id mail.QueueID) (Requeued, error) {
	old, err := q.Show(ctx, id)
	if err != nil {
		return Requeued{}, err
	}
	if old.State == StateDamaged {
		return Requeued{}, fmt.Errorf("%s is damaged: %s", id, old.Damage)
	}
	a := &anew{Queue: q, resolved: make(map[mail.Address][]mail.Recipient)}
	for i := range old.Recipients {
		r := &old.Recipients[i]
		if _, known := a.resolved[r.Accepted]; known || r.Done {
			continue
		}
		if a.resolved[r.Accepted], err = q.resolveOne(ctx, r.Accepted); err != nil {
			return Requeued{}, err
		}
	}
	// A commit that failed for want of the body would leave the old message as
	// one that is gone.
	if err := q.hasBody(ctx, id); err != nil {
		return Requeued{}, err
	}
	a.id = q.newIDLike(id)
	err = q.operateThen(ctx, id, "requeue as "+string(a.id), a.addLocked, a.done)
	if err != nil {
		return Requeued{}, err
	}
	return a.result, nil
}

// hasBody returns an error when the content of a message cannot be opened.
func (q *Queue) hasBody(ctx context.Context, id mail.QueueID) error {
	content, err := q.Content(ctx, id)
	if err != nil {
		return fmt.Errorf("the content of %s: %w", id, err)
	}
	return content.Close()
}

// anew is one requeueing.
type anew struct {
	*Queue
	id       mail.QueueID
	resolved map[mail.Address][]mail.Recipient // by what RCPT named
	m        *message                          // the new one; nil for none
	old      *message
	result   Requeued
}

// addLocked adds to b the new message and the end of the old one's part in it.
func (a *anew) addLocked(b *store.Batch, m *message) error {
	a.old = m
	leaving, recipients := a.gather(m)
	if len(leaving) == 0 {
		if a.result.UnderWay > 0 {
			return errors.New("it is being delivered at this moment; see what comes of that first")
		}
		return ErrNobody
	}
	text := "nobody is left to get it"
	if len(recipients) > 0 {
		if err := a.addNew(b, m, recipients); err != nil {
			return err
		}
		text = "requeued as " + string(a.id)
	}
	now := time.Now()
	for g, picked := range leaving {
		a.leaveLineLocked(m, g)
		m.leave(g, picked, text, now)
	}
	if m.finished() {
		m.result = resultRequeued
	}
	for g := range leaving {
		if !m.removed {
			a.storeLocked(b, m, g)
		}
	}
	return nil
}

const resultRequeued = "requeued"

// gather returns who leaves m, by group, and who takes their place.
func (a *anew) gather(m *message) (leaving map[int][]int, recipients []mail.Recipient) {
	leaving = make(map[int][]int)
	for g := range m.groups {
		w := &m.work[g]
		for i := range m.groups[g] {
			_, known := a.resolved[m.groups[g][i].Accepted]
			switch {
			case !m.waits(g, i) || m.isKeptFor(g, i) || !known:
			case w.isUnderWay():
				a.result.UnderWay++
			default:
				leaving[g] = append(leaving[g], i)
			}
		}
	}
	taken := m.staying(leaving)
	for g := range m.groups {
		for _, i := range leaving[g] {
			old := &m.groups[g][i]
			for _, r := range a.resolved[old.Accepted] {
				if key := r.Address.Fold(); !taken[key] {
					taken[key] = true
					r.Accepted, r.Original, r.Notify = old.Accepted, old.Original, old.Notify
					recipients = append(recipients, r)
				}
			}
		}
	}
	return leaving, recipients
}

// staying returns the addresses that have m, or get it from it, apart from
// those who leave.
func (m *message) staying(leaving map[int][]int) map[mail.Address]bool {
	have := make(map[mail.Address]bool)
	for g, recipients := range m.groups {
		leave := leaving[g]
		for i := range recipients {
			if len(leave) > 0 && leave[0] == i {
				leave = leave[1:]
				continue
			}
			if s := m.work[g].state; s == nil || !s.recipients[i].moved && s.recipients[i].progress != failed {
				have[recipients[i].Address.Fold()] = true
			}
		}
	}
	return have
}

// addNew adds to b the new message, known to the keeper as one that is being
// accepted.
func (a *anew) addNew(b *store.Batch, m *message, recipients []mail.Recipient) error {
	envelope := m.envelope
	envelope.Recipients = recipients
	groups, err := a.divide(&envelope)
	if err != nil {
		return err
	}
	envelope.Recipients = nil
	n := a.shards.newMessage(a.id, &record{
		arrived: time.Now().Truncate(time.Millisecond), ref: m.ref,
		envelope: envelope, receivedFrom: m.receivedFrom, groups: groups,
	})
	n.held = m.held
	if err := a.addRecord(b, n); err != nil {
		return err
	}
	a.deps.Blobs.Share(b, m.ref)
	n.busy = true
	n.home = m.home
	a.active[n.id] = n
	a.m, a.result.ID = n, n.id
	return nil
}

// done tells of the requeueing, when it is durable, and schedules the new
// message.
func (a *anew) done(err error) {
	if a.m == nil {
		return
	}
	if err != nil {
		a.withdraw(a.m)
		return
	}
	a.log.Info("requeued", "qid", a.old.id, "as", a.id)
	a.counts.accepted.Add(1)
	var to []mail.Address
	for _, recipients := range a.m.groups {
		to = append(to, addresses(recipients)...)
	}
	a.audit(mail.Event{
		Kind: mail.EventAccept, Result: acceptResult(a.m.held), Service: "requeue", Queue: a.id,
		From: &a.m.envelope.ReversePath, To: to, Octets: a.m.ref.Octets, Detail: "requeue of " + string(a.old.id),
	})
	a.activate(a.m)
}
