package pebble

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"math"
	"time"

	"github.com/cockroachdb/pebble/v2"

	"github.com/postern-mail/postern/store"
)

// writer turns requests into one indexed batch, which answers reads with
// everything applied before, the requests ahead in the group included.
type writer struct {
	store *Store
	batch *pebble.Batch
	ids   []byte // the group's transaction ids, as they are stored
	// finder looks keys up; nil before the first.
	finder *pebble.Iterator
}

// finding has the filters of the lowest level asked too.
var finding = &pebble.IterOptions{UseL6Filters: true}

// find returns the value of key, as the batch and everything before it left it;
// valid until the next find. store.ErrNotFound when there is none.
//
// It is for keys that are new as a rule: a Get would read a block of the lowest
// level to learn that. For keys that were written a moment ago Get is faster,
// because it stops where it finds them.
func (w *writer) find(key []byte) ([]byte, error) {
	if w.finder == nil {
		var err error
		if w.finder, err = w.batch.NewIter(finding); err != nil {
			return nil, err
		}
	} else {
		w.finder.SetOptions(finding) // shows it what the batch got since
	}
	if !w.finder.SeekPrefixGE(key) {
		if err := w.finder.Error(); err != nil {
			return nil, err
		}
		return nil, store.ErrNotFound
	}
	return w.finder.ValueAndErr()
}

// endFinding gives back what find holds.
func (w *writer) endFinding() error {
	if w.finder == nil {
		return nil
	}
	err := w.finder.Close()
	w.finder = nil
	return err
}

// requests adds those that are not refused yet. It returns false when one was
// refused after it had written something: the batch is then of no use.
func (w *writer) requests(reqs []*request) (ok bool, err error) {
	defer func() { err = errors.Join(err, w.endFinding()) }()
	for _, r := range reqs {
		if r.err != nil {
			continue
		}
		before := w.batch.Count()
		r.result = store.Result{}
		r.err = w.request(r)
		if r.err != nil && w.batch.Count() != before {
			return false, nil
		}
	}
	return true, nil
}

// request adds one request: preconditions first, then its writes in order.
func (w *writer) request(r *request) error {
	b := r.batch
	if r.retry {
		earlier, found, err := w.committed(b.ID)
		if err != nil {
			return err
		}
		if found {
			r.result = earlier
			return nil
		}
	}
	for i := range b.Ops {
		if err := w.precondition(&b.Ops[i]); err != nil {
			return err
		}
	}
	for i := range b.Ops {
		if err := w.write(&b.Ops[i], &r.result); err != nil {
			return err
		}
	}
	w.ids = appendTxID(w.ids, b.ID, r.result)
	return nil
}

func (w *writer) precondition(op *store.Op) error {
	switch op.Kind {
	case store.OpIfAbsent:
		_, err := w.find(op.Key)
		switch {
		case err == nil:
			return store.ErrConflict
		case errors.Is(err, store.ErrNotFound):
			return nil
		}
		return err
	case store.OpIfEquals:
		value, closer, err := w.batch.Get(op.Key)
		if errors.Is(err, pebble.ErrNotFound) {
			return store.ErrConflict
		}
		if err != nil {
			return err
		}
		defer closer.Close()
		if !bytes.Equal(value, op.Value) {
			return store.ErrConflict
		}
	}
	return nil
}

func (w *writer) write(op *store.Op, result *store.Result) error {
	switch op.Kind {
	case store.OpIfAbsent, store.OpIfEquals:
		return nil
	case store.OpPut:
		w.store.counters.forget(op.Key)
		return w.batch.Set(op.Key, op.Value, nil)
	case store.OpDelete:
		w.store.counters.forget(op.Key)
		return w.batch.Delete(op.Key, nil)
	case store.OpDeleteRange:
		if bytes.Compare(op.Key, op.Value) >= 0 {
			return nil
		}
		w.store.counters.forgetRange(op.Key, op.Value)
		return w.batch.DeleteRange(op.Key, op.Value, nil)
	case store.OpDecide:
		return w.decide(op, result)
	default:
		return w.count(op, result)
	}
}

// count does the operations on counters.
func (w *writer) count(op *store.Op, result *store.Result) error {
	present, err := w.counter(op.Key)
	if err != nil {
		return err
	}
	next := present
	switch op.Kind {
	case store.OpMax:
		next = max(present, op.N)
	default:
		if op.N > 0 && present > math.MaxInt64-op.N || op.N < 0 && present < math.MinInt64-op.N {
			return fmt.Errorf("counter %q overflows", op.Key)
		}
		next += op.N
	}
	if op.Kind == store.OpNext {
		result.Allocated = append(result.Allocated, present+1)
	}
	w.store.counters.note(op.Key, next)
	return w.batch.Set(op.Key, store.EncodeCounter(next), nil)
}

func (w *writer) counter(key []byte) (int64, error) {
	if n, known := w.store.counters[string(key)]; known {
		return n, nil
	}
	value, closer, err := w.batch.Get(key)
	if errors.Is(err, pebble.ErrNotFound) {
		return 0, nil
	}
	if err != nil {
		return 0, err
	}
	defer closer.Close()
	n, err := store.DecodeCounter(value)
	if err != nil {
		return 0, fmt.Errorf("%q: %w", key, err)
	}
	return n, nil
}

func (w *writer) decide(op *store.Op, result *store.Result) error {
	var closers []io.Closer
	defer func() {
		for _, c := range closers {
			_ = c.Close() // releases memory; has nothing to report
		}
	}()
	get := func(key []byte) ([]byte, error) {
		if op.New {
			value, err := w.find(key)
			return bytes.Clone(value), err
		}
		value, closer, err := w.batch.Get(key)
		if errors.Is(err, pebble.ErrNotFound) {
			return nil, store.ErrNotFound
		}
		if err != nil {
			return nil, err
		}
		closers = append(closers, closer)
		return value, nil
	}
	var decided store.Batch
	if err := op.Decide(get, &decided); err != nil {
		return err
	}
	if _, err := check(decided.Ops); err != nil {
		return err
	}
	for i := range decided.Ops {
		switch kind := decided.Ops[i].Kind; kind {
		case store.OpPut, store.OpDelete, store.OpDeleteRange, store.OpAdd, store.OpMax:
		default:
			return fmt.Errorf("operation %d inside a decision", kind)
		}
		if err := w.write(&decided.Ops[i], result); err != nil {
			return err
		}
	}
	return nil
}

// finish adds what the engine itself records about the group.
func (w *writer) finish() error {
	s := w.store
	s.groupNumber++
	if err := w.batch.Set(txIDsKey(s.groupNumber), w.ids, nil); err != nil {
		return err
	}
	if before, due := s.txIDs.expire(time.Now(), s.groupNumber); due {
		return w.batch.DeleteRange(keyTxIDs, txIDsKey(before), nil)
	}
	return nil
}
