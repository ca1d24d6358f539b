package ldap

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"sync"
	"time"

	ber "github.com/go-asn1-ber/asn1-ber"
	goldap "github.com/go-ldap/ldap/v3"
)

// conn is one connection, used by one operation at a time.
type conn struct {
	raw       net.Conn // deadlines set here bound TLS and LDAP above it
	ldap      *goldap.Conn
	idleSince time.Time
}

// maxPacketOctets bounds one message from a server; the library's own bound of
// 2 GiB would let a broken one eat all memory.
const maxPacketOctets = 16 << 20

var boundPackets = sync.OnceFunc(func() { ber.MaxPacketLengthBytes = maxPacketOctets })

// past is a deadline that ends whatever blocks on a connection.
var past = time.Unix(1, 0)

// run does op with the connection until ctx ends. It is false when the
// connection must not be used again, whatever op returned.
func (c *conn) run(ctx context.Context, op func(*goldap.Conn) error) (healthy bool, err error) {
	if deadline, ok := ctx.Deadline(); ok {
		if err := c.raw.SetDeadline(deadline); err != nil {
			return false, err
		}
	}
	stop := context.AfterFunc(ctx, func() { _ = c.raw.SetDeadline(past) })
	err = op(c.ldap)
	if !stop() {
		if err != nil {
			err = errors.Join(ctx.Err(), err)
		}
		return false, err
	}
	if resetErr := c.raw.SetDeadline(time.Time{}); resetErr != nil {
		return false, err
	}
	return !c.ldap.IsClosing(), err
}

// discard closes the connection. The socket goes first: go-ldap's Close waits
// for its writer, which may be stuck in it.
func (c *conn) discard() {
	_ = c.raw.Close()
	_ = c.ldap.Close()
}

// dial connects to a server and, for searches, binds as the service account.
func dial(ctx context.Context, cfg Config, e endpoint, asService bool) (*conn, error) {
	boundPackets()
	var ticket *login
	if asService && cfg.Kerberos.used() {
		var err error
		if ticket, err = cfg.ticket(ctx, e); err != nil {
			return nil, err
		}
		defer ticket.close()
	}
	raw, err := (&net.Dialer{}).DialContext(ctx, e.network, e.address)
	if err != nil {
		return nil, err
	}
	c := &conn{raw: raw}
	var tlsConfig *tls.Config
	if e.tls || e.startTLS {
		if tlsConfig, err = cfg.tlsConfig(e); err != nil {
			_ = raw.Close()
			return nil, err
		}
	}
	wire := raw
	if e.tls {
		secured := tls.Client(raw, tlsConfig)
		if err := secured.HandshakeContext(ctx); err != nil {
			_ = raw.Close()
			return nil, fmt.Errorf("TLS with %s: %w", e.uri, err)
		}
		wire = secured
	}
	c.ldap = goldap.NewConn(wire, e.tls)
	c.ldap.Start()
	healthy, err := c.run(ctx, func(l *goldap.Conn) error { return begin(l, cfg, e, tlsConfig, asService, ticket) })
	if err == nil && !healthy {
		err = errors.New("connection closed at once")
	}
	if err != nil {
		c.discard()
		return nil, err
	}
	return c, nil
}

// begin brings a new connection to the state in which it is pooled.
func begin(l *goldap.Conn, cfg Config, e endpoint, tlsConfig *tls.Config, asService bool, ticket *login) error {
	if e.startTLS {
		if err := l.StartTLS(tlsConfig); err != nil {
			return fmt.Errorf("StartTLS with %s: %w", e.uri, err)
		}
	}
	switch {
	case !asService:
		return nil
	case ticket != nil:
		return ticket.bind(l)
	case cfg.SASLExternal:
		if err := l.ExternalBind(); err != nil {
			return fmt.Errorf("bind by SASL EXTERNAL: %w", err)
		}
	case cfg.BindDN != "":
		password, err := cfg.bindPassword()
		if err != nil {
			return err
		}
		if err := l.Bind(cfg.BindDN, password); err != nil {
			return fmt.Errorf("bind as the service account: %w", err)
		}
	}
	return nil
}

// pool keeps up to max connections of one kind to one server.
type pool struct {
	dial        func(context.Context) (*conn, error)
	idleTimeout time.Duration
	tokens      chan struct{} // one per connection in use

	mu   sync.Mutex
	idle []*conn // the last one was used last
}

func newPool(max int, idleTimeout time.Duration, dial func(context.Context) (*conn, error)) *pool {
	return &pool{dial: dial, idleTimeout: idleTimeout, tokens: make(chan struct{}, max)}
}

// get returns a connection for the caller's sole use, an idle one if there is
// one, which may turn out to be stale. put or drop gives it back. Who has given
// up gets none, however quick the answer would be.
func (p *pool) get(ctx context.Context) (c *conn, reused bool, err error) {
	if err := ctx.Err(); err != nil {
		return nil, false, err
	}
	select {
	case p.tokens <- struct{}{}:
	case <-ctx.Done():
		return nil, false, fmt.Errorf("all connections are busy: %w", ctx.Err())
	}
	if c := p.takeIdle(time.Now()); c != nil {
		return c, true, nil
	}
	if c, err = p.dial(ctx); err != nil {
		<-p.tokens
		return nil, false, err
	}
	return c, false, nil
}

// takeIdle returns the connection used last, and closes those it finds too
// old or broken.
func (p *pool) takeIdle(now time.Time) *conn {
	for {
		p.mu.Lock()
		n := len(p.idle)
		if n == 0 {
			p.mu.Unlock()
			return nil
		}
		c := p.idle[n-1]
		p.idle[n-1] = nil
		p.idle = p.idle[:n-1]
		p.mu.Unlock()
		if !c.ldap.IsClosing() && now.Sub(c.idleSince) < p.idleTimeout {
			return c
		}
		c.discard()
	}
}

func (p *pool) put(c *conn) {
	c.idleSince = time.Now()
	p.mu.Lock()
	p.idle = append(p.idle, c)
	p.mu.Unlock()
	<-p.tokens
}

func (p *pool) drop(c *conn) {
	c.discard()
	<-p.tokens
}

// closeIdle closes the connections unused since before; all with a before in
// the future.
func (p *pool) closeIdle(before time.Time) {
	p.mu.Lock()
	var kept, old []*conn
	for _, c := range p.idle {
		if c.idleSince.Before(before) {
			old = append(old, c)
		} else {
			kept = append(kept, c)
		}
	}
	p.idle = kept
	p.mu.Unlock()
	for _, c := range old {
		c.discard()
	}
}
