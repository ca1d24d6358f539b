package pam

import (
	"errors"
	"fmt"

	"github.com/postern-mail/postern/authn"
	"github.com/postern-mail/postern/status"
)

// The codes of Linux-PAM that say something about a person. All others say
// something about the machine.
const (
	codeSuccess        Code = 0
	codePermDenied     Code = 6
	codeAuthErr        Code = 7
	codeUserUnknown    Code = 10
	codeMaxTries       Code = 11
	codeNewAuthtokReqd Code = 12
	codeAcctExpired    Code = 13
	codeCredExpired    Code = 16
	codeAuthtokExpired Code = 27
)

// CodeSystemErr is PAM_SYSTEM_ERR: what the helper answers for faults of its
// own.
const CodeSystemErr Code = 4

var codeNames = [...]string{
	"PAM_SUCCESS", "PAM_OPEN_ERR", "PAM_SYMBOL_ERR", "PAM_SERVICE_ERR", "PAM_SYSTEM_ERR", "PAM_BUF_ERR",
	"PAM_PERM_DENIED", "PAM_AUTH_ERR", "PAM_CRED_INSUFFICIENT", "PAM_AUTHINFO_UNAVAIL", "PAM_USER_UNKNOWN",
	"PAM_MAXTRIES", "PAM_NEW_AUTHTOK_REQD", "PAM_ACCT_EXPIRED", "PAM_SESSION_ERR", "PAM_CRED_UNAVAIL",
	"PAM_CRED_EXPIRED", "PAM_CRED_ERR", "PAM_NO_MODULE_DATA", "PAM_CONV_ERR", "PAM_AUTHTOK_ERR",
	"PAM_AUTHTOK_RECOVERY_ERR", "PAM_AUTHTOK_LOCK_BUSY", "PAM_AUTHTOK_DISABLE_AGING", "PAM_TRY_AGAIN",
	"PAM_IGNORE", "PAM_ABORT", "PAM_AUTHTOK_EXPIRED", "PAM_MODULE_UNKNOWN", "PAM_BAD_ITEM", "PAM_CONV_AGAIN",
	"PAM_INCOMPLETE",
}

// String returns the constant's name.
func (c Code) String() string {
	if int(c) < len(codeNames) {
		return codeNames[c]
	}
	return fmt.Sprintf("PAM code %d", uint16(c))
}

var phaseNames = [...]string{"helper", "start", "authenticate", "account"}

// String returns the phase's name in logs.
func (p Phase) String() string { return phaseNames[p] }

// verdict turns a response into a verifier's answer. A refusal that leaves open
// whether the password is right wraps authn.ErrRefused.
func verdict(r Response) error {
	cause := errors.New(r.Phase.String() + ": " + r.Code.String())
	if r.Detail != "" {
		cause = fmt.Errorf("%w (%s)", cause, r.Detail)
	}
	switch r.Phase {
	case PhaseAuthenticate:
		return authenticateVerdict(r.Code, cause)
	case PhaseAccount:
		return accountVerdict(r.Code, cause)
	default:
		return cause
	}
}

// authenticateVerdict: a success there is none yet, the account phase follows.
func authenticateVerdict(code Code, cause error) error {
	switch code {
	case codeAuthErr:
		return status.New(status.AuthFailed, cause)
	case codeUserUnknown:
		return fmt.Errorf("%w: %w", authn.ErrUnknownLogin, cause)
	case codePermDenied, codeMaxTries, codeAcctExpired, codeCredExpired, codeAuthtokExpired, codeNewAuthtokReqd:
		return status.New(status.AuthFailed, fmt.Errorf("%w: %w", authn.ErrRefused, cause))
	}
	return cause
}

// accountVerdict: the password was right. That it has expired is the one cause
// the client is told, which can do something about it.
func accountVerdict(code Code, cause error) error {
	switch code {
	case codeSuccess:
		return nil
	case codeAuthtokExpired, codeNewAuthtokReqd:
		return status.New(status.PasswordExpired, fmt.Errorf("%w: %w", authn.ErrRefused, cause))
	case codePermDenied, codeAuthErr, codeUserUnknown, codeMaxTries, codeAcctExpired, codeCredExpired:
		return status.New(status.AuthFailed, fmt.Errorf("%w: %w", authn.ErrRefused, cause))
	}
	return cause
}
