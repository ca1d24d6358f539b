package ldap

import (
	"context"
	"errors"
	"fmt"
	"strings"

	goldap "github.com/go-ldap/ldap/v3"

	"github.com/postern-mail/postern/status"
)

// ErrPasswordHidden is the answer when the service account may not see or
// compare the password attribute of an entry, or when the entry has none:
// servers do not tell the one from the other. It says nothing about a password.
var ErrPasswordHidden = errors.New("the service account sees no password in the entry")

// Passwords returns the values of the password attribute of one entry, as the
// service account sees them. It is the only request that returns passwords:
// what is searched, followed or held never has them, and the values returned
// here are for one attempt and not to be kept.
//
// Reasons: NoSuchUser for an entry that is not there, or that the server keeps
// from the service account; DirectoryDown for an outage. ErrPasswordHidden
// without a reason.
func (c *Client) Passwords(ctx context.Context, dn, attribute string) ([]string, error) {
	values, err := ask(ctx, c, searches, func(l *goldap.Conn) ([]string, error) {
		result, err := l.Search(goldap.NewSearchRequest(dn, goldap.ScopeBaseObject, goldap.NeverDerefAliases,
			1, 0, false, "(objectClass=*)", []string{attribute}, nil))
		if err != nil {
			return nil, err
		}
		return passwordsOf(result, attribute)
	})
	if err == nil && len(values) == 0 {
		err = ErrPasswordHidden
	}
	if err != nil {
		return nil, judgePassword(fmt.Sprintf("read %s of %.200q, which needs the right to read it", attribute, dn), err)
	}
	return values, nil
}

// errNoEntry is the answer of a server that shows no entry at a DN that is
// there for others.
var errNoEntry = status.Errorf(status.NoSuchUser, "the server shows no such entry")

// passwordsOf returns no values, which is an answer like others, where none are
// shown.
func passwordsOf(result *goldap.SearchResult, attribute string) ([]string, error) {
	if len(result.Entries) == 0 {
		if len(result.Referrals) > 0 {
			return nil, status.Errorf(status.DirectoryDown, "the server refers to another one for the entry")
		}
		return nil, errNoEntry
	}
	for _, a := range result.Entries[0].Attributes {
		if strings.EqualFold(a.Name, attribute) && len(a.Values) > 0 {
			return a.Values, nil
		}
	}
	return nil, nil
}

// Compare asks the server whether one of the values of the password attribute
// of an entry is password (RFC 4511 section 4.10), as the service account. A
// server compares what is written: it knows nothing of hashes.
//
// Reasons: AuthFailed where it is not; the others as for Passwords. As with
// Bind, an empty password and one with a NUL is refused before anything is
// sent.
func (c *Client) Compare(ctx context.Context, dn, attribute, password string) error {
	if dn == "" || password == "" || len(password) > maxPasswordOctets || strings.Contains(password, "\x00") {
		return status.Errorf(status.AuthFailed, "not a possible password")
	}
	same, err := ask(ctx, c, searches, func(l *goldap.Conn) (bool, error) { return l.Compare(dn, attribute, password) })
	switch {
	case err != nil:
		return judgePassword(fmt.Sprintf("compare %s of %.200q, which needs the right to compare it", attribute, dn), err)
	case !same:
		return status.Errorf(status.AuthFailed, "wrong password")
	}
	return nil
}

// judgePassword tells an entry that is not there and one whose password is not
// seen from an outage. what says what was done and which right it needs.
func judgePassword(what string, err error) error {
	// An outage may be the refusal of a bind of ours, with any result code.
	if reason := status.Of(err); reason == status.DirectoryDown || reason == status.NoSuchUser {
		return err
	}
	if errors.Is(err, ErrPasswordHidden) {
		return fmt.Errorf("%s: %w", what, err)
	}
	var answer *goldap.Error
	if errors.As(err, &answer) {
		switch answer.ResultCode {
		case goldap.LDAPResultNoSuchObject:
			return status.Errorf(status.NoSuchUser, "no such entry: %w", answer)
		case goldap.LDAPResultInsufficientAccessRights, goldap.LDAPResultNoSuchAttribute,
			goldap.LDAPResultUndefinedAttributeType, goldap.LDAPResultInappropriateMatching:
			return fmt.Errorf("%s: %w: %w", what, ErrPasswordHidden, answer)
		}
	}
	return status.New(status.DirectoryDown, err)
}
