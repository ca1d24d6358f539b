// Package certificate tells whose a client certificate is: a verified chain
// comes in, a login goes out. How the certificate was verified is the
// listener's business, whether the login has an account the chain's.
package certificate

import (
	"context"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/asn1"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/hashicorp/go-hclog"

	"github.com/postern-mail/postern/authn"
	"github.com/postern-mail/postern/mail"
	"github.com/postern-mail/postern/status"
)

// Source is where in a certificate a login stands.
type Source string

// The sources.
const (
	CommonName   Source = "common_name"   // CN of the subject
	EmailAddress Source = "email_address" // emailAddress of the subject (PKCS #9)
	SANEmail     Source = "san_email"     // rfc822Name of the alternative names
	SANUPN       Source = "san_upn"       // Microsoft's user principal name among them
	Subject      Source = "subject"       // the subject's DN, by Config.Template
	Fingerprint  Source = "fingerprint"   // no name in it counts, but Config.File
)

// Sources lists all sources.
func Sources() []Source {
	return []Source{CommonName, EmailAddress, SANEmail, SANUPN, Subject, Fingerprint}
}

// Config of a Mapper.
type Config struct {
	// Name in logs and audit; default "certificate".
	Name string
	// From are the sources in order; the first that a certificate has decides.
	From []Source
	// Template is a subject as RFC 4514 writes it, in which {login} stands for
	// the login, such as "CN={login},OU=People,O=Example". Required for
	// Subject.
	Template string
	// File holds lines of "fingerprint login", SHA-256 of the certificate in
	// hexadecimal with or without colons. Required for Fingerprint.
	File string
	// Issuer, when not empty, is the CommonName or the whole DN of the issuer
	// that a certificate must have, beside being verified.
	Issuer string
	// Accounts has the logins; nil for the accounts of the chain.
	Accounts authn.Accounts
}

// Mapper names owners. It stands in a chain as a verifier without passwords.
// Safe for concurrent use.
type Mapper struct {
	cfg    Config
	before string // of the template
	after  string
	list   *list // nil without a file
}

// New returns a Mapper; the file is read now.
func New(cfg Config, log hclog.Logger) (*Mapper, error) {
	if cfg.Name == "" {
		cfg.Name = "certificate"
	}
	if len(cfg.From) == 0 {
		return nil, errors.New("authn certificate: nothing says where in a certificate the login stands")
	}
	m := &Mapper{cfg: cfg}
	for _, source := range cfg.From {
		if !slices.Contains(Sources(), source) {
			return nil, fmt.Errorf("authn certificate: unknown source %q (known: %v)", source, Sources())
		}
	}
	if slices.Contains(cfg.From, Subject) {
		var found bool
		if m.before, m.after, found = strings.Cut(cfg.Template, "{login}"); !found || strings.Contains(m.after, "{login}") {
			return nil, errors.New("authn certificate: the template of the subject needs {login}, once")
		}
	}
	if slices.Contains(cfg.From, Fingerprint) {
		var err error
		if m.list, err = openList(cfg.File, log); err != nil {
			return nil, err
		}
	}
	return m, nil
}

// Name implements authn.Verifier.
func (m *Mapper) Name() string { return m.cfg.Name }

// Verify implements authn.Verifier: there are no passwords.
func (m *Mapper) Verify(context.Context, authn.Attempt) (mail.Identity, error) {
	return mail.Identity{}, authn.ErrUnknownLogin
}

// Passwordless implements authn.Passwordless.
func (m *Mapper) Passwordless() {}

var (
	errNobodys    = errors.New("nothing in the certificate names a login")
	errUnverified = errors.New("certificate is not verified")
)

// Owner returns whose certificate a connection shows, in Login, Accounts and
// Detail. It is AuthFailed when it is nobody's.
func (m *Mapper) Owner(state *tls.ConnectionState) (authn.Vouched, error) {
	v := authn.Vouched{By: authn.ByCertificate, Accounts: m.cfg.Accounts}
	if len(state.PeerCertificates) == 0 {
		return v, status.New(status.AuthFailed, errors.New("no certificate"))
	}
	leaf := state.PeerCertificates[0]
	print := sha256.Sum256(leaf.Raw)
	v.Detail = "certificate " + leaf.Subject.String() + " of " + leaf.Issuer.String() + ", SHA-256 " + hex.EncodeToString(print[:8])
	verified := len(state.VerifiedChains) > 0
	if verified && m.cfg.Issuer != "" && m.cfg.Issuer != leaf.Issuer.CommonName && m.cfg.Issuer != leaf.Issuer.String() {
		return v, status.Errorf(status.AuthFailed, "certificate of another issuer than %s", m.cfg.Issuer)
	}
	for _, source := range m.cfg.From {
		// A fingerprint in the list is trust enough; names are the word of
		// whoever signed them.
		if source != Fingerprint && !verified {
			continue
		}
		if v.Login = m.login(source, leaf, print); v.Login != "" {
			return v, nil
		}
	}
	if !verified {
		return v, status.New(status.AuthFailed, errUnverified)
	}
	return v, status.New(status.AuthFailed, errNobodys)
}

// login is what one source says; "" for nothing.
func (m *Mapper) login(source Source, leaf *x509.Certificate, print [sha256.Size]byte) string {
	switch source {
	case CommonName:
		return leaf.Subject.CommonName
	case EmailAddress:
		for _, name := range leaf.Subject.Names {
			if value, ok := name.Value.(string); ok && name.Type.Equal(oidEmailAddress) {
				return value
			}
		}
	case SANEmail:
		if len(leaf.EmailAddresses) > 0 {
			return leaf.EmailAddresses[0]
		}
	case SANUPN:
		return upn(leaf)
	case Subject:
		return between(leaf.Subject.String(), m.before, m.after)
	case Fingerprint:
		return m.list.login(print)
	}
	return ""
}

var (
	oidEmailAddress = asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 9, 1}
	oidAltName      = asn1.ObjectIdentifier{2, 5, 29, 17}
	oidUPN          = asn1.ObjectIdentifier{1, 3, 6, 1, 4, 1, 311, 20, 2, 3}
)

// upn returns the first user principal name of a certificate's alternative
// names, an otherName (RFC 5280 section 4.2.1.6).
func upn(leaf *x509.Certificate) string {
	for _, extension := range leaf.Extensions {
		if extension.Id.Equal(oidAltName) {
			return parseUPN(extension.Value)
		}
	}
	return ""
}

func parseUPN(der []byte) string {
	var names []asn1.RawValue
	if rest, err := asn1.Unmarshal(der, &names); err != nil || len(rest) > 0 {
		return ""
	}
	for _, name := range names {
		const otherName = 0
		if name.Class != asn1.ClassContextSpecific || name.Tag != otherName {
			continue
		}
		var kind asn1.ObjectIdentifier
		rest, err := asn1.Unmarshal(name.Bytes, &kind)
		if err != nil || !kind.Equal(oidUPN) {
			continue
		}
		var wrapped asn1.RawValue
		if rest, err = asn1.Unmarshal(rest, &wrapped); err != nil || len(rest) > 0 || wrapped.Class != asn1.ClassContextSpecific || wrapped.Tag != 0 {
			continue
		}
		var value string
		if rest, err = asn1.UnmarshalWithParams(wrapped.Bytes, &value, "utf8"); err == nil && len(rest) == 0 {
			return value
		}
	}
	return ""
}

// between returns what stands for {login}, one value of one part of a DN: with
// more in it, a subject could be made to read as somebody else's.
func between(subject, before, after string) string {
	rest, found := strings.CutPrefix(subject, before)
	if !found {
		return ""
	}
	login, found := strings.CutSuffix(rest, after)
	if !found || strings.ContainsAny(login, `,+=\"<>;#`) {
		return ""
	}
	return login
}
