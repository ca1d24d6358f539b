package replica

import (
	"context"

	"github.com/postern-mail/postern/backend/mailstore"
	"github.com/postern-mail/postern/backend/replica/link"
)

// Handler returns what a link.Link tells of its sessions to.
func (n *Node) Handler() link.Handler { return &handler{node: n} }

// handler is a node as its link sees it: one session at a time.
type handler struct {
	node *Node
}

// Up implements link.Handler.
func (h *handler) Up(s *link.Session) { h.node.Up(session{s}) }

// Receive implements link.Handler.
func (h *handler) Receive(s *link.Session, r link.Received) {
	f := Frame{Class: Class(r.Class), Kind: Kind(r.Type), Account: mailstore.GUID(r.Stream), Payload: r.Body}
	h.node.Receive(session{s}, f, r.Done)
}

// Writable implements link.Handler.
func (h *handler) Writable(s *link.Session, _ link.Class) { h.node.Writable(session{s}) }

// Down implements link.Handler.
func (h *handler) Down(s *link.Session, err error) { h.node.Down(session{s}, err) }

// session is a link.Session as a Link.
type session struct{ *link.Session }

// Peer implements Link.
func (s session) Peer() Peer {
	p := s.Session.Peer()
	return Peer{Node: p.Node, Origin: mailstore.Origin(p.Origin), Remote: p.Remote}
}

// Push implements Link.
func (s session) Push(f Frame) { s.Session.Push(link.Class(f.Class), linkFrame(f)) }

// Room implements Link.
func (s session) Room(c Class) bool { return s.Session.Room(link.Class(c)) }

// Send implements Link.
func (s session) Send(ctx context.Context, f Frame) error {
	return s.Session.Send(ctx, link.Class(f.Class), linkFrame(f))
}

func linkFrame(f Frame) link.Frame {
	return link.Frame{Stream: link.Stream(f.Account), Type: uint8(f.Kind), Body: f.Payload}
}
