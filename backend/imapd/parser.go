package imapd

import (
	"bytes"
	"math"
	"strings"
	"time"
	"unicode/utf8"
)

// syntaxError is what is wrong with a command; it is answered with BAD.
type syntaxError struct{ what, code string }

func (e *syntaxError) Error() string { return e.what }

func syntax(what string) error { return &syntaxError{what: what} }

// parser reads the octets of one command: its lines without the last line
// end, with literals in their places ("{5}\r\nhello"). Every method leaves the
// position behind what it accepted, or returns a syntaxError.
type parser struct {
	b []byte
	i int
	// sequence is set by search keys that are sequence numbers.
	sequence bool
	// swaps: names come with the other separator.
	swaps bool
	dialect
	// asked is the mailbox name that was read last, as the client wrote it.
	asked string
}

// Octet classes of the grammar in RFC 3501 section 9.
const (
	classAtom uint8 = 1 << iota
	classAstring
	classList
	classTag
)

var classes = func() (t [256]uint8) {
	for c := 0x21; c < 0x100; c++ {
		if c == 0x7f {
			continue
		}
		t[c] = classAtom | classAstring | classList | classTag
		if c >= 0x80 { // UTF-8 without quotes: nowhere in the grammar, but seen in the wild
			t[c] = classAstring | classList
		}
	}
	for _, c := range `(){"\` {
		t[c] = 0
	}
	t['%'], t['*'] = classList, classList
	t[']'] = classAstring | classList | classTag
	t['+'] &^= classTag
	return t
}()

func isAstringChar(c byte) bool { return classes[c]&classAstring != 0 }

// peek returns the next octet, 0 at the end.
func (p *parser) peek() byte {
	if p.i < len(p.b) {
		return p.b[p.i]
	}
	return 0
}

// take steps over c if it comes next.
func (p *parser) take(c byte) bool {
	if p.i < len(p.b) && p.b[p.i] == c {
		p.i++
		return true
	}
	return false
}

func (p *parser) want(c byte) error {
	if !p.take(c) {
		return syntax("expected " + printable(c))
	}
	return nil
}

func printable(c byte) string {
	if c == ' ' {
		return "a space"
	}
	return `"` + string(rune(c)) + `"`
}

func (p *parser) sp() error { return p.want(' ') }

// end wants nothing more. A trailing space is forgiven: several programs send one.
func (p *parser) end() error {
	rest := bytes.TrimRight(p.b[p.i:], " ")
	if len(rest) > 0 {
		return syntax("unexpected text after the arguments")
	}
	return nil
}

func (p *parser) class(c uint8) []byte {
	start := p.i
	for p.i < len(p.b) && classes[p.b[p.i]]&c != 0 {
		p.i++
	}
	return p.b[start:p.i]
}

func (p *parser) atom() (string, error) {
	if a := p.class(classAtom); len(a) > 0 {
		return string(a), nil
	}
	return "", syntax("expected an atom")
}

// word is an atom in capitals: a command, item, key or option.
func (p *parser) word() (string, error) {
	a, err := p.atom()
	return strings.ToUpper(a), err
}

// tag reads a command's tag.
func (p *parser) tag() (string, error) {
	if a := p.class(classTag); len(a) > 0 && len(a) <= maxTagOctets {
		return string(a), nil
	}
	return "", syntax("expected a tag")
}

// text reads a quoted string or a literal; ok is false when neither comes.
func (p *parser) text() (s string, ok bool, err error) {
	switch {
	case p.peek() == '"':
		s, err = p.quoted()
		return s, true, err
	case p.peek() == '{':
		s, err = p.literal()
		return s, true, err
	}
	return "", false, nil
}

func (p *parser) quoted() (string, error) {
	p.i++
	start, escaped := p.i, false
	for ; p.i < len(p.b); p.i++ {
		switch p.b[p.i] {
		case '"':
			s := p.b[start:p.i]
			p.i++
			if p.utf8 && !utf8.Valid(s) { // RFC 9755 section 3
				return "", syntax("quoted string is not UTF-8")
			}
			if !escaped {
				return string(s), nil
			}
			return unescape(s), nil
		case '\\':
			escaped = true
			p.i++
			if c := p.peek(); c != '"' && c != '\\' {
				return "", syntax("invalid escape in a quoted string")
			}
		case '\r', '\n', 0:
			return "", syntax("invalid character in a quoted string")
		}
	}
	return "", syntax("quoted string is not closed")
}

func unescape(s []byte) string {
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] == '\\' {
			i++
		}
		b.WriteByte(s[i])
	}
	return b.String()
}

func (p *parser) literal() (string, error) {
	end := bytes.IndexByte(p.b[p.i:], '\n')
	if end < 0 {
		return "", syntax("invalid literal")
	}
	mark, ok := literalAt(bytes.TrimSuffix(p.b[p.i:p.i+end], []byte("\r")))
	start := p.i + end + 1
	if !ok || mark.start != 0 || mark.octets > int64(len(p.b)-start) {
		return "", syntax("invalid literal")
	}
	p.i = start + int(mark.octets)
	s := p.b[start:p.i]
	if bytes.IndexByte(s, 0) >= 0 {
		return "", syntax("NUL in a literal")
	}
	return string(s), nil
}

func (p *parser) astring() (string, error) {
	if s, ok, err := p.text(); ok {
		return s, err
	}
	if a := p.class(classAstring); len(a) > 0 {
		return string(a), nil
	}
	return "", syntax("expected a string")
}

// nstring reads a string or NIL.
func (p *parser) nstring() (string, error) {
	if s, ok, err := p.text(); ok {
		return s, err
	}
	if a, err := p.word(); err != nil || a != "NIL" {
		return "", syntax("expected a string or NIL")
	}
	return "", nil
}

// mailbox reads a mailbox name and turns it into the store's form.
func (p *parser) mailbox() (string, error) {
	s, err := p.astring()
	if err != nil {
		return "", err
	}
	name, err := p.decode(s)
	if err != nil {
		return "", err
	}
	p.asked = s
	return levels(name)
}

// listMailbox reads a LIST pattern, wildcards included.
func (p *parser) listMailbox() (string, error) {
	s, ok, err := p.text()
	if err != nil {
		return "", err
	}
	if !ok {
		a := p.class(classList)
		if len(a) == 0 {
			return "", syntax("expected a mailbox pattern")
		}
		s = string(a)
	}
	return p.decode(s)
}

// number64 reads a decimal number of at most 63 bits.
func (p *parser) number64() (uint64, error) {
	start := p.i
	var n uint64
	for ; p.i < len(p.b) && p.b[p.i]-'0' <= 9; p.i++ {
		digit := uint64(p.b[p.i] - '0')
		if n > (math.MaxInt64-digit)/10 {
			return 0, syntax("number is too large")
		}
		n = n*10 + digit
	}
	if p.i == start {
		return 0, syntax("expected a number")
	}
	return n, nil
}

func (p *parser) number() (uint32, error) {
	n, err := p.number64()
	if err == nil && n > math.MaxUint32 {
		return 0, syntax("number is too large")
	}
	return uint32(n), err
}

// parseSet reads a space and a sequence set.
func parseSet(p *parser) (numSet, error) {
	if err := p.sp(); err != nil {
		return nil, err
	}
	return p.numSet()
}

// numSet reads a sequence set (RFC 9051 section 9, sequence-set).
func (p *parser) numSet() (numSet, error) {
	if p.take('$') {
		return numSet{{saved: true}}, nil
	}
	var set numSet
	for {
		r, err := p.numRange()
		if err != nil {
			return nil, err
		}
		set = append(set, r)
		if !p.take(',') {
			return set, nil
		}
	}
}

func (p *parser) numRange() (numRange, error) {
	lo, err := p.setNumber()
	if err != nil {
		return numRange{}, err
	}
	if !p.take(':') {
		return numRange{first: lo, last: lo}, nil
	}
	hi, err := p.setNumber()
	return numRange{first: lo, last: hi}, err
}

func (p *parser) setNumber() (uint32, error) {
	if p.take('*') {
		return star, nil
	}
	n, err := p.number()
	if err == nil && n == 0 {
		return 0, syntax("0 is not a message number")
	}
	return n, err
}

// list reads a parenthesised list, calling element for each of its elements.
func (p *parser) list(element func() error) error {
	if err := p.want('('); err != nil {
		return err
	}
	if p.take(')') {
		return nil
	}
	for {
		if err := element(); err != nil {
			return err
		}
		if p.take(')') {
			return nil
		}
		if err := p.sp(); err != nil {
			return err
		}
	}
}

const (
	dateLayout     = "2-Jan-2006"
	dateTimeLayout = "_2-Jan-2006 15:04:05 -0700"
)

// date reads the date of a search key: its midnight in UTC.
func (p *parser) date() (time.Time, error) {
	s, err := p.astring()
	if err != nil {
		return time.Time{}, err
	}
	t, err := time.Parse(dateLayout, s)
	if err != nil || t.Year() < 1 {
		return time.Time{}, syntax("invalid date")
	}
	return t, nil
}

// dateTime reads the quoted date and time of APPEND.
func (p *parser) dateTime() (time.Time, error) {
	s, err := p.quoted()
	if err != nil {
		return time.Time{}, err
	}
	t, err := time.Parse(dateTimeLayout, s)
	if err != nil || t.Year() < 1 {
		return time.Time{}, syntax("invalid date and time")
	}
	return t, nil
}
