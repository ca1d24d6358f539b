package sasl

import (
	"context"
	"encoding/json"
	"errors"
	"strings"

	"github.com/postern-mail/postern/authn"
	"github.com/postern-mail/postern/status"
)

// maxTokenOctets bounds a message with a token. Tokens that list hundreds of
// groups have some KiB.
const maxTokenOctets = 32 << 10

// Tokens judge bearer tokens (RFC 6750). Implemented by authn/oauth.
type Tokens interface {
	// Check returns the login that a token proves, with Accounts and Detail as
	// Vouch takes them. Claimed is whom the client says it is, "" when it does
	// not; it never makes anybody that one. An error is AuthFailed when the
	// token proves nothing, and anything else when it cannot be known.
	Check(ctx context.Context, token, claimed string) (authn.Vouched, error)
	// Hint tells a client that was refused where it gets a token and for which
	// scope; "" for unknown.
	Hint() (configuration, scope string)
}

// bearer is what a client's message of OAUTHBEARER or XOAUTH2 holds.
type bearer struct {
	authorization string // authzid, or the user of XOAUTH2
	token         string
}

// tokenSpec is a mechanism that carries a bearer token. Whoever reads it can
// use it, like a password.
func tokenSpec(parse func(message string) (bearer, bool)) spec {
	return spec{
		begin:    func(x *Exchange) step { return (&tokenExchange{x, parse}).first },
		possible: func(d *Deps) bool { return d.Tokens != nil },
		most:     maxTokenOctets,
		weak:     []Weakness{NoPlaintext, NoActive, ForwardSecrecy, MutualAuth},
	}
}

type tokenExchange struct {
	*Exchange
	parse func(message string) (bearer, bool)
}

func (x *tokenExchange) first(response []byte) ([]byte, step, error) {
	if response == nil {
		return []byte{}, x.first, nil
	}
	message, ok := x.parse(string(response))
	if !ok {
		return nil, nil, status.New(status.ParameterSyntax, errMalformed)
	}
	v, err := x.mechanisms.deps.Tokens.Check(x.ctx, message.token, message.authorization)
	v.By, v.Authorization = authn.ByToken, message.authorization
	if err == nil {
		if err = x.vouch(v); err == nil {
			return nil, nil, nil
		}
	} else {
		if v.Login == "" {
			v.Login = message.authorization
		}
		err = x.refuse(v, err)
	}
	switch status.Of(err) {
	case status.AuthFailed, status.AuthorizationDenied:
		return x.explain(err), x.dismissed(err), nil
	}
	return nil, nil, err // an outage: the token may be good
}

// explain is the challenge that tells a client why (RFC 7628 section 3.2.2).
// The codes are those of RFC 6750: a token that proves nothing, or one whose
// owner may not come in with it.
func (x *tokenExchange) explain(err error) []byte {
	said := struct {
		Status        string `json:"status"`
		Scope         string `json:"scope,omitempty"`
		Configuration string `json:"openid-configuration,omitempty"`
		Schemes       string `json:"schemes,omitempty"`
	}{Status: "invalid_token"}
	if x.mechanism == XOAuth2 {
		said.Status, said.Schemes = "401", "bearer"
	} else if errors.Is(err, authn.ErrUnknownLogin) || status.Of(err) == status.AuthorizationDenied {
		said.Status = "insufficient_scope"
	}
	said.Configuration, said.Scope = x.mechanisms.deps.Tokens.Hint()
	text, _ := json.Marshal(said) // of strings
	return text
}

// dismissed takes the client's answer to the explanation: one octet 0x01, or
// nothing as older clients send. Whatever it is, the exchange has failed.
func (x *tokenExchange) dismissed(err error) step {
	return func([]byte) ([]byte, step, error) { return nil, nil, err }
}

// fields splits what both mechanisms end in, "key=value" pairs that 0x01 ends
// each, with one more at the end (RFC 7628 section 3.1). The last one may be
// missing, as some clients forget it.
func fields(text string) (pairs map[string]string, ok bool) {
	const end = "\x01"
	text, ok = strings.CutSuffix(text, end)
	if !ok {
		return nil, false
	}
	text = strings.TrimSuffix(text, end)
	pairs = make(map[string]string)
	for _, pair := range strings.Split(text, end) {
		key, value, found := strings.Cut(pair, "=")
		if _, twice := pairs[strings.ToLower(key)]; !found || key == "" || twice || len(pairs) > 20 {
			return nil, false
		}
		pairs[strings.ToLower(key)] = value
	}
	return pairs, true
}

// token is what an Authorization header field's value holds (RFC 6750 section
// 2.1): "Bearer b64token".
func token(value string) (string, bool) {
	scheme, token, found := strings.Cut(value, " ")
	token = strings.TrimLeft(token, " ")
	if !found || !strings.EqualFold(scheme, "bearer") || token == "" {
		return "", false
	}
	body := strings.TrimRight(token, "=")
	for i := range len(body) {
		c := body[i]
		if !('a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9' || strings.IndexByte("-._~+/", c) >= 0) {
			return "", false
		}
	}
	return token, body != ""
}

// parseBearer reads OAUTHBEARER's message: a GS2 header with the authorization
// identity, then fields of which auth is the token. There is no channel
// binding, so its flag is n or y.
func parseBearer(message string) (b bearer, ok bool) {
	header, rest, found := strings.Cut(message, "\x01")
	parts := strings.Split(header, ",")
	if !found || len(parts) != 3 || parts[2] != "" || parts[0] != "n" && parts[0] != "y" {
		return b, false
	}
	if parts[1] != "" {
		name, found := strings.CutPrefix(parts[1], "a=")
		if b.authorization, ok = unescape(name); !found || !ok {
			return b, false
		}
	}
	pairs, ok := fields(rest)
	if !ok {
		return b, false
	}
	b.token, ok = token(pairs["auth"])
	return b, ok
}

// unescape decodes a saslname (RFC 5801 section 4).
func unescape(name string) (string, bool) {
	decoded := strings.NewReplacer("=2C", ",", "=3D", "=").Replace(name)
	if strings.Count(name, "=") != strings.Count(name, "=2C")+strings.Count(name, "=3D") || name == "" || strings.IndexByte(name, 0) >= 0 {
		return "", false
	}
	return decoded, true
}

// parseXOAuth2 reads the message of Google's and Microsoft's mechanism, which
// came before OAUTHBEARER: the user, then auth.
func parseXOAuth2(message string) (b bearer, ok bool) {
	pairs, ok := fields(message)
	if !ok || pairs["user"] == "" {
		return b, false
	}
	b.authorization = pairs["user"]
	b.token, ok = token(pairs["auth"])
	return b, ok
}
