package table

import (
	"errors"
	"fmt"
	"io"
	"regexp"
	"strings"
	"unicode"
	"unicode/utf8"
)

// patterns is a table of regular expressions in the notation of
// regexp_table(5) and pcre_table(5): the first line that matches decides.
type patterns struct {
	rules []rule
	use   Use
}

// rule is a line /pattern/flags value, or a block that counts only for some
// keys.
type rule struct {
	line       int
	expression *regexp.Regexp
	negated    bool
	template   string   // with ${1}; "" for a value without references
	values     []string // of a value without references
	inside     []rule   // of an if
}

// find implements content.
func (p patterns) find(key string) ([]string, error) { return p.of(p.rules, key) }

func (p patterns) of(rules []rule, key string) ([]string, error) {
	for i := range rules {
		r := &rules[i]
		if r.template != "" {
			match := r.expression.FindStringSubmatchIndex(key)
			if match == nil {
				continue
			}
			text := string(r.expression.ExpandString(nil, r.template, key, match))
			values, err := p.use.values(text)
			if err != nil {
				return nil, fmt.Errorf("line %d makes %q: %w", r.line, text, err)
			}
			return values, nil
		}
		if r.expression.MatchString(key) == r.negated {
			continue
		}
		if r.values != nil {
			return r.values, nil
		}
		if values, err := p.of(r.inside, key); err != nil || values != nil {
			return values, err
		}
	}
	return nil, nil
}

// dialect is how flags are read.
type dialect struct {
	flags   string // that exist
	longest bool   // of several ways to match the longest counts (POSIX)
}

var (
	dialectRegexp = dialect{flags: "imx", longest: true}
	dialectPCRE   = dialect{flags: "imsxAEUX"}
)

// readPatterns reads lines "/pattern/flags value", "!/pattern/flags value",
// "if /pattern/flags", "if !/pattern/flags" and "endif". Expressions are those
// of RE2, which cannot be made to take long; what it has not got is a mistake.
func readPatterns(d dialect) func(n *notes, r io.Reader, use Use) content {
	return func(n *notes, r io.Reader, use Use) content {
		b := blocks[[]rule, rule]{notes: n, stack: make([]block[[]rule, rule], 1)}
		n.eachLine(r, func(e entry) {
			word, rest := command(e.text)
			switch strings.ToLower(word) {
			case "":
				one, err := d.rule(e, use)
				if err != nil && use.Secret {
					err = errors.New("the line is not /pattern/flags value")
				}
				if err != nil {
					n.mistake(e.line, err)
					return
				}
				at := b.here()
				*at = append(*at, one)
			case "if":
				one, value, err := d.pattern(entry{e.line, rest})
				if err == nil && value != "" {
					err = fmt.Errorf("%q stands behind the condition; it goes into lines of its own up to endif", value)
				}
				if err != nil {
					n.mistake(e.line, err)
				}
				b.open(e.line, func(inside []rule) rule { one.inside = inside; return one })
			case "endif":
				b.close(e.line, rest, func(into *[]rule, one rule) { *into = append(*into, one) })
			default:
				n.mistake(e.line, fmt.Errorf("%q: a line is /pattern/flags value, if /pattern/ or endif", word))
			}
		})
		return patterns{b.end(), use}
	}
}

// command cuts off the word that a line begins with, where it begins with one.
func command(text string) (word, rest string) {
	end := strings.IndexFunc(text, func(c rune) bool { return !unicode.IsLetter(c) && !unicode.IsDigit(c) })
	if end < 0 {
		end = len(text)
	}
	return text[:end], strings.TrimSpace(text[end:])
}

func (d dialect) rule(e entry, use Use) (rule, error) {
	one, value, err := d.pattern(e)
	if err != nil {
		return one, err
	}
	if value == "" {
		return one, errors.New("the pattern stands for nothing: write a value after it")
	}
	template, refers, err := references(value, one)
	switch {
	case err != nil:
		return one, err
	case !refers:
		one.values, err = use.values(strings.ReplaceAll(value, "$$", "$"))
		return one, err
	case use.NoReferences:
		return one, fmt.Errorf("%q: parts of the key are not put in here, for whoever writes the key would decide; write the value out", value)
	}
	one.template = template
	return one, nil
}

// pattern reads an expression with its flags; what follows is the value.
func (d dialect) pattern(e entry) (one rule, value string, err error) {
	one.line = e.line
	text, negated := strings.CutPrefix(e.text, "!")
	one.negated = negated
	text = strings.TrimSpace(text)
	first, size := utf8.DecodeRuneInString(text)
	if text == "" || first == '\\' || size != 1 || unicode.IsLetter(first) || unicode.IsDigit(first) {
		return one, "", errors.New("a line is /pattern/flags value")
	}
	end := closing(text)
	if end < 0 {
		return one, "", fmt.Errorf("the pattern has no closing %q", text[0])
	}
	flags := text[end+1:]
	if at := strings.IndexAny(flags, " \t"); at >= 0 {
		flags, value = flags[:at], strings.TrimSpace(flags[at:])
	}
	expression, err := d.translate(text[1:end], flags)
	if err != nil {
		return one, value, err
	}
	if one.expression, err = regexp.Compile(expression); err != nil {
		return one, value, fmt.Errorf("%w; expressions are RE2's, which has no back references and does not look around", err)
	}
	if d.longest {
		one.expression.Longest()
	}
	return one, value, nil
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

// translate writes an expression with its flags, each of which turns what is
// usual around, as RE2 reads them.
func (d dialect) translate(expression, flags string) (string, error) {
	fold, dotAll, lines, ungreedy, anchored, spaced := true, true, false, false, false, false
	for _, flag := range flags {
		switch {
		case !strings.ContainsRune(d.flags, flag):
			return "", fmt.Errorf("unknown flag %q; there are %s", flag, d.flags)
		case flag == 'i':
			fold = !fold
		case flag == 'm':
			lines = !lines
			if d.longest { // REG_NEWLINE
				dotAll = !dotAll
			}
		case flag == 's':
			dotAll = !dotAll
		case flag == 'U':
			ungreedy = !ungreedy
		case flag == 'A':
			anchored = !anchored
		case flag == 'x' && d.longest:
			return "", errors.New("flag x: basic expressions are not read; write an extended one, without the flag")
		case flag == 'x':
			spaced = !spaced
		} // E and X: $ is the very end here, and unknown escapes are mistakes
	}
	if spaced {
		expression = withoutSpace(expression)
	}
	if anchored {
		expression = `\A(?:` + expression + `)`
	}
	on := ""
	for flag, isOn := range map[string]bool{"i": fold, "s": dotAll, "m": lines, "U": ungreedy} {
		if isOn {
			on += flag
		}
	}
	if on == "" {
		return expression, nil
	}
	return "(?" + on + ")" + expression, nil
}

// withoutSpace drops the white space and the comment of an expression that was
// written with flag x.
func withoutSpace(expression string) string {
	var b strings.Builder
	class := false
	for i := 0; i < len(expression); i++ {
		c := expression[i]
		switch {
		case c == '\\' && i+1 < len(expression):
			b.WriteByte(c)
			i++
			b.WriteByte(expression[i])
			continue
		case class:
			class = c != ']'
		case c == '[':
			class = true
			if rest := expression[i+1:]; strings.HasPrefix(rest, "]") || strings.HasPrefix(rest, "^]") { // the bracket itself
				end := strings.IndexByte(rest, ']') + 1
				b.WriteByte(c)
				b.WriteString(rest[:end])
				i += end
				continue
			}
		case c == '#':
			return b.String()
		case c == ' ' || c == '\t':
			continue
		}
		b.WriteByte(c)
	}
	return b.String()
}

// reference is $1, ${1}, $(1) or $$.
var reference = regexp.MustCompile(`\$(?:(\d+)|\{(\d+)\}|\((\d+)\)|(\$))`)

// references writes a value's references as package regexp reads them, and
// tells whether there are any.
func references(value string, one rule) (template string, refers bool, err error) {
	for _, loose := range reference.Split(value, -1) {
		if strings.Contains(loose, "$") {
			return "", false, fmt.Errorf("%q: a dollar sign begins $1, or is written $$", value)
		}
	}
	for _, m := range reference.FindAllStringSubmatch(value, -1) {
		if m[4] != "" {
			continue
		}
		refers = true
		var n int
		if _, err := fmt.Sscan(m[1]+m[2]+m[3], &n); err != nil || n < 1 || n > one.expression.NumSubexp() {
			return "", false, fmt.Errorf("%s: the pattern has %d groups", m[0], one.expression.NumSubexp())
		}
	}
	if refers && one.negated {
		return "", false, fmt.Errorf("%q: a pattern that must not match has nothing to put in", value)
	}
	template = reference.ReplaceAllStringFunc(value, func(s string) string {
		if s == "$$" {
			return s
		}
		return "${" + strings.Trim(s, "${}()") + "}"
	})
	return template, refers, nil
}
