package imapd

import (
	"context"
	"crypto/tls"
	"errors"
	"net"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/postern-mail/postern/backend/mailstore"
	"github.com/postern-mail/postern/mail"
	"github.com/postern-mail/postern/status"
)

// state is a session's state as a bit, so that a command can name several.
type state uint8

const (
	notAuthenticated state = 1 << iota
	authenticated
	selected
)

// session is one connection. Its goroutine owns everything but what waitMu
// guards.
type session struct {
	server   *Server
	cfg      *Config // as it was when the connection came
	log      hclog.Logger
	client   mail.Client
	socket   net.Conn // as accepted; may be closed from outside
	draining chan struct{}

	r   reader
	w   writer
	cmd []byte // octets of the command under way

	state     state
	account   *mailstore.Account // nil before authentication
	admitted  string             // the account the server counts the session for
	box       *selection         // nil unless a mailbox is selected
	condstore bool               // the client knows CONDSTORE (RFC 7162 section 3.1)

	commands int
	running  string // name of the command under way
	tag      string // and its tag
	bad      int    // invalid commands in a row
	failures int    // failed authentications

	waitMu  sync.Mutex
	waiting bool // for a command, with nothing to lose
}

func newSession(server *Server, cfg *Config, conn net.Conn, draining chan struct{}) *session {
	s := &session{
		server: server, cfg: cfg, log: server.log, socket: conn, draining: draining, state: notAuthenticated,
		client: mail.Client{
			Session: newSessionID(), Listener: cfg.Listener,
			Remote: addrPort(conn.RemoteAddr()), Local: addrPort(conn.LocalAddr()),
		},
		w: writer{conn: conn, timeout: cfg.WriteTimeout},
	}
	s.r = reader{conn: conn, out: &s.w, timeout: cfg.CommandTimeout, limit: time.Now().Add(cfg.AuthTimeout)}
	return s
}

// run is the session from the greeting to its end; it returns the cause of the
// end. The connection is left open.
func (s *session) run(ctx context.Context) string {
	err := s.converse(ctx)
	var end *bye
	if errors.As(err, &end) {
		if end != errLogout { // LOGOUT says BYE before its tagged response
			s.w.line("* BYE " + end.text)
		}
		_ = s.w.flush()
	}
	return causeOf(err)
}

func (s *session) converse(ctx context.Context) error {
	if s.cfg.ImplicitTLS {
		if err := s.handshake(ctx); err != nil {
			return err
		}
	}
	s.response("*", "OK", s.capabilityCode(), s.cfg.Hostname+" IMAP server ready")
	for {
		if err := s.await(); err != nil {
			return err
		}
		cmd, err := s.readCommand()
		if err != nil {
			return s.readError(err)
		}
		if err := s.execute(ctx, cmd); err != nil {
			return err
		}
	}
}

// await blocks until a command begins, holding no buffers meanwhile.
func (s *session) await() error {
	if s.r.buffered() > 0 && !s.isDraining() {
		return nil
	}
	if err := s.w.flush(); err != nil {
		return err
	}
	s.w.park()
	s.cmd = nil
	if err := s.beginWait(); err != nil {
		return err
	}
	err := s.r.wait()
	s.waitMu.Lock()
	s.waiting = false
	s.waitMu.Unlock()
	if s.isDraining() {
		return errShutdown
	}
	if errors.Is(err, os.ErrDeadlineExceeded) {
		if s.state == notAuthenticated {
			return errAuthTimeout
		}
		return errIdleTimeout
	}
	return err
}

// beginWait sets the deadline of a wait, under the lock that interrupt takes:
// an interrupt comes before, and is seen here, or after, and cuts the wait.
func (s *session) beginWait() error {
	at := time.Now().Add(s.cfg.IdleTimeout)
	if !s.r.limit.IsZero() {
		at = s.r.limit
	}
	s.waitMu.Lock()
	defer s.waitMu.Unlock()
	if s.isDraining() {
		return errShutdown
	}
	s.waiting = true
	return s.r.conn.SetReadDeadline(at)
}

// interrupt ends the session's wait for a command. The server calls it once
// draining is closed.
func (s *session) interrupt() {
	s.waitMu.Lock()
	defer s.waitMu.Unlock()
	if s.waiting {
		_ = s.socket.SetReadDeadline(time.Unix(1, 0))
	}
}

func (s *session) isDraining() bool {
	select {
	case <-s.draining:
		return true
	default:
		return false
	}
}

// readError says what the end of reading inside a command means.
func (s *session) readError(err error) error {
	switch {
	case errors.Is(err, errLineTooLong):
		return errBigLine
	case errors.Is(err, os.ErrDeadlineExceeded) && s.state == notAuthenticated:
		return errAuthTimeout
	case errors.Is(err, os.ErrDeadlineExceeded):
		return &bye{"Command was not completed in time", "command timeout"}
	}
	return err
}

// handshake turns the connection into a TLS connection.
func (s *session) handshake(ctx context.Context) error {
	ctx, cancel := context.WithDeadline(ctx, s.r.limit)
	defer cancel()
	conn := tls.Server(s.socket, s.cfg.TLS)
	if err := conn.HandshakeContext(ctx); err != nil {
		return &handshakeError{err}
	}
	s.r.conn, s.w.conn = conn, conn
	st := conn.ConnectionState()
	version := strings.Replace(tls.VersionName(st.Version), "TLS ", "TLSv", 1) // as SMTP sessions name it
	s.client.TLS = &mail.TLSInfo{Version: version, Cipher: tls.CipherSuiteName(st.CipherSuite)}
	if len(st.VerifiedChains) > 0 {
		s.client.TLS.PeerCN = st.VerifiedChains[0][0].Subject.CommonName
	}
	return nil
}

// protected reports whether passwords may cross this connection.
func (s *session) protected() bool { return s.client.TLS != nil || s.cfg.AllowInsecureAuth }

// login is the authorization identity, "" before authentication.
func (s *session) login() string {
	if s.client.Identity == nil {
		return ""
	}
	return s.client.Identity.Authorization
}

// close gives everything the session holds back.
func (s *session) close() {
	s.unselect()
	if s.account != nil {
		s.account.Close()
		s.account = nil
	}
	s.r.release()
	s.w.park()
}

// event begins an audit record that names the connection and who logged in.
func (s *session) event(kind mail.EventKind) mail.Event {
	e := mail.Event{
		Kind: kind, Service: "imap", Session: s.client.Session, Remote: s.client.Remote,
		Login: s.login(), Detail: s.client.Listener,
	}
	if s.client.TLS != nil {
		e.TLS = s.client.TLS.Version
	}
	return e
}

// recordMailbox audits a change to the tree of mailboxes, done or refused.
func (s *session) recordMailbox(mailbox, detail string, err error) {
	e := s.event(mail.EventMailbox)
	e.Mailbox, e.Detail, e.Result = mailbox, detail, "ok"
	if err != nil {
		e.Result, e.Reason = "refused", status.Of(err).String()
	}
	s.server.deps.Audit.Record(e)
}
