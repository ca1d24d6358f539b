package main

import (
	"context"
	"strings"

	"github.com/postern-mail/postern/config"
	"github.com/postern-mail/postern/mail"
	"github.com/postern-mail/postern/policy"
)

// localOwners tells which addresses are whose among the users of this machine:
// theirs under its name, those the directory gives to a login of that name,
// and for the trusted all.
type localOwners struct {
	directory policy.Owners
	listener  *config.SMTPListener
	hostname  mail.Domain
}

// Owners implements policy.Owners.
func (o localOwners) Owners(ctx context.Context, a mail.Address) ([]string, error) {
	return o.directory.Owners(ctx, a)
}

// MaySendAs implements policy.Owners.
func (o localOwners) MaySendAs(ctx context.Context, id mail.Identity, a mail.Address) (bool, error) {
	user := id.Authentication
	if o.listener.Trusts(user) || strings.EqualFold(string(a.Domain), string(o.hostname)) && string(a.Local) == user {
		return true, nil
	}
	return o.directory.MaySendAs(ctx, id, a)
}

// ownersFor returns who owns which sender addresses on a listener.
func (b *builder) ownersFor(l *config.SMTPListener) policy.Owners {
	if l.Mode != config.ModeLocal {
		return b.loginMaps(b.book)
	}
	return localOwners{b.loginMaps(b.book), l, mail.Domain(b.file.Hostname)}
}
