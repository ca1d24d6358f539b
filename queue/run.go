package queue

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/postern-mail/postern/mail"
	"github.com/postern-mail/postern/status"
	"github.com/postern-mail/postern/store"
)

// maxFinishBatch bounds how many finished groups share one commit.
const maxFinishBatch = 100

// Run delivers until ctx ends. What is under way then may finish within the
// grace time; the rest stays queued. It blocks.
func (q *Queue) Run(ctx context.Context) error {
	work, cancelWork := context.WithCancel(context.WithoutCancel(ctx))
	defer cancelWork()
	stopTakes := q.ready.closeOn(ctx)
	defer stopTakes()

	q.count(ctx)
	var workers, background sync.WaitGroup
	background.Go(func() { q.finishLoop(work) })
	background.Go(func() { q.dueLoop(ctx) })
	for range q.cfg.Workers {
		workers.Go(func() { q.worker(work) })
	}
	<-ctx.Done()
	grace := time.AfterFunc(q.cfg.Grace, cancelWork)
	defer grace.Stop()
	workers.Wait()
	close(q.finishing)
	background.Wait()
	return nil
}

// dueLoop feeds the scheduler from the due index. It reads forward from where
// it last was, so that what is already in memory is not read again; only what
// found no room moves it back.
func (q *Queue) dueLoop(ctx context.Context) {
	var from time.Time // everything due before is in memory, or was
	pruned := time.Now()
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-timer.C:
		}
		next, err := q.feed(ctx, from)
		if err != nil && ctx.Err() == nil {
			q.Log.Error("the queue cannot be read; trying again", "err", err)
		} else {
			from = next
		}
		if time.Since(pruned) > time.Minute {
			q.ready.prune(time.Now())
			pruned = time.Now()
		}
		timer.Reset(time.Second)
	}
}

// feed offers what is due from one instant until now, and returns where the
// next feed begins.
func (q *Queue) feed(ctx context.Context, from time.Time) (time.Time, error) {
	room, again := q.ready.room()
	if !again.IsZero() && again.Before(from) {
		from = again
	}
	if room <= 0 {
		return from, nil
	}
	type entry struct {
		ref groupRef
		due time.Time
	}
	now := time.Now()
	var due []entry
	err := q.Store.View(ctx, func(snap store.Snapshot) error {
		lo, hi := dueRange(from, now)
		for pair, err := range snap.Range(lo, hi, room, false) {
			if err != nil {
				return err
			}
			at, ref, err := parseDueKey(pair.Key)
			if err != nil {
				q.Log.Error("skipping an entry of the due index", "err", err)
				continue
			}
			due = append(due, entry{ref, at})
		}
		return nil
	})
	if err != nil {
		return from, err
	}
	for _, e := range due {
		full, err := q.admit(ctx, e.ref, e.due)
		if err != nil || full {
			return e.due, err
		}
	}
	if len(due) == room {
		return due[len(due)-1].due, nil
	}
	// A commit under way may yet show an entry due a moment ago.
	return now.Add(-2 * time.Second), nil
}

// admit offers one entry of the due index, unless it is out of date. The lock
// keeps an operator's hold or deletion from passing it by.
func (q *Queue) admit(ctx context.Context, ref groupRef, due time.Time) (full bool, err error) {
	mu := q.lockMessage(ref.id)
	mu.Lock()
	defer mu.Unlock()
	if q.ready.isPresent(ref) {
		return false, nil
	}
	m, g, err := q.load(ctx, ref)
	switch {
	case errors.Is(err, store.ErrNotFound):
		return false, nil // finished since the index was read
	case errors.Is(err, errRecord):
		q.Log.Error("a queued message cannot be read and is left alone", "qid", ref.id, "err", err)
		return false, nil
	case err != nil:
		return false, err
	case !g.due.Equal(due):
		return false, nil // deferred since
	}
	return !q.ready.offer(ref, m, g), nil
}

// load reads a group and its message.
func (q *Queue) load(ctx context.Context, ref groupRef) (*message, *group, error) {
	var m *message
	var g *group
	err := q.Store.View(ctx, func(snap store.Snapshot) error {
		record, err := snap.Get(groupKey(ref.id, ref.group))
		if err != nil {
			return err
		}
		if g, err = decodeGroup(record); err != nil {
			return err
		}
		if record, err = snap.Get(messageKey(ref.id)); err != nil {
			return err
		}
		m, err = decodeMessage(ref.id, record)
		return err
	})
	if err != nil {
		return nil, nil, fmt.Errorf("load %s: %w", ref.deliveryID(), err)
	}
	return m, g, nil
}

// worker delivers one group after the other.
func (q *Queue) worker(ctx context.Context) {
	for {
		j, dead, ok := q.ready.take()
		if !ok {
			return
		}
		if dead != nil {
			q.settle(ctx, j, deadOutcomes(j.group, dead.why), dead)
			continue
		}
		j.group.attempts++
		outcomes := q.attempt(ctx, j)
		if noneAnswered(outcomes) {
			end := q.ready.unreachable(j.group.destination, outcomes[0].Reply, q.cfg.MinimalBackoff)
			dead = &end
		} else {
			q.ready.answered(j.group.destination)
		}
		q.settle(ctx, j, outcomes, dead)
	}
}

// attempt asks the transport. A transport that breaks its contract, or
// panics, defers.
func (q *Queue) attempt(ctx context.Context, j job) (outcomes []mail.Outcome) {
	envelope := j.message.envelope
	envelope.Recipients = j.group.recipients
	defer func() {
		if fault := recover(); fault != nil {
			q.Log.Error("transport panicked", "qid", j.ref.id, "fault", fault)
			outcomes = deadOutcomes(j.group, status.Unknown.Reply())
		}
	}()
	outcomes = (*q.transport.Load()).Deliver(ctx, mail.Delivery{
		QueueID:  j.ref.id,
		ID:       j.ref.deliveryID(),
		Envelope: envelope,
		Octets:   j.message.content.Octets,
		Attempt:  j.group.attempts,
		Open:     func() (mail.Content, error) { return q.open(ctx, j.message.content) },
	})
	if len(outcomes) != len(j.group.recipients) {
		q.Log.Error("transport answered for other recipients than it was given", "qid", j.ref.id,
			"given", len(j.group.recipients), "answered", len(outcomes))
		return deadOutcomes(j.group, status.Unknown.Reply())
	}
	return outcomes
}

// open reads a message's content.
func (q *Queue) open(ctx context.Context, ref store.Ref) (mail.Content, error) {
	body, err := q.Blobs.Open(ctx, ref)
	if err != nil {
		return nil, status.New(status.StoreDown, err)
	}
	return content{io.NewSectionReader(body, 0, body.Size()), body}, nil
}

type content struct {
	*io.SectionReader
	body store.Body
}

func (c content) Close() error { return c.body.Close() }

func deadOutcomes(g *group, why status.Reply) []mail.Outcome {
	outcomes := make([]mail.Outcome, len(g.recipients))
	for i, r := range g.recipients {
		outcomes[i] = mail.Outcome{Recipient: r.Address, Class: mail.Deferred, Reply: why, At: time.Now()}
	}
	return outcomes
}

// noneAnswered reports whether the next hop was never reached.
func noneAnswered(outcomes []mail.Outcome) bool {
	unreached := status.ConnectionFailed.Reply()
	for _, o := range outcomes {
		if o.Class != mail.Deferred || o.Reply.Code != unreached.Code || o.Reply.Enhanced != unreached.Enhanced {
			return false
		}
	}
	return true
}

// backoff is the wait before the next attempt: as long as the group has
// waited already, inside the bounds, with a tenth of jitter so that what was
// deferred together does not come back together.
func (q *Queue) backoff(attempts int) time.Duration {
	wait := q.cfg.MinimalBackoff
	for i := 1; i < attempts && wait < q.cfg.MaximalBackoff; i++ {
		wait *= 2
	}
	wait = min(wait, q.cfg.MaximalBackoff)
	return wait - wait/20 + time.Duration(rand.Int64N(int64(wait/10)+1))
}

// settle records what an attempt brought: recipients delivered or bounced go,
// deferred ones wait on, and what has waited too long bounces. dead is set
// when the next hop was not there at all.
func (q *Queue) settle(ctx context.Context, j job, outcomes []mail.Outcome, dead *deadEnd) {
	now := time.Now()
	due := now.Add(q.backoff(j.group.attempts))
	if dead != nil {
		due = dead.until.Add(rand.N(time.Second))
	}
	r := q.judge(j, outcomes, now, due)
	q.record(j, r)
	if len(r.waiting) == 0 && r.reports == nil {
		// Nothing but an end: it may share a commit with others'.
		q.finishing <- j
		return
	}
	for wait := time.Second; ; wait = min(2*wait, time.Minute) {
		err := q.commitRest(ctx, j, r)
		if err == nil {
			break
		}
		// The outcome is known but not written. The group stays with this
		// worker, so that it is not attempted again, until the store is back.
		q.Log.Error("the outcome of a delivery cannot be written; trying again", "qid", j.ref.id, "err", err)
		if !pause(ctx, wait) {
			break
		}
	}
	q.ready.done(j)
}

// pause waits; false when ctx ended first.
func pause(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-timer.C:
		return true
	}
}

// verdictOnGroup is what judge found.
type verdictOnGroup struct {
	outcomes []mail.Outcome
	waiting  []mail.Recipient // still to be delivered
	due      time.Time        // when, if any wait
	why      status.Reply     // of the last deferral
	remote   string
	warned   bool
	reports  []mail.Report
}

// judge sorts outcomes; what is deferred is due again at due, or when it is
// given up. It writes nothing.
func (q *Queue) judge(j job, outcomes []mail.Outcome, now, due time.Time) verdictOnGroup {
	r := verdictOnGroup{outcomes: outcomes, due: due, warned: j.group.warned}
	lifetime := q.cfg.Lifetime
	if j.message.envelope.ReversePath.IsNull() {
		lifetime = q.cfg.BounceLifetime
	}
	givenUp := j.message.arrived.Add(lifetime)
	expired := !now.Before(givenUp)
	if r.due.After(givenUp) {
		r.due = givenUp
	}
	perKind := make(map[mail.ReportKind][]int)
	warn := q.cfg.DelayWarning > 0 && !r.warned && !now.Before(j.message.arrived.Add(q.cfg.DelayWarning))
	for i, recipient := range j.group.recipients {
		o := &outcomes[i]
		if o.Class == mail.Deferred && expired {
			o.Class = mail.Bounced
			o.Reply.Text = "Delivery time expired; last answer: " + o.Reply.String()
			o.Reply.Code, o.Reply.Enhanced = status.DeliveryExpired.Reply().Code, status.DeliveryExpired.Reply().Enhanced
		}
		switch o.Class {
		case mail.Deferred:
			r.waiting = append(r.waiting, recipient)
			r.why, r.remote = o.Reply, o.Remote
			if warn && wants(recipient.Notify, mail.NotifyDelay) {
				perKind[mail.ReportDelayed] = append(perKind[mail.ReportDelayed], i)
				r.warned = true
			}
		case mail.Bounced:
			if wants(recipient.Notify, mail.NotifyFailure) {
				perKind[mail.ReportFailed] = append(perKind[mail.ReportFailed], i)
			}
		case mail.Delivered:
			if recipient.Notify&mail.NotifySuccess != 0 {
				kind := mail.ReportDelivered
				if o.Relayed {
					kind = mail.ReportRelayed
				}
				perKind[kind] = append(perKind[kind], i)
			}
		}
	}
	if j.message.envelope.ReversePath.IsNull() {
		return r // nobody is told about a report (RFC 5321 section 6.1)
	}
	for kind := mail.ReportFailed; kind <= mail.ReportRelayed; kind++ {
		if which := perKind[kind]; len(which) > 0 {
			r.reports = append(r.reports, q.report(j, kind, which, outcomes, givenUp))
		}
	}
	return r
}

// wants applies the defaults of NOTIFY: failures and delays are reported
// unless the sender said otherwise (RFC 3461 section 4.1).
func wants(n, what mail.Notify) bool { return n == 0 || n&what != 0 }

// finishLoop ends groups of which nothing remains, many in one commit: it
// takes whatever gathered while the last commit was under way.
func (q *Queue) finishLoop(ctx context.Context) {
	for first := range q.finishing {
		batch := []job{first}
		for more := true; more && len(batch) < maxFinishBatch; {
			select {
			case j, ok := <-q.finishing:
				if ok {
					batch = append(batch, j)
				}
				more = ok
			default:
				more = false
			}
		}
		q.finish(ctx, batch)
	}
}

func (q *Queue) finish(ctx context.Context, batch []job) {
	for wait := time.Second; ; wait = min(2*wait, time.Minute) {
		err := q.commitFinished(ctx, batch)
		if err == nil {
			break
		}
		q.Log.Error("delivered messages cannot be taken off the queue; trying again", "groups", len(batch), "err", err)
		if !pause(ctx, wait) {
			return // attempted again after the next start, with the same delivery id
		}
	}
	for _, j := range batch {
		q.ready.done(j)
	}
}

// commitFinished takes finished groups off the queue, and their messages
// where no group is left.
func (q *Queue) commitFinished(ctx context.Context, batch []job) error {
	b := store.NewBatch()
	ended := make(map[mail.QueueID]*message)
	gone := make(map[mail.QueueID]map[uint32]bool)
	for _, j := range batch {
		q.removeGroup(b, j)
		if gone[j.ref.id] == nil {
			gone[j.ref.id] = make(map[uint32]bool)
		}
		gone[j.ref.id][j.ref.group] = true
		ended[j.ref.id] = j.message
	}
	for _, mu := range q.locksInOrder(ended) {
		mu.Lock()
		defer mu.Unlock()
	}
	var last []*message
	for id, m := range ended {
		more, err := q.hasOtherGroups(ctx, m, gone[id])
		if err != nil {
			return err
		}
		if !more {
			q.removeMessage(b, m)
			last = append(last, m)
		}
	}
	if err := q.commit(context.WithoutCancel(ctx), b); err != nil {
		return err
	}
	for _, m := range last {
		q.ended(m)
	}
	return nil
}

// locksInOrder returns the locks of messages without repetition, in an order
// all callers share.
func (q *Queue) locksInOrder(messages map[mail.QueueID]*message) []*sync.Mutex {
	wanted := make(map[*sync.Mutex]bool)
	for id := range messages {
		wanted[q.lockMessage(id)] = true
	}
	var locks []*sync.Mutex
	for i := range q.groupLock {
		if wanted[&q.groupLock[i]] {
			locks = append(locks, &q.groupLock[i])
		}
	}
	return locks
}

// commitRest writes what remains of a group, and the reports it caused.
func (q *Queue) commitRest(ctx context.Context, j job, r verdictOnGroup) error {
	b := store.NewBatch()
	reports, err := q.addReports(ctx, b, r.reports)
	if err != nil {
		return err
	}
	mu := q.lockMessage(j.ref.id)
	mu.Lock()
	defer mu.Unlock()
	q.removeGroup(b, j)
	last := false
	if len(r.waiting) > 0 {
		g := *j.group
		g.recipients, g.due, g.last, g.remote, g.warned = r.waiting, r.due, r.why, r.remote, r.warned
		b.Put(groupKey(j.ref.id, j.ref.group), g.encode())
		b.Put(dueKey(g.due, j.ref.id, j.ref.group), nil)
	} else {
		more, err := q.hasOtherGroups(ctx, j.message, map[uint32]bool{j.ref.group: true})
		if err != nil {
			return err
		}
		if last = !more; last {
			q.removeMessage(b, j.message)
		}
	}
	if err := q.commit(context.WithoutCancel(ctx), b); err != nil {
		return err
	}
	if last {
		q.ended(j.message)
	}
	q.offerReports(reports)
	return nil
}

// removeGroup adds the end of a group's record and due entry. The entry is
// the one the job was taken with.
func (q *Queue) removeGroup(b *store.Batch, j job) {
	b.Delete(groupKey(j.ref.id, j.ref.group))
	b.Delete(dueKey(j.group.due, j.ref.id, j.ref.group))
}

func (q *Queue) removeMessage(b *store.Batch, m *message) {
	b.Delete(messageKey(m.id))
	q.Blobs.Unlink(b, m.content)
}

// hasOtherGroups reports whether a message has groups beside those named. The
// caller holds the message's lock.
func (q *Queue) hasOtherGroups(ctx context.Context, m *message, named map[uint32]bool) (more bool, err error) {
	if int(m.groups) == len(named) {
		return false, nil
	}
	err = q.Store.View(ctx, func(snap store.Snapshot) error {
		lo, hi := groupRange(m.id)
		for pair, err := range snap.Range(lo, hi, len(named)+1, false) {
			if err != nil {
				return err
			}
			if !named[groupOfKey(pair.Key)] {
				more = true
			}
		}
		return nil
	})
	return more, err
}
