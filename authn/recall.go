package authn

import (
	"cmp"
	"context"
	"time"

	"github.com/postern-mail/postern/mail"
)

// Recall remembers which passwords a verifier said yes to. Implemented by
// authn/recall. A password that it does not know is for the verifier to judge:
// it never says no.
type Recall interface {
	// Fresh reports whether the password was right not long ago.
	Fresh(k Known, now time.Time) bool
	// Offline is asked when the verifier cannot answer, and reports whether
	// the password was right not too long ago for that. It may compute.
	Offline(ctx context.Context, k Known, now time.Time) bool
	// Right learns that the verifier said yes.
	Right(k Known, now time.Time)
	// Wrong learns that it said no: what is remembered of this very password
	// goes.
	Wrong(k Known)
}

// Known is a password of an account, as a Recall knows it.
type Known struct {
	Verifier, Source, Account string
	Version                   string // mail.Account.CredentialVersion
	Password                  string
}

// recallOrVerify asks the verifier about an account, unless it said yes to the
// same password before and that still holds.
func (c *Chain) recallOrVerify(ctx context.Context, link Link, a Attempt, typed string, account mail.Account) (mail.Identity, error) {
	if link.Recall == nil || account.Disabled {
		return c.verifyAccount(ctx, link, a, typed, account)
	}
	k := Known{Verifier: cmp.Or(link.RecalledAs, link.Verifier.Name()), Source: account.Source, Account: account.Name, Version: account.CredentialVersion, Password: a.Password}
	if link.PerService {
		k.Verifier += " for " + a.Service + " from " + a.Remote.Addr().Unmap().WithZone("").String()
	}
	remembered := mail.Identity{Authentication: account.Name, Remembered: true}
	if link.Recall.Fresh(k, time.Now()) {
		return remembered, nil
	}
	identity, err := c.verifyAccount(ctx, link, a, typed, account)
	switch {
	// Another identity than the account's is not remembered: it would have to
	// be looked up again.
	case err == nil && identity.Authentication == account.Name:
		link.Recall.Right(k, time.Now())
	case err != nil && isNo(err):
		link.Recall.Wrong(k)
	case err != nil && isUnknown(err) && !isNotMine(err) && link.Recall.Offline(ctx, k, time.Now()):
		c.log.Info("login by what the verifier said before, as it cannot answer", "verifier", k.Verifier, "login", a.Login, "err", err)
		return remembered, nil
	}
	return identity, err
}
