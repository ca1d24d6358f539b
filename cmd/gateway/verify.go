package main

import (
	"context"
	"time"

	"github.com/postern-mail/postern/mail"
	"github.com/postern-mail/postern/policy"
	"github.com/postern-mail/postern/policy/shared"
	"github.com/postern-mail/postern/policy/verify"
	"github.com/postern-mail/postern/status"
)

// maxProbed bounds the addresses of which it is remembered whether they can
// be delivered to.
const maxProbed = 200_000

// verifyStages makes the restrictions that ask next hops about addresses.
// Gateways that share what policy remembers share the answers.
func (b *builder) verifyStages() map[string]func(policy.Spec) (policy.Stage, error) {
	if b.verifier == nil {
		memory := b.facts().Table("verify.addresses", shared.TableConfig{Entries: maxProbed})
		v, err := verify.New(b.file.Gateway.VerifyRoom(), memory, b.generation.probe, b.metrics)
		if b.failed("address_verify", err) {
			return nil
		}
		b.verifier = v
		b.task("address verification", v.Run)
	}
	return b.verifier.Stages()
}

// probe asks the next hop of an address whether it takes mail for it, by the
// ways that mail goes.
func (g *generation) probe(ctx context.Context, to mail.Address) mail.Outcome {
	rcpt := mail.Recipient{Address: to}
	if g.book.Class(to.Domain) != policy.Other {
		resolved, err := g.addresses().Resolve(ctx, to, nil)
		if err != nil {
			return unresolved(to, err)
		}
		if len(resolved) != 1 { // a group, which exists
			return mail.Outcome{Recipient: to, Class: mail.Delivered, Reply: status.RecipientOK.Reply(), At: time.Now()}
		}
		rcpt = resolved[0]
	}
	d := mail.Delivery{
		Probe: true, Attempt: 1,
		Envelope: mail.Envelope{ReversePath: g.file.VerifySender(), SMTPUTF8: !rcpt.Address.IsASCII(), Recipients: []mail.Recipient{rcpt}},
	}
	return g.router.Deliver(ctx, d)[0]
}

// unresolved is the outcome for an address that the directory does not give a
// recipient for: only what is certain is for good.
func unresolved(to mail.Address, err error) mail.Outcome {
	reason := status.Of(err)
	o := mail.Outcome{Recipient: to, Class: mail.Deferred, Reply: reason.Reply(), At: time.Now()}
	if reason.Permanent() {
		o.Class = mail.Bounced
	}
	return o
}
