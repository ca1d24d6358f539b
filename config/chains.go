package config

import (
	"context"
	"errors"
	"net"
	"path/filepath"
	"slices"
	"strings"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/hcl/v2"

	"github.com/postern-mail/postern/mail"
	"github.com/postern-mail/postern/policy"
)

// chains has policy build the lists of every listener, to hear what it finds
// wrong together with all else. A mistake that several listeners share is told
// once.
func (c checker) chains(g *Gateway) {
	told := make(map[policy.Mistake]bool)
	for _, l := range g.Listeners {
		lists := g.Lists(l)
		for name := range lists {
			if !slices.Contains(PolicyLists, string(name)) {
				delete(lists, name) // told already
			}
		}
		var people policy.Accounts
		if c.file.KnowsPeople() {
			people = nobody{}
		}
		_, err := policy.Build(c.file.PolicyOf(l), lists, policy.Deps{
			Routes:   c.file.FilterRoute,
			Accounts: people, Domains: nobody{}, Recipients: nobody{}, Owners: nobody{}, Resolver: net.DefaultResolver, Audit: nobody{}, Logger: hclog.NewNullLogger(),
			Tables: c.opener(), Stages: c.looking(c.stages(g), lists),
		})
		var mistakes policy.Mistakes
		if err != nil && !errors.As(err, &mistakes) {
			c.errorf(l.at, "Wrong policy", "%v.", err)
		}
		for _, m := range mistakes {
			if told[m] {
				continue
			}
			told[m] = true
			at := placeOf(m.Pos, slices.Concat(g.Policies, l.Policies, g.classSteps()))
			if at.Filename == "" {
				at = l.at // of the listener whose lists together are wrong
			}
			c.errorf(at, "Wrong policy", "%s", strings.TrimSpace(sentence(m.Problem)+" "+sentence(m.Remedy)))
		}
	}
}

// sentence begins text with a capital, unless that is a name, and ends it.
func sentence(text string) string {
	if text == "" || strings.HasSuffix(text, "?") {
		return capital(text)
	}
	return capital(text) + "."
}

func capital(text string) string {
	if word, _, _ := strings.Cut(text, " "); text == "" || strings.ContainsAny(word, "_/.") {
		return text
	}
	return strings.ToUpper(text[:1]) + text[1:]
}

// placeOf finds the step that stands at pos, or that names the file which is
// wrong as a whole, or makes a place of pos alone.
func placeOf(pos policy.Pos, policies []*Policy) hcl.Range {
	for _, p := range policies {
		for _, step := range p.Steps {
			here := step.at.Filename == pos.File && step.at.Start.Line == pos.Line && step.at.Start.Column == pos.Column
			if here || pos.Line == 0 && names(step, pos.File) {
				return step.at
			}
		}
	}
	here := hcl.Pos{Line: pos.Line, Column: pos.Column}
	return hcl.Range{Filename: pos.File, Start: here, End: here}
}

// names reports whether an argument of step is a table in file.
func names(step orderedItem, file string) bool {
	for _, values := range step.args {
		for _, table := range values {
			if file != "" && filepath.Base(file) == filepath.Base(table[strings.IndexByte(table, ':')+1:]) {
				return true
			}
		}
	}
	return false
}

// nobody stands for the rooms that a chain asks once it runs.
type nobody struct{}

// Class implements policy.Domains.
func (nobody) Class(mail.Domain) policy.DomainClass { return policy.Other }

// Resolve implements policy.Recipients.
func (nobody) Resolve(context.Context, mail.Address, *mail.Poster) ([]mail.Recipient, error) {
	return nil, nil
}

// MaySendAs implements policy.Owners.
func (nobody) MaySendAs(context.Context, mail.Identity, mail.Address) (bool, error) {
	return false, nil
}

// Owners implements policy.Owners.
func (nobody) Owners(context.Context, mail.Address) ([]string, error) { return nil, nil }

// AccountOf implements policy.Accounts.
func (nobody) AccountOf(context.Context, mail.Identity) (mail.Account, error) {
	return mail.Account{}, nil
}

// Holder implements policy.Accounts.
func (nobody) Holder(context.Context, mail.Address) (mail.Account, error) { return mail.Account{}, nil }

// KnowsPeople reports whether any directory says anything of people that rules
// look at.
func (f *File) KnowsPeople() bool {
	return slices.ContainsFunc(f.Directories, func(d *Directory) bool {
		return len(d.PolicyAttrs) > 0 || d.RelayFilter != ""
	})
}

// Record implements policy.Auditor.
func (nobody) Record(mail.Event) {}
