package config

import (
	"context"
	"maps"

	"github.com/hashicorp/go-hclog"

	"github.com/postern-mail/postern/mail"
	"github.com/postern-mail/postern/policy"
	"github.com/postern-mail/postern/policy/delegation"
	"github.com/postern-mail/postern/policy/greylist"
	"github.com/postern-mail/postern/policy/rspamd"
	"github.com/postern-mail/postern/policy/rules"
)

// stages are the restrictions of other rooms, which say what is wrong with
// their attributes and are asked nothing.
func (c checker) stages(g *Gateway) map[string]func(policy.Spec) (policy.Stage, error) {
	all := c.dnsListStages(g)
	maps.Copy(all, verifyStages(g))
	maps.Copy(all, map[string]func(policy.Spec) (policy.Stage, error){
		greylist.Name: func(spec policy.Spec) (policy.Stage, error) {
			cfg, err := g.GreylistRoom().With(spec)
			if err != nil {
				return nil, err
			}
			return greylist.New(cfg, nil, c.opener(), nil)
		},
		delegation.StageName: func(spec policy.Spec) (policy.Stage, error) {
			_, err := delegation.With(spec, g.Services())
			return inert(delegation.StageName), err
		},
		rspamd.Name: func(spec policy.Spec) (policy.Stage, error) {
			cfg, err := c.file.Rspamd(spec)
			if err != nil {
				return nil, err
			}
			return rspamd.New(cfg, rspamd.NewMemory(), hclog.NewNullLogger(), nil)
		},
		"milter":   MilterStage(c.file.inertMilters()),
		rules.Name: g.RulesStage(rules.Deps{}),
	})
	c.signStages(g, all)
	c.mailauthStages(all)
	return all
}

// inert stands for a restriction that only its name is needed of.
type inert string

// Name implements policy.Stage.
func (i inert) Name() string { return string(i) }

// Evaluate implements policy.Stage.
func (inert) Evaluate(context.Context, *mail.Transaction) (mail.Verdict, error) {
	return mail.Verdict{}, nil
}
