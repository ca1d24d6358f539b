// Package sql verifies passwords against hashes that a database holds, as
// Dovecot's password_query does.
//
// In comes a login; the query's row says password and, where it differs, the
// name of the account (user, or username and domain). What it guarantees: a
// login that is not there costs the same hash work as one that is, and a
// database that does not answer is never a wrong password.
package sql

import (
	"context"
	"errors"
	"strings"

	"github.com/hashicorp/go-hclog"

	"github.com/postern-mail/postern/authn"
	"github.com/postern-mail/postern/authn/file"
	"github.com/postern-mail/postern/mail"
	"github.com/postern-mail/postern/status"
)

// Query asks the database about a login. Rows are columns by name, in lower
// case, without those that are NULL. An error means that nobody knows; a login
// that is not there has no rows. Implemented by directory/sql.
type Query interface {
	Rows(ctx context.Context, login string) ([]map[string]string, error)
}

// Config of a verifier.
type Config struct {
	// Name of the verifier in logs and audit; default "sql".
	Name string
	// DefaultScheme is the scheme of stored passwords that name none by
	// {SCHEME} or $id$; "" refuses those. With SCRAM-SHA-256, SCRAM-SHA-1,
	// CLEARTEXT or PLAIN all passwords count as stored so, until one shows up
	// that is not, and mechanisms that need them so can be offered.
	DefaultScheme string
}

// New returns a verifier.
func New(cfg Config, password Query, hasher *authn.Hasher, log hclog.Logger) (authn.Verifier, error) {
	if cfg.Name == "" {
		cfg.Name = "sql"
	}
	scheme := strings.Trim(cfg.DefaultScheme, "{}")
	if strings.ContainsAny(scheme, "{}") {
		return nil, errors.New("authn sql: the default scheme is a word such as SHA512-CRYPT")
	}
	stored, err := file.NewStored(cfg.Name, hashes{password, scheme}, hasher, log)
	if err != nil {
		return nil, err
	}
	return newVerifier(stored, scheme, hasher)
}

// hashes implements file.Hashes.
type hashes struct {
	query  Query
	scheme string
}

var errTwo = errors.New("password_query gives more than one row for a login")

// PasswordHashes implements file.Hashes.
func (h hashes) PasswordHashes(ctx context.Context, login string) (mail.Account, []string, error) {
	rows, err := h.query.Rows(ctx, login)
	switch {
	case err != nil:
		return mail.Account{}, nil, err
	case len(rows) == 0:
		return mail.Account{}, nil, status.Errorf(status.NoSuchUser, "no row")
	case len(rows) > 1:
		return mail.Account{}, nil, status.New(status.DirectoryDown, errTwo)
	}
	row := rows[0]
	if _, has := row["password"]; !has {
		return mail.Account{}, nil, status.Errorf(status.NoSuchUser, "the row has no password")
	}
	return mail.Account{Name: name(row, login), Disabled: isSet(row["nologin"]) || isSet(row["disabled"])}, []string{h.withScheme(row["password"])}, nil
}

// withScheme names the scheme of a password that names none.
func (h hashes) withScheme(stored string) string {
	if h.scheme == "" || strings.HasPrefix(stored, "{") || strings.HasPrefix(stored, "$") && strings.Count(stored, "$") > 2 {
		return stored
	}
	return "{" + h.scheme + "}" + stored
}

// name returns the account's name, as the row has it.
func name(row map[string]string, login string) string {
	for _, column := range []string{"user", "username"} {
		n := row[column]
		if n == "" {
			continue
		}
		if domain := row["domain"]; domain != "" && !strings.Contains(n, "@") {
			n += "@" + domain
		}
		if canonical, err := authn.CanonicalLogin(n); err == nil {
			return canonical
		}
		return n
	}
	return login
}

// isSet reads a column that says yes or no.
func isSet(value string) bool {
	switch strings.ToLower(strings.TrimSpace(value)) {
	case "", "0", "f", "n", "no", "false":
		return false
	default:
		return true
	}
}
