package pebble

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/cockroachdb/pebble/v2"

	"github.com/postern-mail/postern/store"
)

// Bounds of a group: what one sync makes durable.
const (
	maxGroupOctets   = 2 << 20
	maxGroupRequests = 512
	// requestOverhead is about what a request's operations take beyond keys
	// and values.
	requestOverhead = 128
)

// request is one Commit on its way through applier and syncer.
type request struct {
	batch  *store.Batch
	octets int
	retry  bool // the batch may have been committed before
	result store.Result
	err    error
	done   chan struct{} // receives when result and err are set
}

// group is what one sync makes durable.
type group struct {
	requests []*request
	batch    *pebble.Batch // nil when nothing is written
	snapshot *pebble.Snapshot
	err      error // of applying
}

// Commit implements store.Store. Once the batch is queued ctx no longer
// matters: the wait is one sync, and its outcome is always known.
func (s *Store) Commit(ctx context.Context, b *store.Batch) (store.Result, error) {
	if b.ID == (store.TxID{}) {
		return store.Result{}, store.ErrNoTxID
	}
	octets, err := check(b.Ops)
	if err != nil {
		return store.Result{}, err
	}
	if err := s.space.check(int64(octets), b.UseReserve); err != nil {
		return store.Result{}, err
	}
	for _, before := range b.Before {
		if err := before(ctx); err != nil {
			return store.Result{}, err
		}
	}
	if err := ctx.Err(); err != nil {
		return store.Result{}, err
	}
	r := s.requests.Get().(*request)
	r.batch, r.octets, r.retry = b, octets, !b.FirstAttempt()
	if err := s.enqueue(r); err != nil {
		s.requests.Put(r)
		return store.Result{}, err
	}
	<-r.done
	result, err := r.result, r.err
	*r = request{done: r.done}
	s.requests.Put(r)
	return result, err
}

func (s *Store) enqueue(r *request) error {
	s.mu.Lock()
	if s.closed {
		s.mu.Unlock()
		return store.ErrClosed
	}
	if s.failure != nil {
		err := s.failure
		s.mu.Unlock()
		return fmt.Errorf("%w: %w", store.ErrClosed, err)
	}
	s.queue = append(s.queue, r)
	s.mu.Unlock()
	s.signal()
	return nil
}

// take returns what is queued, as far as a group holds it, waiting for the
// first; nil when the store is closed and all is done.
func (s *Store) take() []*request {
	for {
		s.mu.Lock()
		if n := groupLength(s.queue); n > 0 {
			taken := s.queue[:n:n]
			if n == len(s.queue) {
				s.queue = nil
			} else {
				s.queue = s.queue[n:]
				s.signal()
			}
			s.mu.Unlock()
			return taken
		}
		closed := s.closed
		s.mu.Unlock()
		if closed {
			return nil
		}
		<-s.wake
	}
}

func groupLength(queue []*request) int {
	octets := 0
	for i, r := range queue {
		octets += r.octets
		if i > 0 && octets > maxGroupOctets || i == maxGroupRequests {
			return i
		}
	}
	return len(queue)
}

// applyGroups is the applier.
func (s *Store) applyGroups() {
	defer close(s.applied)
	for {
		taken := s.take()
		if taken == nil {
			return
		}
		g := &group{requests: taken}
		g.err = s.apply(g)
		s.applied <- g
	}
}

// apply writes a group to log and memory. The snapshot is taken here, before
// the next group is applied, so that it shows exactly the groups up to this
// one. A panic is Pebble's way to report a log that cannot be written.
func (s *Store) apply(g *group) (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("write the log: %v", p)
		}
	}()
	if failure := s.Err(); failure != nil {
		return failure
	}
	batch, err := s.build(g.requests)
	if err != nil || batch == nil {
		return err
	}
	if err := s.db.ApplyNoSyncWait(batch, pebble.Sync); err != nil {
		return err
	}
	g.batch = batch
	g.snapshot = s.db.NewSnapshot()
	return nil
}

// build makes the group's one batch and sets results and refusals. A request
// that is refused after it wrote something makes the group start again without
// it: refusals so late are rare.
func (s *Store) build(reqs []*request) (*pebble.Batch, error) {
	size := 0
	for _, r := range reqs {
		size += r.octets + requestOverhead
	}
	for {
		w := &writer{store: s, batch: s.db.NewIndexedBatchWithSize(size)}
		ok, err := w.requests(reqs)
		if err != nil {
			return nil, errors.Join(err, w.batch.Close())
		}
		if !ok {
			s.counters.forgetAll()
			if err := w.batch.Close(); err != nil {
				return nil, err
			}
			continue
		}
		if w.batch.Empty() {
			return nil, w.batch.Close()
		}
		return w.batch, w.finish()
	}
}

// syncGroups waits for each group's sync, shows it to readers and answers.
// Behind a group that failed all fail: what they were decided by, or found
// committed, may not be there after the next start.
func (s *Store) syncGroups() {
	for g := range s.applied {
		if g.batch != nil {
			g.err = g.batch.SyncWait()
		}
		if g.err == nil {
			g.err = s.Err()
		}
		if g.err != nil {
			s.fail(g.err)
			s.release(g.snapshot)
		} else if g.snapshot != nil {
			s.show(g.snapshot)
			if err := g.batch.Close(); err != nil {
				s.log.Warn("release a batch", "err", err)
			}
		}
		for _, r := range g.requests {
			if g.err != nil {
				r.err = fmt.Errorf("%w: %w", store.ErrUnknown, g.err)
			}
			r.done <- struct{}{}
		}
	}
}

// check holds a batch against the limits and returns its size.
func check(ops []store.Op) (int, error) {
	if len(ops) > store.MaxBatchOps {
		return 0, fmt.Errorf("%w: %d operations", store.ErrTooLarge, len(ops))
	}
	octets := 0
	for i := range ops {
		if err := checkOp(&ops[i]); err != nil {
			return 0, err
		}
		octets += len(ops[i].Key) + len(ops[i].Value)
	}
	if octets > store.MaxBatchOctets {
		return 0, fmt.Errorf("%w: batch of %d octets", store.ErrTooLarge, octets)
	}
	return octets, nil
}

func checkOp(op *store.Op) error {
	switch {
	case len(op.Key) == 0 || op.Key[0] == 0:
		return fmt.Errorf("key %q: empty, or with the engine's tag", op.Key)
	case len(op.Key) > store.MaxKeyOctets:
		return fmt.Errorf("%w: key of %d octets", store.ErrTooLarge, len(op.Key))
	case len(op.Value) > store.MaxValueOctets:
		return fmt.Errorf("%w: value of %d octets", store.ErrTooLarge, len(op.Value))
	case op.Kind == store.OpDeleteRange && len(op.Value) > store.MaxKeyOctets:
		return fmt.Errorf("%w: key of %d octets", store.ErrTooLarge, len(op.Value))
	case op.Kind == store.OpNext && op.N < 1:
		return fmt.Errorf("allocation of %d numbers", op.N)
	case op.Kind > store.OpDecide:
		return fmt.Errorf("operation %d is not known", op.Kind)
	}
	return nil
}

// txIDsKey names the transaction ids of group n.
func txIDsKey(n uint64) []byte {
	return binary.BigEndian.AppendUint64(keyTxIDs[:len(keyTxIDs):len(keyTxIDs)], n)
}
