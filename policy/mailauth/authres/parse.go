package authres

import (
	"errors"
	"strings"
)

// The bounds of what is read.
const (
	maxField   = 64 << 10
	maxResults = 100
	maxProps   = 100 // of a result
	maxDepth   = 50  // of comments
)

// The mistakes of a field.
var (
	ErrSyntax  = errors.New("malformed Authentication-Results")
	ErrVersion = errors.New("unknown version of Authentication-Results")
	ErrTooBig  = errors.New("Authentication-Results holds too much")
)

// Parse reads the value of a field, with or without folds. Of a field in a
// version that is not ours only the ID is told, with ErrVersion.
func Parse(value string) (Field, error) {
	if len(value) > maxField {
		return Field{}, ErrTooBig
	}
	p := &parser{rest: value}
	f, err := p.field()
	if p.failed != nil {
		err = p.failed
	}
	return f, err
}

// Claims reports whether the value of a field says that it comes from id. One
// that cannot be read, or could be read otherwise by somebody less strict, does
// when id stands in it at all.
func Claims(value, id string) bool {
	if len(value) <= maxField {
		p := &parser{rest: value}
		claimed := p.value("")
		p.space()
		if name := strings.TrimSuffix(claimed, "."); p.failed == nil && isToken(name) && p.endsID() {
			return strings.EqualFold(name, id)
		}
	}
	value, id = strings.ToLower(value), strings.ToLower(id)
	return strings.Contains(value, id) || strings.Contains(bare(value), id)
}

// endsID reports whether what follows ends an authserv-id: nothing, a semicolon
// or a version.
func (p *parser) endsID() bool {
	return p.rest == "" || p.rest[0] == ';' || p.rest[0] >= '0' && p.rest[0] <= '9'
}

// bare returns a value without comments, quotes and white space, and whatever
// else is not for people to see.
func bare(value string) string {
	out := make([]byte, 0, len(value))
	depth := 0
	for i := range len(value) {
		switch c := value[i]; {
		case c == '(':
			depth++
		case c == ')':
			depth = max(0, depth-1)
		case depth == 0 && c > ' ' && c < 0x7f && c != '"' && c != '\\':
			out = append(out, c)
		}
	}
	return string(out)
}

// parser reads from the left. Its first failure stands.
type parser struct {
	rest   string
	failed error
}

func (p *parser) fail(err error) {
	if p.failed == nil {
		p.failed = err
	}
	p.rest = ""
}

func (p *parser) field() (Field, error) {
	f := Field{ID: p.value("")}
	if f.ID == "" {
		return Field{}, ErrSyntax
	}
	if p.space(); p.rest != "" && p.rest[0] != ';' {
		if version := p.value("="); version != "1" {
			if strings.Trim(version, "0123456789") != "" || version == "" {
				return Field{}, ErrSyntax
			}
			return f, ErrVersion
		}
	}
	for p.accept(';') {
		if p.space(); p.rest == "" {
			break // a final semicolon, which many write
		}
		r, none := p.result()
		if none {
			continue
		}
		if f.Results = append(f.Results, r); len(f.Results) > maxResults {
			return Field{}, ErrTooBig
		}
	}
	if p.space(); p.rest != "" || p.failed != nil {
		return Field{}, ErrSyntax
	}
	return f, nil
}

// result reads a resinfo, or "none" where there is no result.
func (p *parser) result() (r Result, none bool) {
	r.Method = strings.ToLower(p.value("/="))
	if p.accept('/') {
		p.value("=")
	}
	if !p.accept('=') {
		if r.Method != "none" {
			p.fail(ErrSyntax)
		}
		return r, true
	}
	r.Value = strings.ToLower(p.value(""))
	if r.Method == "" || r.Value == "" {
		p.fail(ErrSyntax)
	}
	for {
		p.space()
		if p.rest == "" || p.rest[0] == ';' {
			return r, false
		}
		p.property(&r)
	}
}

// property reads a reasonspec or a propspec.
func (p *parser) property(r *Result) {
	kind := strings.ToLower(p.value(".="))
	if p.accept('=') {
		// Some add properties without a type; a reason is the one that the
		// grammar knows.
		value := p.value("")
		if kind == "reason" {
			r.Reason = value
		}
		return
	}
	if kind == "" || !p.accept('.') {
		p.fail(ErrSyntax)
		return
	}
	name := strings.ToLower(p.value("="))
	if name == "" || !p.accept('=') {
		p.fail(ErrSyntax)
		return
	}
	if r.Props = append(r.Props, Property{kind, name, p.value("")}); len(r.Props) > maxProps {
		p.fail(ErrTooBig)
	}
}

// accept reads an octet when it is next.
func (p *parser) accept(octet byte) bool {
	p.space()
	if p.rest == "" || p.rest[0] != octet {
		return false
	}
	p.rest = p.rest[1:]
	return true
}

// value reads a quoted string, or what goes on until white space, a semicolon,
// a comment or one of ends.
func (p *parser) value(ends string) string {
	p.space()
	if strings.HasPrefix(p.rest, `"`) {
		s := p.quoted()
		// A local-part may be quoted, with its domain following.
		if ends == "" && strings.HasPrefix(p.rest, "@") {
			s += p.plain(ends)
		}
		return s
	}
	return p.plain(ends)
}

func (p *parser) plain(ends string) string {
	end := strings.IndexAny(p.rest, " \t\r\n;(\""+ends)
	if end < 0 {
		end = len(p.rest)
	}
	s := p.rest[:end]
	p.rest = p.rest[end:]
	return s
}

func (p *parser) quoted() string {
	var b strings.Builder
	for i := 1; i < len(p.rest); i++ {
		switch c := p.rest[i]; c {
		case '"':
			p.rest = p.rest[i+1:]
			return b.String()
		case '\\':
			if i++; i < len(p.rest) {
				b.WriteByte(p.rest[i])
			}
		case '\r', '\n': // folds
		default:
			b.WriteByte(c)
		}
	}
	p.fail(ErrSyntax)
	return ""
}

// space skips white space and comments, which may hold each other.
func (p *parser) space() {
	depth := 0
	for i := 0; i < len(p.rest); i++ {
		switch c := p.rest[i]; {
		case c == '(':
			if depth++; depth > maxDepth {
				p.fail(ErrTooBig)
				return
			}
		case depth == 0 && c != ' ' && c != '\t' && c != '\r' && c != '\n':
			p.rest = p.rest[i:]
			return
		case c == ')':
			depth--
		case depth > 0 && c == '\\':
			i++
		}
	}
	if depth > 0 {
		p.fail(ErrSyntax)
	}
	p.rest = ""
}
