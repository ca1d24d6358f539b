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
	accepted int        // messages
	refused  int        // commands and messages
	phase    mail.Phase // how far the client came
}

// NewSession implements smtp.Handler.
func (h *Handler) NewSession(ctx context.Context, client *mail.Client) (smtp.Session, error) {
	s := &session{handler: h, client: client, policy: h.deps.Policy.Session(), began: time.Now()}
	h.deps.Audit.Record(s.event(mail.EventConnect))
	h.count.sessionBegins()
	if err := s.ask(ctx, &mail.Transaction{Client: *client, Phase: mail.PhaseConnect, Started: s.began}); err != nil {
		return s, err // it is told no command any more, but its end
	}
	return s, nil
}

// ask puts a command that has no transaction yet to the chain.
func (s *session) ask(ctx context.Context, tx *mail.Transaction) error {
	d := s.evaluate(ctx, tx)
	if d.Refused {
		s.refused++
		return policy.Error(d)
	}
	return nil
}

// evaluate asks the chain, and tells who looks on.
func (s *session) evaluate(ctx context.Context, tx *mail.Transaction) mail.Decision {
	d := s.policy.Evaluate(ctx, tx)
	if s.handler.deps.Walked != nil {
		s.handler.deps.Walked(tx, s.policy.Steps(), d)
	}
	return d
}

// Helo implements smtp.Session.
func (s *session) Helo(ctx context.Context) error {
	s.phase = mail.PhaseHelo
	return s.ask(ctx, &mail.Transaction{Client: *s.client, Phase: mail.PhaseHelo, Started: time.Now()})
}

// Mechanisms implements smtp.Session.
func (s *session) Mechanisms() []string {
	if s.handler.deps.Authn == nil {
		return nil
	}
	return s.handler.deps.Authn.Mechanisms(s.client)
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
	s.phase = mail.PhaseMail
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
		s.policy.Abort()
		return nil, err
	}
	t.quota = s.allowance(ctx)
	return t, nil
}

// Verify implements smtp.Session: who exists is told to nobody who does not
// send mail.
func (s *session) Verify(context.Context, string) error {
	return status.New(status.NotVerified, nil)
}

// Unknown implements smtp.UnknownSession: filters may want to hear of it.
func (s *session) Unknown(ctx context.Context, line string) error {
	tx := &mail.Transaction{Client: *s.client, Phase: mail.PhaseConnect, Started: time.Now()}
	if s.client.Helo != "" {
		tx.Phase = mail.PhaseHelo
	}
	d := s.policy.Unknown(ctx, tx, line)
	if d.Refused {
		s.refused++
		return policy.Error(d)
	}
	return nil
}

// Close implements smtp.Session.
func (s *session) Close(cause error) {
	took := time.Since(s.began)
	reason, reached := "quit", ""
	if cause != nil {
		reason, reached = status.Of(cause).String(), s.phase.String()
	}
	s.policy.Close()
	e := s.event(mail.EventDisconnect)
	e.Reason, e.Duration, e.Phase = reason, took, reached
	if s.client.Dialogue != nil {
		said := s.client.Dialogue()
		e.Command, e.Commands = said.Last, said.Commands
	}
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
	e := mail.Event{
		Kind: kind, Service: s.handler.cfg.Service, Session: s.client.Session, Remote: s.client.Remote,
		Client: s.client.Hostname, Helo: s.client.Helo, Protocol: s.client.Protocol(),
	}
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
	if s.client.Via.IsValid() {
		keys = append(keys, "via", s.client.Via.String())
	}
	if s.client.TLS != nil {
		keys = append(keys, "tls", s.client.TLS.Version)
	}
	if s.client.Identity != nil {
		keys = append(keys, "login", s.client.Identity.Authentication)
	}
	return append(keys, more...)
}
