package ldap

import (
	"context"
	"errors"
	"fmt"

	"github.com/postern-mail/postern/authn"
	"github.com/postern-mail/postern/mail"
	"github.com/postern-mail/postern/status"
)

// DefaultPasswordAttribute is where passwords are (RFC 4519 section 2.41).
const DefaultPasswordAttribute = "userPassword"

// Comparer has the server compare a password, as the service account.
// Implemented by directory/ldap.
type Comparer interface {
	// Compare is nil for the right password and a *status.Error with AuthFailed
	// for a wrong one. An entry that is not there is NoSuchUser, an outage
	// DirectoryDown; any other error says that the server would not compare.
	Compare(ctx context.Context, dn, attribute, password string) error
}

// Passwords reads stored passwords, as the service account. Implemented by
// directory/ldap.
type Passwords interface {
	// Passwords returns the values of an entry's attribute, of which there is
	// one at least. An entry that is not there is a *status.Error with
	// NoSuchUser, an outage DirectoryDown; any other error says that no password
	// is shown.
	Passwords(ctx context.Context, dn, attribute string) ([]string, error)
}

// NewComparer returns a verifier that asks for a comparison in the place of a
// bind. attribute is the one compared; "" for DefaultPasswordAttribute.
func NewComparer(cfg Config, logins Logins, comparer Comparer, attribute string) (*Verifier, error) {
	by := &comparing{comparer: comparer, attribute: attribute}
	if attribute == "" {
		by.attribute = DefaultPasswordAttribute
	}
	v, err := New(cfg, logins, by)
	if err != nil {
		return nil, err
	}
	by.filled, v.does = v.filled(), "compare"
	return v, nil
}

// comparing is a Binder that compares.
type comparing struct {
	comparer  Comparer
	attribute string
	filled    bool
}

// Bind implements Binder.
func (c *comparing) Bind(ctx context.Context, dn, password string) error {
	return absent(c.filled, c.comparer.Compare(ctx, dn, c.attribute, password))
}

// absent judges the error of a request about an entry's password. An entry that
// is not there is a login nobody has when a template made up its DN. One that a
// search found is there: then the server hides it, or it has just gone, and
// neither says that a password is wrong.
func absent(filled bool, err error) error {
	switch {
	case err == nil || status.Of(err) != status.NoSuchUser:
		return err
	case filled:
		return fmt.Errorf("%w: %w", authn.ErrUnknownLogin, err)
	}
	return status.Errorf(status.DirectoryDown, "the entry was found, but the server does not show it when asked for its password: does the service account need more rights? %w", err)
}

// Hashes hands out the password hashes that a directory stores, read anew for
// each attempt and never kept. It is a source for authn/file's Stored. Safe for
// concurrent use.
type Hashes struct {
	finder    *Verifier
	passwords Passwords
	attribute string
}

// NewHashes returns the hashes in an attribute; "" for DefaultPasswordAttribute.
// With a DN template logins is not asked and may be nil.
func NewHashes(cfg Config, logins Logins, passwords Passwords, attribute string) (*Hashes, error) {
	finder, err := New(cfg, logins, nil)
	if err != nil {
		return nil, err
	}
	if attribute == "" {
		attribute = DefaultPasswordAttribute
	}
	return &Hashes{finder: finder, passwords: passwords, attribute: attribute}, nil
}

// PasswordHashes returns the account of a login and its hashes. A login nobody
// has is a *status.Error with NoSuchUser. An entry that shows no password is an
// error without a reason: nobody knows whether it has one. With a template the
// account has a name and nothing else.
func (h *Hashes) PasswordHashes(ctx context.Context, login string) (mail.Account, []string, error) {
	dn, name, disabled, err := h.finder.find(ctx, login)
	if errors.Is(err, authn.ErrUnknownLogin) {
		return mail.Account{}, nil, status.New(status.NoSuchUser, err)
	}
	if err != nil {
		return mail.Account{}, nil, err
	}
	if dn == "" {
		return mail.Account{}, nil, errors.New("login has an entry without a DN")
	}
	values, err := h.passwords.Passwords(ctx, dn, h.attribute)
	if err = absent(h.finder.filled(), err); errors.Is(err, authn.ErrUnknownLogin) {
		return mail.Account{}, nil, status.New(status.NoSuchUser, err)
	}
	if err != nil {
		return mail.Account{}, nil, err
	}
	return mail.Account{Name: name, Disabled: disabled}, values, nil
}
