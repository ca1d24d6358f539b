// Package background holds work that belongs to no session: several wait for
// it, and who began it may be gone by the time it is done. Its owner ends it and
// waits for it.
package background

import (
	"context"
	"sync"
)

// Work is what goes on behind the backs of sessions. It may be used
// concurrently.
type Work struct {
	live context.Context // of all of it: End ends it
	end  context.CancelFunc

	mu      sync.Mutex
	ended   bool
	running sync.WaitGroup // grows under mu alone, and not once ended
}

// New returns Work that nobody has ended.
func New() *Work {
	w := new(Work)
	w.live, w.end = context.WithCancel(context.Background())
	return w
}

// Go runs f beside its caller, with a context that ends when the work does. It
// reports whether it does: once the work has ended nothing begins.
func (w *Work) Go(f func(ctx context.Context)) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.ended {
		return false
	}
	w.running.Go(func() { f(w.live) })
	return true
}

// End ends the work and waits until it has come back.
func (w *Work) End() {
	w.mu.Lock()
	w.ended = true
	w.mu.Unlock()
	w.end()
	w.running.Wait()
}
