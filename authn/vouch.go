package authn

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"time"

	"github.com/postern-mail/postern/authn/lockout"
	"github.com/postern-mail/postern/mail"
	"github.com/postern-mail/postern/status"
)

// What a mechanism vouches by. They stand as Identity.Verifier in logs and
// audit when no verifier of the chain was asked.
const (
	ByCertificate = "certificate"
	ByToken       = "oauth"
	ByKerberos    = "gssapi"
	BySCRAM       = "scram"
	ByCRAM        = "cram-md5"
)

// Vouched is a login that a mechanism has proven without showing a password to
// a verifier, or has failed to prove.
type Vouched struct {
	// Login is whom the mechanism names, in any spelling.
	Login string
	// Authorization is whom the client wants to act as, as in Attempt.
	Authorization string
	Mechanism     string // SASL mechanism name
	Service       string
	Session       mail.SessionID
	Remote        netip.AddrPort
	// By tells what the proof is, ByCertificate and its like.
	By string
	// Accounts is where Login is looked up; nil for the accounts of the links
	// in their order.
	Accounts Accounts
	// Held is the secret the proof was made from; nil when the proof is not
	// from the verifiers. It decides whose login Login is.
	Held *Held
	// Detail tells the audit what was shown: the subject of a certificate, the
	// issuer of a token. Never a secret.
	Detail string
}

// guessable tells whether the proof comes from a password, which strangers can
// guess at: only then do failures count against the login. Whoever sends a
// wrong token for somebody keeps nobody from logging in.
func (v Vouched) guessable() bool { return v.By == BySCRAM || v.By == ByCRAM }

// attempt is how the audit and the memories see it.
func (v Vouched) attempt() Attempt {
	return Attempt{
		Login: v.Login, Authorization: v.Authorization, Mechanism: v.Mechanism,
		Service: v.Service, Session: v.Session, Remote: v.Remote,
	}
}

// Vouch takes in a login that is proven and records it in the audit. Its
// account has to be there and not disabled, and it may act as itself only, as
// with Verify, whose errors it has. An account that cannot be looked up is
// AuthTemporary: the login may be somebody else's in a directory further down.
func (c *Chain) Vouch(ctx context.Context, v Vouched) (mail.Identity, error) {
	began := time.Now()
	login, err := CanonicalLogin(v.Login)
	if err != nil {
		err = status.New(status.AuthFailed, err)
	} else {
		v.Login = login
	}
	var identity mail.Identity
	if err == nil {
		identity, err = c.vouch(ctx, v)
	}
	if err != nil {
		return mail.Identity{}, c.refuse(ctx, v, err, began)
	}
	identity.Mechanism = v.Mechanism
	c.recordVouched(v, identity, nil, time.Since(began))
	return identity, nil
}

// Refuse records that a mechanism could not prove a login, counts it where
// guesses count, and returns at the beat what to answer: AuthFailed when cause
// is a *status.Error that says so, AuthTooMany when the budget of the login or
// the network is used up, and AuthTemporary for every other cause.
func (c *Chain) Refuse(ctx context.Context, v Vouched, cause error) error {
	began := time.Now()
	if login, err := CanonicalLogin(v.Login); err == nil {
		v.Login = login
	}
	if status.Of(cause) == status.AuthFailed {
		if full := c.full(v, began); full != nil {
			cause = full
		} else {
			c.strike(v, began)
		}
	}
	return c.refuse(ctx, v, cause, began)
}

func (c *Chain) refuse(ctx context.Context, v Vouched, cause error, began time.Time) error {
	switch {
	case isNo(cause), status.Of(cause) == status.AuthTooMany:
	case isNotMine(cause):
		cause = status.New(status.AuthFailed, fmt.Errorf("%w: %w", ErrUnknownLogin, cause))
	default:
		c.log.Warn("login cannot be decided", "by", v.By, "login", clip(v.Login), "err", cause)
		cause = status.New(status.AuthTemporary, cause)
	}
	c.recordVouched(v, mail.Identity{}, cause, time.Since(began))
	c.waitForBeat(ctx, began)
	return cause
}

// recordVouched writes the audit event of a proof.
func (c *Chain) recordVouched(v Vouched, identity mail.Identity, err error, took time.Duration) {
	c.recordDetailed(v.attempt(), identity, err, took, v.Detail)
}

// full refuses guesses beyond the budget, right or wrong.
func (c *Chain) full(v Vouched, now time.Time) error {
	if !v.guessable() {
		return nil
	}
	for _, login := range v.names() {
		if err := c.memory.Check(login, v.Remote.Addr(), now); err != nil {
			return err
		}
	}
	return nil
}

// strike counts a failed proof: for the login where it stands for a password,
// and for the network, which one proof is one failure of.
func (c *Chain) strike(v Vouched, now time.Time) {
	for i, login := range v.names() {
		t := lockout.Try{Login: login, Remote: v.Remote.Addr()}
		if i == 0 {
			c.memory.Strike(t, v.guessable(), now)
		} else if v.guessable() {
			c.memory.FailedAccount(login, t, now)
		}
	}
}

func (c *Chain) vouch(ctx context.Context, v Vouched) (mail.Identity, error) {
	if err := c.full(v, time.Now()); err != nil {
		return mail.Identity{}, err
	}
	ctx, cancel := context.WithTimeout(ctx, c.cfg.Timeout)
	defer cancel()
	identity := mail.Identity{Authentication: v.Login, Verifier: v.By}
	accounts, err := c.accountOf(ctx, v, &identity)
	if err != nil {
		return mail.Identity{}, err
	}
	if err := authorize(ctx, accounts, identity, v.Login, v.Authorization); err != nil {
		return mail.Identity{}, err
	}
	identity.Authorization = identity.Authentication
	if v.guessable() {
		c.memory.Succeeded(lockout.Try{Login: v.Login, Remote: v.Remote.Addr()}, false, time.Now(), identity.Authentication)
	}
	return identity, nil
}

// accountOf completes an identity by the account it has, and returns the
// accounts this one is of; nil where none are kept.
func (c *Chain) accountOf(ctx context.Context, v Vouched, identity *mail.Identity) (Accounts, error) {
	if v.Held != nil && v.Held.chain != c {
		return nil, errors.New("the verifiers were replaced in mid-exchange")
	}
	if v.Held != nil {
		link := c.links[v.Held.link]
		if link.Takes != nil && !link.Takes(v.attempt()) {
			return nil, status.Errorf(status.AuthFailed, "passwords of %s are not for %s", link.Verifier.Name(), v.Service)
		}
		*identity = v.Held.identity
		identity.Verifier = link.Verifier.Name()
		if link.Accounts == nil {
			return nil, nil
		}
		return link.Accounts, c.complete(ctx, link.Accounts, identity.Authentication, identity)
	}
	if v.Accounts != nil {
		return v.Accounts, c.complete(ctx, v.Accounts, v.Login, identity)
	}
	asked := false
	for _, link := range c.links {
		if link.Accounts == nil {
			continue
		}
		asked = true
		err := c.complete(ctx, link.Accounts, v.Login, identity)
		if err == nil || !isNotMine(err) {
			return link.Accounts, err
		}
	}
	if asked {
		return nil, ErrUnknownLogin
	}
	return nil, nil
}

// complete finds the account of login and refuses a disabled one.
func (c *Chain) complete(ctx context.Context, accounts Accounts, login string, identity *mail.Identity) error {
	account, err := accounts.Account(ctx, login)
	if err != nil {
		return fmt.Errorf("find account: %w", err)
	}
	named := *identity
	named.Authentication = account.Name
	if named, err = asAccount(ctx, accounts, account, named); err == nil {
		*identity = named
	}
	return err
}

// names are under which an account's failures count: what was typed, and the
// account's own name where that is known.
func (v Vouched) names() []string {
	names := []string{v.Login}
	if v.Held != nil && v.Held.identity.Authentication != "" && v.Held.identity.Authentication != v.Login {
		names = append(names, v.Held.identity.Authentication)
	}
	return names
}
