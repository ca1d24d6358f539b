package queue

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/postern-mail/postern/mail"
	"github.com/postern-mail/postern/store"
)

// rewindLocked has the keeper look at the due index again from key on.
func (q *Queue) rewindLocked(key []byte) {
	s := q.served[shardOfDue(key)]
	if s == nil {
		return
	}
	s.lookAhead(key)
	if bytes.Compare(key, s.cursor) < 0 {
		s.cursor = key
	}
	s.nextDue, q.crowded, q.passedOver = time.Time{}, false, 0
	q.poke()
}

// noteDueLocked tells of a new due entry.
func (q *Queue) noteDueLocked(due time.Time, key []byte) {
	s := q.served[shardOfDue(key)]
	if s == nil {
		return
	}
	s.lookAhead(key)
	if bytes.Compare(key, s.cursor) < 0 {
		s.cursor = key
	}
	if due.Before(s.nextDue) {
		s.nextDue = due
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
	for _, s := range q.served {
		if s != nil && s.unread != nil && !now.Before(s.unreadAt) {
			q.rewindLocked(s.unread)
			s.unread = nil
		}
	}
	q.schedule.wake(now)
	q.dispatchLocked()
	s := q.nextShardLocked(now)
	var from []byte
	if s != nil {
		from = s.cursor
	}
	q.mu.Unlock()
	if s != nil {
		if err := q.loadFrom(ctx, s, from, now); err != nil {
			return time.Second, err
		}
	}
	until := now.Add(idleWait)
	if q.isCrowded() {
		wait, err := q.loadAllAhead(ctx, now)
		if err != nil {
			return time.Second, err
		}
		until = now.Add(wait)
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	for _, s := range q.served {
		if s != nil && !s.leaving && !q.crowded && s.nextDue.Before(until) {
			until = s.nextDue
		}
	}
	if wake := q.schedule.nextWake; !wake.IsZero() && wake.Before(until) {
		until = wake
	}
	return max(time.Until(until), 0), nil
}

// nextShardLocked returns the next shard, going round them, with something due
// behind its cursor; nil for none, or when memory has no room.
func (q *Queue) nextShardLocked(now time.Time) *shard {
	if q.crowded {
		return nil
	}
	for i := range q.served {
		number := (int(q.lastRead) + 1 + i) % len(q.served)
		if s := q.served[number]; s != nil && !s.leaving && !s.nextDue.After(now) {
			q.lastRead = uint16(number)
			return s
		}
	}
	return nil
}

// loading is one reading of a shard's due index.
type loading struct {
	*Queue
	shard *shard
	from  []byte
	now   time.Time
	stale []dueEntry // without a message
}

// loadFrom reads the due entries of a shard behind from and moves its cursor.
func (q *Queue) loadFrom(ctx context.Context, s *shard, from []byte, now time.Time) error {
	l := &loading{Queue: q, shard: s, from: from, now: now}
	err := q.deps.Store.View(ctx, func(v store.Snapshot) error {
		if crowded, err := l.due(v); crowded || err != nil {
			return err
		}
		return l.farAhead(v)
	})
	if err != nil || len(l.stale) == 0 {
		return err
	}
	return l.dropStale(ctx)
}

// due loads what is due. It reports whether memory was too small for that.
func (l *loading) due(v store.Snapshot) (crowded bool, err error) {
	n := 0
	for pair, err := range v.Range(l.from, dueEnd(l.shard.number), loadAtOnce+1, false) {
		if err != nil {
			return false, err
		}
		e, ok := parseDueKey(pair.Key)
		if !ok {
			l.log.Error("unreadable due entry", "key", pair.Key)
			continue
		}
		if n++; e.due.After(l.now) || n > loadAtOnce {
			l.passed(pair.Key, e.due)
			return false, nil
		}
		key := bytes.Clone(pair.Key)
		if found, ok := l.load(v, e, key); ok && l.crowd(key, found) {
			return true, nil
		}
	}
	l.passed(dueTimeKey(l.shard.number, l.now), l.now.Add(idleWait))
	return false, nil
}

// farAhead loads what would be due later than anything is ever planned: a
// clock that was ahead has planned it, and to wait for that time could mean
// years.
func (l *loading) farAhead(v store.Snapshot) error {
	from := dueTimeKey(l.shard.number, l.now.Add(2*l.cfg.MaximalBackoff))
	for pair, err := range v.Range(from, dueEnd(l.shard.number), loadAtOnce, false) {
		if err != nil {
			return err
		}
		e, ok := parseDueKey(pair.Key)
		if !ok {
			continue
		}
		if found, ok := l.load(v, e, bytes.Clone(pair.Key)); ok && found == roomNowhere {
			return nil
		}
	}
	return nil
}

// load loads one entry; ok is false when there is nothing to load.
func (l *loading) load(v store.Snapshot, e dueEntry, key []byte) (found room, ok bool) {
	found, err := l.loadEntry(v, e, key)
	switch {
	case err == nil:
		return found, true
	case errors.Is(err, store.ErrNotFound):
		l.stale = append(l.stale, e)
	case errors.Is(err, errRecord):
		l.log.Error("damaged message", "qid", e.id, "err", err)
	default:
		l.log.Error("read message", "qid", e.id, "err", err)
		l.notRead(key)
	}
	return found, false
}

// notRead has an entry whose message the store did not give read again in a
// while; meanwhile the others go on.
func (l *loading) notRead(key []byte) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if s := l.shard; s.unread == nil || bytes.Compare(key, s.unread) < 0 {
		s.unread = key
	}
	l.shard.unreadAt = l.now.Add(idleWait)
}

// passed moves the cursor from where the reading began to key, unless somebody
// moved it meanwhile, whose place is then read again.
func (l *loading) passed(key []byte, due time.Time) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if bytes.Equal(l.shard.cursor, l.from) {
		l.shard.cursor = bytes.Clone(key)
		l.shard.nextDue = due
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
func (l *loading) crowd(key []byte, found room) (stop bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	switch found {
	case roomFound:
		l.passedOver = 0
		return false
	case roomNotHere:
		if l.passedOver++; l.passedOver <= l.cfg.ActiveLimit {
			return false
		}
		l.crowded = true
	case roomNowhere:
		// Unless it became empty meanwhile, with nobody left to say so.
		l.crowded = l.schedule.groups > l.cfg.ActiveLimit/2
	}
	if bytes.Equal(l.shard.cursor, l.from) {
		l.shard.cursor = key
	}
	return true
}

// loadEntry brings the groups of one due entry into memory.
func (l *loading) loadEntry(v store.Snapshot, e dueEntry, key []byte) (found room, err error) {
	l.mu.Lock()
	m := l.active[e.id]
	l.mu.Unlock()
	if m == nil {
		if m, err = l.shards.readMessage(v, e.id); err != nil {
			return roomFound, err
		}
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.shard.open() {
		return roomFound, nil
	}
	if l.active[e.id] == nil {
		m.home = l.shard
		l.active[e.id] = m
	}
	defer l.forgetIfIdleLocked(m)
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
		case l.loadLocked(m, g, key):
		case l.schedule.groups >= l.cfg.ActiveLimit:
			return roomNowhere, nil
		default:
			found = roomNotHere
		}
	}
	l.reportIfOwedLocked(m)
	l.dispatchLocked()
	return found, nil
}

// readMessage brings a message from the store, as it is there: store.ErrNotFound
// when there is none, errRecord when what is there makes no sense.
func (n shards) readMessage(v store.Snapshot, id mail.QueueID) (*message, error) {
	first, err := v.Get(messageKey(id))
	if err != nil {
		return nil, err
	}
	parts := 0
	rec, err := decodeMessage(first, func(part int) ([]byte, error) {
		parts = part + 1
		octets, err := v.Get(partKey(id, part))
		if errors.Is(err, store.ErrNotFound) {
			// Not the absence of the message: that would be forgotten.
			err = fmt.Errorf("%w: part %d is missing", errRecord, part)
		}
		return octets, err
	})
	if err != nil {
		return nil, err
	}
	m := n.newMessage(id, rec)
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

// dropStale removes due entries without a message.
func (l *loading) dropStale(ctx context.Context) error {
	b := store.NewBatch()
	b.UseReserve = true
	l.shard.guard(b)
	for _, e := range l.stale {
		l.log.Warn("due entry without a message", "qid", e.id)
		b.Delete(dueKey(e))
	}
	return l.commit(ctx, b)
}
