package storetest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"iter"
	"maps"
	"math"
	"slices"
	"sync"

	"github.com/postern-mail/postern/store"
)

// Model is the store in the fewest words: the reference that engines are held
// against, and a quick store for tests of what stands on one. A commit is
// durable at once. It copies everything at every commit: for some hundred keys.
type Model struct {
	mu      sync.Mutex
	state   state                       // replaced, never changed
	results map[store.TxID]store.Result // of all batches ever
}

// state is what is stored, with values that are never written to.
type state map[string][]byte

// NewModel returns an empty store.
func NewModel() *Model {
	return &Model{state: state{}, results: map[store.TxID]store.Result{}}
}

// Open returns a store over what is there. Closing it loses nothing.
func (m *Model) Open() store.Store { return &modelStore{model: m} }

// Clone returns a model with what is stored now.
func (m *Model) Clone() *Model {
	m.mu.Lock()
	defer m.mu.Unlock()
	return &Model{state: m.state, results: maps.Clone(m.results)}
}

func (m *Model) commit(b *store.Batch) (store.Result, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if earlier, found := m.results[b.ID]; found {
		return earlier, nil
	}
	next, result, err := m.state.apply(b.Ops)
	if err != nil {
		return store.Result{}, err
	}
	m.state = next
	m.results[b.ID] = result
	return result, nil
}

// apply returns the state behind a batch.
func (s state) apply(ops []store.Op) (state, store.Result, error) {
	if err := checkOps(ops); err != nil {
		return nil, store.Result{}, err
	}
	for _, op := range ops {
		value, present := s[string(op.Key)]
		if op.Kind == store.OpIfAbsent && present ||
			op.Kind == store.OpIfEquals && !(present && bytes.Equal(value, op.Value)) {
			return nil, store.Result{}, store.ErrConflict
		}
	}
	next, result := maps.Clone(s), store.Result{}
	if err := next.write(ops, &result); err != nil {
		return nil, store.Result{}, err
	}
	return next, result, nil
}

// checkOps holds operations against the limits.
func checkOps(ops []store.Op) error {
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

func (s state) get(key []byte) ([]byte, error) {
	if value, present := s[string(key)]; present {
		return value, nil
	}
	return nil, store.ErrNotFound
}

func (s state) counter(key []byte) (int64, error) { return store.DecodeCounter(s[string(key)]) }

// write does the writes of a batch, in order, in place.
func (s state) write(ops []store.Op, result *store.Result) error {
	for _, op := range ops {
		switch op.Kind {
		case store.OpPut:
			s[string(op.Key)] = bytes.Clone(op.Value)
		case store.OpDelete:
			delete(s, string(op.Key))
		case store.OpDeleteRange:
			maps.DeleteFunc(s, func(key string, _ []byte) bool {
				return key >= string(op.Key) && key < string(op.Value)
			})
		case store.OpAdd, store.OpMax, store.OpNext:
			if err := s.count(op, result); err != nil {
				return err
			}
		case store.OpDecide:
			var decided store.Batch
			if err := op.Decide(s.get, &decided); err != nil {
				return err
			}
			if err := checkOps(decided.Ops); err != nil {
				return err
			}
			if err := s.write(decided.Ops, result); err != nil {
				return err
			}
		}
	}
	return nil
}

func (s state) count(op store.Op, result *store.Result) error {
	present, err := s.counter(op.Key)
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
		result.Allocated = append(result.Allocated, present+1)
	}
	s[string(op.Key)] = store.EncodeCounter(next)
	return nil
}

// modelStore implements store.Store.
type modelStore struct {
	model *Model

	mu     sync.RWMutex // held for reading by who uses the store
	closed bool
}

func (s *modelStore) View(ctx context.Context, fn func(store.Snapshot) error) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	s.mu.RLock()
	closed := s.closed
	s.mu.RUnlock()
	if closed {
		return store.ErrClosed
	}
	s.model.mu.Lock()
	now := s.model.state
	s.model.mu.Unlock()
	return fn(modelSnapshot{now})
}

func (s *modelStore) Commit(ctx context.Context, b *store.Batch) (store.Result, error) {
	if b.ID == (store.TxID{}) {
		return store.Result{}, store.ErrNoTxID
	}
	for _, before := range b.Before {
		if err := before(ctx); err != nil {
			return store.Result{}, err
		}
	}
	if err := ctx.Err(); err != nil {
		return store.Result{}, err
	}
	s.mu.RLock()
	defer s.mu.RUnlock()
	if s.closed {
		return store.Result{}, store.ErrClosed
	}
	return s.model.commit(b)
}

func (s *modelStore) Close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closed = true
	return nil
}

// modelSnapshot implements store.Snapshot.
type modelSnapshot struct{ state state }

func (s modelSnapshot) Get(key []byte) ([]byte, error) { return s.state.get(key) }

func (s modelSnapshot) Counter(key []byte) (int64, error) { return s.state.counter(key) }

func (s modelSnapshot) Range(lo, hi []byte, limit int, reverse bool) iter.Seq2[store.Pair, error] {
	return func(yield func(store.Pair, error) bool) {
		var keys []string
		for key := range s.state {
			if key >= string(lo) && key < string(hi) {
				keys = append(keys, key)
			}
		}
		slices.Sort(keys)
		if reverse {
			slices.Reverse(keys)
		}
		if limit > 0 && len(keys) > limit {
			keys = keys[:limit]
		}
		for _, key := range keys {
			if !yield(store.Pair{Key: []byte(key), Value: s.state[key]}, nil) {
				return
			}
		}
	}
}
