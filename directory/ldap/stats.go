package ldap

import (
	"context"
	"time"
)

// ServerState is what is known of a server.
type ServerState struct {
	URI string
	// State is well, slow (asked after the others) or down (left alone for a
	// while).
	State string
	// Median and P99 are the times of recent answers to searches; 0 before the
	// first.
	Median, P99 time.Duration
	// Asked counts operations sent, Failed those without an answer, and Hedged
	// those sent because another server took long.
	Asked, Failed, Hedged uint64
	// Connections are open now, in use or idle.
	Connections int
}

// States returns what is known of the servers in their order, and of those
// that referrals are followed to after them. It asks nobody.
func (c *Client) States() []ServerState {
	var states []ServerState
	for _, s := range c.all() {
		states = append(states, s.state())
	}
	return states
}

// Servers is States after a look whether the DNS names other servers now; the
// error says why none is known.
func (c *Client) Servers(ctx context.Context) ([]ServerState, error) {
	if _, err := c.roster.servers(ctx); err != nil {
		return nil, err
	}
	return c.States(), nil
}

func (s *server) state() ServerState {
	st := ServerState{
		URI: s.uri, State: "well", Asked: s.asked.Load(), Failed: s.failed.Load(), Hedged: s.hedged.Load(),
		Connections: s.searches.open() + s.binds.open(),
	}
	st.Median, st.P99 = s.latency.quantiles()
	switch {
	case !s.breaker.asked():
		st.State = "down"
	case s.latency.isSlow():
		st.State = "slow"
	}
	return st
}

// open counts the connections of a pool.
func (p *pool) open() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.tokens) + len(p.idle)
}
