package queue

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/postern-mail/postern/mail"
	"github.com/postern-mail/postern/store"
)

// deleteDamaged removes the records of a damaged message. Its due entries go
// when the keeper comes upon them, and its body with them as far as the first
// record still tells which that is.
func (q *Queue) deleteDamaged(ctx context.Context, id mail.QueueID) error {
	var gone *message
	err := q.do(ctx, func(b *store.Batch) (err error) {
		if err := q.ownShard(b, id); err != nil {
			return err
		}
		if gone, err = q.bury(id); err != nil {
			return err
		}
		err = q.deps.Store.View(ctx, func(v store.Snapshot) error { return q.removeDamaged(b, v, gone) })
		if errors.Is(err, store.ErrNotFound) {
			return fmt.Errorf("%s: %w", id, ErrNoMessage)
		}
		return err
	}, func(err error) {
		if gone != nil {
			q.unearth(gone)
		}
		if err != nil {
			return
		}
		q.counts.queued.Add(-1)
		q.counts.held.Add(-gone.heldCount())
		q.mu.Lock()
		q.rewindLocked(dueTimeKey(gone.shard, time.UnixMilli(0)))
		q.mu.Unlock()
	})
	if err == nil {
		q.audit(mail.Event{Kind: mail.EventFinal, Result: resultDeleted, Queue: id, Detail: "damaged"})
	}
	return err
}

// bury puts a message that is removed in the place of a damaged one, so that a
// second command, which may share the commit of the first, finds none.
func (q *Queue) bury(id mail.QueueID) (*message, error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.active[id] != nil {
		return nil, fmt.Errorf("%s: %w", id, ErrNoMessage)
	}
	m := q.shards.newMessage(id, &record{})
	m.home, m.removed, m.graspedBy = q.served[m.shard], true, 1
	q.active[id] = m
	return m, nil
}

// unearth ends bury.
func (q *Queue) unearth(m *message) {
	q.mu.Lock()
	defer q.mu.Unlock()
	m.graspedBy--
	q.forgetIfIdleLocked(m)
}

// removeDamaged adds to b the end of what v shows of a damaged message, and
// notes in gone whether it was on hold.
func (q *Queue) removeDamaged(b *store.Batch, v store.Snapshot, gone *message) error {
	first, err := v.Get(messageKey(gone.id))
	if err != nil {
		return err
	}
	if rec, err := decodeMessage(first, nil); err == nil {
		q.deps.Blobs.Unlink(b, rec.ref)
	}
	_, err = v.Get(holdKey(gone.id))
	gone.held = err == nil
	count(b, gone.shard, -1, -gone.heldCount())
	b.Delete(messageKey(gone.id))
	b.Delete(holdKey(gone.id))
	b.DeleteRange(partRange(gone.id))
	b.DeleteRange(stateRange(gone.id))
	return nil
}
