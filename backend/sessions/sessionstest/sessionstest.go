// Package sessionstest has what the tests of servers need whose clients log in:
// people with passwords, and an audit that remembers.
package sessionstest

import (
	"context"
	"io"
	"strings"
	"sync"

	"github.com/postern-mail/postern/backend/sessions"
	"github.com/postern-mail/postern/mail"
	"github.com/postern-mail/postern/status"
)

// Logins is a sessions.Authenticator over a fixed list of passwords. The login
// "down" meets an outage, "broken" an error that nobody classified, "held" a
// lockout, and "panic" a verifier that panics.
type Logins struct {
	Offer     []string          // mechanisms
	Passwords map[string]string // by login
}

// Mechanisms implements sessions.Authenticator.
func (l Logins) Mechanisms(*mail.Client) []string { return l.Offer }

// Start implements sessions.Authenticator. Whatever the mechanism, the exchange
// is that of PLAIN.
func (l Logins) Start(ctx context.Context, mechanism string, client mail.Client) (sessions.Authentication, error) {
	return Plain(func(login, password string) (mail.Identity, error) { return l.Login(ctx, login, password, client) }), nil
}

// Login implements sessions.Authenticator.
func (l Logins) Login(_ context.Context, login, password string, _ mail.Client) (mail.Identity, error) {
	switch {
	case login == "down":
		return mail.Identity{}, status.New(status.DirectoryDown, nil)
	case login == "broken":
		return mail.Identity{}, io.ErrUnexpectedEOF
	case login == "held":
		return mail.Identity{}, status.New(status.AuthTooMany, nil)
	case login == "panic":
		panic("verifier is broken")
	case l.Passwords[login] == "" || l.Passwords[login] != password:
		return mail.Identity{}, status.New(status.AuthFailed, nil)
	}
	return mail.Identity{Authentication: login, Authorization: login, Mechanism: "LOGIN", Verifier: "test"}, nil
}

// Plain is an exchange of PLAIN (RFC 4616) that has login decide.
func Plain(login func(login, password string) (mail.Identity, error)) sessions.Authentication {
	return &plain{login: login}
}

type plain struct {
	login    func(login, password string) (mail.Identity, error)
	identity mail.Identity
}

func (x *plain) Next(response []byte) ([]byte, bool, error) {
	if response == nil {
		return []byte{}, false, nil
	}
	parts := strings.Split(string(response), "\x00")
	if len(parts) != 3 {
		return nil, false, status.New(status.ParameterSyntax, nil)
	}
	var err error
	x.identity, err = x.login(parts[1], parts[2])
	return nil, err == nil, err
}

func (x *plain) Identity() mail.Identity { return x.identity }

// Recorder is a sessions.Auditor that remembers. Its methods may be called
// concurrently.
type Recorder struct {
	mu     sync.Mutex
	events []mail.Event
}

// Record implements sessions.Auditor.
func (r *Recorder) Record(e mail.Event) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.events = append(r.events, e)
}

// Find returns the events of a kind, in their order.
func (r *Recorder) Find(kind mail.EventKind) []mail.Event {
	r.mu.Lock()
	defer r.mu.Unlock()
	var found []mail.Event
	for _, e := range r.events {
		if e.Kind == kind {
			found = append(found, e)
		}
	}
	return found
}
