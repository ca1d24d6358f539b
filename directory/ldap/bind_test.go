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
