package storetest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"

	"github.com/postern-mail/postern/internal/testenv"
	"github.com/postern-mail/postern/store"
)

// Engine is an engine under test, on storage of its own.
type Engine interface {
	// Open opens the store, again after it was closed, with what was in it.
	Open(t *testing.T) store.Store
}

// Crasher is an Engine whose power can fail.
type Crasher interface {
	Engine
	// Cut returns an engine on storage as a power cut at this instant may leave
	// it, chosen by seed. The one it is taken from goes on undisturbed.
	Cut(seed uint64) Engine
	// OnOp has fn called, from any goroutine, ahead of each operation that
	// changes something on storage. nil ends it.
	OnOp(fn func(n int))
}

// Run runs the conformance suite. fresh gives each test an engine with nothing
// in it.
func Run(t *testing.T, fresh func(t *testing.T) Engine) {
	for _, c := range []struct {
		name string
		test func(t *testing.T, e Engine)
	}{
		{"get and put", testGetPut},
		{"atomicity", testAtomicity},
		{"preconditions", testPreconditions},
		{"preconditions under concurrency", testConcurrentPreconditions},
		{"counters", testCounters},
		{"counters in order of visibility", testCounterVisibility},
		{"decide", func(t *testing.T, e Engine) { testDecide(t, e, (*store.Batch).Decide) }},
		{"decide on what should be new", func(t *testing.T, e Engine) { testDecide(t, e, (*store.Batch).DecideNew) }},
		{"decide refuses the whole batch", testDecideRefuses},
		{"transaction ids", testTxID},
		{"no transaction id", testNoTxID},
		{"ranges", testRanges},
		{"ranges of random keys", testRandomRanges},
		{"delete range", testDeleteRange},
		{"snapshots", testSnapshots},
		{"limits", testLimits},
		{"before", testBefore},
		{"reopen", testReopen},
		{"closed", testClosed},
		{"histories", testHistories},
		{"leases", testLeases},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			c.test(t, fresh(t))
		})
	}
}

// RunCrashes runs the tests of what a power cut may take: nothing that was
// acknowledged or shown.
func RunCrashes(t *testing.T, fresh func(t *testing.T) Crasher) {
	for _, c := range []struct {
		name string
		test func(t *testing.T, e Crasher)
	}{
		{"acknowledged commits survive", testCrash},
		{"what was shown survives", testCrashShown},
		{"cut again and again", testCrashChain},
		{"cut ahead of every operation", testCrashEverywhere},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			c.test(t, fresh(t))
		})
	}
}

func k(s string) []byte { return []byte("k/" + s) }

func commit(t *testing.T, s store.Store, fill func(b *store.Batch)) store.Result {
	t.Helper()
	b := store.NewBatch()
	fill(b)
	r, err := s.Commit(context.Background(), b)
	if err != nil {
		t.Fatalf("commit: %v", err)
	}
	return r
}

// commitErr commits what fill adds and returns the error.
func commitErr(s store.Store, fill func(b *store.Batch)) error {
	b := store.NewBatch()
	fill(b)
	_, err := s.Commit(context.Background(), b)
	return err
}

func view(t *testing.T, s store.Store, fn func(v store.Snapshot) error) {
	t.Helper()
	if err := s.View(context.Background(), fn); err != nil {
		t.Fatalf("view: %v", err)
	}
}

// get returns a value, or "(absent)".
func get(t *testing.T, s store.Store, key []byte) (value string) {
	t.Helper()
	view(t, s, func(v store.Snapshot) error {
		octets, err := v.Get(key)
		if errors.Is(err, store.ErrNotFound) {
			value = absent
			return nil
		}
		value = string(octets)
		return err
	})
	return value
}

const absent = "(absent)"

func counter(t *testing.T, s store.Store, key []byte) (n int64) {
	t.Helper()
	view(t, s, func(v store.Snapshot) (err error) {
		n, err = v.Counter(key)
		return err
	})
	return n
}

func want[T comparable](t *testing.T, what string, got, want T) {
	t.Helper()
	if got != want {
		t.Errorf("%s: got %v, want %v", what, got, want)
	}
}

func testGetPut(t *testing.T, e Engine) {
	s := e.Open(t)
	want(t, "before", get(t, s, k("a")), absent)
	commit(t, s, func(b *store.Batch) { b.Put(k("a"), []byte("1")); b.Put(k("empty"), nil) })
	want(t, "put", get(t, s, k("a")), "1")
	want(t, "empty value", get(t, s, k("empty")), "")
	commit(t, s, func(b *store.Batch) { b.Put(k("a"), []byte("2")); b.Delete(k("empty")); b.Delete(k("never")) })
	want(t, "overwritten", get(t, s, k("a")), "2")
	want(t, "deleted", get(t, s, k("empty")), absent)
	commit(t, s, func(b *store.Batch) { b.Put(k("a"), []byte("3")); b.Delete(k("a")); b.Put(k("a"), []byte("4")) })
	want(t, "order within a batch", get(t, s, k("a")), "4")
}

// testAtomicity moves an amount between accounts while readers add them up.
func testAtomicity(t *testing.T, e Engine) {
	s := e.Open(t)
	commit(t, s, func(b *store.Batch) { b.Add(k("x"), 1000) })
	var wg sync.WaitGroup
	for w := range 4 {
		wg.Go(func() {
			for i := range 40 {
				n := int64((w+1)*(i%7) - 9)
				if err := commitErr(s, func(b *store.Batch) { b.Add(k("x"), -n); b.Add(k("y"), n) }); err != nil {
					t.Error(err)
				}
			}
		})
		wg.Go(func() {
			for range 40 {
				_ = s.View(context.Background(), func(v store.Snapshot) error {
					x, _ := v.Counter(k("x"))
					y, _ := v.Counter(k("y"))
					if x+y != 1000 {
						t.Errorf("a view shows half a batch: %d + %d", x, y)
					}
					return nil
				})
			}
		})
	}
	wg.Wait()
}

func testPreconditions(t *testing.T, e Engine) {
	s := e.Open(t)
	commit(t, s, func(b *store.Batch) { b.Put(k("a"), []byte("1")); b.Add(k("n"), 7) })
	for _, c := range []struct {
		name string
		fill func(b *store.Batch)
		ok   bool
	}{
		{"absent", func(b *store.Batch) { b.IfAbsent(k("b")) }, true},
		{"absent, but present", func(b *store.Batch) { b.IfAbsent(k("a")) }, false},
		{"equals", func(b *store.Batch) { b.IfEquals(k("a"), []byte("1")) }, true},
		{"equals, but other", func(b *store.Batch) { b.IfEquals(k("a"), []byte("2")) }, false},
		{"equals, but longer", func(b *store.Batch) { b.IfEquals(k("a"), []byte("12")) }, false},
		{"equals, but absent", func(b *store.Batch) { b.IfEquals(k("b"), nil) }, false},
		{"counter equals", func(b *store.Batch) { b.IfEquals(k("n"), store.EncodeCounter(7)) }, true},
		{"checked before the writes", func(b *store.Batch) { b.Put(k("c"), nil); b.IfAbsent(k("c")) }, true},
		{"all must hold", func(b *store.Batch) { b.IfAbsent(k("b")); b.IfAbsent(k("a")) }, false},
	} {
		commit(t, s, func(b *store.Batch) { b.Delete(k("c")); b.Delete(k("mark")) })
		err := commitErr(s, func(b *store.Batch) { b.Put(k("mark"), nil); c.fill(b) })
		if c.ok != (err == nil) || !c.ok && !errors.Is(err, store.ErrConflict) {
			t.Errorf("%s: got %v", c.name, err)
		}
		if written := get(t, s, k("mark")) != absent; written != c.ok {
			t.Errorf("%s: written %v", c.name, written)
		}
	}
}

// testConcurrentPreconditions has writers append to one value by comparing and
// writing: every success must be in the result, in an order.
func testConcurrentPreconditions(t *testing.T, e Engine) {
	s := e.Open(t)
	commit(t, s, func(b *store.Batch) { b.Put(k("list"), nil) })
	const writers, each = 8, 12
	var wg sync.WaitGroup
	for w := range writers {
		wg.Go(func() {
			for range each {
				for {
					var now []byte
					_ = s.View(context.Background(), func(v store.Snapshot) error {
						octets, err := v.Get(k("list"))
						now = bytes.Clone(octets)
						return err
					})
					err := commitErr(s, func(b *store.Batch) {
						b.IfEquals(k("list"), now)
						b.Put(k("list"), append(now, byte(w)))
					})
					if err == nil {
						break
					}
					if !errors.Is(err, store.ErrConflict) {
						t.Error(err)
						return
					}
				}
			}
		})
	}
	wg.Wait()
	list := get(t, s, k("list"))
	for w := range writers {
		want(t, fmt.Sprintf("appends of writer %d", w), bytes.Count([]byte(list), []byte{byte(w)}), each)
	}
	var won int
	var mu sync.Mutex
	for range writers {
		wg.Go(func() {
			if commitErr(s, func(b *store.Batch) { b.IfAbsent(k("once")); b.Put(k("once"), nil) }) == nil {
				mu.Lock()
				won++
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	want(t, "winners of IfAbsent", won, 1)
}

func testCounters(t *testing.T, e Engine) {
	s := e.Open(t)
	want(t, "absent counter", counter(t, s, k("c")), 0)
	r := commit(t, s, func(b *store.Batch) { b.Next(k("c"), 1); b.Next(k("c"), 5); b.Next(k("d"), 2) })
	if !slices.Equal(r.Allocated, []int64{1, 2, 1}) {
		t.Errorf("allocated %v", r.Allocated)
	}
	commit(t, s, func(b *store.Batch) { b.Add(k("c"), -10) })
	want(t, "added", counter(t, s, k("c")), -4)
	commit(t, s, func(b *store.Batch) { b.Max(k("c"), 9); b.Max(k("c"), 3) })
	want(t, "max", counter(t, s, k("c")), 9)
	r = commit(t, s, func(b *store.Batch) { b.Next(k("c"), 1) })
	want(t, "next after max", r.Allocated[0], 10)
	commit(t, s, func(b *store.Batch) { b.Delete(k("c")) })
	want(t, "deleted counter", counter(t, s, k("c")), 0)
	commit(t, s, func(b *store.Batch) {
		b.Add(k("c"), 1)
		b.Put(k("c"), store.EncodeCounter(40))
		b.Add(k("c"), 1)
	})
	want(t, "put and added", counter(t, s, k("c")), 41)
	if err := commitErr(s, func(b *store.Batch) { b.Add(k("c"), 1); b.IfAbsent(k("c")) }); !errors.Is(err, store.ErrConflict) {
		t.Errorf("a precondition about a counter: %v", err)
	}
	refusal := errors.New("no")
	err := commitErr(s, func(b *store.Batch) {
		b.Add(k("c"), 1)
		b.Decide(k("c"), func(func([]byte) ([]byte, error), *store.Batch) error { return refusal })
	})
	if !errors.Is(err, refusal) {
		t.Error(err)
	}
	commit(t, s, func(b *store.Batch) { b.Add(k("c"), 1) })
	want(t, "added after refusals", counter(t, s, k("c")), 42)
	commit(t, s, func(b *store.Batch) { b.DeleteRange(k("c"), k("d")); b.Add(k("c"), 1) })
	want(t, "range deleted, then added", counter(t, s, k("c")), 1)
	commit(t, s, func(b *store.Batch) {
		b.Decide(k("c"), func(get func([]byte) ([]byte, error), w *store.Batch) error {
			w.Put(k("c"), store.EncodeCounter(7))
			return nil
		})
		b.Add(k("c"), 1)
	})
	want(t, "decided, then added", counter(t, s, k("c")), 8)
	commit(t, s, func(b *store.Batch) { b.Max(k("big"), 1<<62) })
	if err := commitErr(s, func(b *store.Batch) { b.Add(k("big"), 1<<62) }); err == nil {
		t.Error("a counter overflowed")
	}
	commit(t, s, func(b *store.Batch) { b.Put(k("text"), []byte("abc")) })
	if err := commitErr(s, func(b *store.Batch) { b.Put(k("other"), nil); b.Add(k("text"), 1) }); err == nil {
		t.Error("counted on what is no counter")
	}
	want(t, "batch with a bad counter", get(t, s, k("other")), absent)
}

// testCounterVisibility: a number that is visible has all lower ones visible.
func testCounterVisibility(t *testing.T, e Engine) {
	s := e.Open(t)
	const writers, each = 8, 25
	done := make(chan struct{})
	var writing, reading sync.WaitGroup
	reading.Go(func() {
		for running := true; running; {
			select {
			case <-done:
				running = false
			default:
			}
			_ = s.View(context.Background(), func(v store.Snapshot) error {
				n, _ := v.Counter(k("uid"))
				rows := int64(0)
				for _, err := range v.Range(k("row/"), k("row0"), 0, false) {
					if err != nil {
						return err
					}
					rows++
				}
				if rows != n {
					t.Errorf("the counter says %d, rows are %d", n, rows)
				}
				return nil
			})
		}
	})
	var mu sync.Mutex
	seen := map[int64]bool{}
	for w := range writers {
		writing.Go(func() {
			for i := range each {
				b := store.NewBatch()
				b.Next(k("uid"), 1)
				b.Put(k(fmt.Sprintf("row/%d.%d", w, i)), nil)
				r, err := s.Commit(context.Background(), b)
				if err != nil {
					t.Error(err)
					return
				}
				mu.Lock()
				if seen[r.Allocated[0]] {
					t.Errorf("%d was allocated twice", r.Allocated[0])
				}
				seen[r.Allocated[0]] = true
				mu.Unlock()
				if n := counter(t, s, k("uid")); n < r.Allocated[0] {
					t.Errorf("a commit returned, but a view shows %d before %d", n, r.Allocated[0])
				}
			}
		})
	}
	writing.Wait()
	close(done)
	reading.Wait()
	want(t, "last", counter(t, s, k("uid")), writers*each)
}

// testDecide keeps a set's size beside it without any other lock.
func testDecide(t *testing.T, e Engine, decide func(b *store.Batch, lock []byte, fn store.Decider)) {
	s := e.Open(t)
	toggle := func(b *store.Batch, member []byte) {
		decide(b, k("set"), func(get func([]byte) ([]byte, error), w *store.Batch) error {
			_, err := get(member)
			if errors.Is(err, store.ErrNotFound) {
				w.Put(member, nil)
				w.Add(k("size"), 1)
				return nil
			}
			w.Delete(member)
			w.Add(k("size"), -1)
			return err
		})
	}
	var wg sync.WaitGroup
	for w := range 6 {
		wg.Go(func() {
			for i := range 21 {
				member := k(fmt.Sprintf("member/%d", (w+i)%3))
				if err := commitErr(s, func(b *store.Batch) { toggle(b, member); toggle(b, k("member/z")); toggle(b, k("member/z")) }); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	members := int64(0)
	view(t, s, func(v store.Snapshot) error {
		for range v.Range(k("member/"), k("member0"), 0, false) {
			members++
		}
		return nil
	})
	want(t, "size", counter(t, s, k("size")), members)
	want(t, "toggled twice in a batch", get(t, s, k("member/z")), absent)
}

func testDecideRefuses(t *testing.T, e Engine) {
	s := e.Open(t)
	refusal := errors.New("no")
	var wg sync.WaitGroup
	for i := range 20 {
		wg.Go(func() {
			err := commitErr(s, func(b *store.Batch) {
				b.Put(k(fmt.Sprint(i)), nil)
				b.Add(k("sum"), 1)
				b.Decide(k("lock"), func(get func([]byte) ([]byte, error), w *store.Batch) error {
					w.Put(k("decided"), nil)
					if i%2 == 0 {
						return refusal
					}
					return nil
				})
			})
			if i%2 == 0 != errors.Is(err, refusal) {
				t.Errorf("batch %d: %v", i, err)
			}
		})
	}
	wg.Wait()
	for i := range 20 {
		want(t, fmt.Sprintf("batch %d", i), get(t, s, k(fmt.Sprint(i))) != absent, i%2 == 1)
	}
	want(t, "sum", counter(t, s, k("sum")), 10)
}

func testTxID(t *testing.T, e Engine) {
	s := e.Open(t)
	b := store.NewBatch()
	b.Next(k("n"), 3)
	b.Next(k("m"), 1)
	b.Add(k("sum"), 1)
	b.IfAbsent(k("guard"))
	b.Put(k("guard"), nil)
	first, err := s.Commit(context.Background(), b)
	if err != nil {
		t.Fatal(err)
	}
	check := func(when string, s store.Store, b *store.Batch) {
		t.Helper()
		again, err := s.Commit(context.Background(), b)
		if err != nil || !slices.Equal(again.Allocated, first.Allocated) {
			t.Errorf("%s: got %v, %v, want %v", when, again, err, first)
		}
		want(t, when, counter(t, s, k("sum")), 1)
	}
	check("same batch", s, b)
	copied := &store.Batch{ID: b.ID, Ops: b.Ops}
	check("same id", s, copied)
	for range 5 {
		commit(t, s, func(b *store.Batch) { b.Add(k("other"), 1) })
	}
	check("after others", s, b)
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	s = e.Open(t)
	check("after reopening", s, b)
	check("after reopening, same id", s, copied)

	refused := store.NewBatch()
	refused.IfEquals(k("later"), nil)
	refused.Add(k("sum2"), 1)
	if _, err := s.Commit(context.Background(), refused); !errors.Is(err, store.ErrConflict) {
		t.Fatal(err)
	}
	commit(t, s, func(b *store.Batch) { b.Put(k("later"), nil) })
	if _, err := s.Commit(context.Background(), refused); err != nil {
		t.Errorf("a refused batch must not be remembered: %v", err)
	}
	want(t, "refused, then committed", counter(t, s, k("sum2")), 1)

	chosen := &store.Batch{ID: store.NewTxID()}
	chosen.Add(k("sum3"), 1)
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			if _, err := s.Commit(context.Background(), &store.Batch{ID: chosen.ID, Ops: chosen.Ops}); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	want(t, "one id from many callers", counter(t, s, k("sum3")), 1)
}

// testNoTxID: what could not be told from another batch is not committed.
func testNoTxID(t *testing.T, e Engine) {
	s := e.Open(t)
	b := new(store.Batch)
	b.Put(k("a"), nil)
	if _, err := s.Commit(context.Background(), b); err == nil {
		t.Error("a batch without a transaction id was committed")
	}
	want(t, "after it", get(t, s, k("a")), absent)
}

func keysOf(t *testing.T, s store.Store, lo, hi []byte, limit int, reverse bool) (keys []string) {
	t.Helper()
	view(t, s, func(v store.Snapshot) error {
		for pair, err := range v.Range(lo, hi, limit, reverse) {
			if err != nil {
				return err
			}
			keys = append(keys, string(pair.Key))
		}
		return nil
	})
	return keys
}

func testRanges(t *testing.T, e Engine) {
	s := e.Open(t)
	commit(t, s, func(b *store.Batch) {
		for _, key := range []string{"a", "b\x00", "b", "b\xff", "c", "\x01", "\xff\xff"} {
			b.Put([]byte(key), []byte("v"+key))
		}
	})
	for _, c := range []struct {
		name    string
		lo, hi  string
		limit   int
		reverse bool
		want    []string
	}{
		{"half open", "a", "c", 0, false, []string{"a", "b", "b\x00", "b\xff"}},
		{"reverse", "a", "c", 0, true, []string{"b\xff", "b\x00", "b", "a"}},
		{"limit", "a", "c", 2, false, []string{"a", "b"}},
		{"limit, reverse", "a", "c", 2, true, []string{"b\xff", "b\x00"}},
		{"empty", "b\x01", "b\x02", 0, false, nil},
		{"turned round", "c", "a", 0, false, nil},
		{"from the first", "", "b", 0, false, []string{"\x01", "a"}},
		{"single", "b", "b\x00", 0, false, []string{"b"}},
		{"high", "c", "\xff\xff\xff", 0, false, []string{"c", "\xff\xff"}},
	} {
		got := keysOf(t, s, []byte(c.lo), []byte(c.hi), c.limit, c.reverse)
		if !slices.Equal(got, c.want) {
			t.Errorf("%s: got %q, want %q", c.name, got, c.want)
		}
	}
	view(t, s, func(v store.Snapshot) error {
		for pair, err := range v.Range([]byte("a"), []byte("d"), 0, false) {
			if err != nil || string(pair.Value) != "v"+string(pair.Key) {
				t.Errorf("pair %q: %q, %v", pair.Key, pair.Value, err)
			}
			if string(pair.Key) == "b" {
				break
			}
		}
		return nil
	})
}

// testRandomRanges compares with a sorted list.
func testRandomRanges(t *testing.T, e Engine) {
	s := e.Open(t)
	rnd := rand.New(rand.NewPCG(testenv.Seed(t), 1))
	key := func() []byte {
		b := []byte{1 + byte(rnd.IntN(3))}
		for range rnd.IntN(5) {
			b = append(b, []byte{0, 1, 'a', 0xfe, 0xff}[rnd.IntN(5)])
		}
		return b
	}
	model := map[string]bool{}
	for range 20 {
		commit(t, s, func(b *store.Batch) {
			for range 15 {
				switch n := rnd.IntN(12); {
				case n == 0:
					lo, hi := key(), key()
					b.DeleteRange(lo, hi)
					for m := range model {
						if m >= string(lo) && m < string(hi) {
							delete(model, m)
						}
					}
				case n < 3:
					d := key()
					b.Delete(d)
					delete(model, string(d))
				default:
					p := key()
					b.Put(p, nil)
					model[string(p)] = true
				}
			}
		})
		lo, hi := key(), key()
		var expected []string
		for m := range model {
			if m >= string(lo) && m < string(hi) {
				expected = append(expected, m)
			}
		}
		slices.Sort(expected)
		if got := keysOf(t, s, lo, hi, 0, false); !slices.Equal(got, expected) {
			t.Fatalf("[%q, %q): got %q, want %q", lo, hi, got, expected)
		}
		slices.Reverse(expected)
		if got := keysOf(t, s, lo, hi, 0, true); !slices.Equal(got, expected) {
			t.Fatalf("[%q, %q) reverse: got %q, want %q", lo, hi, got, expected)
		}
	}
}

func testDeleteRange(t *testing.T, e Engine) {
	s := e.Open(t)
	commit(t, s, func(b *store.Batch) {
		for i := range 10 {
			b.Put(k(fmt.Sprint(i)), nil)
		}
	})
	commit(t, s, func(b *store.Batch) {
		b.DeleteRange(k("3"), k("7"))
		b.Put(k("5"), []byte("again"))
		b.Add(k("4"), 1)
	})
	want(t, "first of the range", get(t, s, k("3")), absent)
	want(t, "behind the range", get(t, s, k("7")), "")
	want(t, "put again", get(t, s, k("5")), "again")
	want(t, "counter from nothing", counter(t, s, k("4")), 1)
	commit(t, s, func(b *store.Batch) { b.IfAbsent(k("6")); b.DeleteRange(k("9"), k("1")) })
	want(t, "range turned round", get(t, s, k("8")), "")
}

func testSnapshots(t *testing.T, e Engine) {
	s := e.Open(t)
	commit(t, s, func(b *store.Batch) { b.Put(k("a"), []byte("old")) })
	view(t, s, func(v store.Snapshot) error {
		first, err := v.Get(k("a"))
		if err != nil {
			return err
		}
		commit(t, s, func(b *store.Batch) { b.Put(k("a"), []byte("new")); b.Put(k("b"), nil) })
		second, err := v.Get(k("a"))
		want(t, "value in an old view", string(first)+string(second), "oldold")
		if _, err := v.Get(k("b")); !errors.Is(err, store.ErrNotFound) {
			t.Errorf("an old view shows a new key: %v", err)
		}
		want(t, "value in a new view", get(t, s, k("a")), "new")
		return err
	})
	refusal := errors.New("mine")
	if err := s.View(context.Background(), func(store.Snapshot) error { return refusal }); !errors.Is(err, refusal) {
		t.Errorf("the function's error is not returned: %v", err)
	}
	cancelled, cancel := context.WithCancel(context.Background())
	cancel()
	if err := s.View(cancelled, func(store.Snapshot) error { return nil }); !errors.Is(err, context.Canceled) {
		t.Errorf("view with a cancelled context: %v", err)
	}
	if _, err := s.Commit(cancelled, store.NewBatch()); !errors.Is(err, context.Canceled) {
		t.Errorf("commit with a cancelled context: %v", err)
	}
}

func testLimits(t *testing.T, e Engine) {
	s := e.Open(t)
	longest := append([]byte("k"), bytes.Repeat([]byte{0xff}, store.MaxKeyOctets-1)...)
	value := bytes.Repeat([]byte("v"), store.MaxValueOctets)
	commit(t, s, func(b *store.Batch) { b.Put(longest, value) })
	want(t, "largest value", get(t, s, longest), string(value))
	commit(t, s, func(b *store.Batch) {
		for i := range store.MaxBatchOps {
			b.Put(k(fmt.Sprint(i)), nil)
		}
	})
	for _, c := range []struct {
		name string
		fill func(b *store.Batch)
	}{
		{"long key", func(b *store.Batch) { b.Put(append(longest, 0), nil) }},
		{"long key of a precondition", func(b *store.Batch) { b.IfAbsent(append(longest, 0)) }},
		{"long value", func(b *store.Batch) { b.Put(k("x"), append(value, 0)) }},
		{"many operations", func(b *store.Batch) {
			for range store.MaxBatchOps + 1 {
				b.Delete(k("x"))
			}
		}},
		{"large batch", func(b *store.Batch) {
			for i := range 17 {
				b.Put(k(fmt.Sprint(i)), value)
			}
		}},
		{"long value decided", func(b *store.Batch) {
			b.Decide(k("x"), func(_ func([]byte) ([]byte, error), w *store.Batch) error {
				w.Put(k("x"), append(value, 0))
				return nil
			})
		}},
	} {
		if err := commitErr(s, c.fill); !errors.Is(err, store.ErrTooLarge) {
			t.Errorf("%s: got %v, want %v", c.name, err, store.ErrTooLarge)
		}
	}
	for name, key := range map[string][]byte{"empty key": nil, "the engine's tag": {0, 'x'}} {
		if err := commitErr(s, func(b *store.Batch) { b.Put(key, nil) }); err == nil {
			t.Errorf("%s was accepted", name)
		}
	}
}

func testBefore(t *testing.T, e Engine) {
	s := e.Open(t)
	var order []int
	b := store.NewBatch()
	b.Put(k("a"), nil)
	for i := range 3 {
		b.Before = append(b.Before, func(context.Context) error {
			if get(t, s, k("a")) != absent {
				t.Error("the batch is visible before what must be durable first")
			}
			order = append(order, i)
			return nil
		})
	}
	if _, err := s.Commit(context.Background(), b); err != nil {
		t.Fatal(err)
	}
	if !slices.Equal(order, []int{0, 1, 2}) {
		t.Errorf("called %v", order)
	}
	refusal := errors.New("not synced")
	err := commitErr(s, func(b *store.Batch) {
		b.Put(k("b"), nil)
		b.Before = append(b.Before, func(context.Context) error { return refusal })
	})
	if !errors.Is(err, refusal) || get(t, s, k("b")) != absent {
		t.Errorf("committed in spite of %v", err)
	}
}

func testReopen(t *testing.T, e Engine) {
	s := e.Open(t)
	for i := range 50 {
		commit(t, s, func(b *store.Batch) { b.Put(k(fmt.Sprint(i)), []byte("v")); b.Next(k("n"), 2) })
	}
	for round := range 3 {
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
		s = e.Open(t)
		want(t, "keys", len(keysOf(t, s, k(""), k("n"), 0, false)), 50)
		want(t, "counter", counter(t, s, k("n")), int64(100+round))
		commit(t, s, func(b *store.Batch) { b.Add(k("n"), 1) })
	}
}

func testClosed(t *testing.T, e Engine) {
	s := e.Open(t)
	var wg sync.WaitGroup
	var mu sync.Mutex
	committed := 0
	for range 8 {
		wg.Go(func() {
			for {
				err := commitErr(s, func(b *store.Batch) { b.Add(k("n"), 1) })
				if errors.Is(err, store.ErrClosed) {
					return
				}
				if err != nil {
					t.Error(err)
					return
				}
				mu.Lock()
				committed++
				if committed == 20 {
					wg.Go(func() {
						if err := s.Close(); err != nil {
							t.Error(err)
						}
					})
				}
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	if err := s.View(context.Background(), func(store.Snapshot) error { return nil }); !errors.Is(err, store.ErrClosed) {
		t.Errorf("view of a closed store: %v", err)
	}
	if err := s.Close(); err != nil {
		t.Errorf("close again: %v", err)
	}
	s = e.Open(t)
	want(t, "commits that returned nil", counter(t, s, k("n")), int64(committed))
}
