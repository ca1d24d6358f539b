package sasl

import (
	"slices"
	"strings"

	"github.com/postern-mail/postern/mail"
)

// WeaknessesOf lists what a mechanism is weak in; nothing for one that does not
// exist.
func WeaknessesOf(name string) []Weakness {
	return slices.Clone(mechanisms[strings.ToUpper(name)].weak)
}

// OfferedByRelay lists the mechanisms that a program which asks for its own
// clients can be offered: those on offer with or without TLS, but for what
// needs to see the client's TLS itself.
func (m *Mechanisms) OfferedByRelay() []string {
	var names []string
	for _, client := range []mail.Client{{TLS: &mail.TLSInfo{}}, {}} {
		for _, name := range m.List(&client) {
			if name != "EXTERNAL" && !strings.HasSuffix(name, "-PLUS") && !slices.Contains(names, name) {
				names = append(names, name)
			}
		}
	}
	return names
}
