package authn

import (
	"context"
	"errors"
	"fmt"

	"github.com/postern-mail/postern/mail"
	"github.com/postern-mail/postern/status"
)

// The forms of a stored password that mechanisms other than PLAIN and LOGIN
// prove a login from.
const (
	FormSCRAMSHA256 = "SCRAM-SHA-256"
	FormSCRAMSHA1   = "SCRAM-SHA-1"
	FormCleartext   = "CLEARTEXT"
)

// Coverage is how many logins of a verifier have their password in a form.
type Coverage int

// The coverages, in order.
const (
	CoversNone Coverage = iota
	CoversSome
	CoversAll
)

// Credentials are a Verifier's that holds passwords in forms that a mechanism
// can prove a login from without being told the password. Implementations are
// safe for concurrent use.
type Credentials interface {
	// Covers tells how many logins have the form; a cleartext password is every
	// form. It is asked for every greeting and answers from memory.
	Covers(form string) Coverage
	// Example returns what is stored for some login in the form, always the
	// same one while nothing changes; "" for none. Logins that do not exist are
	// made to look like it.
	Example(form string) string
	// Stored returns who a login is, and its password in the form, or as
	// "{CLEARTEXT}..." where that is what is stored. ErrUnknownLogin for a
	// login that is not its own, ErrNoForm for one whose password is stored
	// in other forms only; other errors when it cannot know.
	Stored(ctx context.Context, login, form string) (mail.Identity, string, error)
}

// ErrNoForm tells that a password is stored, but not in the form asked for.
var ErrNoForm = errors.New("password is stored in another form")

// Held is the secret of one login.
type Held struct {
	// Stored is the secret, "{SCHEME}data"; "" when there is none for the
	// login, which the client must not be able to tell.
	Stored string
	// Why tells the audit why there is none.
	Why      error
	identity mail.Identity
	chain    *Chain // whose link it is
	link     int
}

// Known tells whether there is a secret.
func (h *Held) Known() bool { return h != nil && h.Stored != "" }

// Covers tells how many logins can prove themselves in a form: all, when every
// verifier has it for everybody.
func (c *Chain) Covers(form string) Coverage {
	least, most := CoversAll, CoversNone
	for _, link := range c.links {
		if !takesPasswords(link.Verifier) {
			continue
		}
		covers := CoversNone
		if held, ok := link.Verifier.(Credentials); ok {
			covers = held.Covers(form)
		}
		least, most = min(least, covers), max(most, covers)
	}
	if most == CoversNone {
		return CoversNone
	}
	return max(least, CoversSome)
}

// Passwordless is a Verifier's that takes no passwords: it stands in a chain
// for its Accounts.
type Passwordless interface{ Passwordless() }

func takesPasswords(v Verifier) bool {
	_, without := v.(Passwordless)
	return !without
}

// TakesPasswords tells whether PLAIN and LOGIN can succeed at all.
func (c *Chain) TakesPasswords() bool {
	for _, link := range c.links {
		if takesPasswords(link.Verifier) {
			return true
		}
	}
	return false
}

// Held finds the secret of a login, asking those verifiers in order that hold
// secrets. A login without one gives a Held that is not Known and no error. An
// error is a *status.Error with AuthFailed for what is no login, AuthTemporary
// when a verifier could not answer.
func (c *Chain) Held(ctx context.Context, login, form string) (*Held, error) {
	login, err := CanonicalLogin(login)
	if err != nil {
		return nil, status.New(status.AuthFailed, err)
	}
	ctx, cancel := context.WithTimeout(ctx, c.cfg.Timeout)
	defer cancel()
	for i, link := range c.links {
		held, err := heldBy(ctx, link, login, form)
		switch {
		case err == nil:
			held.chain, held.link = c, i
			return held, nil
		case errors.Is(err, ErrNoForm) && !link.Additional:
			// The password stored here decides: one further down is another
			// person's, or an older one.
			return &Held{Why: fmt.Errorf("%s: %w", link.Verifier.Name(), err)}, nil
		case isNo(err): // a disabled account, which the client must not be told
			return &Held{Why: fmt.Errorf("%s: %w", link.Verifier.Name(), err)}, nil
		case errors.Is(err, ErrNoForm), isNotMine(err):
		default:
			return nil, status.New(status.AuthTemporary, fmt.Errorf("%s: %w", link.Verifier.Name(), err))
		}
	}
	return &Held{Why: ErrUnknownLogin}, nil
}

// Example returns what a stored secret looks like here, for logins that have
// none; "" when nobody has one.
func (c *Chain) Example(form string) string {
	for _, link := range c.links {
		if held, ok := link.Verifier.(Credentials); ok {
			if stored := held.Example(form); stored != "" {
				return stored
			}
		}
	}
	return ""
}

// heldBy asks one link, about the account where it has accounts, as Verify
// does. The accounts of a verifier that holds no secrets are not those of the
// verifiers after it.
func heldBy(ctx context.Context, link Link, login, form string) (*Held, error) {
	holder, holds := link.Verifier.(Credentials)
	if !holds && !takesPasswords(link.Verifier) {
		return nil, ErrUnknownLogin
	}
	if link.Accounts != nil && !(holds && link.FindsAccounts) {
		account, err := link.Accounts.Account(ctx, login)
		if err != nil {
			return nil, fmt.Errorf("find account: %w", err)
		}
		if !holds {
			return nil, ErrNoForm
		}
		login = account.Name
	}
	if !holds {
		return nil, ErrUnknownLogin
	}
	identity, stored, err := holder.Stored(ctx, login, form)
	if err != nil {
		return nil, err
	}
	if identity.Authentication == "" || stored == "" {
		return nil, errors.New("verifier named no identity")
	}
	return &Held{Stored: stored, identity: identity}, nil
}
