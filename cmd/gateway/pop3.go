package main

import (
	"context"
	"crypto/tls"

	"github.com/postern-mail/postern/authn"
	"github.com/postern-mail/postern/backend/pop3d"
	"github.com/postern-mail/postern/backend/sessions"
	"github.com/postern-mail/postern/config"
	"github.com/postern-mail/postern/mail"
	"github.com/postern-mail/postern/status"
)

func pop3Dialect(f *config.File, l *config.BackendListener, cert *tls.Config) pop3d.Config {
	d := l.POP3(f)
	d.TLS = cert
	return d
}

func (s *server) pop3Door(i int, cfg pop3d.Config) (door[pop3d.Config], error) {
	engine, err := pop3d.New(cfg, pop3d.Deps{
		Store: s.mailstore, Auth: pop3Logins{imapLogins{&s.current, i, s.audit}}, Accounts: mailboxes{&s.current}, Audit: s.audit,
		Sessions: s.sessions, Maildrops: s.maildrops,
	}, s.log.Named("pop3d"))
	if err == nil {
		s.drain.add(engine)
		s.members = append(s.members, mailMembers{engine, &s.current, backendDirectory})
	}
	return engine, err
}

// pop3Logins verifies logins of POP3 clients.
type pop3Logins struct{ imap imapLogins }

const servicePOP3 = "pop3"

// Mechanisms implements sessions.Authenticator.
func (l pop3Logins) Mechanisms(client *mail.Client) []string { return l.imap.Mechanisms(client) }

// Start implements sessions.Authenticator.
func (l pop3Logins) Start(ctx context.Context, mechanism string, client mail.Client) (sessions.Authentication, error) {
	m, err := l.imap.mechanisms(client)
	if err != nil {
		return nil, status.New(status.ConfigurationError, err)
	}
	return m.Start(ctx, mechanism, servicePOP3, client)
}

// Login implements sessions.Authenticator.
func (l pop3Logins) Login(ctx context.Context, login, password string, client mail.Client) (mail.Identity, error) {
	return l.imap.own().Verify(ctx, authn.Attempt{
		Login: login, Password: password, Mechanism: "USER", Service: servicePOP3, Session: client.Session, Remote: client.Remote,
	})
}
