package main

import (
	"bytes"
	"context"
	"io"
	"time"

	"github.com/postern-mail/postern/mail"
	"github.com/postern-mail/postern/policy"
	"github.com/postern-mail/postern/policy/mailauth/dkim"
	"github.com/postern-mail/postern/policy/mailauth/signing"
)

// signStages adds the restrictions that sign.
func (b *builder) signStages(all map[string]func(policy.Spec) (policy.Stage, error)) {
	all[signing.NameSign] = func(spec policy.Spec) (policy.Stage, error) {
		stage, err := signing.NewSign(spec, b.file.Gateway.SigningOptions(), b.signDeps())
		if watched, ok := stage.(interface{ Run(context.Context) error }); ok && err == nil {
			b.task("table of "+signing.NameSign, watched.Run)
		}
		return stage, err
	}
	all[signing.NameSeal] = func(spec policy.Spec) (policy.Stage, error) {
		return signing.NewSeal(spec, b.signDeps())
	}
}

func (b *builder) signDeps() signing.Deps {
	return signing.Deps{
		Ring: b.ring, Networks: b.file.Gateway.MyNetworks, Tables: b.opener("policy"), Metrics: b.signMetrics,
		Recipients: b.listedRecipients(), Domains: b.addresses(), Hostname: b.file.Hostname, Resolver: b.resolver,
	}
}

// keyring reads the keys of our domains.
func (b *builder) keyring() {
	var err error
	if b.signMetrics, err = signing.NewMetrics(b.metrics); b.failed("metrics of DKIM", err) {
		return
	}
	if b.ring, err = signing.NewRing(b.file.SigningRoom(), b.log.Named("policy")); b.failed("dkim", err) {
		return
	}
	b.task("DKIM keys", b.ring.Run)
	if !b.file.SignsOwn() {
		return
	}
	signer, err := dkim.NewSigner(b.file.Gateway.SigningOptions())
	if !b.failed("dkim", err) {
		b.own = &signing.Own{Ring: b.ring, Signer: signer, Metrics: b.signMetrics}
	}
}

// signOwn returns a message that the server wrote with our signatures, if there
// are keys. To send it unsigned is better than not to.
func (g *generation) signOwn(message []byte) []byte {
	if g.own == nil {
		return message
	}
	signed, err := g.own.Sign(message)
	if err != nil {
		g.own.Ring.Log().Warn("mail of our own is not signed", "err", err)
	}
	return signed
}

// composeSigned composes a report and signs it.
func (g *generation) composeSigned(w io.Writer, report mail.Report, now time.Time, id string) (mail.Envelope, error) {
	if g.own == nil {
		return g.reporter.Compose(w, report, now, id)
	}
	var text bytes.Buffer
	envelope, err := g.reporter.Compose(&text, report, now, id)
	if err != nil {
		return envelope, err
	}
	_, err = w.Write(g.signOwn(text.Bytes()))
	return envelope, err
}
