package authres

import (
	"strings"
	"unicode/utf8"
)

// Name is the name of the field.
const Name = "Authentication-Results"

// Field is one field: who says what.
type Field struct {
	ID      string // authserv-id, as written
	Results []Result
}

// Result is what one method found.
type Result struct {
	Method string // in lower case
	Value  string // "pass", in lower case
	Reason string
	Props  []Property
}

// Property is one thing a method looked at: smtp.mailfrom=example.com.
type Property struct {
	Type, Name string // in lower case
	Value      string
}

// Prop returns the value of a property, "header" and "d" for header.d; "" when
// there is none.
func (r Result) Prop(kind, name string) string {
	for _, p := range r.Props {
		if p.Type == kind && p.Name == name {
			return p.Value
		}
	}
	return ""
}

// maxLine is where lines are folded, as far as there is a place (RFC 5322
// section 2.1.1).
const maxLine = 78

// String returns the field with its name, folded by CRLF and a tab, without a
// final line end. Without results it says "none". It is in ASCII: other
// characters become question marks.
func (f Field) String() string { return f.format(false) }

// UTF8 is String for messages that may hold UTF-8 in their header (RFC 6532).
func (f Field) UTF8() string { return f.format(true) }

func (f Field) format(wide bool) string {
	w := &writer{wide: wide}
	w.word(Name + ": " + w.value(f.ID) + ";")
	if len(f.Results) == 0 {
		w.word(" none")
		return w.String()
	}
	for i, r := range f.Results {
		w.fold()
		last := r.words(w)
		if i < len(f.Results)-1 {
			last += ";"
		}
		w.word(last)
	}
	return w.String()
}

// words writes all words of a result but the last one, which it returns.
func (r Result) words(w *writer) (last string) {
	last = token(r.Method) + "=" + token(r.Value)
	next := func(word string) {
		w.word(last)
		last = " " + word
	}
	if r.Reason != "" {
		next("reason=" + w.quoted(r.Reason))
	}
	for _, p := range r.Props {
		next(token(p.Type) + "." + token(p.Name) + "=" + w.value(p.Value))
	}
	return last
}

// writer collects a field and counts its line.
type writer struct {
	strings.Builder
	line int
	wide bool
}

// word writes a word; one that begins with a space may stand on the next line.
func (w *writer) word(s string) {
	if strings.HasPrefix(s, " ") && w.line+len(s) > maxLine {
		w.fold()
		s = s[1:]
	}
	w.WriteString(s)
	w.line += len(s)
}

func (w *writer) fold() {
	w.WriteString("\r\n\t")
	w.line = 8
}

// value writes what may stand unquoted as it is, and quotes the rest.
func (w *writer) value(s string) string {
	if isToken(s) || isAddress(s) {
		return s
	}
	return w.quoted(s)
}

// maxValue bounds what is written of one value: lines may not be longer than
// 998 octets.
const maxValue = 600

func (w *writer) quoted(s string) string {
	var b strings.Builder
	b.WriteByte('"')
	for _, c := range s {
		if b.Len() >= maxValue {
			break
		}
		switch {
		case c == '"' || c == '\\':
			b.WriteByte('\\')
			b.WriteRune(c)
		case c < ' ' || c == 0x7f || c == utf8.RuneError || c > 0x7f && !w.wide:
			b.WriteByte('?')
		default:
			b.WriteRune(c)
		}
	}
	b.WriteByte('"')
	return b.String()
}

// token makes a word of the closed sets safe, whoever chose it.
func token(s string) string {
	if isToken(s) {
		return s
	}
	return "unknown"
}

// isToken reports whether s is a token of RFC 2045.
func isToken(s string) bool {
	for i := range len(s) {
		if s[i] <= ' ' || s[i] > '~' || strings.IndexByte(specials, s[i]) >= 0 {
			return false
		}
	}
	return s != "" && len(s) <= maxValue
}

// specials are the octets that a token cannot hold.
const specials = `()<>@,;:\"/[]?=`

// isAddress reports whether s is "local-part@domain" or "@domain" that needs no
// quotes.
func isAddress(s string) bool {
	local, domain, ok := strings.Cut(s, "@")
	return ok && (local == "" || isToken(local)) && isToken(domain)
}
