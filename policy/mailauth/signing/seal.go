package signing

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/postern-mail/postern/mail"
	"github.com/postern-mail/postern/policy"
	"github.com/postern-mail/postern/policy/mailauth/arc"
	"github.com/postern-mail/postern/policy/mailauth/authres"
	"github.com/postern-mail/postern/policy/mailauth/dkim"
)

// NameSeal is the restriction that adds to ARC chains.
const NameSeal = "seal_arc"

// seal is seal_arc.
type seal struct {
	stage
	domain   string // "" for that of the recipient who forwards
	always   bool
	sealer   *arc.Sealer
	verifier *arc.Verifier
}

// NewSeal makes seal_arc. Attributes: domain, when (forwarded, always), on_error.
func NewSeal(spec policy.Spec, deps Deps) (policy.Stage, error) {
	if err := known(spec, "domain", "when"); err != nil {
		return nil, err
	}
	_, strict := spec.Args["on_error"]
	s := &seal{stage: stage{deps: deps, strict: strict}, verifier: arc.NewVerifier(arc.Config{}, deps.Resolver)}
	s.domain = strings.ToLower(strings.Join(spec.Args["domain"], " "))
	if s.domain != "" && !dkim.IsDomain(s.domain) {
		return nil, fmt.Errorf("domain is %q, which is no domain that can sign", s.domain)
	}
	switch when := strings.Join(spec.Args["when"], " "); when {
	case "", "forwarded":
	case "always":
		s.always = true
	default:
		return nil, fmt.Errorf("when is %q: use forwarded or always", when)
	}
	var err error
	s.sealer, err = arc.NewSealer(nil)
	return s, err
}

// Name implements policy.Stage.
func (s *seal) Name() string { return NameSeal }

// InspectsMessage implements policy.Inspector.
func (s *seal) InspectsMessage() {}

// Evaluate implements policy.Stage. It seals mail of others that leaves us.
func (s *seal) Evaluate(ctx context.Context, tx *mail.Transaction) (mail.Verdict, error) {
	domain := s.domain
	if !s.always {
		if tx.Client.Identity != nil || trusted(tx, s.deps.Networks) {
			return mail.Verdict{}, nil
		}
		forwarder, leaves, err := s.leaves(ctx, tx)
		if err != nil {
			return s.notSealed(err)
		}
		if !leaves {
			return mail.Verdict{}, nil
		}
		if domain == "" {
			domain = forwarder
		}
	}
	if domain == "" && len(tx.Envelope.Recipients) > 0 {
		domain = string(tx.Envelope.Recipients[0].Address.Domain)
	}
	keys := s.deps.Ring.For(strings.ToLower(domain), time.Now())
	if len(keys) == 0 {
		s.deps.Metrics.sealed("no_key")
		return mail.Verdict{Detail: "not sealed: there is no DKIM key of " + domain}, nil
	}
	chain, err := s.chain(ctx, tx)
	if err != nil {
		return s.notSealed(err)
	}
	field := strings.TrimPrefix(s.results(tx), authres.Name+": ")
	// RSA is what everybody who verifies ARC can.
	made, err := s.sealer.Seal(tx.Message.Fields(), tx.Message.Body(), chain, field, keys[0])
	if errors.Is(err, arc.ErrBroken) || errors.Is(err, arc.ErrFull) {
		s.deps.Metrics.sealed("broken")
		return mail.Verdict{}, nil // nobody adds to such a chain
	}
	if err != nil {
		return s.notSealed(err)
	}
	s.deps.Metrics.sealed("sealed")
	return mail.Verdict{Edits: onTop(made)}, nil
}

// notSealed is what becomes of a message that should have been sealed.
func (s *seal) notSealed(err error) (mail.Verdict, error) {
	s.deps.Metrics.sealed("error")
	if s.strict {
		return mail.Verdict{}, err
	}
	return mail.Verdict{Detail: "not sealed: " + err.Error()}, nil
}

// leaves tells whether the message goes to another domain than those of ours it
// was sent to, and for whose domain that is.
func (s *seal) leaves(ctx context.Context, tx *mail.Transaction) (forwarder string, leaves bool, err error) {
	poster := &mail.Poster{Address: tx.Envelope.ReversePath}
	for _, to := range tx.Envelope.Recipients {
		if s.deps.Domains.Class(to.Address.Domain) == policy.Other {
			return "", true, nil
		}
		resolved, err := s.deps.Recipients.Resolve(ctx, to.Address, poster)
		if err != nil {
			return "", false, fmt.Errorf("resolve %s: %w", to.Address, err)
		}
		if slices.ContainsFunc(resolved, func(r mail.Recipient) bool { return s.deps.Domains.Class(r.Address.Domain) == policy.Other }) {
			return string(to.Address.Domain), true, nil
		}
	}
	return "", false, nil
}

// chain returns the state of the chain as the message came: as authenticate
// found it, or else as it is now.
func (s *seal) chain(ctx context.Context, tx *mail.Transaction) (*arc.Chain, error) {
	fields := tx.Message.Fields()
	for _, f := range tx.Findings {
		if f.Method == "arc" {
			return arc.Known(fields, arc.Result(f.Result)), nil
		}
	}
	chain, err := s.verifier.Verify(ctx, fields[tx.Message.Ours():], tx.Message.Body())
	if err != nil || len(chain.Sets) == 0 {
		return chain, err
	}
	return arc.Known(fields, chain.Result), nil // places count from the top
}

// results writes what was found out about the message.
func (s *seal) results(tx *mail.Transaction) string {
	f := authres.Field{ID: s.deps.Hostname}
	for _, found := range tx.Findings {
		if strings.HasPrefix(found.Method, "x-") {
			continue
		}
		r := authres.Result{Method: found.Method, Value: found.Result, Reason: found.Reason}
		for _, p := range found.Props {
			r.Props = append(r.Props, authres.Property(p))
		}
		f.Results = append(f.Results, r)
	}
	return f.String()
}
