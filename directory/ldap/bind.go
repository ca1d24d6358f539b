package ldap

import (
	"context"
	"errors"
	"fmt"
	"regexp"
	"strings"

	goldap "github.com/go-ldap/ldap/v3"

	"github.com/postern-mail/postern/status"
)

// maxPasswordOctets bounds what is sent as a password.
const maxPasswordOctets = 1024

// Bind implements directory.Binder on connections of its own, since a bind
// changes whose connection it is. An empty password, which servers take for
// an anonymous bind and grant (RFC 4513 section 5.1.2), is refused before
// anything is sent, and so are an empty DN and a NUL.
//
// Reasons: AuthFailed for a wrong password; AccountDisabled for an account the
// server does not let in (locked, expired, must change the password), which
// says nothing about the password; each with the server's cause for the log.
// DirectoryDown for everything else.
func (c *Client) Bind(ctx context.Context, dn, password string) error {
	if dn == "" || password == "" || len(password) > maxPasswordOctets || strings.Contains(password, "\x00") {
		return status.Errorf(status.AuthFailed, "not a possible password")
	}
	_, err := ask(ctx, c, binds, func(l *goldap.Conn) (struct{}, error) {
		result, err := l.SimpleBind(&goldap.SimpleBindRequest{
			Username: dn,
			Password: password,
			Controls: []goldap.Control{goldap.NewControlBeheraPasswordPolicy()},
		})
		return struct{}{}, judgeBind(result, err)
	})
	switch status.Of(err) {
	case status.OK, status.AuthFailed, status.AccountDisabled, status.DirectoryDown:
		return err
	}
	return status.New(status.DirectoryDown, err)
}

// judgeBind tells a refusal, which is an answer, from a failure of the server,
// and a refusal of the password from one of the account.
func judgeBind(result *goldap.SimpleBindResult, err error) error {
	policy := policyError(result)
	if err == nil {
		// The password is right, but only good for changing it.
		if policy == goldap.BeheraChangeAfterReset {
			return status.Errorf(status.AccountDisabled, "the password must be changed first")
		}
		return nil
	}
	var answer *goldap.Error
	if !errors.As(err, &answer) {
		return err
	}
	refused := func(reason status.Reason, cause string) error {
		return status.Errorf(reason, "%s: %w", cause, answer)
	}
	switch answer.ResultCode {
	case goldap.LDAPResultInvalidCredentials:
		return refused(judgeCredentials(policy, answer))
	case goldap.LDAPResultNoSuchObject:
		return refused(status.AuthFailed, "no such entry")
	case goldap.LDAPResultInappropriateAuthentication:
		return refused(status.AuthFailed, "the entry has no password")
	case goldap.LDAPResultConstraintViolation:
		// 389-ds: too many failures, the password policy's lockout.
		return refused(status.AccountDisabled, "locked after too many failures")
	case goldap.LDAPResultInsufficientAccessRights:
		return refused(status.AccountDisabled, "the entry may not be bound to")
	case goldap.LDAPResultUnwillingToPerform:
		// 389-ds and FreeIPA say so of a locked account, and every server of
		// itself when it is read-only, shutting down or asks for TLS.
		if strings.Contains(strings.ToLower(answer.Error()), "inactivated") {
			return refused(status.AccountDisabled, "the account is locked")
		}
	}
	return err // result 34 too: a DN that cannot be is a mistake of ours, not the person's
}

// policyError returns the error of the password policy's response control, or
// -1.
func policyError(result *goldap.SimpleBindResult) int {
	if result == nil {
		return -1
	}
	control := goldap.FindControl(result.Controls, goldap.ControlTypeBeheraPasswordPolicy)
	if policy, ok := control.(*goldap.ControlBeheraPasswordPolicy); ok {
		return int(policy.Error)
	}
	return -1
}

var adCode = regexp.MustCompile(`\bdata ([0-9a-f]{3,4})\b`)

// adCauses are what Active Directory hides in the text of result 49. Those of
// the account may come with a right password, some with no other.
var adCauses = map[string]struct {
	reason status.Reason
	cause  string
}{
	"525": {status.AuthFailed, "no such account"},
	"52e": {status.AuthFailed, "wrong password"},
	"530": {status.AccountDisabled, "not at this hour"},
	"531": {status.AccountDisabled, "not from this workstation"},
	"532": {status.AccountDisabled, "the password has expired"},
	"533": {status.AccountDisabled, "the account is disabled"},
	"568": {status.AccountDisabled, "too many context ids"},
	"701": {status.AccountDisabled, "the account has expired"},
	"773": {status.AccountDisabled, "the password must be changed first"},
	"775": {status.AccountDisabled, "the account is locked"},
}

// judgeCredentials tells what result 49 is about. Servers that do not say more
// mean the password.
func judgeCredentials(policy int, answer *goldap.Error) (status.Reason, string) {
	switch policy {
	case goldap.BeheraPasswordExpired:
		return status.AccountDisabled, "the password has expired"
	case goldap.BeheraAccountLocked:
		return status.AccountDisabled, "the account is locked"
	}
	if m := adCode.FindStringSubmatch(answer.Error()); m != nil {
		if known, ok := adCauses[m[1]]; ok {
			return known.reason, fmt.Sprintf("%s (%s)", known.cause, m[1])
		}
	}
	return status.AuthFailed, "wrong password"
}
