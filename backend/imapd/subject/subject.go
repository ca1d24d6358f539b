// Package subject takes apart Subject fields.
//
// What comes in: the decoded text of a Subject field, any text at all. What
// goes out: the base subject of RFC 5256 section 2.1, by which messages are
// sorted and threaded, and whether something was there that makes the message a
// reply or a forwarded one. Work is linear in the length of the text but for
// forwards inside forwards.
package subject

import "strings"

// Base returns the base subject of s in its letter case, and whether the
// subject is that of a reply or a forwarded message.
func Base(s string) (base string, reply bool) {
	s = flatten(s)
	for {
		var forwarded bool
		if s, forwarded = trimTrailers(s); forwarded {
			reply = true
		}
		for {
			rest, refwd := cutLeaders(s)
			reply = reply || refwd
			if len(rest) == len(s) {
				break
			}
			s = rest
		}
		inner, ok := cutForward(s)
		if !ok {
			return s, reply
		}
		s, reply = inner, true
	}
}

// flatten makes every run of white space one space.
func flatten(s string) string {
	white := func(c byte) bool { return c == ' ' || c == '\t' || c == '\r' || c == '\n' }
	for i := 0; ; i++ {
		if i == len(s) {
			return s
		}
		if white(s[i]) && (s[i] != ' ' || i+1 < len(s) && white(s[i+1])) {
			break
		}
	}
	b := make([]byte, 0, len(s))
	for i := range len(s) {
		switch {
		case !white(s[i]):
			b = append(b, s[i])
		case len(b) == 0 || b[len(b)-1] != ' ':
			b = append(b, ' ')
		}
	}
	return string(b)
}

// trimTrailers removes every subj-trailer: white space and "(fwd)".
func trimTrailers(s string) (rest string, forwarded bool) {
	const trailer = "(fwd)"
	for {
		s = strings.TrimRight(s, " ")
		if len(s) < len(trailer) || !strings.EqualFold(s[len(s)-len(trailer):], trailer) {
			return s, forwarded
		}
		s, forwarded = s[:len(s)-len(trailer)], true
	}
}

// cutLeaders removes white space, then blobs and the "Re:" or "Fwd:" behind
// them, or else as many blobs as leave something.
func cutLeaders(s string) (rest string, refwd bool) {
	s = strings.TrimLeft(s, " ")
	last, at := 0, 0 // where the last blob begins, and what follows it
	for n := blob(s); n > 0; n = blob(s[at:]) {
		last, at = at, at+n
	}
	if n := refwdOf(s[at:]); n > 0 {
		return s[at+n:], true
	}
	if at == len(s) { // the last blob is the subject
		return s[last:], false
	}
	return s[at:], false
}

// blob returns the length of the subj-blob at the start of s, 0 for none.
func blob(s string) int {
	if s == "" || s[0] != '[' {
		return 0
	}
	end := strings.IndexAny(s[1:], "[]")
	if end < 0 || s[1+end] != ']' {
		return 0
	}
	n := end + 2
	for n < len(s) && s[n] == ' ' {
		n++
	}
	return n
}

// refwdOf returns the length of the subj-refwd at the start of s, 0 for none.
func refwdOf(s string) int {
	n := 0
	for _, word := range []string{"fwd", "fw", "re"} {
		if len(s) > len(word) && strings.EqualFold(s[:len(word)], word) {
			n = len(word)
			break
		}
	}
	if n == 0 {
		return 0
	}
	for n < len(s) && s[n] == ' ' {
		n++
	}
	n += blob(s[n:])
	if n < len(s) && s[n] == ':' {
		return n + 1
	}
	return 0
}

// cutForward opens "[Fwd: ...]".
func cutForward(s string) (inner string, ok bool) {
	const header = "[fwd:"
	if len(s) <= len(header) || !strings.EqualFold(s[:len(header)], header) || s[len(s)-1] != ']' {
		return s, false
	}
	return s[len(header) : len(s)-1], true
}
