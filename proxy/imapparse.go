package proxy

import (
	"bytes"
	"strconv"
	"strings"
)

// literalAt finds the announcement of a literal, "{5}" or "{5+}", at the end
// of a line. One too large for any command has a number larger than that.
func literalAt(line []byte) (octets int, nonSync, found bool) {
	text, ok := bytes.CutSuffix(line, []byte("}"))
	if !ok {
		return 0, false, false
	}
	text, nonSync = bytes.CutSuffix(text, []byte("+"))
	open := bytes.LastIndexByte(text, '{')
	if open < 0 || open == len(text)-1 {
		return 0, false, false
	}
	for _, c := range text[open+1:] {
		if c < '0' || c > '9' {
			return 0, false, false
		}
	}
	n, err := strconv.ParseUint(string(text[open+1:]), 10, 31)
	if err != nil {
		n = maxEarlyOctets + 1
	}
	return int(n), nonSync, true
}

// imapParser reads a command's octets: lines without the last line end, with
// literals in their places.
type imapParser struct {
	b []byte
	i int
}

func (p *imapParser) ended() bool { return len(bytes.TrimRight(p.b[p.i:], " ")) == 0 }

// word reads up to the next space; "" where none begins here.
func (p *imapParser) word() string {
	from := p.i
	for p.i < len(p.b) && p.b[p.i] > ' ' && p.b[p.i] != 0x7f {
		p.i++
	}
	return string(p.b[from:p.i])
}

// nextWord reads a space and a word.
func (p *imapParser) nextWord() string {
	if !p.take(' ') {
		return ""
	}
	return p.word()
}

func (p *imapParser) take(c byte) bool {
	if p.i < len(p.b) && p.b[p.i] == c {
		p.i++
		return true
	}
	return false
}

// nextString reads a space and an astring.
func (p *imapParser) nextString() (string, error) {
	if !p.take(' ') {
		return "", &badCommand{"expected a space"}
	}
	return p.astring()
}

func (p *imapParser) astring() (string, error) {
	switch {
	case p.i < len(p.b) && p.b[p.i] == '"':
		return p.quoted()
	case p.i < len(p.b) && p.b[p.i] == '{':
		return p.literal()
	}
	from := p.i
	for p.i < len(p.b) && p.b[p.i] > ' ' && p.b[p.i] != 0x7f && !strings.ContainsRune(`(){"\%*`, rune(p.b[p.i])) {
		p.i++
	}
	if p.i == from {
		return "", &badCommand{"expected a string"}
	}
	return string(p.b[from:p.i]), nil
}

func (p *imapParser) quoted() (string, error) {
	var out []byte
	for p.i++; p.i < len(p.b); p.i++ {
		switch c := p.b[p.i]; c {
		case '"':
			p.i++
			return string(out), nil
		case '\\':
			if p.i++; p.i == len(p.b) || p.b[p.i] != '"' && p.b[p.i] != '\\' {
				return "", &badCommand{"invalid escape in a quoted string"}
			}
			out = append(out, p.b[p.i])
		case '\r', '\n', 0:
			return "", &badCommand{"invalid character in a quoted string"}
		default:
			out = append(out, c)
		}
	}
	return "", &badCommand{"quoted string is not closed"}
}

func (p *imapParser) literal() (string, error) {
	line, _, found := bytes.Cut(p.b[p.i:], []byte("\r\n"))
	octets, _, ok := literalAt(line)
	start := p.i + len(line) + 2
	if !found || !ok || octets > len(p.b)-start || bytes.IndexByte(line, '{') != 0 {
		return "", &badCommand{"invalid literal"}
	}
	p.i = start + octets
	return string(p.b[start:p.i]), nil
}

// maxIDFields is RFC 2971's own bound, and maxIDOctets that of what we pass on.
const (
	maxIDFields = 30
	maxIDOctets = 2000
)

// idList reads the argument of ID: NIL, or keys and values in turn. Values that
// are NIL are left out.
func (p *imapParser) idList() ([]string, error) {
	if !p.take(' ') {
		return nil, &badCommand{"expected a list"}
	}
	if !p.take('(') {
		if !strings.EqualFold(p.word(), "NIL") || !p.ended() {
			return nil, &badCommand{"expected a list or NIL"}
		}
		return nil, nil
	}
	var fields []string
	octets := 0
	for n := 0; !p.take(')'); n++ {
		if n > 0 && !p.take(' ') || n == maxIDFields {
			return nil, &badCommand{"malformed list"}
		}
		key, err := p.astring()
		if err != nil {
			return nil, err
		}
		value, err := p.nextString()
		if err != nil {
			return nil, err
		}
		if octets += len(key) + len(value); octets > maxIDOctets {
			return nil, &badCommand{"too long"}
		}
		if !strings.EqualFold(value, "NIL") {
			fields = append(fields, key, value)
		}
	}
	if !p.ended() {
		return nil, &badCommand{"unexpected text"}
	}
	return fields, nil
}
