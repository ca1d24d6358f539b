package sim

import (
	"github.com/postern-mail/postern/backend/replica"
)

// connection is one between the two nodes, from its beginning until both have
// noticed its end.
type connection struct {
	number int
	broken bool
	// queues hold what is on its way, by the receiving node and the class: each
	// is first in, first out, and they overtake each other.
	queues  [2][replica.Classes][]replica.Frame
	stalled [2]bool // nothing arrives at that node until further notice
	up      [2]bool // the node was told that it is up
	down    [2]bool // the node was told that it is lost
}

func (c *connection) inFlight(to int) int {
	n := 0
	for _, q := range c.queues[to] {
		n += len(q)
	}
	return n
}

// usable reports whether the node has the connection for one that works.
func (c *connection) usable(node int) bool { return c != nil && c.up[node] && !c.down[node] }

// over reports whether nobody has to do with it any more.
func (w *world) over(c *connection) bool {
	if c == nil {
		return true
	}
	for i, n := range w.nodes {
		if n.up && c.up[i] && !c.down[i] {
			return false
		}
	}
	return c.broken
}

// connect makes a connection where there is none and both nodes run.
func (w *world) connect() {
	if !w.over(w.conn) || !w.nodes[0].up || !w.nodes[1].up {
		return
	}
	w.connections++
	w.conn = &connection{number: w.connections}
	w.tracef("connection %d", w.connections)
}

// cut breaks the connection. Of what was on its way, a part may still arrive at
// a node that has not noticed.
func (w *world) cut(keep uint16) {
	c := w.conn
	if c == nil || c.broken {
		return
	}
	c.broken = true
	for to := range c.queues {
		for class := range c.queues[to] {
			q := c.queues[to][class]
			n := 0
			if keep&3 == 3 {
				n = int(keep>>2) % (len(q) + 1)
			}
			c.queues[to][class] = q[:n]
		}
	}
	w.tracef("connection %d breaks", c.number)
}

// send puts a frame on its way.
func (w *world) send(from int, f replica.Frame) {
	c := w.conn
	if !c.usable(from) || c.broken {
		return
	}
	f.Payload = append([]byte(nil), f.Payload...)
	c.queues[1-from][f.Class] = append(c.queues[1-from][f.Class], f)
}

// notice tells a node what became of its connection.
func (w *world) notice(n *node) {
	c := w.conn
	switch {
	case c == nil || !n.up || c.down[n.id]:
	case c.broken && !c.up[n.id]:
		c.down[n.id] = true // it never heard of it
	case c.broken:
		w.tracef("node %d notices the loss", n.id)
		c.down[n.id] = true
		n.linkDown()
	case !c.up[n.id]:
		w.tracef("node %d is connected", n.id)
		c.up[n.id] = true
		n.linkUp()
	}
}

// receive lets some frames arrive at a node.
func (w *world) receive(n *node, class, count int) {
	c := w.conn
	if !n.up || !c.usable(n.id) || c.stalled[n.id] {
		return
	}
	for range count {
		q := &c.queues[n.id][class]
		for try := 0; len(*q) == 0 && try < replica.Classes; try++ {
			class = (class + 1) % replica.Classes
			q = &c.queues[n.id][class]
		}
		if len(*q) == 0 || !n.up || !c.usable(n.id) {
			return
		}
		f := (*q)[0]
		*q = (*q)[1:]
		w.tracef("node %d gets kind %d, %d octets", n.id, f.Kind, len(f.Payload))
		n.frame(f)
	}
}
