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
	servers []*server
	running atomic.Bool // Run probes paused servers, so that no caller has to
}

// server is one of the servers with its connections.
type server struct {
	endpoint
	timeout  time.Duration
	breaker  *breaker
	searches *pool
	binds    *pool
}

// New returns a client. It reads the files that cfg names, to find mistakes
// early, but connects to nothing.
func New(cfg Config, log hclog.Logger) (*Client, error) {
	cfg = cfg.withDefaults()
	if err := cfg.check(); err != nil {
		return nil, fmt.Errorf("ldap: %w", err)
	}
	c := &Client{cfg: cfg, log: log}
	for _, uri := range cfg.URIs {
		e, err := cfg.parseURI(uri)
		if err != nil {
			return nil, fmt.Errorf("ldap: %w", err)
		}
		c.servers = append(c.servers, newServer(cfg, e))
	}
	return c, nil
}

func newServer(cfg Config, e endpoint) *server {
	dialer := func(asService bool) func(context.Context) (*conn, error) {
		return func(ctx context.Context) (*conn, error) { return dial(ctx, cfg, e, asService) }
	}
	return &server{
		endpoint: e,
		timeout:  cfg.Timeout,
		breaker:  &breaker{maxFailures: cfg.MaxFailures, maxPause: cfg.MaxPause},
		searches: newPool(cfg.MaxConnections, cfg.IdleTimeout, dialer(true)),
		binds:    newPool(cfg.MaxBindConnections, cfg.IdleTimeout, dialer(false)),
	}
}

// Run closes connections that were idle for too long and finds out when a
// server that was left alone answers again. It blocks until ctx ends and then
// closes every idle connection. The client works without it, but then callers
// now and then wait for a dead server.
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
		for _, s := range c.servers {
			old := time.Now().Add(-c.cfg.IdleTimeout)
			s.searches.closeIdle(old)
			s.binds.closeIdle(old)
			if s.breaker.due(time.Now()) {
				c.probe(ctx, s)
			}
		}
	}
}

// Close closes the idle connections. The client stays usable.
func (c *Client) Close() {
	for _, s := range c.servers {
		s.searches.closeIdle(time.Now().Add(time.Hour))
		s.binds.closeIdle(time.Now().Add(time.Hour))
	}
}

// probe asks a paused server for the least there is: its root DSE.
func (c *Client) probe(ctx context.Context, s *server) {
	err := s.attempt(ctx, s.searches, func(l *goldap.Conn) error {
		_, err := l.Search(goldap.NewSearchRequest("", goldap.ScopeBaseObject, goldap.NeverDerefAliases, 1, 0, false,
			"(objectClass=*)", []string{"1.1"}, nil))
		return err
	})
	if isAnswer(err) {
		c.log.Info("directory server answers again", "server", s.uri)
	}
	c.note(s, err)
}

// do runs op on the first server that answers. Its errors are the answer's, or
// DirectoryDown with what each server said.
func (c *Client) do(ctx context.Context, use func(*server) *pool, op func(*goldap.Conn) error) error {
	var causes []error
	for _, s := range c.servers {
		if !c.mayAsk(s) {
			causes = append(causes, fmt.Errorf("%s: left alone after repeated failures", s.uri))
			continue
		}
		err := s.attempt(ctx, use(s), op)
		if ctx.Err() == nil || isAnswer(err) { // a caller that gave up says nothing about the server
			c.note(s, err)
		}
		if isAnswer(err) {
			return err
		}
		causes = append(causes, fmt.Errorf("%s: %w", s.uri, err))
		if ctx.Err() != nil {
			break
		}
	}
	return status.New(status.DirectoryDown, errors.Join(causes...))
}

func (c *Client) mayAsk(s *server) bool {
	if c.running.Load() {
		s.breaker.mu.Lock()
		defer s.breaker.mu.Unlock()
		return s.breaker.until.IsZero()
	}
	return s.breaker.allow(time.Now())
}

func (c *Client) note(s *server, err error) {
	if isAnswer(err) {
		s.breaker.succeeded()
		return
	}
	if s.breaker.failed(time.Now()) {
		c.log.Warn("directory server fails repeatedly and is left alone for a while", "server", s.uri, "error", err)
	}
}

// attempt runs op on a connection to the server, and once more on a new one
// when a pooled one turns out to be stale.
func (s *server) attempt(ctx context.Context, p *pool, op func(*goldap.Conn) error) error {
	ctx, cancel := context.WithTimeout(ctx, s.timeout)
	defer cancel()
	for {
		c, reused, err := p.get(ctx)
		if err != nil {
			return &connectError{err}
		}
		healthy, err := c.run(ctx, op)
		if healthy && isAnswer(err) {
			p.put(c)
			return err
		}
		p.drop(c)
		if isAnswer(err) || !reused || ctx.Err() != nil {
			return err
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
	var unconnected *connectError
	if errors.As(err, &unconnected) {
		return false
	}
	if err == nil || errors.Is(err, directory.ErrNoSuchBase) || errors.Is(err, directory.ErrSizeLimit) {
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
