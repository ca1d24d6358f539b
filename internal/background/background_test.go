package background

import (
	"context"
	"sync/atomic"
	"testing"
)

// TestEndWaits: what was begun is ended and has come back when End returns, and
// nothing begins after it.
func TestEndWaits(t *testing.T) {
	t.Parallel()
	w := New()
	var began, back atomic.Int32
	for range 8 {
		go func() {
			for w.Go(func(ctx context.Context) {
				began.Add(1)
				<-ctx.Done()
				back.Add(1)
			}) {
				if began.Load() > 1000 {
					return
				}
			}
		}()
	}
	started := make(chan struct{})
	if !w.Go(func(ctx context.Context) { close(started); <-ctx.Done() }) {
		t.Fatal("nothing began")
	}
	<-started
	w.End()
	if began.Load() != back.Load() {
		t.Errorf("%d began, %d came back", began.Load(), back.Load())
	}
	if w.Go(func(context.Context) { t.Error("begun after the end") }) {
		t.Error("something began after the end")
	}
	w.End()
}
