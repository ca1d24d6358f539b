package smtp

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"runtime/debug"
	"sync/atomic"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/postern-mail/postern/internal/clientcert"
	"github.com/postern-mail/postern/internal/proxyproto"
	"github.com/postern-mail/postern/mail"
	"github.com/postern-mail/postern/status"
)

// errQuit ends a session the client ended; every other error of a command's
// function is the cause the session ended for.
var errQuit = errors.New("client quit")

// serverSession is one connection. It belongs to one goroutine; only its wire
// may be stopped and closed from outside.
type serverSession struct {
	set    *settings // as they were when the connection came
	wire   *wire
	log    hclog.Logger
	ctx    context.Context // the server's; outlives the client
	client mail.Client
	peer   netip.AddrPort // the client before XCLIENT said that it is another
	behalf bool           // XCLIENT did
	hasted bool           // the client did not wait for the greeting, and gets no mail in
	policy Session
	roster *roster      // told who logs in
	hurry  *atomic.Bool // the server is under stress
	crowd  *warnRarely
	early  *atomic.Uint64 // counts those who talk before the greeting
	tx     *transaction   // nil outside a transaction

	held         *command // read while it was not its turn, for the main loop
	heldArg      string
	lineWasLF    bool // the present command line ended in LF without CR
	errors       int  // since the last accepted message
	junk         int  // commands without a use since then
	authFailures int
	tracing      bool
	tally        tally
	present      *command // being executed
	denied       bool     // refused at the connection: only QUIT is left
}

// transaction is one message from MAIL to the end of data. Nothing of it is
// ever reset: it is dropped.
type transaction struct {
	policy   Transaction
	smtpUTF8 bool
	accepted int // recipients
	offered  int // RCPT commands, well-formed ones
	surplus  int // recipients refused for their number
}

func newServerSession(ctx context.Context, set *settings, conn net.Conn, id mail.SessionID, log hclog.Logger) *serverSession {
	s := &serverSession{
		set: set, wire: newWire(conn, set.WriteTimeout), hurry: new(atomic.Bool), crowd: new(warnRarely), early: new(atomic.Uint64), ctx: ctx, log: log, tracing: log.IsTrace(),
		client: mail.Client{
			Session:  id,
			Listener: set.Name,
			Remote:   addrPort(conn.RemoteAddr()),
			Local:    addrPort(conn.LocalAddr()),
			Via:      proxyproto.Via(conn),
		},
	}
	s.present, s.client.Hasty, s.client.Dialogue = &arrival, s.hasty, s.tally.dialogue
	s.peer, s.client.ViaTCP = s.client.Remote, s.client.Via.IsValid()
	if set.PeerIdentity != nil {
		s.client.Identity = set.PeerIdentity(conn)
	}
	return s
}

// serve runs the session to its end. A panic ends this session only.
func (s *serverSession) serve() {
	cause := s.guard(s.converse)
	if s.tx != nil {
		s.guardQuietly(s.dropTransaction)
	}
	s.sayLastWord(cause)
	s.wire.shut(!errors.Is(cause, errQuit) && !lostPeer(cause))
	if s.policy != nil {
		if errors.Is(cause, errQuit) {
			cause = nil
		}
		s.guardQuietly(func() { s.policy.Close(cause) })
	}
	s.wire.release()
}

// guard turns a panic into an error with the stack in the log.
func (s *serverSession) guard(f func() error) (err error) {
	defer func() {
		if p := recover(); p != nil {
			s.log.Error("session panicked", "sid", s.client.Session, "remote", s.client.Peer(), "panic", fmt.Sprint(p), "stack", string(debug.Stack()))
			err = status.Errorf(status.SessionFault, "panic: %v", p)
		}
	}()
	return f()
}

func (s *serverSession) guardQuietly(f func()) {
	// The error is the panic, which guard has logged.
	_ = s.guard(func() error { f(); return nil })
}

// errClosing wraps the cause of an end the client has been told about.
type errClosing struct{ cause error }

func (e errClosing) Error() string { return e.cause.Error() }
func (e errClosing) Unwrap() error { return e.cause }

// sayLastWord announces the end of the session where the client does not know
// about it yet.
func (s *serverSession) sayLastWord(cause error) {
	var closing errClosing
	switch {
	case errors.Is(cause, errQuit), errors.As(cause, &closing), lostPeer(cause):
	case errors.Is(cause, errStopping):
		s.say(status.ShuttingDown)
	case errors.Is(cause, os.ErrDeadlineExceeded):
		s.say(status.Timeout)
	case errors.Is(cause, errLineEndless), errors.Is(cause, errTooMuch):
		s.say(status.TooManyErrors)
	default:
		s.say(status.SessionFault)
	}
}

// lostPeer reports whether nobody is left to talk to.
func lostPeer(cause error) bool { return status.Of(cause) == status.ConnectionLost }

// converse is the dialogue: greeting, then command after command.
func (s *serverSession) converse() error {
	if s.set.ImplicitTLS {
		if err := s.pace(mail.ClientStartsTLS); err != nil {
			return errClosing{err} // there is no way to say anything
		}
		if err := s.startTLS(); err != nil {
			return err
		}
	}
	if err := s.greet(); err != nil {
		return err
	}
	for {
		cmd, arg, err := s.nextCommand()
		if err != nil {
			return err
		}
		if cmd == nil {
			continue
		}
		s.tally.begin(cmd)
		err = s.execute(cmd, arg)
		s.tally.end(err)
		if err != nil {
			return err
		}
	}
}

func (s *serverSession) greet() error {
	if s.client.Naming == mail.NameNotAsked { // XCLIENT may have told
		s.client.SetName(s.lookupHostname())
	}
	policy, err := s.set.handler.NewSession(s.ctx, &s.client)
	s.policy = policy
	if err != nil {
		return s.deny(err)
	}
	if err := s.holdGreeting(); err != nil {
		return err
	}
	if s.client.Helo != "" { // XCLIENT told it
		if err := s.policy.Helo(s.ctx); err != nil {
			s.client.Helo, s.client.Extended = "", false
			return s.refuse(err)
		}
	}
	greeting := status.Greeting.Reply()
	greeting.Text = s.set.Hostname + " " + s.set.Greeting
	s.answer(greeting)
	return nil
}

func (s *serverSession) lookupHostname() mail.ClientName {
	if s.set.LookupHostname == nil || !s.client.Remote.IsValid() {
		return mail.ClientName{}
	}
	ctx, cancel := context.WithTimeout(s.ctx, hostnameTimeout)
	defer cancel()
	return s.set.LookupHostname(ctx, s.client.Remote.Addr())
}

// nextCommand reads a line and finds its command. A line that was answered
// here already gives neither command nor error.
func (s *serverSession) nextCommand() (*command, string, error) {
	if cmd := s.held; cmd != nil {
		s.held = nil
		return cmd, s.heldArg, nil
	}
	s.wire.shrink()
	l, err := s.wire.readLine(maxSASLLine, time.Now().Add(s.commandTimeout()), true)
	return s.parseCommand(l, err, true)
}

// parseCommand answers what is no command. Between the chunks of a message,
// where the session is not idle, nobody else hears of it.
func (s *serverSession) parseCommand(l line, err error, idle bool) (*command, string, error) {
	switch {
	case errors.Is(err, errLineTooLong):
		return nil, "", s.refuse(status.New(status.LineTooLong, err))
	case err != nil:
		return nil, "", wireFault(err)
	case len(l.text) > s.set.MaxLineOctets && !isAuth(l.text):
		return nil, "", s.refuse(status.New(status.LineTooLong, errLineTooLong))
	}
	s.lineWasLF = l.bareLF
	if l.bareLF && s.set.BareNewline == BareNewlineReject {
		return nil, "", s.closeWith(status.New(status.BareNewline, errors.New("bare newline after a command")))
	}
	cmd, arg, err := s.set.findCommand(l.text)
	if err != nil {
		s.tally.begin(cmd)
	}
	if err != nil && cmd != nil && cmd.carriesText {
		return nil, "", s.closeWith(err) // where its text ends is lost
	}
	if err != nil && s.denied {
		err = s.errDenied()
	} else if err != nil && cmd == nil && idle {
		err = s.unknown(string(l.text), err)
	}
	if err != nil {
		return nil, "", s.refuse(err)
	}
	if s.tracing {
		s.traceCommand(cmd, arg)
	}
	return cmd, arg, nil
}

// unknown returns the refusal of a line that is no command: err, unless the
// session has other words.
func (s *serverSession) unknown(line string, err error) error {
	hears, ok := s.policy.(UnknownSession)
	if !ok || line == "" || !isLetter(line[0]) { // no attempt at a command
		return err
	}
	if other := hears.Unknown(s.ctx, line); other != nil {
		return other
	}
	return err
}

// execute runs one command where it is allowed.
func (s *serverSession) execute(cmd *command, arg string) error {
	s.present = cmd
	if s.improperlyPipelined() {
		return s.closeWith(status.Errorf(status.EarlyTalker, "input after %s before its reply", cmd.verb))
	}
	if s.denied && cmd.verb != "QUIT" {
		return s.refuseDenied(cmd)
	}
	if s.set.RequireTLS && s.client.TLS == nil && !cmd.withoutTLS {
		return s.refuse(status.New(status.TLSRequired, nil))
	}
	if cmd.states&s.state() == 0 {
		return s.refuse(status.Errorf(status.BadSequence, "%s in state %d", cmd.verb, s.state()))
	}
	if cmd.junk {
		if err := s.countJunk(); err != nil {
			return err
		}
	}
	return cmd.run(s, arg)
}

// improperlyPipelined reports whether the client sent on after a command that
// has to be the last of its group (RFC 2920 section 3.1), or without having
// been told that it may pipeline.
func (s *serverSession) improperlyPipelined() bool {
	return s.set.Pipelining == PipeliningEnforce && s.hasty()
}

func (s *serverSession) state() state {
	switch {
	case s.tx != nil:
		return inTransaction
	case s.client.Helo != "":
		return greeted
	default:
		return connected
	}
}

// dropTransaction ends the transaction, if there is one, without a message.
func (s *serverSession) dropTransaction() {
	if tx := s.tx; tx != nil {
		s.tx = nil
		tx.policy.Abort()
	}
}

// startTLS performs the handshake. Whatever came in before it is not the
// protected client's and is thrown away (RFC 3207 section 4.2). After a failed
// handshake nothing can follow.
func (s *serverSession) startTLS() error {
	if err := s.wire.flush(); err != nil {
		return wireFault(err)
	}
	s.wire.consume(len(s.wire.unread()))
	conn := tls.Server(s.wire.raw, s.set.TLS)
	deadline := time.Now().Add(s.set.HandshakeTimeout)
	if err := s.wire.arm(deadline, true); err != nil {
		return status.New(status.ConnectionLost, err)
	}
	_ = s.wire.raw.SetWriteDeadline(deadline) // a dead connection fails the handshake
	err := conn.HandshakeContext(s.ctx)
	s.wire.disarm(true)
	if err != nil {
		s.log.Info("TLS handshake failed", "sid", s.client.Session, "remote", s.client.Peer(), "err", err)
		// No reply can be sent: the two sides disagree on the protocol.
		return status.New(status.ConnectionLost, fmt.Errorf("TLS handshake: %w", err))
	}
	s.wire.conn = conn
	state := conn.ConnectionState()
	clientcert.Verify(s.set.TLS, &state)
	s.client.TLS = tlsInfo(state)
	return nil
}

func tlsInfo(cs tls.ConnectionState) *mail.TLSInfo {
	info := &mail.TLSInfo{Version: tlsVersion(cs.Version), Cipher: tls.CipherSuiteName(cs.CipherSuite), Connection: &cs}
	if len(cs.VerifiedChains) > 0 {
		info.PeerCN = cs.PeerCertificates[0].Subject.CommonName
	}
	return info
}

// tlsVersion names a version as mail headers and logs do: "TLSv1.3".
func tlsVersion(v uint16) string {
	switch v {
	case tls.VersionTLS12:
		return "TLSv1.2"
	case tls.VersionTLS13:
		return "TLSv1.3"
	default:
		return tls.VersionName(v)
	}
}
