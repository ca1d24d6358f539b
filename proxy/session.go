package proxy

import (
	"bufio"
	"context"
	"errors"
	"io"
	"net"
	"os"
	"runtime/debug"
	"slices"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/postern-mail/postern/backend/sessions"
	"github.com/postern-mail/postern/mail"
	"github.com/postern-mail/postern/status"
)

// ending ends a session after telling the client why.
type ending struct{ text, cause string }

func (e *ending) Error() string { return e.cause }

// The ways a conversation before the login ends.
var (
	errLogout      = &ending{"Logging out", "logout"}
	errShutdown    = &ending{"Server is shutting down; please connect again", causeShutdown}
	errKicked      = &ending{byeText[causeKicked], causeKicked}
	errAuthTimeout = &ending{"Logged out; no authentication in time", "authentication timeout"}
	errTooManyAuth = &ending{"Too many failed authentications", "too many failed authentications"}
	errTooManyBad  = &ending{"Too many invalid commands", "too many invalid commands"}
	errBigLine     = &ending{"Command line too long", "command line too long"}
	errTooMany     = &ending{"Too many connections", "too many connections"}
)

// session is one client. Its goroutine owns everything.
type session struct {
	server  *Server
	cfg     *sessions.Terms // as it was when the connection came
	dialect Dialect
	log     hclog.Logger
	client  mail.Client
	handle  *sessions.Session // the same session, as others know it
	socket  net.Conn          // as accepted

	conn     net.Conn // the socket, or TLS over it
	in       *bufio.Reader
	until    time.Time // end of the unauthenticated time
	failures int
	bad      int
	dialogue any    // what the dialect remembers
	account  string // the name at the cell
}

// earlyBuffer is for what a client says before its login.
const earlyBuffer = 4 << 10

func newSession(server *Server, handle *sessions.Session) *session {
	cfg, conn := server.cfg.Load(), handle.Conn()
	return &session{
		server: server, cfg: cfg, dialect: server.dialect, log: server.log, handle: handle, socket: conn, conn: conn,
		in: bufio.NewReaderSize(conn, earlyBuffer), until: time.Now().Add(cfg.AuthTimeout),
		client: mail.Client{
			Session: handle.ID(), Listener: cfg.Listener, Remote: handle.Remote(), Local: sessions.AddrPort(conn.LocalAddr()),
		},
	}
}

// protect runs the session; a panic in it ends it, and nothing else.
func (s *session) protect(ctx context.Context) (cause, node string) {
	defer func() {
		if fault := recover(); fault != nil {
			s.log.Error("session panicked", "sid", s.client.Session, "panic", fault, "stack", string(debug.Stack()))
			cause = "internal error"
		}
	}()
	stop := context.AfterFunc(ctx, func() { _ = s.socket.Close() })
	defer stop()
	b, err := s.logIn(ctx)
	if err != nil {
		var end *ending
		if errors.As(err, &end) && end != errLogout {
			s.say(s.dialect.bye(end.text))
		}
		return causeOf(err), ""
	}
	defer func() { _ = b.Close() }()
	cause = s.splice(b)
	if cause == "" {
		cause = "client left"
	}
	return cause, b.node.address
}

// logIn speaks with the client until it is connected to a node.
func (s *session) logIn(ctx context.Context) (*backend, error) {
	if s.cfg.ImplicitTLS {
		if err := s.handshake(ctx); err != nil {
			return nil, err
		}
	}
	if s.server.Draining() {
		return nil, errShutdown
	}
	s.dialect.greet(s)
	for {
		identity, err := s.talk(ctx)
		if err != nil {
			return nil, err
		}
		b, err := s.open(ctx, identity)
		if err == nil {
			s.client.Identity = &identity
			s.handle.Login(s.account)
			s.handle.LoggedIn(identity.Authorization, s.account)
			s.dialect.admit(s, b)
			return b, nil
		}
		s.refuse(ctx, err)
	}
}

// open connects to a node that has the mailboxes of who proved to be somebody.
func (s *session) open(ctx context.Context, identity mail.Identity) (*backend, error) {
	place, err := s.server.deps.Places.Place(ctx, identity)
	if err != nil {
		return nil, err
	}
	var last error
	for i, n := range place.Cell.order(place.Home) {
		b, err := s.tryNode(ctx, n, place.Login)
		if err == nil {
			result := LoginHome
			if i > 0 || n.isDown() || !n.isHome(place.Home) && slices.ContainsFunc(place.Cell.nodes, func(other *node) bool { return other.isHome(place.Home) }) {
				result = LoginPartner
			}
			s.server.logins[result].Add(1)
			s.account = place.Login
			return b, nil
		}
		s.log.Warn("login not taken", "sid", s.client.Session, "login", place.Login, "cell", place.Cell.Name(), "remote", n.address, "err", err)
		last = err
		var reached *loginError
		if errors.As(err, &reached) && reached.final {
			break
		}
		if !errors.As(err, &reached) && !errors.Is(err, errUnavailable) {
			n.failed(err) // nobody answers there
		}
	}
	s.server.logins[LoginNobody].Add(1)
	var refused *loginError
	switch {
	case errors.As(last, &refused) && refused.final:
		return nil, refused
	case errors.As(last, &refused) && refused.limit:
		return nil, errLimit
	}
	return nil, status.New(status.AuthTemporary, last)
}

// errLimit is a node's word that an account has too many connections.
var errLimit = errors.New("too many connections of this account")

// loginError is a login that a node which answers did not take.
type loginError struct {
	said  string
	limit bool // for the number of connections
	final bool // its partner would say the same; the client is to hear it
}

func (e *loginError) Error() string { return "the node said: " + e.said }

// tryNode connects and logs in at one node.
func (s *session) tryNode(ctx context.Context, n *node, login string) (*backend, error) {
	greeting, cancel := context.WithTimeout(ctx, n.patience())
	defer cancel()
	b, err := n.connect(greeting)
	if err != nil {
		return nil, err
	}
	release := b.interruptible(greeting)
	err = s.dialect.hail(b)
	release()
	if err == nil && greeting.Err() != nil {
		err = greeting.Err()
	}
	if err == nil {
		loginCtx, cancel := context.WithTimeout(ctx, n.cell.cfg.LoginTimeout)
		release := b.interruptible(loginCtx)
		err = s.dialect.login(loginCtx, b, s, login)
		release()
		if err == nil && loginCtx.Err() != nil {
			err = loginCtx.Err()
		}
		cancel()
	}
	if err != nil {
		return nil, errors.Join(err, b.Close())
	}
	return b, b.SetDeadline(time.Time{})
}

// splice brings client and node together.
func (s *session) splice(b *backend) string {
	rest := make([]byte, s.in.Buffered())
	_, _ = io.ReadFull(s.in, rest) // it is all there
	r := &relay{client: s.conn, node: b, dialect: s.dialect, idle: s.cfg.IdleTimeout, write: s.cfg.WriteTimeout, tail: lineEnd, ended: make(chan struct{})}
	s.in = nil
	s.handle.Begin("proxied")
	s.handle.OnEnding(func() { r.leave(s.whyEnd()) })
	return r.run(rest)
}

// whyEnd is the cause of the end of a relay that was asked to go.
func (s *session) whyEnd() string {
	switch s.handle.Why() {
	case sessions.Disabled:
		return causeDisabled
	case sessions.Kicked:
		return causeKicked
	default:
		return causeShutdown
	}
}

func (s *session) isEnding() bool {
	select {
	case <-s.handle.Ending():
		return true
	default:
		return false
	}
}

// await prepares for reading what the client says.
func (s *session) await() error {
	on, err := s.handle.Wait(s.until)
	if !on {
		return s.asked()
	}
	return err
}

// asked is the end of a session that was asked to go before its login.
func (s *session) asked() error {
	if s.whyEnd() == causeKicked {
		return errKicked
	}
	return errShutdown
}

// lost says what an error of reading before the login means.
func (s *session) lost(err error) error {
	switch {
	case errors.Is(err, os.ErrDeadlineExceeded) && s.isEnding():
		return s.asked()
	case errors.Is(err, os.ErrDeadlineExceeded):
		return errAuthTimeout
	case errors.Is(err, bufio.ErrBufferFull):
		return errBigLine
	}
	return err
}

// say writes to the client. An error shows at the next read.
func (s *session) say(text string) {
	_ = s.conn.SetWriteDeadline(time.Now().Add(s.cfg.WriteTimeout))
	_, _ = io.WriteString(s.conn, text)
}

// handshake turns the connection into a TLS connection. What came in the clear
// before it is dropped: whoever wrote it was not authenticated.
func (s *session) handshake(ctx context.Context) error {
	ctx, cancel := context.WithDeadline(ctx, s.until)
	defer cancel()
	conn, err := s.handle.Handshake(ctx, s.cfg.TLS, &s.client)
	if err != nil {
		return err
	}
	s.conn = conn
	s.in.Reset(conn)
	return nil
}

// protected reports whether passwords may cross this connection.
func (s *session) protected() bool { return s.client.TLS != nil || s.cfg.AllowInsecureAuth }

// causeOf describes the end of a session before its login, for log and audit.
func causeOf(err error) string {
	var end *ending
	if errors.As(err, &end) {
		return end.cause
	}
	return sessions.CauseOf(err)
}
