package imapd

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/postern-mail/postern/backend/mailstore"
	"github.com/postern-mail/postern/mail"
	"github.com/postern-mail/postern/status"
)

// Authenticator says who a client is. Its errors are judged by status.Of:
// AuthFailed and its like are a clear no, everything else an outage. It is
// called concurrently and may block.
type Authenticator interface {
	// Mechanisms lists the SASL mechanisms on offer, given the TLS state.
	Mechanisms(tls bool) []string
	// Start begins a SASL exchange.
	Start(ctx context.Context, mechanism string, client mail.Client) (Authentication, error)
	// Login verifies a login name and password, neither with a NUL in it.
	Login(ctx context.Context, login, password string, client mail.Client) (mail.Identity, error)
}

// Authentication is the server side of one SASL exchange. Identity is valid
// once Next reported done without an error. Response is nil when the client
// gave no initial response, and empty when it gave an empty one.
type Authentication interface {
	Next(response []byte) (challenge []byte, done bool, err error)
	Identity() mail.Identity
}

// Accounts finds where an identity's mail lives. Its errors are judged like
// Authenticator's.
type Accounts interface {
	Account(ctx context.Context, login string) (mail.Account, error)
}

// Auditor keeps the record of decisions.
type Auditor interface {
	Record(event mail.Event)
}

// Deps are the other rooms a server needs, all of them.
type Deps struct {
	Store    *mailstore.Store
	Auth     Authenticator
	Accounts Accounts
	Audit    Auditor
}

// Server serves IMAP. Its methods may be called concurrently.
type Server struct {
	deps Deps
	log  hclog.Logger
	cfg  atomic.Pointer[Config] // with defaults; sessions keep what they began with

	mu       sync.Mutex // guards the fields below
	sessions map[*session]struct{}
	clients  map[netip.Addr]int
	accounts map[string]int // sessions logged in, by account
}

// New returns a server for cfg.
func New(cfg Config, deps Deps, log hclog.Logger) (*Server, error) {
	if deps.Store == nil || deps.Auth == nil || deps.Accounts == nil || deps.Audit == nil {
		return nil, errors.New("imap server: store, authenticator, accounts and auditor are needed")
	}
	s := &Server{
		deps: deps, log: log,
		sessions: make(map[*session]struct{}), clients: make(map[netip.Addr]int), accounts: make(map[string]int),
	}
	return s, s.Reconfigure(cfg)
}

// Reconfigure replaces the configuration for new sessions; those under way
// keep theirs. An invalid one changes nothing.
func (s *Server) Reconfigure(cfg Config) error {
	full, err := cfg.withDefaults()
	if err != nil {
		return fmt.Errorf("imap server: %w", err)
	}
	s.cfg.Store(&full)
	return nil
}

// Serve accepts connections until ctx ends or the listener fails. Then idle
// sessions are told BYE at once, others may finish their command within the
// grace time; Serve returns when all it accepted have ended. It closes ln.
// It may be called for several listeners.
func (s *Server) Serve(ctx context.Context, ln net.Listener) error {
	// Sessions live on a context of their own: ending ctx asks them to end,
	// and only the end of the grace time cuts commands off.
	live, cut := context.WithCancel(context.WithoutCancel(ctx))
	defer cut()
	var wg sync.WaitGroup
	stop := context.AfterFunc(ctx, func() { _ = ln.Close() })
	defer stop()
	draining := make(chan struct{})
	err := s.accept(ctx, live, ln, &wg, draining)
	if ctx.Err() != nil {
		err = nil
	}
	_ = ln.Close()
	close(draining)
	s.drain(draining)
	grace := time.AfterFunc(s.cfg.Load().Grace, func() {
		cut()
		s.closeAll(draining)
	})
	wg.Wait()
	grace.Stop()
	return err
}

// accept runs the accept loop; a full table of file descriptors, and the like,
// is waited out.
func (s *Server) accept(stop, live context.Context, ln net.Listener, wg *sync.WaitGroup, draining chan struct{}) error {
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
			s.log.Error("cannot accept connections", "listener", s.cfg.Load().Listener, "error", err)
			select {
			case <-time.After(100 * time.Millisecond):
			case <-stop.Done():
			}
			continue
		}
		wg.Go(func() { s.serveConn(live, conn, draining) })
	}
}

// drain asks the sessions of one Serve to end.
func (s *Server) drain(draining chan struct{}) {
	for _, ses := range s.sessionsOf(draining) {
		ses.interrupt()
	}
}

func (s *Server) closeAll(draining chan struct{}) {
	for _, ses := range s.sessionsOf(draining) {
		_ = ses.socket.Close()
	}
}

func (s *Server) sessionsOf(draining chan struct{}) []*session {
	s.mu.Lock()
	defer s.mu.Unlock()
	var found []*session
	for ses := range s.sessions {
		if ses.draining == draining {
			found = append(found, ses)
		}
	}
	return found
}

// Sessions is the number of sessions at this moment.
func (s *Server) Sessions() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.sessions)
}

// enter admits a session, or reports that there are too many.
func (s *Server) enter(ses *session, cfg *Config) bool {
	addr := ses.client.Remote.Addr()
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.sessions) >= cfg.MaxSessions || addr.IsValid() && over(s.clients[addr], cfg.MaxSessionsPerClient) {
		return false
	}
	s.sessions[ses] = struct{}{}
	s.clients[addr]++
	return true
}

// over reports whether n sessions leave no room for one more.
func over(n, limit int) bool { return limit >= 0 && n >= limit }

// admit counts a session as the account's, or reports that it has too many.
func (s *Server) admit(ses *session, account string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if ses.admitted != "" { // its last login met an outage
		release(s.accounts, ses.admitted)
		ses.admitted = ""
	}
	if over(s.accounts[account], ses.cfg.MaxSessionsPerAccount) {
		return false
	}
	s.accounts[account]++
	ses.admitted = account
	return true
}

func (s *Server) leave(ses *session) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.sessions, ses)
	release(s.clients, ses.client.Remote.Addr())
	if ses.admitted != "" {
		release(s.accounts, ses.admitted)
	}
}

// release takes one off a count, and the count out when nothing is left of it.
func release[K comparable](counts map[K]int, key K) {
	if counts[key]--; counts[key] <= 0 {
		delete(counts, key)
	}
}

// serveConn runs one session and survives its panic.
func (s *Server) serveConn(ctx context.Context, conn net.Conn, draining chan struct{}) {
	cfg := s.cfg.Load()
	ses := newSession(s, cfg, conn, draining)
	defer func() { _ = conn.Close() }()
	if !s.enter(ses, cfg) {
		s.log.Warn("too many connections", "listener", cfg.Listener, "remote", ses.client.Remote)
		if !cfg.ImplicitTLS { // a handshake is work a crowd must not get
			ses.w.line("* BYE [" + status.TooManyConnections.IMAPCode() + "] Too many connections")
			_ = ses.w.flush()
		}
		return
	}
	defer s.leave(ses)
	started := time.Now()
	s.deps.Audit.Record(ses.event(mail.EventConnect))
	cause := ses.protect(ctx)
	ses.close()
	end := ses.event(mail.EventDisconnect)
	end.Detail, end.Duration = cause, time.Since(started)
	s.deps.Audit.Record(end)
	s.log.Info("session ended", "sid", ses.client.Session, "listener", cfg.Listener, "remote", ses.client.Remote,
		"login", ses.login(), "cause", cause, "commands", ses.commands, "dur", time.Since(started))
}

// protect runs the session; a panic in it ends it, and nothing else.
func (ses *session) protect(ctx context.Context) (cause string) {
	defer func() {
		fault := recover()
		if fault == nil {
			return
		}
		ses.log.Error("session panicked", "sid", ses.client.Session, "command", ses.running, "panic", fault, "stack", string(debug.Stack()))
		ses.w.buf = ses.w.buf[:0]
		ses.w.line("* BYE [SERVERBUG] Internal error")
		_ = ses.w.flush()
		cause = "internal error"
	}()
	return ses.run(ctx)
}

func newSessionID() mail.SessionID {
	var id [8]byte
	_, _ = rand.Read(id[:]) // never fails since Go 1.24
	return mail.SessionID(hex.EncodeToString(id[:]))
}

func addrPort(a net.Addr) netip.AddrPort {
	if tcp, ok := a.(*net.TCPAddr); ok {
		ap := tcp.AddrPort()
		return netip.AddrPortFrom(ap.Addr().Unmap(), ap.Port())
	}
	return netip.AddrPort{}
}
