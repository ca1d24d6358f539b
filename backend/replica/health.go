package replica

// Health is how a node does, without looking at accounts.
type Health struct {
	// Linked: the partner can be reached.
	Linked bool
	// Joining: this node has not all accounts yet.
	Joining bool
	// Stale says why this node must not serve; "" when it may.
	Stale string
	// PeerStale says why the partner, though connected, takes no part.
	PeerStale string
}

// Health tells how the node does.
func (n *Node) Health() Health {
	n.mu.Lock()
	h := Health{Linked: n.link != nil && n.greeted, Stale: n.stale, PeerStale: n.peerStale}
	n.mu.Unlock()
	h.Joining = n.joining()
	return h
}
