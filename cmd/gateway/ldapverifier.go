package main

import (
	"github.com/hashicorp/go-hclog"

	"github.com/postern-mail/postern/authn"
	authnfile "github.com/postern-mail/postern/authn/file"
	authnldap "github.com/postern-mail/postern/authn/ldap"
	"github.com/postern-mail/postern/config"
	"github.com/postern-mail/postern/mail"
)

// ldapVerifier makes the verifier of a directory's people by the method that is
// configured; domains are those of their addresses.
func ldapVerifier(cfg *config.Authn, domains []mail.Domain, s source, hasher *authn.Hasher, log hclog.Logger) (authn.Verifier, error) {
	who := cfg.LDAP(domains)
	switch cfg.Method {
	case config.MethodCompare:
		return authnldap.NewComparer(who, s, s.client, cfg.PasswordAttr)
	case config.MethodHash:
		hashes, err := authnldap.NewHashes(who, s, s.client, cfg.PasswordAttr)
		if err != nil {
			return nil, err
		}
		return authnfile.NewStored("ldap", hashes, hasher, log)
	}
	return authnldap.New(who, s, s.client)
}
