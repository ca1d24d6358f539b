package main

import (
	"context"
	"errors"
	"math/rand/v2"
	"sync"
	"time"
)

const (
	// perTransaction is how many recipients the driver names after one MAIL, in
	// their middle and at their end one that nobody has.
	perTransaction = 100
	// transactions is how many one connection has. Servers slow down a client
	// that makes ten errors.
	transactions = 4
)

// recipients measures how fast a system tells whom it takes mail for: MAIL,
// many RCPT, RSET, and again. group is how many RCPT are sent before the first
// of their replies is read; more than one is PIPELINING.
func recipients(connections, group int) measure {
	return func(ctx context.Context, s *system, o options) (f figures, err error) {
		// Processes and connections to the directory are there afterwards.
		warm := func(ctx context.Context) ([]time.Duration, error) {
			return askRecipients(ctx, s, connections, group, time.Now().Add(o.load/4))
		}
		if _, err := warm(ctx); err != nil {
			return f, err
		}
		return f, f.rate(s, func() ([]time.Duration, error) {
			return askRecipients(ctx, s, connections, group, time.Now().Add(o.load))
		}, group == 1)
	}
}

// rate measures how often something is done and what it costs, and with
// singles how long one takes.
func (f *figures) rate(s *system, do func() ([]time.Duration, error), singles bool) error {
	before, err := cpuTime(s.roots())
	if err != nil {
		return err
	}
	directoryBefore, err := cpuTime(s.directory.roots())
	if err != nil {
		return err
	}
	start := time.Now()
	took, err := do()
	if err != nil {
		return err
	}
	all := time.Since(start)
	if len(took) == 0 {
		return errors.New("nothing was answered in time")
	}
	octets, err := memory(s.roots())
	if err != nil {
		return err
	}
	after, err := cpuTime(s.roots())
	if err != nil {
		return err
	}
	directoryAfter, err := cpuTime(s.directory.roots())
	if err != nil {
		return err
	}
	f.messages = len(took)
	n := float64(len(took))
	f.set(ratePerSecond, n/all.Seconds())
	f.set(cpuPerMessage, milliseconds(after-before)/n)
	f.set(directoryCPU, milliseconds(directoryAfter-directoryBefore)/n)
	if singles {
		f.percentiles(took)
	}
	f.set(memoryTaken, mebibytes(octets))
	return nil
}

// together runs connections' work at once and gathers how long each part took.
func together(connections int, work func(n int) ([]time.Duration, error)) ([]time.Duration, error) {
	var (
		mu   sync.Mutex
		all  []time.Duration
		errs []error
		wg   sync.WaitGroup
	)
	for n := range connections {
		wg.Go(func() {
			took, err := work(n)
			mu.Lock()
			defer mu.Unlock()
			all = append(all, took...)
			errs = append(errs, err)
		})
	}
	wg.Wait()
	return all, errors.Join(errs...)
}

// askRecipients returns how long each RCPT took; of a group each has the time
// of the whole group.
func askRecipients(ctx context.Context, s *system, connections, group int, until time.Time) ([]time.Duration, error) {
	return together(connections, func(n int) (took []time.Duration, err error) {
		random := rand.New(rand.NewPCG(uint64(n), uint64(time.Now().UnixNano())))
		for time.Now().Before(until) && ctx.Err() == nil && err == nil {
			took, err = askOnce(took, s, random, group, until)
		}
		return took, errors.Join(err, ctx.Err())
	})
}

// askOnce is one connection's worth of questions. It appends to took.
func askOnce(took []time.Duration, s *system, random *rand.Rand, group int, until time.Time) ([]time.Duration, error) {
	c, err := s.smtp.dial()
	if err != nil {
		return took, err
	}
	for n := 0; n < transactions && time.Now().Before(until); n++ {
		if took, err = c.transaction(took, random, s.directory.people, group); err != nil {
			c.conn.Close()
			return took, err
		}
	}
	return took, c.close()
}

// transaction names perTransaction recipients and takes all back.
func (c *smtpClient) transaction(took []time.Duration, random *rand.Rand, people, group int) ([]time.Duration, error) {
	if err := c.say("MAIL FROM:<sender@remote.example>\r\n", 250); err != nil {
		return nil, err
	}
	for first := 0; first < perTransaction; first += group {
		var codes [perTransaction]int
		c.out = c.out[:0]
		for i := range group {
			var address string
			address, codes[i] = someRecipient(random, people, (first+i)%(perTransaction/2) == perTransaction/2-1)
			c.out = append(append(append(c.out, "RCPT TO:<"...), address...), ">\r\n"...)
		}
		start := time.Now()
		if _, err := c.conn.Write(c.out); err != nil {
			return nil, err
		}
		for i := range group {
			if err := c.expect("RCPT", codes[i]); err != nil {
				return nil, err
			}
		}
		since := time.Since(start)
		for range group {
			took = append(took, since)
		}
	}
	return took, c.say("RSET\r\n", 250)
}

// someRecipient returns an address, as often a person's own as an alias, or one
// that nobody has, and how a server answers it.
func someRecipient(random *rand.Rand, people int, unknown bool) (address string, code int) {
	n := random.IntN(people)
	switch {
	case unknown:
		return personUnknown(n), 550
	case random.IntN(2) == 0:
		return userAddress(n), 250
	default:
		return personAlias(n), 250
	}
}
