// Package oauth judges bearer tokens (RFC 6750): a token comes in, the login it
// proves goes out. Tokens that are signed (RFC 7519) are checked here, with the
// keys the issuer publishes (OpenID Connect Discovery, RFC 7517); others, or
// all where that is wished, are shown to the issuer (RFC 7662).
//
// An issuer that does not answer makes nobody's token bad: while its keys are
// known they go on being used, and without them the answer is that it is not
// known. What a token says counts only as far as the rules of the configuration
// let it: its issuer, for whom it was made, by whom it was asked for, what it
// is for. Whether its owner has an account is left to the chain.
package oauth

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/hashicorp/go-hclog"

	"github.com/postern-mail/postern/authn"
	"github.com/postern-mail/postern/mail"
	"github.com/postern-mail/postern/status"
)

// Config of an Issuer's tokens. Zero values mean the defaults named here.
type Config struct {
	// Name in logs and audit; default "oauth".
	Name string
	// Issuer is the URL that stands in tokens as iss, letter by letter; what it
	// offers is read from /.well-known/openid-configuration below it. Required.
	Issuer string
	// Introspect shows every token to the issuer instead of checking its
	// signature here.
	Introspect bool
	// ClientID and ClientSecret are ours at the issuer, to introspect.
	ClientID, ClientSecret string
	// Audiences are whom tokens may be made for (aud); a token for none of them
	// was meant for somebody else. Required.
	Audiences []string
	// Parties are the clients that tokens may be issued to (azp or client_id);
	// none for any.
	Parties []string
	// Scopes are all needed; default none.
	Scopes []string
	// Claims are further claims with the value each must have, or must hold
	// where it is a list.
	Claims map[string]string
	// LoginClaim names the login; default preferred_username. Of email the
	// issuer must also say that it was verified, and an account must own it.
	LoginClaim string
	// UnverifiedEmail believes an email claim that the issuer did not verify.
	UnverifiedEmail bool
	// Algorithms that signatures may have; default all with a public key.
	Algorithms []string
	// Skew is how far clocks may differ; default 60 s.
	Skew time.Duration
	// Timeout of one request to the issuer; default 5 s.
	Timeout time.Duration
	// CAFile has the authorities that the issuer's certificate may be from;
	// default the system's.
	CAFile string
	// Accounts has the logins; nil for those of the chain.
	Accounts authn.Accounts
}

// MaxTokenOctets bounds a token.
const MaxTokenOctets = 16 << 10

// algorithms are all with a public key. Those with a shared secret are not
// among them: the issuer's public key would be everybody's secret.
var algorithms = []jose.SignatureAlgorithm{
	jose.RS256, jose.RS384, jose.RS512, jose.PS256, jose.PS384, jose.PS512, jose.ES256, jose.ES384, jose.ES512, jose.EdDSA,
}

// Algorithms lists the signatures there are.
func Algorithms() []string {
	var names []string
	for _, a := range algorithms {
		names = append(names, string(a))
	}
	return names
}

// Verifier judges the tokens of one issuer. It stands in a chain as a verifier
// without passwords. Safe for concurrent use.
type Verifier struct {
	cfg        Config
	algorithms []jose.SignatureAlgorithm
	issuer     *issuer
	log        hclog.Logger
	now        func() time.Time
}

// New returns a Verifier, without asking the issuer yet.
func New(cfg Config, log hclog.Logger) (*Verifier, error) {
	setDefault(&cfg.Name, "oauth")
	setDefault(&cfg.LoginClaim, "preferred_username")
	setDefault(&cfg.Skew, time.Minute)
	setDefault(&cfg.Timeout, 5*time.Second)
	if err := checkURL("issuer", cfg.Issuer); err != nil {
		return nil, err
	}
	if len(cfg.Audiences) == 0 {
		return nil, errors.New("authn oauth: no audience: tokens made for anybody would log in here")
	}
	if cfg.Introspect && (cfg.ClientID == "" || cfg.ClientSecret == "") {
		return nil, errors.New("authn oauth: introspection needs a client id and its secret")
	}
	v := &Verifier{cfg: cfg, algorithms: algorithms, log: log, now: time.Now}
	if len(cfg.Algorithms) > 0 {
		v.algorithms = nil
	}
	for _, name := range cfg.Algorithms {
		if !slices.Contains(algorithms, jose.SignatureAlgorithm(name)) {
			return nil, fmt.Errorf("authn oauth: unknown algorithm %q (known: %s)", name, strings.Join(Algorithms(), ", "))
		}
		v.algorithms = append(v.algorithms, jose.SignatureAlgorithm(name))
	}
	client, err := httpClient(cfg)
	if err != nil {
		return nil, err
	}
	v.issuer = newIssuer(cfg, client, log)
	v.issuer.now = func() time.Time { return v.now() }
	return v, nil
}

func setDefault[T comparable](field *T, value T) {
	var zero T
	if *field == zero {
		*field = value
	}
}

// checkURL refuses addresses at which somebody in between could answer.
func checkURL(what, address string) error {
	u, err := url.Parse(address)
	if err != nil || u.Host == "" || u.Scheme != "https" || u.User != nil || u.Fragment != "" {
		return fmt.Errorf("authn oauth: the %s %q is not an https URL", what, address)
	}
	return nil
}

// httpClient follows no redirect: what an issuer says stands where it says.
func httpClient(cfg Config) (*http.Client, error) {
	settings := &tls.Config{MinVersion: tls.VersionTLS12}
	if cfg.CAFile != "" {
		text, err := os.ReadFile(cfg.CAFile)
		if err != nil {
			return nil, fmt.Errorf("authn oauth: %w", err)
		}
		settings.RootCAs = x509.NewCertPool()
		if !settings.RootCAs.AppendCertsFromPEM(text) {
			return nil, fmt.Errorf("authn oauth: %s holds no certificate", cfg.CAFile)
		}
	}
	return &http.Client{
		Timeout: cfg.Timeout,
		Transport: &http.Transport{
			Proxy: http.ProxyFromEnvironment, TLSClientConfig: settings, ForceAttemptHTTP2: true,
			MaxIdleConns: 8, MaxIdleConnsPerHost: 4, IdleConnTimeout: 90 * time.Second, MaxResponseHeaderBytes: 64 << 10,
		},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}, nil
}

// Name implements authn.Verifier.
func (v *Verifier) Name() string { return v.cfg.Name }

// Verify implements authn.Verifier: there are no passwords.
func (v *Verifier) Verify(context.Context, authn.Attempt) (mail.Identity, error) {
	return mail.Identity{}, authn.ErrUnknownLogin
}

// Passwordless implements authn.Passwordless.
func (v *Verifier) Passwordless() {}

// Hint implements sasl.Tokens.
func (v *Verifier) Hint() (configuration, scope string) {
	return v.issuer.configurationURL(), strings.Join(v.cfg.Scopes, " ")
}

// Run keeps the issuer's keys fresh until ctx ends, so that logins seldom wait
// for them.
func (v *Verifier) Run(ctx context.Context) error {
	if v.cfg.Introspect {
		<-ctx.Done()
		return nil
	}
	for {
		if err := v.issuer.refresh(ctx); err != nil && ctx.Err() == nil {
			v.log.Warn("keys of the token issuer cannot be read", "verifier", v.cfg.Name, "issuer", v.cfg.Issuer, "err", err)
		}
		wait := time.NewTimer(v.issuer.untilRefresh())
		select {
		case <-ctx.Done():
			wait.Stop()
			return nil
		case <-wait.C:
		}
	}
}

// Check implements sasl.Tokens.
func (v *Verifier) Check(ctx context.Context, token, _ string) (authn.Vouched, error) {
	vouched := authn.Vouched{By: authn.ByToken, Accounts: v.cfg.Accounts, Detail: "issuer " + v.cfg.Issuer}
	if len(token) > MaxTokenOctets {
		return vouched, refuse("token of %d octets", len(token))
	}
	var c claims
	var err error
	if v.cfg.Introspect {
		c, err = v.issuer.introspect(ctx, token)
	} else {
		c, err = v.signed(ctx, token)
	}
	if err != nil {
		return vouched, err
	}
	if subject := c.text("sub"); subject != "" {
		vouched.Detail += ", subject " + fmt.Sprintf("%.100q", subject)
	}
	if err := v.allow(c); err != nil {
		return vouched, err
	}
	if vouched.Login, err = v.login(ctx, c); err != nil {
		return vouched, err
	}
	return vouched, nil
}

// refuse is a definite no. Tokens never stand in it.
func refuse(format string, args ...any) error {
	return status.Errorf(status.AuthFailed, format, args...)
}

// signed checks the signature of a token and returns what it says.
func (v *Verifier) signed(ctx context.Context, token string) (claims, error) {
	parsed, err := jose.ParseSignedCompact(token, v.algorithms)
	if err != nil {
		return nil, refuse("not a token with a signature that is allowed")
	}
	if len(parsed.Signatures) != 1 {
		return nil, refuse("token with %d signatures", len(parsed.Signatures))
	}
	header := parsed.Signatures[0].Protected
	keys, err := v.issuer.keysFor(ctx, header.KeyID)
	if err != nil {
		return nil, err
	}
	for _, key := range keys {
		if key.Algorithm != "" && key.Algorithm != header.Algorithm {
			continue
		}
		if payload, err := parsed.Verify(key.Key); err == nil {
			return parseClaims(payload)
		}
	}
	return nil, refuse("wrong signature, or by a key %.40q that the issuer does not publish", header.KeyID)
}

// Issuers are several Verifiers: the one whose issuer a token names judges it;
// of several with one issuer, such as one for each audience, the first that
// does not refuse it.
type Issuers []*Verifier

// Check implements sasl.Tokens.
func (all Issuers) Check(ctx context.Context, token, claimed string) (vouched authn.Vouched, err error) {
	issuer, known := claimedIssuer(token), false
	for _, v := range all {
		if len(all) > 1 && v.cfg.Issuer != issuer {
			continue
		}
		known = true
		if vouched, err = v.Check(ctx, token, claimed); status.Of(err) != status.AuthFailed {
			return vouched, err
		}
	}
	if known {
		return vouched, err
	}
	err = refuse("token of an issuer that is not in the configuration")
	for _, v := range all {
		if !v.cfg.Introspect {
			continue
		}
		if vouched, err = v.Check(ctx, token, claimed); status.Of(err) != status.AuthFailed {
			break
		}
	}
	return vouched, err
}

// Hint implements sasl.Tokens.
func (all Issuers) Hint() (configuration, scope string) {
	if len(all) == 1 {
		return all[0].Hint()
	}
	return "", ""
}

// claimedIssuer is the issuer that a token names, which nobody has checked.
func claimedIssuer(token string) string {
	if len(token) > MaxTokenOctets {
		return ""
	}
	parsed, err := jose.ParseSignedCompact(token, algorithms)
	if err != nil {
		return ""
	}
	c, err := parseClaims(parsed.UnsafePayloadWithoutVerification())
	if err != nil {
		return ""
	}
	return c.text("iss")
}
