package pop3d

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"strconv"
	"strings"

	"github.com/postern-mail/postern/backend/mailstore"
)

// maxUIDLOctets bounds a unique-id (RFC 1939 section 7).
const maxUIDLOctets = 70

// UIDL is how messages are named to clients.
type UIDL struct{ parts []uidlPart }

// uidlPart is literal text, or a value.
type uidlPart struct {
	text  string
	value byte // 'u', 'v' or 'g'; 0 for text
	hex   bool
	width int // filled up with zeros
}

// InstanceFormat is the format of ByInstance.
const InstanceFormat = "%g"

// ByInstance names messages by what identifies them for ever. Unlike a UID it
// stays when the partner of a pair has to number a message anew.
func ByInstance() UIDL { return UIDL{[]uidlPart{{value: 'g'}}} }

// ParseUIDL reads a format: text with %u for the UID, %v for UIDVALIDITY, %g
// for the identity of the message, and %% for a percent sign. A 0 and a width
// fill numbers up with zeros, an X writes them in hexadecimal digits of lower
// case: %08Xu. What it names messages by differs within a mailbox.
func ParseUIDL(format string) (UIDL, error) {
	var u UIDL
	distinct := false
	for rest := format; rest != ""; {
		text, more, found := strings.Cut(rest, "%")
		if strings.ContainsFunc(text, func(r rune) bool { return r <= ' ' || r > '~' }) {
			return u, fmt.Errorf("UIDL format %q: clients take printable US-ASCII without spaces only", format)
		}
		if text != "" {
			u.parts = append(u.parts, uidlPart{text: text})
		}
		if !found {
			break
		}
		p, left, err := parseValue(more)
		if err != nil {
			return u, fmt.Errorf("UIDL format %q: %w", format, err)
		}
		distinct = distinct || p.value == 'u' || p.value == 'g'
		u.parts, rest = append(u.parts, p), left
	}
	if !distinct {
		return u, fmt.Errorf("UIDL format %q: it names all messages alike; it needs %%g or %%u", format)
	}
	return u, nil
}

// parseValue reads what follows a percent sign.
func parseValue(s string) (p uidlPart, rest string, err error) {
	digits := len(s) - len(strings.TrimLeft(s, "0123456789"))
	if digits > 0 {
		if p.width, err = strconv.Atoi(s[:digits]); err != nil || s[0] != '0' || p.width > maxUIDLOctets {
			return p, "", fmt.Errorf("%%%s is no width: write a 0 and at most %d, such as %%08Xu", s[:digits], maxUIDLOctets)
		}
		s = s[digits:]
	}
	if s, p.hex = strings.CutPrefix(s, "X"); s == "" {
		return p, "", fmt.Errorf("it ends inside a variable")
	}
	p.value = s[0]
	plain := !p.hex && digits == 0
	switch {
	case p.value == '%' && plain:
		return uidlPart{text: "%"}, s[1:], nil
	case p.value == 'g' && plain, p.value == 'u', p.value == 'v':
		return p, s[1:], nil
	case p.value == 'g':
		return p, "", fmt.Errorf("%%g has a form of its own: no width and no X")
	case p.value == 'f', p.value == 'm':
		return p, "", fmt.Errorf("%%%c is not kept here: there are no files that messages could be named by; use %%g, or %%u and %%v where UIDs were taken over", p.value)
	}
	return p, "", fmt.Errorf("there is no variable %%%c; there are %%u, %%v, %%g and %%%%", p.value)
}

// append appends a message's name. One that would be too long is replaced by
// its hash.
func (u UIDL) append(dst []byte, m *mailstore.Message, uidValidity uint32) []byte {
	from := len(dst)
	for i := range u.parts {
		switch p := &u.parts[i]; p.value {
		case 'u':
			dst = p.number(dst, uint64(m.UID))
		case 'v':
			dst = p.number(dst, uint64(uidValidity))
		case 'g':
			dst = appendPadded(dst, uint64(m.Dot.Origin), 16, 16)
			dst = strconv.AppendUint(dst, m.Dot.Seq, 16)
		default:
			dst = append(dst, p.text...)
		}
	}
	if len(dst)-from <= maxUIDLOctets {
		return dst
	}
	sum := sha256.Sum256(dst[from:])
	return hex.AppendEncode(dst[:from], sum[:])
}

func (p *uidlPart) number(dst []byte, n uint64) []byte {
	base := 10
	if p.hex {
		base = 16
	}
	return appendPadded(dst, n, base, p.width)
}

func appendPadded(dst []byte, n uint64, base, width int) []byte {
	var digits [20]byte
	text := strconv.AppendUint(digits[:0], n, base)
	for i := len(text); i < width; i++ {
		dst = append(dst, '0')
	}
	return append(dst, text...)
}
