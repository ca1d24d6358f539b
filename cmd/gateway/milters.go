package main

import (
	"github.com/postern-mail/postern/policy"
	"github.com/postern-mail/postern/policy/milter"
	"github.com/postern-mail/postern/policy/rspamd"
)

// filters returns the milters by their names: each is one for all listeners. One
// whose block did not change is that of the generation before, with what it
// knows of the filter and its idle connections.
func (b *builder) filters() map[string]*milter.Milter {
	if b.milters != nil {
		return b.milters
	}
	b.milters = make(map[string]*milter.Milter)
	configs, err := b.file.Milters()
	if b.failed("milters", err) {
		return b.milters
	}
	for _, cfg := range configs {
		m := b.present[cfg.Name]
		if m == nil || !m.Same(cfg) {
			if m, err = milter.New(cfg, b.log.Named("policy"), b.metrics); b.failed("milter "+cfg.Name, err) {
				continue
			}
		}
		b.milters[cfg.Name] = m
		b.task("milter "+cfg.Name, m.Run)
	}
	return b.milters
}

// rspamd makes the step that asks rspamd by HTTP.
func (b *builder) rspamd(spec policy.Spec) (policy.Stage, error) {
	cfg, err := b.file.Rspamd(spec)
	if err != nil {
		return nil, err
	}
	s, err := rspamd.New(cfg, b.rspamdMemory(), b.log.Named("policy"), b.metrics)
	if err != nil {
		return nil, err
	}
	b.rspamds = append(b.rspamds, s)
	b.task("rspamd", s.Run)
	return s, nil
}

// rspamdMemory returns how servers of rspamd do, over reloads; commands that only
// ask begin with nothing.
func (b *builder) rspamdMemory() *rspamd.Memory {
	if b.policyState == nil || b.policyState.rspamds == nil {
		return rspamd.NewMemory()
	}
	return b.policyState.rspamds
}
