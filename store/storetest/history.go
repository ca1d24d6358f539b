package storetest

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"pgregory.net/rapid"

	"github.com/postern-mail/postern/store"
)

// testHistories has clients do random transactions and views at once and looks
// for an order of all of them, within the times they took, in which the model
// answers the same: that the store is linearizable.
func testHistories(t *testing.T, e Engine) {
	s := e.Open(t)
	round := 0
	rapid.Check(t, func(rt *rapid.T) {
		round++
		prefix := fmt.Sprintf("k/%d/", round)
		programs := rapid.SliceOfN(rapid.SliceOfN(transactions(prefix), 1, 4), 2, 4).Draw(rt, "programs")
		h := &history{prefix: prefix}
		var wg sync.WaitGroup
		for _, program := range programs {
			wg.Go(func() {
				for _, ops := range program {
					h.do(s, ops)
				}
			})
		}
		wg.Wait()
		if h.failure != nil {
			rt.Fatal(h.failure)
		}
		if !h.linearizable() {
			rt.Fatalf("no order explains this history:\n%v", h)
		}
	})
}

// transactions generates the operations of a batch over few keys; none means a
// view.
func transactions(prefix string) *rapid.Generator[[]store.Op] {
	value := rapid.SampledFrom([]string{"a", "b"})
	key := rapid.SampledFrom([]string{"x", "y"})
	return rapid.SliceOfN(rapid.Custom(func(t *rapid.T) store.Op {
		plain := []byte(prefix + key.Draw(t, "key"))
		counter := []byte(prefix + "n")
		switch rapid.IntRange(0, 9).Draw(t, "kind") {
		case 0:
			return store.Op{Kind: store.OpIfAbsent, Key: plain}
		case 1:
			return store.Op{Kind: store.OpIfEquals, Key: plain, Value: []byte(value.Draw(t, "expected"))}
		case 2, 3:
			return store.Op{Kind: store.OpPut, Key: plain, Value: []byte(value.Draw(t, "value"))}
		case 4:
			return store.Op{Kind: store.OpDelete, Key: plain}
		case 5:
			return store.Op{Kind: store.OpDeleteRange, Key: []byte(prefix + "x"), Value: []byte(prefix + "y")}
		case 6:
			return store.Op{Kind: store.OpNext, Key: counter, N: int64(rapid.IntRange(1, 3).Draw(t, "numbers"))}
		case 7:
			return store.Op{Kind: store.OpAdd, Key: counter, N: int64(rapid.IntRange(-2, 2).Draw(t, "added"))}
		case 8:
			return store.Op{Kind: store.OpMax, Key: counter, N: int64(rapid.IntRange(0, 9).Draw(t, "at least"))}
		default:
			return store.Op{Kind: store.OpDecide, Key: plain, Decide: appendTo(plain)}
		}
	}), 0, 4)
}

// appendTo makes a value one octet longer.
func appendTo(key []byte) store.Decider {
	return func(get func([]byte) ([]byte, error), w *store.Batch) error {
		value, err := get(key)
		if err != nil && !errors.Is(err, store.ErrNotFound) {
			return err
		}
		w.Put(key, append(slices.Clone(value), '+'))
		return nil
	}
}

// event is one transaction or view, and when it was.
type event struct {
	ops        []store.Op // none for a view
	begin, end int64
	result     string
}

type history struct {
	prefix string
	clock  atomic.Int64

	mu      sync.Mutex
	events  []*event
	failure error
}

// do runs one transaction or view and remembers it.
func (h *history) do(s store.Store, ops []store.Op) {
	e := &event{ops: ops, begin: h.clock.Add(1)}
	var err error
	if len(ops) == 0 {
		err = s.View(context.Background(), func(v store.Snapshot) error {
			found := state{}
			for pair, err := range v.Range([]byte(h.prefix), []byte(h.prefix+"\xff"), 0, false) {
				if err != nil {
					return err
				}
				found[string(pair.Key)] = slices.Clone(pair.Value)
			}
			e.result = found.String()
			return nil
		})
	} else {
		b := store.NewBatch()
		b.Ops = ops
		var result store.Result
		result, err = s.Commit(context.Background(), b)
		e.result = outcome(result, err)
		if errors.Is(err, store.ErrConflict) {
			err = nil
		}
	}
	e.end = h.clock.Add(1)
	h.mu.Lock()
	defer h.mu.Unlock()
	h.events = append(h.events, e)
	if err != nil {
		h.failure = err
	}
}

func outcome(r store.Result, err error) string {
	if errors.Is(err, store.ErrConflict) {
		return "conflict"
	}
	return fmt.Sprint(r.Allocated, err)
}

// String lists what is stored.
func (s state) String() string {
	var b strings.Builder
	for _, key := range slices.Sorted(maps.Keys(s)) {
		fmt.Fprintf(&b, "%q=%q ", key, s[key])
	}
	return b.String()
}

// linearizable looks for an order by depth first. Which events are done, and
// the state then, is all that matters for the rest: no pair is tried twice.
func (h *history) linearizable() bool {
	tried := map[string]bool{}
	var search func(done uint64, now state) bool
	search = func(done uint64, now state) bool {
		if done == 1<<len(h.events)-1 {
			return true
		}
		place := fmt.Sprint(done, now)
		if tried[place] {
			return false
		}
		tried[place] = true
		for i, e := range h.events {
			if done&(1<<i) != 0 || !h.mayBeNext(done, e) {
				continue
			}
			if next, ok := e.explainedBy(now); ok && search(done|1<<i, next) {
				return true
			}
		}
		return false
	}
	return search(0, state{})
}

// mayBeNext: nothing that is not done yet had ended before e began.
func (h *history) mayBeNext(done uint64, e *event) bool {
	for i, other := range h.events {
		if done&(1<<i) == 0 && other.end < e.begin {
			return false
		}
	}
	return true
}

// explainedBy returns the state behind e when it answers as the model does.
func (e *event) explainedBy(now state) (state, bool) {
	if len(e.ops) == 0 {
		return now, now.String() == e.result
	}
	next, result, err := now.apply(e.ops)
	if err != nil {
		next = now
	}
	return next, outcome(result, err) == e.result
}

func (h *history) String() string {
	var b strings.Builder
	for _, e := range h.events {
		fmt.Fprintf(&b, "%3d-%3d ", e.begin, e.end)
		for _, op := range e.ops {
			fmt.Fprintf(&b, "[%d %q %q %d] ", op.Kind, op.Key, op.Value, op.N)
		}
		fmt.Fprintf(&b, "-> %s\n", e.result)
	}
	return b.String()
}
