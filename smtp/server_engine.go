package smtp

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/postern-mail/postern/mail"
	"github.com/postern-mail/postern/status"
)

// Server accepts connections and holds a session on each. Its methods may be
// called concurrently.
type Server struct {
	log      hclog.Logger
	settings atomic.Pointer[settings]
	slots    sessionSlots
	ids      sessionIDs
	counts   serverCounts
	crowd    warnRarely
	roster   roster
	stress   stress
}

// serverCounts are the server's figures since its start.
type serverCounts struct{ accepted, refused, early atomic.Uint64 }

// ServerStats are figures for metrics.
type ServerStats struct {
	Sessions int    // open now
	Accepted uint64 // connections that became a session, ever
	Refused  uint64 // connections turned away for their number or rate, ever
	Early    uint64 // clients that talked before the greeting, ever
	Stressed bool   // the server is under stress
}

// NewServer returns a server that speaks as cfg says and asks h. It reports
// every mistake in cfg at once.
func NewServer(cfg ServerConfig, h Handler, log hclog.Logger) (*Server, error) {
	set, err := newSettings(cfg, h)
	if err != nil {
		return nil, err
	}
	if log == nil {
		log = hclog.NewNullLogger()
	}
	s := &Server{log: log, ids: newSessionIDs()}
	s.settings.Store(set)
	return s, nil
}

// Reconfigure makes sessions that start from now on follow cfg and ask h;
// those under way go on as they began. After an error nothing has changed.
func (s *Server) Reconfigure(cfg ServerConfig, h Handler) error {
	set, err := newSettings(cfg, h)
	if err != nil {
		return err
	}
	s.settings.Store(set)
	return nil
}

// Stats returns the present figures.
func (s *Server) Stats() ServerStats {
	return ServerStats{Sessions: s.slots.open(), Accepted: s.counts.accepted.Load(), Refused: s.counts.refused.Load(), Early: s.counts.early.Load(), Stressed: s.stress.on.Load()}
}

// Serve holds sessions on the connections of l, which it closes in the end. It
// may be called for several listeners; limits count them together.
//
// When ctx ends it stops accepting, sends 421 to sessions that wait for a
// command, and gives transfers under way ServerConfig.Grace to end. The context
// handlers are given ends only after that, so that what was received whole can
// still be committed; then who is still sending gets 421, and who waits for a
// reply the one that the handler has by now. What is left after farewell is
// closed. Serve waits for every session and returns nil. A listener that fails
// ends it the same way, with its error.
func (s *Server) Serve(ctx context.Context, l net.Listener) error {
	handlerCtx, cancel := context.WithCancel(context.WithoutCancel(ctx))
	defer cancel()
	unhook := context.AfterFunc(ctx, func() { _ = l.Close() })
	defer unhook()
	var group sessionGroup
	err := s.acceptAll(ctx, handlerCtx, l, &group)
	_ = l.Close()
	group.stop()
	if !group.waitFor(s.settings.Load().Grace) {
		s.log.Warn("ending sessions that outlived the grace time", "listener", s.settings.Load().Name)
		cancel()
		group.finish()
		if !group.waitFor(farewell) {
			group.close()
		}
	}
	group.wait()
	return err
}

// farewell is how long handlers may take to give up after the grace time, and
// clients to be told.
const farewell = 2 * time.Second

func (s *Server) acceptAll(ctx, handlerCtx context.Context, l net.Listener, group *sessionGroup) error {
	var delay time.Duration
	for {
		conn, err := l.Accept()
		switch {
		case err == nil:
			delay = 0
			s.start(handlerCtx, conn, group)
		case ctx.Err() != nil:
			return nil
		case isAcceptTransient(err):
			delay = min(max(2*delay, 5*time.Millisecond), time.Second)
			s.log.Warn("cannot accept connections", "err", err, "retry", delay)
			select {
			case <-ctx.Done():
			case <-time.After(delay):
			}
		default:
			return fmt.Errorf("accept: %w", err)
		}
	}
}

// isAcceptTransient reports whether the listener will work again: out of file
// descriptors, or a connection that was gone before it was accepted.
func isAcceptTransient(err error) bool {
	for _, transient := range []error{
		syscall.EMFILE, syscall.ENFILE, syscall.ENOBUFS, syscall.ENOMEM, syscall.ECONNABORTED, syscall.EINTR,
	} {
		if errors.Is(err, transient) {
			return true
		}
	}
	return false
}

// start begins a session, or turns the connection away.
func (s *Server) start(ctx context.Context, conn net.Conn, group *sessionGroup) {
	set := s.settings.Load()
	arrived := &mail.Client{Remote: addrPort(conn.RemoteAddr())}
	if err := set.paceOf(mail.ClientConnects, arrived, s.log); err != nil {
		s.turnAway(conn, set, err)
		return
	}
	client := set.clientNetwork(arrived.Remote.Addr())
	taken, total, ofClient := s.slots.take(client, set.MaxSessions, set.MaxSessionsPerClient)
	if !taken {
		why := s.crowded(set, client, ofClient)
		if said := s.crowd.warn(s.log, why, "listener", set.Name, "remote", conn.RemoteAddr().String()); said && why != errCrowd {
			set.notice(arrived, mail.Event{
				Kind: mail.EventLimit, Result: "refused", Reason: status.TooManyConnections.String(),
				Detail: "Connection concurrency limit exceeded", Count: int64(ofClient) + 1,
			})
		}
		s.turnAway(conn, set, status.New(status.TooManyConnections, nil))
		return
	}
	if s.stress.rises(set, total) {
		s.log.Warn("nearly full: clients are hurried", "listener", set.Name, "sessions", total, "max", set.MaxSessions)
		group.hasten(time.Now().Add(set.StressTimeout))
	}
	s.counts.accepted.Add(1)
	if tcp, ok := conn.(interface{ SetNoDelay(bool) error }); ok {
		// Replies are coalesced here; the kernel shall not wait on top. It is
		// Go's default, made certain. A dead connection fails at its first read.
		_ = tcp.SetNoDelay(true)
	}
	session := newServerSession(ctx, set, conn, s.ids.next(), s.log)
	session.roster, session.hurry, session.crowd, session.early = &s.roster, &s.stress.on, &s.crowd, &s.counts.early
	if id := session.client.Identity; id != nil {
		s.roster.enter(session, *id)
	}
	group.run(session, func() {
		s.roster.leave(session)
		if left := s.slots.give(client); s.stress.falls(s.settings.Load(), left) {
			s.log.Info("clients have their time again", "listener", set.Name, "sessions", left)
		}
	})
}

// crowded says, as Postfix does, why there is no place for one more.
func (s *Server) crowded(set *settings, client netip.Prefix, ofClient int) string {
	if client.IsValid() && ofClient >= set.MaxSessionsPerClient {
		return fmt.Sprintf("Connection concurrency limit exceeded: %d from %s for service %s", ofClient+1, networkName(client), set.Name)
	}
	return errCrowd
}

// errCrowd is said when the server is full.
const errCrowd = "too many connections"

// networkName is an address that counts alone, or a network.
func networkName(p netip.Prefix) string {
	if p.IsSingleIP() {
		return p.Addr().String()
	}
	return p.String()
}

// turnAway answers a connection too many. The reply fits into the empty send
// buffer of a new connection; whoever could not take it at once gets none, and
// under implicit TLS there is no way to say anything.
func (s *Server) turnAway(conn net.Conn, set *settings, why error) {
	s.counts.refused.Add(1)
	if !set.ImplicitTLS {
		_ = conn.SetWriteDeadline(time.Now().Add(turnAwayTime))
		_, _ = conn.Write(appendReply(nil, status.ReplyOf(why)))
	}
	_ = conn.Close()
}

const turnAwayTime = 100 * time.Millisecond

// sessionGroup is the sessions of one call of Serve.
type sessionGroup struct {
	done sync.WaitGroup

	mu       sync.Mutex
	sessions map[*serverSession]struct{}
}

// run holds the session in a goroutine of its own and calls after at its end.
func (g *sessionGroup) run(session *serverSession, after func()) {
	g.mu.Lock()
	if g.sessions == nil {
		g.sessions = make(map[*serverSession]struct{})
	}
	g.sessions[session] = struct{}{}
	g.mu.Unlock()
	g.done.Go(func() {
		defer func() {
			g.mu.Lock()
			delete(g.sessions, session)
			g.mu.Unlock()
			after()
		}()
		session.serve()
	})
}

// stop interrupts the sessions that wait for a command, now or later.
func (g *sessionGroup) stop() { g.each(func(s *serverSession) { s.wire.stop() }) }

// hasten lets idle waits end at the deadline.
func (g *sessionGroup) hasten(deadline time.Time) {
	g.each(func(s *serverSession) { s.wire.hasten(deadline) })
}

// finish ends the waits of all sessions for their clients.
func (g *sessionGroup) finish() { g.each(func(s *serverSession) { s.wire.finish() }) }

// close ends all connections at once.
func (g *sessionGroup) close() { g.each(func(s *serverSession) { s.wire.closeNow() }) }

func (g *sessionGroup) each(f func(*serverSession)) {
	g.mu.Lock()
	defer g.mu.Unlock()
	for s := range g.sessions {
		f(s)
	}
}

// waitFor waits for the sessions to end, at most for so long, and reports whether
// they did.
func (g *sessionGroup) waitFor(most time.Duration) bool {
	ended := make(chan struct{})
	go func() { // ends with the last session, which Serve waits for too
		g.done.Wait()
		close(ended)
	}()
	timer := time.NewTimer(max(most, 0))
	defer timer.Stop()
	select {
	case <-ended:
		return true
	case <-timer.C:
		return false
	}
}

func (g *sessionGroup) wait() { g.done.Wait() }

// addrPort returns the address of a TCP connection; zero for other kinds. An
// IPv4 address in IPv6 form is the IPv4 address.
func addrPort(a net.Addr) netip.AddrPort {
	tcp, ok := a.(*net.TCPAddr)
	if !ok {
		return netip.AddrPort{}
	}
	ap := tcp.AddrPort()
	return netip.AddrPortFrom(ap.Addr().Unmap(), ap.Port())
}
