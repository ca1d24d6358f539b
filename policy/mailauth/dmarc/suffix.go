package dmarc

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"strings"

	"golang.org/x/net/idna"
	"golang.org/x/net/publicsuffix"
)

// Suffixes is a public suffix list. The nil *Suffixes is the one built into the
// program. It is immutable.
type Suffixes struct {
	rules map[string]rule // by the labels after "*." or "!"
}

// rule is what the list says about a name.
type rule uint8

const (
	ruleSuffix rule = 1 << iota // "example"
	ruleBelow                   // "*.example"
	ruleNot                     // "!example"
)

// The bounds of a list; the real one has some 10,000 rules.
const (
	maxListOctets = 8 << 20
	maxRules      = 200000
	minRules      = 100 // fewer are a damaged file
)

var errList = errors.New("not a public suffix list")

// ReadSuffixes reads a list in the format of publicsuffix.org.
func ReadSuffixes(r io.Reader) (*Suffixes, error) {
	s := &Suffixes{rules: make(map[string]rule)}
	limited := &io.LimitedReader{R: r, N: maxListOctets + 1}
	lines := bufio.NewScanner(limited)
	for n := 1; lines.Scan(); n++ {
		text, _, _ := strings.Cut(strings.TrimSpace(lines.Text()), " ")
		if text == "" || strings.HasPrefix(text, "//") {
			continue
		}
		if err := s.add(text); err != nil {
			return nil, fmt.Errorf("line %d: %w", n, err)
		}
	}
	switch {
	case lines.Err() != nil:
		return nil, lines.Err()
	case limited.N <= 0 || len(s.rules) > maxRules:
		return nil, fmt.Errorf("%w: too large", errList)
	case len(s.rules) < minRules:
		return nil, fmt.Errorf("%w: it has only %d rules", errList, len(s.rules))
	}
	return s, nil
}

func (s *Suffixes) add(text string) error {
	kind, name := ruleSuffix, text
	if rest, ok := strings.CutPrefix(text, "!"); ok {
		kind, name = ruleNot, rest
	} else if rest, ok := strings.CutPrefix(text, "*."); ok {
		kind, name = ruleBelow, rest
	}
	ascii, err := idna.Lookup.ToASCII(strings.TrimPrefix(name, "."))
	if err != nil || ascii == "" || strings.ContainsAny(ascii, "*!") {
		return fmt.Errorf("%w: rule %q", errList, text)
	}
	s.rules[ascii] |= kind
	return nil
}

// Organization returns the organizational domain of a domain in canonical form:
// the public suffix and one label more, or the domain itself when it has none
// more (section 3.2).
func (s *Suffixes) Organization(domain string) string {
	if s == nil {
		if organization, err := publicsuffix.EffectiveTLDPlusOne(domain); err == nil {
			return organization
		}
		return domain
	}
	// The first rule that speaks, from the longest name on, is the one with the
	// most labels.
	child := ""
	for name := domain; ; {
		is := s.rules[name]
		_, parent, more := strings.Cut(name, ".")
		switch {
		case is&ruleNot != 0: // its parent is the suffix
			return name
		case is&ruleBelow != 0 && child != "":
			return before(domain, child)
		case is&ruleSuffix != 0 || !more: // at the end the rule "*"
			return before(domain, name)
		}
		child, name = name, parent
	}
}

// before returns the name of domain with one label more than suffix.
func before(domain, suffix string) string {
	if domain == suffix {
		return domain
	}
	rest := domain[:len(domain)-len(suffix)-1]
	return domain[strings.LastIndexByte(rest, '.')+1:]
}

// Suffix reports whether the domain is a public suffix itself.
func (s *Suffixes) Suffix(domain string) bool {
	return s.Organization(domain) == domain && s.Organization("x."+domain) != domain
}
