package queue

import (
	"context"
	"errors"
	"time"

	"github.com/postern-mail/postern/mail"
	"github.com/postern-mail/postern/store"
)

// change is one step of a message, made by the keeper.
type change struct {
	// prepare adds to b what the change writes. It sees every earlier change,
	// in memory if not yet in the store. An error ends the change.
	prepare func(b *store.Batch) error
	// done is told when the writes are durable, or why there are none.
	done func(error)
	// outcomeOf is the message of which this records an outcome, which has
	// happened whatever the store says: it is recorded later then. nil for
	// changes that may as well fail.
	outcomeOf *message
	// moot is what done is told when the message has come to its end before
	// that; nil for success.
	moot error
}

// postponed is a change whose writes the store refused.
type postponed struct {
	until  time.Time
	change *change
}

// Bounds of what the keeper commits at once.
const (
	maxChanges      = 128
	maxChangeOps    = store.MaxBatchOps / 2
	maxChangeOctets = store.MaxBatchOctets / 2
)

// loadAtOnce is how many due entries are read in one view.
const loadAtOnce = 256

// Run schedules and delivers until ctx ends; then it waits for the deliveries
// under way, at most the grace time, and records how they went. It is called
// once.
func (q *Queue) Run(ctx context.Context) error {
	if q.started.Swap(true) {
		return errors.New("queue: already running")
	}
	deliver, stop := context.WithCancel(context.WithoutCancel(ctx))
	defer stop()
	q.mu.Lock()
	q.running, q.deliver = true, deliver
	for _, s := range q.served {
		if s != nil {
			s.deliver = deliver
		}
	}
	q.dispatchLocked()
	q.mu.Unlock()
	q.workers.Go(func() { q.sendNotices(ctx) })

	endSharing := q.startSharing(ctx)
	q.keep(ctx)

	q.mu.Lock()
	q.running = false
	q.mu.Unlock()
	q.drain(stop)
	close(q.stopped) // the sharing may wait for an answer of the keeper
	return endSharing()
}

// startSharing shares the queue, if it is shared. The returned function gives
// all shards back.
func (q *Queue) startSharing(ctx context.Context) (end func() error) {
	if !q.isShared() {
		return func() error { return nil }
	}
	alive, leave := context.WithCancel(context.WithoutCancel(ctx))
	left := make(chan error, 1)
	go func() { left <- q.holder.Run(alive) }()
	shared := make(chan struct{})
	go func() {
		defer close(shared)
		q.share(ctx)
	}()
	return func() error {
		<-shared
		leave()
		err := <-left
		q.mu.Lock()
		defer q.mu.Unlock()
		for _, s := range q.served {
			if s != nil {
				q.loseLocked(s)
			}
		}
		return err
	}
}

// keep is the keeper. What has happened is recorded also while ctx ends: the
// mail would go out twice otherwise.
func (q *Queue) keep(ctx context.Context) {
	q.ending = ctx.Done()
	record := context.WithoutCancel(ctx)
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case c := <-q.changes:
			q.change(record, c)
		case <-q.kick:
		case <-timer.C:
		}
		q.retryPostponed(record, time.Now())
		q.deferDoomed(ctx, record)
		wait, err := q.load(ctx)
		if err != nil && ctx.Err() == nil {
			q.log.Error("read the queue", "err", err)
		}
		timer.Reset(wait)
	}
}

// drain lets deliveries under way end and records their outcomes.
func (q *Queue) drain(stop context.CancelFunc) {
	q.ending = nil // from now on the time below is the limit
	grace := time.AfterFunc(q.cfg.Grace, stop)
	defer grace.Stop()
	ended := make(chan struct{})
	go func() {
		q.workers.Wait()
		close(ended)
	}()
	// What cannot be recorded by the end of the grace time is tried again at
	// the next start, under the same delivery id.
	ctx, cancel := context.WithTimeout(context.Background(), q.cfg.Grace+drainCommit)
	defer cancel()
	for {
		select {
		case c := <-q.changes:
			q.change(ctx, c)
			continue
		case <-ended:
		}
		select {
		case c := <-q.changes:
			q.change(ctx, c)
		default:
			q.retryPostponed(ctx, time.Now().Add(2*idleWait))
			return
		}
	}
}

// drainCommit is the time for the last commits once deliveries were cancelled.
const drainCommit = 5 * time.Second

// change makes c and whatever other changes wait already.
func (q *Queue) change(ctx context.Context, c *change) {
	taken := []*change{c}
	for len(taken) < maxChanges {
		select {
		case c := <-q.changes:
			taken = append(taken, c)
			continue
		default:
		}
		break
	}
	q.changeAll(ctx, taken)
}

// changeAll makes changes, in order, in as few commits as the limits of a batch
// allow.
func (q *Queue) changeAll(ctx context.Context, changes []*change) {
	var group []*change
	var batches []*store.Batch
	octets, ops := 0, 0
	flush := func() {
		q.commitAll(ctx, group, batches)
		group, batches, octets, ops = nil, nil, 0, 0
	}
	for _, c := range changes {
		b := store.NewBatch()
		b.UseReserve = true
		if err := c.prepare(b); err != nil {
			c.done(err)
			continue
		}
		size := batchOctets(b)
		if len(group) > 0 && (ops+len(b.Ops) > maxChangeOps || octets+size > maxChangeOctets) {
			flush()
		}
		group, batches = append(group, c), append(batches, b)
		octets, ops = octets+size, ops+len(b.Ops)
	}
	flush()
}

func batchOctets(b *store.Batch) (n int) {
	for i := range b.Ops {
		n += len(b.Ops[i].Key) + len(b.Ops[i].Value)
	}
	return n
}

// commitAll commits the batches as one. Should the store refuse that for a
// reason of its own, each is tried alone, so that one cannot hold up the rest.
func (q *Queue) commitAll(ctx context.Context, changes []*change, batches []*store.Batch) {
	if len(changes) == 0 {
		return
	}
	whole := batches[0]
	for _, b := range batches[1:] {
		if whole == batches[0] {
			whole = store.NewBatch()
			whole.UseReserve = true
			whole.Ops = append(whole.Ops, batches[0].Ops...)
			whole.Before = append(whole.Before, batches[0].Before...)
		}
		whole.Ops = append(whole.Ops, b.Ops...)
		whole.Before = append(whole.Before, b.Before...)
	}
	whole.Ops = foldCounts(whole.Ops)
	err := q.commit(ctx, whole)
	if err != nil && len(changes) > 1 && !lasting(err) && ctx.Err() == nil {
		for i, c := range changes {
			q.finish(c, batches[i], q.confirmed(ctx, q.commit(ctx, batches[i])))
		}
		return
	}
	err = q.confirmed(ctx, err)
	for i, c := range changes {
		q.finish(c, batches[i], err)
	}
}

// finish tells how c went, or has an outcome recorded later that the store
// refused for a reason of its own.
func (q *Queue) finish(c *change, b *store.Batch, err error) {
	m := c.outcomeOf
	if err == nil || m == nil || lasting(err) || q.isLost(m) {
		c.done(err)
		return
	}
	q.log.Error("outcome is recorded later", "qid", m.id, "err", err)
	q.mu.Lock()
	for g := range m.work {
		if m.work[g].place == settled {
			m.work[g].place = settling // nothing may come between now and then
		}
	}
	q.mu.Unlock()
	again := *c
	ended := false
	again.prepare = func(now *store.Batch) error {
		q.mu.Lock()
		defer q.mu.Unlock()
		if ended = m.ended; ended {
			// What came later has made an end of the message, but for entries
			// that memory took for removed already.
			now.Ops = append(now.Ops, deletions(b)...)
			return q.ownLocked(now, m)
		}
		now.Ops, now.Before = append(now.Ops, b.Ops...), append(now.Before, b.Before...)
		return q.ownLocked(now, m)
	}
	again.done = func(err error) {
		if err == nil && ended {
			err = c.moot
		}
		c.done(err)
	}
	q.postponed = append(q.postponed, postponed{time.Now().Add(idleWait), &again})
}

// deletions returns what b deletes: keys of its message's own.
func deletions(b *store.Batch) (ops []store.Op) {
	for _, op := range b.Ops {
		if op.Kind == store.OpDelete {
			ops = append(ops, op)
		}
	}
	return ops
}

// retryPostponed makes the changes again that were refused before.
func (q *Queue) retryPostponed(ctx context.Context, now time.Time) {
	var due []*change
	for len(q.postponed) > 0 && !now.Before(q.postponed[0].until) {
		due = append(due, q.postponed[0].change)
		q.postponed = q.postponed[1:]
	}
	q.changeAll(ctx, due)
}

// confirmed returns the error of a commit. One that was refused may have been
// so because a shard is another process's by now: that is known from then on.
func (q *Queue) confirmed(ctx context.Context, err error) error {
	if q.isShared() && errors.Is(err, store.ErrConflict) {
		q.confirm(ctx)
	}
	return err
}

// lasting reports whether err will be the same for every batch.
func lasting(err error) bool {
	return errors.Is(err, store.ErrClosed) || errors.Is(err, store.ErrUnknown)
}

// commit commits b, and goes on trying while the disk is full, until ctx or the
// keeper's work ends: what is in memory is ahead of the store until it
// succeeds.
func (q *Queue) commit(ctx context.Context, b *store.Batch) error {
	if len(b.Ops) == 0 {
		return nil
	}
	for wait := 100 * time.Millisecond; ; wait = min(2*wait, 5*time.Second) {
		_, err := q.deps.Store.Commit(ctx, b)
		if err == nil {
			return nil
		}
		q.log.Error("record the queue's changes", "err", err)
		if !errors.Is(err, store.ErrFull) {
			return err
		}
		select {
		case <-ctx.Done():
			return err
		case <-q.ending:
			return err
		case <-time.After(wait):
		}
	}
}

// do has the keeper make a change and waits for it. done is told first how it
// went.
func (q *Queue) do(ctx context.Context, prepare func(b *store.Batch) error, done func(error)) error {
	result := make(chan error, 1)
	c := &change{prepare: prepare, done: func(err error) {
		done(err)
		result <- err
	}}
	select {
	case q.changes <- c:
	case <-ctx.Done():
		return ctx.Err()
	case <-q.stopped:
		return errStopped
	}
	select {
	case err := <-result:
		return err
	case <-q.stopped:
		return errStopped
	}
}

var errStopped = errors.New("the queue is stopped")

// poke has the keeper look at the schedule.
func (q *Queue) poke() {
	select {
	case q.kick <- struct{}{}:
	default:
	}
}

// deferDoomed defers what waits for destinations that are down, with their
// last reply, until ctx ends; record is for the commits.
func (q *Queue) deferDoomed(ctx, record context.Context) {
	for ctx.Err() == nil {
		now := time.Now()
		q.mu.Lock()
		taken := q.schedule.doomed(now, maxChanges)
		var changes []*change
		for _, it := range taken {
			if q.deadLocked(it) {
				continue
			}
			it.m.work[it.group].place = settling
			changes = append(changes, q.suspension(it, now))
			q.refillLocked(it.to)
		}
		q.mu.Unlock()
		if len(taken) == 0 {
			return
		}
		q.changeAll(record, changes)
	}
}

// suspension defers a group without an attempt.
func (q *Queue) suspension(it item, now time.Time) *change {
	return &change{
		outcomeOf: it.m,
		prepare: func(b *store.Batch) error {
			q.mu.Lock()
			defer q.mu.Unlock()
			if err := q.ownLocked(b, it.m); err != nil {
				return err
			}
			recipients := it.m.groups[it.group]
			if s := it.m.work[it.group].state; s != nil {
				recipients = stillPending(s, recipients)
			}
			outcomes := make([]mail.Outcome, len(recipients))
			for i := range outcomes {
				outcomes[i] = it.to.last
				outcomes[i].Recipient, outcomes[i].At = recipients[i].Address, now
			}
			q.note(it.m, it.group, it.to, it.m.work[it.group].state.news(outcomes), 0)
			q.settleLocked(b, it.m, it.group, outcomes, now)
			return nil
		},
		done: func(err error) { q.settled(it, err) },
	}
}
