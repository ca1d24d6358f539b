package config

import (
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/postern-mail/postern/policy"
	"github.com/postern-mail/postern/policy/mailauth/dkim"
	"github.com/postern-mail/postern/policy/mailauth/signing"
)

// DKIM says how mail is signed, and where the keys are.
type DKIM struct {
	block
	KeyDir     string        `conf:"key_dir" doc:"Folder of keys, one folder for each domain with SELECTOR.pem or, as opendkim-genkey names it, SELECTOR.private; postern dkim keygen makes them. Looked at twice a minute. Empty: dkim in data_dir."`
	Headers    []string      `conf:"headers" doc:"Header fields that are signed where a message has them, beside From. Empty: those that say something to people or programs; docs/dkim.md."`
	Oversign   []string      `conf:"oversign" doc:"Those of them that are signed once more than they are there, so that nobody can add one. Empty: From, Reply-To, To, Cc, Subject, Date, Message-ID, MIME-Version, Content-Type, Content-Transfer-Encoding."`
	Canon      string        `conf:"canonicalization" default:"relaxed/relaxed" oneof:"relaxed/relaxed relaxed/simple simple/relaxed simple/simple" doc:"What header and body may suffer on the way: relaxed, changes of white space; simple, nothing."`
	Expires    time.Duration `conf:"expires" default:"0s" doc:"How long a signature holds (x=). 0: for ever. Mail that waits longer in a queue of others fails."`
	Subdomains bool          `conf:"subdomains" default:"false" doc:"Keys in key_dir sign for domains below their own, too, where these have none."`
	Own        bool          `conf:"sign_own" default:"true" doc:"Sign what the server writes itself, too: reports to senders, notices, reports on TLS and on DMARC."`
}

// DKIMKey is one key.
type DKIMKey struct {
	block
	Domain     string `conf:"domain,label"`
	Selector   string `conf:"selector" required:"the name of the key in the DNS, SELECTOR._domainkey.DOMAIN" doc:"Name of the key in the DNS."`
	File       string `conf:"file" required:"the file of the private key" doc:"Private key in PEM, RSA or Ed25519, which only the server's user can read (chmod 600). Read again on reload."`
	Subdomains bool   `conf:"subdomains" default:"false" doc:"Sign for domains below, too, where these have no key."`
}

// SigningOptions returns how messages are signed.
func (g *Gateway) SigningOptions() dkim.Options {
	if g.DKIM == nil {
		return dkim.Options{}
	}
	header, body, _ := strings.Cut(g.DKIM.Canon, "/")
	o := dkim.Options{SimpleHeader: header == "simple", SimpleBody: body == "simple", Validity: g.DKIM.Expires}
	if len(g.DKIM.Headers) > 0 {
		o.Headers = g.DKIM.Headers
	}
	if len(g.DKIM.Oversign) > 0 {
		o.Oversigned = g.DKIM.Oversign
	} else if o.Headers != nil {
		o.Oversigned = slices.DeleteFunc(dkim.DefaultOversigned(), func(name string) bool {
			return name != "from" && !slices.ContainsFunc(o.Headers, func(h string) bool { return strings.EqualFold(h, name) })
		})
	}
	return o
}

// SigningRoom returns where the keys are.
func (f *File) SigningRoom() signing.Config {
	cfg := signing.Config{Dir: f.KeyDir(), Options: f.Gateway.SigningOptions()}
	if f.Gateway.DKIM != nil {
		cfg.Subdomains = f.Gateway.DKIM.Subdomains
	}
	for _, k := range f.Gateway.DKIMKeys {
		cfg.Keys = append(cfg.Keys, signing.KeyConfig{Domain: k.Domain, Selector: k.Selector, File: k.File, Subdomains: k.Subdomains})
	}
	return cfg
}

// KeyDir returns the folder of DKIM keys.
func (f *File) KeyDir() string {
	if f.Gateway.DKIM != nil && f.Gateway.DKIM.KeyDir != "" {
		return f.Gateway.DKIM.KeyDir
	}
	return filepath.Join(f.DataDir, "dkim")
}

// signedTooEarly warns of maps that change on the way out what was signed before.
func (g *Gateway) signedTooEarly() []string {
	if g.Rewrite == nil || len(g.Rewrite.Generic) == 0 {
		return nil
	}
	lists := g.Policies
	for _, l := range g.Listeners {
		lists = append(slices.Clip(lists), l.Policies...)
	}
	var all []string
	for _, p := range lists {
		for _, step := range p.Steps {
			if p.List != string(policy.ListContent) || !slices.Contains([]string{signing.NameSign, signing.NameSeal}, step.name) {
				continue
			}
			maps := g.Rewrite.rangeOf("smtp_generic_maps")
			all = append(all, fmt.Sprintf("%s:%d: smtp_generic_maps change addresses behind %s (%s:%d), which breaks its signature of mail that has them: canonical_maps change them before it",
				maps.Filename, maps.Start.Line, step.name, step.at.Filename, step.at.Start.Line))
		}
	}
	return all
}

// SignsOwn reports whether what the server writes itself is signed.
func (f *File) SignsOwn() bool { return f.Gateway.DKIM == nil || f.Gateway.DKIM.Own }

func (c checker) dkim(g *Gateway) {
	if err := g.SigningOptions().Check(); err != nil && g.DKIM != nil {
		c.errorf(g.DKIM.at, "Wrong value", "%s", sentence(err.Error()))
	}
	seen := map[string]bool{}
	for _, k := range g.DKIMKeys {
		name := dkim.RecordName(strings.ToLower(k.Selector), strings.ToLower(k.Domain))
		if seen[name] {
			c.errorf(k.at, "Repeated name", "The key %s is defined already.", name)
		}
		seen[name] = true
		if k.File == "" || k.Selector == "" {
			continue // told already
		}
		private, err := signing.ReadKeyFile(k.File)
		if err == nil {
			_, err = dkim.NewKey(k.Domain, k.Selector, private)
		}
		if err != nil {
			c.errorf(k.at, "Cannot be used", "%s", sentence(err.Error()))
		}
	}
	for _, p := range g.Policies {
		c.signsLast(p)
	}
	for _, l := range g.Listeners {
		for _, p := range l.Policies {
			c.signsLast(p)
		}
	}
}

// signsLast sees that nothing changes a message once it is signed.
func (c checker) signsLast(p *Policy) {
	if p.List != string(policy.ListContent) {
		return
	}
	signed := ""
	for _, step := range p.Steps {
		switch {
		case step.name == signing.NameSign || step.name == signing.NameSeal:
			signed = step.name
		case signed != "":
			c.errorf(step.at, "Wrong order", "%s stands after %s: what it changes would break the signature. Put %s at the end of the list.", step.name, signed, signed)
			return
		}
	}
}

// signStages are the restrictions that sign, as far as they can be checked.
func (c checker) signStages(g *Gateway, all map[string]func(policy.Spec) (policy.Stage, error)) {
	all[signing.NameSign] = func(spec policy.Spec) (policy.Stage, error) {
		return signing.NewSign(spec, g.SigningOptions(), signing.Deps{Tables: c.opener()})
	}
	all[signing.NameSeal] = func(spec policy.Spec) (policy.Stage, error) { return signing.NewSeal(spec, signing.Deps{}) }
}
