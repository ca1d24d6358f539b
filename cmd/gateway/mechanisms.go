package main

import (
	"crypto/hmac"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"strings"

	"github.com/hashicorp/go-hclog"

	"github.com/postern-mail/postern/authn"
	authncert "github.com/postern-mail/postern/authn/certificate"
	"github.com/postern-mail/postern/authn/oauth"
	"github.com/postern-mail/postern/authn/sasl"
	"github.com/postern-mail/postern/config"
)

// proofs are what logins are proven by in a generation without a verifier
// being told a password.
type proofs struct {
	rules     sasl.Rules
	issuers   oauth.Issuers
	saltKey   []byte
	endPoints map[*config.TLS][][]byte
}

// saltKey makes of the key of the memory of logins another one, which salts may
// tell of.
func saltKey(key []byte) []byte {
	mac := hmac.New(sha256.New, key)
	mac.Write([]byte("SCRAM salts of logins without keys"))
	return mac.Sum(nil)
}

// vouching makes a verifier of mechanisms that prove logins themselves. It
// stands in the chain for its accounts.
func (b *builder) vouching(cfg *config.Authn, accounts authn.Accounts, log hclog.Logger) (authn.Verifier, error) {
	if cfg.Kind == "certificate" {
		room := cfg.Certificate()
		room.Accounts = accounts
		m, err := authncert.New(room, log)
		if err != nil {
			return nil, err
		}
		b.rules = append(b.rules, m)
		return m, nil
	}
	room, err := cfg.OAuth()
	if err != nil {
		return nil, err
	}
	room.Accounts = accounts
	v, err := oauth.New(room, log)
	if err != nil {
		return nil, err
	}
	b.issuers = append(b.issuers, v)
	b.task("keys of "+cfg.Issuer, v.Run)
	return v, nil
}

// mechanisms are those of one listener over a verifier. Own is the TLS block of
// the listener itself.
func (g *generation) mechanisms(policy sasl.Config, verifier sasl.Verifier, own *config.TLS) (*sasl.Mechanisms, error) {
	deps := sasl.Deps{
		Verifier: verifier, Keys: g.verifiers, SaltKey: g.saltKey, EndPoints: g.endPoints[g.file.Certificate(own)], Acceptors: g.tickets,
	}
	if len(g.rules) > 0 {
		deps.Certificates = g.rules
	}
	if len(g.issuers) > 0 {
		deps.Tokens = g.issuers
	}
	return sasl.New(policy, deps)
}

// findEndPoints computes what SCRAM's channel binding knows of certificates.
// Files that cannot be read are told of where they are used.
func (b *builder) findEndPoints() {
	b.endPoints = make(map[*config.TLS][][]byte)
	for _, l := range b.file.Logins() {
		t := b.file.Certificate(l.TLS)
		if t == nil || b.endPoints[t] != nil {
			continue
		}
		c, err := certificates(t)
		if err != nil {
			continue
		}
		for _, pair := range c {
			if leaf, err := x509.ParseCertificate(pair.Certificate[0]); err == nil {
				if end, err := sasl.EndPoint(leaf); err == nil {
					b.endPoints[t] = append(b.endPoints[t], end)
				}
			}
		}
	}
}

// mechanismsPossible refuses mechanisms that are named and cannot work: clients
// would never see them, and somebody counts on them.
func (b *builder) mechanismsPossible() {
	if b.verifiers == nil {
		return
	}
	for _, l := range b.file.Logins() {
		what := "listener " + l.Name
		m, err := b.mechanisms(l.SASL.Room(l.Insecure, b.file.Hostname), b.verifiers, l.TLS)
		if b.failed(what, err) {
			continue
		}
		if none := m.Impossible(); len(none) > 0 {
			b.failed(what, fmt.Errorf("sasl: %s cannot work here: %s", strings.Join(none, ", "), whyImpossible(none[0])))
		}
	}
}

// whyImpossible says what a mechanism lacks.
func whyImpossible(mechanism string) string {
	switch {
	case strings.HasPrefix(mechanism, "SCRAM-"):
		return "no verifier holds such keys or cleartext passwords; make them by postern password --scheme " + strings.ToLower(strings.TrimSuffix(mechanism, "-PLUS"))
	case mechanism == sasl.CRAMMD5:
		return "no verifier holds cleartext passwords"
	case mechanism == sasl.External:
		return `there is no authn "certificate" block`
	case mechanism == sasl.OAuthBearer, mechanism == sasl.XOAuth2:
		return `there is no authn "oauth" block`
	case mechanism == sasl.GSSAPI:
		return `there is no authn "gssapi" block`
	}
	return "no verifier takes passwords"
}

// clientCertificates asks clients of a listener for a certificate, as its
// configuration says.
func clientCertificates(t *config.TLS, c *tls.Config) error {
	if t.ClientAuth == "" || t.ClientAuth == "none" {
		return nil
	}
	authorities, err := t.ClientCAs()
	if err != nil {
		return fmt.Errorf("client_ca_file: %w", err)
	}
	if authorities != nil {
		c.ClientCAs = x509.NewCertPool()
		if !c.ClientCAs.AppendCertsFromPEM(authorities) {
			return fmt.Errorf("client_ca_file %s: %w", t.ClientCAFile, errNoCertificate)
		}
	}
	c.ClientAuth = tls.RequestClientCert
	if t.ClientAuth == "require" {
		c.ClientAuth = tls.RequireAndVerifyClientCert
	}
	return nil
}

var errNoCertificate = errors.New("no certificate in it")
