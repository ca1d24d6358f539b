package smtpd

import (
	"context"
	"time"

	"github.com/postern-mail/postern/mail"
	"github.com/postern-mail/postern/policy"
	"github.com/postern-mail/postern/smtp"
	"github.com/postern-mail/postern/status"
)

// session is one connection. The engine calls it from one goroutine.
type session struct {
	handler  *Handler
	client   *mail.Client // the engine's
	policy   *policy.Session
	began    time.Time
	accepted int // messages
	refused  int // commands and messages
}

// NewSession implements smtp.Handler.
func (h *Handler) NewSession(ctx context.Context, client *mail.Client) (smtp.Session, error) {
	s := &session{handler: h, client: client, policy: h.deps.Policy.Session(), began: time.Now()}
	h.deps.Audit.Record(s.event(mail.EventConnect))
	h.count.sessionBegins()
	if err := s.ask(ctx, &mail.Transaction{Client: *client, Phase: mail.PhaseConnect, Started: s.began}); err != nil {
		s.Close(err) // the engine has no session to close
		return nil, err
	}
	return s, nil
}

// ask puts a command that has no transaction yet to the chain.
func (s *session) ask(ctx context.Context, tx *mail.Transaction) error {
	d := s.policy.Evaluate(ctx, tx)
	if d.Refused {
		s.refused++
		return policy.Error(d)
	}
	return nil
}

// Helo implements smtp.Session.
func (s *session) Helo(ctx context.Context) error {
	return s.ask(ctx, &mail.Transaction{Client: *s.client, Phase: mail.PhaseHelo, Started: time.Now()})
}

// Mechanisms implements smtp.Session.
func (s *session) Mechanisms() []string {
	if s.handler.deps.Authn == nil {
		return nil
	}
	return s.handler.deps.Authn.Mechanisms(s.client.TLS != nil)
}

// Auth implements smtp.Session.
func (s *session) Auth(ctx context.Context, mechanism string) (smtp.Authentication, error) {
	if s.handler.deps.Authn == nil {
		return nil, status.New(status.CommandUnimplemented, nil)
	}
	return s.handler.deps.Authn.Start(ctx, mechanism, s.handler.cfg.Service, *s.client)
}

// Mail implements smtp.Session.
func (s *session) Mail(ctx context.Context, from smtp.MailCommand) (smtp.Transaction, error) {
	t := newTransaction(s, from)
	if s.handler.cfg.RequireAuth && s.client.Identity == nil {
		err := status.New(status.AuthRequired, nil)
		t.recordRefusal(err, nil)
		return nil, err
	}
	if err := s.handler.deps.Queue.CheckSpace(from.DeclaredOctets); err != nil {
		s.handler.deps.Logger.Debug("no room for mail", "sid", s.client.Session, "error", err)
		err = storeError(err)
		t.recordRefusal(err, nil)
		return nil, err
	}
	if err := s.ask(ctx, &t.tx); err != nil {
		return nil, err
	}
	return t, nil
}

// Verify implements smtp.Session: who exists is told to nobody who does not
// send mail.
func (s *session) Verify(context.Context, string) error {
	return status.New(status.NotVerified, nil)
}

// Close implements smtp.Session.
func (s *session) Close(cause error) {
	took := time.Since(s.began)
	reason := "quit"
	if cause != nil {
		reason = status.Of(cause).String()
	}
	e := s.event(mail.EventDisconnect)
	e.Reason, e.Duration = reason, took
	s.handler.deps.Audit.Record(e)
	s.handler.count.sessionEnds()
	keys := s.keys("accepted", s.accepted, "refused", s.refused, "reason", reason, "dur", took)
	if cause != nil {
		keys = append(keys, "error", cause)
	}
	s.handler.deps.Logger.Info("session ended", keys...)
}

// event begins an audit record of the session.
func (s *session) event(kind mail.EventKind) mail.Event {
	e := mail.Event{Kind: kind, Service: s.handler.cfg.Service, Session: s.client.Session, Remote: s.client.Remote}
	if s.client.Identity != nil {
		e.Login, e.Mechanism, e.Verifier = s.client.Identity.Authentication, s.client.Identity.Mechanism, s.client.Identity.Verifier
	}
	if s.client.TLS != nil {
		e.TLS = s.client.TLS.Version
	}
	return e
}

// keys returns the log keys of the session, followed by more.
func (s *session) keys(more ...any) []any {
	keys := append(make([]any, 0, 12+len(more)),
		"sid", s.client.Session, "listener", s.client.Listener, "remote", s.client.Peer(), "helo", s.client.Helo)
	if s.client.TLS != nil {
		keys = append(keys, "tls", s.client.TLS.Version)
	}
	if s.client.Identity != nil {
		keys = append(keys, "login", s.client.Identity.Authentication)
	}
	return append(keys, more...)
}
