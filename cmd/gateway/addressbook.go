package main

import (
	"context"

	"github.com/postern-mail/postern/directory"
	"github.com/postern-mail/postern/mail"
	"github.com/postern-mail/postern/policy"
)

// addressBook asks, for each of our domains, the directory that knows it. It
// is immutable.
type addressBook struct {
	domains map[mail.Domain]domainEntry
}

type domainEntry struct {
	class     policy.DomainClass
	directory *directory.Directory // nil: every address is taken as it is
}

// Class implements policy.Domains.
func (b *addressBook) Class(d mail.Domain) policy.DomainClass { return b.domains[d].class }

// Resolve implements policy.Recipients.
func (b *addressBook) Resolve(ctx context.Context, a mail.Address) ([]mail.Recipient, error) {
	if entry := b.domains[a.Domain]; entry.directory != nil {
		return entry.directory.Resolve(ctx, a)
	}
	return []mail.Recipient{{Address: a, Accepted: a}}, nil
}

// MaySendAs implements policy.Owners. Addresses outside our domains belong to
// none of our people, and those of one directory to nobody of another, whose
// names may be the same.
func (b *addressBook) MaySendAs(ctx context.Context, id mail.Identity, a mail.Address) (bool, error) {
	if a.IsNull() {
		return true, nil
	}
	entry := b.domains[a.Domain]
	if entry.directory == nil || id.Source != "" && id.Source != entry.directory.Name() {
		return false, nil
	}
	return entry.directory.MaySendAs(ctx, id, a)
}

// Owners implements policy.Owners.
func (b *addressBook) Owners(ctx context.Context, a mail.Address) ([]string, error) {
	entry := b.domains[a.Domain]
	if entry.directory == nil {
		return nil, nil
	}
	return entry.directory.Owners(ctx, a)
}
