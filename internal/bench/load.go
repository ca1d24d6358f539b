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

// load measures many messages of one size over many connections, from SMTP
// into the mailboxes.
func load(size, connections int) measure {
	return intoMailboxes(size, connections, perConnection, func(s *system) door { return s.smtp })
}

// lmtpLoad leaves the gateway out.
func lmtpLoad(size, connections int) measure {
	return intoMailboxes(size, connections, perConnection, func(s *system) door { return s.lmtp })
}

// tlsLoad is one connection after the other, each with one message under
// STARTTLS. Its times are those of whole connections.
func tlsLoad(size, connections int) measure {
	return intoMailboxes(size, connections, 1, func(s *system) door {
		d := s.smtp
		d.startTLS = true
		return d
	})
}

func intoMailboxes(size, connections, each int, enter func(*system) door) measure {
	texts := sync.OnceValue(func() [][]byte { return messages(size) })
	return func(ctx context.Context, s *system, o options) (f figures, err error) {
		w, err := watch(s)
		if err != nil {
			return f, err
		}
		defer w.close()
		d := drive{
			door: enter(s), connections: connections, each: each, until: time.Now().Add(o.load), texts: texts(),
			recipient: func(id int64) string { return userAddress(int(id) % users) },
			accepted:  func(id int64) { w.expect(int(id) % users) },
		}
		return f, f.whole(ctx, s, d, visiblePerSecond, w.wait)
	}
}

// whole drives a system and measures until arrived returns: when the last
// message is where it belongs. rate is the column of how many were per second.
func (f *figures) whole(ctx context.Context, s *system, d drive, rate metric, arrived func(context.Context) error) error {
	before, err := cpuTime(s.roots())
	if err != nil {
		return err
	}
	start := time.Now()
	ctx, cancel := context.WithDeadline(ctx, d.until.Add(drainLimit))
	defer cancel()
	took, err := d.run(ctx)
	if err != nil {
		return err
	}
	accepted := time.Since(start)
	octets, err := memory(s.roots())
	if err != nil {
		return err
	}
	if err := arrived(ctx); err != nil {
		return err
	}
	all := time.Since(start)
	time.Sleep(settle)
	after, err := cpuTime(s.roots())
	if err != nil {
		return err
	}
	n := float64(len(took))
	f.messages = len(took)
	f.set(acceptedPerSecond, n/accepted.Seconds())
	f.set(rate, n/all.Seconds())
	f.set(cpuPerMessage, milliseconds(after-before)/n)
	f.percentiles(took)
	f.set(memoryTaken, mebibytes(octets))
	return nil
}

// drive sends messages.
type drive struct {
	door        door
	connections int       // at a time
	each        int       // messages of one connection
	until       time.Time // no message begins later
	most        int64     // nor after so many; 0 for no bound
	texts       [][]byte
	recipient   func(id int64) string
	accepted    func(id int64) // may be nil
	// refused returns the addresses of a connection's nth message, if the server
	// has to refuse it; nil for none.
	refused func(n int) (sender, recipient string, ok bool)
}

// run returns how long each transaction took: from MAIL to the final reply, or
// from connecting to QUIT where a connection has one message.
func (d drive) run(ctx context.Context) ([]time.Duration, error) {
	var (
		mu    sync.Mutex
		all   []time.Duration
		errs  []error
		wg    sync.WaitGroup
		begun atomic.Int64
	)
	for range d.connections {
		wg.Go(func() {
			var mine []time.Duration
			var err error
			for err == nil && ctx.Err() == nil && time.Now().Before(d.until) && (d.most == 0 || begun.Load() < d.most) {
				mine, err = d.session(ctx, mine, &begun)
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
func (d drive) session(ctx context.Context, took []time.Duration, begun *atomic.Int64) ([]time.Duration, error) {
	opened := time.Now()
	c, err := d.door.dial()
	if err != nil {
		return took, err
	}
	for n := range d.each {
		start := time.Now()
		if !start.Before(d.until) || ctx.Err() != nil || d.most > 0 && begun.Add(1) > d.most {
			break
		}
		if err := d.transaction(c, n); err != nil {
			c.conn.Close()
			return took, err
		}
		took = append(took, time.Since(start))
	}
	err = c.close()
	if d.each == 1 && len(took) > 0 {
		took[len(took)-1] = time.Since(opened)
	}
	return took, err
}

// transaction is a connection's nth message.
func (d drive) transaction(c *smtpClient, n int) error {
	if d.refused != nil {
		if sender, recipient, ok := d.refused(n); ok {
			return c.beRefused(sender, recipient)
		}
	}
	id := sent.Add(1)
	if err := c.send(id, d.recipient(id), d.texts[int(id)%len(d.texts)]); err != nil {
		return err
	}
	if d.accepted != nil {
		d.accepted(id)
	}
	return nil
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
