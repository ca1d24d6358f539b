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
// Reasons: AuthFailed for wrong passwords and for accounts the server does not
// let in (locked, expired, must change the password), with the server's cause
// for the log; DirectoryDown for everything else.
func (c *Client) Bind(ctx context.Context, dn, password string) error {
	if dn == "" || password == "" || len(password) > maxPasswordOctets || strings.Contains(password, "\x00") {
		return status.Errorf(status.AuthFailed, "not a possible password")
	}
	err := c.do(ctx, func(s *server) *pool { return s.binds }, func(l *goldap.Conn) error {
		result, err := l.SimpleBind(&goldap.SimpleBindRequest{
			Username: dn,
			Password: password,
			Controls: []goldap.Control{goldap.NewControlBeheraPasswordPolicy()},
		})
		return judgeBind(result, err)
	})
	if err != nil && status.Of(err) != status.AuthFailed && status.Of(err) != status.DirectoryDown {
		err = status.New(status.DirectoryDown, err)
	}
	return err
}

// judgeBind tells a refusal of the account, which is an answer, from a failure
// of the server.
func judgeBind(result *goldap.SimpleBindResult, err error) error {
	policy := policyError(result)
	if err == nil {
		// The password is right, but only good for changing it.
		if policy == goldap.BeheraChangeAfterReset {
			return refused("the password must be changed first", nil)
		}
		return nil
	}
	var answer *goldap.Error
	if !errors.As(err, &answer) {
		return err
	}
	switch answer.ResultCode {
	case goldap.LDAPResultInvalidCredentials:
		return refused(credentialsCause(policy, answer), answer)
	case goldap.LDAPResultNoSuchObject, goldap.LDAPResultInvalidDNSyntax:
		return refused("no such entry", answer)
	case goldap.LDAPResultInappropriateAuthentication:
		return refused("the entry has no password", answer)
	case goldap.LDAPResultConstraintViolation:
		// 389-ds: too many failures, the password policy's lockout.
		return refused("locked after too many failures", answer)
	case goldap.LDAPResultInsufficientAccessRights:
		return refused("the entry may not be bound to", answer)
	case goldap.LDAPResultUnwillingToPerform:
		// 389-ds and FreeIPA say so of a locked account, and every server of
		// itself when it is read-only, shutting down or asks for TLS.
		if strings.Contains(strings.ToLower(answer.Error()), "inactivated") {
			return refused("the account is locked", answer)
		}
	}
	return err
}

func refused(cause string, err error) error {
	if err == nil {
		return status.Errorf(status.AuthFailed, "%s", cause)
	}
	return status.Errorf(status.AuthFailed, "%s: %w", cause, err)
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

// adCauses are what Active Directory hides in the text of result 49.
var adCauses = map[string]string{
	"525": "no such account",
	"52e": "wrong password",
	"530": "not at this hour",
	"531": "not from this workstation",
	"532": "the password has expired",
	"533": "the account is disabled",
	"568": "too many context ids",
	"701": "the account has expired",
	"773": "the password must be changed first",
	"775": "the account is locked",
}

func credentialsCause(policy int, answer *goldap.Error) string {
	switch policy {
	case goldap.BeheraPasswordExpired:
		return "the password has expired"
	case goldap.BeheraAccountLocked:
		return "the account is locked"
	}
	if m := adCode.FindStringSubmatch(answer.Error()); m != nil {
		if cause, ok := adCauses[m[1]]; ok {
			return fmt.Sprintf("%s (%s)", cause, m[1])
		}
	}
	return "wrong password"
}
