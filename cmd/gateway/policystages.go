package main

import (
	"maps"

	"github.com/postern-mail/postern/config"
	"github.com/postern-mail/postern/policy"
	"github.com/postern-mail/postern/policy/delegation"
	"github.com/postern-mail/postern/policy/greylist"
	"github.com/postern-mail/postern/policy/rspamd"
	"github.com/postern-mail/postern/policy/rules"
)

// stages are the restrictions of other rooms, by name.
func (b *builder) stages() map[string]func(policy.Spec) (policy.Stage, error) {
	all := map[string]func(policy.Spec) (policy.Stage, error){
		greylist.Name: b.greylist,
		"milter":      config.MilterStage(b.filters()),
		rspamd.Name:   b.rspamd,
		rules.Name:    b.file.Gateway.RulesStage(rules.Deps{Domains: b.addresses(), Accounts: b.people(), Groups: people{b.generation}}),
	}
	b.signStages(all)
	all[delegation.StageName] = b.policyService
	maps.Copy(all, b.dnsListStages())
	b.mailauthStages(all)
	maps.Copy(all, b.verifyStages())
	return all
}
