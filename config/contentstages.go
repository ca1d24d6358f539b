package config

import (
	"github.com/postern-mail/postern/policy"
	"github.com/postern-mail/postern/policy/content/attachments"
	"github.com/postern-mail/postern/policy/content/checks"
)

// looking adds to stages those that look into messages, for a listener with the
// lists.
func (c checker) looking(stages map[string]func(policy.Spec) (policy.Stage, error), lists map[policy.List][]policy.Spec) map[string]func(policy.Spec) (policy.Stage, error) {
	cfg := checks.Config{Tables: c.opener(), List: lists[policy.ListContent], Routes: c.file.FilterRoute}
	for _, name := range checks.Names() {
		stages[name] = func(spec policy.Spec) (policy.Stage, error) { return checks.New(spec, cfg) }
	}
	stages[attachments.Name] = func(spec policy.Spec) (policy.Stage, error) { return attachments.New(spec) }
	return stages
}
