package pop3d

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

// mechanisms lists what is on offer on this connection now.
func (s *session) mechanisms() []string {
	if !s.protected() {
		return nil
	}
	return s.server.deps.Auth.Mechanisms(&s.client)
}

// mayLogIn refuses logins in the clear.
func (s *session) mayLogIn() error {
	if !s.protected() {
		return refuse(codeAuth, "Use STLS before logging in")
	}
	return nil
}

// userCommand is USER. It is answered alike for all names.
func (s *session) userCommand(_ context.Context, args []string) error {
	if err := s.mayLogIn(); err != nil {
		return err
	}
	switch {
	case !sessions.TakesPasswords(s.mechanisms()):
		return refuse(codeAuth, "USER and PASS are disabled here")
	case args[0] == "":
		return syntax("USER needs a name")
	case len(args[0]) > maxLineOctets:
		return syntax("name is too long")
	}
	s.user = args[0]
	s.ok("Password is needed")
	return nil
}

// pass is PASS.
func (s *session) pass(ctx context.Context, args []string) error {
	user := s.user
	s.user = ""
	switch {
	case user == "":
		return syntax("USER comes before PASS")
	case len(args[0]) > maxLineOctets:
		return syntax("password is too long")
	case strings.IndexByte(user, 0) >= 0 || strings.IndexByte(args[0], 0) >= 0:
		return syntax("NUL in a login")
	}
	identity, err := s.server.deps.Auth.Login(ctx, user, args[0], s.client)
	return s.authenticated(ctx, identity, err)
}

// auth is AUTH (RFC 5034). Without an argument it lists mechanisms, as clients
// expect that are older than CAPA.
func (s *session) auth(ctx context.Context, args []string) error {
	if len(args) == 0 {
		s.ok("Mechanisms follow")
		for _, m := range s.mechanisms() {
			s.w.line(m)
		}
		s.w.line(".")
		return nil
	}
	if err := s.mayLogIn(); err != nil {
		return err
	}
	mechanism := strings.ToUpper(args[0])
	if !slices.Contains(s.mechanisms(), mechanism) {
		return refuse(codeAuth, "Unknown authentication mechanism")
	}
	var initial []byte
	if len(args) == 2 {
		var err error
		if initial, err = sessions.DecodeResponse([]byte(args[1])); err != nil {
			return syntax(err.Error())
		}
	}
	exchange, err := s.server.deps.Auth.Start(ctx, mechanism, s.client)
	if err != nil {
		return s.authenticated(ctx, mail.Identity{}, err)
	}
	if held, ok := exchange.(io.Closer); ok {
		defer held.Close() // an exchange that the client leaves
	}
	if err := s.exchange(exchange, initial); err != nil {
		return s.authenticated(ctx, mail.Identity{}, err)
	}
	return s.authenticated(ctx, exchange.Identity(), nil)
}

// exchange carries challenges and responses until the mechanism is done.
func (s *session) exchange(exchange sessions.Authentication, initial []byte) error {
	err := sessions.Exchange(exchange, initial, func(challenge string) ([]byte, error) {
		s.w.str("+ ")
		s.w.line(challenge)
		line, err := s.r.readLine(nil, maxSASLOctets)
		if err != nil {
			return nil, &connError{s.readError(err)}
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
func (s *session) authenticated(ctx context.Context, identity mail.Identity, err error) error {
	if err == nil {
		err = s.begin(ctx, identity)
	}
	var bad *invalid
	var no *refusal
	switch reason := status.Of(err); {
	case err == nil:
		s.ok("Logged in")
		return nil
	case ends(err), errors.As(err, &no):
		return err
	case errors.As(err, &bad):
		s.failures++
		return err
	case reason.Permanent():
		s.failures++
		s.handle.Penance(ctx, s.cfg.AuthDelay, s.failures)
		return refuse(codeAuth, sessions.OneLine(status.ReplyOf(err).Text))
	default:
		// Unknown faults are an outage too: a client told anything else would
		// throw a good password away.
		s.log.Warn("cannot authenticate", "sid", s.client.Session, "remote", s.client.Remote, "reason", reason, "error", err)
		return refuse(codeTemporary, "Temporary authentication failure")
	}
}

// begin opens the maildrop of who authenticated.
func (s *session) begin(ctx context.Context, identity mail.Identity) error {
	account, err := s.server.deps.Accounts.Account(ctx, identity.Authorization)
	if err != nil {
		return err
	}
	if account.Disabled {
		return status.New(status.AccountDisabled, nil)
	}
	if !s.handle.Login(account.Name) {
		s.log.Warn("too many sessions of one account", "sid", s.client.Session, "login", account.Name, "remote", s.client.Remote)
		return refuse(codeTemporary, "Too many connections of this account")
	}
	if err := s.take(ctx, account); err != nil {
		s.leave(ctx)
		s.handle.Logout()
		return err
	}
	s.identity, s.state = identity, transaction
	s.client.Identity = &s.identity
	s.handle.LoggedIn(identity.Authorization, account.Name)
	s.handle.Enter(selectedState, inbox)
	s.r.limit = time.Time{}
	s.failures = 0
	if s.client.TLS != nil {
		s.client.TLS.Connection = nil // of no more use, and large
	}
	return nil
}

// take locks the maildrop and opens it. What it took, leave gives back.
func (s *session) take(ctx context.Context, account mail.Account) error {
	drops := s.server.deps.Maildrops
	if !drops.enter(ctx, account.Name, s.cfg.InUseWait, s.handle.Ending()) {
		if s.isEnding() {
			return s.whyEnd()
		}
		return refuse(codeInUse, "Another session has this maildrop")
	}
	s.held = account.Name
	if drops.early(account.Name, s.cfg.LoginDelay, time.Now()) {
		return refuse(codeLoginDelay, "The last login was too short a time ago")
	}
	opened, err := s.server.deps.Store.Account(ctx, account)
	if err == nil {
		s.account = opened
		s.drop, err = openMaildrop(ctx, opened)
	}
	if err != nil {
		// Such as the account of a pair that is not complete here yet. The
		// password was right, and nobody must think otherwise.
		s.log.Warn("mailboxes are not available", "sid", s.client.Session, "login", account.Name, "remote", s.client.Remote, "reason", status.Of(err), "error", err)
		return refuse(codeOf(status.Of(err)), "The maildrop is not available here now")
	}
	return nil
}

// stls is STLS (RFC 2595 section 4). What came in the clear behind it is
// dropped, and what was said before it forgotten: whoever sent it was not
// authenticated.
func (s *session) stls(ctx context.Context, _ []string) error {
	switch {
	case s.cfg.TLS == nil:
		return syntax("TLS is not available")
	case s.client.TLS != nil:
		return syntax("TLS is already active")
	}
	s.ok("Begin TLS negotiation now")
	if err := s.w.flush(); err != nil {
		return &connError{err}
	}
	s.r.drop()
	s.user = ""
	return s.handshake(ctx)
}
