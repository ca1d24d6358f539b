package server

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/postern-mail/postern/authn/sasl"
)

// Config of a Server. Zero values mean the defaults named here.
type Config struct {
	// Name of the listener in logs and metrics; required.
	Name string
	// Networks are those that TCP connections may come from, beside this host;
	// default none. Unix sockets are guarded by their permissions.
	Networks []netip.Prefix
	// MaxConnections bounds connections at a time; default 1000. Each process
	// of Postfix that logs people in holds one.
	MaxConnections int
	// MaxRequests bounds the exchanges that one connection has open; default
	// 1000. What is beyond fails for the time being.
	MaxRequests int
	// Workers bounds how many of them are decided at the same time; default
	// 32. While all are busy nothing is read.
	Workers int
	// RequestTimeout ends an exchange that its client does not go on with;
	// default 150 s.
	RequestTimeout time.Duration
	// IdleTimeout ends a connection on which nothing is asked; default 4 h,
	// longer than a process of Postfix lives.
	IdleTimeout time.Duration
	// Grace is how long a stop waits for what is being decided; default 30 s.
	Grace time.Duration
}

func (cfg Config) withDefaults() (Config, error) {
	if cfg.Name == "" {
		return cfg, errors.New("auth server: no name")
	}
	if min(cfg.MaxConnections, cfg.MaxRequests, cfg.Workers) < 0 || min(cfg.RequestTimeout, cfg.IdleTimeout, cfg.Grace) < 0 {
		return cfg, errors.New("auth server: bounds and times must not be negative")
	}
	cfg.MaxConnections = cmp.Or(cfg.MaxConnections, 1000)
	cfg.MaxRequests = cmp.Or(cfg.MaxRequests, 1000)
	cfg.Workers = cmp.Or(cfg.Workers, 32)
	cfg.RequestTimeout = cmp.Or(cfg.RequestTimeout, 150*time.Second)
	cfg.IdleTimeout = cmp.Or(cfg.IdleTimeout, 4*time.Hour)
	cfg.Grace = cmp.Or(cfg.Grace, 30*time.Second)
	return cfg, nil
}

// Result is how a request ended.
type Result int

// The results.
const (
	ResultOK        Result = iota
	ResultRefused          // a definite no
	ResultTemporary        // it could not be known
	ResultAbandoned        // the client gave up, or did not go on
	numResults
)

var resultNames = [numResults]string{"ok", "refused", "temporary", "abandoned"}

// String names the result in metrics.
func (r Result) String() string { return resultNames[r] }

// Server is one listener. Safe for concurrent use.
type Server struct {
	cfg        atomic.Pointer[Config] // with defaults; connections keep what they began with
	mechanisms func() (*sasl.Mechanisms, error)
	log        hclog.Logger
	results    [numResults]atomic.Uint64
	uniqueID   atomic.Uint64 // of connections: CUID

	mu    sync.Mutex // guards the fields below
	conns map[*session]struct{}
}

// New returns a server. It asks mechanisms, which must be safe for concurrent
// use, at each request, so that a new configuration counts at once.
func New(cfg Config, mechanisms func() (*sasl.Mechanisms, error), log hclog.Logger) (*Server, error) {
	s := &Server{mechanisms: mechanisms, log: log, conns: make(map[*session]struct{})}
	return s, s.Reconfigure(cfg)
}

// Reconfigure replaces the configuration for new connections. A wrong one
// changes nothing.
func (s *Server) Reconfigure(cfg Config) error {
	full, err := cfg.withDefaults()
	if err == nil {
		s.cfg.Store(&full)
	}
	return err
}

// Sessions is the number of connections at this moment.
func (s *Server) Sessions() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.conns)
}

// Results tells how many requests ended in each way since the start.
func (s *Server) Results() map[Result]uint64 {
	counts := make(map[Result]uint64, numResults)
	for r := range numResults {
		counts[r] = s.results[r].Load()
	}
	return counts
}

// Serve accepts connections until ctx ends or the listener fails. Then idle
// connections are closed at once, and the others when what is being decided on
// them has been answered, within the grace time. It closes ln and returns when
// all it accepted have ended. It may be called for several listeners.
func (s *Server) Serve(ctx context.Context, ln net.Listener) error {
	stop := context.AfterFunc(ctx, func() { _ = ln.Close() })
	defer stop()
	var all sync.WaitGroup
	defer all.Wait()
	defer ln.Close()
	for {
		conn, err := ln.Accept()
		switch {
		case ctx.Err() != nil, errors.Is(err, net.ErrClosed):
			if conn != nil {
				_ = conn.Close()
			}
			return nil
		case err == nil:
			all.Go(func() { s.serveConn(ctx, conn) })
			continue
		}
		var temporary interface{ Temporary() bool } // EMFILE and its kind; net.Error deprecates the name, not the need
		if !errors.As(err, &temporary) || !temporary.Temporary() {
			return fmt.Errorf("accept: %w", err)
		}
		s.log.Error("cannot accept connections", "listener", s.cfg.Load().Name, "err", err)
		wait := time.NewTimer(100 * time.Millisecond)
		select {
		case <-wait.C:
		case <-ctx.Done():
			wait.Stop()
		}
	}
}

// serveConn runs one connection.
func (s *Server) serveConn(ctx context.Context, conn net.Conn) {
	defer conn.Close()
	cfg := s.cfg.Load()
	if !cfg.admits(conn.RemoteAddr()) {
		s.log.Warn("connection from a network that may not ask", "listener", cfg.Name, "remote", conn.RemoteAddr())
		return
	}
	one := newSession(s, cfg, conn)
	if !s.enter(one) {
		s.log.Warn("too many connections", "listener", cfg.Name, "remote", conn.RemoteAddr(), "max", cfg.MaxConnections)
		return
	}
	defer s.leave(one)
	one.run(ctx)
}

// admits tells whether a connection may come from an address.
func (cfg *Config) admits(remote net.Addr) bool {
	tcp, ok := remote.(*net.TCPAddr)
	if !ok {
		return true // a unix socket
	}
	addr := tcp.AddrPort().Addr().Unmap()
	return addr.IsLoopback() || slices.ContainsFunc(cfg.Networks, func(n netip.Prefix) bool { return n.Contains(addr) })
}

func (s *Server) enter(one *session) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.conns) >= one.cfg.MaxConnections {
		return false
	}
	s.conns[one] = struct{}{}
	return true
}

func (s *Server) leave(one *session) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.conns, one)
}
