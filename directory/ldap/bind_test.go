package ldap

import (
	"errors"
	"testing"

	goldap "github.com/go-ldap/ldap/v3"

	"github.com/postern-mail/postern/status"
)

// TestPasswordPolicyControl has what servers with a password policy say beside
// the result of a bind.
func TestPasswordPolicyControl(t *testing.T) {
	t.Parallel()
	refused := goldap.NewError(goldap.LDAPResultInvalidCredentials, errors.New("Invalid Credentials"))
	for _, row := range []struct {
		policy int8
		err    error
		want   status.Reason
	}{
		{goldap.BeheraAccountLocked, refused, status.AccountDisabled},
		{goldap.BeheraPasswordExpired, refused, status.AccountDisabled},
		{goldap.BeheraChangeAfterReset, nil, status.AccountDisabled},
		{-1, refused, status.AuthFailed},
		{-1, nil, status.OK},
	} {
		control := goldap.NewControlBeheraPasswordPolicy()
		control.Error = row.policy
		result := &goldap.SimpleBindResult{Controls: []goldap.Control{control}}
		if err := judgeBind(result, row.err); status.Of(err) != row.want {
			t.Errorf("policy %d with %v: %v, want %s", row.policy, row.err, err, row.want)
		}
	}
	if err := judgeBind(nil, refused); status.Of(err) != status.AuthFailed {
		t.Errorf("without a result: %v", err)
	}
}

// TestActiveDirectoryCodes reads every code, those too that no controller here
// can be brought to say.
func TestActiveDirectoryCodes(t *testing.T) {
	t.Parallel()
	for code, want := range map[string]status.Reason{
		"525": status.AuthFailed, "52e": status.AuthFailed, "fff": status.AuthFailed,
		"530": status.AccountDisabled, "531": status.AccountDisabled, "532": status.AccountDisabled,
		"533": status.AccountDisabled, "568": status.AccountDisabled, "701": status.AccountDisabled,
		"773": status.AccountDisabled, "775": status.AccountDisabled,
	} {
		text := "80090308: LdapErr: DSID-0C09044E, comment: AcceptSecurityContext error, data " + code + ", v2580"
		err := judgeBind(nil, goldap.NewError(goldap.LDAPResultInvalidCredentials, errors.New(text)))
		if status.Of(err) != want {
			t.Errorf("data %s: %v, want %s", code, err, want)
		}
	}
}
