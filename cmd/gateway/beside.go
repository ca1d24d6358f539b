package main

import (
	"net/netip"

	"github.com/hashicorp/go-hclog"

	"github.com/postern-mail/postern/authn"
	"github.com/postern-mail/postern/authn/apppass"
	authnfile "github.com/postern-mail/postern/authn/file"
	"github.com/postern-mail/postern/authn/master"
	"github.com/postern-mail/postern/config"
)

// thisMachine is where recovery accounts log in from unless the configuration
// names networks.
var thisMachine = []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8"), netip.MustParsePrefix("::1/128")}

// besideLink makes a verifier that stands beside those of people's own
// passwords; without a Verifier where a command only asks, and has none.
func (b *builder) besideLink(cfg *config.Authn, link authn.Link, hasher *authn.Hasher, log hclog.Logger) (authn.Link, error) {
	if cfg.Kind == config.AuthnAppPasswords {
		if b.logins == nil {
			return authn.Link{}, nil
		}
		v := b.logins.apps.Verifier(cfg.Directory)
		link.Verifier, link.Takes, link.Unguessable, link.Additional = v, v.Takes, true, true
		return link, nil
	}
	passwords, err := authnfile.New(cfg.PasswordFile(), hasher, log)
	if err != nil {
		return link, err
	}
	accounts := link.Accounts
	link.Accounts, link.Apart = nil, true
	if cfg.Kind == config.AuthnMaster {
		link.Impersonates = true
		link.Verifier, err = master.New(cfg.Master(), passwords, accounts)
		return link, err
	}
	networks := cfg.Networks
	if len(networks) == 0 {
		networks = thisMachine
	}
	link.Verifier = master.NewRecovery(networks, passwords)
	return link, nil
}

// beside gives a verifier of people's own passwords what stands beside it: the
// protocols that it is no good for, and the memory of what it said.
func (b *builder) beside(cfg *config.Authn, link authn.Link) authn.Link {
	switch cfg.Kind {
	case config.AuthnAppPasswords, config.AuthnMaster, config.AuthnRecovery:
		return link
	}
	if only := b.file.AppPasswordsOnly(); len(only) > 0 {
		link.Takes = func(a authn.Attempt) bool { return !apppass.IsProtocol(only, a.Service) }
	}
	if b.logins == nil {
		return link
	}
	switch cfg.Cache {
	case config.CacheOnlineOnly:
		link.Recall = b.logins.recall.Online()
	case config.CacheOfflineOK:
		link.Recall = b.logins.recall.OfflineToo()
	}
	link.RecalledAs, link.PerService = b.file.RecalledAs(cfg), cfg.Kind == "pam"
	return link
}

// rank is the place of a link in the chain.
func rank(l authn.Link) int {
	switch l.Verifier.(type) {
	case *master.Verifier:
		return 0
	case *master.Recovery:
		return 1
	}
	return 2
}
