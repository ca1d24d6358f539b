package queue

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/postern-mail/postern/mail"
	"github.com/postern-mail/postern/store"
)

// ErrNoMessage means that no message has the queue id.
var ErrNoMessage = errors.New("no such message in the queue")

// State is where a message is, as operators see it.
type State string

// The states of a message.
const (
	StateActive   State = "active"   // being tried, or in line to be
	StateDeferred State = "deferred" // waits: for its next attempt, or for a destination that was out of reach
	StateKept     State = "kept"     // delivered, and kept until the partner of the node that has it has it, too
	StateHeld     State = "hold"
	StateDamaged  State = "damaged" // cannot be read; only Delete does anything
)

// Message describes a queued message.
type Message struct {
	ID           mail.QueueID
	State        State
	Arrived      time.Time
	Octets       int64
	Envelope     mail.Envelope // without recipients
	ReceivedFrom string
	Recipients   []Recipient
	Expired      bool   // given up by an operator while a delivery was under way
	Damage       string // what is wrong with a damaged message, of which all else is empty
}

// Recipient describes one recipient of a queued message.
type Recipient struct {
	mail.Recipient
	Destination string
	Delivery    string // the id of the delivery
	Done        bool   // delivered, redirected, or failed and not yet reported
	Moved       bool   // redirected or requeued: somebody else gets the message instead
	Attempts    int
	Next        time.Time // of the next attempt; zero when done or held
	// Last is the outcome of the last attempt; its At is zero before the
	// first. While a destination is paused it holds what failed there.
	Last mail.Outcome
}

// Filter selects messages. The zero Filter selects all; of several fields all
// must hold.
type Filter struct {
	State       State
	Destination string
	Sender      *mail.Address
	Recipient   *mail.Address
}

// listAtOnce is how many messages one view of a listing reads.
const listAtOnce = 200

// List yields the messages that f selects, oldest first. The listing is
// consistent within each message, not among them. An error ends it.
func (q *Queue) List(ctx context.Context, f Filter) iter.Seq2[Message, error] {
	return func(yield func(Message, error) bool) {
		from, end := kindRange('m')
		for from != nil {
			page, next, err := q.page(ctx, from, end)
			if err != nil {
				yield(Message{}, err)
				return
			}
			for _, m := range page {
				if f.selects(&m) && !yield(m, nil) {
					return
				}
			}
			from = next
		}
	}
}

func (q *Queue) page(ctx context.Context, from, end []byte) (page []Message, next []byte, err error) {
	err = q.deps.Store.View(ctx, func(v store.Snapshot) error {
		all, err := readPage(v, from, end, listAtOnce)
		if err != nil {
			return err
		}
		ids := all.ids
		for _, id := range ids {
			m, err := q.look(all, id)
			if err != nil {
				return fmt.Errorf("read %s: %w", id, err)
			}
			page = append(page, m)
		}
		if len(ids) == listAtOnce {
			next = append(messageKey(ids[len(ids)-1]), 0)
		}
		return nil
	})
	return page, next, err
}

// look reads and describes one message, also a damaged one.
func (q *Queue) look(v store.Snapshot, id mail.QueueID) (Message, error) {
	m, err := q.shards.readMessage(v, id)
	if errors.Is(err, errRecord) {
		return Message{ID: id, State: StateDamaged, Damage: err.Error()}, nil
	}
	if err != nil {
		return Message{}, err
	}
	return q.describe(m), nil
}

// Show describes one message. ErrNoMessage when there is none.
func (q *Queue) Show(ctx context.Context, id mail.QueueID) (shown Message, err error) {
	err = q.deps.Store.View(ctx, func(v store.Snapshot) (err error) {
		shown, err = q.look(v, id)
		return err
	})
	if errors.Is(err, store.ErrNotFound) {
		err = fmt.Errorf("%s: %w", id, ErrNoMessage)
	}
	return shown, err
}

// Content returns the octets of a queued message; the caller closes it.
func (q *Queue) Content(ctx context.Context, id mail.QueueID) (mail.Content, error) {
	var ref store.Ref
	err := q.deps.Store.View(ctx, func(v store.Snapshot) error {
		m, err := q.shards.readMessage(v, id)
		if err == nil {
			ref = m.ref
		}
		return err
	})
	if errors.Is(err, store.ErrNotFound) {
		return nil, fmt.Errorf("%s: %w", id, ErrNoMessage)
	}
	if err != nil {
		return nil, err
	}
	return q.open(ctx, ref)
}

// describe tells of a message as stored, with what memory knows of its place.
func (q *Queue) describe(m *message) Message {
	q.mu.Lock()
	defer q.mu.Unlock()
	d := Message{
		ID: m.id, State: StateDeferred, Arrived: m.arrived, Octets: m.ref.Octets,
		Envelope: m.envelope, ReceivedFrom: m.receivedFrom, Expired: m.expired,
	}
	switch {
	case m.held:
		d.State = StateHeld
	case m.isKept():
		d.State = StateKept
	case q.movesLocked(m.id):
		d.State = StateActive
	}
	for g, recipients := range m.groups {
		destination := q.destinationOf(m, g)
		for i := range recipients {
			d.Recipients = append(d.Recipients, q.describeRecipientLocked(m, g, i, destination))
		}
	}
	return d
}

// describeRecipientLocked describes recipient i of group g.
func (q *Queue) describeRecipientLocked(m *message, g, i int, destination string) Recipient {
	shown := Recipient{Recipient: m.groups[g][i], Destination: destination, Delivery: deliveryID(m.id, g)}
	if s := m.work[g].state; s != nil {
		shown.Attempts, shown.Last, shown.Moved = s.attempts, s.recipients[i].last, s.recipients[i].moved
		shown.Done, shown.Next = s.recipients[i].progress != pending, s.due
	} else {
		shown.Next = m.arrived
	}
	if to := q.schedule.lines[destination]; to != nil && to.failures > 0 && !shown.Done && shown.Attempts == 0 {
		shown.Last, shown.Next = to.last, to.pausedUntil
	}
	if shown.Done || m.held {
		shown.Next = time.Time{}
	}
	return shown
}

// movesLocked reports whether any group of a message is being tried, or may be
// as soon as its turn comes.
func (q *Queue) movesLocked(id mail.QueueID) bool {
	m := q.active[id]
	if m == nil || m.moving == 0 {
		return false
	}
	for g := range m.work {
		switch m.work[g].place {
		case inFlight, settling, settled:
			return true
		case ready:
			if !time.Now().Before(m.work[g].to.pausedUntil) {
				return true
			}
		}
	}
	return false
}

func (f Filter) selects(m *Message) bool {
	if f.State != "" && f.State != m.State || f.Sender != nil && *f.Sender != m.Envelope.ReversePath {
		return false
	}
	if f.Destination == "" && f.Recipient == nil {
		return true
	}
	for i := range m.Recipients {
		r := &m.Recipients[i]
		if (f.Destination == "" || r.Destination == f.Destination) && (f.Recipient == nil || r.Address == *f.Recipient) {
			return true
		}
	}
	return false
}

// Retry has a deferred message tried at once. A message on hold stays there.
func (q *Queue) Retry(ctx context.Context, id mail.QueueID) error {
	return q.operate(ctx, id, "retry", func(b *store.Batch, m *message) error {
		if m.held {
			return nil
		}
		for g := range m.groups {
			q.schedule.revive(q.destinationOf(m, g))
			q.advanceLocked(b, m, g)
		}
		return nil
	})
}

// RetryAll has every deferred message that f selects tried at once, those to
// destinations that are down included, and returns how many these were.
func (q *Queue) RetryAll(ctx context.Context, f Filter) (int, error) {
	q.mu.Lock()
	q.schedule.revive(f.Destination)
	q.mu.Unlock()
	q.poke()
	return q.each(ctx, f, q.Retry)
}

// Hold keeps a message from being tried until Release; a delivery under way
// ends as it may.
func (q *Queue) Hold(ctx context.Context, id mail.QueueID) error {
	return q.operate(ctx, id, "hold", func(b *store.Batch, m *message) error {
		if m.held {
			return nil
		}
		m.held = true
		q.counts.held.Add(1)
		count(b, m.shard, 0, 1)
		b.Put(holdKey(m.id), nil)
		if m.untriedEntry {
			b.Delete(m.untriedKey())
			m.untriedEntry = false
		}
		for g := range m.work {
			q.clearEntryLocked(b, m, g)
		}
		return nil
	})
}

// Release ends a hold; the message is tried at once.
func (q *Queue) Release(ctx context.Context, id mail.QueueID) error {
	return q.operate(ctx, id, "release", func(b *store.Batch, m *message) error {
		if !m.held {
			return nil
		}
		q.endHoldLocked(b, m)
		for g := range m.work {
			q.advanceLocked(b, m, g)
		}
		return nil
	})
}

// endHoldLocked ends a hold, if there is one. What is untried is due then.
func (q *Queue) endHoldLocked(b *store.Batch, m *message) {
	if !m.held {
		return
	}
	m.held = false
	q.counts.held.Add(-1)
	count(b, m.shard, 0, -1)
	b.Delete(holdKey(m.id))
	for g := range m.work {
		if m.untried(g) && !m.untriedEntry {
			m.untriedEntry = true
			b.Put(m.untriedKey(), m.dueMark())
		}
	}
}

// Delete removes a message without delivery or report. A delivery under way
// may still succeed. Of a damaged message it removes what is to be found.
func (q *Queue) Delete(ctx context.Context, id mail.QueueID) error {
	err := q.operate(ctx, id, "delete", func(b *store.Batch, m *message) error {
		m.result = resultDeleted
		q.removeLocked(b, m)
		return nil
	})
	if errors.Is(err, errRecord) {
		return q.deleteDamaged(ctx, id)
	}
	return err
}

const resultDeleted = "deleted"

// HoldAll, ReleaseAll and DeleteAll do for every message that f selects what
// the singular does, and return for how many.
func (q *Queue) HoldAll(ctx context.Context, f Filter) (int, error) { return q.each(ctx, f, q.Hold) }

// ReleaseAll: see HoldAll.
func (q *Queue) ReleaseAll(ctx context.Context, f Filter) (int, error) {
	return q.each(ctx, f, q.Release)
}

// DeleteAll: see HoldAll.
func (q *Queue) DeleteAll(ctx context.Context, f Filter) (int, error) {
	return q.each(ctx, f, q.Delete)
}

// eachAtOnce is how many operations wait for the keeper together, so that they
// share its commits.
const eachAtOnce = 64

// each does one thing to every selected message. Those that have left the
// queue meanwhile do not count, and damaged ones are left alone.
func (q *Queue) each(ctx context.Context, f Filter, one func(context.Context, mail.QueueID) error) (int, error) {
	var done atomic.Int64
	group, within := errgroup.WithContext(ctx)
	group.SetLimit(eachAtOnce)
	for m, err := range q.List(within, f) {
		if err != nil {
			group.Go(func() error { return err })
			break
		}
		if m.State == StateDamaged {
			continue
		}
		group.Go(func() error {
			err := one(within, m.ID)
			if err == nil {
				done.Add(1)
			} else if errors.Is(err, ErrNoMessage) {
				err = nil
			}
			return err
		})
	}
	err := group.Wait()
	return int(done.Load()), err
}

// advanceLocked makes a group that was tried due now. One that is in line
// needs its due entry too: for the next start, should this one end first.
func (q *Queue) advanceLocked(b *store.Batch, m *message, g int) {
	w := &m.work[g]
	if w.finished || w.state == nil {
		return
	}
	w.state.due = time.Now()
	q.storeLocked(b, m, g)
}

// operate has the keeper do an operator's bidding on a message, which it brings
// into memory for that. An act that returns an error has changed nothing.
func (q *Queue) operate(ctx context.Context, id mail.QueueID, action string, act func(b *store.Batch, m *message) error) error {
	return q.operateThen(ctx, id, action, act, func(error) {})
}

// operateThen is operate with something to do once the writes are durable, or
// known not to be.
func (q *Queue) operateThen(ctx context.Context, id mail.QueueID, action string, act func(b *store.Batch, m *message) error, then func(error)) error {
	var m *message
	err := q.do(ctx, func(b *store.Batch) (err error) {
		if m, err = q.grasp(ctx, id); err != nil {
			return err
		}
		q.mu.Lock()
		if err = q.ownLocked(b, m); err == nil {
			err = act(b, m)
		}
		q.mu.Unlock()
		if err != nil {
			q.letGo(m)
		}
		return err
	}, func(err error) {
		then(err)
		if err == nil {
			q.letGo(m)
		}
	})
	result := "ok"
	if err != nil {
		result = err.Error()
	}
	q.audit(mail.Event{Kind: mail.EventQueueAdmin, Result: result, Queue: id, Detail: action})
	return err
}

// grasp returns a message, from memory or from the store, and keeps it in
// memory. Only the keeper calls it.
func (q *Queue) grasp(ctx context.Context, id mail.QueueID) (*message, error) {
	q.mu.Lock()
	m := q.active[id]
	q.mu.Unlock()
	if m == nil {
		err := q.deps.Store.View(ctx, func(v store.Snapshot) (err error) {
			m, err = q.shards.readMessage(v, id)
			return err
		})
		if errors.Is(err, store.ErrNotFound) {
			return nil, fmt.Errorf("%s: %w", id, ErrNoMessage)
		}
		if err != nil {
			return nil, err
		}
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	if m.removed || m.busy {
		return nil, fmt.Errorf("%s: %w", id, ErrNoMessage)
	}
	if m.home == nil {
		m.home = q.homeLocked(m.shard)
	}
	if m.home == nil || !m.home.open() {
		return nil, fmt.Errorf("%s: %w", id, ErrElsewhere)
	}
	q.active[id] = m
	m.graspedBy++
	return m, nil
}

// letGo schedules what an operation made due.
func (q *Queue) letGo(m *message) {
	q.mu.Lock()
	defer q.mu.Unlock()
	m.graspedBy--
	switch {
	case m.removed:
		q.endLocked(m)
	case !m.held:
		q.recallLocked(m)
	}
	q.forgetIfIdleLocked(m)
	q.poke()
}

// recallLocked has the keeper look at all due entries of m again.
func (q *Queue) recallLocked(m *message) {
	m.grown = false
	if m.untriedEntry {
		q.rewindLocked(m.untriedKey())
	}
	for g := range m.work {
		if w := &m.work[g]; w.place == idle && !w.entry.IsZero() {
			q.rewindLocked(m.entryKey(g))
		}
	}
}
