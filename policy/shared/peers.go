package shared

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"slices"
	"sync"
	"time"

	"github.com/hashicorp/go-hclog"
)

// PeersConfig says with whom facts are shared.
type PeersConfig struct {
	// Addresses are host:port of the other gateways. Of two gateways it
	// suffices that one dials.
	Addresses []string
	// Secret is what all of them know; at least MinSecret octets.
	Secret []byte
	// Dial connects to an address. Nil: over TCP.
	Dial func(ctx context.Context, address string) (net.Conn, error)
}

const (
	firstBackoff = time.Second
	lastBackoff  = 30 * time.Second
	// maxStrangers is how many connections may be showing who they are, and
	// maxPeers how many gateways may be connected.
	maxStrangers = 16
	maxPeers     = 64
)

// Peers keeps the tables of a Store in step with those of other gateways. Every
// change goes to every peer that did not bring it, so that gateways hear from
// each other over a third one where they are not connected themselves.
type Peers struct {
	cfg   PeersConfig
	store *Store
	tls   *tls.Config
	log   hclog.Logger

	mu       sync.Mutex
	sessions map[uint64]*session // by node
	places   map[string]*PeerStatus
	doorway  []net.Conn // who has not shown yet who they are, the oldest first
	strange  time.Time  // when a refused connection was last told of
}

// PeerStatus is how one peer does.
type PeerStatus struct {
	// Address is the configured one; "" for a peer that only dials us.
	Address   string
	Remote    string
	Node      uint64
	Connected bool
	// Since is when it connected, or when that ended; zero when it never was.
	Since time.Time
	// Failure is why there is no connection, in words for an operator.
	Failure string
	// Complete says that everything the peer held has arrived.
	Complete bool
	// ClockOffset is how far the peer's clock was ahead when it connected.
	ClockOffset time.Duration
	// Sent and Received count records of this session; Refused those that were
	// of a time too far ahead.
	Sent, Received, Refused uint64
}

// NewPeers returns what shares the tables of s. Nothing is connected before Run.
func NewPeers(cfg PeersConfig, s *Store, log hclog.Logger) (*Peers, error) {
	if len(cfg.Secret) < MinSecret {
		return nil, fmt.Errorf("the peers' secret has %d octets and needs %d", len(cfg.Secret), MinSecret)
	}
	if cfg.Dial == nil {
		cfg.Dial = func(ctx context.Context, address string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "tcp", address)
		}
	}
	certificate, err := throwAway()
	if err != nil {
		return nil, err
	}
	p := &Peers{cfg: cfg, store: s, tls: tlsConfig(certificate), log: log, sessions: make(map[uint64]*session), places: make(map[string]*PeerStatus)}
	for _, address := range cfg.Addresses {
		p.places[address] = &PeerStatus{Address: address, Failure: "not connected yet"}
	}
	return p, nil
}

// Run dials and answers until ctx ends. It closes the listeners.
func (p *Peers) Run(ctx context.Context, listeners ...net.Listener) error {
	var all sync.WaitGroup
	for _, l := range listeners {
		stop := context.AfterFunc(ctx, func() { _ = l.Close() })
		defer stop()
		all.Go(func() { p.accept(ctx, l) })
	}
	for _, address := range p.cfg.Addresses {
		all.Go(func() { p.dialLoop(ctx, address) })
	}
	<-ctx.Done()
	all.Wait()
	return nil
}

// Status tells how the peers do: those configured in their order, then those
// that only dial us.
func (p *Peers) Status() []PeerStatus {
	p.mu.Lock()
	defer p.mu.Unlock()
	var all []PeerStatus
	told := make(map[uint64]bool)
	for _, address := range p.cfg.Addresses {
		st := *p.places[address]
		if s := p.sessions[st.Node]; s != nil {
			st = s.status(address)
			told[s.peer] = true
		}
		all = append(all, st)
	}
	var others []PeerStatus
	for node, s := range p.sessions {
		if !told[node] {
			others = append(others, s.status(""))
		}
	}
	slices.SortFunc(others, func(a, b PeerStatus) int { return a.Since.Compare(b.Since) })
	return append(all, others...)
}

func (s *session) status(address string) PeerStatus {
	return PeerStatus{
		Address: address, Remote: s.remote, Node: s.peer, Connected: true, Since: s.since, Complete: s.whole.Load(), ClockOffset: s.offset,
		Sent: s.sent.Load(), Received: s.received.Load(), Refused: s.refused.Load(),
	}
}

// dialLoop keeps a session with the gateway at an address.
func (p *Peers) dialLoop(ctx context.Context, address string) {
	backoff := firstBackoff
	for {
		began := time.Now()
		err := p.dial(ctx, address)
		if ctx.Err() != nil {
			return
		}
		p.lost(address, err)
		if time.Since(began) > lastBackoff {
			backoff = firstBackoff
		}
		if !pause(ctx, backoff/2+rand.N(backoff/2)) {
			return
		}
		backoff = min(2*backoff, lastBackoff)
	}
}

// dial makes one connection, and returns why it ended.
func (p *Peers) dial(ctx context.Context, address string) error {
	limited, cancel := context.WithTimeout(ctx, handshakeTime)
	defer cancel()
	raw, err := p.cfg.Dial(limited, address)
	if err != nil {
		return err
	}
	conn, h, err := p.shake(limited, raw, p.greet)
	if err != nil {
		return err
	}
	p.mu.Lock()
	p.places[address].Node = h.node
	p.mu.Unlock()
	return p.carry(ctx, newSession(p.store, conn, h, address), p.store.node < h.node)
}

// shake does a handshake within its time.
func (p *Peers) shake(limited context.Context, raw net.Conn, hands func(context.Context, net.Conn) (*tls.Conn, hello, error)) (*tls.Conn, hello, error) {
	stop := context.AfterFunc(limited, func() { _ = raw.Close() })
	deadline, _ := limited.Deadline()
	err := raw.SetDeadline(deadline)
	var conn *tls.Conn
	var h hello
	if err == nil {
		conn, h, err = hands(limited, raw)
	}
	if !stop() && err == nil {
		err = context.Cause(limited)
	}
	if err == nil {
		err = raw.SetDeadline(time.Time{})
	}
	if err != nil {
		_ = raw.Close()
	}
	return conn, h, err
}

var errDuplicate = errors.New("a connection with that gateway is there already")

// carry runs a session. Where two gateways dial each other, the connection that
// the lower number dialed stays.
func (p *Peers) carry(ctx context.Context, s *session, preferred bool) error {
	p.mu.Lock()
	before := p.sessions[s.peer]
	if before != nil && !preferred || before == nil && len(p.sessions) >= maxPeers {
		p.mu.Unlock()
		_ = s.conn.Close()
		if before == nil {
			return fmt.Errorf("%d gateways are connected already", maxPeers)
		}
		p.wait(ctx, before)
		return errDuplicate
	}
	p.sessions[s.peer] = s
	p.publishLocked()
	p.mu.Unlock()
	if before != nil {
		before.end(errReplaced)
	} else {
		p.log.Info("sharing policy with a gateway", "remote", s.remote, "node", nodeName(s.peer))
	}
	if s.offset.Abs() > time.Minute {
		p.log.Warn("a gateway's clock differs: facts with times, as in the greylist, are as wrong as that", "remote", s.remote, "ahead", s.offset)
	}
	err := s.run(ctx)
	p.mu.Lock()
	mine := p.sessions[s.peer] == s
	if mine {
		delete(p.sessions, s.peer)
		p.publishLocked()
	}
	p.mu.Unlock()
	if mine && ctx.Err() == nil {
		p.log.Warn("policy is no longer shared with a gateway", "remote", s.remote, "node", nodeName(s.peer), "reason", err)
	}
	return err
}

// wait waits for a session's end.
func (p *Peers) wait(ctx context.Context, s *session) {
	select {
	case <-ctx.Done():
	case <-s.ended:
	}
}

// publishLocked shows the sessions to the tables.
func (p *Peers) publishLocked() {
	all := make([]*session, 0, len(p.sessions))
	for _, s := range p.sessions {
		all = append(all, s)
	}
	p.store.sessions.Store(&all)
}

// lost notes why there is no session with an address. What is new is logged.
func (p *Peers) lost(address string, err error) {
	if errors.Is(err, errDuplicate) || errors.Is(err, errReplaced) {
		return
	}
	p.mu.Lock()
	st := p.places[address]
	fresh := st.Failure != err.Error()
	st.Failure, st.Since = err.Error(), time.Now()
	p.mu.Unlock()
	if fresh {
		p.log.Warn("policy is not shared with a gateway", "address", address, "reason", err)
	}
}

// accept answers a listener until it is closed.
func (p *Peers) accept(ctx context.Context, l net.Listener) {
	var all sync.WaitGroup
	defer all.Wait()
	for {
		raw, err := l.Accept()
		if err != nil {
			if ctx.Err() != nil || errors.Is(err, net.ErrClosed) {
				return
			}
			p.log.Error("cannot accept a gateway's connection", "error", err)
			if !pause(ctx, time.Second) { // out of descriptors, say
				return
			}
			continue
		}
		p.enter(raw)
		all.Go(func() { p.serve(ctx, raw) })
	}
}

func (p *Peers) serve(ctx context.Context, raw net.Conn) {
	limited, cancel := context.WithTimeout(ctx, handshakeTime)
	defer cancel()
	conn, h, err := p.shake(limited, raw, p.answer)
	p.leave(raw)
	if err == nil {
		err = p.carry(ctx, newSession(p.store, conn, h, ""), h.node < p.store.node)
		p.log.Debug("a gateway's connection ended", "remote", raw.RemoteAddr(), "reason", err)
		return
	}
	var refused *refusal
	if errors.As(err, &refused) && ctx.Err() == nil && p.rarely() {
		p.log.Warn("a connection is refused that was to share policy", "remote", raw.RemoteAddr(), "reason", err)
	}
}

// strangeInterval is how often refused connections are logged, since anybody
// may connect.
const strangeInterval = 10 * time.Second

func (p *Peers) rarely() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if time.Since(p.strange) < strangeInterval {
		return false
	}
	p.strange = time.Now()
	return true
}

// enter notes a connection that has not shown who it is. Above maxStrangers the
// oldest goes, so that strangers cannot keep peers out.
func (p *Peers) enter(c net.Conn) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.doorway = append(p.doorway, c); len(p.doorway) > maxStrangers {
		_ = p.doorway[0].Close()
		p.doorway = p.doorway[1:]
	}
}

func (p *Peers) leave(c net.Conn) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.doorway = slices.DeleteFunc(p.doorway, func(other net.Conn) bool { return other == c })
}

func nodeName(node uint64) string { return fmt.Sprintf("%016x", node) }

func pause(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-timer.C:
		return true
	}
}
