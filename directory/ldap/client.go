package ldap

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	goldap "github.com/go-ldap/ldap/v3"
	"github.com/hashicorp/go-hclog"

	"github.com/postern-mail/postern/directory"
	"github.com/postern-mail/postern/status"
)

// Client speaks to the servers of one directory. It implements
// directory.Searcher and directory.Binder and may be used concurrently.
type Client struct {
	cfg     Config
	log     hclog.Logger
	roster  *roster
	chased  []*server // of Config.ChaseReferrals
	budget  budget
	running atomic.Bool // Run probes paused servers, so that no caller has to
}

// New returns a client. It reads the files that cfg names, to find mistakes
// early, but connects to nothing.
func New(cfg Config, log hclog.Logger) (*Client, error) {
	cfg = cfg.withDefaults()
	if err := cfg.check(); err != nil {
		return nil, fmt.Errorf("ldap: %w", err)
	}
	r, err := newRoster(cfg, log)
	if err != nil {
		return nil, fmt.Errorf("ldap: %w", err)
	}
	c := &Client{cfg: cfg, log: log, roster: r}
	for _, uri := range cfg.ChaseReferrals {
		e, err := cfg.parseURI(uri)
		if err != nil {
			return nil, fmt.Errorf("ldap: referrals: %w", err)
		}
		c.chased = append(c.chased, newServer(cfg, e))
	}
	return c, nil
}

// Run closes connections that were idle for too long and finds out when a
// server that was left alone answers again, or a slow one is fast again. It
// blocks until ctx ends and then closes every idle connection. The client works
// without it, but then callers now and then wait for a dead server.
func (c *Client) Run(ctx context.Context) error {
	c.running.Store(true)
	defer c.Close()
	defer c.running.Store(false)
	tick := time.NewTicker(500 * time.Millisecond)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
		for _, s := range c.all() {
			s.closeIdle(time.Now().Add(-c.cfg.IdleTimeout))
			if s.breaker.due(time.Now()) || s.latency.isSlow() && s.breaker.asked() {
				c.probe(ctx, s)
			}
		}
	}
}

// all returns every server that may have connections.
func (c *Client) all() []*server {
	servers := c.roster.snapshot()
	return append(servers[:len(servers):len(servers)], c.chased...)
}

// Close closes the idle connections. The client stays usable.
func (c *Client) Close() {
	for _, s := range c.all() {
		s.closeIdle(time.Now().Add(time.Hour))
	}
}

// probe asks a paused or slow server for the least there is: its root DSE.
func (c *Client) probe(ctx context.Context, s *server) {
	_, err := try(ctx, c, s, searches, func(l *goldap.Conn) (struct{}, error) {
		_, err := l.Search(goldap.NewSearchRequest("", goldap.ScopeBaseObject, goldap.NeverDerefAliases, 1, 0, false,
			"(objectClass=*)", []string{"1.1"}, nil))
		return struct{}{}, err
	})
	if isAnswer(err) && s.breaker.asked() {
		c.log.Info("directory server answers", "server", s.uri)
	}
}

// purpose tells the connections of a server apart.
type purpose int

const (
	searches purpose = iota
	binds
)

func (s *server) pool(p purpose) *pool {
	if p == binds {
		return s.binds
	}
	return s.searches
}

// ask runs op on the first server that answers. Its errors are the answer's, or
// DirectoryDown with what each server said. A search that one server leaves
// unanswered for long goes to the next one too.
func ask[T any](ctx context.Context, c *Client, p purpose, op func(*goldap.Conn) (T, error)) (T, error) {
	var none T
	servers, err := c.roster.servers(ctx)
	if err != nil {
		return none, status.New(status.DirectoryDown, err)
	}
	left := &candidates{c: c, servers: servers}
	var causes []error
	for {
		s, trial := left.next()
		if s == nil {
			break
		}
		value, err := hedged(ctx, c, s, p, left, op)
		if trial {
			s.breaker.done()
		}
		if isAnswer(err) {
			return value, err
		}
		causes = append(causes, fmt.Errorf("%s: %w", s.uri, err))
		if ctx.Err() != nil {
			break
		}
	}
	return none, status.New(status.DirectoryDown, errors.Join(append(causes, left.leftAlone()...)...))
}

// try runs op on one server and notes what that says about it.
func try[T any](ctx context.Context, c *Client, s *server, p purpose, op func(*goldap.Conn) (T, error)) (T, error) {
	started := time.Now()
	s.asked.Add(1)
	value, err := attempt(ctx, s, s.pool(p), op)
	took := time.Since(started)
	switch {
	case isAnswer(err):
		s.breaker.succeeded()
	case errors.Is(context.Cause(ctx), errOvertaken):
		err = errors.Join(errOvertaken, err) // slow, but no failure
	case ctx.Err() != nil:
		return value, err // a caller that gave up says nothing about the server
	default:
		s.failed.Add(1)
		if s.breaker.failed(time.Now(), took) {
			c.log.Warn("directory server fails repeatedly and is left alone for a while", "server", s.uri, "error", err)
		}
		if took < cheapFailure {
			return value, err // a refusal is quick and no sign of speed
		}
	}
	if p == searches && s.latency.observe(took) {
		c.log.Warn("directory server became slow or ceased to be; slow ones are asked last", "server", s.uri, "slow", s.latency.isSlow())
	}
	return value, err
}

func (c *Client) mayAsk(s *server) bool {
	if c.running.Load() {
		return s.breaker.asked()
	}
	return s.breaker.allow(time.Now())
}

// attempt runs op on a connection to the server, and once more on a new one
// when a pooled one turns out to be stale.
func attempt[T any](ctx context.Context, s *server, p *pool, op func(*goldap.Conn) (T, error)) (T, error) {
	var value T
	ctx, cancel := context.WithTimeout(ctx, s.timeout)
	defer cancel()
	for {
		c, reused, err := p.get(ctx)
		if err != nil {
			return value, &connectError{err}
		}
		healthy, err := c.run(ctx, func(l *goldap.Conn) (err error) {
			value, err = op(l)
			return err
		})
		if healthy && isAnswer(err) {
			p.put(c)
			return value, err
		}
		p.drop(c)
		if isAnswer(err) || !reused || ctx.Err() != nil {
			return value, err
		}
		// One stale connection is rarely alone: a restart broke them all.
		p.closeIdle(time.Now().Add(time.Hour))
	}
}

// connectError is why there is no connection: never an answer to what was
// asked, even when it is a result code.
type connectError struct{ err error }

func (e *connectError) Error() string { return "connect: " + e.err.Error() }
func (e *connectError) Unwrap() error { return e.err }

// isAnswer reports whether err is what a working server says, success
// included, rather than the absence of an answer.
func isAnswer(err error) bool {
	if err == nil {
		return true
	}
	var unconnected *connectError
	if errors.As(err, &unconnected) {
		return false
	}
	if errors.Is(err, directory.ErrNoSuchBase) || errors.Is(err, directory.ErrSizeLimit) {
		return true
	}
	var answer *status.Error
	if errors.As(err, &answer) {
		return true
	}
	var result *goldap.Error
	if !errors.As(err, &result) {
		return false
	}
	switch result.ResultCode {
	case goldap.LDAPResultOperationsError, // AD: "a successful bind must be completed"
		goldap.LDAPResultProtocolError,
		goldap.LDAPResultTimeLimitExceeded,
		goldap.LDAPResultBusy,
		goldap.LDAPResultUnavailable,
		goldap.LDAPResultUnwillingToPerform,
		goldap.LDAPResultOther:
		return false
	}
	return result.ResultCode < goldap.ErrorNetwork
}
