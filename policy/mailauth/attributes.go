package mailauth

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/postern-mail/postern/mail"
	"github.com/postern-mail/postern/table"
)

// attributes reads the attributes of a restriction. The first mistake stands.
type attributes struct {
	args map[string][]string
	read []string
	err  error
}

func (a *attributes) wrong(name, remedy string, args ...any) {
	if a.err == nil {
		a.err = fmt.Errorf("%s is %q: %s", name, strings.Join(a.args[name], " "), fmt.Sprintf(remedy, args...))
	}
}

// list returns the values of an attribute; ok tells whether it was given.
func (a *attributes) list(name string) (values []string, ok bool) {
	a.read = append(a.read, name)
	values, ok = a.args[name]
	return values, ok
}

// word returns one of the words allowed, or standard when none is given.
func (a *attributes) word(name, standard string, allowed ...string) string {
	values, ok := a.list(name)
	if !ok {
		return standard
	}
	word := strings.ToLower(strings.Join(values, " "))
	if !slices.Contains(allowed, word) {
		a.wrong(name, "use %s", strings.Join(allowed, ", "))
	}
	return word
}

// words returns some of the words allowed, or standard when none are given.
func (a *attributes) words(name string, standard []string, allowed ...string) []string {
	values, ok := a.list(name)
	if !ok {
		return standard
	}
	for _, word := range values {
		if !slices.Contains(allowed, word) {
			a.wrong(name, "use some of %s", strings.Join(allowed, ", "))
		}
	}
	return values
}

// yes returns whether an attribute is yes or no.
func (a *attributes) yes(name string, standard bool) bool {
	return a.word(name, map[bool]string{true: "yes", false: "no"}[standard], "yes", "no") == "yes"
}

func (a *attributes) duration(name string, standard, least, most time.Duration) time.Duration {
	values, ok := a.list(name)
	if !ok {
		return standard
	}
	d, err := time.ParseDuration(strings.Join(values, " "))
	if err != nil || d < least || d > most {
		a.wrong(name, "write a time such as %q, from %v to %v", "20s", least, most)
	}
	return d
}

func (a *attributes) networks(name string) []netip.Prefix {
	values, _ := a.list(name)
	var all []netip.Prefix
	for _, text := range values {
		network, err := table.ParseNetwork(text)
		if err != nil {
			a.wrong(name, `write networks as "192.0.2.0/24", "2001:db8::/32" or one address`)
			continue
		}
		all = append(all, network)
	}
	return all
}

// domain returns a host name, or standard when none is given.
func (a *attributes) domain(name, standard string) string {
	values, ok := a.list(name)
	if !ok {
		return standard
	}
	d, err := mail.ParseDomain(strings.Join(values, " "))
	if err != nil || d.IsLiteral() {
		a.wrong(name, "write the name of a host")
	}
	return string(d)
}

// done returns the first mistake; attributes that nobody read are one. on_error
// is the chain's.
func (a *attributes) done() error {
	for name := range a.args {
		if name != "on_error" && !slices.Contains(a.read, name) && a.err == nil {
			a.err = fmt.Errorf("it does not know the attribute %q; it takes %s", name, strings.Join(a.read, ", "))
		}
	}
	return a.err
}
