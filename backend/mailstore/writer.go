package mailstore

import (
	"cmp"
	"context"
	"errors"
	"runtime/debug"
	"time"

	"github.com/postern-mail/postern/status"
	"github.com/postern-mail/postern/store"
)

// request is one caller's change of an account.
type request struct {
	// apply puts the change into t. It may be called again, on a newer state,
	// when the commit met a conflict. An error drops what it put in.
	apply func(t *txn) error
	// alone keeps the request out of a commit with others: it reads or changes
	// what drafts do not cover.
	alone bool
	actor any // see As
	err   error
	seq   uint64 // of its last operation in the journal; 0 for none
	done  bool   // err is set; the leader's
	led   bool   // was handed the lead; guarded by account.queueMu
	// wake receives true when err is set, false to take the lead.
	wake chan bool
}

// change runs apply in the account's next commit and waits for the outcome.
// When ctx ends before the commit began, nothing happened.
func (a *account) change(ctx context.Context, apply func(t *txn) error) error {
	return a.submit(ctx, &request{apply: apply})
}

// changeAlone is change in a commit of its own.
func (a *account) changeAlone(ctx context.Context, apply func(t *txn) error) error {
	return a.submit(ctx, &request{apply: apply, alone: true})
}

// submit queues r. The first to come leads: it commits for all who came while
// the commit before was under way. There is no thread of the account's own.
func (a *account) submit(ctx context.Context, r *request) error {
	if err := cmp.Or(ctx.Err(), a.admits(ctx)); err != nil {
		return err
	}
	r.wake, r.actor = make(chan bool, 1), ctx.Value(actorKey{})
	a.queueMu.Lock()
	a.queue = append(a.queue, r)
	lead := !a.leading
	a.leading = true
	a.queueMu.Unlock()
	if lead {
		a.lead(r)
		return r.err
	}
	select {
	case done := <-r.wake:
		if !done {
			a.lead(r)
		}
	case <-ctx.Done():
		if a.withdraw(r) {
			return ctx.Err()
		}
		if done := <-r.wake; !done {
			a.lead(r)
		}
	}
	return r.err
}

// changeSeq is change that also tells the last operation it put into the
// journal, 0 for none: see durable.
func (a *account) changeSeq(ctx context.Context, apply func(t *txn) error) (uint64, error) {
	r := &request{apply: apply}
	err := a.submit(ctx, r)
	return r.seq, err
}

// withdraw takes r out of the queue, unless its commit began or it leads.
func (a *account) withdraw(r *request) bool {
	a.queueMu.Lock()
	defer a.queueMu.Unlock()
	for i, queued := range a.queue {
		if queued == r && !r.led {
			a.queue = append(a.queue[:i:i], a.queue[i+1:]...)
			return true
		}
	}
	return false
}

// lead commits what is queued, own among it, and hands the lead to whoever
// came meanwhile.
func (a *account) lead(own *request) {
	a.queueMu.Lock()
	batch := a.queue
	a.queue = nil
	a.queueMu.Unlock()
	a.process(batch, own)
	a.queueMu.Lock()
	defer a.queueMu.Unlock()
	if len(a.queue) == 0 {
		a.leading = false
		return
	}
	a.queue[0].led = true
	a.queue[0].wake <- false
}

// process commits the requests in order, as many at a time as fit. A panic in
// one of them ends those that are not done with an error: others wait for
// these, and for the lead.
func (a *account) process(batch []*request, own *request) {
	finish := func(r *request, err error) {
		r.err, r.done = err, true
		if r != own {
			r.wake <- true
		}
	}
	all := batch
	defer func() {
		fault := recover()
		if fault == nil {
			return
		}
		a.store.log.Error("change of an account panicked", "account", a.name, "panic", fault, "stack", string(debug.Stack()))
		a.stale = true
		for _, r := range all {
			if !r.done {
				finish(r, status.Errorf(status.StoreDown, "panic: %v", fault))
			}
		}
	}()
	ctx, cancel := context.WithTimeout(context.Background(), a.store.cfg.CommitTimeout)
	defer cancel()
	for conflicts := 0; len(batch) > 0; {
		if err := a.refresh(ctx); err != nil {
			for _, r := range batch {
				finish(r, a.store.failure("read account again", err))
			}
			return
		}
		t := a.begin(ctx)
		taken, rest := t.fill(batch, finish)
		err := t.commit()
		if err == nil {
			t.publish()
			t.tellPartner()
		}
		switch {
		case errors.Is(err, store.ErrConflict) && conflicts < maxConflicts:
			conflicts++
			batch = append(taken, rest...)
			continue
		case err != nil && len(taken) > 1 && !isOutage(err):
			// One of them cannot be: let each stand for itself.
			for _, r := range taken {
				r.alone = true
			}
			batch = append(taken, rest...)
			continue
		}
		for _, r := range taken {
			finish(r, a.store.failure("commit", err))
		}
		batch = rest
	}
}

const maxConflicts = 5

// isOutage reports an error that would meet every request alike.
func isOutage(err error) bool {
	for _, outage := range []error{
		store.ErrFull, store.ErrClosed, store.ErrUnknown, store.ErrConflict, context.Canceled, context.DeadlineExceeded,
	} {
		if errors.Is(err, outage) {
			return true
		}
	}
	return false
}

// fill applies requests until the batch is full, and returns those it holds
// and those that are left. Requests that fail are finished.
func (t *txn) fill(batch []*request, finish func(*request, error)) (taken, rest []*request) {
	for i, r := range batch {
		if r.alone && len(taken) > 0 {
			return taken, batch[i:]
		}
		mark := t.save()
		before := t.head.seq
		err := r.apply(t)
		if r.seq = 0; t.head.seq > before {
			r.seq = t.head.seq
		}
		if err == nil && t.isFull() {
			t.restore(mark)
			if len(taken) > 0 {
				return taken, batch[i:]
			}
			err = errTooLarge
		}
		if err != nil {
			t.restore(mark)
			finish(r, t.account.store.failure("change account", err))
			continue
		}
		if taken = append(taken, r); len(taken) == 1 {
			t.actor = r.actor
		} else if t.actor != r.actor {
			t.actor = nil
		}
		if r.alone {
			return taken, batch[i+1:]
		}
	}
	return taken, nil
}

// refresh reads the account again after an outcome that left doubt about it.
func (a *account) refresh(ctx context.Context) error {
	if !a.stale {
		return nil
	}
	if err := a.load(ctx); err != nil {
		return err
	}
	a.stale = false
	return nil
}

// commitBatch commits b, again while its outcome is unknown: the same TxID
// makes that safe. It gives up when ctx ends or after some tries.
func (a *account) commitBatch(ctx context.Context, b *store.Batch) error {
	for try := 0; ; try++ {
		_, err := a.store.kv.Commit(ctx, b)
		if !errors.Is(err, store.ErrUnknown) || try == maxUnknown {
			return err
		}
		wait := time.NewTimer(time.Duration(1<<try) * 10 * time.Millisecond)
		select {
		case <-ctx.Done():
			wait.Stop()
			return err
		case <-wait.C:
		}
	}
}

const maxUnknown = 6
