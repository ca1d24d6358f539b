package imapd

import "strings"

// pattern is a LIST pattern: "*" stands for anything, "%" for anything within
// a level (RFC 3501 section 6.3.8).
type pattern string

// newPattern joins reference and pattern and drops wildcards that add nothing,
// so that no two stand side by side.
func newPattern(reference, pat string) pattern {
	var b strings.Builder
	var run byte
	for _, c := range []byte(reference + pat) {
		if c == '*' || c == '%' {
			if run != '*' {
				run = c
			}
			continue
		}
		if run != 0 {
			b.WriteByte(run)
			run = 0
		}
		b.WriteByte(c)
	}
	if run != 0 {
		b.WriteByte(run)
	}
	return pattern(canonicalPattern(b.String()))
}

// canonicalPattern lets "inbox" find INBOX, as canonicalName does for names.
func canonicalPattern(s string) string {
	if i := strings.IndexAny(s, "*%/"); i >= 0 {
		return canonicalName(s[:i]) + s[i:]
	}
	return canonicalName(s)
}

// match reports whether the whole name fits. It walks all the ways a pattern
// can match at once, so that its time is the product of the two lengths
// whatever the pattern; backtracking would be exponential in the wildcards.
func (p pattern) match(name string) bool {
	if !strings.ContainsAny(string(p), "*%") {
		return string(p) == name || name == inbox && strings.EqualFold(string(p), name)
	}
	fold := name == inbox
	// at[i] is true when p[:i] matches the part of name read so far.
	var room [128]bool
	at := room[:]
	if len(p)+1 > len(at) {
		at = make([]bool, len(p)+1)
	} else {
		at = at[:len(p)+1]
	}
	at[0] = true
	p.skipWildcards(at)
	for i := 0; i < len(name); i++ {
		if !p.step(at, name[i], fold) {
			return false
		}
	}
	return at[len(p)]
}

// reaches reports whether the pattern matches a name that begins with prefix.
func (p pattern) reaches(prefix string) bool {
	at := make([]bool, len(p)+1)
	at[0] = true
	p.skipWildcards(at)
	for i := 0; i < len(prefix); i++ {
		if !p.step(at, prefix[i], false) {
			return false
		}
	}
	// What is left of the pattern matches something, unless nothing is left.
	for i := range len(p) {
		if at[i] {
			return true
		}
	}
	return false
}

// skipWildcards lets every wildcard match nothing.
func (p pattern) skipWildcards(at []bool) {
	for i := range len(p) {
		if at[i] && (p[i] == '*' || p[i] == '%') {
			at[i+1] = true
		}
	}
}

// step reads one octet; it reports whether any way is left.
func (p pattern) step(at []bool, c byte, fold bool) bool {
	alive := false
	for i := len(p) - 1; i >= 0; i-- {
		wild := p[i] == '*' || p[i] == '%' && c != delimiter[0]
		literal := p[i] == c || fold && lower(p[i]) == lower(c)
		at[i+1] = at[i] && literal && p[i] != '*' && p[i] != '%' || at[i+1] && wild
		alive = alive || at[i+1]
	}
	at[0] = false
	// A wildcard that stays is entered again by the state before it.
	for i := range len(p) {
		if at[i] && (p[i] == '*' || p[i] == '%') {
			at[i+1], alive = true, true
		}
	}
	return alive
}

func lower(c byte) byte {
	if c >= 'A' && c <= 'Z' {
		return c + 'a' - 'A'
	}
	return c
}
