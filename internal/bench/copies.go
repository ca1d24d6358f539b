package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	goldap "github.com/go-ldap/ldap/v3"
)

// manyEntries is how many people the directory has of which a copy is measured.
const manyEntries = 100_000

// copyOfMany measures what a copy of a large directory takes: memory beside a
// system without one, time until it is there, and on disk. The directory and the
// systems are of its own.
func copyOfMany(ctx context.Context, of *system, o options) (f figures, err error) {
	people := manyEntries
	if o.quick {
		people = entries
	}
	dir, err := os.MkdirTemp(filepath.Dir(of.dir), "many")
	if err != nil {
		return f, err
	}
	defer os.RemoveAll(dir)
	if err := writeCertificate(dir); err != nil {
		return f, err
	}
	d, err := startSlapd(ctx, filepath.Join(dir, "slapd"), people)
	if err != nil {
		return f, err
	}
	defer d.stop()
	without, err := memoryOfNew(ctx, o, filepath.Join(dir, "without"), d, posternSides[0])
	if err != nil {
		return f, err
	}
	start := time.Now()
	s, err := startPosternOf(ctx, o, filepath.Join(dir, "with"), d, posternSides[2])
	if err != nil {
		return f, err
	}
	defer func() { s.stop() }()
	f.set(copiedTime, milliseconds(time.Since(start)))
	taken, err := memoryAtRest(ctx, s)
	if err != nil {
		return f, err
	}
	state, err := s.copied(ctx)
	if err != nil {
		return f, err
	}
	f.messages = state.Entries
	f.set(memoryTaken, mebibytes(taken))
	f.set(kilobytesEach, float64(taken-without)/1000/float64(state.Entries))
	f.set(kilobytesHeld, float64(state.Octets)/1000/float64(state.Entries))
	return f, nil
}

func startPosternOf(ctx context.Context, o options, dir string, d *slapd, side posternSide) (*system, error) {
	binary, err := filepath.Abs(o.postern)
	if err != nil {
		return nil, err
	}
	return startPosternLDAP(ctx, binary, dir, d, side)
}

func memoryOfNew(ctx context.Context, o options, dir string, d *slapd, side posternSide) (int64, error) {
	s, err := startPosternOf(ctx, o, dir, d, side)
	if err != nil {
		return 0, err
	}
	defer s.stop()
	return memoryAtRest(ctx, s)
}

// restTime is how long after a refresh the memory is read: the garbage that it
// left is given back to the system by then.
const restTime = 5 * time.Second

func memoryAtRest(ctx context.Context, s *system) (int64, error) {
	select {
	case <-ctx.Done():
		return 0, ctx.Err()
	case <-time.After(restTime):
	}
	return memory(s.roots())
}

// changesOf is how many changes a case of effects makes.
func changesOf(o options) int { return 5 * o.singles }

// recipientEffect measures the time from sending a change to the directory's
// server until RCPT is answered by it: an alias comes, and goes.
func recipientEffect(ctx context.Context, s *system, o options) (f figures, err error) {
	admin, err := s.directory.administer()
	if err != nil {
		return f, err
	}
	defer admin.Close()
	var took []time.Duration
	for n := range changesOf(o) {
		alias := fmt.Sprintf("new%d-%d@%s", n/2, sent.Load(), domain)
		change := goldap.NewModifyRequest(personDN(n/2), nil)
		want := 250
		if n%2 == 0 {
			change.Add("mailLocalAddress", []string{alias})
		} else {
			change.Delete("mailLocalAddress", []string{alias})
			want = 550
		}
		start := time.Now()
		if err := admin.Modify(change); err != nil {
			return f, err
		}
		if err := s.untilRecipient(ctx, alias, want); err != nil {
			return f, err
		}
		took = append(took, time.Since(start))
	}
	f.messages = len(took)
	f.percentiles(took)
	return f, nil
}

// untilRecipient asks about an address until the answer is code.
func (s *system) untilRecipient(ctx context.Context, address string, code int) error {
	for ctx.Err() == nil {
		done, err := s.askAgain(address, code)
		if done || err != nil {
			return err
		}
	}
	return ctx.Err()
}

// questions is how often one connection asks: servers slow down a client that
// makes ten errors.
const questions = 8

// askAgain asks about an address on one connection, and reports whether the
// answer was code.
func (s *system) askAgain(address string, code int) (done bool, err error) {
	c, err := s.smtp.dial()
	if err != nil {
		return false, err
	}
	defer func() { err = errors.Join(err, c.close()) }()
	for range questions {
		if err := c.say("MAIL FROM:<sender@remote.example>\r\n", 250); err != nil {
			return false, err
		}
		err := c.say("RCPT TO:<"+address+">\r\n", code)
		var other *replyError
		if !errors.As(err, &other) {
			return err == nil, err
		}
		if err := c.say("RSET\r\n", 250); err != nil {
			return false, err
		}
	}
	return false, nil
}

// sessionEffect measures the time from sending the change that disables an
// account until its IMAP session is ended.
func sessionEffect(ctx context.Context, s *system, o options) (f figures, err error) {
	admin, err := s.directory.administer()
	if err != nil {
		return f, err
	}
	defer admin.Close()
	var took []time.Duration
	for n := range o.singles {
		time.Sleep(settle) // changes in a row would be answered together
		since, err := disable(s, admin, n)
		if err != nil {
			return f, err
		}
		took = append(took, since)
		if ctx.Err() != nil {
			return f, ctx.Err()
		}
	}
	f.messages = len(took)
	f.percentiles(took)
	return f, nil
}

// disable has a person log in, disables the account, waits for the end of the
// session, and enables the account again.
func disable(s *system, admin *goldap.Conn, n int) (time.Duration, error) {
	c, err := dialIMAP(s.imap, n)
	if err != nil {
		return 0, err
	}
	defer c.conn.Close()
	if _, err := c.command("NOOP", nil); err != nil {
		return 0, err
	}
	change := goldap.NewModifyRequest(personDN(n), nil)
	change.Replace("employeeType", []string{"disabled"})
	start := time.Now()
	if err := admin.Modify(change); err != nil {
		return 0, err
	}
	for {
		if _, err = c.line(); err != nil {
			break
		}
	}
	took := time.Since(start)
	if errors.Is(err, os.ErrDeadlineExceeded) {
		return 0, fmt.Errorf("the session of %s goes on: %w", userAddress(n), err)
	}
	back := goldap.NewModifyRequest(personDN(n), nil)
	back.Delete("employeeType", nil)
	return took, admin.Modify(back)
}
