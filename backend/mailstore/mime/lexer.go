package mime

import (
	"bytes"
	"strings"
)

// lexer reads structured field values: tokens, quoted strings, with comments
// and folding between them (RFC 822 section 3.3, RFC 2045 section 5.1).
type lexer struct {
	b []byte
	// comment is the text of the comment passed over last.
	comment []byte
}

// space passes over white space, line ends and comments.
func (l *lexer) space() {
	for len(l.b) > 0 {
		switch l.b[0] {
		case ' ', '\t', '\r', '\n':
			l.b = l.b[1:]
		case '(':
			l.comment = l.skipComment()
		default:
			return
		}
	}
}

// skipComment passes over a comment, which may nest, and returns its text.
func (l *lexer) skipComment() []byte {
	depth := 0
	for i := 0; i < len(l.b); i++ {
		switch l.b[i] {
		case '\\':
			i++
		case '(':
			depth++
		case ')':
			if depth--; depth == 0 {
				text := l.b[1:i]
				l.b = l.b[i+1:]
				return text
			}
		}
	}
	text := l.b[1:]
	l.b = nil
	return text
}

// take passes over c if it comes next.
func (l *lexer) take(c byte) bool {
	if len(l.b) > 0 && l.b[0] == c {
		l.b = l.b[1:]
		return true
	}
	return false
}

// next passes over everything up to and with c; false when there is none.
func (l *lexer) next(c byte) bool {
	i := bytes.IndexByte(l.b, c)
	if i < 0 {
		l.b = nil
		return false
	}
	l.b = l.b[i+1:]
	return true
}

// token reads a token of RFC 2045, with 8-bit octets let through.
func (l *lexer) token() []byte {
	l.space()
	i := 0
	for i < len(l.b) && isToken(l.b[i]) {
		i++
	}
	t := l.b[:i]
	l.b = l.b[i:]
	return t
}

func isToken(c byte) bool {
	return c > ' ' && c != 0x7f && strings.IndexByte(`()<>@,;:\"/[]?=`, c) < 0
}

// value reads a parameter's value: a quoted string, or whatever stands before
// the next white space or semicolon. Many senders leave the quotes out where
// RFC 2045 wants them.
func (l *lexer) value() []byte {
	l.space()
	if len(l.b) > 0 && l.b[0] == '"' {
		return l.quoted()
	}
	i := bytes.IndexAny(l.b, "; \t\r\n")
	if i < 0 {
		i = len(l.b)
	}
	v := l.b[:i]
	l.b = l.b[i:]
	return v
}

// quoted reads a quoted string and undoes its quoting and folding.
func (l *lexer) quoted() []byte {
	l.b = l.b[1:]
	i := bytes.IndexAny(l.b, "\"\\\r\n")
	if i >= 0 && l.b[i] == '"' {
		v := l.b[:i]
		l.b = l.b[i+1:]
		return v
	}
	var v []byte
	for i := 0; i < len(l.b); i++ {
		switch c := l.b[i]; c {
		case '"':
			l.b = l.b[i+1:]
			return v
		case '\r', '\n':
		case '\\':
			if i++; i < len(l.b) {
				v = append(v, l.b[i])
			}
		default:
			v = append(v, c)
		}
	}
	l.b = nil
	return v
}

// unfold returns a field's value on one line, without the white space around it:
// never nil, as it is that of a field that is there. A bare CR is a blank.
func unfold(value []byte) []byte {
	value = bytes.TrimSpace(value)
	if len(value) == 0 {
		return []byte{}
	}
	if bytes.IndexByte(value, '\n') < 0 && bytes.IndexByte(value, '\r') < 0 {
		return value
	}
	out := make([]byte, 0, len(value))
	for i, c := range value {
		switch {
		case c == '\r' && value[i+1] != '\n': // it is not the last: that is no blank
			c = ' '
		case c == '\r', c == '\n':
			continue
		}
		out = append(out, c)
	}
	return out
}

// foldEqual compares ASCII without regard to case; name is in lower case.
func foldEqual(b []byte, name string) bool {
	if len(b) != len(name) {
		return false
	}
	for i := range b {
		c := b[i]
		if c >= 'A' && c <= 'Z' {
			c += 'a' - 'A'
		}
		if c != name[i] {
			return false
		}
	}
	return true
}
