// Package sasl is the server side of SASL (RFC 4422) for every protocol of
// ours: a client's responses come in, an identity or a refusal goes out. Its
// exchanges have the shape of go-sasl's Server.
//
// Mechanisms that carry the password itself, PLAIN (RFC 4616) and LOGIN, the
// undocumented one Outlook still speaks, are offered only under TLS unless the
// configuration says otherwise. What can prove nothing here is not offered at
// all: nobody sees SCRAM where no verifier holds its keys. Whether a password
// is right, and whether the one a mechanism vouches for may log in, is left to
// the chain; framing and base64 to the protocol.
package sasl

import (
	"context"
	"errors"
	"slices"
	"strings"

	"github.com/postern-mail/postern/authn"
	"github.com/postern-mail/postern/mail"
	"github.com/postern-mail/postern/status"
)

// The mechanisms.
const (
	SCRAMSHA256 = "SCRAM-SHA-256" // and SCRAM-SHA-256-PLUS
	SCRAMSHA1   = "SCRAM-SHA-1"   // and SCRAM-SHA-1-PLUS
	GSSAPI      = "GSSAPI"
	External    = "EXTERNAL"
	OAuthBearer = "OAUTHBEARER"
	XOAuth2     = "XOAUTH2"
	CRAMMD5     = "CRAM-MD5"
	Plain       = "PLAIN"
	Login       = "LOGIN"
)

// maxPasswordOctets bounds what is parsed of one response with a password: two
// names and the password with their separators.
const maxPasswordOctets = 2*authn.MaxLoginOctets + authn.MaxPasswordOctets + 2

// Verifier decides about logins. Implemented by authn.Chain.
type Verifier interface {
	Verify(ctx context.Context, a authn.Attempt) (mail.Identity, error)
	Vouch(ctx context.Context, v authn.Vouched) (mail.Identity, error)
	Refuse(ctx context.Context, v authn.Vouched, cause error) error
	TakesPasswords() bool
}

// Mechanisms starts exchanges. Safe for concurrent use.
type Mechanisms struct {
	cfg                    Config
	specs                  map[string]spec
	deps                   Deps
	protected, unprotected offer
}

var (
	errResponseLong  = errors.New("response too long")
	errMalformed     = errors.New("malformed response")
	errExchangeEnded = errors.New("response after the end of the exchange")
)

// Start begins an exchange of client for service ("submission", "imap", ...).
// An unknown mechanism is AuthMechanism, one that needs TLS first AuthNeedsTLS.
// ctx bounds the whole exchange; Close ends it before.
func (m *Mechanisms) Start(ctx context.Context, mechanism, service string, client mail.Client) (*Exchange, error) {
	mechanism = strings.ToUpper(mechanism)
	if !m.offers(mechanism, &client) {
		if client.TLS == nil && slices.Contains(m.protected.names, mechanism) {
			return nil, status.Errorf(status.AuthNeedsTLS, "mechanism %s without TLS", mechanism)
		}
		return nil, status.Errorf(status.AuthMechanism, "mechanism %.32q is not on offer", mechanism)
	}
	spec := m.specs[mechanism]
	x := &Exchange{ctx: ctx, mechanisms: m, client: client, mechanism: mechanism, service: service, most: spec.most}
	x.step = spec.begin(x)
	return x, nil
}

// Exchange is one authentication of one client, for one goroutine.
type Exchange struct {
	ctx        context.Context // of the whole exchange: go-sasl's Next takes none
	mechanisms *Mechanisms
	client     mail.Client
	mechanism  string
	service    string
	most       int  // octets of a response
	step       step // what the next response is for; nil after the end
	close      func()
	identity   mail.Identity
}

// step takes a response and returns a challenge and what the next response is
// for; nil when the client has authenticated and there is nothing to tell it.
type step func(response []byte) (challenge []byte, next step, err error)

// Next takes a response; nil means that the client sent no initial one, which
// is not the same as an empty one. An error ends the exchange: ParameterSyntax
// for a malformed response, otherwise what the verifier said.
func (x *Exchange) Next(response []byte) (challenge []byte, done bool, err error) {
	if x.step == nil {
		return nil, false, status.New(status.ParameterSyntax, errExchangeEnded)
	}
	if len(response) > x.most {
		x.Close()
		return nil, false, status.New(status.ParameterSyntax, errResponseLong)
	}
	challenge, x.step, err = x.step(response)
	if err != nil {
		x.Close()
		x.identity = mail.Identity{}
		return nil, false, err
	}
	if x.step == nil {
		x.Close()
		return nil, true, nil
	}
	return challenge, false, nil
}

// Close ends an exchange and frees what it holds. It may be called more than
// once; whoever leaves an exchange before its end has to.
func (x *Exchange) Close() error {
	x.step = nil
	if x.close != nil {
		x.close()
		x.close = nil
	}
	return nil
}

// Identity is who authenticated; valid once Next reported done.
func (x *Exchange) Identity() mail.Identity { return x.identity }

// verify asks about a password.
func (x *Exchange) verify(authorization, login, password string) (err error) {
	x.identity, err = x.mechanisms.deps.Verifier.Verify(x.ctx, authn.Attempt{
		Login: login, Password: password, Authorization: authorization,
		Mechanism: x.mechanism, Service: x.service, Session: x.client.Session, Remote: x.client.Remote,
	})
	return err
}

// vouch is for a login that is proven.
func (x *Exchange) vouch(v authn.Vouched) (err error) {
	x.identity, err = x.mechanisms.deps.Verifier.Vouch(x.ctx, x.vouched(v))
	return err
}

// refuse is for one that is not; the error is what to answer.
func (x *Exchange) refuse(v authn.Vouched, cause error) error {
	return x.mechanisms.deps.Verifier.Refuse(x.ctx, x.vouched(v), cause)
}

func (x *Exchange) vouched(v authn.Vouched) authn.Vouched {
	v.Mechanism, v.Service, v.Session, v.Remote = x.mechanism, x.service, x.client.Session, x.client.Remote
	return v
}

// farewell is the step after the last challenge of an exchange that succeeded:
// protocols have no other way to send it (RFC 4422 section 3.5), and the client
// answers with nothing.
func (x *Exchange) farewell(response []byte) ([]byte, step, error) {
	if len(response) > 0 {
		return nil, nil, status.New(status.ParameterSyntax, errMalformed)
	}
	return nil, nil, nil
}
