package directory

import (
	"encoding/hex"
	"errors"
	"fmt"
	"sort"
	"strings"
)

// DN is a distinguished name as it was written (RFC 4514). Compare DNs with
// Equal and Under, never as strings: spelling differs between servers.
type DN string

var errDNSyntax = errors.New("malformed DN")

// ParseDN checks that s is a distinguished name and returns it unchanged. The
// empty string is the root's name.
func ParseDN(s string) (DN, error) {
	if _, err := normalizeDN(s); err != nil {
		return "", fmt.Errorf("%w: %q", err, s)
	}
	return DN(s), nil
}

// Key returns the form two spellings of one name share: attribute types and
// values in lower case, one way to escape, no optional spaces. A malformed DN
// is its own key, in lower case.
func (d DN) Key() string {
	key, err := normalizeDN(string(d))
	if err != nil {
		return strings.ToLower(string(d))
	}
	return key
}

// Equal reports whether d and other name the same entry.
func (d DN) Equal(other DN) bool { return d.Key() == other.Key() }

// Under reports whether d is base or lies below it.
func (d DN) Under(base DN) bool { return KeyUnder(d.Key(), base.Key()) }

// KeyUnder is Under for keys, in which a comma only ever separates.
func KeyUnder(key, base string) bool {
	return base == "" || key == base || strings.HasSuffix(key, ","+base)
}

// ParentKey returns the key of the entry above, "" for a name of one part.
func ParentKey(key string) string {
	_, parent, _ := strings.Cut(key, ",")
	return parent
}

// normalizeDN returns the key of a DN. It reads RFC 4514 and the quoted values
// of RFC 2253's predecessors, which old exports still contain.
func normalizeDN(s string) (string, error) {
	var rdns, avas []string
	rest := strings.Trim(s, " ")
	if rest == "" {
		return "", nil
	}
	for {
		ava, sep, tail, err := cutAVA(rest)
		if err != nil {
			return "", err
		}
		avas = append(avas, ava)
		if sep != '+' {
			sort.Strings(avas)
			rdns = append(rdns, strings.Join(avas, "+"))
			avas = avas[:0]
		}
		if sep == 0 {
			return strings.Join(rdns, ","), nil
		}
		rest = tail
	}
}

// cutAVA reads one "type=value" and the separator after it; sep is 0 at the
// end of the name.
func cutAVA(s string) (ava string, sep byte, rest string, err error) {
	typ, s, found := strings.Cut(s, "=")
	typ = strings.Trim(typ, " ")
	if !found || !IsAttributeDescription(typ) {
		return "", 0, "", errDNSyntax
	}
	value, sep, rest, err := cutDNValue(strings.TrimLeft(s, " "))
	if err != nil {
		return "", 0, "", err
	}
	return strings.ToLower(typ) + "=" + escapeDNKey(foldValue(value)), sep, rest, nil
}

// cutDNValue reads an unescaped attribute value up to its separator.
func cutDNValue(s string) (value string, sep byte, rest string, err error) {
	if strings.HasPrefix(s, `"`) {
		return cutQuotedDNValue(s)
	}
	var b strings.Builder
	kept := 0 // octets of b that trailing unescaped spaces must not take away
	for i := 0; i < len(s); i++ {
		switch c := s[i]; c {
		case '\\':
			octet, n, err := unescapeDN(s[i:])
			if err != nil {
				return "", 0, "", err
			}
			b.WriteByte(octet)
			kept = b.Len()
			i += n - 1
		case ',', ';', '+':
			return trimDNValue(b.String(), kept), separator(c), s[i+1:], nil
		case 0, '"', '<', '>':
			return "", 0, "", errDNSyntax
		default:
			b.WriteByte(c)
			if c != ' ' {
				kept = b.Len()
			}
		}
	}
	return trimDNValue(b.String(), kept), 0, "", nil
}

func trimDNValue(s string, kept int) string { return s[:kept] }

func cutQuotedDNValue(s string) (value string, sep byte, rest string, err error) {
	var b strings.Builder
	for i := 1; i < len(s); i++ {
		switch c := s[i]; c {
		case '\\':
			octet, n, err := unescapeDN(s[i:])
			if err != nil {
				return "", 0, "", err
			}
			b.WriteByte(octet)
			i += n - 1
		case '"':
			rest = strings.TrimLeft(s[i+1:], " ")
			if rest == "" {
				return b.String(), 0, "", nil
			}
			if strings.IndexByte(",;+", rest[0]) < 0 {
				return "", 0, "", errDNSyntax
			}
			return b.String(), separator(rest[0]), rest[1:], nil
		default:
			b.WriteByte(c)
		}
	}
	return "", 0, "", errDNSyntax
}

func separator(c byte) byte {
	if c == ';' { // RFC 2253 section 4 let readers accept it
		return ','
	}
	return c
}

// unescapeDN reads the escape at the start of s: a backslash and two hex
// digits or one special character.
func unescapeDN(s string) (octet byte, length int, err error) {
	if len(s) >= 3 {
		if b, err := hex.DecodeString(s[1:3]); err == nil {
			return b[0], 3, nil
		}
	}
	if len(s) >= 2 && strings.IndexByte(` "#+,;<=>\`, s[1]) >= 0 {
		return s[1], 2, nil
	}
	return 0, 0, errDNSyntax
}

// EscapeDNValue returns value as it may stand in a DN after "type=": whatever
// it contains, it stays one value (RFC 4514 section 2.4).
func EscapeDNValue(value string) string {
	var b strings.Builder
	for i := 0; i < len(value); i++ {
		c := value[i]
		edge := c == ' ' && (i == 0 || i == len(value)-1) || c == '#' && i == 0
		if c < ' ' || c == 0x7f || edge || strings.IndexByte(`"+,;<=>\`, c) >= 0 {
			fmt.Fprintf(&b, `\%02x`, c)
			continue
		}
		b.WriteByte(c)
	}
	return b.String()
}

// escapeDNKey escapes what separates parts of a key, always as hex.
func escapeDNKey(value string) string {
	if !strings.ContainsAny(value, ",+\\=\"") {
		return value
	}
	return EscapeDNValue(value)
}

// IsAttributeDescription reports whether s is an attribute type or OID with
// options (RFC 4512 section 2.5).
func IsAttributeDescription(s string) bool {
	if s == "" {
		return false
	}
	for i := 0; i < len(s); i++ {
		c := s[i]
		letter := c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z'
		digit := c >= '0' && c <= '9'
		if i == 0 && !letter && !digit {
			return false
		}
		if !letter && !digit && strings.IndexByte("-.;_", c) < 0 {
			return false
		}
	}
	return true
}
