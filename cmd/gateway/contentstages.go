package main

import (
	"context"

	"github.com/postern-mail/postern/policy"
	"github.com/postern-mail/postern/policy/content/attachments"
	"github.com/postern-mail/postern/policy/content/checks"
)

// looking adds to stages those that look into messages, for a listener with the
// lists.
func (b *builder) looking(stages map[string]func(policy.Spec) (policy.Stage, error), lists map[policy.List][]policy.Spec) map[string]func(policy.Spec) (policy.Stage, error) {
	cfg := checks.Config{Tables: b.opener("policy"), List: lists[policy.ListContent], Routes: b.file.FilterRoute, FieldOctets: int(b.file.Gateway.HeaderSize)}
	for _, name := range checks.Names() {
		stages[name] = func(spec policy.Spec) (policy.Stage, error) { return running(b, checks.New, spec, cfg) }
	}
	stages[attachments.Name] = func(spec policy.Spec) (policy.Stage, error) { return attachments.New(spec) }
	return stages
}

// runner is a stage that looks after something while it is in use.
type runner interface {
	policy.Stage
	Run(context.Context) error
}

// running makes a stage that runs with the generation.
func running[S runner, C any](b *builder, make func(policy.Spec, C) (S, error), spec policy.Spec, cfg C) (policy.Stage, error) {
	s, err := make(spec, cfg)
	if err != nil {
		return nil, err
	}
	b.task(spec.Name, s.Run)
	return s, nil
}
