// Package linktest is a network in memory whose ways can be cut, each direction
// for itself, for tests of what replicates over links. It works within
// testing/synctest bubbles.
//
// A cut way holds what is sent over it, as TCP does that sends again; so nobody
// learns of the cut but by silence. Break resets connections instead.
package linktest

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"sync"
	"syscall"
	"time"
)

// Network connects hosts by name.
type Network struct {
	mu        sync.Mutex
	listeners map[string]*listener
	cut       map[way]bool
	conns     map[*conn]bool
	healed    chan struct{} // closed when a way opens
}

type way struct{ from, to string }

// New returns a network in which all ways are open.
func New() *Network {
	return &Network{listeners: make(map[string]*listener), cut: make(map[way]bool), conns: make(map[*conn]bool), healed: make(chan struct{})}
}

// Listen opens the host of that name to connections.
func (n *Network) Listen(host string) net.Listener {
	l := &listener{network: n, host: host, accept: make(chan net.Conn), closed: make(chan struct{})}
	n.mu.Lock()
	defer n.mu.Unlock()
	n.listeners[host] = l
	return l
}

// Dialer returns how the host of that name connects to others.
func (n *Network) Dialer(from string) func(ctx context.Context, to string) (net.Conn, error) {
	return func(ctx context.Context, to string) (net.Conn, error) { return n.dial(ctx, from, to) }
}

func (n *Network) dial(ctx context.Context, from, to string) (net.Conn, error) {
	for {
		n.mu.Lock()
		shut, healed, l := n.cut[way{from, to}] || n.cut[way{to, from}], n.healed, n.listeners[to]
		n.mu.Unlock()
		if !shut {
			if l == nil {
				return nil, refused(to)
			}
			return n.connect(ctx, from, l)
		}
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-healed:
		}
	}
}

func refused(to string) error {
	return &net.OpError{Op: "dial", Net: "memory", Addr: addr(to), Err: syscall.ECONNREFUSED}
}

func (n *Network) connect(ctx context.Context, from string, l *listener) (net.Conn, error) {
	there, back := newHalf(), newHalf()
	ours := &conn{network: n, local: from, remote: l.host, in: back, out: there}
	theirs := &conn{network: n, local: l.host, remote: from, in: there, out: back}
	n.mu.Lock()
	n.conns[ours], n.conns[theirs] = true, true
	there.set(func() { there.cut = n.cut[way{from, l.host}] })
	back.set(func() { back.cut = n.cut[way{l.host, from}] })
	n.mu.Unlock()
	select {
	case l.accept <- theirs:
		return ours, nil
	case <-l.closed:
		return nil, refused(l.host)
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// Cut holds what goes from one host to another, until Heal.
func (n *Network) Cut(from, to string) { n.turn(from, to, true) }

// Heal lets through what goes from one host to another, and what was held.
func (n *Network) Heal(from, to string) { n.turn(from, to, false) }

func (n *Network) turn(from, to string, cut bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.cut[way{from, to}] = cut
	for c := range n.conns {
		if c.local == from && c.remote == to {
			c.out.set(func() { c.out.cut = cut })
		}
	}
	if !cut {
		close(n.healed)
		n.healed = make(chan struct{})
	}
}

// Break resets all connections of a host; what is under way is lost.
func (n *Network) Break(host string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	for c := range n.conns {
		if c.local == host || c.remote == host {
			c.in.set(func() { c.in.broken = syscall.ECONNRESET })
			c.out.set(func() { c.out.broken = syscall.ECONNRESET })
			delete(n.conns, c)
		}
	}
}

type addr string

// Network implements net.Addr.
func (a addr) Network() string { return "memory" }

// String implements net.Addr.
func (a addr) String() string { return string(a) }

type listener struct {
	network *Network
	host    string
	accept  chan net.Conn
	once    sync.Once
	closed  chan struct{}
}

// Accept implements net.Listener.
func (l *listener) Accept() (net.Conn, error) {
	select {
	case c := <-l.accept:
		return c, nil
	case <-l.closed:
		return nil, fmt.Errorf("accept %s: %w", l.host, net.ErrClosed)
	}
}

// Close implements net.Listener.
func (l *listener) Close() error {
	l.once.Do(func() {
		close(l.closed)
		l.network.mu.Lock()
		defer l.network.mu.Unlock()
		if l.network.listeners[l.host] == l {
			delete(l.network.listeners, l.host)
		}
	})
	return nil
}

// Addr implements net.Listener.
func (l *listener) Addr() net.Addr { return addr(l.host) }

// buffered is what one direction holds before a writer waits.
const buffered = 256 << 10

// half is one direction of a connection.
type half struct {
	mu      sync.Mutex
	buf     []byte
	cut     bool
	ended   bool  // by the writer
	broken  error // both sides see it
	changed chan struct{}
}

func newHalf() *half { return &half{changed: make(chan struct{})} }

// set changes something and wakes who waits.
func (h *half) set(change func()) {
	h.mu.Lock()
	defer h.mu.Unlock()
	change()
	h.wakeLocked()
}

func (h *half) wakeLocked() {
	close(h.changed)
	h.changed = make(chan struct{})
}

// try does a read or a write; without effect it returns what to wait for.
func (h *half) try(do func() (int, error)) (int, <-chan struct{}, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.broken != nil {
		return 0, nil, h.broken
	}
	n, err := do()
	if n > 0 || err != nil {
		h.wakeLocked()
		return n, nil, err
	}
	return 0, h.changed, nil
}

// conn is one end.
type conn struct {
	network       *Network
	local, remote string
	in, out       *half

	mu          sync.Mutex
	closed      bool
	read, write deadline
}

// deadline is when an operation ends; changed wakes those under way.
type deadline struct {
	at      time.Time
	changed chan struct{}
}

func (c *conn) state(d *deadline) (at time.Time, changed <-chan struct{}, closed bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if d.changed == nil {
		d.changed = make(chan struct{})
	}
	return d.at, d.changed, c.closed
}

// each repeats a step until it has an effect.
func (c *conn) each(h *half, d *deadline, step func() (int, error)) (int, error) {
	for {
		at, moved, closed := c.state(d)
		if closed {
			return 0, net.ErrClosed
		}
		if !at.IsZero() && !time.Now().Before(at) {
			return 0, os.ErrDeadlineExceeded
		}
		n, wait, err := h.try(step)
		if wait == nil {
			return n, err
		}
		if err := waitFor(at, moved, wait); err != nil {
			return 0, err
		}
	}
}

func waitFor(at time.Time, moved, changed <-chan struct{}) error {
	var over <-chan time.Time
	if !at.IsZero() {
		timer := time.NewTimer(time.Until(at))
		defer timer.Stop()
		over = timer.C
	}
	select {
	case <-moved:
	case <-changed:
	case <-over:
		return os.ErrDeadlineExceeded
	}
	return nil
}

// Read implements net.Conn.
func (c *conn) Read(p []byte) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	h := c.in
	return c.each(h, &c.read, func() (int, error) {
		switch {
		case h.cut:
			return 0, nil
		case len(h.buf) == 0 && h.ended:
			return 0, io.EOF
		}
		n := copy(p, h.buf)
		h.buf = h.buf[n:]
		return n, nil
	})
}

// Write implements net.Conn.
func (c *conn) Write(p []byte) (int, error) {
	h, done := c.out, 0
	for done < len(p) {
		n, err := c.each(h, &c.write, func() (int, error) {
			n := min(buffered-len(h.buf), len(p)-done)
			h.buf = append(h.buf, p[done:done+n]...)
			return n, nil
		})
		if done += n; err != nil {
			return done, err
		}
	}
	return done, nil
}

// Close implements net.Conn. What was written still arrives.
func (c *conn) Close() error {
	c.mu.Lock()
	again := c.closed
	c.closed = true
	for _, d := range []*deadline{&c.read, &c.write} {
		if d.changed != nil {
			close(d.changed)
			d.changed = nil
		}
	}
	c.mu.Unlock()
	if again {
		return net.ErrClosed
	}
	c.out.set(func() { c.out.ended = true })
	return nil
}

// LocalAddr implements net.Conn.
func (c *conn) LocalAddr() net.Addr { return addr(c.local) }

// RemoteAddr implements net.Conn.
func (c *conn) RemoteAddr() net.Addr { return addr(c.remote) }

// SetDeadline implements net.Conn.
func (c *conn) SetDeadline(t time.Time) error {
	return errors.Join(c.SetReadDeadline(t), c.SetWriteDeadline(t))
}

// SetReadDeadline implements net.Conn.
func (c *conn) SetReadDeadline(t time.Time) error { return c.setDeadline(&c.read, t) }

// SetWriteDeadline implements net.Conn.
func (c *conn) SetWriteDeadline(t time.Time) error { return c.setDeadline(&c.write, t) }

func (c *conn) setDeadline(d *deadline, t time.Time) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return net.ErrClosed
	}
	d.at = t
	if d.changed != nil {
		close(d.changed)
		d.changed = nil
	}
	return nil
}
