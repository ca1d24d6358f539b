package directory

import (
	"slices"
	"strings"
)

// Coverage is what somebody must hold who answers a Directory's questions in the
// place of its servers.
type Coverage struct {
	// Bases are where searches look.
	Bases []DN
	// Filter matches every entry that can make a difference.
	Filter Filter
	// Attributes are those that are looked at, and no others: never a password.
	Attributes []string
}

// secret are attributes that are never held, whoever asks for them.
var secret = map[string]bool{
	"userpassword": true, "unicodepwd": true, "dbcspwd": true, "ntpwdhistory": true, "lmpwdhistory": true, "supplementalcredentials": true,
	"clearpassword": true, "cleartextpassword": true, "authpassword": true, "pwdhistory": true, "passwordhistory": true, "msds-managedpassword": true,
	"krbprincipalkey": true, "krbmkey": true, "krbpwdhistory": true, "krbextradata": true, "sambantpassword": true, "sambalmpassword": true,
	"sambapasswordhistory": true, "ipanthash": true, "ipatokenotpkey": true, "goauthsecret": true, "radiussharedsecret": true, "userpkcs12": true,
	"ms-mcs-admpwd": true, "mslaps-password": true, "ipavaultsalt": true,
}

// IsSecret reports whether an attribute holds what nobody but the directory's
// servers should have.
func IsSecret(attribute string) bool { return secret[attributeKey(attribute)] }

// Coverage returns what a Directory of this configuration looks at, without its
// tables.
func (cfg Config) Coverage() (Coverage, error) {
	cfg, err := cfg.withDefaults()
	if err != nil {
		return Coverage{}, err
	}
	m, err := cfg.compile()
	if err != nil {
		return Coverage{}, err
	}
	filters := []Filter{m.user}
	bases := []DN{m.UserBase}
	if m.GroupFilter != "" {
		filters, bases = append(filters, m.group), append(bases, m.GroupBase)
	}
	// A member that is neither account nor group counts by its address.
	for _, name := range distinct(slices.Concat(m.AddressAttributes, m.ForwardAttributes)) {
		filters = append(filters, Present(name))
	}
	names := slices.Concat(m.userAttributes, m.groupAttributes, FilterAttributes(m.user), FilterAttributes(m.group))
	if m.login != nil {
		names = append(names, FilterAttributes(m.login.filter)...)
	}
	return Coverage{Bases: bases, Filter: Or(filters...), Attributes: withoutSecrets(names)}, nil
}

// Coverage returns what a table of this configuration looks at. A base that is
// made from the key is searched below its part that is not.
func (cfg QueryTableConfig) Coverage() (Coverage, error) {
	t, err := NewQueryTable(cfg, NoEntries{})
	if err != nil {
		return Coverage{}, err
	}
	base := cfg.SearchBase
	if at := strings.LastIndexByte(base, '%'); at >= 0 {
		_, base, _ = strings.Cut(base[at:], ",")
	}
	// Without any of these an entry gives nothing.
	var any []Filter
	for _, name := range distinct(slices.Clone(t.attributes)) {
		any = append(any, Present(name))
	}
	names := slices.Concat(t.attributes, FilterAttributes(t.filter.filter), []string{"objectClass"})
	return Coverage{Bases: []DN{DN(base)}, Filter: Or(any...), Attributes: withoutSecrets(names)}, nil
}

// With returns what covers both.
func (n Coverage) With(other Coverage) Coverage {
	return Coverage{
		Bases:      append(slices.Clone(n.Bases), other.Bases...),
		Filter:     Or(n.Filter, other.Filter),
		Attributes: withoutSecrets(slices.Concat(n.Attributes, other.Attributes)),
	}
}

// Base returns the lowest name that all bases lie below; "" when they have
// nothing in common.
func (n Coverage) Base() DN {
	common := n.Bases[0]
	for _, base := range n.Bases[1:] {
		for common != "" && !base.Under(common) {
			common = parentOf(common)
		}
	}
	return common
}

// parentOf returns the name above, as a key.
func parentOf(dn DN) DN { return DN(ParentKey(dn.Key())) }

func withoutSecrets(names []string) []string {
	return slices.DeleteFunc(distinct(names), IsSecret)
}

// Implies reports whether every entry that f matches is matched by general,
// as far as that can be told from their form: true is certain.
func Implies(f, general Filter) bool {
	if same(f, general) {
		return true
	}
	if any, ok := f.(disjunction); ok {
		return !slices.ContainsFunc(any, func(part Filter) bool { return !Implies(part, general) })
	}
	switch g := general.(type) {
	case disjunction:
		if slices.ContainsFunc(g, func(part Filter) bool { return Implies(f, part) }) {
			return true
		}
	case conjunction:
		if !slices.ContainsFunc(g, func(part Filter) bool { return !Implies(f, part) }) {
			return true
		}
	case presence:
		if attributeKey(g.attribute) == "objectclass" || needs(f, attributeKey(g.attribute)) {
			return true
		}
	}
	all, ok := f.(conjunction)
	return ok && slices.ContainsFunc(all, func(part Filter) bool { return Implies(part, general) })
}

// needs reports whether a single condition holds only for entries with the
// attribute.
func needs(f Filter, attribute string) bool {
	switch f := f.(type) {
	case comparison:
		return attributeKey(f.attribute) == attribute
	case substrings:
		return attributeKey(f.attribute) == attribute
	case presence:
		return attributeKey(f.attribute) == attribute
	}
	return false
}

// same reports whether two filters are alike, part by part.
func same(f, g Filter) bool {
	switch f := f.(type) {
	case conjunction:
		g, ok := g.(conjunction)
		return ok && sameParts(f, g)
	case disjunction:
		g, ok := g.(disjunction)
		return ok && sameParts(f, g)
	case negation:
		g, ok := g.(negation)
		return ok && same(f.filter, g.filter)
	case presence:
		g, ok := g.(presence)
		return ok && strings.EqualFold(f.attribute, g.attribute)
	case comparison:
		g, ok := g.(comparison)
		return ok && f.operator == g.operator && f.rule == g.rule && f.dnToo == g.dnToo && f.value.parts == nil && g.value.parts == nil &&
			f.value.literal == g.value.literal && strings.EqualFold(f.attribute, g.attribute)
	case substrings:
		_, ok := g.(substrings)
		return ok && f.String() == g.String()
	}
	return false
}

func sameParts(f, g []Filter) bool {
	if len(f) == len(g) && len(f) > 0 && &f[0] == &g[0] {
		return true
	}
	return slices.EqualFunc(f, g, same)
}
