package main

import (
	"context"

	"github.com/postern-mail/postern/mail"
	"github.com/postern-mail/postern/policy"
	"github.com/postern-mail/postern/status"
)

// people tells rules what the directories know of somebody.
type people struct{ *generation }

// people returns what policy asks about accounts; nil where no directory says
// anything that rules look at.
func (g *generation) people() policy.Accounts {
	if !g.file.KnowsPeople() {
		return nil
	}
	return people{g}
}

// AccountOf implements policy.Accounts. Who is of no directory has an account
// of which nothing is known.
func (p people) AccountOf(ctx context.Context, id mail.Identity) (mail.Account, error) {
	if id.Source == "" {
		return mail.Account{Name: id.Authentication}, nil
	}
	s, known := p.sources[id.Source]
	if !known { // of a configuration that is no more
		return mail.Account{}, status.Errorf(status.ConfigurationError, "directory %q of %s is not configured any more", id.Source, id.Authentication)
	}
	return s.AccountNamed(ctx, id.Authentication)
}

// Holder implements policy.Accounts.
func (p people) Holder(ctx context.Context, a mail.Address) (mail.Account, error) {
	a.Domain = p.book.domain(a.Domain)
	entry := p.book.domains[a.Domain]
	if entry.directory == nil {
		return mail.Account{}, status.Errorf(status.NoSuchUser, "no directory knows the people of %s", a.Domain)
	}
	return entry.directory.AccountOf(ctx, a)
}

// Belongs implements rules.Groups: the directory of the group's domain tells.
func (p people) Belongs(ctx context.Context, who mail.Poster, group mail.Address) (bool, error) {
	group.Domain = p.book.domain(group.Domain)
	d := p.book.domains[group.Domain].directory
	if d == nil {
		return false, status.Errorf(status.NoSuchUser, "no directory knows the groups of %s", group.Domain)
	}
	return d.Belongs(ctx, who, group)
}
