package imapd

import (
	"context"
	"crypto/tls"
	"errors"
	"net"
	"os"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/postern-mail/postern/backend/mailstore"
	"github.com/postern-mail/postern/backend/mailstore/acl"
	"github.com/postern-mail/postern/backend/sessions"
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

// session is one connection. Its goroutine owns everything.
type session struct {
	server *Server
	cfg    *Config // as it was when the connection came
	log    hclog.Logger
	client mail.Client
	handle *sessions.Session // the same session, as others know it
	socket net.Conn          // as accepted; may be closed from outside
	secure *tls.Conn         // over socket, nil without TLS

	r   reader
	w   writer
	cmd []byte // octets of the command under way

	state     state
	account   *mailstore.Account // nil before authentication
	groupsAge uint64             // Server.accountsAge when the directory told them
	// groupsAgain is when to ask for them again that did not answer.
	groupsAgain time.Time
	who         acl.Who         // whom access control lists mean by the client
	box         *selection      // nil unless a mailbox is selected
	dialect                     // what the client enabled
	quirks      workarounds     // what this client needs
	hidden      map[string]bool // capabilities it is not told of; see withholds
	condstore   bool            // the client knows CONDSTORE (RFC 7162 section 3.1)
	qresync     bool            // it enabled QRESYNC, and condstore with it
	notify      *notification   // nil until NOTIFY

	began    time.Time // when the command under way did
	assured  time.Time // when the client was told last that it still is
	running  string    // name of the command under way
	short    string    // code for what it left undone, see cutShort
	tag      string    // and its tag
	bad      int       // invalid commands in a row
	failures int       // failed authentications
	// later is what the command under way leaves for after its answer, about the
	// selected mailbox; nil for nothing.
	later func(context.Context) error
	// laterShare is the memory that takes, of that for sorting.
	laterShare sortingShare
}

func newSession(server *Server, cfg *Config, handle *sessions.Session) *session {
	conn := handle.Conn()
	s := &session{
		server: server, cfg: cfg, log: server.log, handle: handle, socket: conn, state: notAuthenticated,
		client: mail.Client{
			Session: handle.ID(), Listener: cfg.Listener, Remote: handle.Remote(), Local: sessions.AddrPort(conn.LocalAddr()),
		},
		w: writer{conn: conn, timeout: cfg.WriteTimeout},
	}
	s.adapt(nil)
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
	if s.server.Draining() {
		return errDraining
	}
	s.response("*", "OK", s.capabilityCode(), s.cfg.Hostname+" IMAP server ready")
	for {
		if err := s.await(ctx); err != nil {
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

// await blocks until a command begins, holding no buffers meanwhile. It tells
// what the client asked for by NOTIFY when that happens.
func (s *session) await(ctx context.Context) error {
	at := time.Now().Add(s.cfg.IdleTimeout)
	if !s.r.limit.IsZero() {
		at = s.r.limit
	}
	for {
		if s.r.buffered() > 0 && !s.isDraining() {
			return nil
		}
		rest := s.notify.rest(s.cfg.notifyPause)
		if rest == 0 && s.notify.pending() {
			if err := s.tellNotified(ctx, true); err != nil {
				return err
			}
			rest = s.notify.rest(s.cfg.notifyPause)
		}
		if err := s.w.flush(); err != nil {
			return err
		}
		s.w.park()
		s.cmd = nil
		until, restless := at, rest == 0
		if next := time.Now().Add(rest); !restless && next.Before(at) {
			until = next
		}
		if err := s.beginWait(until); err != nil {
			return err
		}
		if restless && s.notify.pending() { // since the look above; from now on it wakes the wait
			s.handle.Resume()
			continue
		}
		err := s.r.wait()
		s.handle.Resume()
		if s.isDraining() {
			return s.whyEnd()
		}
		if !errors.Is(err, os.ErrDeadlineExceeded) {
			return err
		}
		if s.notify != nil && time.Now().Before(at) {
			continue
		}
		if s.state == notAuthenticated {
			return errAuthTimeout
		}
		return errIdleTimeout
	}
}

// beginWait sets the deadline of a wait that whoever wants the session to go, or
// has something to tell, may cut short.
func (s *session) beginWait(at time.Time) error {
	on, err := s.handle.Wait(at)
	if !on {
		return s.whyEnd()
	}
	return err
}

func (s *session) isDraining() bool {
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
	conn, err := s.handle.Handshake(ctx, s.cfg.TLS, &s.client)
	if err != nil {
		return err
	}
	s.r.conn, s.w.conn, s.secure = conn, conn, conn
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
	s.closeNotify(s.notify)
	s.notify = nil
	if s.account != nil {
		s.account.Close()
		s.account = nil
	}
	s.r.release()
	s.w.park()
}

// event begins an audit record that names the connection and who logged in.
func (s *session) event(kind mail.EventKind) mail.Event { return s.handle.Event(kind) }

// recordMailbox audits a change to the tree of mailboxes, done or refused.
func (s *session) recordMailbox(mailbox, detail string, err error) {
	e := s.event(mail.EventMailbox)
	e.Mailbox, e.Owner, e.Detail, e.Result = mailbox, s.ownerOf(mailbox), detail, "ok"
	if err != nil {
		e.Result, e.Reason = "refused", status.Of(err).String()
	}
	s.server.deps.Audit.Record(e)
}
