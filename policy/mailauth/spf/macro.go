package spf

import (
	"errors"
	"fmt"
	"slices"
	"strings"
)

// macros is a macro-string, a domain-spec or an explain-string as it was read
// (section 7.1).
type macros []macro

// macro is a part of one: text as it stands, or a letter and what is done to
// its value.
type macro struct {
	text       string
	letter     byte // in lower case; 0 for text
	escaped    bool // the letter was upper case: the value is escaped as in URLs
	keep       int  // how many parts on the right are kept; 0 keeps all
	reversed   bool
	delimiters string
}

const (
	everywhereLetters = "slodiphv"
	explainedLetters  = "crt" // in explanations only
	delimiterOctets   = ".-+,/_="
)

var (
	errMacro      = errors.New("malformed macro")
	errNotVisible = errors.New("octet that is not visible ASCII")
	errDomainEnd  = errors.New("domain ends in neither a top label nor a macro")
)

// parseMacros reads a macro-string. With explain it is an explain-string,
// which may hold spaces and more letters.
func parseMacros(s string, explain bool) (macros, error) {
	var all macros
	text := func(t string) {
		if n := len(all); n > 0 && all[n-1].letter == 0 {
			all[n-1].text += t
		} else {
			all = append(all, macro{text: t})
		}
	}
	for len(s) > 0 {
		literal := strings.IndexByte(s, '%')
		if literal < 0 {
			literal = len(s)
		}
		for i := range literal {
			if s[i] < ' ' || s[i] > '~' || s[i] == ' ' && !explain {
				return nil, errNotVisible
			}
		}
		if literal > 0 {
			text(s[:literal])
			s = s[literal:]
			continue
		}
		switch {
		case strings.HasPrefix(s, "%%"):
			text("%")
		case strings.HasPrefix(s, "%_"):
			text(" ")
		case strings.HasPrefix(s, "%-"):
			text("%20")
		case strings.HasPrefix(s, "%{"):
			end := strings.IndexByte(s, '}')
			if end < 0 {
				return nil, fmt.Errorf("%w %q", errMacro, s)
			}
			m, err := parseMacro(s[2:end], explain)
			if err != nil {
				return nil, err
			}
			all = append(all, m)
			s = s[end+1:]
			continue
		default:
			return nil, fmt.Errorf("%w %q", errMacro, s)
		}
		s = s[2:]
	}
	return all, nil
}

// parseMacro reads what stands between the braces.
func parseMacro(s string, explain bool) (macro, error) {
	if s == "" {
		return macro{}, fmt.Errorf("%w %q", errMacro, "%{}")
	}
	m := macro{letter: s[0] | 0x20, escaped: s[0] >= 'A' && s[0] <= 'Z'}
	known := strings.IndexByte(everywhereLetters, m.letter) >= 0 || explain && strings.IndexByte(explainedLetters, m.letter) >= 0
	rest := s[1:]
	digits := 0
	for digits < len(rest) && isDigit(rest[digits]) {
		// More parts than a name can have are all of them.
		m.keep = min(m.keep*10+int(rest[digits]-'0'), 1000)
		digits++
	}
	rest = rest[digits:]
	if rest != "" && rest[0]|0x20 == 'r' {
		m.reversed, rest = true, rest[1:]
	}
	m.delimiters = rest
	if !known || digits > 0 && m.keep == 0 || strings.Trim(rest, delimiterOctets) != "" {
		return macro{}, fmt.Errorf("%w %q", errMacro, "%{"+s+"}")
	}
	return m, nil
}

// parseDomainSpec reads a domain-spec: a macro-string whose end is a macro or
// a dot and a top label.
func parseDomainSpec(s string) (macros, error) {
	all, err := parseMacros(s, false)
	if err != nil {
		return nil, err
	}
	if !endsInMacro(s) && !endsInTopLabel(s) {
		return nil, fmt.Errorf("%w: %q", errDomainEnd, s)
	}
	return all, nil
}

// endsInMacro looks at a macro-string that is well formed.
func endsInMacro(s string) bool {
	if strings.HasSuffix(s, "}") {
		open := strings.LastIndex(s, "%{")
		return open >= 0 && strings.IndexByte(s[open:], '}') == len(s)-open-1
	}
	if len(s) < 2 || !strings.Contains("%_-", s[len(s)-1:]) {
		return false
	}
	// The percent before the last octet begins a macro when their number is odd.
	percents := 0
	for i := len(s) - 2; i >= 0 && s[i] == '%'; i-- {
		percents++
	}
	return percents%2 == 1
}

func endsInTopLabel(s string) bool {
	s = strings.TrimSuffix(s, ".")
	dot := strings.LastIndexByte(s, '.')
	if dot < 0 {
		return false
	}
	label := s[dot+1:]
	if label == "" || label[0] == '-' || label[len(label)-1] == '-' {
		return false
	}
	numeric := true
	for i := range len(label) {
		if c := label[i]; !isDigit(c) {
			if !isAlpha(c) && c != '-' {
				return false
			}
			numeric = false
		}
	}
	return !numeric
}

// expand writes the string out. value gives what a letter stands for.
func (m macros) expand(value func(letter byte) string) string {
	var b strings.Builder
	for _, one := range m {
		if one.letter == 0 {
			b.WriteString(one.text)
		} else {
			b.WriteString(one.transform(value(one.letter)))
		}
	}
	return b.String()
}

// transform cuts a value into parts and joins what is wanted of them by dots.
func (m macro) transform(value string) string {
	delimiters := m.delimiters
	if delimiters == "" {
		delimiters = "."
	}
	if m.reversed || m.keep > 0 || delimiters != "." {
		parts := splitAny(value, delimiters)
		if m.reversed {
			slices.Reverse(parts)
		}
		if m.keep > 0 && m.keep < len(parts) {
			parts = parts[len(parts)-m.keep:]
		}
		value = strings.Join(parts, ".")
	}
	if m.escaped {
		value = urlEscape(value)
	}
	return value
}

// splitAny cuts s at each of the octets, empty parts included.
func splitAny(s, octets string) []string {
	var parts []string
	for {
		at := strings.IndexAny(s, octets)
		if at < 0 {
			return append(parts, s)
		}
		parts = append(parts, s[:at])
		s = s[at+1:]
	}
}

// urlEscape escapes what is not in the unreserved set of RFC 3986.
func urlEscape(s string) string {
	var b strings.Builder
	for i := range len(s) {
		if c := s[i]; isAlpha(c) || isDigit(c) || strings.IndexByte("-._~", c) >= 0 {
			b.WriteByte(c)
		} else {
			fmt.Fprintf(&b, "%%%02X", c)
		}
	}
	return b.String()
}

func isDigit(c byte) bool { return c >= '0' && c <= '9' }
func isAlpha(c byte) bool { return c|0x20 >= 'a' && c|0x20 <= 'z' }
