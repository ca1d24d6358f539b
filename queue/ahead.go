package queue

import (
	"bytes"
	"context"
	"time"

	"github.com/postern-mail/postern/mail"
	"github.com/postern-mail/postern/store"
)

// What waits for its time is found in the order it is due in, and when memory
// is crowded the reading stops. What has a higher priority than usual must get
// in all the same: it has some room of its own (see schedule.room), its due
// entries are marked, and while memory is crowded the keeper goes on reading
// due entries, for those alone.

// dueMark is the value of the due entries of a message with a priority.
func dueMark(priority int8) []byte {
	if priority <= 0 {
		return nil
	}
	return []byte{byte(priority)}
}

// dueMark is the value of m's due entries.
func (m *message) dueMark() []byte { return dueMark(m.envelope.Priority) }

// aheadAtOnce is how many due entries are looked at in one view. Of most only
// the key is read.
const aheadAtOnce = 4096

// aheadWait is how long what comes due with a priority may wait while memory
// is crowded.
const aheadWait = time.Second

func (q *Queue) isCrowded() bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.crowded
}

// lookAhead has entries from key on looked at again.
func (s *shard) lookAhead(key []byte) {
	if bytes.Compare(key, s.ahead) < 0 {
		s.ahead = key
	}
}

// loadAllAhead is loadAhead for every shard.
func (q *Queue) loadAllAhead(ctx context.Context, now time.Time) (wait time.Duration, err error) {
	wait = aheadWait
	for _, s := range q.servedNow() {
		again, err := q.loadAhead(ctx, s, now)
		if err != nil {
			return wait, err
		}
		wait = min(wait, again)
	}
	return wait, nil
}

// loadAhead loads what is due in a shard with a priority behind the cursor, as
// far as there is room, and returns when to go on.
func (q *Queue) loadAhead(ctx context.Context, s *shard, now time.Time) (wait time.Duration, err error) {
	q.mu.Lock()
	if bytes.Compare(s.ahead, s.cursor) < 0 {
		s.ahead = s.cursor
	}
	from := s.ahead
	q.mu.Unlock()
	l := &loading{Queue: q, shard: s, from: from, now: now}
	next := dueTimeKey(s.number, now)
	err = q.deps.Store.View(ctx, func(v store.Snapshot) error {
		n := 0
		for pair, err := range v.Range(from, dueTimeKey(s.number, now.Add(time.Millisecond)), aheadAtOnce, false) {
			if err != nil {
				return err
			}
			if n++; n == aheadAtOnce {
				next, wait = bytes.Clone(pair.Key), -1
			}
			if len(pair.Value) == 0 {
				continue
			}
			e, ok := parseDueKey(pair.Key)
			if !ok {
				continue // told when the cursor comes there
			}
			key := bytes.Clone(pair.Key)
			if found, ok := l.load(v, e, key); ok && found == roomNowhere {
				next, wait = key, 0
				return nil
			}
		}
		return nil
	})
	if err != nil {
		return aheadWait, err
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	if bytes.Equal(s.ahead, from) && bytes.Compare(next, from) > 0 {
		s.ahead = next // nobody put anything before it meanwhile
	}
	if wait < 0 {
		return 0, nil
	}
	return aheadWait, nil
}

// SetPriority changes the priority of a message: of what is tried from now on.
func (q *Queue) SetPriority(ctx context.Context, id mail.QueueID, priority int8) error {
	return q.operate(ctx, id, "priority", func(b *store.Batch, m *message) error {
		if m.envelope.Priority == priority {
			return nil
		}
		var waiting []item
		for g := range m.work {
			if w := &m.work[g]; w.place == ready {
				it := item{m: m, group: g, to: w.to}
				q.schedule.remove(it)
				waiting = append(waiting, it)
			}
		}
		m.envelope.Priority = priority
		for _, it := range waiting {
			q.schedule.push(it)
		}
		q.writeMessageLocked(b, m)
		q.markEntriesLocked(b, m)
		q.dispatchLocked()
		return nil
	})
}

// markEntriesLocked writes the due entries anew.
func (q *Queue) markEntriesLocked(b *store.Batch, m *message) {
	if m.untriedEntry {
		b.Put(m.untriedKey(), m.dueMark())
	}
	for g := range m.work {
		if !m.work[g].entry.IsZero() {
			b.Put(m.entryKey(g), m.dueMark())
		}
	}
}
