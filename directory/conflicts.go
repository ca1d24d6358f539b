package directory

import (
	"cmp"
	"iter"
	"slices"

	"github.com/postern-mail/postern/mail"
)

// Conflict is an address that several entries claim: mail for it waits until
// one of them alone has it.
type Conflict struct {
	Address mail.Address
	Entries []DN
}

// Conflicts returns the addresses that two and more of entries, which are those
// of the directory, claim as accounts or groups, sorted; at most limit of them.
func (d *Directory) Conflicts(entries iter.Seq[Entry], limit int) []Conflict {
	m := d.mapping
	first := make(map[mail.Address]DN)
	several := make(map[mail.Address][]DN)
	for e := range entries {
		var all []claim
		if e.DN.Under(m.UserBase) && Match(m.user, e) {
			all = d.userClaims(e)
		} else if m.GroupFilter != "" && e.DN.Under(m.GroupBase) && Match(m.group, e) {
			all = append(claims(e, m.GroupAddressAttributes), d.nameClaims(e)...)
		}
		for _, c := range all {
			a := c.address.Fold()
			other, claimed := first[a]
			switch {
			case !d.serves(a.Domain):
			case !claimed:
				first[a] = e.DN
			case !other.Equal(e.DN) && !slices.ContainsFunc(several[a], e.DN.Equal):
				several[a] = append(several[a], e.DN)
			}
		}
	}
	var conflicts []Conflict
	for a, others := range several {
		conflicts = append(conflicts, Conflict{a, append([]DN{first[a]}, others...)})
	}
	slices.SortFunc(conflicts, func(a, b Conflict) int { return cmp.Compare(a.Address.String(), b.Address.String()) })
	return conflicts[:min(len(conflicts), limit)]
}
