package delivery

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/hashicorp/go-hclog"
	"golang.org/x/sync/errgroup"

	"github.com/postern-mail/postern/internal/reload"
	"github.com/postern-mail/postern/mail"
)

// maxRuleFile bounds a file of rules, and maxRuleMistakes what is told of it.
const (
	maxRuleFile     = 64 << 20
	maxRuleMistakes = 20
)

// ruleTable is a set of rules with a name for explanations.
type ruleTable struct {
	name  string
	rules *reload.File[map[string]mail.Route]
}

// ruleSet answers for recipients, or for senders.
type ruleSet struct{ first, last []ruleTable } // last are asked when first have nothing

// open makes a set of what is configured. It reads the files.
func (c Rules) open(sender bool, known func(string) bool, log hclog.Logger) (ruleSet, error) {
	var s ruleSet
	if len(c.Fixed) > 0 {
		rules := make(map[string]mail.Route, len(c.Fixed))
		for key, rule := range c.Fixed {
			if err := CheckRuleKey(key, sender); err != nil {
				return s, err
			}
			if rule.Transport != "" && !isBuiltIn(rule.Transport) && !known(rule.Transport) {
				return s, fmt.Errorf("%s goes to %q, which is no delivery target", key, rule.Transport)
			}
			rules[foldKey(key)] = rule
		}
		s.first = append(s.first, ruleTable{"the configuration", reload.Fixed(rules)})
	}
	for _, list := range []struct {
		files     []string
		relayOnly bool
		into      *[]ruleTable
	}{{c.Files, false, &s.first}, {c.RelayFiles, true, &s.last}} {
		for _, path := range list.files {
			file, err := reload.Open(reload.Config{File: path, MaxOctets: maxRuleFile}, func(name string, r io.Reader) (map[string]mail.Route, error) {
				return ParseRules(name, r, sender, list.relayOnly, known)
			}, log)
			if err != nil {
				return s, err
			}
			*list.into = append(*list.into, ruleTable{path, file})
		}
	}
	return s, nil
}

// find returns the first rule for one of keys, with the key and where it stands.
func (s ruleSet) find(keys func() []string) (rule mail.Route, key, where string, found bool) {
	if len(s.first)+len(s.last) == 0 {
		return rule, "", "", false
	}
	all := keys()
	for _, tables := range [][]ruleTable{s.first, s.last} {
		for _, key := range all {
			for _, t := range tables {
				if rule, found := t.rules.Value()[key]; found {
					return rule, key, t.name, true
				}
			}
		}
	}
	return rule, "", "", false
}

// watch reads files again as they change, until ctx ends.
func (s ruleSet) watch(ctx context.Context, g *errgroup.Group) {
	for _, tables := range [][]ruleTable{s.first, s.last} {
		for _, t := range tables {
			g.Go(func() error { return t.rules.Run(ctx) })
		}
	}
}

// ParseRules reads lines of a key and the value of its rule; see Rules and
// ParseRule. A line that begins with white space continues the one before, #
// begins a comment line. name stands in errors, which carry a line number each
// and are joined.
func ParseRules(name string, r io.Reader, sender, relayOnly bool, known func(transport string) bool) (map[string]mail.Route, error) {
	rules := make(map[string]mail.Route)
	err := eachEntry(name, r, func(key, value string) error {
		if err := CheckRuleKey(key, sender); err != nil {
			return err
		}
		rule, err := ParseRule(value, relayOnly, known)
		if err != nil {
			return err
		}
		key = foldKey(key)
		if _, again := rules[key]; again {
			return fmt.Errorf("%q has a rule already", key)
		}
		rules[key] = rule
		return nil
	})
	if err != nil {
		return nil, err
	}
	return rules, nil
}

// eachEntry calls take with key and value of each logical line of a table in
// Postfix's notation. The error joins all mistakes, with their lines.
func eachEntry(name string, r io.Reader, take func(key, value string) error) error {
	var mistakes []error
	fail := func(line int, err error) {
		if len(mistakes) < maxRuleMistakes {
			mistakes = append(mistakes, fmt.Errorf("%s:%d: %w", name, line, err))
		}
	}
	entry, start, line := "", 0, 0
	finish := func() {
		if entry == "" {
			return
		}
		end := strings.IndexAny(entry, " \t")
		if end < 0 {
			fail(start, fmt.Errorf("%q has no value", entry))
		} else if err := take(entry[:end], strings.TrimSpace(entry[end:])); err != nil {
			fail(start, err)
		}
		entry = ""
	}
	lines := bufio.NewScanner(r)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		line++
		text := strings.TrimRight(lines.Text(), " \t\r")
		trimmed := strings.TrimLeft(text, " \t")
		switch {
		case trimmed == "" || trimmed[0] == '#':
		case len(trimmed) == len(text):
			finish()
			entry, start = trimmed, line
		case entry == "":
			fail(line, errors.New("the line begins with white space but continues nothing"))
		default:
			entry += " " + trimmed
		}
	}
	finish()
	if err := lines.Err(); err != nil {
		fail(line+1, err)
	}
	return errors.Join(mistakes...)
}
