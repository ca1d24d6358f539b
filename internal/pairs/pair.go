package pairs

import (
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"
)

// pair is two nodes that replicate, under test.
type pair interface {
	name() string
	lmtp(node int) string
	imap(node int) string
	password() string
	// pull cuts the nodes apart; plug joins them, and they are left to find
	// each other by themselves.
	pull()
	plug()
	// sync is the operator's command to bring the two in step now, fully the
	// one that compares everything.
	sync(node int, user string, full bool) error
	// killReplication ends what replicates on a node with SIGKILL, which is the
	// node where they are one; it comes back by itself or is started again.
	killReplication(t testing.TB, node int)
	// lose damages, on a node's disk, the only copy of the body of the message.
	lose(t testing.TB, node int, user, subject string)
	// stop ends a whole node in good order; start starts it again.
	stop(t testing.TB, node int)
	start(t testing.TB, node int)
	// save keeps a copy of a node's data, stopped for the while; restore puts it
	// back in the place of what is there, and does what the operator of such a
	// system has to do then.
	save(t testing.TB, node int)
	restore(t testing.TB, node int)
	// turnOver lets the time pass after which logs of what happened may turn over.
	turnOver()
	// heals is how long the pair may take to be in step again by itself.
	heals() time.Duration
}

// session is a logged-in client on a node.
func session(t testing.TB, p pair, node int, user string) *client {
	t.Helper()
	c, err := dial(p.imap(node), user, p.password())
	if err != nil {
		t.Fatalf("%s, node %d: %v", p.name(), node, err)
	}
	t.Cleanup(c.close)
	return c
}

// must runs a command that no server refuses.
func (c *client) must(t testing.TB, format string, args ...any) []string {
	t.Helper()
	lines, err := c.do(format, args...)
	if err != nil {
		t.Fatal(err)
	}
	return lines
}

func mustDeliver(t testing.TB, p pair, node int, user string, subjects ...string) {
	t.Helper()
	for _, s := range subjects {
		if err := deliver(p.lmtp(node), user, message(s, 200)); err != nil {
			t.Fatalf("%s, node %d: %v", p.name(), node, err)
		}
	}
}

// look is what a node shows of an account to a client that comes now.
func look(p pair, node int, user string) (picture, error) {
	c, err := dial(p.imap(node), user, p.password())
	if err != nil {
		return nil, err
	}
	defer c.close()
	return c.look()
}

// errApart is that the nodes show different things.
var errApart = errors.New("the nodes differ")

// settle waits until both nodes show the same and condition holds for it; how
// long that took, or what is wrong with the last look.
func settle(p pair, user string, limit time.Duration, condition func(picture) error) (time.Duration, error) {
	began := time.Now()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		err := compare(p, user, condition)
		took := time.Since(began)
		if err == nil {
			return took, nil
		}
		if took > limit {
			return took, fmt.Errorf("after %v: %w", took.Round(time.Second), err)
		}
		<-tick.C
	}
}

func compare(p pair, user string, condition func(picture) error) error {
	a, err := look(p, 0, user)
	if err != nil {
		return err
	}
	b, err := look(p, 1, user)
	if err != nil {
		return err
	}
	if a.String() != b.String() {
		return fmt.Errorf("%w:\nnode 0\n%s\nnode 1\n%s", errApart, a, b)
	}
	return condition(a)
}

// has demands exactly these messages in a mailbox.
func has(mailbox string, subjects ...string) func(picture) error {
	slices.Sort(subjects)
	return func(p picture) error {
		if got := p[mailbox].subjects(); !slices.Equal(got, subjects) {
			return fmt.Errorf("%s holds %v, not %v", mailbox, got, subjects)
		}
		return nil
	}
}
