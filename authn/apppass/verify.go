package apppass

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/postern-mail/postern/authn"
	"github.com/postern-mail/postern/mail"
	"github.com/postern-mail/postern/status"
)

// services are those that a protocol stands for.
var services = map[string][]string{
	"smtp":        {"smtp", "submission", "submissions"},
	"imap":        {"imap", "imaps"},
	"pop3":        {"pop3", "pop3s"},
	"managesieve": {"managesieve", "sieve"},
}

// Protocols names what a password can be for, sorted.
func Protocols() []string { return []string{"imap", "managesieve", "pop3", "smtp"} }

// IsProtocol reports whether a service is of one of protocols.
func IsProtocol(protocols []string, service string) bool {
	for _, name := range protocols {
		if name == service || slices.Contains(services[name], service) {
			return true
		}
	}
	return false
}

// Verifier verifies passwords of the accounts of one directory. Safe for
// concurrent use.
type Verifier struct {
	passwords *Passwords
	source    string
}

// Verifier returns what verifies the accounts of a directory, "" for accounts
// that no directory knows.
func (p *Passwords) Verifier(source string) *Verifier { return &Verifier{p, source} }

// Name implements authn.Verifier.
func (v *Verifier) Name() string { return "app-passwords" }

// Takes reports whether an attempt is to be decided here, for
// authn.Link.Takes.
func (v *Verifier) Takes(a authn.Attempt) bool { return HasForm(a.Password) }

var (
	errWrong   = errors.New("no app password of this account")
	errExpired = errors.New("the app password has expired")
)

// Verify implements authn.Verifier. It blocks on nothing.
func (v *Verifier) Verify(_ context.Context, a authn.Attempt) (mail.Identity, error) {
	pw, err := v.passwords.use(v.source, a, time.Now())
	if err != nil {
		return mail.Identity{}, status.New(status.AuthFailed, err)
	}
	app := pw.ID
	if pw.Label != "" {
		app += " (" + pw.Label + ")"
	}
	return mail.Identity{Authentication: a.Login, App: app}, nil
}

// use finds the password of an attempt and notes its use.
func (p *Passwords) use(source string, a authn.Attempt, now time.Time) (Password, error) {
	secret, ok := plain(a.Password)
	if !ok {
		return Password{}, errWrong
	}
	d := p.digestOf(secret)
	p.mu.Lock()
	defer p.mu.Unlock()
	k, found := p.byDigest[d]
	if !found || k.Account != a.Login || k.Source != source {
		return Password{}, errWrong
	}
	if err := k.admits(a, now); err != nil {
		return Password{}, err
	}
	from := a.Remote.Addr().Unmap()
	if from != k.LastFrom || now.Sub(k.LastUsed) >= writeEvery {
		k.LastUsed, k.LastFrom = now.UTC().Truncate(time.Second), from
		p.used[k] = struct{}{}
	}
	return k.Password, nil
}

// admits holds an attempt against the limits of a password.
func (pw Password) admits(a authn.Attempt, now time.Time) error {
	if !pw.Expires.IsZero() && !now.Before(pw.Expires) {
		return fmt.Errorf("%w: %s on %s", errExpired, pw.ID, pw.Expires.UTC().Format(time.DateOnly))
	}
	if len(pw.Protocols) > 0 && !IsProtocol(pw.Protocols, a.Service) {
		return fmt.Errorf("app password %s is not for %s", pw.ID, a.Service)
	}
	from := a.Remote.Addr().Unmap().WithZone("")
	for _, n := range pw.Networks {
		if n.Contains(from) {
			return nil
		}
	}
	if len(pw.Networks) > 0 {
		return fmt.Errorf("app password %s is not for %s", pw.ID, from)
	}
	return nil
}
