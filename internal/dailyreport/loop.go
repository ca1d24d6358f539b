package dailyreport

import (
	"context"
	"errors"
	"fmt"
	"time"
)

const (
	// Every is how long a count may be in memory alone.
	Every = time.Minute
	// stopTime bounds the last flush.
	stopTime = 5 * time.Second
)

// Loop is the one goroutine in which a reporter touches what it keeps. Work done
// in it waits for its turn.
type Loop struct {
	what  string // for errors
	asked chan request
	ended chan struct{} // closed when Run has ended
}

// request is work that only Run's goroutine may do.
type request struct {
	do   func(ctx context.Context) error
	done chan error
}

// NewLoop makes a Loop; what names the reports in errors.
func NewLoop(what string) *Loop {
	return &Loop{what: what, asked: make(chan request), ended: make(chan struct{})}
}

// Run calls flush and then sendDue every minute, and flush before what is asked
// by Do, until ctx ends. It then calls last, once, and returns what that does.
// It may be called once.
func (l *Loop) Run(ctx context.Context, flush, sendDue func(context.Context), last func(context.Context) error) error {
	defer close(l.ended)
	tick := time.NewTicker(Every)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			ending, cancel := context.WithTimeout(context.WithoutCancel(ctx), stopTime)
			defer cancel()
			return last(ending)
		case <-tick.C:
			flush(ctx)
			sendDue(ctx)
		case q := <-l.asked:
			flush(ctx)
			q.done <- q.do(ctx)
		}
	}
}

// Do has Run do something, after a flush, and waits for it. It may be called
// concurrently.
func (l *Loop) Do(ctx context.Context, do func(ctx context.Context) error) error {
	q := request{do, make(chan error, 1)}
	select {
	case l.asked <- q:
	case <-l.ended:
		return errors.New(l.what + ": the server is stopping")
	case <-ctx.Done():
		return fmt.Errorf("%s are busy: %w", l.what, ctx.Err())
	}
	select {
	case err := <-q.done:
		return err
	case <-ctx.Done():
		return fmt.Errorf("%s go on without waiting: %w", l.what, ctx.Err())
	}
}
