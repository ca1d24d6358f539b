package rewrite

import (
	"errors"
	"fmt"
	"io"
	"regexp"
	"strings"
	"unicode"
)

// pattern is a line of a regexp table: /pattern/flags value, or !/pattern/.
type pattern struct {
	expression *regexp.Regexp
	negated    bool
	value      string // with $1, ${1}; $$ is a dollar sign
}

// apply returns the value for key when the pattern matches.
func (p pattern) apply(key string) (string, bool) {
	match := p.expression.FindStringSubmatchIndex(key)
	if (match != nil) == p.negated {
		return "", false
	}
	if p.negated {
		return p.value, true
	}
	return string(p.expression.ExpandString(nil, p.value, key, match)), true
}

// parsePatterns reads a table in the notation of regexp_table(5). Expressions
// are those of RE2, which cannot be made to take long; what it has not got is
// a mistake.
func parsePatterns(name string, r io.Reader) ([]pattern, error) {
	m := mistakes{file: name}
	var all []pattern
	for _, e := range readEntries(r, &m) {
		p, err := parsePattern(e.text)
		if err != nil {
			m.add(e.line, err)
			continue
		}
		all = append(all, p)
	}
	return all, errors.Join(m.all...)
}

func parsePattern(text string) (p pattern, err error) {
	if word, _, _ := strings.Cut(text, " "); word == "if" || word == "endif" || strings.HasPrefix(text, "if/") || strings.HasPrefix(text, "if!") {
		return p, fmt.Errorf("%s is not supported; write the condition into the patterns", word)
	}
	text, p.negated = strings.CutPrefix(text, "!")
	text = strings.TrimSpace(text)
	if text == "" || text[0] == '\\' || unicode.IsLetter(rune(text[0])) || unicode.IsDigit(rune(text[0])) {
		return p, errors.New("a line is /pattern/flags value")
	}
	end := closing(text)
	if end < 0 {
		return p, fmt.Errorf("the pattern has no closing %q", text[0])
	}
	expression, rest := text[1:end], text[end+1:]
	flags, value, _ := strings.Cut(strings.ReplaceAll(rest, "\t", " "), " ")
	if p.value, err = groups(strings.TrimSpace(value)); err != nil {
		return p, err
	}
	mode := "is" // letter case does not count, unless the flag i says so
	for _, flag := range flags {
		switch flag {
		case 'i':
			mode = "s"
		case 'x': // extended expressions are all there are
		default:
			return p, fmt.Errorf("unknown flag %q", flag)
		}
	}
	p.expression, err = regexp.Compile("(?" + mode + ")" + expression)
	if err == nil && p.negated && strings.Contains(p.value, "${") {
		err = errors.New("a pattern that must not match has nothing to put in")
	}
	if err == nil {
		err = p.checkGroups()
	}
	return p, err
}

// closing finds the delimiter that ends the expression.
func closing(text string) int {
	for i := 1; i < len(text); i++ {
		switch text[i] {
		case '\\':
			i++
		case text[0]:
			return i
		}
	}
	return -1
}

// reference is $1, ${1} or $(1).
var reference = regexp.MustCompile(`\$(?:(\d+)|\{(\d+)\}|\((\d+)\)|(\$))`)

// groups writes a value's references as package regexp reads them.
func groups(value string) (string, error) {
	if value == "" {
		return "", errors.New("the pattern stands for nothing")
	}
	for _, loose := range reference.Split(value, -1) {
		if strings.Contains(loose, "$") {
			return "", fmt.Errorf("%q: a dollar sign begins $1, or is written $$", value)
		}
	}
	return reference.ReplaceAllStringFunc(value, func(s string) string {
		if s == "$$" {
			return s
		}
		return "${" + strings.Trim(s, "${}()") + "}"
	}), nil
}

// checkGroups refuses references to groups that the expression has not got.
func (p pattern) checkGroups() error {
	for _, m := range reference.FindAllStringSubmatch(p.value, -1) {
		if m[4] != "" {
			continue
		}
		var n int
		if _, err := fmt.Sscan(m[1]+m[2]+m[3], &n); err != nil || n < 1 || n > p.expression.NumSubexp() {
			return fmt.Errorf("%s: the pattern has %d groups", m[0], p.expression.NumSubexp())
		}
	}
	return nil
}
