package main

import (
	"github.com/hashicorp/go-hclog"

	"github.com/postern-mail/postern/authn"
	"github.com/postern-mail/postern/authn/gssapi"
	"github.com/postern-mail/postern/config"
)

// kerberos makes what takes tickets. In the chain it stands for the accounts
// that principals are logins of.
func (b *builder) kerberos(cfg *config.Authn, accounts authn.Accounts, log hclog.Logger) (authn.Verifier, error) {
	room := cfg.GSSAPI()
	room.Accounts = accounts
	v, err := gssapi.New(room, log)
	if err != nil {
		return nil, err
	}
	b.task("kerberos helper", v.Run)
	b.tickets = v
	return v, nil
}
