package testenv

import (
	"fmt"
	"os"
	"sync"
	"testing"
)

// Shared is something heavy, a server that takes seconds to start, that the
// tests of one binary use together. It is started when the first test asks and
// ended by Main. Tests must leave it as they found it; whoever stops a server or
// changes what all see starts one alone.
type Shared[T any] struct {
	start func(testing.TB) T
	once  sync.Once
	value T
	ok    bool
}

// NewShared returns what start makes for the first test that asks. start gets a
// testing.TB whose Cleanup runs in Main.
func NewShared[T any](start func(testing.TB) T) *Shared[T] { return &Shared[T]{start: start} }

// Get returns the shared thing. Where it could not be started, the first test
// says why and the others fail or are skipped like it.
func (s *Shared[T]) Get(t testing.TB) T {
	t.Helper()
	s.once.Do(func() {
		lasting := &lasting{TB: t}
		allLasting.add(lasting)
		s.value = s.start(lasting)
		s.ok = true
	})
	if !s.ok {
		if os.Getenv("CI") == "true" {
			t.Fatal("a server that tests share did not start; the first of them says why")
		}
		t.Skip("a server that tests share did not start; the first of them says why")
	}
	return s.value
}

// Main runs the tests and ends what they shared: in a package that uses Shared,
//
//	func TestMain(m *testing.M) { os.Exit(testenv.Main(m)) }
func Main(m *testing.M) int {
	code := m.Run()
	allLasting.end(code != 0)
	return code
}

// lasting is a test that lasts as long as the binary: what it is asked to clean
// up stays until Main ends it.
type lasting struct {
	testing.TB // the first test, for its failures while things start

	mu       sync.Mutex
	cleanups []func()
	failed   bool
}

// Cleanup implements testing.TB.
func (l *lasting) Cleanup(f func()) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.cleanups = append(l.cleanups, f)
}

// Failed implements testing.TB: in Main it says whether any test failed.
func (l *lasting) Failed() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.failed
}

// Logf implements testing.TB: the first test may be over.
func (l *lasting) Logf(format string, args ...any) {
	fmt.Fprintf(os.Stderr, format+"\n", args...)
}

// end runs the cleanups, the last first.
func (l *lasting) end(failed bool) {
	l.mu.Lock()
	cleanups := l.cleanups
	l.cleanups, l.failed = nil, failed
	l.mu.Unlock()
	for i := len(cleanups) - 1; i >= 0; i-- {
		cleanups[i]()
	}
}

// allLasting are those of this binary.
var allLasting lastingList

type lastingList struct {
	mu   sync.Mutex
	list []*lasting
}

func (a *lastingList) add(l *lasting) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.list = append(a.list, l)
}

func (a *lastingList) end(failed bool) {
	a.mu.Lock()
	list := a.list
	a.list = nil
	a.mu.Unlock()
	for i := len(list) - 1; i >= 0; i-- {
		list[i].end(failed)
	}
}
