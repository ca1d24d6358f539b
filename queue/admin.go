package queue

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/postern-mail/postern/mail"
	"github.com/postern-mail/postern/status"
	"github.com/postern-mail/postern/store"
)

// ErrNoMessage means that no message of that id is queued.
var ErrNoMessage = errors.New("no such message in the queue")

// ErrBusy means that a message is being delivered this moment.
var ErrBusy = errors.New("the message is being delivered now; try again")

// State is where a recipient's group stands.
type State string

// The states. Active is due or under way; incoming mail is active at once.
const (
	StateActive   State = "active"
	StateDeferred State = "deferred"
	StateHold     State = "hold"
)

// Entry is one queued message as operators see it.
type Entry struct {
	ID          mail.QueueID `json:"queue_id"`
	Arrived     time.Time    `json:"arrived"`
	Octets      int64        `json:"octets"`
	ReversePath mail.Address `json:"from"`
	Report      bool         `json:"report,omitempty"`
	Recipients  []Waiting    `json:"recipients"`
}

// Waiting is a recipient that is not yet delivered.
type Waiting struct {
	Address     mail.Address `json:"address"`
	Accepted    mail.Address `json:"accepted"`
	State       State        `json:"state"`
	Destination string       `json:"destination"`
	Attempts    int          `json:"attempts"`
	Due         time.Time    `json:"due,omitzero"`
	Reply       string       `json:"reply,omitempty"`
	Remote      string       `json:"remote,omitempty"`
}

// listPage is how many messages are read from one snapshot, so that listing a
// long queue pins none for long.
const listPage = 500

// List calls fn for each queued message, oldest first, until fn fails.
func (q *Queue) List(ctx context.Context, fn func(Entry) error) error {
	var after mail.QueueID
	for {
		var page []Entry
		err := q.Store.View(ctx, func(snap store.Snapshot) error {
			lo, hi := messageRange(after)
			for pair, err := range snap.Range(lo, hi, listPage, false) {
				if err != nil {
					return err
				}
				after = mail.QueueID(pair.Key[2:])
				entry, err := q.entry(snap, after, pair.Value)
				if err != nil {
					q.Log.Error("a queued message cannot be read", "qid", after, "err", err)
					continue
				}
				page = append(page, entry)
			}
			return nil
		})
		if err != nil {
			return fmt.Errorf("list queue: %w", err)
		}
		for _, entry := range page {
			if err := fn(entry); err != nil {
				return err
			}
		}
		if len(page) == 0 {
			return nil
		}
	}
}

// entry puts a message and its groups together.
func (q *Queue) entry(snap store.Snapshot, id mail.QueueID, record []byte) (Entry, error) {
	m, err := decodeMessage(id, record)
	if err != nil {
		return Entry{}, err
	}
	e := Entry{ID: id, Arrived: m.arrived, Octets: m.content.Octets, ReversePath: m.envelope.ReversePath, Report: m.report}
	lo, hi := groupRange(id)
	for pair, err := range snap.Range(lo, hi, 0, false) {
		if err != nil {
			return e, err
		}
		g, err := decodeGroup(pair.Value)
		if err != nil {
			return e, err
		}
		state := q.state(groupRef{id, groupOfKey(pair.Key)}, g)
		for _, r := range g.recipients {
			w := Waiting{Address: r.Address, Accepted: r.Accepted, State: state, Destination: g.destination,
				Attempts: g.attempts, Due: g.due, Remote: g.remote}
			if g.last.Code != 0 {
				w.Reply = g.last.String()
			}
			e.Recipients = append(e.Recipients, w)
		}
	}
	return e, nil
}

func (q *Queue) state(ref groupRef, g *group) State {
	switch {
	case g.held:
		return StateHold
	case q.ready.isPresent(ref) || !g.due.After(time.Now()):
		return StateActive
	default:
		return StateDeferred
	}
}

// Show returns one message and its content, which the caller closes.
func (q *Queue) Show(ctx context.Context, id mail.QueueID) (Entry, mail.Content, error) {
	var e Entry
	var ref store.Ref
	err := q.Store.View(ctx, func(snap store.Snapshot) error {
		record, err := snap.Get(messageKey(id))
		if err != nil {
			return err
		}
		m, err := decodeMessage(id, record)
		if err != nil {
			return err
		}
		ref = m.content
		e, err = q.entry(snap, id, record)
		return err
	})
	if errors.Is(err, store.ErrNotFound) {
		return e, nil, fmt.Errorf("%s: %w", id, ErrNoMessage)
	}
	if err != nil {
		return e, nil, fmt.Errorf("show %s: %w", id, err)
	}
	c, err := q.open(ctx, ref)
	return e, c, err
}

// Retry makes a message due now. Held groups stay held.
func (q *Queue) Retry(ctx context.Context, id mail.QueueID) error {
	return q.change(ctx, id, "retry", func(g *group) bool {
		if g.held {
			return false
		}
		g.due = time.Now()
		return true
	})
}

// RetryAll makes every deferred message due now, or those for one
// destination, and forgets which destinations did not answer. It returns how
// many messages it found.
func (q *Queue) RetryAll(ctx context.Context, destination string) (int, error) {
	q.ready.revive()
	var ids []mail.QueueID
	err := q.List(ctx, func(e Entry) error {
		for _, r := range e.Recipients {
			if r.State == StateDeferred && (destination == "" || r.Destination == destination || string(r.Address.Domain) == destination) {
				ids = append(ids, e.ID)
				return nil
			}
		}
		return nil
	})
	n := 0
	for _, id := range ids {
		if e := q.Retry(ctx, id); e == nil {
			n++
		} else if !errors.Is(e, ErrNoMessage) && !errors.Is(e, ErrBusy) {
			err = errors.Join(err, e)
		}
	}
	return n, err
}

// Hold keeps a message from delivery until Release.
func (q *Queue) Hold(ctx context.Context, id mail.QueueID) error {
	return q.change(ctx, id, "hold", func(g *group) bool {
		changed := !g.held
		g.held, g.due = true, time.Time{}
		return changed
	})
}

// Release ends a hold; the message is due now.
func (q *Queue) Release(ctx context.Context, id mail.QueueID) error {
	return q.change(ctx, id, "release", func(g *group) bool {
		if !g.held {
			return false
		}
		g.held, g.due = false, time.Now()
		return true
	})
}

// Delete takes a message off the queue without delivery and without telling
// its sender.
func (q *Queue) Delete(ctx context.Context, id mail.QueueID) error {
	mu := q.lockMessage(id)
	mu.Lock()
	defer mu.Unlock()
	m, groups, err := q.idle(ctx, id)
	if err != nil {
		return err
	}
	b := store.NewBatch()
	for ref, g := range groups {
		q.removeGroup(b, job{ref: ref, group: g})
	}
	q.removeMessage(b, m)
	if err := q.commit(ctx, b); err != nil {
		return fmt.Errorf("delete %s: %w", id, err)
	}
	q.auditAdmin(id, "delete")
	q.ended(m)
	return nil
}

// change applies f to every group of a message; f returns whether it changed
// anything.
func (q *Queue) change(ctx context.Context, id mail.QueueID, what string, f func(*group) bool) error {
	mu := q.lockMessage(id)
	mu.Lock()
	defer mu.Unlock()
	m, groups, err := q.idle(ctx, id)
	if err != nil {
		return err
	}
	b := store.NewBatch()
	due := make(map[groupRef]*group)
	for ref, g := range groups {
		before := g.due
		if !f(g) {
			continue
		}
		if !before.IsZero() {
			b.Delete(dueKey(before, ref.id, ref.group))
		}
		b.Put(groupKey(ref.id, ref.group), g.encode())
		if !g.held {
			b.Put(dueKey(g.due, ref.id, ref.group), nil)
			due[ref] = g
		}
	}
	if len(b.Ops) == 0 {
		return nil
	}
	if err := q.commit(ctx, b); err != nil {
		return fmt.Errorf("%s %s: %w", what, id, err)
	}
	q.auditAdmin(id, what)
	for ref, g := range due {
		q.ready.offer(ref, m, g)
	}
	return nil
}

// idle loads a message with all its groups, none of which is being delivered;
// those that waited in memory are taken out. The caller holds the lock.
func (q *Queue) idle(ctx context.Context, id mail.QueueID) (*message, map[groupRef]*group, error) {
	var m *message
	groups := make(map[groupRef]*group)
	err := q.Store.View(ctx, func(snap store.Snapshot) error {
		record, err := snap.Get(messageKey(id))
		if err != nil {
			return err
		}
		if m, err = decodeMessage(id, record); err != nil {
			return err
		}
		lo, hi := groupRange(id)
		for pair, err := range snap.Range(lo, hi, 0, false) {
			if err != nil {
				return err
			}
			g, err := decodeGroup(pair.Value)
			if err != nil {
				return err
			}
			groups[groupRef{id, groupOfKey(pair.Key)}] = g
		}
		return nil
	})
	if errors.Is(err, store.ErrNotFound) {
		return nil, nil, fmt.Errorf("%s: %w", id, ErrNoMessage)
	}
	if err != nil {
		return nil, nil, status.New(status.StoreDown, err)
	}
	for ref := range groups {
		if q.ready.isPresent(ref) && !q.ready.remove(ref) {
			q.reoffer(m, groups)
			return nil, nil, fmt.Errorf("%s: %w", id, ErrBusy)
		}
	}
	return m, groups, nil
}

// reoffer puts back what idle took out before it found a busy group.
func (q *Queue) reoffer(m *message, groups map[groupRef]*group) {
	for ref, g := range groups {
		if !g.held && !g.due.After(time.Now()) {
			q.ready.offer(ref, m, g)
		}
	}
}

func (q *Queue) auditAdmin(id mail.QueueID, what string) {
	q.Log.Info("queue changed by an operator", "qid", id, "action", what)
	if q.Audit != nil {
		q.Audit.Record(mail.Event{Kind: mail.EventQueueAdmin, Result: "ok", Reason: what, Queue: id})
	}
}
