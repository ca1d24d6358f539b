package authn

import (
	"context"
	"errors"
	"fmt"
	"net/netip"

	"github.com/postern-mail/postern/mail"
)

// Limits on what a client may present. Nothing longer is ever looked up.
const (
	MaxLoginOctets    = 512
	MaxPasswordOctets = 1024
)

var (
	// ErrUnknownLogin is a verifier's answer for a login it knows nothing
	// about; the chain goes on to the next verifier.
	ErrUnknownLogin = errors.New("unknown login")
	// ErrRefused marks a refusal that is not about the password: an expired,
	// locked or disabled account. Wrapped inside an AuthFailed error it keeps
	// the chain from remembering a password that may be right.
	ErrRefused = errors.New("account refused")
	// ErrRightButRefused is ErrRefused for a password that was found right: it
	// is no failure that anybody counts.
	ErrRightButRefused = fmt.Errorf("%w, the password is right", ErrRefused)
)

// Attempt is one try to authenticate with a password. It prints without the
// password in every format.
type Attempt struct {
	// Login is what the client typed; a verifier gets it in canonical form,
	// or the name of the account when the chain looks accounts up.
	Login    string
	Password string
	// Authorization is whom the client wants to act as (RFC 4422 section
	// 3.4.1), "" for itself. The chain allows other names of the same account
	// and nothing else; verifiers need not look at it.
	Authorization string
	Mechanism     string // SASL mechanism name
	Service       string // "smtp", "submission", "imap", ...: for audit and PAM
	Session       mail.SessionID
	Remote        netip.AddrPort
}

// String describes the attempt without its password.
func (a Attempt) String() string {
	return "attempt of " + a.Login + " from " + a.Remote.String() + " for " + a.Service
}

// GoString is String, so that no verb prints the password.
func (a Attempt) GoString() string { return a.String() }

// Verifier knows whether a password is right. Implementations are safe for
// concurrent use and honour the deadline of ctx.
type Verifier interface {
	// Name is the verifier's name in configuration, logs and audit.
	Name() string
	// Verify answers with the canonical identity, a *status.Error with
	// AuthFailed for a definite no, ErrUnknownLogin for a login that is not
	// its own, or any other error when it cannot know. A repeat is safe, but
	// may count against the account in the directory.
	Verify(ctx context.Context, a Attempt) (mail.Identity, error)
}

// Accounts maps a login, a uid or an address, to its account. A login nobody
// has is a *status.Error with NoSuchUser, an outage one with DirectoryDown.
// Implemented by directory.
type Accounts interface {
	Account(ctx context.Context, login string) (mail.Account, error)
}

// Auditor keeps the record of attempts. Implemented by audit.
type Auditor interface {
	Record(mail.Event)
}
