package proxy

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/postern-mail/postern/mail"
)

// Cell is where the mailboxes of some users are. Its methods may be called
// concurrently.
type Cell struct {
	cfg     CellConfig
	dialect Dialect
	log     hclog.Logger
	nodes   []*node
	dial    func(ctx context.Context, network, address string) (net.Conn, error)
}

// node is one server of a cell.
type node struct {
	cell             *Cell
	network, address string
	host             string // of the certificate; "" for a unix socket
	class            mail.Home

	mu       sync.Mutex
	down     bool
	asked    chan struct{} // has a token while somebody suspects the node
	relays   map[*relay]struct{}
	failures uint64
}

// NewCell returns a cell whose servers speak a dialect. It connects to nobody.
func NewCell(cfg CellConfig, dialect Dialect, log hclog.Logger) (*Cell, error) {
	cfg, err := cfg.withDefaults()
	if err != nil {
		return nil, err
	}
	c := &Cell{cfg: cfg, dialect: dialect, log: log.With("cell", cfg.Name), dial: new(net.Dialer).DialContext}
	for i, address := range cfg.Addresses {
		n := &node{cell: c, network: "tcp", address: address, class: mail.HomeOf(uint8(i)), asked: make(chan struct{}, 1), relays: make(map[*relay]struct{})}
		if path, ok := strings.CutPrefix(address, "unix:"); ok {
			n.network, n.address = "unix", path
		} else if n.host, _, err = net.SplitHostPort(address); err != nil {
			return nil, fmt.Errorf("cell %q: address %q: %w", cfg.Name, address, err)
		}
		c.nodes = append(c.nodes, n)
	}
	return c, nil
}

// Name is the cell's.
func (c *Cell) Name() string { return c.cfg.Name }

// NodeStats is what is known of a node.
type NodeStats struct {
	Address  string
	Up       bool
	Sessions int    // connected now
	Failures uint64 // logins that it did not serve, and its partner was asked for
}

// Stats tells of every node.
func (c *Cell) Stats() []NodeStats {
	stats := make([]NodeStats, len(c.nodes))
	for i, n := range c.nodes {
		n.mu.Lock()
		stats[i] = NodeStats{Address: n.address, Up: !n.down, Sessions: len(n.relays), Failures: n.failures}
		n.mu.Unlock()
	}
	return stats
}

// order returns the nodes as an account that is at home on one of them tries
// them: its home, its partner, and those that are down last.
func (c *Cell) order(home mail.Home) []*node {
	nodes := slices.Clone(c.nodes)
	rank := func(n *node) int {
		n.mu.Lock()
		defer n.mu.Unlock()
		r := 0
		if n.down {
			r = 2
		}
		if !n.isHome(home) {
			r++
		}
		return r
	}
	slices.SortStableFunc(nodes, func(a, b *node) int { return rank(a) - rank(b) })
	return nodes
}

// isHome reports whether the node is the one that home means.
func (n *node) isHome(home mail.Home) bool {
	return n.class == home || n.host != "" && strings.EqualFold(n.host, string(home))
}

// patience is how long a node may take to greet.
func (n *node) patience() time.Duration {
	if len(n.cell.nodes) == 1 {
		return 10 * n.cell.cfg.Failover
	}
	return n.cell.cfg.Failover
}

// backend is a connection to a node.
type backend struct {
	net.Conn
	in   *bufio.Reader
	node *node
	// capabilities is what the node offers; "" while that is not known.
	capabilities string
}

// upstreamBuffer is for the replies to a login, which list capabilities.
const upstreamBuffer = 4 << 10

func (n *node) level() CellTLS {
	switch {
	case n.cell.cfg.TLS != "":
		return n.cell.cfg.TLS
	case n.network == "unix":
		return CellNone
	default:
		return CellStartTLS
	}
}

// connect opens a connection, with TLS if that comes first.
func (n *node) connect(ctx context.Context) (*backend, error) {
	conn, err := n.cell.dial(ctx, n.network, n.address)
	if err != nil {
		return nil, err
	}
	b := &backend{Conn: conn, node: n}
	if n.level() == CellImplicit {
		if err := b.protect(ctx); err != nil {
			return nil, errors.Join(err, conn.Close())
		}
	}
	b.in = bufio.NewReaderSize(b.Conn, upstreamBuffer)
	return b, nil
}

// protect turns the connection into a TLS connection. Nothing may be buffered:
// whoever wrote it did so in the clear.
func (b *backend) protect(ctx context.Context) error {
	if b.in != nil && b.in.Buffered() > 0 {
		return errors.New("the server sent more in the clear than it was asked for")
	}
	cfg := &tls.Config{}
	if b.node.cell.cfg.TLSConfig != nil {
		cfg = b.node.cell.cfg.TLSConfig.Clone()
	}
	cfg.MinVersion = max(cfg.MinVersion, tls.VersionTLS12)
	if cfg.ServerName == "" {
		cfg.ServerName = b.node.host
	}
	conn := tls.Client(b.Conn, cfg)
	if err := conn.HandshakeContext(ctx); err != nil {
		return fmt.Errorf("TLS: %w", err)
	}
	b.Conn = conn
	if b.in != nil {
		b.in.Reset(conn)
	}
	return nil
}

// interruptible ends what blocks on the connection when ctx ends. The returned
// function must be called when the operation is over.
func (b *backend) interruptible(ctx context.Context) func() {
	raw := b.Conn
	stop := context.AfterFunc(ctx, func() { _ = raw.SetDeadline(time.Unix(1, 0)) })
	return func() { stop() }
}

// suspect asks Run to look at the node's health.
func (n *node) suspect() {
	select {
	case n.asked <- struct{}{}:
	default:
	}
}

// failed notes that a login found the node out of reach.
func (n *node) failed(err error) {
	n.mu.Lock()
	known := n.down
	n.down = true
	n.failures++
	n.mu.Unlock()
	if !known {
		n.cell.log.Warn("node out of reach", "remote", n.address, "err", err)
	}
	n.suspect()
}

func (n *node) enter(r *relay) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.relays[r] = struct{}{}
}

func (n *node) leave(r *relay) {
	n.mu.Lock()
	defer n.mu.Unlock()
	delete(n.relays, r)
}

func (n *node) isDown() bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.down
}

func (n *node) recovered() {
	n.mu.Lock()
	known := n.down
	n.down = false
	n.mu.Unlock()
	if known {
		n.cell.log.Info("node back in reach", "remote", n.address)
	}
}
