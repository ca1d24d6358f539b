package proxy

import (
	"context"
	"errors"
	"math/rand/v2"
	"sync"
	"time"
)

const (
	// probeEvery is the pause between two calls to a node that is down.
	probeEvery = time.Second
	// wellAfter calls in a row have to be answered by a node that was down.
	wellAfter = 3
	// deadAfter calls in a row were not answered by a node whose connections
	// are given up: its clients would wait for it for minutes. One that refuses
	// calls, as while it is drained, ends its connections itself.
	deadAfter = 3
)

// errRefused is a node's own word that it takes no logins now.
var errRefused = errors.New("the node takes no logins now")

// Run looks after the health of the cell's nodes until ctx ends.
func (c *Cell) Run(ctx context.Context) error {
	var all sync.WaitGroup
	for _, n := range c.nodes {
		all.Go(func() {
			for {
				select {
				case <-ctx.Done():
					return
				case <-n.asked:
					n.look(ctx)
				}
			}
		})
	}
	all.Wait()
	return nil
}

// look calls a suspect, and goes on until it is well.
func (n *node) look(ctx context.Context) {
	for answered, silent := 0, 0; ; {
		err := n.call(ctx)
		if ctx.Err() != nil {
			return
		}
		switch {
		case err == nil && !n.isDown():
			return
		case err == nil:
			silent = 0
			if answered++; answered == wellAfter {
				n.recovered()
				return
			}
		default:
			answered = 0
			n.markDown(err)
			if silent++; silent == deadAfter && !errors.Is(err, errRefused) {
				n.abandon()
			}
		}
		pause := time.NewTimer(probeEvery*3/4 + rand.N(probeEvery/2))
		select {
		case <-pause.C:
		case <-ctx.Done():
			pause.Stop()
			return
		}
	}
}

// call connects, waits for the greeting and leaves.
func (n *node) call(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, n.patience())
	defer cancel()
	b, err := n.connect(ctx)
	if err != nil {
		return err
	}
	defer func() { _ = b.Close() }()
	defer b.interruptible(ctx)()
	if err := n.cell.dialect.hail(b); err != nil {
		return err
	}
	n.cell.dialect.leave(b)
	return nil
}

func (n *node) markDown(err error) {
	n.mu.Lock()
	known := n.down
	n.down = true
	n.mu.Unlock()
	if !known {
		n.cell.log.Warn("node out of reach", "remote", n.address, "err", err)
	}
}

// abandon gives the connections with a dead node up: their clients come again
// and find its partner.
func (n *node) abandon() {
	n.mu.Lock()
	relays := make([]*relay, 0, len(n.relays))
	for r := range n.relays {
		relays = append(relays, r)
	}
	n.mu.Unlock()
	if len(relays) > 0 {
		n.cell.log.Warn("node is dead: its connections are ended, the clients will come again", "remote", n.address, "sessions", len(relays))
	}
	for _, r := range relays {
		r.end(causeNodeDead)
	}
}
