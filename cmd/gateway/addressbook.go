package main

import (
	"context"
	"net/netip"
	"slices"
	"strings"

	"github.com/postern-mail/postern/delivery"
	"github.com/postern-mail/postern/directory"
	"github.com/postern-mail/postern/mail"
	"github.com/postern-mail/postern/policy"
	"github.com/postern-mail/postern/status"
)

// addressBook asks, for each of our domains, the directory that knows it. It
// is immutable.
type addressBook struct {
	domains map[mail.Domain]domainEntry
	// us and home are for address literals: one of ours stands for the domain
	// home (RFC 5321 section 4.1.3). Without home there are none.
	us   *delivery.Ourselves
	home mail.Domain
}

// domain returns the domain a stands for: itself, but for an address literal
// that is ours.
func (b *addressBook) domain(d mail.Domain) mail.Domain {
	if b.home == "" || !d.IsLiteral() {
		return d
	}
	text := strings.Trim(string(d), "[]")
	if len(text) > 5 && strings.EqualFold(text[:5], "IPv6:") {
		text = text[5:]
	}
	if addr, err := netip.ParseAddr(text); err == nil && b.us.Have(addr) {
		return b.home
	}
	return d
}

type domainEntry struct {
	class     policy.DomainClass
	directory *directory.Directory // nil: every address is taken as it is
}

func (e domainEntry) resolve(ctx context.Context, a mail.Address, from *mail.Poster) ([]mail.Recipient, error) {
	if from == nil {
		return e.directory.Resolve(ctx, a)
	}
	return e.directory.ResolveFor(ctx, a, *from)
}

// Class implements policy.Domains.
func (b *addressBook) Class(d mail.Domain) policy.DomainClass { return b.domains[b.domain(d)].class }

// Resolve implements policy.Recipients. What an address stands for may lie in
// a domain that another directory knows: that one is asked in turn.
func (b *addressBook) Resolve(ctx context.Context, a mail.Address, from *mail.Poster) ([]mail.Recipient, error) {
	a.Domain = b.domain(a.Domain)
	entry := b.domains[a.Domain]
	if entry.directory == nil {
		return []mail.Recipient{{Address: a, Accepted: a}}, nil
	}
	found, err := entry.resolve(ctx, a, from)
	if err != nil || !b.leadsOn(entry, found) {
		return found, err
	}
	j := journey{book: b, start: a, from: from, underWay: map[mail.Address]bool{a.Fold(): true}, have: map[mail.Address]bool{}}
	if err := j.follow(ctx, entry, found); err != nil {
		return nil, err
	}
	return j.end()
}

// leadsOn reports whether any recipient is another directory's to resolve.
func (b *addressBook) leadsOn(entry domainEntry, found []mail.Recipient) bool {
	return slices.ContainsFunc(found, func(r mail.Recipient) bool {
		next := b.domains[r.Address.Domain].directory
		return next != nil && next != entry.directory
	})
}

// journey follows an address from directory to directory.
type journey struct {
	book       *addressBook
	start      mail.Address
	from       *mail.Poster
	underWay   map[mail.Address]bool // addresses asked about; false when done
	have       map[mail.Address]bool
	recipients []mail.Recipient
	looped     bool
	refused    error // why one of them gets no mail
}

// maxJourney bounds the addresses that lead from one directory to another:
// each directory bounds what it makes of one.
const maxJourney = 1000

func (j *journey) follow(ctx context.Context, from domainEntry, found []mail.Recipient) error {
	for _, r := range found {
		entry := j.book.domains[r.Address.Domain]
		if entry.directory == nil || entry.directory == from.directory {
			j.arrive(r)
			continue
		}
		if err := j.ask(ctx, entry, r.Address); err != nil {
			return err
		}
	}
	return nil
}

// ask goes on with an address in the directory that knows its domain.
func (j *journey) ask(ctx context.Context, entry domainEntry, a mail.Address) error {
	key := a.Fold()
	if underWay, known := j.underWay[key]; known {
		j.looped = j.looped || underWay
		return nil
	}
	if len(j.underWay) == maxJourney {
		return status.Errorf(status.AddressLoop, "%s leads through more than %d addresses of other directories", j.start, maxJourney)
	}
	j.underWay[key] = true
	defer func() { j.underWay[key] = false }()
	found, err := entry.resolve(ctx, a, j.from)
	if status.Of(err).Permanent() {
		j.refused = err // the others get it, as in a group
		return nil
	}
	if err != nil {
		return err
	}
	return j.follow(ctx, entry, found)
}

func (j *journey) arrive(r mail.Recipient) {
	key := r.Address.Fold()
	if j.have[key] {
		return
	}
	j.have[key] = true
	r.Accepted = j.start
	j.recipients = append(j.recipients, r)
}

func (j *journey) end() ([]mail.Recipient, error) {
	switch {
	case len(j.recipients) > 0:
		return j.recipients, nil
	case j.looped:
		return nil, status.Errorf(status.AddressLoop, "%s leads only back to itself", j.start)
	default:
		return nil, j.refused
	}
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
