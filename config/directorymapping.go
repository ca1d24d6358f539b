package config

import "github.com/postern-mail/postern/directory"

// further returns a mapping with what goes beyond names and addresses: other
// ways to belong to a group and to have mail elsewhere, and when accounts end.
func (d *Directory) further(m directory.Mapping) directory.Mapping {
	m.ForwardDNAttributes, m.MembershipAttributes = d.ForwardDNs, d.Memberships
	m.ExpiryAttributes = d.ExpiryAttrs
	m.PrimaryGroupAttribute, m.ContactFilter = d.PrimaryGroup, d.ContactFilter
	return m
}
