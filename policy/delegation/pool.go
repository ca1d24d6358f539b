package delegation

import (
	"bufio"
	"context"
	"errors"
	"net"
	"sync"
	"time"
)

// connection is one to a service. One question at a time goes over it.
type connection struct {
	net.Conn
	in       *bufio.Reader
	made     time.Time
	used     time.Time // last
	requests int
}

// pool keeps connections that are not in use.
type pool struct {
	cfg  Config
	dial func(ctx context.Context) (net.Conn, error)
	open chan struct{} // a token for each connection that is open

	mu     sync.Mutex
	closed bool
	idle   []*connection // the one used last at the end
}

var errBusy = errors.New("all connections are in use")

// take returns a connection, and whether it was used before.
func (p *pool) take(ctx context.Context) (c *connection, used bool, err error) {
	if c := p.kept(time.Now()); c != nil {
		return c, true, nil
	}
	select {
	case p.open <- struct{}{}:
	default:
		if c, used := p.wait(ctx); c != nil || !used {
			if c == nil {
				return nil, false, errBusy
			}
			return c, true, nil
		}
	}
	c, err = p.fresh(ctx)
	if err != nil {
		<-p.open
	}
	return c, false, err
}

// wait waits until there is room. It returns a connection that came back, or
// true for a token to make one.
func (p *pool) wait(ctx context.Context) (*connection, bool) {
	poll := time.NewTicker(5 * time.Millisecond)
	defer poll.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil, false
		case p.open <- struct{}{}:
			return nil, true
		case <-poll.C:
			if c := p.kept(time.Now()); c != nil {
				return c, true
			}
		}
	}
}

func (p *pool) fresh(ctx context.Context) (*connection, error) {
	conn, err := p.dial(ctx)
	if err != nil {
		return nil, err
	}
	return &connection{Conn: conn, in: bufio.NewReaderSize(conn, maxLine), made: time.Now()}, nil
}

// kept returns the connection used last that is still good.
func (p *pool) kept(now time.Time) *connection {
	for {
		p.mu.Lock()
		if len(p.idle) == 0 {
			p.mu.Unlock()
			return nil
		}
		c := p.idle[len(p.idle)-1]
		p.idle = p.idle[:len(p.idle)-1]
		p.mu.Unlock()
		if p.good(c, now) {
			return c
		}
		p.drop(c)
	}
}

func (p *pool) good(c *connection, now time.Time) bool {
	return now.Sub(c.used) < p.cfg.MaxIdle && now.Sub(c.made) < p.cfg.MaxTTL && (p.cfg.Requests == 0 || c.requests < p.cfg.Requests)
}

// give takes a connection back after an answer.
func (p *pool) give(c *connection) {
	c.used = time.Now()
	c.requests++
	if c.in.Buffered() > 0 || !p.good(c, c.used) {
		p.drop(c)
		return
	}
	p.mu.Lock()
	closed := p.closed
	if !closed {
		p.idle = append(p.idle, c)
	}
	p.mu.Unlock()
	if closed {
		p.drop(c)
	}
}

func (p *pool) drop(c *connection) {
	_ = c.Close() // nothing was left to say
	<-p.open
}

// sweep closes what was unused for too long.
func (p *pool) sweep(now time.Time) {
	p.mu.Lock()
	var old []*connection
	kept := p.idle[:0]
	for _, c := range p.idle {
		if p.good(c, now) {
			kept = append(kept, c)
		} else {
			old = append(old, c)
		}
	}
	clear(p.idle[len(kept):])
	p.idle = kept
	p.mu.Unlock()
	for _, c := range old {
		p.drop(c)
	}
}

// close closes what is unused; what is in use is closed when it comes back.
func (p *pool) close() {
	p.mu.Lock()
	idle := p.idle
	p.idle, p.closed = nil, true
	p.mu.Unlock()
	for _, c := range idle {
		p.drop(c)
	}
}
