package testenv

import (
	"io"
	"net"
	"sync"
	"testing"
)

// Direction is which way octets go through a Cable.
type Direction int

// The directions: what the dialling side sends, and what it is sent.
const (
	Forth Direction = iota
	Back
)

// Cable is a network between two programs of which one dials the other: it can
// be pulled, and it can fall silent without anybody being told, in one direction
// or both. Methods may be called concurrently.
type Cable struct {
	target   string
	listener net.Listener

	mu     sync.Mutex
	change *sync.Cond // of what follows
	pulled bool
	silent [2]bool
	conns  map[net.Conn]bool // both ends of each connection that lives
}

// NewCable lays a cable to target, host:port, which need not listen yet. It is
// taken away when the test ends.
func NewCable(t testing.TB, target string) *Cable {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	c := &Cable{target: target, listener: l, conns: make(map[net.Conn]bool)}
	c.change = sync.NewCond(&c.mu)
	var served sync.WaitGroup
	served.Go(func() { c.serve(&served) })
	t.Cleanup(func() {
		_ = l.Close()
		c.Pull()
		served.Wait()
	})
	return c
}

// Addr is where the dialling program dials instead of the target.
func (c *Cable) Addr() string { return c.listener.Addr().String() }

// Pull resets all connections, and those that come until Plug.
func (c *Cable) Pull() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.pulled = true
	for conn := range c.conns {
		reset(conn)
	}
	c.change.Broadcast()
}

// Silence stops what goes in a direction: connections live, also new ones, and
// nothing arrives until Plug.
func (c *Cable) Silence(ways ...Direction) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, way := range ways {
		c.silent[way] = true
	}
}

// Plug makes the cable whole: what was held up goes on.
func (c *Cable) Plug() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.pulled, c.silent = false, [2]bool{}
	c.change.Broadcast()
}

func (c *Cable) serve(served *sync.WaitGroup) {
	for {
		conn, err := c.listener.Accept()
		if err != nil {
			return
		}
		served.Go(func() { c.carry(conn) })
	}
}

// carry is one connection from its begin to its end.
func (c *Cable) carry(near net.Conn) {
	if !c.hold(near) {
		return
	}
	defer c.drop(near)
	far, err := net.Dial("tcp", c.target)
	if err != nil || !c.hold(far) {
		return
	}
	defer c.drop(far)
	var ways sync.WaitGroup
	ways.Go(func() { c.pass(far, near, Forth) })
	ways.Go(func() { c.pass(near, far, Back) })
	ways.Wait()
}

// hold notes a connection so that Pull finds it; false when pulled already.
func (c *Cable) hold(conn net.Conn) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.pulled {
		reset(conn)
		return false
	}
	c.conns[conn] = true
	return true
}

func (c *Cable) drop(conn net.Conn) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.conns, conn)
	_ = conn.Close()
}

func (c *Cable) pass(to, from net.Conn, way Direction) {
	buf := make([]byte, 32<<10)
	for {
		n, err := from.Read(buf)
		if !c.await(way) {
			return
		}
		if n > 0 {
			if _, err := to.Write(buf[:n]); err != nil {
				reset(from)
				return
			}
		}
		switch {
		case err == io.EOF:
			if half, ok := to.(*net.TCPConn); ok {
				_ = half.CloseWrite()
			}
			return
		case err != nil:
			reset(to)
			return
		}
	}
}

// await returns when the way is open, false when the cable was pulled.
func (c *Cable) await(way Direction) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	for c.silent[way] && !c.pulled {
		c.change.Wait()
	}
	return !c.pulled
}

// reset closes a connection so that the other end sees an error, not an end.
func reset(conn net.Conn) {
	if tcp, ok := conn.(*net.TCPConn); ok {
		_ = tcp.SetLinger(0)
	}
	_ = conn.Close()
}
