package main

import (
	"context"
	"sync/atomic"

	"github.com/postern-mail/postern/authn"
	"github.com/postern-mail/postern/authn/sasl"
	"github.com/postern-mail/postern/backend/sessions"
	"github.com/postern-mail/postern/mail"
	"github.com/postern-mail/postern/policy"
	"github.com/postern-mail/postern/smtp"
	"github.com/postern-mail/postern/status"
)

// current is the generation in force. Rooms that live longer than one
// configuration ask through it, so that a reload reaches them at once.
type current struct{ atomic.Pointer[generation] }

// mailboxes answers the backend's questions with the directory in force.
type mailboxes struct{ *current }

// Account implements sessions.Accounts, which asks by the name that was verified.
func (m mailboxes) Account(ctx context.Context, name string) (mail.Account, error) {
	g := m.Load()
	account, err := g.sources[g.file.Backend.Directory].AccountNamed(ctx, name)
	return g.file.Backend.Limited(account), err
}

// AccountOf implements lmtpd.Accounts.
func (m mailboxes) AccountOf(ctx context.Context, a mail.Address) (mail.Account, error) {
	g := m.Load()
	account, err := g.sources[g.file.Backend.Directory].AccountOf(ctx, a)
	return g.file.Backend.Limited(account), err
}

// transport brings the queue's messages to where they go by the configuration
// in force.
type transport struct{ *current }

// Destination implements queue.Transport.
func (t transport) Destination(from mail.Address, to mail.Recipient) string {
	return t.Load().router.Destination(from, to)
}

// Deliver implements queue.Transport.
func (t transport) Deliver(ctx context.Context, d mail.Delivery) []mail.Outcome {
	return t.Load().router.Deliver(ctx, d)
}

// Direct implements queue.Direct.
func (t transport) Direct(destination string) bool { return t.Load().router.Direct(destination) }

// Concurrency implements queue.Limiter.
func (t transport) Concurrency(destination string) (initial, limit int) {
	return t.Load().router.Concurrency(destination)
}

// ourRecipients resolves senders of ours, who get reports.
type ourRecipients struct{ *current }

// Resolve implements queue.Recipients: nobody for an address elsewhere.
func (r ourRecipients) Resolve(ctx context.Context, a mail.Address) ([]mail.Recipient, error) {
	book := r.Load().addresses()
	if book.Class(a.Domain) != policy.Local {
		return nil, nil
	}
	return book.Resolve(ctx, a, nil)
}

// imapLogins verifies logins of IMAP clients.
type imapLogins struct {
	*current
	listener int // whose setting says whether passwords are offered without TLS
	audit    auditor
}

// own lets in people of the directory that the mailboxes are named by: the same
// name in another one is somebody else.
type own struct {
	verifiers *authn.Chain
	directory string
}

// Verify implements sasl.Verifier.
func (o own) Verify(ctx context.Context, a authn.Attempt) (mail.Identity, error) {
	identity, err := o.verifiers.Verify(ctx, a)
	return o.ours(identity, err)
}

// Vouch implements sasl.Verifier.
func (o own) Vouch(ctx context.Context, v authn.Vouched) (mail.Identity, error) {
	identity, err := o.verifiers.Vouch(ctx, v)
	return o.ours(identity, err)
}

// Refuse implements sasl.Verifier.
func (o own) Refuse(ctx context.Context, v authn.Vouched, cause error) error {
	return o.verifiers.Refuse(ctx, v, cause)
}

// TakesPasswords implements sasl.Verifier.
func (o own) TakesPasswords() bool { return o.verifiers.TakesPasswords() }

func (o own) ours(identity mail.Identity, err error) (mail.Identity, error) {
	if err == nil && identity.Source != "" && identity.Source != o.directory {
		err = status.Errorf(status.AuthorizationDenied, "%s of directory %s has no mailbox here", identity.Authentication, identity.Source)
	}
	if err != nil {
		return mail.Identity{}, err
	}
	return identity, nil
}

const serviceIMAP = "imap"

// mechanisms are those of one client, which may be a proxy.
func (l imapLogins) mechanisms(client mail.Client) (*sasl.Mechanisms, error) {
	g := l.Load()
	listener := g.file.Backend.Listeners[l.listener]
	return g.mechanisms(listener.SASL.Room(listener.InsecureAuth, g.file.Hostname), proxyVerifier{ownOf(g), g.fronts, client, l.audit}, listener.TLS)
}

func (l imapLogins) own() own { return ownOf(l.Load()) }

// ownOf is of one generation: an exchange that began with the secrets of one
// ends with its verifiers.
func ownOf(g *generation) own { return own{g.verifiers, g.file.Backend.Directory} }

// Mechanisms implements sessions.Authenticator.
func (l imapLogins) Mechanisms(client *mail.Client) []string {
	m, err := l.mechanisms(*client)
	if err != nil {
		return nil
	}
	return m.List(client)
}

// Start implements sessions.Authenticator.
func (l imapLogins) Start(ctx context.Context, mechanism string, client mail.Client) (sessions.Authentication, error) {
	m, err := l.mechanisms(client)
	if err != nil {
		return nil, status.New(status.ConfigurationError, err)
	}
	return m.Start(ctx, mechanism, serviceIMAP, client)
}

// Login implements sessions.Authenticator.
func (l imapLogins) Login(ctx context.Context, login, password string, client mail.Client) (mail.Identity, error) {
	return l.own().Verify(ctx, authn.Attempt{
		Login: login, Password: password, Mechanism: "LOGIN", Service: serviceIMAP,
		Session: client.Session, Remote: client.Remote,
	})
}

// smtpLogins offers the mechanisms of one generation to smtpd.
type smtpLogins struct{ sasl *sasl.Mechanisms }

// Mechanisms implements smtpd.Authenticator.
func (l smtpLogins) Mechanisms(client *mail.Client) []string { return l.sasl.List(client) }

// Start implements smtpd.Authenticator.
func (l smtpLogins) Start(ctx context.Context, mechanism, service string, client mail.Client) (smtp.Authentication, error) {
	return l.sasl.Start(ctx, mechanism, service, client)
}
