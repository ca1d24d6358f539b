package config

import "github.com/postern-mail/postern/policy"

// policySteps returns which restrictions the audit names.
func (f *File) policySteps() policy.Steps {
	switch f.Audit.PolicySteps {
	case "all":
		return policy.AllSteps
	case "off":
		return policy.NoSteps
	default:
		return policy.DecisiveSteps
	}
}
