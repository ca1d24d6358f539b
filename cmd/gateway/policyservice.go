package main

import (
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/postern-mail/postern/config"
	"github.com/postern-mail/postern/policy"
	"github.com/postern-mail/postern/policy/delegation"
)

// policyService makes check_policy_service. Restrictions that say the same
// share connections.
func (b *builder) policyService(spec policy.Spec) (policy.Stage, error) {
	cfg, err := delegation.With(spec, b.file.Gateway.Services())
	if err != nil {
		return nil, err
	}
	cfg.Version = versionText()
	s := b.services[cfg]
	if s == nil {
		if s, err = delegation.NewService(cfg, b.log.Named("policy"), b.metrics); err != nil {
			return nil, err
		}
		b.services[cfg] = s
		b.task("policy service "+cfg.Address, s.Run)
	}
	return delegation.NewStage(cfg, s), nil
}

// tellServices writes how the policy services do.
func (g *generation) tellServices(out io.Writer) {
	var lines []string
	for _, s := range g.services {
		st := s.Status()
		text := "answers, or was not asked yet"
		if st.Failure != nil {
			text = fmt.Sprintf("DOWN for %s: %v", time.Since(st.Since).Round(time.Second), st.Failure)
		}
		lines = append(lines, fmt.Sprintf("service %s\t%s", st.Name, text))
	}
	slices.Sort(lines)
	for _, line := range slices.Compact(lines) {
		fmt.Fprintln(out, line)
	}
}

// openPolicyServer opens where other mail servers ask our lists.
func (s *server) openPolicyServer(cfg *config.PolicyServer) error {
	chain := func() *policy.Chain { return s.current.Load().chains[cfg.Listener] }
	asked, err := delegation.NewServer(cfg.Room(), chain, s.log.Named("policy"), s.metrics)
	if err != nil {
		return err
	}
	at := place{name: "policy_server " + cfg.Name, binds: cfg.Bind, socketMode: cfg.Permissions()}
	if err := s.listen(at, asked.Serve, nil, asked.Sessions); err != nil {
		return fmt.Errorf("policy_server %s: %w", strings.TrimSpace(cfg.Name), err)
	}
	return nil
}
