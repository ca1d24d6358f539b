package sasl

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/postern-mail/postern/authn"
	"github.com/postern-mail/postern/mail"
)

// Config is the policy of one listener.
type Config struct {
	// Mechanisms are offered under TLS, in this order; none for every one that
	// is possible here, but for those that need switching on.
	Mechanisms []string
	// MechanismsWithoutTLS are offered on unprotected connections; default
	// none.
	MechanismsWithoutTLS []string
	// AllowWithoutTLS offers on unprotected connections what is offered under
	// TLS, passwords included, where MechanismsWithoutTLS is empty; default no.
	AllowWithoutTLS bool
	// Refuse are words for what mechanisms must not be, as in Postfix's
	// smtpd_sasl_security_options; default nothing.
	Refuse []Weakness
	// RefuseWithoutTLS are further ones for unprotected connections.
	RefuseWithoutTLS []Weakness
	// Hostname stands in the challenges of CRAM-MD5; default localhost.
	Hostname string
}

// Weakness is a word of Postfix's smtpd_sasl_security_options: what a mechanism
// must not be, or has to do.
type Weakness string

// The weaknesses.
const (
	NoAnonymous    Weakness = "noanonymous"     // need no name; none of ours
	NoPlaintext    Weakness = "noplaintext"     // carry the secret itself
	NoActive       Weakness = "noactive"        // give way to somebody in between
	NoDictionary   Weakness = "nodictionary"    // let who listens guess the password
	ForwardSecrecy Weakness = "forward_secrecy" // need not hold past sessions safe from a later theft; all of ours
	MutualAuth     Weakness = "mutual_auth"     // do not prove the server to the client
)

// Weaknesses lists the words of Config.Refuse.
func Weaknesses() []Weakness {
	return []Weakness{NoAnonymous, NoPlaintext, NoActive, NoDictionary, ForwardSecrecy, MutualAuth}
}

// Deps are what logins are proven by; nil for what there is none of.
type Deps struct {
	Verifier  Verifier
	Acceptors Acceptors // for GSSAPI
	Keys      Keys      // for SCRAM and CRAM-MD5

	Certificates Certificates // for EXTERNAL
	Tokens       Tokens       // for OAUTHBEARER and XOAUTH2
	// SaltKey makes the salts of logins that have none of their own. Whoever
	// knows it can tell which logins exist.
	SaltKey []byte
	// EndPoints are the EndPoint of each certificate clients may see, for
	// SCRAM's -PLUS.
	EndPoints [][]byte
}

// Keys are the secrets that verifiers hold. Implemented by authn.Chain, whose
// methods say more.
type Keys interface {
	Covers(form string) authn.Coverage
	Example(form string) string
	Held(ctx context.Context, login, form string) (*authn.Held, error)
	CleartextKeys(ctx context.Context, form, password string, salt []byte) (authn.SCRAMKeys, error)
}

// spec is what there is to know of a mechanism.
type spec struct {
	begin func(x *Exchange) step
	// possible tells whether anybody could log in by it here; nil for always.
	possible func(d *Deps) bool
	// wanted tells whether it should be offered where nobody named it; nil for
	// whenever it is possible.
	wanted func(d *Deps) bool
	// open tells whether this client could; nil for yes.
	open func(d *Deps, client *mail.Client) bool
	most int // octets of a response
	weak []Weakness
	// onRequest keeps it out of the lists that nobody wrote.
	onRequest bool
}

// preference is the order in which mechanisms are offered where nobody chose:
// many clients take the first they know.
var preference = []string{
	SCRAMSHA256 + plus, SCRAMSHA256, SCRAMSHA1 + plus, SCRAMSHA1, GSSAPI, External, OAuthBearer, XOAuth2, CRAMMD5, Plain, Login,
}

var mechanisms = map[string]spec{
	SCRAMSHA256 + plus: scramSpec(authn.FormSCRAMSHA256, true),
	SCRAMSHA256:        scramSpec(authn.FormSCRAMSHA256, false),
	SCRAMSHA1 + plus:   scramSpec(authn.FormSCRAMSHA1, true),
	SCRAMSHA1:          scramSpec(authn.FormSCRAMSHA1, false),
	External: {
		begin:    func(x *Exchange) step { return x.external },
		possible: func(d *Deps) bool { return d.Certificates != nil }, open: showsCertificate,
		most: authn.MaxLoginOctets, weak: []Weakness{MutualAuth, ForwardSecrecy},
	},
	OAuthBearer: tokenSpec(parseBearer),
	XOAuth2:     tokenSpec(parseXOAuth2),
	CRAMMD5: {
		begin:     func(x *Exchange) step { return x.cramMD5 },
		possible:  func(d *Deps) bool { return d.Keys != nil && d.Keys.Covers(authn.FormCleartext) > authn.CoversNone },
		onRequest: true, most: maxCRAMOctets,
		weak: []Weakness{NoActive, NoDictionary, ForwardSecrecy, MutualAuth},
	},
	Plain: {
		begin: func(x *Exchange) step { return x.plain }, possible: takesPasswords, most: maxPasswordOctets,
		weak: []Weakness{NoPlaintext, NoActive, NoDictionary, ForwardSecrecy, MutualAuth},
	},
	Login: {
		begin: func(x *Exchange) step { return x.loginName }, possible: takesPasswords, most: maxPasswordOctets,
		weak: []Weakness{NoPlaintext, NoActive, NoDictionary, ForwardSecrecy, MutualAuth},
	},
	GSSAPI: {
		begin:    func(x *Exchange) step { return x.gssapi },
		possible: func(d *Deps) bool { return d.Acceptors != nil && d.Acceptors.Ready() },
		most:     maxTicketOctets,
		weak:     []Weakness{NoDictionary, ForwardSecrecy},
	},
}

func takesPasswords(d *Deps) bool { return d.Verifier.TakesPasswords() }

// Known lists the mechanisms there are, in the order they are offered.
func Known() []string { return slices.Clone(preference) }

// offer is what a listener may offer in one state of its connections.
type offer struct {
	names []string
	// named are those that the configuration names.
	named bool
}

// New returns the mechanisms of cfg over deps. It refuses names and words that
// do not exist. What is named and cannot be offered is for Impossible to tell.
func New(cfg Config, deps Deps) (*Mechanisms, error) {
	m := &Mechanisms{cfg: cfg, specs: mechanisms, deps: deps}
	var err error
	if m.protected, err = newOffer(cfg.Mechanisms, cfg.Refuse); err != nil {
		return nil, err
	}
	without, refuse := cfg.MechanismsWithoutTLS, slices.Concat(cfg.Refuse, cfg.RefuseWithoutTLS)
	if len(without) == 0 && cfg.AllowWithoutTLS {
		m.unprotected, err = newOffer(cfg.Mechanisms, refuse)
	} else if len(without) > 0 {
		m.unprotected, err = newOffer(without, refuse)
	}
	if err != nil {
		return nil, err
	}
	return m, nil
}

func newOffer(names []string, refuse []Weakness) (offer, error) {
	o := offer{named: len(names) > 0}
	for _, word := range refuse {
		if !slices.Contains(Weaknesses(), word) {
			return offer{}, fmt.Errorf("sasl: unknown security option %q (known: %v)", word, Weaknesses())
		}
	}
	if !o.named {
		names = slices.DeleteFunc(Known(), func(name string) bool { return mechanisms[name].onRequest })
	}
	for _, name := range names {
		name = strings.ToUpper(name)
		known, found := mechanisms[name]
		if !found {
			return offer{}, fmt.Errorf("sasl: unknown mechanism %q (known: %s)", name, strings.Join(preference, ", "))
		}
		if !slices.ContainsFunc(refuse, func(w Weakness) bool { return slices.Contains(known.weak, w) }) {
			o.names = append(o.names, name)
		}
	}
	return o, nil
}

// offers tells whether a connection may use a mechanism.
func (m *Mechanisms) offers(name string, client *mail.Client) bool {
	o := m.offerOf(client)
	return slices.Contains(o.names, name) && m.usable(name, o.named, client)
}

func (m *Mechanisms) offerOf(client *mail.Client) offer {
	if client.TLS == nil {
		return m.unprotected
	}
	return m.protected
}

func (m *Mechanisms) usable(name string, named bool, client *mail.Client) bool {
	s := m.specs[name]
	return (named || s.wanted == nil || s.wanted(&m.deps)) && (s.possible == nil || s.possible(&m.deps)) && (s.open == nil || s.open(&m.deps, client))
}

// List names the mechanisms on offer to a client; callers must not change the
// slice.
func (m *Mechanisms) List(client *mail.Client) []string {
	o := m.offerOf(client)
	names := o.names
	for i, name := range names {
		if m.usable(name, o.named, client) {
			continue
		}
		usable := slices.Clone(names[:i])
		for _, name := range names[i+1:] {
			if m.usable(name, o.named, client) {
				usable = append(usable, name)
			}
		}
		return usable
	}
	return names
}

// Impossible lists the mechanisms that the configuration names although nobody
// could log in by them.
func (m *Mechanisms) Impossible() []string {
	var all []string
	for _, o := range []offer{m.protected, m.unprotected} {
		for _, name := range o.names {
			if s := m.specs[name]; o.named && s.possible != nil && !s.possible(&m.deps) && !slices.Contains(all, name) {
				all = append(all, name)
			}
		}
	}
	return all
}
