package config

import (
	"slices"

	"github.com/postern-mail/postern/policy"
)

// asksNames reports whether a restriction of a listener's lists wants the
// names of clients: then they are looked up, whatever lookup_client_names says.
// Classes count wherever they are used. It cannot see what lines of a table name.
func (g *Gateway) asksNames(l *SMTPListener) bool {
	asks := func(spec policy.Spec) bool { return policy.AsksClientName(spec.Name) }
	for _, specs := range g.Lists(l) {
		if slices.ContainsFunc(specs, asks) {
			return true
		}
	}
	return slices.ContainsFunc(g.classes(), func(c policy.Class) bool { return slices.ContainsFunc(c.Specs, asks) })
}
