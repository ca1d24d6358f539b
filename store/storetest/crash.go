package storetest

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"

	"github.com/postern-mail/postern/store"
)

// tracked is a batch and what its caller knows of it.
type tracked struct {
	batch  *store.Batch
	name   string
	result store.Result
}

// ledger is what callers were told, as of some instant.
type ledger struct {
	mu           sync.Mutex
	begun, acked []tracked
}

func (l *ledger) begin(t tracked) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.begun = append(l.begun, t)
}

func (l *ledger) ack(t tracked) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.acked = append(l.acked, t)
}

// now returns the batches begun and acknowledged so far.
func (l *ledger) now() (begun, acked []tracked) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.Clip(l.begun), slices.Clip(l.acked)
}

// transfer is a batch whose every trace must agree: two rows, a number, a sum
// and a row that nobody else may have.
func transfer(name string) *store.Batch {
	b := store.NewBatch()
	b.IfAbsent(k("guard/" + name))
	b.Put(k("guard/"+name), nil)
	b.Put(k("left/"+name), []byte(name))
	b.Put(k("right/"+name), make([]byte, 300*len(name)))
	b.Next(k("number"), 2)
	b.Add(k("sum"), 1)
	return b
}

// work commits from several goroutines; each calls between after each of its
// commits.
func work(t *testing.T, s store.Store, l *ledger, round string, each int, between func(worker, i int)) {
	t.Helper()
	var wg sync.WaitGroup
	for w := range 4 {
		wg.Go(func() {
			for i := range each {
				name := fmt.Sprintf("%s-%d-%d", round, w, i)
				batch := tracked{batch: transfer(name), name: name}
				l.begin(batch)
				result, err := s.Commit(context.Background(), batch.batch)
				if err != nil {
					t.Errorf("commit %s: %v", name, err)
					return
				}
				batch.result = result
				l.ack(batch)
				between(w, i)
			}
		})
	}
	wg.Wait()
}

// whole reports whether a batch is there, failing when a part of it is.
func whole(t *testing.T, s store.Store, name string) bool {
	t.Helper()
	found := 0
	for _, key := range []string{"guard/", "left/", "right/"} {
		if get(t, s, k(key+name)) != absent {
			found++
		}
	}
	if found != 0 && found != 3 {
		t.Errorf("%s: %d of 3 rows survived", name, found)
	}
	return found == 3
}

// survived holds a store that lost its power against what callers knew.
func survived(t *testing.T, s store.Store, begun, acked []tracked) {
	t.Helper()
	there := 0
	known := map[string]bool{}
	for _, a := range acked {
		known[a.name] = true
		if !whole(t, s, a.name) {
			t.Errorf("%s was acknowledged and is lost", a.name)
		}
	}
	for _, b := range begun {
		if whole(t, s, b.name) {
			there++
		}
	}
	want(t, "sum of what is there", counter(t, s, k("sum")), int64(there))
	want(t, "numbers allocated", counter(t, s, k("number")), int64(2*there))

	// Every caller may ask again. Who was answered gets the same answer, and
	// nothing happens twice.
	numbers := map[int64]string{}
	for _, b := range begun {
		again, err := s.Commit(context.Background(), &store.Batch{ID: b.batch.ID, Ops: b.batch.Ops})
		if err != nil {
			t.Errorf("%s: commit again: %v", b.name, err)
			continue
		}
		if other, taken := numbers[again.Allocated[0]]; taken {
			t.Errorf("%s and %s both got %d", b.name, other, again.Allocated[0])
		}
		numbers[again.Allocated[0]] = b.name
	}
	for _, a := range acked {
		if numbers[a.result.Allocated[0]] != a.name {
			t.Errorf("%s got %d and gets another number now", a.name, a.result.Allocated[0])
		}
	}
	want(t, "sum of all", counter(t, s, k("sum")), int64(len(begun)))
	err := commitErr(s, func(b *store.Batch) { b.IfAbsent(k("guard/" + begun[0].name)) })
	if !errors.Is(err, store.ErrConflict) {
		t.Errorf("a precondition that does not hold, after a power cut: %v", err)
	}
}

// testCrash cuts the power at many instants of a busy store.
func testCrash(t *testing.T, e Crasher) {
	s := e.Open(t)
	var l ledger
	var after sync.WaitGroup
	work(t, s, &l, "a", 8, func(w, i int) {
		// What is acknowledged now is there at the cut that follows.
		_, acked := l.now()
		seed := uint64(w*100 + i)
		left := e.Cut(seed)
		begun, _ := l.now()
		if i%2 == w%2 {
			after.Go(func() {
				s := left.Open(t)
				survived(t, s, begun, acked)
			})
		}
	})
	after.Wait()
}

// testCrashShown: a view shows nothing that a power cut after it takes back.
func testCrashShown(t *testing.T, e Crasher) {
	s := e.Open(t)
	var l ledger
	stop := make(chan struct{})
	var reader sync.WaitGroup
	reader.Go(func() {
		for seed := uint64(0); ; seed++ {
			select {
			case <-stop:
				return
			default:
			}
			shown := keysOf(t, s, k("guard/"), k("guard0"), 0, false)
			left := e.Cut(seed)
			if seed%8 != 0 {
				continue
			}
			there := keysOf(t, left.Open(t), k("guard/"), k("guard0"), 0, false)
			for _, key := range shown {
				if _, found := slices.BinarySearch(there, key); !found {
					t.Errorf("%s was shown and is lost", key)
				}
			}
		}
	})
	work(t, s, &l, "a", 30, func(int, int) {})
	close(stop)
	reader.Wait()
}

// testCrashChain goes on, after each power cut, with what it left.
func testCrashChain(t *testing.T, e Crasher) {
	var begun, acked []tracked
	now := Engine(e)
	for round := range 5 {
		s := now.Open(t)
		if round > 0 {
			survived(t, s, begun, acked)
		}
		var l ledger
		l.begun, l.acked = slices.Clone(begun), slices.Clone(begun) // survived has committed them all
		for i := range l.acked {
			l.acked[i].result = again(t, s, l.acked[i])
		}
		var once sync.Once
		crasher := now.(Crasher)
		work(t, s, &l, fmt.Sprint(round), 4, func(_, i int) {
			if i == 2 {
				once.Do(func() {
					_, acked = l.now()
					now = crasher.Cut(uint64(round))
					begun, _ = l.now()
				})
			}
		})
	}
}

// again commits a batch again and returns the answer.
func again(t *testing.T, s store.Store, b tracked) store.Result {
	t.Helper()
	result, err := s.Commit(context.Background(), &store.Batch{ID: b.batch.ID, Ops: b.batch.Ops})
	if err != nil {
		t.Fatal(err)
	}
	return result
}

// testCrashEverywhere cuts the power ahead of every operation of a store, from
// its first start to its close.
func testCrashEverywhere(t *testing.T, e Crasher) {
	type cut struct {
		left         Engine
		begun, acked []tracked
	}
	var l ledger
	var mu sync.Mutex
	var cuts []cut
	e.OnOp(func(n int) {
		_, acked := l.now()
		left := e.Cut(uint64(n))
		begun, _ := l.now()
		mu.Lock()
		defer mu.Unlock()
		cuts = append(cuts, cut{left, begun, acked})
	})
	s := e.Open(t)
	work(t, s, &l, "a", 5, func(int, int) {})
	if err := s.Close(); err != nil {
		t.Error(err)
	}
	e.OnOp(nil)
	if len(cuts) < 20 {
		t.Errorf("only %d operations", len(cuts))
	}
	for i, c := range cuts {
		s := c.left.Open(t)
		if len(c.begun) > 0 {
			survived(t, s, c.begun, c.acked)
		}
		if err := s.Close(); err != nil {
			t.Errorf("close: %v", err)
		}
		if t.Failed() {
			t.Fatalf("the cut ahead of operation %d of %d", i+1, len(cuts))
		}
	}
}
