package config

import (
	"fmt"
	"os"
	"slices"
	"strings"

	"github.com/postern-mail/postern/authn/certificate"
	"github.com/postern-mail/postern/authn/oauth"
	"github.com/postern-mail/postern/authn/sasl"
)

// SASL is how clients of a listener may log in.
type SASL struct {
	block
	Mechanisms           []string `conf:"mechanisms" doc:"Mechanisms on offer under TLS, in this order; docs/authentication.md lists them and what each needs. None: every one that works here, but for CRAM-MD5, and SCRAM only where everybody's keys are held."`
	MechanismsWithoutTLS []string `conf:"mechanisms_without_tls" doc:"Mechanisms on offer without TLS. None: none, or with allow_plaintext_auth those above."`
	Options              []string `conf:"security_options" doc:"What mechanisms must not be, in the words of Postfix's smtpd_sasl_tls_security_options: noanonymous, noplaintext (which refuses tokens too), noactive, nodictionary, forward_secrecy, mutual_auth. It takes from the lists above."`
	OptionsWithoutTLS    []string `conf:"security_options_without_tls" doc:"The same, and further, without TLS: Postfix's smtpd_sasl_security_options."`
}

// Room returns the policy of a listener; s may be nil.
func (s *SASL) Room(insecure bool, hostname string) sasl.Config {
	cfg := sasl.Config{AllowWithoutTLS: insecure, Hostname: hostname}
	if s == nil {
		return cfg
	}
	cfg.Mechanisms, cfg.MechanismsWithoutTLS = s.Mechanisms, s.MechanismsWithoutTLS
	cfg.Refuse, cfg.RefuseWithoutTLS = weaknesses(s.Options), weaknesses(s.OptionsWithoutTLS)
	return cfg
}

func weaknesses(words []string) []sasl.Weakness {
	var all []sasl.Weakness
	for _, word := range words {
		all = append(all, sasl.Weakness(strings.ToLower(word)))
	}
	return all
}

// withoutTLS tells whether anything is on offer without TLS.
func (s *SASL) withoutTLS(insecure bool) bool {
	return insecure || s != nil && len(s.MechanismsWithoutTLS) > 0
}

// sasl checks the words of a policy. Whether its mechanisms can work is seen
// when the verifiers are there.
func (c checker) sasl(s *SASL) {
	if s == nil {
		return
	}
	for name, words := range map[string][]string{"mechanisms": s.Mechanisms, "mechanisms_without_tls": s.MechanismsWithoutTLS} {
		for _, word := range words {
			if !slices.Contains(sasl.Known(), strings.ToUpper(word)) {
				c.errorf(s.rangeOf(name), "Unknown mechanism", "%q is none of %s.", word, strings.Join(sasl.Known(), ", "))
			}
		}
	}
	for name, words := range map[string][]string{"security_options": s.Options, "security_options_without_tls": s.OptionsWithoutTLS} {
		for _, word := range weaknesses(words) {
			if !slices.Contains(sasl.Weaknesses(), word) {
				c.errorf(s.rangeOf(name), "Unknown option", "%q is none of %v.", word, sasl.Weaknesses())
			}
		}
	}
}

// clientCertificates checks who is asked for a certificate.
func (c checker) clientCertificates(t *TLS) {
	c.readable(&t.block, "client_ca_file", t.ClientCAFile)
	switch {
	case t.ClientAuth == "require" && t.ClientCAFile == "":
		c.errorf(t.rangeOf("client_auth"), "Missing setting", `Whose certificates are good says "client_ca_file".`)
	case t.ClientAuth == "none" && t.ClientCAFile != "":
		c.errorf(t.rangeOf("client_ca_file"), "Contradiction", `Nobody is asked for a certificate: set client_auth = "request".`)
	}
}

// vouching checks verifiers that take no passwords.
func (c checker) vouching(a *Authn) {
	if !c.file.hasAccounts() {
		c.errorf(a.at, "Missing setting", `This verifier needs "directory", such as directory.NAME: nothing else tells which logins there are, and everybody whom the %s names would log in.`, map[string]string{"certificate": "authority", "oauth": "issuer"}[a.Kind])
	}
	switch a.Kind {
	case "certificate":
		for _, source := range a.LoginFrom {
			if !slices.Contains(certificate.Sources(), certificate.Source(source)) {
				c.errorf(a.rangeOf("login_from"), "Unknown source", "%q is none of %v.", source, certificate.Sources())
			}
		}
		if len(a.LoginFrom) == 0 {
			c.errorf(a.at, "Missing setting", `This verifier needs "login_from", such as ["san_email"]: where in a certificate the login stands.`)
		}
		if slices.Contains(a.LoginFrom, string(certificate.Fingerprint)) && a.File == "" {
			c.errorf(a.at, "Missing setting", `Fingerprints need "file", with lines of a fingerprint and a login.`)
		}
		if slices.Contains(a.LoginFrom, string(certificate.Subject)) && strings.Count(a.SubjectTemplate, "{login}") != 1 {
			c.errorf(a.at, "Missing setting", `The subject needs "subject_template", such as "CN={login},O=Example".`)
		}
		c.readable(&a.block, "file", a.File)
	case "oauth":
		if a.Issuer == "" {
			c.errorf(a.at, "Missing setting", `This verifier needs "issuer", the URL that stands in tokens as iss.`)
		} else if !strings.HasPrefix(a.Issuer, "https://") {
			c.errorf(a.rangeOf("issuer"), "Wrong value", "%q is no https URL.", a.Issuer)
		}
		if len(a.Audiences) == 0 {
			c.errorf(a.at, "Missing setting", `This verifier needs "audiences": tokens made for anybody would log in here.`)
		}
		if a.Introspect && (a.ClientID == "" || a.ClientSecretFile == "") {
			c.errorf(a.rangeOf("introspect"), "Missing setting", `To ask the issuer about tokens takes "client_id" and "client_secret_file".`)
		}
		for _, name := range a.Algorithms {
			if !slices.Contains(oauth.Algorithms(), name) {
				c.errorf(a.rangeOf("algorithms"), "Unknown algorithm", "%q is none of %s.", name, strings.Join(oauth.Algorithms(), ", "))
			}
		}
		if _, err := a.claims(); err != nil {
			c.errorf(a.rangeOf("claims"), "Wrong value", "%v", err)
		}
		c.readable(&a.block, "ca_file", a.CAFile)
		c.readable(&a.block, "client_secret_file", a.ClientSecretFile)
	}
}

// Passwordless tells whether a verifier is one of mechanisms that prove a login
// themselves.
func (a *Authn) Passwordless() bool { return a.Kind == "certificate" || a.Kind == "oauth" }

// Certificate returns how logins are found in certificates.
func (a *Authn) Certificate() certificate.Config {
	cfg := certificate.Config{Template: a.SubjectTemplate, File: a.File, Issuer: a.Issuer}
	for _, source := range a.LoginFrom {
		cfg.From = append(cfg.From, certificate.Source(source))
	}
	return cfg
}

// OAuth returns what tokens are good.
func (a *Authn) OAuth() (oauth.Config, error) {
	cfg := oauth.Config{
		Issuer: a.Issuer, Introspect: a.Introspect, ClientID: a.ClientID, Audiences: a.Audiences, Parties: a.Clients, Scopes: a.Scopes,
		LoginClaim: a.LoginClaim, UnverifiedEmail: a.UnverifiedEmail, Algorithms: a.Algorithms, CAFile: a.CAFile,
	}
	var err error
	if cfg.Claims, err = a.claims(); err == nil && a.ClientSecretFile != "" {
		cfg.ClientSecret, err = firstLine(a.ClientSecretFile)
	}
	return cfg, err
}

func (a *Authn) claims() (map[string]string, error) {
	claims := make(map[string]string)
	for _, text := range a.Claims {
		name, value, found := strings.Cut(text, "=")
		if !found || name == "" {
			return nil, fmt.Errorf(`%q is not "claim=value"`, text)
		}
		claims[name] = value
	}
	return claims, nil
}

// ClientCAs returns the authorities of clients' certificates, PEM; nil for
// none.
func (t *TLS) ClientCAs() ([]byte, error) {
	if t.ClientCAFile == "" {
		return nil, nil
	}
	return os.ReadFile(t.ClientCAFile)
}

// LoginListener is a listener whose clients may log in.
type LoginListener struct {
	Name     string
	SASL     *SASL // nil for the defaults
	TLS      *TLS  // its own; nil for none of its own
	Insecure bool
}

// Logins lists the listeners whose clients may log in.
func (f *File) Logins() []LoginListener {
	var all []LoginListener
	if f.Gateway != nil {
		for _, l := range f.Gateway.Listeners {
			if l.Auth != "none" {
				all = append(all, LoginListener{l.Name, l.SASL, l.TLS, l.InsecureAuth})
			}
		}
	}
	if f.Proxy != nil {
		for _, l := range f.Proxy.Listeners {
			all = append(all, LoginListener{"proxy " + l.Kind, l.SASL, l.TLS, l.InsecureAuth})
		}
	}
	if f.Backend != nil {
		for _, l := range f.Backend.Listeners {
			if l.Kind != KindLMTP {
				all = append(all, LoginListener{l.Kind, l.SASL, l.TLS, l.InsecureAuth})
			}
		}
	}
	return all
}
