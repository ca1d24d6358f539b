package authn

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/postern-mail/postern/authn/lockout"
	"github.com/postern-mail/postern/mail"
	"github.com/postern-mail/postern/status"
)

var errRepeated = errors.New("the same wrong password again")

// try is an attempt as the memory of failures knows it.
func (c *Chain) try(a Attempt) lockout.Try {
	t := lockout.Try{Login: a.Login, Password: a.Password, Remote: a.Remote.Addr()}
	if _, master, ok := CutMaster(a.Login, c.cfg.MasterSeparator); ok {
		t.Login = master
	}
	return t
}

// CutMaster splits what a master user types, "alice*admin", into the account
// and the master.
func CutMaster(login, separator string) (account, master string, ok bool) {
	if separator == "" {
		return "", "", false
	}
	i := strings.LastIndex(login, separator)
	if i <= 0 || i+len(separator) == len(login) {
		return "", "", false
	}
	return login[:i], login[i+len(separator):], true
}

// askUnguessable asks the links whose passwords cannot be found by trying.
// Their answer is final, so that no password for an application ever goes on
// to a directory, and nobody who guesses at an account keeps its programs out.
func (c *Chain) askUnguessable(ctx context.Context, a Attempt) (identity mail.Identity, decided bool, err error) {
	var said answers
	t := c.try(a)
	for _, link := range c.links {
		if !link.Unguessable || link.Takes != nil && !link.Takes(a) {
			continue
		}
		decided = true
		if identity, err = c.askLink(ctx, link, a, &said); err == nil {
			c.memory.Succeeded(t, false, time.Now(), identity.Authentication)
			return identity, true, nil
		}
		if said.add(link, err) {
			break
		}
	}
	if !decided {
		return mail.Identity{}, false, nil
	}
	err = said.refusal()
	if status.Of(err) == status.AuthFailed {
		c.memory.Strike(t, false, time.Now())
	}
	return mail.Identity{}, true, err
}

// admitAndAsk consults the memory, then the verifiers, and learns.
func (c *Chain) admitAndAsk(ctx context.Context, a Attempt) (mail.Identity, error) {
	t := c.try(a)
	if asOf, known := c.memory.Repeated(t, time.Now()); known {
		if err := c.refuseRepeated(ctx, a, asOf); err != nil {
			return c.askApart(ctx, a, t, err)
		}
	}
	done, err := c.memory.Admit(t, time.Now())
	if err != nil {
		return mail.Identity{}, err
	}
	defer done()
	var said answers
	identity, err := c.ask(ctx, a, &said)
	switch {
	case err == nil:
		c.memory.Succeeded(t, !identity.Remembered, time.Now(), identity.Authentication)
	case errors.Is(err, errNotTaken):
	case said.right:
		// Nothing was guessed, and the directory counts nothing either: whoever
		// went on trying is let in as soon as the account is enabled again.
	case status.Of(err) == status.AuthFailed:
		c.memory.Failed(t, said.failure(err), said.version, time.Now())
	}
	return identity, err
}

// askApart asks those links about a repeated password whose logins are not the
// ones that it was wrong for; refused is the answer where none says yes. The
// repeat is no new guess, so it does not count, but waits as any other.
func (c *Chain) askApart(ctx context.Context, a Attempt, t lockout.Try, refused error) (mail.Identity, error) {
	for _, link := range c.links {
		if !link.Apart || link.Takes != nil && !link.Takes(a) || c.memory.Check(t.Login, t.Remote, time.Now()) != nil {
			continue
		}
		if identity, err := c.askLink(ctx, link, a, &answers{}); err == nil {
			c.memory.Succeeded(t, false, time.Now(), identity.Authentication)
			return identity, nil
		}
	}
	return mail.Identity{}, refused
}

// failure is what a refusal says of the password.
func (s *answers) failure(err error) lockout.Failure {
	switch {
	case errors.Is(err, ErrRefused), s.apart:
		return lockout.Refused
	case errors.Is(err, ErrUnknownLogin):
		return lockout.Unknown
	}
	return lockout.Wrong
}

// refuseRepeated refuses a password that was wrong when the account's was of
// version asOf; nil when it is another by now and the old answer says nothing.
func (c *Chain) refuseRepeated(ctx context.Context, a Attempt, asOf lockout.Version) error {
	present, err := c.version(ctx, a.Login)
	switch {
	case err != nil:
		return status.New(status.AuthTemporary, fmt.Errorf("is the password still wrong: %w", err))
	case present != asOf:
		return nil
	}
	return status.New(status.AuthFailed, errRepeated)
}

// version is that of the password of the first account that has the login; 0
// when no directory tells.
func (c *Chain) version(ctx context.Context, login string) (lockout.Version, error) {
	for _, link := range c.links {
		if link.Accounts == nil || link.Unguessable {
			continue
		}
		account, err := link.Accounts.Account(ctx, login)
		if err == nil {
			return lockout.VersionOf(account.CredentialVersion), nil
		}
		if !isNotMine(err) {
			return 0, err
		}
	}
	return 0, nil
}

// verifyAccount asks the verifier, within the bounds of the account, which hold
// over all names that the account has. Where another verifier is asked after a
// wrong password, that one's answer counts.
func (c *Chain) verifyAccount(ctx context.Context, link Link, a Attempt, typed string, account mail.Account) (mail.Identity, error) {
	if account.Name == typed || link.Additional || link.Unguessable { // admitted under that name already
		return link.Verifier.Verify(ctx, a)
	}
	t := lockout.Try{Login: account.Name, Password: a.Password, Remote: a.Remote.Addr()}
	done, err := c.memory.Reserve(account.Name, t, time.Now())
	if err != nil {
		return mail.Identity{}, err
	}
	defer done()
	identity, err := link.Verifier.Verify(ctx, a)
	if err != nil && isNo(err) {
		c.memory.FailedAccount(account.Name, t, time.Now())
	}
	return identity, err
}

// told is what the audit is told of a yes beside the login.
func told(a Attempt, identity mail.Identity) string {
	var parts []string
	if identity.Authentication != a.Login {
		parts = append(parts, "identity "+identity.Authentication)
	}
	if identity.Master != "" {
		parts = append(parts, "by master user "+identity.Master)
	}
	if identity.App != "" {
		parts = append(parts, "app password "+identity.App)
	}
	if identity.Remembered {
		parts = append(parts, "remembered")
	}
	return strings.Join(parts, ", ")
}
