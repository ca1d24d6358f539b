package queue

import (
	"bytes"
	"context"
	"errors"
	"time"

	"github.com/postern-mail/postern/mail"
	"github.com/postern-mail/postern/store"
)

// rewindLocked has the keeper look at the due index again from key on.
func (q *Queue) rewindLocked(key []byte) {
	if bytes.Compare(key, q.cursor) < 0 {
		q.cursor = key
	}
	q.nextDue, q.crowded, q.passedOver = time.Time{}, false, 0
	q.poke()
}

// noteDueLocked tells of a new due entry.
func (q *Queue) noteDueLocked(due time.Time, key []byte) {
	if bytes.Compare(key, q.cursor) < 0 {
		q.cursor = key
	}
	if due.Before(q.nextDue) {
		q.nextDue = due
		q.poke()
	}
}

// idleWait is the longest the keeper sleeps.
const idleWait = time.Minute

// load starts workers, brings some of what is due into memory, as far as it has
// room, and returns how long nothing more is to be done. Only the keeper calls
// it: what it reads cannot be changed by anybody else.
func (q *Queue) load(ctx context.Context) (wait time.Duration, err error) {
	now := time.Now()
	q.mu.Lock()
	q.schedule.wake(now)
	q.dispatchLocked()
	from, due := q.cursor, !q.crowded && !q.nextDue.After(now)
	q.mu.Unlock()
	if due {
		if err := q.loadFrom(ctx, from, now); err != nil {
			return time.Second, err
		}
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	until := now.Add(idleWait)
	if !q.crowded && q.nextDue.Before(until) {
		until = q.nextDue
	}
	if wake := q.schedule.nextWake; !wake.IsZero() && wake.Before(until) {
		until = wake
	}
	return max(time.Until(until), 0), nil
}

// loadFrom reads the due entries behind from and moves the cursor.
func (q *Queue) loadFrom(ctx context.Context, from []byte, now time.Time) error {
	var stale []dueEntry
	err := q.deps.Store.View(ctx, func(v store.Snapshot) error {
		n := 0
		for pair, err := range v.Range(from, dueEnd(), loadAtOnce+1, false) {
			if err != nil {
				return err
			}
			e, ok := parseDueKey(pair.Key)
			if !ok {
				q.log.Error("unreadable due entry", "key", pair.Key)
				continue
			}
			if n++; e.due.After(now) || n > loadAtOnce {
				q.passed(from, pair.Key, e.due)
				return nil
			}
			key := bytes.Clone(pair.Key)
			found, err := q.loadEntry(v, e, key)
			if errors.Is(err, store.ErrNotFound) {
				stale = append(stale, e)
				continue
			}
			if err != nil {
				q.log.Error("unreadable message", "qid", e.id, "err", err)
				continue
			}
			if q.crowd(from, key, found) {
				return nil
			}
		}
		q.passed(from, dueTimeKey(now), now.Add(idleWait))
		return nil
	})
	if err != nil || len(stale) == 0 {
		return err
	}
	return q.dropEntries(ctx, stale)
}

// passed moves the cursor from where the reading began to key, unless somebody
// moved it meanwhile, whose place is then read again.
func (q *Queue) passed(from, key []byte, due time.Time) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if bytes.Equal(q.cursor, from) {
		q.cursor = bytes.Clone(key)
		q.nextDue = due
	}
}

// room is what was found for the groups of a due entry.
type room int

const (
	roomFound   room = iota // or none was needed
	roomNotHere             // the destination's line is full
	roomNowhere             // memory is full
)

// crowd stops the loading at key when memory is full, or when so much was
// passed over that looking further costs more than it brings. It goes on when
// there is room again.
func (q *Queue) crowd(from, key []byte, found room) (stop bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	switch found {
	case roomFound:
		q.passedOver = 0
		return false
	case roomNotHere:
		if q.passedOver++; q.passedOver <= q.cfg.ActiveLimit {
			return false
		}
		q.crowded = true
	case roomNowhere:
		// Unless it became empty meanwhile, with nobody left to say so.
		q.crowded = q.schedule.groups > q.cfg.ActiveLimit/2
	}
	if bytes.Equal(q.cursor, from) {
		q.cursor = key
	}
	return true
}

// loadEntry brings the groups of one due entry into memory.
func (q *Queue) loadEntry(v store.Snapshot, e dueEntry, key []byte) (found room, err error) {
	q.mu.Lock()
	m := q.active[e.id]
	q.mu.Unlock()
	if m == nil {
		if m, err = q.read(v, e.id); err != nil {
			return roomFound, err
		}
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.active[e.id] == nil {
		q.active[e.id] = m
	}
	defer q.forgetIfIdleLocked(m)
	if m.busy || m.removed || m.held {
		return roomFound, nil
	}
	for g := range m.work {
		w := &m.work[g]
		if w.place != idle || w.finished || e.group != g && !(e.group == firstAttempt && w.state == nil) {
			continue
		}
		if w.state != nil && w.state.pending() == 0 {
			continue // only a report is owed
		}
		switch {
		case q.loadLocked(m, g, key):
		case q.schedule.groups >= q.cfg.ActiveLimit:
			return roomNowhere, nil
		default:
			found = roomNotHere
		}
	}
	q.reportIfOwedLocked(m)
	q.dispatchLocked()
	return found, nil
}

// read brings a message from the store, as it is there.
func (q *Queue) read(v store.Snapshot, id mail.QueueID) (*message, error) {
	first, err := v.Get(messageKey(id))
	if err != nil {
		return nil, err
	}
	parts := 0
	rec, err := decodeMessage(first, func(n int) ([]byte, error) {
		parts = n + 1
		return v.Get(partKey(id, n))
	})
	if err != nil {
		return nil, err
	}
	m := newMessage(id, rec)
	m.parts = parts
	if err := readStates(v, m); err != nil {
		return nil, err
	}
	switch _, err := v.Get(holdKey(id)); {
	case err == nil:
		m.held = true
	case !errors.Is(err, store.ErrNotFound):
		return nil, err
	}
	m.findEntries()
	return m, nil
}

func readStates(v store.Snapshot, m *message) error {
	lo, hi := stateRange(m.id)
	for pair, err := range v.Range(lo, hi, 0, false) {
		if err != nil {
			return err
		}
		g, ok := stateGroup(pair.Key)
		if !ok || g >= len(m.work) {
			return errRecord
		}
		s, err := decodeState(pair.Value, m.groups[g])
		if err != nil {
			return err
		}
		m.work[g].state = &s
		m.work[g].finished = s.finished()
	}
	return nil
}

// findEntries derives the due entries from the states: each group that was
// tried and is not finished has one at its time; the others share that of the
// first attempt.
func (m *message) findEntries() {
	if m.held {
		return
	}
	for g := range m.work {
		if w := &m.work[g]; m.untried(g) {
			m.untriedEntry = true
		} else if !w.finished {
			w.entry = w.state.due
		}
	}
}

// dropEntries removes due entries without a message.
func (q *Queue) dropEntries(ctx context.Context, entries []dueEntry) error {
	b := store.NewBatch()
	b.UseReserve = true
	for _, e := range entries {
		q.log.Warn("due entry without a message", "qid", e.id)
		b.Delete(dueKey(e))
	}
	return q.commit(ctx, b)
}
