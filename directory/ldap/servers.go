package ldap

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/go-hclog"
)

// server is one of the servers with its connections.
type server struct {
	endpoint
	timeout  time.Duration
	breaker  *breaker
	latency  *latency
	searches *pool
	binds    *pool
	counters
}

// counters are what a server was asked and did.
type counters struct {
	asked, failed, hedged atomic.Uint64
}

func newServer(cfg Config, e endpoint) *server {
	dialer := func(asService bool) func(context.Context) (*conn, error) {
		return func(ctx context.Context) (*conn, error) { return dial(ctx, cfg, e, asService) }
	}
	return &server{
		endpoint: e,
		timeout:  cfg.Timeout,
		breaker:  &breaker{maxFailures: cfg.MaxFailures, maxPause: cfg.MaxPause, cheapWithin: cmp.Or(cfg.cheapFailure, cheapFailure)},
		latency:  &latency{slowAfter: cfg.Timeout / 5},
		searches: newPool(cfg.MaxConnections, cfg.IdleTimeout, dialer(true)),
		binds:    newPool(cfg.MaxBindConnections, cfg.IdleTimeout, dialer(false)),
	}
}

func (s *server) closeIdle(before time.Time) {
	s.searches.closeIdle(before)
	s.binds.closeIdle(before)
}

// roster is the list of servers: those of the configuration and those that the
// DNS names. A server that stays in the list keeps its connections and what is
// known of it. A roster may be used concurrently.
type roster struct {
	cfg     Config
	log     hclog.Logger
	sources []source

	mu      sync.Mutex
	known   map[string]known // by discovery's URI
	asking  map[string]*question
	current []*server // in order; replaced as a whole
}

// source is one of Config.URIs: a server, or a discovery when server is nil.
type source struct {
	server    *server
	discovery discovery
}

// question is a question to the DNS under way.
type question struct{ done chan struct{} }

func newRoster(cfg Config, log hclog.Logger) (*roster, error) {
	r := &roster{cfg: cfg, log: log, known: make(map[string]known), asking: make(map[string]*question)}
	for _, uri := range cfg.URIs {
		d, ok, err := cfg.parseDiscovery(uri)
		if err != nil {
			return nil, err
		}
		if ok {
			r.sources = append(r.sources, source{discovery: d})
			continue
		}
		e, err := cfg.parseURI(uri)
		if err != nil {
			return nil, err
		}
		s := newServer(cfg, e)
		r.sources = append(r.sources, source{server: s})
		r.current = append(r.current, s)
	}
	return r, nil
}

// servers returns the servers in order of preference. It asks the DNS when an
// answer has expired, and goes on with the old one where the DNS does not
// answer; without any server the error says why there is none.
func (r *roster) servers(ctx context.Context) ([]*server, error) {
	var failed error
	for _, src := range r.sources {
		if src.server == nil {
			failed = errors.Join(failed, r.refresh(ctx, src.discovery))
		}
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.current) == 0 {
		return nil, errors.Join(errNoServers, failed)
	}
	return r.current, nil
}

// refresh asks the DNS about a domain, if it is time to. Whoever comes while
// somebody asks waits only when nothing is known yet.
func (r *roster) refresh(ctx context.Context, d discovery) error {
	r.mu.Lock()
	old := r.known[d.uri]
	if time.Now().Before(old.expires) {
		r.mu.Unlock()
		return nil
	}
	if q := r.asking[d.uri]; q != nil {
		r.mu.Unlock()
		if len(old.found) > 0 {
			return nil
		}
		select {
		case <-q.done:
			return nil
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	q := &question{done: make(chan struct{})}
	r.asking[d.uri] = q
	r.mu.Unlock()
	defer close(q.done)

	asking, cancel := context.WithTimeout(ctx, r.cfg.Timeout)
	defer cancel()
	endpoints, expires, err := d.find(asking, r.cfg.Resolver, time.Now())

	r.mu.Lock()
	delete(r.asking, d.uri)
	if err != nil {
		if ctx.Err() == nil { // a caller that gave up says nothing about the DNS
			r.known[d.uri] = known{found: old.found, expires: expires}
		}
		r.mu.Unlock()
		r.log.Warn("servers of the directory cannot be found in the DNS; those known are kept", "uri", d.uri, "known", len(old.found), "error", err)
		return fmt.Errorf("%s: %w", d.uri, err)
	}
	found := make([]*server, len(endpoints))
	for i, e := range endpoints {
		if at := slices.IndexFunc(old.found, func(s *server) bool { return s.same(e) }); at >= 0 {
			found[i] = old.found[at]
		} else {
			found[i] = newServer(r.cfg, e)
		}
	}
	r.known[d.uri] = known{found, expires}
	r.arrangeLocked()
	r.mu.Unlock()
	for _, s := range old.found {
		if !slices.Contains(found, s) {
			s.closeIdle(time.Now().Add(time.Hour))
		}
	}
	return nil
}

// same reports whether e is the server, trusted by the same names.
func (s *server) same(e endpoint) bool {
	return s.network == e.network && s.address == e.address && slices.Equal(s.names, e.names)
}

// arrangeLocked puts the list together.
func (r *roster) arrangeLocked() {
	var all []*server
	for _, src := range r.sources {
		if src.server != nil {
			all = append(all, src.server)
		} else {
			all = append(all, r.known[src.discovery.uri].found...)
		}
	}
	r.current = all
}

// snapshot returns the servers known now.
func (r *roster) snapshot() []*server {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.current
}

// candidates hands out the servers for one operation, each once: those that are
// well, then slow ones, and when all are left alone those that may be tried.
type candidates struct {
	c *Client

	mu      sync.Mutex
	servers []*server
	slow    []*server
	alone   []*server
	untried []*server // of alone
	given   bool
}

// next returns the next server; nil when none is left. When it is on trial the
// caller says when the trial is done.
func (a *candidates) next() (s *server, trial bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for len(a.servers) > 0 {
		s, a.servers = a.servers[0], a.servers[1:]
		switch {
		case !a.c.mayAsk(s):
			a.alone, a.untried = append(a.alone, s), append(a.untried, s)
		case s.latency.isSlow():
			a.slow = append(a.slow, s)
		default:
			a.given = true
			return s, false
		}
	}
	if len(a.slow) > 0 {
		s, a.slow = a.slow[0], a.slow[1:]
		a.given = true
		return s, false
	}
	for !a.given && len(a.untried) > 0 {
		s, a.untried = a.untried[0], a.untried[1:]
		if s.breaker.allowTrial() {
			return s, true
		}
	}
	return nil, false
}

// leftAlone tells why servers were not asked.
func (a *candidates) leftAlone() (causes []error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, s := range a.alone {
		causes = append(causes, fmt.Errorf("%s: left alone after repeated failures", s.uri))
	}
	return causes
}
