package authn

import (
	"context"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/hashicorp/go-hclog"
	"golang.org/x/sync/singleflight"

	"github.com/postern-mail/postern/authn/lockout"
	"github.com/postern-mail/postern/mail"
	"github.com/postern-mail/postern/status"
)

// Link is one verifier of a chain.
type Link struct {
	Verifier Verifier
	// Accounts, when not nil, maps the login to its account before the
	// verifier is asked: the verifier gets the account's name, and disabled
	// accounts do not log in. A login without an account is not this link's.
	Accounts Accounts
	// FindsAccounts tells that the verifier looks in Accounts itself: it gets
	// the login as it was typed.
	FindsAccounts bool
	// Takes tells which attempts are this link's; nil for all.
	Takes func(Attempt) bool
	// Unguessable says that nobody can find passwords of this link by trying:
	// it is asked before all others, whoever has to wait because of wrong
	// passwords, and what it says of an attempt that it takes is final.
	Unguessable bool
	// Impersonates says that the verifier decides whom somebody may act as.
	Impersonates bool
	// Apart says that the logins here are not those of the other links: what is
	// wrong for one of them may be right for a person of the same name. So it
	// is not remembered as wrong, and what is wrong elsewhere is asked here.
	Apart bool
	// Recall, when not nil, remembers which passwords were right.
	Recall Recall
	// RecalledAs is the verifier's name to Recall; "" for its own. PerService
	// says that it decides by the service and the client's address as well.
	RecalledAs string
	PerService bool
	// Additional says that the passwords here stand beside those of the
	// verifiers after this one, like passwords for applications: a wrong one
	// is asked on. By default it is a definite no.
	Additional bool
}

// Chain asks verifiers in order. It is itself a Verifier. Safe for concurrent
// use.
type Chain struct {
	cfg      Config
	links    []Link
	audit    Auditor
	log      hclog.Logger
	slots    chan struct{}
	inFlight singleflight.Group
	memory   *lockout.Memory
	secret   [32]byte // of inFlight's keys
}

// New returns a chain over links, which are asked in the order given.
func New(cfg Config, links []Link, audit Auditor, log hclog.Logger) (*Chain, error) {
	if len(links) == 0 {
		return nil, errNoVerifiers
	}
	cfg = cfg.withDefaults()
	if cfg.Timeout < 0 || cfg.Concurrency < 0 {
		return nil, errors.New("authn: timeout and concurrency must not be negative")
	}
	c := &Chain{
		cfg: cfg, links: links, audit: audit, log: log,
		slots:  make(chan struct{}, cfg.Concurrency),
		memory: cfg.Memory,
	}
	rand.Read(c.secret[:])
	if c.memory == nil {
		var err error
		if c.memory, err = lockout.New(lockout.Config{}, c.secret[:], nil, nil, log); err != nil {
			return nil, err
		}
	}
	return c, nil
}

// Name implements Verifier.
func (c *Chain) Name() string { return "chain" }

// Verify decides one attempt and records it in the audit. The error is always
// a *status.Error: AuthFailed for a definite no, AuthorizationDenied when the
// client is who it says but wants to act as somebody else, PasswordExpired when
// the password is right and no longer good, AuthTooMany when a
// budget is used up, AuthTemporary when it cannot be known. It blocks for at most
// Config.Timeout plus one beat. When several equal attempts run at once, one
// of them asks and all get its answer.
func (c *Chain) Verify(ctx context.Context, a Attempt) (mail.Identity, error) {
	began := time.Now()
	var identity mail.Identity
	login, refused := canonicalAttempt(a)
	if refused == nil {
		a.Login = login
		identity, refused = c.decide(ctx, a)
	}
	c.record(a, identity, refused, time.Since(began))
	if refused != nil {
		c.waitForBeat(ctx, began)
		return mail.Identity{}, refused
	}
	identity.Mechanism = a.Mechanism
	return identity, nil
}

// canonicalAttempt refuses what no verifier may see.
func canonicalAttempt(a Attempt) (login string, err error) {
	login, err = CanonicalLogin(a.Login)
	if err == nil {
		err = CheckPassword(a.Password)
	}
	if err != nil {
		return "", status.New(status.AuthFailed, err)
	}
	return login, nil
}

// decide has one of several equal attempts decided.
func (c *Chain) decide(ctx context.Context, a Attempt) (mail.Identity, error) {
	// What a verifier answers may depend on the service and on where the
	// client is (PAM), so only attempts equal in these share an answer.
	answer, err, _ := c.inFlight.Do(c.flight(a), func() (any, error) {
		// Others wait for this answer: it must not end with this client.
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), c.cfg.Timeout)
		defer cancel()
		if identity, decided, err := c.askUnguessable(ctx, a); decided {
			return identity, err
		}
		return c.admitAndAsk(ctx, a)
	})
	return answer.(mail.Identity), err
}

// flight stands for an attempt without showing its password.
func (c *Chain) flight(a Attempt) string {
	mac := hmac.New(sha256.New, c.secret[:])
	for _, part := range []string{a.Login, a.Password, a.Service, a.Authorization, a.Remote.Addr().String()} {
		mac.Write([]byte(part))
		mac.Write([]byte{0}) // which none of the first two holds
	}
	return string(mac.Sum(nil))
}

// ask walks the chain: yes wins and ends it, a definite no ends it unless the
// link is additional, and a no counts only when every verifier that was asked
// could answer.
func (c *Chain) ask(ctx context.Context, a Attempt, said *answers) (mail.Identity, error) {
	select {
	case c.slots <- struct{}{}:
		defer func() { <-c.slots }()
	case <-ctx.Done():
		return mail.Identity{}, status.New(status.AuthTemporary, fmt.Errorf("waiting for a free slot: %w", ctx.Err()))
	}
	asked := false
	for _, link := range c.links {
		if link.Unguessable || link.Takes != nil && !link.Takes(a) {
			continue
		}
		asked = true
		identity, err := c.askLink(ctx, link, a, said)
		if err == nil {
			return identity, nil
		}
		if isUnknown(err) {
			c.log.Warn("verifier cannot answer", "verifier", link.Verifier.Name(), "login", a.Login, "err", err)
		}
		if said.add(link, err) {
			break
		}
	}
	if !asked {
		return mail.Identity{}, status.New(status.AuthFailed, errNotTaken)
	}
	return mail.Identity{}, said.refusal()
}

// errNotTaken is about passwords that are no good for a service whatever they
// are: nothing is learned from them.
var errNotTaken = errors.New("no verifier takes such passwords for this service")

// answers are what the links of a chain said to one attempt before a yes.
type answers struct {
	trace   []string
	refused error // the last that was known and no yes
	unknown bool  // somebody could not answer
	apart   bool  // refused is of a link with logins of its own
	// right: the password was, and it was us who refused the account.
	right bool
	// version of the password of the first account that was found, as it was
	// before its verifier was asked.
	version lockout.Version
	found   bool
}

// add takes in an answer that is no yes, and reports whether it ends the chain.
func (s *answers) add(link Link, err error) (final bool) {
	s.trace = append(s.trace, link.Verifier.Name()+": "+err.Error())
	switch {
	case isUnknown(err):
		s.unknown = true
	case !isNotMine(err):
		s.refused, s.apart = err, link.Apart
		s.right = s.right || errors.Is(err, ErrRightButRefused)
		return !link.Additional || status.Of(err) != status.AuthFailed || isAboutAccount(err)
	}
	return false
}

// refusal is what the answers amount to.
func (s *answers) refusal() error {
	cause := errors.New(strings.Join(s.trace, "; "))
	reason := status.Of(s.refused)
	switch {
	case reason == status.AuthTooMany:
		return status.New(reason, cause)
	case s.unknown:
		return status.New(status.AuthTemporary, cause)
	case s.refused == nil:
		return status.New(status.AuthFailed, fmt.Errorf("%w: %w", ErrUnknownLogin, cause))
	case reason == status.AuthorizationDenied:
		return status.New(reason, cause)
	case reason == status.PasswordExpired: // which only who knows the password is told
		return status.New(reason, fmt.Errorf("%w: %w", ErrRefused, cause))
	case isAboutAccount(s.refused):
		return status.New(status.AuthFailed, fmt.Errorf("%w: %w", ErrRefused, cause))
	}
	return status.New(status.AuthFailed, cause)
}

// askLink asks one verifier, about the account instead of the login where the
// link has accounts.
func (c *Chain) askLink(ctx context.Context, link Link, a Attempt, said *answers) (mail.Identity, error) {
	if link.Accounts == nil {
		identity, err := c.recallOrVerify(ctx, link, a, a.Login, mail.Account{Name: a.Login})
		if err != nil {
			return mail.Identity{}, err
		}
		return authorized(ctx, link, identity, a.Login, a.Authorization)
	}
	account, err := link.Accounts.Account(ctx, a.Login)
	if err != nil {
		return mail.Identity{}, fmt.Errorf("find account: %w", err)
	}
	if !said.found {
		said.found, said.version = true, lockout.VersionOf(account.CredentialVersion)
	}
	typed := a.Login
	if !link.FindsAccounts {
		a.Login = account.Name
	}
	identity, err := c.recallOrVerify(ctx, link, a, typed, account)
	if err != nil {
		return mail.Identity{}, err
	}
	if identity, err = asAccount(ctx, link.Accounts, account, identity); err != nil {
		return mail.Identity{}, err
	}
	return authorized(ctx, link, identity, typed, a.Authorization)
}

// authorized completes an identity that a link vouches for.
func authorized(ctx context.Context, link Link, identity mail.Identity, typed, wanted string) (mail.Identity, error) {
	if identity.Authentication == "" {
		return mail.Identity{}, errors.New("verifier named no identity")
	}
	if !link.Impersonates {
		if err := authorize(ctx, link.Accounts, identity, typed, wanted); err != nil {
			return mail.Identity{}, err
		}
	}
	identity.Authorization = identity.Authentication
	identity.Verifier = link.Verifier.Name()
	return identity, nil
}

// authorize checks that wanted, the authorization identity, is but another
// name of the account that authenticated: acting for others is not a matter of
// login names, but of what the directory grants.
func authorize(ctx context.Context, accounts Accounts, identity mail.Identity, typed, wanted string) error {
	if wanted == "" {
		return nil
	}
	wanted, err := CanonicalLogin(wanted)
	if err != nil {
		return status.New(status.AuthorizationDenied, err)
	}
	if wanted == typed || wanted == identity.Authentication {
		return nil
	}
	if accounts != nil {
		account, err := accounts.Account(ctx, wanted)
		if err != nil && status.Of(err) != status.NoSuchUser {
			return fmt.Errorf("find account of authorization identity: %w", err)
		}
		if err == nil && account.Name == identity.Authentication {
			return nil
		}
	}
	return status.Errorf(status.AuthorizationDenied, "%s may not act as %q", identity.Authentication, wanted)
}

// asAccount puts the account's canonical name in the place of the verifier's
// and refuses disabled accounts. Only here, after the password was checked, so
// that a disabled account costs what any other costs.
func asAccount(ctx context.Context, accounts Accounts, account mail.Account, identity mail.Identity) (mail.Identity, error) {
	if identity.Authentication != account.Name {
		var err error
		if account, err = accounts.Account(ctx, identity.Authentication); err != nil {
			return mail.Identity{}, fmt.Errorf("find account of verified identity: %w", err)
		}
	}
	if account.Disabled {
		return mail.Identity{}, status.Errorf(status.AuthFailed, "account is disabled in the directory: %w", ErrRightButRefused)
	}
	identity.Authentication, identity.Source = account.Name, account.Source
	return identity, nil
}

func isNo(err error) bool {
	switch status.Of(err) {
	case status.AuthFailed, status.AccountDisabled, status.AuthorizationDenied, status.PasswordExpired:
		return true
	}
	return false
}

func isNotMine(err error) bool {
	return errors.Is(err, ErrUnknownLogin) || status.Of(err) == status.NoSuchUser
}

// isUnknown reports whether a verifier could not answer.
func isUnknown(err error) bool {
	return !isNo(err) && !isNotMine(err) && status.Of(err) != status.AuthTooMany
}

// isAboutAccount reports whether a refusal leaves open whether the password
// was right.
func isAboutAccount(err error) bool {
	return status.Of(err) == status.AccountDisabled || errors.Is(err, ErrRefused)
}

// waitForBeat returns at the next multiple of the beat since began, or when
// the client is gone.
func (c *Chain) waitForBeat(ctx context.Context, began time.Time) {
	if c.cfg.FailureBeat < 0 {
		return
	}
	beat := time.NewTimer(c.cfg.FailureBeat - time.Since(began)%c.cfg.FailureBeat)
	defer beat.Stop()
	select {
	case <-beat.C:
	case <-ctx.Done():
	}
}

// record writes the audit event of an attempt.
func (c *Chain) record(a Attempt, identity mail.Identity, err error, took time.Duration) {
	c.recordDetailed(a, identity, err, took, "")
}

// recordDetailed is record with what a mechanism knows beside the login.
func (c *Chain) recordDetailed(a Attempt, identity mail.Identity, err error, took time.Duration, known string) {
	event := mail.Event{
		Kind: mail.EventAuth, Result: "ok", Reason: status.AuthOK.String(),
		Service: a.Service, Session: a.Session, Remote: a.Remote,
		Login: clip(a.Login), Mechanism: a.Mechanism, Verifier: identity.Verifier, Duration: took,
	}
	if err != nil {
		reason := status.Of(err)
		event.Result, event.Reason, event.Detail = "refused", reason.String(), clip(err.Error())
		if reason == status.AuthTemporary {
			event.Result = "unknown"
		}
	} else {
		event.Detail = told(a, identity)
	}
	if known != "" && event.Detail != "" {
		event.Detail = clip(known) + ": " + event.Detail
	} else if known != "" {
		event.Detail = clip(known)
	}
	c.audit.Record(event)
}

// clip bounds what a stranger can write into the audit.
func clip(s string) string {
	const most = 512
	if len(s) <= most {
		return s
	}
	return strings.ToValidUTF8(s[:most], "") + "..."
}
