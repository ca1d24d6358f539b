package dnsbl

import (
	"context"
	"time"

	"golang.org/x/sync/errgroup"
)

// testTick is how often it is looked which lists are due.
const testTick = 5 * time.Second

// testsAtOnce bounds the lists that are tested at a time.
const testsAtOnce = 8

// The entries by which lists are tested (RFC 5782 section 5): addresses with
// their octets reversed, and names.
const (
	listedAddress   = "2.0.0.127"
	unlistedAddress = "1.0.0.127"
	unlistedName    = "invalid"
)

// Run tests the lists that restrictions ask, at once and then from time to
// time, and those that are out of order after each pause, until ctx ends; then
// it ends the lookups under way, and waits for them.
func (l *Lists) Run(ctx context.Context) error {
	defer l.work.End()
	tick := time.NewTicker(testTick)
	defer tick.Stop()
	for {
		l.testDue(ctx)
		select {
		case <-tick.C:
		case <-ctx.Done():
			return nil
		}
	}
}

// testDue tests the lists that are due.
func (l *Lists) testDue(ctx context.Context) {
	var g errgroup.Group
	g.SetLimit(testsAtOnce)
	for _, d := range l.inUse() {
		l.metrics.up(d.cfg.Domain, !d.health.state(d.cfg.Domain).Down)
		if d.cfg.Untested || !d.health.testDue(time.Now()) {
			continue
		}
		g.Go(func() error {
			l.test(ctx, d)
			return nil
		})
	}
	_ = g.Wait() // the functions return none
}

// test asks a list for its test entries, past the memory.
func (l *Lists) test(ctx context.Context, d *dnsList) {
	d.mu.Lock()
	addresses, names := d.addresses, d.names
	d.mu.Unlock()
	type entry struct {
		label  string
		listed bool
		wrong  string
	}
	var entries []entry
	if addresses {
		entries = append(entries, entry{unlistedAddress, false, "lists 127.0.0.1, so it may list everybody"},
			entry{listedAddress, true, "has no entry for 127.0.0.2, which every list of addresses has: it may be empty; set test = false in its dns_list block if it is meant to be so"})
	}
	if names {
		entries = append(entries, entry{unlistedName, false, "lists the name \"invalid\", so it may list everybody"})
		if d.cfg.TestName != "" {
			entries = append(entries, entry{d.cfg.TestName, true, "has no entry for its test name " + d.cfg.TestName})
		}
	}
	for _, e := range entries {
		a, err := l.testEntry(ctx, d, e.label)
		now := time.Now()
		switch reason := d.nonsense(a.Codes); {
		case ctx.Err() != nil:
			return
		case err != nil:
			l.changed(d, d.health.failed(now, err))
			d.health.postpone(now)
			return
		case reason != "":
			l.changed(d, d.health.lies(now, reason))
			return
		case (len(a.Codes) > 0) != e.listed:
			l.changed(d, d.health.lies(now, e.wrong))
			return
		}
	}
	l.changed(d, d.health.passed(time.Now()))
}

func (l *Lists) testEntry(ctx context.Context, d *dnsList, label string) (Answer, error) {
	ctx, cancel := context.WithTimeout(ctx, d.cfg.Timeout)
	defer cancel()
	a, _, err := l.query(ctx, d, label)
	return a, err
}
