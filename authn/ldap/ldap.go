// Package ldap verifies passwords by binding to an LDAP directory (RFC 4513
// section 5.1.3): as the DN a template makes of the login, or as the one a
// search finds for it. What the directory refuses is a definite no; a directory
// that cannot be asked is not known.
//
// Where people cannot bind, the service account asks the server to compare
// (NewComparer), or reads the stored hashes, which another verifier checks
// (Hashes).
//
// Connections, searches and the meaning of result codes are left to the
// directory room, behind Logins and Binder.
package ldap

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/postern-mail/postern/authn"
	"github.com/postern-mail/postern/mail"
	"github.com/postern-mail/postern/status"
)

// Logins finds who a login is. Implemented by directory.
type Logins interface {
	// FindLogin returns the DN and the account of a login, a uid or an
	// address. A login nobody has is a *status.Error with NoSuchUser, one
	// that two entries have AddressAmbiguous, an outage DirectoryDown.
	FindLogin(ctx context.Context, login string) (dn string, account mail.Account, err error)
}

// Binder binds as somebody. Implemented by directory/ldap.
type Binder interface {
	// Bind checks a password. A wrong one is a *status.Error with AuthFailed,
	// an account that is locked or expired one with AccountDisabled: then the
	// password may be right. An outage is DirectoryDown.
	Bind(ctx context.Context, dn, password string) error
}

// Config of a Verifier.
type Config struct {
	// Name of the verifier in logs and audit; default "ldap".
	Name string
	// DNTemplate makes the DN to bind as out of the login, which saves the
	// search: "uid={local},ou=people,dc=example,dc=com". {login} is what was
	// typed, {local} and {domain} the parts before and after its last
	// at-sign. Default: search for the login, then bind as what was found.
	DNTemplate string
	// Domains are those whose addresses a template with {local} but without
	// {domain} takes as logins; an address in another domain is somebody
	// else's. Default: none, only logins without a domain.
	Domains []mail.Domain
}

// Verifier verifies by bind, or by comparison. Safe for concurrent use.
type Verifier struct {
	cfg      Config
	template template
	logins   Logins
	binder   Binder
	does     string // what the binder does, for errors
}

// New returns a verifier. With a DN template logins is not asked and may be
// nil.
func New(cfg Config, logins Logins, binder Binder) (*Verifier, error) {
	if cfg.Name == "" {
		cfg.Name = "ldap"
	}
	v := &Verifier{cfg: cfg, logins: logins, binder: binder, does: "bind"}
	if cfg.DNTemplate == "" {
		if logins == nil {
			return nil, errors.New("authn ldap: neither a DN template nor a directory to search")
		}
		return v, nil
	}
	var err error
	if v.template, err = parseTemplate(cfg.DNTemplate); err != nil {
		return nil, fmt.Errorf("authn ldap: %w", err)
	}
	return v, nil
}

// Name implements authn.Verifier.
func (v *Verifier) Name() string { return v.cfg.Name }

// Verify implements authn.Verifier. After a search the identity is the
// account's name; with a template it is the login, or its local-part when the
// template uses only that.
func (v *Verifier) Verify(ctx context.Context, a authn.Attempt) (mail.Identity, error) {
	// RFC 4513 section 5.1.2: a bind without a password succeeds as nobody.
	// The chain refused it already, but here it would be a login.
	if err := authn.CheckPassword(a.Password); err != nil {
		return mail.Identity{}, status.New(status.AuthFailed, err)
	}
	dn, name, disabled, err := v.find(ctx, a.Login)
	if err != nil {
		return mail.Identity{}, err
	}
	if dn == "" {
		return mail.Identity{}, errors.New("login has an entry without a DN")
	}
	if err := v.binder.Bind(ctx, dn, a.Password); err != nil {
		return mail.Identity{}, fmt.Errorf("%s: %w", v.does, err)
	}
	if disabled {
		return mail.Identity{}, status.Errorf(status.AuthFailed, "account is disabled: %w", authn.ErrRightButRefused)
	}
	return mail.Identity{Authentication: name, Authorization: name}, nil
}

// find returns the DN to bind as and the canonical name.
func (v *Verifier) find(ctx context.Context, login string) (dn, name string, disabled bool, err error) {
	if v.filled() {
		dn, name, err = v.fill(login)
		return dn, name, false, err
	}
	dn, account, err := v.logins.FindLogin(ctx, login)
	if status.Of(err) == status.NoSuchUser {
		return "", "", false, authn.ErrUnknownLogin
	}
	if err != nil {
		return "", "", false, fmt.Errorf("find login: %w", err)
	}
	return dn, account.Name, account.Disabled, nil
}

// filled reports whether DNs are made by the template, which says nothing of
// whether there is such an entry.
func (v *Verifier) filled() bool { return v.cfg.DNTemplate != "" }

// fill makes the DN out of login, which is another verifier's when the
// template cannot stand for it.
func (v *Verifier) fill(login string) (dn, name string, err error) {
	local, domain := login, ""
	if at := strings.LastIndexByte(login, '@'); at >= 0 {
		local, domain = login[:at], login[at+1:]
	}
	name = login
	switch {
	case v.template.has("login"):
	case v.template.has("domain"):
		if domain == "" {
			return "", "", authn.ErrUnknownLogin
		}
	default:
		if domain != "" && !slices.Contains(v.cfg.Domains, mail.Domain(domain)) {
			return "", "", authn.ErrUnknownLogin
		}
		name = local
	}
	if local == "" {
		return "", "", authn.ErrUnknownLogin
	}
	return v.template.fill(map[string]string{"login": login, "local": local, "domain": domain}), name, nil
}
