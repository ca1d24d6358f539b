package proxyproto

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/go-hclog"
)

// Config says who tells of clients.
type Config struct {
	// Networks are where the proxies are, whose connections all begin with a
	// header.
	Networks []netip.Prefix
	// Required turns others away; else they are clients themselves, and what
	// they send is no header.
	Required bool
	// Timeout bounds the wait for a header; 0 is 5 s.
	Timeout time.Duration
}

// maxWaiting bounds the connections whose header is waited for.
const maxWaiting = 1000

// Listener takes connections with and without header. A connection whose header
// is slow keeps nobody else waiting.
type Listener struct {
	net.Listener
	config func() *Config
	log    hclog.Logger

	begin   sync.Once
	ready   chan accepted
	closing chan struct{}

	mu      sync.Mutex
	closed  bool
	waiting map[net.Conn]struct{} // for their header
	pending int                   // those, and the ones that nobody has accepted yet

	counts counts
}

type accepted struct {
	conn net.Conn
	err  error
}

type counts struct{ foreign, malformed, crowded atomic.Uint64 }

// Stats are how many connections were closed, ever, by why.
type Stats struct {
	Foreign   uint64 // from none of the proxies, where one is required
	Malformed uint64 // without a whole header in time
	Crowded   uint64 // beyond those whose header was waited for
}

// Listen returns a listener above l, which it closes. config is asked at each
// connection; while it returns nil all are clients themselves. It must not
// block.
func Listen(l net.Listener, config func() *Config, log hclog.Logger) *Listener {
	if log == nil {
		log = hclog.NewNullLogger()
	}
	return &Listener{Listener: l, config: config, log: log, ready: make(chan accepted), closing: make(chan struct{}), waiting: make(map[net.Conn]struct{})}
}

// Accept implements net.Listener. The first call begins to accept, which Close
// ends.
func (l *Listener) Accept() (net.Conn, error) {
	l.begin.Do(func() { go l.acceptAll() })
	select {
	case a := <-l.ready:
		return a.conn, a.err
	case <-l.closing:
		return nil, net.ErrClosed
	}
}

// Close implements net.Listener.
func (l *Listener) Close() error {
	l.mu.Lock()
	if l.closed {
		l.mu.Unlock()
		return net.ErrClosed
	}
	l.closed = true
	close(l.closing)
	for conn := range l.waiting {
		_ = conn.Close()
	}
	l.mu.Unlock()
	return l.Listener.Close()
}

// Stats returns the present figures.
func (l *Listener) Stats() Stats {
	return Stats{Foreign: l.counts.foreign.Load(), Malformed: l.counts.malformed.Load(), Crowded: l.counts.crowded.Load()}
}

// acceptAll goes on until the listener is closed: an error may pass, and whoever
// accepts decides how long to wait.
func (l *Listener) acceptAll() {
	for {
		conn, err := l.Listener.Accept()
		if err != nil {
			if !l.deliver(nil, err) {
				return
			}
			continue
		}
		l.take(conn)
	}
}

func (l *Listener) deliver(conn net.Conn, err error) bool {
	select {
	case l.ready <- accepted{conn, err}:
		return true
	case <-l.closing:
		if conn != nil {
			_ = conn.Close()
		}
		return false
	}
}

// take finds out whether a connection needs a header.
func (l *Listener) take(conn net.Conn) {
	cfg := l.config()
	peer, ok := conn.RemoteAddr().(*net.TCPAddr)
	if cfg == nil || !ok {
		l.deliver(conn, nil)
		return
	}
	addr := peer.AddrPort().Addr().Unmap().WithZone("")
	if slices.ContainsFunc(cfg.Networks, func(p netip.Prefix) bool { return p.Contains(addr) }) {
		l.await(conn, cfg, netip.AddrPortFrom(addr, uint16(peer.Port)))
		return
	}
	if cfg.Required {
		l.counts.foreign.Add(1)
		l.log.Debug("closed a connection from outside of the proxies", "remote", peer.String())
		_ = conn.Close()
		return
	}
	l.deliver(conn, nil)
}

// await reads a header beside.
func (l *Listener) await(conn net.Conn, cfg *Config, peer netip.AddrPort) {
	l.mu.Lock()
	switch {
	case l.closed:
		l.mu.Unlock()
		_ = conn.Close()
		return
	case l.pending >= maxWaiting:
		l.mu.Unlock()
		l.counts.crowded.Add(1)
		_ = conn.Close()
		return
	}
	l.waiting[conn] = struct{}{}
	l.pending++
	l.mu.Unlock()
	go func() { // ends with the timeout or with Close
		defer func() {
			l.mu.Lock()
			l.pending--
			l.mu.Unlock()
		}()
		told, err := l.meet(conn, cfg, peer)
		l.mu.Lock()
		delete(l.waiting, conn)
		l.mu.Unlock()
		if err != nil {
			l.refuse(conn, peer, err)
			return
		}
		l.deliver(told, nil)
	}()
}

// refuse closes a connection without header. One that ends without an octet is
// how proxies find out that somebody listens.
func (l *Listener) refuse(conn net.Conn, peer netip.AddrPort, err error) {
	_ = conn.Close()
	if errors.Is(err, io.EOF) {
		l.log.Debug("no PROXY header, nor anything else", "proxy", peer.String())
		return
	}
	l.counts.malformed.Add(1)
	l.log.Warn("no PROXY header", "proxy", peer.String(), "error", err)
}

// meet returns the connection as its client's.
func (l *Listener) meet(conn net.Conn, cfg *Config, peer netip.AddrPort) (net.Conn, error) {
	timeout := cfg.Timeout
	if timeout == 0 {
		timeout = 5 * time.Second
	}
	if err := conn.SetReadDeadline(time.Now().Add(timeout)); err != nil {
		return nil, err
	}
	h, err := ReadHeader(conn)
	if err != nil {
		return nil, fmt.Errorf("read header: %w", err)
	}
	if err := conn.SetReadDeadline(time.Time{}); err != nil {
		return nil, err
	}
	if !h.Source.IsValid() {
		return conn, nil
	}
	return &Conn{Conn: conn, remote: net.TCPAddrFromAddrPort(h.Source), local: net.TCPAddrFromAddrPort(h.Destination), via: peer}, nil
}
