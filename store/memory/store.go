package memory

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"iter"
	"math"
	"sync/atomic"

	"github.com/postern-mail/postern/store"
)

// Store is one process's handle on a Disk: a store.Store.
type Store struct {
	disk   *Disk
	closed atomic.Bool
	cut    atomic.Bool
}

// Kill ends the process that has the handle: every call returns ErrCut.
func (s *Store) Kill() { s.cut.Store(true) }

// Killed reports whether the handle's process is gone, by Kill or a fault.
func (s *Store) Killed() bool { return s.cut.Load() }

func (s *Store) alive() error {
	switch {
	case s.cut.Load():
		return ErrCut
	case s.closed.Load():
		return store.ErrClosed
	}
	return nil
}

// Close implements store.Store.
func (s *Store) Close() error {
	s.closed.Store(true)
	return nil
}

// CheckSpace implements store.Space.
func (s *Store) CheckSpace(int64) error {
	s.disk.mu.Lock()
	defer s.disk.mu.Unlock()
	if s.disk.full {
		return store.ErrFull
	}
	return nil
}

// View implements store.Store.
func (s *Store) View(ctx context.Context, fn func(store.Snapshot) error) error {
	if err := errors.Join(ctx.Err(), s.alive()); err != nil {
		return err
	}
	s.disk.mu.Lock()
	root := s.disk.root
	s.disk.mu.Unlock()
	return fn(snapshot{root})
}

// Commit implements store.Store.
func (s *Store) Commit(ctx context.Context, b *store.Batch) (store.Result, error) {
	if b.ID == (store.TxID{}) {
		return store.Result{}, store.ErrNoTxID
	}
	if err := s.alive(); err != nil {
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
	d := s.disk
	d.mu.Lock()
	defer d.mu.Unlock()
	if earlier, found := d.results[b.ID]; found {
		return earlier, nil
	}
	return s.commitLocked(b)
}

func (s *Store) commitLocked(b *store.Batch) (store.Result, error) {
	d := s.disk
	d.commits++
	fault := None
	if d.faults != nil {
		fault = d.faults(d.commits)
	}
	switch {
	case fault == CutBefore:
		s.Kill()
		return store.Result{}, ErrCut
	case fault == UnknownLost:
		return store.Result{}, store.ErrUnknown
	case fault == Full || d.full && !b.UseReserve:
		return store.Result{}, store.ErrFull
	}
	w := writing{root: d.root}
	if err := w.apply(b.Ops); err != nil {
		return store.Result{}, err
	}
	d.root, d.results[b.ID] = w.root, w.result
	d.strays += w.strays
	switch fault {
	case CutAfter:
		s.Kill()
		return store.Result{}, ErrCut
	case UnknownWritten:
		return store.Result{}, store.ErrUnknown
	}
	return w.result, nil
}

// writing is a commit under way.
type writing struct {
	root   *node
	result store.Result
	strays int
}

func (w *writing) apply(ops []store.Op) error {
	if err := check(ops); err != nil {
		return err
	}
	for _, op := range ops {
		value, present := w.root.get(string(op.Key))
		if op.Kind == store.OpIfAbsent && present ||
			op.Kind == store.OpIfEquals && !(present && bytes.Equal(value, op.Value)) {
			return store.ErrConflict
		}
	}
	return w.write(ops)
}

// check holds operations against the limits.
func check(ops []store.Op) error {
	octets := 0
	for _, op := range ops {
		octets += len(op.Key) + len(op.Value)
		switch {
		case len(op.Key) == 0 || op.Key[0] == 0:
			return errors.New("key of nobody")
		case len(op.Key) > store.MaxKeyOctets || len(op.Value) > store.MaxValueOctets:
			return store.ErrTooLarge
		}
	}
	if len(ops) > store.MaxBatchOps || octets > store.MaxBatchOctets {
		return store.ErrTooLarge
	}
	return nil
}

func (w *writing) write(ops []store.Op) error {
	for _, op := range ops {
		switch op.Kind {
		case store.OpPut:
			w.root = w.root.put(string(op.Key), append([]byte{}, op.Value...))
		case store.OpDelete:
			w.root = w.root.without(string(op.Key))
		case store.OpDeleteRange:
			w.root = w.root.cut(string(op.Key), string(op.Value))
		case store.OpAdd, store.OpMax, store.OpNext:
			if err := w.count(op); err != nil {
				return err
			}
		case store.OpDecide:
			if err := w.decide(op.Decide); err != nil {
				return err
			}
		}
	}
	return nil
}

func (w *writing) decide(decide store.Decider) error {
	var decided store.Batch
	get := func(key []byte) ([]byte, error) { return snapshot{w.root}.Get(key) }
	err := decide(get, &decided)
	if errors.Is(err, errStray) {
		w.strays++
		return nil
	}
	if err != nil {
		return err
	}
	if err := check(decided.Ops); err != nil {
		return err
	}
	return w.write(decided.Ops)
}

func (w *writing) count(op store.Op) error {
	present, err := snapshot{w.root}.Counter(op.Key)
	if err != nil {
		return err
	}
	next := present + op.N
	switch {
	case op.Kind == store.OpMax:
		next = max(present, op.N)
	case op.N > 0 && present > math.MaxInt64-op.N || op.N < 0 && present < math.MinInt64-op.N:
		return fmt.Errorf("counter %q overflows", op.Key)
	case op.Kind == store.OpNext:
		w.result.Allocated = append(w.result.Allocated, present+1)
	}
	w.root = w.root.put(string(op.Key), store.EncodeCounter(next))
	return nil
}

// snapshot implements store.Snapshot.
type snapshot struct{ root *node }

func (s snapshot) Get(key []byte) ([]byte, error) {
	if value, present := s.root.get(string(key)); present {
		return value, nil
	}
	return nil, store.ErrNotFound
}

func (s snapshot) Counter(key []byte) (int64, error) {
	value, _ := s.root.get(string(key))
	return store.DecodeCounter(value)
}

func (s snapshot) Range(lo, hi []byte, limit int, reverse bool) iter.Seq2[store.Pair, error] {
	return func(yield func(store.Pair, error) bool) {
		n := 0
		each := func(at *node) bool {
			n++
			return yield(store.Pair{Key: []byte(at.key), Value: at.value}, nil) && (limit <= 0 || n < limit)
		}
		if reverse {
			s.root.descend(string(lo), string(hi), each)
		} else {
			s.root.ascend(string(lo), string(hi), each)
		}
	}
}
