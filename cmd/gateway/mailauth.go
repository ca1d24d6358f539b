package main

import (
	"context"
	"io"
	"slices"
	"time"

	"github.com/postern-mail/postern/internal/reload"
	"github.com/postern-mail/postern/mail"
	"github.com/postern-mail/postern/policy"
	"github.com/postern-mail/postern/policy/mailauth"
	"github.com/postern-mail/postern/policy/mailauth/arc"
	"github.com/postern-mail/postern/policy/mailauth/dkim"
	"github.com/postern-mail/postern/policy/mailauth/dmarc"
	"github.com/postern-mail/postern/policy/mailauth/spf"
)

// authenticity is what asks the DNS about senders, for all lists of a
// generation.
type authenticity struct {
	spf        *spf.Checker
	dmarc      *dmarc.Checker
	signatures signatures
	chains     chains
}

// authenticities makes it, and watches the public suffix list.
func (b *builder) authenticities() {
	a := &authenticity{
		spf:        &spf.Checker{Resolver: b.resolver, Receiver: b.file.Hostname},
		dmarc:      &dmarc.Checker{Resolver: b.resolver},
		signatures: signatures{dkim.NewVerifier(b.file.Gateway.Verification(), b.resolver)},
		chains:     chains{arc.NewVerifier(arc.Config{}, b.resolver)},
	}
	b.authentic = a
	path := b.file.Gateway.PublicSuffixFile()
	if path == "" {
		return
	}
	list, err := reload.Open(reload.Config{File: path, CheckInterval: time.Minute}, func(_ string, r io.Reader) (*dmarc.Suffixes, error) {
		return dmarc.ReadSuffixes(r)
	}, b.log.Named("policy"))
	if !b.failed("public suffix list", err) {
		a.dmarc.Suffixes = list.Value
		b.task("public suffix list", list.Run)
	}
}

// mailauthStages adds check_spf and authenticate.
func (b *builder) mailauthStages(all map[string]func(policy.Spec) (policy.Stage, error)) {
	all[mailauth.CheckSPF], all[mailauth.Authenticate] = b.checkSPF, b.authenticate
}

// checkSPF makes check_spf.
func (b *builder) checkSPF(spec policy.Spec) (policy.Stage, error) {
	return mailauth.NewCheckSPF(spec, mailauth.SPFDeps{
		Checker: b.authentic.spf, Networks: b.file.Gateway.MyNetworks, Metrics: b.metrics,
	})
}

// authenticate makes authenticate.
func (b *builder) authenticate(spec policy.Spec) (policy.Stage, error) {
	g := b.file.Gateway
	return mailauth.NewAuthenticate(spec, mailauth.Deps{
		Hostname: b.file.Hostname, SPF: b.authentic.spf, DMARC: b.authentic.dmarc, Signatures: b.authentic.signatures, Chains: b.authentic.chains,
		Counter: b.dmarcResults, Rules: g.DMARCRules(), Networks: g.MyNetworks, Metrics: b.metrics,
	})
}

// signatures verifies DKIM signatures for authenticate.
type signatures struct{ *dkim.Verifier }

// Verify implements mailauth.Signatures.
func (s signatures) Verify(ctx context.Context, m mail.Message) ([]mail.Finding, error) {
	all, err := s.Verifier.Verify(ctx, m.Fields()[m.Ours():], m.Body())
	if err != nil {
		return nil, err
	}
	findings := make([]mail.Finding, len(all))
	for i := range all {
		findings[i] = all[i].Finding()
	}
	return findings, nil
}

// chains verifies ARC chains for authenticate.
type chains struct{ *arc.Verifier }

// Verify implements mailauth.Chains.
func (c chains) Verify(ctx context.Context, m mail.Message) (mailauth.ARC, error) {
	chain, err := c.Verifier.Verify(ctx, m.Fields()[m.Ours():], m.Body())
	if err != nil || chain.Result == arc.None {
		return mailauth.ARC{}, err
	}
	found := mailauth.ARC{Finding: chain.Finding()}
	if chain.Result == arc.Pass && !chain.Open {
		for _, set := range slices.Backward(chain.Sets) {
			found.Seals = append(found.Seals, mailauth.Seal{Domain: set.Domain, Results: set.Results})
		}
	}
	return found, nil
}
