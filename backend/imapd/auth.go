package imapd

import (
	"context"
	"errors"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/postern-mail/postern/backend/sessions"
	"github.com/postern-mail/postern/mail"
	"github.com/postern-mail/postern/status"
)

// maxSASLOctets bounds one response of a SASL exchange, in base64; Kerberos
// tickets and web tokens are large.
const maxSASLOctets = maxCommandOctets

type loginArgs struct{ login, password string }

func parseLogin(p *parser) (a loginArgs, err error) {
	if err = p.sp(); err != nil {
		return a, err
	}
	if a.login, err = p.astring(); err != nil {
		return a, err
	}
	if err = p.sp(); err != nil {
		return a, err
	}
	a.password, err = p.astring()
	return a, err
}

type authenticateArgs struct {
	mechanism string
	initial   []byte // nil when none was given (RFC 4959)
}

func parseAuthenticate(p *parser) (a authenticateArgs, err error) {
	if err = p.sp(); err != nil {
		return a, err
	}
	if a.mechanism, err = p.word(); err != nil || !p.take(' ') || p.i == len(p.b) {
		return a, err
	}
	rest := p.b[p.i:]
	p.i = len(p.b)
	a.initial, err = sessions.DecodeResponse(rest)
	if err != nil {
		return a, syntax(err.Error())
	}
	return a, nil
}

// mechanisms lists what is on offer on this connection now.
func (s *session) mechanisms() []string {
	if !s.protected() {
		return nil
	}
	return s.server.deps.Auth.Mechanisms(&s.client)
}

// loginCommand is LOGIN (RFC 3501 section 6.2.3).
func (s *session) loginCommand(ctx context.Context, a loginArgs) (result, error) {
	if !s.protected() {
		return result{}, refuse(status.AuthNeedsTLS.IMAPCode(), "Use STARTTLS before logging in")
	}
	if !sessions.TakesPasswords(s.mechanisms()) {
		return result{}, refuse(status.AuthMechanism.IMAPCode(), "LOGIN is disabled here")
	}
	if strings.IndexByte(a.login, 0) >= 0 || strings.IndexByte(a.password, 0) >= 0 {
		return result{}, syntax("NUL in a login")
	}
	identity, err := s.server.deps.Auth.Login(ctx, a.login, a.password, s.client)
	return s.authenticated(ctx, identity, err)
}

// authenticate is AUTHENTICATE (RFC 3501 section 6.2.2).
func (s *session) authenticate(ctx context.Context, a authenticateArgs) (result, error) {
	if !s.protected() {
		return result{}, refuse(status.AuthNeedsTLS.IMAPCode(), "Use STARTTLS before logging in")
	}
	if !slices.Contains(s.mechanisms(), a.mechanism) {
		return result{}, refuse(status.AuthMechanism.IMAPCode(), "Unknown authentication mechanism")
	}
	exchange, err := s.server.deps.Auth.Start(ctx, a.mechanism, s.client)
	if err != nil {
		return s.authenticated(ctx, mail.Identity{}, err)
	}
	if held, ok := exchange.(io.Closer); ok {
		defer held.Close() // an exchange that the client leaves
	}
	if err := s.exchange(exchange, a.initial); err != nil {
		return s.authenticated(ctx, mail.Identity{}, err)
	}
	return s.authenticated(ctx, exchange.Identity(), nil)
}

// exchange carries challenges and responses until the mechanism is done.
func (s *session) exchange(exchange sessions.Authentication, initial []byte) error {
	err := sessions.Exchange(exchange, initial, func(challenge string) ([]byte, error) {
		s.continuation(challenge)
		line, err := s.r.readLine(nil, maxSASLOctets)
		switch {
		case err != nil:
			return nil, s.lost(err)
		case hasLiteral(line):
			return nil, errStrayLiteral
		}
		return line, nil
	})
	if errors.Is(err, sessions.ErrCancelled) || errors.Is(err, sessions.ErrBase64) {
		return syntax(err.Error())
	}
	return err
}

// authenticated ends every attempt: it begins the account's session, or counts
// and delays what was refused.
func (s *session) authenticated(ctx context.Context, identity mail.Identity, err error) (result, error) {
	if err == nil {
		err = s.begin(ctx, identity)
	}
	switch reason := status.Of(err); {
	case err == nil:
		return result{code: s.capabilityCode(), text: "Logged in"}, nil
	case ends(err), isRefusal(err):
		return result{}, err
	case isSyntax(err):
		s.failures++
		return result{}, err
	case reason.Permanent():
		s.failures++
		s.handle.Penance(ctx, s.cfg.AuthDelay, s.failures)
		return result{}, refuse(reason.IMAPCode(), sessions.OneLine(status.ReplyOf(err).Text))
	default:
		// Unknown faults are an outage too: a client told anything else would
		// throw a good password away.
		s.log.Warn("cannot authenticate", "sid", s.client.Session, "remote", s.client.Remote, "reason", reason, "error", err)
		return result{}, refuse(status.AuthTemporary.IMAPCode(), "Temporary authentication failure")
	}
}

func isSyntax(err error) bool {
	var bad *syntaxError
	return errors.As(err, &bad)
}

func isRefusal(err error) bool {
	var no *refusal
	return errors.As(err, &no)
}

// begin opens the mailboxes of who authenticated.
func (s *session) begin(ctx context.Context, identity mail.Identity) error {
	age := s.server.accountsAge.Load() // from before the answer
	account, err := s.server.deps.Accounts.Account(ctx, identity.Authorization)
	if err != nil {
		return err
	}
	if account.Disabled {
		return status.New(status.AccountDisabled, nil)
	}
	if !s.handle.Login(account.Name) {
		s.log.Warn("too many sessions of one account", "sid", s.client.Session, "login", account.Name, "remote", s.client.Remote)
		return refuse("LIMIT", "Too many connections of this account")
	}
	opened, err := s.server.deps.Store.Account(ctx, account)
	if reason := status.Of(err); err != nil && reason.Transient() {
		// Such as the account of a pair that is not complete here yet. The
		// password was right, and nobody must think otherwise.
		s.log.Warn("mailboxes are not available", "sid", s.client.Session, "login", account.Name, "remote", s.client.Remote, "reason", reason, "error", err)
		return refuse(status.StoreDown.IMAPCode(), "Mailboxes are not available here now, try again later")
	}
	if err != nil {
		return err
	}
	s.account, s.client.Identity, s.state = opened, &identity, authenticated
	s.who, s.groupsAge = s.cfg.Sharing.who(&account), age
	s.handle.LoggedIn(identity.Authorization, account.Name)
	s.r.limit = time.Time{}
	s.failures = 0
	if s.client.TLS != nil {
		s.client.TLS.Connection = nil // many wait for hours now
	}
	return nil
}

// startTLS is STARTTLS (RFC 3501 section 6.2.1). What came in the clear behind
// it is dropped: whoever wrote it was not authenticated.
func (s *session) startTLS(ctx context.Context) (result, error) {
	switch {
	case s.cfg.TLS == nil:
		return result{}, syntax("TLS is not available")
	case s.client.TLS != nil:
		return result{}, syntax("TLS is already active")
	case s.isCompressed():
		return result{}, syntax("TLS cannot begin inside of compression")
	}
	s.tagged(s.tag, result{text: "Begin TLS negotiation now"}, nil)
	if err := s.w.flush(); err != nil {
		return result{}, &connError{err}
	}
	s.r.release()
	return result{answered: true}, s.handshake(ctx)
}

// logout is LOGOUT (RFC 3501 section 6.1.3).
func (s *session) logout(context.Context) (result, error) { return result{}, errLogout }
