package queue

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/postern-mail/postern/mail"
	"github.com/postern-mail/postern/store"
	"github.com/postern-mail/postern/store/lease"
)

// A queue that several processes share is served shard by shard: whoever has the
// lease of a shard delivers what is in it and makes every change but additions,
// each guarded by the lease. A process whose lease is another's by now can still
// have delivered something, which then is delivered again under the same id; it
// cannot record anything, nor report. Anybody accepts messages for any shard:
// one for a shard of another's is left in that one's inbox.

// shareEvery is how often a process looks for shards to take, and into the
// inboxes of its own.
const shareEvery = time.Second

// ErrElsewhere means that another process serves the message.
var ErrElsewhere = errors.New("another process of this queue serves the message")

// errFenced means that a shard was lost while something was under way in it.
var errFenced = errors.New("the shard is another process's by now")

// guard lets b succeed only while the shard is this process's.
func (s *shard) guard(b *store.Batch) {
	if s.lease == nil {
		return
	}
	for i := range b.Ops {
		if s.lease.Guards(&b.Ops[i]) {
			return
		}
	}
	s.lease.Guard(b)
}

// open reports whether new work may begin in the shard.
func (s *shard) open() bool {
	return !s.lost && !s.leaving && (s.lease == nil || s.lease.Held())
}

// isShared reports whether other processes have the queue open too.
func (q *Queue) isShared() bool { return q.holder != nil }

// homeLocked returns the shard of a message if this process serves it.
func (q *Queue) homeLocked(number uint16) *shard {
	if s := q.served[number]; s != nil && s.open() {
		return s
	}
	return nil
}

// ownLocked lets b change m only while m's shard is this process's.
func (q *Queue) ownLocked(b *store.Batch, m *message) error {
	if m.home.lost {
		return errFenced
	}
	m.home.guard(b)
	return nil
}

// ownShard is ownLocked for a message that cannot be read.
func (q *Queue) ownShard(b *store.Batch, id mail.QueueID) error {
	q.mu.Lock()
	defer q.mu.Unlock()
	home := q.homeLocked(q.shards.of(id))
	if home == nil {
		return fmt.Errorf("%s: %w", id, ErrElsewhere)
	}
	home.guard(b)
	return nil
}

// isLost reports whether m's shard is another process's by now. Nobody holds on
// to m then.
func (q *Queue) isLost(m *message) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	return m.home.lost
}

// newIDLike returns a new id in the shard of another message, so that one
// commit of its owner may have both.
func (q *Queue) newIDLike(other mail.QueueID) mail.QueueID {
	id := NewID()
	for other != "" && q.shards.of(id) != q.shards.of(other) {
		id = NewID()
	}
	return id
}

// divideUp begins to serve: all shards, where nobody else has the store, whose
// leases of other times are void then; otherwise those that it gets in time.
func (q *Queue) divideUp(ctx context.Context) error {
	q.served = make([]*shard, q.shards)
	if q.cfg.Owner != "" {
		q.holder = lease.NewHolder(lease.Config{Prefix: holderPrefix(), Name: q.cfg.Owner}, q.deps.Store, q.log)
		return nil
	}
	for s := range q.served {
		q.served[s] = newShard(uint16(s))
	}
	lo, hi := kindRange('s')
	if err := lease.Seize(ctx, q.deps.Store, lo, hi); err != nil {
		return err
	}
	return q.clearInboxes(ctx)
}

// clearInboxes removes what others left for others: who serves everything finds
// all due entries anyway.
func (q *Queue) clearInboxes(ctx context.Context) error {
	lo, hi := kindRange('i')
	for {
		b := store.NewBatch()
		err := q.deps.Store.View(ctx, func(v store.Snapshot) error {
			for pair, err := range v.Range(lo, hi, store.MaxBatchOps, false) {
				if err != nil {
					return err
				}
				b.Delete(bytes.Clone(pair.Key))
			}
			return nil
		})
		if err != nil || len(b.Ops) == 0 {
			return err
		}
		if _, err := q.deps.Store.Commit(ctx, b); err != nil {
			return err
		}
	}
}

// share takes part in the sharing until ctx ends.
func (q *Queue) share(ctx context.Context) {
	wait := shareEvery / 10 // until the holder has shown itself
	for {
		select {
		case <-ctx.Done():
			return
		case <-time.After(wait):
		}
		wait = shareEvery
		if err := q.shareOnce(ctx); err != nil && ctx.Err() == nil {
			q.log.Warn("share the queue", "err", err)
		}
	}
}

func (q *Queue) shareOnce(ctx context.Context) error {
	q.dropLost()
	return errors.Join(q.balance(ctx), q.openInboxes(ctx), q.loadCounts(ctx))
}

// dropLost forgets the shards whose leases are lost.
func (q *Queue) dropLost() {
	q.mu.Lock()
	defer q.mu.Unlock()
	for _, s := range q.served {
		if s != nil && !s.lease.Held() {
			q.log.Warn("lost a shard of the queue", "shard", s.number, "epoch", s.lease.Epoch())
			q.loseLocked(s)
		}
	}
}

// confirm asks the store about every lease, after a commit was refused.
func (q *Queue) confirm(ctx context.Context) {
	for _, s := range q.servedNow() {
		if s.lease != nil {
			if err := s.lease.Confirm(ctx); err != nil && !errors.Is(err, lease.ErrFenced) {
				q.log.Warn("confirm a lease", "shard", s.number, "err", err)
			}
		}
	}
	if q.isShared() {
		q.dropLost()
	}
}

// loseLocked forgets everything about a shard, without touching the store.
// Deliveries under way are told to end, and nobody records how they went.
func (q *Queue) loseLocked(s *shard) {
	if s.lost {
		return
	}
	s.lost = true
	if s.stop != nil {
		s.stop()
	}
	if q.served[s.number] == s {
		q.served[s.number] = nil
	}
	for id, m := range q.active {
		if m.home != s {
			continue
		}
		delete(q.active, id)
		for g := range m.work {
			q.leaveLineLocked(m, g)
		}
	}
	q.dispatchLocked()
}

// balance takes shards that nobody serves, as far as they are this process's
// part, and gives back what is beyond it.
func (q *Queue) balance(ctx context.Context) error {
	living := q.holder.Living()
	part := (int(q.shards) + living - 1) / living
	q.mu.Lock()
	var mine, free []uint16
	for number, s := range q.served {
		switch {
		case s == nil:
			free = append(free, uint16(number))
		case !s.leaving:
			mine = append(mine, s.number)
		}
	}
	for ; len(mine) > part; mine = mine[1:] {
		q.served[mine[0]].leaving = true
	}
	q.mu.Unlock()
	if err := q.giveBack(ctx); err != nil {
		return err
	}
	for _, number := range free {
		if len(mine) >= part {
			break
		}
		got, err := q.acquire(ctx, number)
		if err != nil {
			return err
		}
		if got {
			mine = append(mine, number)
		}
	}
	return nil
}

// acquire begins to serve a shard, if nobody else does.
func (q *Queue) acquire(ctx context.Context, number uint16) (bool, error) {
	l, err := q.holder.Acquire(ctx, leaseKey(number))
	if errors.Is(err, lease.ErrHeld) || errors.Is(err, lease.ErrFenced) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("shard %d: %w", number, err)
	}
	s := newShard(number)
	s.lease = l
	q.mu.Lock()
	defer q.mu.Unlock()
	s.deliver, s.stop = context.WithCancel(q.deliver)
	q.served[number] = s
	q.crowded = false
	q.log.Info("serves a shard of the queue", "shard", number, "epoch", l.Epoch())
	q.poke()
	return true, nil
}

// giveBack releases the shards that are to be left, once nothing is under way in
// them.
func (q *Queue) giveBack(ctx context.Context) error {
	for _, s := range q.servedNow() {
		q.mu.Lock()
		ready := s.leaving && !q.busyLocked(s)
		if ready {
			q.loseLocked(s)
		}
		q.mu.Unlock()
		if !ready {
			continue
		}
		if err := s.lease.Release(ctx); err != nil {
			return err
		}
		q.log.Info("left a shard of the queue to others", "shard", s.number)
	}
	return nil
}

// busyLocked reports whether anything of a shard is under way.
func (q *Queue) busyLocked(s *shard) bool {
	for _, m := range q.active {
		if m.home != s {
			continue
		}
		if m.busy || m.reporting || m.graspedBy > 0 {
			return true
		}
		for g := range m.work {
			if p := m.work[g].place; p != idle && p != ready {
				return true
			}
		}
	}
	return false
}

// inboxAtOnce is how much of a shard's inbox is looked at in a round.
const inboxAtOnce = 200

// openInboxes has the keeper look at what others put into the shards that this
// process serves.
func (q *Queue) openInboxes(ctx context.Context) error {
	var all sync.WaitGroup
	defer all.Wait()
	for _, s := range q.servedNow() {
		var keys [][]byte
		earliest := time.Time{}
		err := q.deps.Store.View(ctx, func(v store.Snapshot) error {
			lo, hi := inboxRange(s.number)
			for pair, err := range v.Range(lo, hi, inboxAtOnce, false) {
				if err != nil {
					return err
				}
				keys = append(keys, bytes.Clone(pair.Key))
				if due := inboxDue(pair.Value); earliest.IsZero() || due.Before(earliest) {
					earliest = due
				}
			}
			return nil
		})
		if err != nil {
			return fmt.Errorf("inbox of shard %d: %w", s.number, err)
		}
		if len(keys) > 0 {
			all.Go(func() { q.takeIn(ctx, s, keys, earliest) })
		}
	}
	return nil
}

// takeIn empties an inbox: the due entries, from the earliest on, are what
// counts from now on.
func (q *Queue) takeIn(ctx context.Context, s *shard, keys [][]byte, earliest time.Time) {
	err := q.do(ctx, func(b *store.Batch) error {
		q.mu.Lock()
		defer q.mu.Unlock()
		if s.lost {
			return errFenced
		}
		s.guard(b)
		for _, key := range keys {
			b.Delete(key)
		}
		return nil
	}, func(err error) {
		if err == nil {
			q.mu.Lock()
			defer q.mu.Unlock()
			q.rewindLocked(dueTimeKey(s.number, earliest))
		}
	})
	if err != nil && !errors.Is(err, errFenced) && ctx.Err() == nil {
		q.log.Warn("open the inbox of a shard", "shard", s.number, "err", err)
	}
}

// Keys of sharing.

func leaseKey(shard uint16) []byte { return []byte{tag, 's', byte(shard >> 8), byte(shard)} }

func holderPrefix() []byte { return []byte{tag, 'w'} }

func inboxKey(shard uint16, id mail.QueueID) []byte {
	lo, _ := inboxRange(shard)
	return append(lo, id...)
}

func inboxRange(shard uint16) (lo, hi []byte) {
	lo = binary.BigEndian.AppendUint16([]byte{tag, 'i'}, shard)
	hi = binary.BigEndian.AppendUint16([]byte{tag, 'i'}, shard+1)
	return lo, hi
}

// inboxValue tells when the message in an inbox is due.
func inboxValue(due time.Time) []byte {
	return binary.BigEndian.AppendUint64(nil, uint64(max(due.UnixMilli(), 0)))
}

func inboxDue(value []byte) time.Time {
	if len(value) != 8 {
		return time.UnixMilli(0)
	}
	return time.UnixMilli(int64(binary.BigEndian.Uint64(value)))
}
