package delivery

import (
	"context"
	"fmt"
	"iter"
	"strings"

	"github.com/hashicorp/go-hclog"
	"golang.org/x/sync/errgroup"

	"github.com/postern-mail/postern/mail"
	"github.com/postern-mail/postern/table"
)

// ruleSet answers for recipients, or for senders.
type ruleSet struct {
	fixed map[string]mail.Route
	// last are asked when nothing else has a rule.
	first, last []table.Opened
	known       func(transport string) bool
}

// open makes a set of what is configured. It reads the files.
func (c Rules) open(dir string, sender bool, known func(string) bool, log hclog.Logger) (ruleSet, error) {
	s := ruleSet{fixed: make(map[string]mail.Route, len(c.Fixed)), known: known}
	for key, rule := range c.Fixed {
		if err := CheckRuleKey(key, sender); err != nil {
			return s, err
		}
		if rule.Transport != "" && !isBuiltIn(rule.Transport) && !known(rule.Transport) {
			return s, fmt.Errorf("%s goes to %q, which is no delivery target", key, rule.Transport)
		}
		s.fixed[table.FoldKey(key)] = rule
	}
	opener := table.Opener{Dir: dir, Log: log}
	for _, list := range []struct {
		names     []string
		relayOnly bool
		into      *[]table.Opened
	}{{c.Files, false, &s.first}, {c.RelayFiles, true, &s.last}} {
		for _, name := range list.names {
			t, err := opener.Open(name, RuleUse(sender, list.relayOnly, known))
			if err != nil {
				return s, err
			}
			*list.into = append(*list.into, t)
		}
	}
	return s, nil
}

// find returns the first rule for one of the keys of a, with the key and where
// it stands.
func (s ruleSet) find(a mail.Address, forms iter.Seq[table.Form]) (rule mail.Route, key, where string, found bool) {
	if len(s.fixed)+len(s.first)+len(s.last) == 0 {
		return rule, "", "", false
	}
	for form := range forms {
		if rule, found := s.fixed[form.Key]; found {
			return rule, form.Key, "the configuration", true
		}
		if rule, key, where, found := s.in(s.first, false, a, one(form)); found {
			return rule, key, where, true
		}
	}
	return s.in(s.last, true, a, forms)
}

// in asks tables. One that does not answer lets the mail wait: another one, or
// another key, would send it elsewhere.
func (s ruleSet) in(tables []table.Opened, relayOnly bool, a mail.Address, forms iter.Seq[table.Form]) (rule mail.Route, key, where string, found bool) {
	values, by, from, err := table.Find(context.Background(), tables, a.String(), forms)
	if err == nil && len(values) == 0 {
		return rule, "", "", false
	}
	if err == nil {
		rule, err = ParseRule(table.Join(values), relayOnly, s.known)
	}
	if err != nil {
		rule = mail.Route{Transport: TransportRetry, NextHop: "4.3.0 no answer about the route"}
	}
	return rule, by.Key, from.Name(), true
}

func one(form table.Form) iter.Seq[table.Form] {
	return func(yield func(table.Form) bool) { yield(form) }
}

// watch reads files again as they change, until ctx ends.
func (s ruleSet) watch(ctx context.Context, g *errgroup.Group) {
	for _, tables := range [][]table.Opened{s.first, s.last} {
		for _, t := range tables {
			g.Go(func() error { return t.Run(ctx) })
		}
	}
}

// RuleUse is what the entries of tables of rules mean: a key, and the value of
// its rule; see Rules and ParseRule. Patterns put nothing of the address into
// the value, for senders and recipients are strangers' choice.
func RuleUse(sender, relayOnly bool, known func(transport string) bool) table.Use {
	return table.Use{
		Key: func(key string) error { return CheckRuleKey(key, sender) },
		Value: func(value string) ([]string, error) {
			_, err := ParseRule(value, relayOnly, known)
			return []string{strings.Join(strings.Fields(value), " ")}, err
		},
		NoReferences: true,
	}
}
