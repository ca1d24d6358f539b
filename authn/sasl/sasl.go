// Package sasl is the server side of SASL (RFC 4422) for every protocol of
// ours: a client's responses come in, an identity or a refusal goes out. Its
// exchanges have the shape of go-sasl's Server.
//
// It offers PLAIN (RFC 4616) and LOGIN, the undocumented one Outlook still
// speaks. Both carry the password itself, so both are offered only under TLS
// unless the configuration says otherwise. Whether the password is right is
// left to the verifier, framing and base64 to the protocol.
package sasl

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/postern-mail/postern/authn"
	"github.com/postern-mail/postern/mail"
	"github.com/postern-mail/postern/status"
)

// The mechanisms.
const (
	Plain = "PLAIN"
	Login = "LOGIN"
)

// maxResponseOctets bounds what is parsed of one response: two names and a
// password with their separators.
const maxResponseOctets = 2*authn.MaxLoginOctets + authn.MaxPasswordOctets + 2

// Config of the mechanisms on offer.
type Config struct {
	// Mechanisms to offer, in order; default PLAIN and LOGIN.
	Mechanisms []string
	// AllowWithoutTLS offers them on unprotected connections too; default no.
	AllowWithoutTLS bool
}

// Verifier decides about an attempt. Implemented by authn.Chain.
type Verifier interface {
	Verify(ctx context.Context, a authn.Attempt) (mail.Identity, error)
}

// Mechanisms starts exchanges. Safe for concurrent use.
type Mechanisms struct {
	cfg      Config
	verifier Verifier
}

var (
	errResponseLong  = errors.New("response too long")
	errMalformed     = errors.New("malformed response")
	errExchangeEnded = errors.New("response after the end of the exchange")
)

// New returns the mechanisms of cfg over verifier.
func New(cfg Config, verifier Verifier) (*Mechanisms, error) {
	if len(cfg.Mechanisms) == 0 {
		cfg.Mechanisms = []string{Plain, Login}
	}
	for _, name := range cfg.Mechanisms {
		if name != Plain && name != Login {
			return nil, fmt.Errorf("sasl: unknown mechanism %q (known: %s, %s)", name, Plain, Login)
		}
	}
	return &Mechanisms{cfg: cfg, verifier: verifier}, nil
}

// List names the mechanisms on offer, given whether the connection is
// protected; callers must not change the slice.
func (m *Mechanisms) List(tls bool) []string {
	if !tls && !m.cfg.AllowWithoutTLS {
		return nil
	}
	return m.cfg.Mechanisms
}

// Start begins an exchange of client for service ("submission", "imap", ...).
// An unknown mechanism is AuthMechanism, one that needs TLS first AuthNeedsTLS.
// ctx bounds the whole exchange.
func (m *Mechanisms) Start(ctx context.Context, mechanism, service string, client mail.Client) (*Exchange, error) {
	mechanism = strings.ToUpper(mechanism)
	if !slices.Contains(m.cfg.Mechanisms, mechanism) {
		return nil, status.Errorf(status.AuthMechanism, "mechanism %.32q is not on offer", mechanism)
	}
	if !slices.Contains(m.List(client.TLS != nil), mechanism) {
		return nil, status.Errorf(status.AuthNeedsTLS, "mechanism %s without TLS", mechanism)
	}
	x := &Exchange{ctx: ctx, verifier: m.verifier, attempt: authn.Attempt{
		Mechanism: mechanism, Service: service, Session: client.Session, Remote: client.Remote,
	}}
	x.step = x.plain
	if mechanism == Login {
		x.step = x.loginName
	}
	return x, nil
}

// Exchange is one authentication of one client, for one goroutine.
type Exchange struct {
	ctx      context.Context // of the whole exchange: go-sasl's Next takes none
	verifier Verifier
	attempt  authn.Attempt
	step     step // what the next response is for; nil after the end
	identity mail.Identity
}

// step takes a response and returns a challenge and what the next response is
// for; nil when the attempt is complete.
type step func(response []byte) (challenge []byte, next step, err error)

// Next takes a response; nil means that the client sent no initial one, which
// is not the same as an empty one. An error ends the exchange: ParameterSyntax
// for a malformed response, otherwise what the verifier said.
func (x *Exchange) Next(response []byte) (challenge []byte, done bool, err error) {
	if x.step == nil {
		return nil, false, status.New(status.ParameterSyntax, errExchangeEnded)
	}
	if len(response) > maxResponseOctets {
		x.step = nil
		return nil, false, status.New(status.ParameterSyntax, errResponseLong)
	}
	challenge, x.step, err = x.step(response)
	if err != nil || x.step != nil {
		return challenge, false, err
	}
	if x.identity, err = x.verifier.Verify(x.ctx, x.attempt); err != nil {
		return nil, false, err
	}
	return nil, true, nil
}

// Identity is who authenticated; valid once Next reported done.
func (x *Exchange) Identity() mail.Identity { return x.identity }
