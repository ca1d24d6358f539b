package policy

import (
	"cmp"
	"context"
	"slices"
	"strings"

	"github.com/postern-mail/postern/mail"
	"github.com/postern-mail/postern/status"
	"github.com/postern-mail/postern/table"
)

// SenderLogins are tables of who may send as an address, as Postfix's
// smtpd_sender_login_maps. They are opened with ParseLogins for values. It is an
// Owners by itself. Its methods may be called concurrently.
type SenderLogins struct {
	Tables []table.Opened
	// Order says which forms of an address are looked up.
	Order table.Order
}

// ParseLogins reads a table's value: logins separated by commas or blanks.
func ParseLogins(text string) ([]string, error) {
	return strings.FieldsFunc(text, func(c rune) bool { return c == ',' || c == ' ' || c == '\t' }), nil
}

// ActsAs is the login that owners are compared with.
func ActsAs(id mail.Identity) string { return cmp.Or(id.Authorization, id.Authentication) }

// NamesLogin reports whether a login is among others. Letter case makes no
// difference.
func NamesLogin(logins []string, login string) bool {
	return slices.ContainsFunc(logins, func(l string) bool { return strings.EqualFold(l, login) })
}

// Owners implements Owners. A table that is out of order is status.DirectoryDown.
func (s SenderLogins) Owners(ctx context.Context, a mail.Address) ([]string, error) {
	if a.IsNull() {
		return nil, nil
	}
	logins, _, from, err := table.Find(ctx, s.Tables, a.String(), s.Order.Virtual(a))
	if err != nil && status.Of(err) != status.DirectoryDown {
		err = status.Errorf(status.DirectoryDown, "table %s: %w", from.Name(), err)
	}
	return logins, err
}

// MaySendAs implements Owners.
func (s SenderLogins) MaySendAs(ctx context.Context, id mail.Identity, a mail.Address) (bool, error) {
	logins, err := s.Owners(ctx, a)
	return NamesLogin(logins, ActsAs(id)), err
}
