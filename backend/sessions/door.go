package sessions

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

	"github.com/postern-mail/postern/mail"
)

// Protocol is what is spoken behind a door.
type Protocol struct {
	// Name is its name in lists, metrics and the audit: "imap".
	Name string
	// Together names the doors whose sessions count together for the limits of
	// clients and accounts; "" means those of the protocol.
	Together string
	// Serve is one session from the greeting to its end, and returns why that
	// came. Its context ends when the grace time of the server's end is over,
	// and when the session is cut off.
	// The connection is closed behind it. It does not panic.
	Serve func(ctx context.Context, s *Session) (cause string)
	// TurnAway tells a client that there are too many, in one short write
	// whose deadline has been set.
	TurnAway func(conn net.Conn)
}

// Auditor keeps the record of who came and went.
type Auditor interface {
	Record(event mail.Event)
}

// Config says whom a door lets in.
type Config struct {
	// Listener is its name in logs, audit and lists.
	Listener string
	// ImplicitTLS says that the first octets are a handshake, which a crowd
	// does not get: it is turned away without a word.
	ImplicitTLS bool
	// MaxSessions bounds the sessions of this door.
	MaxSessions int
	// MaxPerClient and MaxPerAccount bound the sessions that count together, of
	// one client and of one account; negative for no bound. A client is an IPv4
	// address or a network of IPv6Bits.
	MaxPerClient  int
	MaxPerAccount int
	// Proxies are networks whose connections are many clients'.
	Proxies []netip.Prefix
	// Grace is how long commands under way may take when the server ends.
	Grace time.Duration
}

// FromProxy reports whether connections from addr are believed when they say
// for whom they come.
func (c *Config) FromProxy(addr netip.Addr) bool {
	return addr.IsValid() && slices.ContainsFunc(c.Proxies, func(p netip.Prefix) bool { return p.Contains(addr) })
}

// Door lets the clients of one listener in. Its methods may be called
// concurrently.
type Door struct {
	registry *Registry
	protocol Protocol
	audit    Auditor
	log      hclog.Logger
	cfg      atomic.Pointer[Config] // sessions keep what they began with
	refusing atomic.Bool
	open     int // guarded by registry.mu

	crowdMu sync.Mutex // guards the fields below
	told    time.Time  // of too many connections
	hushed  int
}

// NewDoor returns a door of the registry. Configure comes before Serve.
func NewDoor(r *Registry, protocol Protocol, audit Auditor, log hclog.Logger) *Door {
	protocol.Together = cmp.Or(protocol.Together, protocol.Name)
	return &Door{registry: r, protocol: protocol, audit: audit, log: log}
}

// Configure replaces the configuration for new sessions; those under way keep
// theirs.
func (d *Door) Configure(cfg Config) { d.cfg.Store(&cfg) }

// group is the sessions of one call of Serve.
type group struct {
	all   sync.WaitGroup
	ended bool // its sessions are to go; guarded by Registry.mu
}

// Serve accepts connections until ctx ends or the listener fails. Then whoever
// has nothing under way is asked to go at once, and others may finish their
// command within the grace time; Serve returns when all it accepted have ended.
// It closes ln. It may be called for several listeners.
func (d *Door) Serve(ctx context.Context, ln net.Listener) error {
	// Sessions live on a context of their own: ending ctx asks them to go, and
	// only the end of the grace time cuts commands off.
	live, cut := context.WithCancel(context.WithoutCancel(ctx))
	defer cut()
	stop := context.AfterFunc(ctx, func() { _ = ln.Close() })
	defer stop()
	g := new(group)
	err := d.accept(ctx, live, ln, g)
	if ctx.Err() != nil {
		err = nil
	}
	_ = ln.Close()
	d.endGroup(g)
	grace := time.AfterFunc(d.cfg.Load().Grace, func() {
		cut()
		d.closeGroup(g)
	})
	g.all.Wait()
	grace.Stop()
	return err
}

// accept runs the accept loop; a full table of file descriptors, and the like,
// is waited out.
func (d *Door) accept(stop, live context.Context, ln net.Listener, g *group) error {
	for {
		conn, err := ln.Accept()
		if errors.Is(err, net.ErrClosed) {
			return nil
		}
		if err != nil {
			var temporary interface{ Temporary() bool } // EMFILE and its kind; net.Error deprecates the name, not the need
			if !errors.As(err, &temporary) || !temporary.Temporary() {
				return fmt.Errorf("accept: %w", err)
			}
			d.log.Error("cannot accept connections", "listener", d.cfg.Load().Listener, "error", err)
			select {
			case <-time.After(100 * time.Millisecond):
			case <-stop.Done():
			}
			continue
		}
		g.all.Go(func() { d.serveConn(live, conn, g) })
	}
}

// endGroup asks the sessions of one Serve to go, and those that are about to
// begin.
func (d *Door) endGroup(g *group) {
	d.registry.mu.Lock()
	g.ended = true
	d.registry.mu.Unlock()
	d.registry.end(Shutdown, everybody, func(s *Session) bool { return s.group == g })
}

func (d *Door) closeGroup(g *group) {
	for _, s := range d.registry.all() {
		if s.group == g {
			_ = s.socket.Close()
		}
	}
}

// ServeConn serves one connection that was accepted elsewhere and closes it.
func (d *Door) ServeConn(ctx context.Context, conn net.Conn) { d.serveConn(ctx, conn, new(group)) }

func (d *Door) serveConn(ctx context.Context, conn net.Conn, g *group) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	s := newSession(d, d.cfg.Load(), g, conn, cancel)
	defer func() { _ = conn.Close() }()
	if !d.registry.enter(s) {
		d.turnAway(s)
		return
	}
	defer d.registry.leave(s)
	d.audit.Record(s.Event(mail.EventConnect))
	cause := d.protocol.Serve(ctx, s)
	i, end := s.Info(), s.Event(mail.EventDisconnect)
	end.Detail, end.Duration = cause, time.Since(i.Since)
	d.audit.Record(end)
	d.log.Info("session ended", "sid", i.ID, "listener", i.Listener, "remote", i.Remote, "login", i.Login, "cause", cause,
		"commands", i.Commands, "in", i.In, "out", i.Out, "dur", end.Duration)
}

const turnAwayTime = 2 * time.Second

// turnAway answers a connection too many.
func (d *Door) turnAway(s *Session) {
	d.crowded(s)
	if s.cfg.ImplicitTLS { // a handshake is work a crowd must not get
		return
	}
	_ = s.socket.SetWriteDeadline(time.Now().Add(turnAwayTime))
	d.protocol.TurnAway(&s.socket)
}

// crowdInterval is how often a crowd, which comes at any rate it likes, is told
// of in the log.
const crowdInterval = 10 * time.Second

func (d *Door) crowded(s *Session) {
	d.crowdMu.Lock()
	now := time.Now()
	if !d.told.IsZero() && now.Sub(d.told) < crowdInterval {
		d.hushed++
		d.crowdMu.Unlock()
		return
	}
	hushed := d.hushed
	d.told, d.hushed = now, 0
	d.crowdMu.Unlock()
	d.log.Warn("too many connections", "listener", s.cfg.Listener, "remote", s.Remote(), "hushed", hushed)
}

// Sessions is the number of sessions at this moment.
func (d *Door) Sessions() int {
	d.registry.mu.Lock()
	defer d.registry.mu.Unlock()
	return d.open
}

// Drain has the protocol turn new connections away, which ask Draining, or
// take them again. Sessions under way stay until Dismiss.
func (d *Door) Drain(on bool) { d.refusing.Store(on) }

// Draining reports whether new sessions are to be told to connect elsewhere.
func (d *Door) Draining() bool { return d.refusing.Load() }

// Dismiss asks so many sessions to go that were not asked yet, and returns how
// many are left to ask.
func (d *Door) Dismiss(most int) (left int) {
	_, left = d.registry.end(Drained, most, func(s *Session) bool { return s.door == d })
	return left
}

// Accounts returns the names of the accounts with sessions.
func (d *Door) Accounts() []string {
	d.registry.mu.Lock()
	defer d.registry.mu.Unlock()
	var names []string
	for s := range d.registry.sessions {
		if s.door == d && s.account != "" {
			names = append(names, s.account)
		}
	}
	slices.Sort(names)
	return slices.Compact(names)
}

// Disconnect asks the sessions of an account that may not be used any more to
// go, and returns how many these are.
func (d *Door) Disconnect(account string) int {
	asked, _ := d.registry.end(Disabled, everybody, func(s *Session) bool { return s.door == d && s.account == account })
	return len(asked)
}
