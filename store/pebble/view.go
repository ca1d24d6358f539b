package pebble

import (
	"context"
	"errors"
	"io"
	"iter"

	"github.com/cockroachdb/pebble/v2"

	"github.com/postern-mail/postern/store"
)

// view is the state after one durable group. The store holds a reference to
// the newest and each reader one to the view it reads.
type view struct {
	store    *Store
	snapshot *pebble.Snapshot
	refs     int // guarded by store.mu
}

// View implements store.Store.
func (s *Store) View(ctx context.Context, fn func(store.Snapshot) error) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	s.mu.Lock()
	v := s.visible
	if v == nil || s.closed {
		s.mu.Unlock()
		return store.ErrClosed
	}
	v.refs++
	s.views.Add(1)
	s.mu.Unlock()
	defer s.views.Done()
	defer v.release()
	r := reader{ctx: ctx, snapshot: v.snapshot}
	defer r.close()
	return fn(&r)
}

// show replaces what readers get.
func (s *Store) show(snapshot *pebble.Snapshot) {
	next := &view{store: s, snapshot: snapshot, refs: 1}
	s.mu.Lock()
	last := s.visible
	s.visible = next
	s.mu.Unlock()
	last.release()
}

func (v *view) release() {
	v.store.mu.Lock()
	v.refs--
	unused := v.refs == 0
	v.store.mu.Unlock()
	if !unused {
		return
	}
	v.store.release(v.snapshot)
}

// release closes a snapshot that nobody reads; nil is none.
func (s *Store) release(snapshot *pebble.Snapshot) {
	if snapshot == nil {
		return
	}
	if err := snapshot.Close(); err != nil {
		s.log.Warn("release a snapshot", "err", err)
	}
}

// reader is one caller's use of a view.
type reader struct {
	ctx      context.Context
	snapshot *pebble.Snapshot
	open     []io.Closer // what Get handed out
}

func (r *reader) close() {
	for _, c := range r.open {
		_ = c.Close() // releases memory; has nothing to report
	}
}

// Get implements store.Snapshot.
func (r *reader) Get(key []byte) ([]byte, error) {
	if len(key) == 0 || key[0] == 0 {
		return nil, store.ErrNotFound
	}
	value, closer, err := r.snapshot.Get(key)
	if errors.Is(err, pebble.ErrNotFound) {
		return nil, store.ErrNotFound
	}
	if err != nil {
		return nil, err
	}
	r.open = append(r.open, closer)
	return value, nil
}

// Counter implements store.Snapshot.
func (r *reader) Counter(key []byte) (int64, error) {
	value, err := r.Get(key)
	if errors.Is(err, store.ErrNotFound) {
		return 0, nil
	}
	if err != nil {
		return 0, err
	}
	return store.DecodeCounter(value)
}

// contextEvery is after how many pairs a range looks at its context.
const contextEvery = 256

// Range implements store.Snapshot.
func (r *reader) Range(lo, hi []byte, limit int, reverse bool) iter.Seq2[store.Pair, error] {
	return func(yield func(store.Pair, error) bool) {
		if len(lo) == 0 || lo[0] == 0 {
			lo = firstKey
		}
		it, err := r.snapshot.NewIter(&pebble.IterOptions{LowerBound: lo, UpperBound: hi})
		if err != nil {
			yield(store.Pair{}, err)
			return
		}
		defer it.Close()
		ok, step := false, it.Next
		if reverse {
			ok, step = it.Last(), it.Prev
		} else {
			ok = it.First()
		}
		for n := 0; ok; ok = step() {
			if n++; limit > 0 && n > limit {
				return
			}
			value, err := it.ValueAndErr()
			if err == nil && n%contextEvery == 0 {
				err = r.ctx.Err()
			}
			if !yield(store.Pair{Key: it.Key(), Value: value}, err) || err != nil {
				return
			}
		}
		if err := it.Error(); err != nil {
			yield(store.Pair{}, err)
		}
	}
}
