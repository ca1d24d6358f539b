package dkim

import (
	"strings"

	"github.com/postern-mail/postern/mail"
)

// Canon is how a header or a body is made alike before it is hashed (RFC 6376
// section 3.4).
type Canon uint8

// The canonicalizations. Simple tolerates nothing in the header and empty lines
// at the end of the body; Relaxed tolerates changes of white space.
const (
	Simple Canon = iota
	Relaxed
)

var canonNames = [...]string{"simple", "relaxed"}

// String returns the word of the tag c=.
func (c Canon) String() string { return canonNames[c] }

func parseCanon(word string) (Canon, bool) {
	switch {
	case strings.EqualFold(word, "simple"):
		return Simple, true
	case strings.EqualFold(word, "relaxed"):
		return Relaxed, true
	}
	return 0, false
}

// AppendField appends a header field in its canonical form, without the CRLF at
// its end (RFC 6376 sections 3.4.1 and 3.4.2).
func AppendField[F ~string](dst []byte, field F, c Canon) []byte {
	if c == Simple {
		return append(dst, field...)
	}
	colon := strings.IndexByte(string(field), ':')
	if colon < 0 {
		return appendRelaxed(dst, string(field))
	}
	for _, b := range []byte(strings.TrimRight(string(field[:colon]), " \t\r\n")) {
		if 'A' <= b && b <= 'Z' {
			b |= 0x20
		}
		dst = append(dst, b)
	}
	return appendRelaxed(append(dst, ':'), string(field[colon+1:]))
}

// appendRelaxed unfolds a value, makes one space of each run of white space
// and removes it at the ends.
func appendRelaxed(dst []byte, value string) []byte {
	value = trimFWS(value)
	for len(value) > 0 {
		end := 0
		for end < len(value) && !isFWS(value[end]) {
			end++
		}
		dst = append(dst, value[:end]...)
		value = value[end:]
		if value == "" {
			break
		}
		// A line end without white space after it is no fold; it goes, too.
		space := false
		for value != "" && isFWS(value[0]) {
			space = space || value[0] == ' ' || value[0] == '\t'
			value = value[1:]
		}
		if space {
			dst = append(dst, ' ')
		}
	}
	return dst
}

// Header finds the fields of a message by name, from the lowest up, as
// signatures name them. It may be shared for reading.
type Header struct {
	fields []mail.Field
	// lower is where the fields of a name stand, in their order.
	lower map[string][]int32
}

// NewHeader indexes the fields of a message, the topmost first.
func NewHeader(fields []mail.Field) *Header {
	h := &Header{fields: fields, lower: make(map[string][]int32, len(fields))}
	for i, f := range fields {
		name := strings.ToLower(f.Name())
		h.lower[name] = append(h.lower[name], int32(i))
	}
	return h
}

// Count tells how many fields have a name, in lower case.
func (h *Header) Count(name string) int { return len(h.lower[name]) }

// Indexes returns the places of the fields of a name, in lower case.
func (h *Header) Indexes(name string) []int32 { return h.lower[name] }

// AppendNamed appends the canonical form of the fields that h= names, each
// with its CRLF: for a name that stands there n times the lowest n fields of
// it, the lowest first; nothing where the message has no more of them (RFC
// 6376 section 5.4.2). The field at index except is left out: a signature does
// not cover itself; -1 for none.
func (h *Header) AppendNamed(dst []byte, names []string, c Canon, except int) []byte {
	taken := make(map[string]int, len(names))
	for _, name := range names {
		places := h.lower[name]
		for {
			n := taken[name]
			if n >= len(places) {
				break
			}
			taken[name] = n + 1
			at := int(places[len(places)-1-n])
			if at == except {
				continue
			}
			dst = append(AppendField(dst, h.fields[at], c), '\r', '\n')
			break
		}
	}
	return dst
}
