package pop3d

import (
	"context"
	"errors"
	"net"
	"os"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/postern-mail/postern/backend/mailstore"
	"github.com/postern-mail/postern/backend/sessions"
	"github.com/postern-mail/postern/mail"
)

// session is one connection. Its goroutine owns everything.
type session struct {
	server *Server
	cfg    *Config // as it was when the connection came
	log    hclog.Logger
	client mail.Client
	handle *sessions.Session // the same session, as others know it
	socket net.Conn          // as accepted; may be closed from outside

	r   reader
	w   writer
	cmd []byte // octets of the line under way

	state    state
	user     string             // what USER named; "" for nobody
	account  *mailstore.Account // nil before the login
	held     string             // the maildrop that is ours; "" for none
	drop     *maildrop          // nil before the login
	identity mail.Identity

	running   string // name of the command under way
	streaming bool   // a message is being sent
	bad       int    // invalid commands in a row
	failures  int    // failed authentications
}

func newSession(server *Server, cfg *Config, handle *sessions.Session) *session {
	conn := handle.Conn()
	s := &session{
		server: server, cfg: cfg, log: server.log, handle: handle, socket: conn, state: authorization,
		client: mail.Client{
			Session: handle.ID(), Listener: cfg.Listener, Remote: handle.Remote(), Local: sessions.AddrPort(conn.LocalAddr()),
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
	s.leave(ctx)
	var end *bye
	if errors.As(err, &end) {
		if end.text != "" {
			s.w.line("-ERR " + end.text)
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
	if s.server.Draining() {
		return errDraining
	}
	s.greet()
	for {
		if err := s.await(); err != nil {
			return err
		}
		var err error
		if s.cmd, err = s.r.readLine(s.cmd[:0], s.maxLine()); err != nil {
			return s.readError(err)
		}
		if err := s.execute(ctx, s.cmd); err != nil {
			return err
		}
	}
}

const (
	// maxLineOctets bounds a command; RFC 2449 section 4 has 255.
	maxLineOctets = 1000
	// maxSASLOctets bounds what may hold a response of a SASL exchange, in
	// base64; Kerberos tickets and web tokens are large.
	maxSASLOctets = 64 << 10
)

func (s *session) maxLine() int {
	if s.state == authorization {
		return maxSASLOctets
	}
	return maxLineOctets
}

// await blocks until a command begins, holding no large buffers meanwhile.
func (s *session) await() error {
	if s.r.buffered() > 0 && !s.isEnding() {
		return nil
	}
	if err := s.w.flush(); err != nil {
		return err
	}
	s.w.park()
	if cap(s.cmd) > maxLineOctets {
		s.cmd = nil
	}
	at := time.Now().Add(s.cfg.IdleTimeout)
	if !s.r.limit.IsZero() {
		at = s.r.limit
	}
	on, err := s.handle.Wait(at)
	if !on {
		return s.whyEnd()
	}
	if err != nil {
		return err
	}
	err = s.r.wait()
	s.handle.Resume()
	switch {
	case s.isEnding():
		return s.whyEnd()
	case errors.Is(err, os.ErrDeadlineExceeded) && s.state == authorization:
		return errAuthTimeout
	case errors.Is(err, os.ErrDeadlineExceeded):
		return errIdleTimeout
	}
	return err
}

func (s *session) isEnding() bool {
	select {
	case <-s.handle.Ending():
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
	case errors.Is(err, os.ErrDeadlineExceeded) && s.state == authorization:
		return errAuthTimeout
	case errors.Is(err, os.ErrDeadlineExceeded):
		return errSlowCommand
	}
	return err
}

// handshake turns the connection into a TLS connection.
func (s *session) handshake(ctx context.Context) error {
	ctx, cancel := context.WithDeadline(ctx, s.r.limit)
	defer cancel()
	conn, err := s.handle.Handshake(ctx, s.cfg.TLS, &s.client)
	if err != nil {
		return err
	}
	s.r.conn, s.w.conn = conn, conn
	return nil
}

// protected reports whether passwords may cross this connection.
func (s *session) protected() bool { return s.client.TLS != nil || s.cfg.AllowInsecureAuth }

// ok writes a positive response of one line.
func (s *session) ok(text string) {
	s.w.str("+OK ")
	s.w.line(text)
}

// err writes a negative response.
func (s *session) err(code, text string) {
	s.w.str("-ERR ")
	if code != "" {
		s.w.str("[" + code + "] ")
	}
	s.w.line(text)
}

// leave gives the maildrop and what was opened with it back.
func (s *session) leave(ctx context.Context) {
	if s.drop != nil {
		s.markSeen(ctx)
		s.drop.mailbox.Close()
		s.drop = nil
	}
	if s.account != nil {
		s.account.Close()
		s.account = nil
	}
	if s.held != "" {
		s.server.deps.Maildrops.leave(s.held)
		s.held = ""
	}
}

// close is leave for a session that ended in any way.
func (s *session) close() {
	if s.drop != nil {
		s.drop.retrieved = nil // after a panic nothing more is written
	}
	s.leave(context.Background())
	s.w.park()
}
