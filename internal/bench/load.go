package main

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"
)

const (
	// perConnection is after how many messages the driver opens a new one.
	perConnection = 100
	// drainLimit bounds the wait for the last message to be visible.
	drainLimit = 60 * time.Second
	// settle is waited before the processor time is read, so that what a
	// server puts off until after the delivery is counted too.
	settle = 300 * time.Millisecond
)

// load measures many messages of one size over many connections.
func load(size, connections int) func(context.Context, *system, options) (figures, error) {
	texts := sync.OnceValue(func() [][]byte { return messages(size) })
	return func(ctx context.Context, s *system, o options) (figures, error) {
		w, err := watch(s)
		if err != nil {
			return figures{}, err
		}
		defer w.close()
		before, err := cpuTime(s.roots())
		if err != nil {
			return figures{}, err
		}
		start := time.Now()
		ctx, cancel := context.WithTimeout(ctx, drainLimit+o.load)
		defer cancel()
		took, err := drive(ctx, s.smtp, connections, start.Add(o.load), texts(), w.expect)
		if err != nil {
			return figures{}, err
		}
		accepted := time.Since(start)
		octets, err := memory(s.roots())
		if err != nil {
			return figures{}, err
		}
		if err := w.wait(ctx); err != nil {
			return figures{}, err
		}
		visible := time.Since(start)
		time.Sleep(settle)
		after, err := cpuTime(s.roots())
		if err != nil {
			return figures{}, err
		}
		n := float64(len(took))
		f := figures{messages: len(took)}
		f.set(acceptedPerSecond, n/accepted.Seconds())
		f.set(visiblePerSecond, n/visible.Seconds())
		f.set(cpuPerMessage, milliseconds(after-before)/n)
		f.percentiles(took)
		f.set(memoryTaken, mebibytes(octets))
		return f, nil
	}
}

// drive sends messages over so many connections until the time is over, and
// returns how long each transaction took, MAIL to final reply.
func drive(ctx context.Context, address string, connections int, until time.Time, texts [][]byte, accepted func(recipient int)) ([]time.Duration, error) {
	var (
		mu   sync.Mutex
		all  []time.Duration
		errs []error
		wg   sync.WaitGroup
	)
	for range connections {
		wg.Go(func() {
			var mine []time.Duration
			var err error
			for err == nil && ctx.Err() == nil && time.Now().Before(until) {
				mine, err = session(ctx, address, until, texts, mine, accepted)
			}
			mu.Lock()
			defer mu.Unlock()
			all = append(all, mine...)
			errs = append(errs, err)
		})
	}
	wg.Wait()
	if err := errors.Join(append(errs, ctx.Err())...); err != nil {
		return nil, err
	}
	return all, nil
}

// session is one connection's worth of messages. It appends to took.
func session(ctx context.Context, address string, until time.Time, texts [][]byte, took []time.Duration, accepted func(recipient int)) ([]time.Duration, error) {
	c, err := dialSMTP(address)
	if err != nil {
		return took, err
	}
	for range perConnection {
		start := time.Now()
		if !start.Before(until) || ctx.Err() != nil {
			break
		}
		id := sent.Add(1)
		recipient := int(id) % users
		if err := c.send(id, recipient, texts[int(id)%len(texts)]); err != nil {
			c.conn.Close()
			return took, err
		}
		took = append(took, time.Since(start))
		accepted(recipient)
	}
	return took, c.close()
}

// watcher knows how many messages each mailbox must hold in the end.
type watcher struct {
	clients []*imapClient
	want    []atomic.Int64
}

func watch(s *system) (*watcher, error) {
	w := &watcher{want: make([]atomic.Int64, users)}
	for n := range users {
		c, err := dialIMAP(s.imap, n)
		if err != nil {
			w.close()
			return nil, err
		}
		w.clients = append(w.clients, c)
		now, err := c.messages()
		if err != nil {
			w.close()
			return nil, err
		}
		w.want[n].Store(int64(now))
	}
	return w, nil
}

func (w *watcher) expect(recipient int) { w.want[recipient].Add(1) }

// wait returns when every mailbox holds what it should. It asks for one
// mailbox at a time, so that asking costs the server little.
func (w *watcher) wait(ctx context.Context) error {
	for n, c := range w.clients {
		for {
			now, err := c.messages()
			if err != nil {
				return err
			}
			want := w.want[n].Load()
			if int64(now) > want {
				return fmt.Errorf("%s holds %d messages, %d were sent", userAddress(n), now, want)
			}
			if int64(now) == want {
				break
			}
			select {
			case <-ctx.Done():
				return fmt.Errorf("%s holds %d of %d messages: %w", userAddress(n), now, want, ctx.Err())
			case <-time.After(5 * time.Millisecond):
			}
		}
	}
	return nil
}

func (w *watcher) close() {
	for _, c := range w.clients {
		_ = c.close() // the figures are taken
	}
}
