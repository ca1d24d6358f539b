// Package master verifies people who may act for others: a master user logs in
// with his own password as "alice*admin", or with "alice" as the authorization
// identity, and has alice's session. Each login is audited under both names.
//
// It also verifies recovery accounts, which are known when no directory
// answers: both have their passwords in a file of their own, and both can be
// bound to networks.
package master

import (
	"context"
	"errors"
	"fmt"
	"net/netip"

	"github.com/postern-mail/postern/authn"
	"github.com/postern-mail/postern/mail"
	"github.com/postern-mail/postern/status"
)

// Config of a Verifier.
type Config struct {
	// Separator stands between the account and the master user in a login; ""
	// takes only authorization identities.
	Separator string
	// Networks from which masters log in; none: all.
	Networks []netip.Prefix
}

// Verifier verifies master users. It decides by itself whom they act for, so
// its link has Impersonates and no Accounts. Safe for concurrent use.
type Verifier struct {
	cfg      Config
	masters  authn.Verifier
	accounts authn.Accounts
}

// New returns a verifier of the masters that another verifier knows, who act
// for accounts.
func New(cfg Config, masters authn.Verifier, accounts authn.Accounts) (*Verifier, error) {
	if accounts == nil {
		return nil, errors.New("authn master: no directory whose accounts masters act for")
	}
	return &Verifier{cfg, masters, accounts}, nil
}

// Name implements authn.Verifier.
func (v *Verifier) Name() string { return "master" }

// Verify implements authn.Verifier. A login that names no master is not its
// own. A disabled account has no session, also for a master.
func (v *Verifier) Verify(ctx context.Context, a authn.Attempt) (mail.Identity, error) {
	account, name, explicit := authn.CutMaster(a.Login, v.cfg.Separator)
	if !explicit {
		if account, name = a.Authorization, a.Login; account == "" {
			return mail.Identity{}, authn.ErrUnknownLogin
		}
	} else if a.Authorization != "" && a.Authorization != account && a.Authorization != a.Login {
		return mail.Identity{}, status.Errorf(status.AuthorizationDenied, "two accounts are named")
	}
	if !contains(v.cfg.Networks, a.Remote.Addr()) {
		if !explicit { // it may be somebody's own name
			return mail.Identity{}, authn.ErrUnknownLogin
		}
		return mail.Identity{}, status.Errorf(status.AuthFailed, "master user %s from %s, which is not among the networks: %w", name, a.Remote.Addr(), authn.ErrRefused)
	}
	account, err := authn.CanonicalLogin(account)
	if err != nil {
		return mail.Identity{}, status.New(status.AuthFailed, err)
	}
	own := a
	own.Login, own.Authorization = name, ""
	identity, err := v.masters.Verify(ctx, own)
	if errors.Is(err, authn.ErrUnknownLogin) && explicit {
		return mail.Identity{}, status.Errorf(status.AuthFailed, "there is no master user %s", name)
	}
	if err != nil {
		return mail.Identity{}, err
	}
	return v.actFor(ctx, identity.Authentication, account)
}

// actFor is asked once the master's password is known to be right.
func (v *Verifier) actFor(ctx context.Context, name, login string) (mail.Identity, error) {
	account, err := v.accounts.Account(ctx, login)
	switch {
	case status.Of(err) == status.NoSuchUser:
		return mail.Identity{}, status.Errorf(status.AuthorizationDenied, "master user %s wants to act for %q, who is not there", name, login)
	case err != nil:
		return mail.Identity{}, fmt.Errorf("find the account that master user %s acts for: %w", name, err)
	case account.Disabled:
		return mail.Identity{}, status.Errorf(status.AuthorizationDenied, "master user %s wants to act for %s, who is disabled", name, account.Name)
	}
	return mail.Identity{Authentication: account.Name, Source: account.Source, Master: name}, nil
}

func contains(networks []netip.Prefix, a netip.Addr) bool {
	a = a.Unmap().WithZone("")
	for _, n := range networks {
		if n.Contains(a) {
			return true
		}
	}
	return len(networks) == 0
}

// Recovery verifies accounts that no directory knows, from some networks. Safe
// for concurrent use.
type Recovery struct {
	networks []netip.Prefix
	accounts authn.Verifier
}

// NewRecovery returns a verifier of the accounts that another one knows, for
// clients in networks; none: all.
func NewRecovery(networks []netip.Prefix, accounts authn.Verifier) *Recovery {
	return &Recovery{networks, accounts}
}

// Name implements authn.Verifier.
func (r *Recovery) Name() string { return "recovery" }

// Verify implements authn.Verifier. From other networks nobody has the login.
func (r *Recovery) Verify(ctx context.Context, a authn.Attempt) (mail.Identity, error) {
	if !contains(r.networks, a.Remote.Addr()) {
		return mail.Identity{}, authn.ErrUnknownLogin
	}
	return r.accounts.Verify(ctx, a)
}
