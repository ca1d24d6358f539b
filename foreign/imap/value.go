package imap

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
)

// Bounds of one response, whatever the server is.
const (
	maxResponse = 16 << 20 // octets, but for a literal that goes to a sink
	maxDepth    = 24
	maxValues   = 4 << 20
)

var errMalformed = errors.New("malformed response")

// kind is what a value is.
type kind uint8

const (
	kindAtom   kind = iota // also numbers and flags
	kindString             // quoted or literal
	kindNil
	kindList
	kindSunk // a literal that went to a sink
)

// value is one datum of a response.
type value struct {
	kind kind
	text string
	list []value
}

func (v value) is(atom string) bool { return v.kind == kindAtom && strings.EqualFold(v.text, atom) }

func (v value) number() (uint64, error) {
	n, err := strconv.ParseUint(v.text, 10, 64)
	if err != nil || v.kind != kindAtom {
		return 0, fmt.Errorf("%w: %q is no number", errMalformed, v.text)
	}
	return n, nil
}

func (v value) uid() (uint32, error) {
	n, err := v.number()
	if err == nil && (n == 0 || n > 1<<32-1) {
		err = fmt.Errorf("%w: %d is no UID", errMalformed, n)
	}
	return uint32(n), err
}

// sink takes a literal of size octets while it is read; it need not read all.
type sink func(size int64, r io.Reader) error

// reader reads values. It counts what it reads against the bounds.
type reader struct {
	r      *bufio.Reader
	left   int
	values int
	sink   sink   // of literals behind BODY[], nil for none
	armed  bool   // the item before was BODY[]
	uid    uint32 // the item UID of a FETCH, once it is read; 0 before
}

func newReader(r *bufio.Reader) *reader {
	return &reader{r: r, left: maxResponse, values: maxValues}
}

func (p *reader) byte() (byte, error) {
	if p.left--; p.left < 0 {
		return 0, fmt.Errorf("%w: longer than %d octets", errMalformed, maxResponse)
	}
	return p.r.ReadByte()
}

func (p *reader) peek() (byte, error) {
	b, err := p.r.Peek(1)
	if err != nil {
		return 0, err
	}
	return b[0], nil
}

// line reads the rest of the line, without its end.
func (p *reader) line() (string, error) {
	var b strings.Builder
	for {
		c, err := p.byte()
		if err != nil {
			return "", err
		}
		if c == '\n' {
			return strings.TrimSuffix(b.String(), "\r"), nil
		}
		b.WriteByte(c)
	}
}

// rest reads the values up to the end of the line.
func (p *reader) rest() ([]value, error) {
	var all []value
	for {
		c, err := p.peek()
		if err != nil {
			return nil, err
		}
		switch c {
		case ' ':
			_, err = p.byte()
		case '\r', '\n':
			text, err := p.line()
			if err == nil && text != "" {
				err = errMalformed
			}
			return all, err
		default:
			var v value
			v, err = p.value(0)
			all = append(all, v)
		}
		if err != nil {
			return nil, err
		}
	}
}

func (p *reader) value(depth int) (value, error) {
	if p.values--; p.values < 0 || depth > maxDepth {
		return value{}, fmt.Errorf("%w: too many or too deep values", errMalformed)
	}
	c, err := p.peek()
	if err != nil {
		return value{}, err
	}
	armed := p.armed
	p.armed = false
	switch c {
	case '(':
		return p.listOf(depth)
	case '"':
		return p.quoted()
	case '{':
		return p.literal(armed)
	case '~':
		if next, err := p.r.Peek(2); err == nil && next[1] == '{' {
			_, _ = p.byte() // peeked above
			return p.literal(armed)
		}
	}
	return p.atom()
}

func (p *reader) listOf(depth int) (value, error) {
	v := value{kind: kindList}
	_, _ = p.byte() // the parenthesis the caller peeked
	for {
		c, err := p.peek()
		if err != nil {
			return v, err
		}
		switch c {
		case ')':
			_, err = p.byte()
			return v, err
		case ' ':
			_, err = p.byte()
		case '\r', '\n':
			return v, fmt.Errorf("%w: list without end", errMalformed)
		default:
			var item value
			item, err = p.value(depth + 1)
			if n := len(v.list); err == nil && depth == 0 && n%2 == 1 && v.list[n-1].is("UID") {
				p.uid, err = item.uid()
			}
			v.list = append(v.list, item)
		}
		if err != nil {
			return v, err
		}
	}
}

func (p *reader) quoted() (value, error) {
	var b strings.Builder
	_, _ = p.byte() // the quote the caller peeked
	for {
		c, err := p.byte()
		if err != nil {
			return value{}, err
		}
		switch c {
		case '"':
			return value{kind: kindString, text: b.String()}, nil
		case '\r', '\n':
			return value{}, fmt.Errorf("%w: quoted string without end", errMalformed)
		case '\\':
			if c, err = p.byte(); err != nil {
				return value{}, err
			}
		}
		b.WriteByte(c)
	}
}

// literal reads {n} CRLF and n octets.
func (p *reader) literal(toSink bool) (value, error) {
	head, err := p.line()
	if err != nil {
		return value{}, err
	}
	size, err := literalSize(head)
	if err != nil {
		return value{}, err
	}
	if toSink && p.sink != nil {
		body := io.LimitReader(p.r, size)
		if err := p.sink(size, body); err != nil {
			return value{}, err
		}
		_, err := io.Copy(io.Discard, body)
		return value{kind: kindSunk}, err
	}
	if size > int64(p.left) {
		return value{}, fmt.Errorf("%w: literal of %d octets", errMalformed, size)
	}
	p.left -= int(size)
	var b strings.Builder
	if n, err := io.CopyN(&b, p.r, size); err != nil {
		return value{}, fmt.Errorf("literal of %d octets ended after %d: %w", size, n, err)
	}
	return value{kind: kindString, text: b.String()}, nil
}

func literalSize(head string) (int64, error) {
	digits, ok := strings.CutPrefix(head, "{")
	digits, closed := strings.CutSuffix(digits, "}")
	size, err := strconv.ParseInt(strings.TrimSuffix(digits, "+"), 10, 64)
	if !ok || !closed || err != nil || size < 0 {
		return 0, fmt.Errorf("%w: literal head %.40q", errMalformed, head)
	}
	return size, nil
}

// atom reads up to a delimiter; brackets may hold any, as in BODY[HEADER.FIELDS (TO)].
func (p *reader) atom() (value, error) {
	var b strings.Builder
	depth := 0
	for {
		c, err := p.peek()
		if err != nil {
			return value{}, err
		}
		switch {
		case c == '\r' || c == '\n':
			depth = 0
		case c == '[':
			depth++
		case c == ']' && depth > 0:
			depth--
		}
		if end := strings.IndexByte(" ()\"\r\n", c) >= 0; end && depth == 0 {
			break
		}
		_, _ = p.byte() // the octet peeked; the bound is looked at below
		if p.left < 0 {
			return value{}, fmt.Errorf("%w: longer than %d octets", errMalformed, maxResponse)
		}
		b.WriteByte(c)
	}
	text := b.String()
	if text == "" {
		return value{}, fmt.Errorf("%w: empty atom", errMalformed)
	}
	if strings.EqualFold(text, "NIL") {
		return value{kind: kindNil}, nil
	}
	p.armed = strings.EqualFold(text, "BODY[]")
	return value{kind: kindAtom, text: text}, nil
}

// parseCode reads the response code at the start of a status response's text:
// its name in capitals, and its arguments.
func parseCode(text string) (name string, args []value) {
	if !strings.HasPrefix(text, "[") {
		return "", nil
	}
	end := strings.IndexByte(text, ']')
	if strings.HasPrefix(text, "[PERMANENTFLAGS") || strings.HasPrefix(text, "[BADCHARSET") {
		if at := strings.Index(text, ")]"); at > 0 {
			end = at + 1 // a flag may hold a bracket
		}
	}
	if end < 0 {
		return "", nil
	}
	name, rest, _ := strings.Cut(text[1:end], " ")
	args, err := newReader(bufio.NewReader(strings.NewReader(rest + "\r\n"))).rest()
	if err != nil {
		args = nil
	}
	return strings.ToUpper(name), args
}
