package directory

import (
	"context"
	"encoding/binary"
	"errors"
	"slices"
	"strconv"
	"strings"

	"github.com/postern-mail/postern/mail"
	"github.com/postern-mail/postern/status"
)

// findMembership looks for accounts that name the address as a group they
// belong to (Mapping.MembershipAttributes): such a group has no entry of its
// own. Only keys better than rank are looked for.
func (d *Directory) findMembership(ctx context.Context, w wanted, rank int, t *trace) (hit, bool, error) {
	m := d.mapping
	if len(m.MembershipAttributes) == 0 {
		return hit{}, false, nil
	}
	for i, key := range w.keys[:min(rank, len(w.keys)-1)] { // the last is the catch-all
		entries, err := d.search(ctx, Request{
			Base:       m.UserBase,
			Filter:     And(m.user, d.claimFilter(wanted{keys: []mail.Address{key}}, m.MembershipAttributes, nil)),
			Attributes: m.userAttributes,
			SizeLimit:  d.cfg.MaxRecipients,
		}, t)
		if errors.Is(err, ErrSizeLimit) {
			return hit{}, false, status.New(status.AddressLoop, err)
		}
		if err != nil {
			return hit{}, false, err
		}
		if len(entries) > 0 {
			t.decide("%d accounts name %s as their group", len(entries), key)
			return hit{members: entries, isGroup: true, rank: i}, true, nil
		}
	}
	return hit{}, false, nil
}

// memberEntries works on entries that a search found to be members.
func (r *resolution) memberEntries(ctx context.Context, entries []Entry, depth int) error {
	for _, e := range entries {
		if err := r.expand(ctx, hit{entry: e}, depth); err != nil {
			return err
		}
	}
	return nil
}

// primaryMembers works on the accounts whose primary group an entry is. Active
// Directory names them in no attribute of the group, but in a number of the
// account, which is the end of the group's security identifier.
func (r *resolution) primaryMembers(ctx context.Context, e Entry, depth int) error {
	m := r.d.mapping
	if m.PrimaryGroupAttribute == "" {
		return nil
	}
	number, ok := relativeID(e.First("objectSid"))
	if !ok {
		return nil
	}
	entries, err := r.d.search(ctx, Request{
		Base:       m.UserBase,
		Filter:     And(m.user, Equal(m.PrimaryGroupAttribute, number)),
		Attributes: m.userAttributes,
		SizeLimit:  r.d.cfg.MaxRecipients,
	}, r.trace)
	if errors.Is(err, ErrSizeLimit) {
		return status.New(status.AddressLoop, err)
	}
	if err != nil {
		return err
	}
	return r.memberEntries(ctx, entries, depth+1)
}

// relativeID returns the last part of a binary security identifier, in decimal:
// a revision, a count of parts, six octets of authority, and the parts of four
// octets each, the low one first ([MS-DTYP] section 2.4.2.2).
func relativeID(sid string) (string, bool) {
	if len(sid) < 12 || sid[0] != 1 || len(sid) != 8+4*int(sid[1]) {
		return "", false
	}
	return strconv.FormatUint(uint64(binary.LittleEndian.Uint32([]byte(sid[len(sid)-4:]))), 10), true
}

// forwardEntries works on the entries that an account's mail goes to by DN.
func (r *resolution) forwardEntries(ctx context.Context, name string, dns []DN, depth int) error {
	for _, dn := range dns {
		r.trace.decide("%s forwards to %s", name, dn)
		if err := r.member(ctx, dn, depth+1); err != nil {
			return err
		}
	}
	return nil
}

// forwardDNs returns the values of the attributes that forward by DN.
func (r *resolution) forwardDNs(e Entry) []DN {
	var list []DN
	for _, name := range r.d.mapping.ForwardDNAttributes {
		for _, v := range e.Values(name) {
			list = append(list, DN(v))
		}
	}
	slices.SortFunc(list, func(a, b DN) int { return strings.Compare(string(a), string(b)) })
	return list
}

// outsider works on a contact: an entry with addresses here whose mail goes to
// an address elsewhere, which may be one of them.
func (r *resolution) outsider(ctx context.Context, e Entry, depth int) error {
	own := claims(e, r.d.mapping.GroupAddressAttributes)
	for _, f := range r.forwards(e) {
		if slices.ContainsFunc(own, func(c claim) bool { return c.address.Fold() == f.Fold() }) {
			r.external(f)
			continue
		}
		if err := r.address(ctx, f, depth+1); err != nil {
			return err
		}
	}
	return nil
}
