package sql

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
)

// Notation says how placeholders are written.
type Notation int

const (
	// Postfix: %s the key, %u its local-part (the key when it has no domain),
	// %d its domain, %S %U %D the same, %1 to %9 the domain's labels from the
	// right.
	Postfix Notation = iota
	// Dovecot: %u or %{user} the login, %n or %{username} its local-part, %d or
	// %{domain} its domain.
	Dovecot
)

// placeholder reads what stands behind a percent sign: the letter of
// directory.Key.Part it means, and how many octets it takes.
func (n Notation) placeholder(rest string) (part byte, octets int, err error) {
	if n == Postfix {
		if strings.IndexByte("sudSUD123456789", rest[0]) < 0 {
			return 0, 0, fmt.Errorf("there is no placeholder %%%c; a percent sign is written %%%%", rest[0])
		}
		return rest[0], 1, nil
	}
	if name, _, ok := strings.Cut(rest, "}"); ok && rest[0] == '{' {
		part, known := map[string]byte{"user": 's', "username": 'u', "domain": 'd'}[name[1:]]
		if !known {
			return 0, 0, fmt.Errorf("there is no placeholder %%%s}; there are %%{user}, %%{username}, %%{domain}", name)
		}
		return part, len(name) + 1, nil
	}
	skip := 0
	if rest[0] == 'L' && len(rest) > 1 { // lower case, which logins are in already
		skip, rest = 1, rest[1:]
	}
	part, known := map[byte]byte{'u': 's', 'n': 'u', 'd': 'd'}[rest[0]]
	if !known {
		return 0, 0, fmt.Errorf("there is no placeholder %%%c; there are %%u, %%n, %%d, and a percent sign is written %%%%", rest[0])
	}
	return part, skip + 1, nil
}

// Statement is a query with its parameters. It is immutable.
type Statement struct {
	text       string
	parameters []parameter
}

// parameter is what is bound in one place: a literal of the query with its
// placeholders.
type parameter []piece

// piece is a text or, when part is not 0, a part of the key.
type piece struct {
	text string
	part byte
}

// String returns the query as the database gets it.
func (s *Statement) String() string { return s.text }

// Fill returns the parameters for a key. It is false when the key lacks a part
// that the query asks for.
func (s *Statement) fill(part func(byte) (string, bool)) ([]any, bool) {
	values := make([]any, len(s.parameters))
	for i, p := range s.parameters {
		var b strings.Builder
		for _, piece := range p {
			if piece.part == 0 {
				b.WriteString(piece.text)
				continue
			}
			text, ok := part(piece.part)
			if !ok {
				return nil, false
			}
			b.WriteString(text)
		}
		values[i] = b.String()
	}
	return values, true
}

// ParseStatement reads a query for a driver. A placeholder stands alone or
// inside of a string literal ('%s', '%u@%d'), which becomes one parameter as a
// whole.
func ParseStatement(text string, driver string, notation Notation) (*Statement, error) {
	text = strings.TrimSuffix(strings.TrimSpace(text), ";")
	if text == "" {
		return nil, errors.New("the query is empty")
	}
	p := &scanner{rest: text, driver: driver, notation: notation}
	for p.rest != "" {
		if err := p.next(); err != nil {
			return nil, err
		}
	}
	return &Statement{p.out.String(), p.parameters}, nil
}

// scanner goes through the text of a query.
type scanner struct {
	rest       string
	driver     string
	notation   Notation
	out        strings.Builder
	parameters []parameter
}

func (p *scanner) next() error {
	switch c := p.rest[0]; {
	case c == '%':
		piece, err := p.percent()
		switch {
		case err != nil:
			return err
		case piece.part == 0:
			p.out.WriteString(piece.text)
		default:
			p.bind(parameter{piece})
		}
		return nil
	case c == '\'', c == '"' && p.driver == MySQL:
		return p.literal()
	case c == '"', c == '`':
		return p.verbatim(1, string(c), "the name of a column or table")
	case strings.HasPrefix(p.rest, "--") || c == '#' && p.driver == MySQL:
		return p.verbatim(1, "\n", "a comment")
	case strings.HasPrefix(p.rest, "/*"):
		return p.verbatim(2, "*/", "a comment")
	case c == '?' && p.driver != PostgreSQL:
		return errors.New("a question mark outside of a string: write a placeholder such as %s")
	case c == '$' && p.driver == PostgreSQL:
		if len(p.rest) > 1 && p.rest[1] >= '0' && p.rest[1] <= '9' {
			return errors.New("a number behind a dollar sign: write a placeholder such as %s")
		}
		if end := strings.IndexByte(p.rest[1:], '$'); end >= 0 && isTag(p.rest[1:end+1]) {
			return p.verbatim(end+2, p.rest[:end+2], "a string between dollar signs")
		}
	case c == 0:
		return errors.New("NUL in the query")
	}
	p.out.WriteByte(p.rest[0])
	p.rest = p.rest[1:]
	return nil
}

func isTag(s string) bool {
	return strings.Trim(s, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ_") == ""
}

// percent reads a percent sign and what it begins.
func (p *scanner) percent() (piece, error) {
	rest := p.rest[1:]
	if rest == "" {
		return piece{}, errors.New("a percent sign ends the query; it is written %%")
	}
	if rest[0] == '%' {
		p.rest = rest[1:]
		return piece{text: "%"}, nil
	}
	part, octets, err := p.notation.placeholder(rest)
	if err == nil {
		p.rest = rest[octets:]
	}
	return piece{part: part}, err
}

// bind writes a parameter.
func (p *scanner) bind(value parameter) {
	p.parameters = append(p.parameters, value)
	if p.driver == PostgreSQL {
		p.out.WriteString("$" + strconv.Itoa(len(p.parameters)))
		return
	}
	p.out.WriteByte('?')
}

// literal reads a string literal. One without placeholders stays as it is, but
// for doubled percent signs.
func (p *scanner) literal() error {
	quote, before := p.rest[0], p.out.String()
	p.rest = p.rest[1:]
	escapes := p.driver == MySQL
	var verbatim, plain strings.Builder // as written, as meant
	var value parameter
	placeholders := false
	for p.rest != "" {
		c := p.rest[0]
		switch {
		case c == quote && len(p.rest) > 1 && p.rest[1] == quote:
			verbatim.WriteString(p.rest[:2])
			plain.WriteByte(quote)
			p.rest = p.rest[2:]
		case c == quote:
			p.rest = p.rest[1:]
			if !placeholders {
				p.out.WriteString(string(quote) + verbatim.String() + string(quote))
				return nil
			}
			if last := strings.TrimRight(before, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_"); len(last) < len(before) {
				return fmt.Errorf("a string with placeholders has no %s before its quotes", before[len(last):])
			}
			p.bind(append(value, piece{text: plain.String()}))
			return nil
		case c == '%':
			one, err := p.percent()
			if err != nil {
				return err
			}
			if one.part == 0 {
				verbatim.WriteString(one.text)
				plain.WriteString(one.text)
				continue
			}
			placeholders = true
			value = append(value, piece{text: plain.String()}, one)
			plain.Reset()
		case c == '\\' && escapes && len(p.rest) > 1 && p.rest[1] != '%':
			verbatim.WriteString(p.rest[:2])
			plain.WriteString(unescaped(p.rest[1]))
			p.rest = p.rest[2:]
		default:
			verbatim.WriteByte(c)
			plain.WriteByte(c)
			p.rest = p.rest[1:]
		}
	}
	return fmt.Errorf("a string has no closing %c", quote)
}

// unescaped is what a backslash and a character mean in MySQL.
func unescaped(c byte) string {
	switch c {
	case 'n':
		return "\n"
	case 't':
		return "\t"
	case 'r':
		return "\r"
	case 'b':
		return "\b"
	case 'Z':
		return "\x1a"
	case '_':
		return `\_` // for LIKE, as is \% which comes with its percent sign
	default:
		return string(c)
	}
}

// verbatim copies what goes up to end, in which nothing is filled in.
func (p *scanner) verbatim(begin int, end, what string) error {
	at := strings.Index(p.rest[begin:], end)
	whole := p.rest
	if at >= 0 {
		whole = p.rest[:begin+at+len(end)]
	} else if end != "\n" {
		return fmt.Errorf("%s has no end", what)
	}
	if strings.Contains(strings.ReplaceAll(whole, "%%", ""), "%") {
		return fmt.Errorf("a placeholder cannot stand in %s", what)
	}
	p.out.WriteString(strings.ReplaceAll(whole, "%%", "%"))
	p.rest = p.rest[len(whole):]
	return nil
}
