package directory

import (
	"encoding/hex"
	"errors"
	"fmt"
	"strings"

	"github.com/postern-mail/postern/mail"
)

// Key is what a template's placeholders are filled from: an address or a
// login as somebody typed it.
type Key struct {
	whole     string
	local     string
	domain    string
	hasDomain bool
}

// NewKey returns the key for s, split at its last at-sign.
func NewKey(s string) Key {
	k := Key{whole: s, local: s}
	if at := strings.LastIndexByte(s, '@'); at >= 0 {
		k.local, k.domain, k.hasDomain = s[:at], s[at+1:], true
	}
	return k
}

// AddressKey returns the key for an address.
func AddressKey(a mail.Address) Key {
	return Key{whole: a.String(), local: string(a.Local), domain: string(a.Domain), hasDomain: a.Domain != ""}
}

// Part returns what a placeholder stands for; false when key has no such part.
func (k *Key) Part(placeholder byte) (string, bool) {
	switch placeholder {
	case 's', 'S':
		return k.whole, k.whole != ""
	case 'u', 'U':
		return k.local, k.local != ""
	case 'd', 'D':
		return k.domain, k.hasDomain && k.domain != ""
	}
	if !k.hasDomain {
		return "", false
	}
	// %1 is the domain's last label, %2 the one before it.
	labels := strings.Split(k.domain, ".")
	n := int(placeholder - '0')
	if n > len(labels) || labels[len(labels)-n] == "" {
		return "", false
	}
	return labels[len(labels)-n], true
}

// Template is a filter with placeholders, in Postfix's notation: %s the whole
// key, %u its local-part (the whole key when it has no domain), %d its domain,
// %1 to %9 the domain's labels from the right, %% a percent sign. Placeholders
// stand in values only; they are filled with values and are never read as
// filter text. A Template may be used concurrently.
type Template struct{ filter Filter }

// ParseTemplate reads a filter template.
func ParseTemplate(text string) (*Template, error) {
	f, err := parseFilter(text, true)
	if err != nil {
		return nil, err
	}
	return &Template{filter: f}, nil
}

// Execute returns the filter for key. It is false when the template asks for a
// part that key has not, a domain for instance: then there is nothing to look
// up.
func (t *Template) Execute(key Key) (Filter, bool) { return t.filter.substitute(&key) }

// String returns the template's text.
func (t *Template) String() string { return t.filter.String() }

// value is an assertion value: a literal, or in a template parts to be joined.
type value struct {
	literal string
	parts   []valuePart
}

// valuePart is a literal or, when placeholder is not 0, a part of the key.
type valuePart struct {
	literal     string
	placeholder byte
}

var errValueSyntax = errors.New("malformed value")

// parseValue decodes the text of an assertion value.
func parseValue(raw string, template bool) (value, error) {
	var b strings.Builder
	var parts []valuePart
	for i := 0; i < len(raw); i++ {
		switch c := raw[i]; {
		case c == '\\':
			if i+3 > len(raw) {
				return value{}, fmt.Errorf("%w: backslash needs two hex digits", errValueSyntax)
			}
			octet, err := hex.DecodeString(raw[i+1 : i+3])
			if err != nil {
				return value{}, fmt.Errorf("%w: backslash needs two hex digits", errValueSyntax)
			}
			b.WriteByte(octet[0])
			i += 2
		case c == 0 || c == '*':
			return value{}, fmt.Errorf("%w: %q must be escaped", errValueSyntax, c)
		case c == '%' && template:
			i++
			if i == len(raw) {
				return value{}, fmt.Errorf("%w: percent sign at the end", errValueSyntax)
			}
			if raw[i] == '%' {
				b.WriteByte('%')
				continue
			}
			if !isPlaceholder(raw[i]) {
				return value{}, fmt.Errorf("%w: no placeholder %%%c", errValueSyntax, raw[i])
			}
			parts = append(parts, valuePart{literal: b.String()}, valuePart{placeholder: raw[i]})
			b.Reset()
		default:
			b.WriteByte(c)
		}
	}
	// A percent sign alone makes parts too, so that the template's text
	// doubles it again.
	if parts == nil && (!template || !strings.Contains(b.String(), "%")) {
		return value{literal: b.String()}, nil
	}
	return value{parts: append(parts, valuePart{literal: b.String()})}, nil
}

func isPlaceholder(c byte) bool {
	return strings.IndexByte("sudSUD123456789", c) >= 0
}

// fill returns the value with its placeholders replaced by parts of key.
func (v value) fill(key *Key) (value, bool) {
	if v.parts == nil {
		return v, true
	}
	var b strings.Builder
	for _, part := range v.parts {
		if part.placeholder == 0 {
			b.WriteString(part.literal)
			continue
		}
		text, ok := key.Part(part.placeholder)
		if !ok {
			return value{}, false
		}
		b.WriteString(text)
	}
	return value{literal: b.String()}, true
}

// appendText writes the value escaped; placeholders as they were written.
func (v value) appendText(dst []byte) []byte {
	if v.parts == nil {
		return appendEscaped(dst, v.literal)
	}
	for _, part := range v.parts {
		if part.placeholder != 0 {
			dst = append(dst, '%', part.placeholder)
			continue
		}
		dst = append(dst, strings.ReplaceAll(string(appendEscaped(nil, part.literal)), "%", "%%")...)
	}
	return dst
}

func (f conjunction) substitute(key *Key) (Filter, bool) {
	list, ok := substituteAll(f, key)
	return conjunction(list), ok
}

func (f disjunction) substitute(key *Key) (Filter, bool) {
	list, ok := substituteAll(f, key)
	return disjunction(list), ok
}

func substituteAll(filters []Filter, key *Key) ([]Filter, bool) {
	list := make([]Filter, len(filters))
	for i, f := range filters {
		filled, ok := f.substitute(key)
		if !ok {
			return nil, false
		}
		list[i] = filled
	}
	return list, true
}

func (f negation) substitute(key *Key) (Filter, bool) {
	inner, ok := f.filter.substitute(key)
	return negation{inner}, ok
}

func (f presence) substitute(*Key) (Filter, bool) { return f, true }

func (f comparison) substitute(key *Key) (Filter, bool) {
	var ok bool
	f.value, ok = f.value.fill(key)
	return f, ok
}

func (f substrings) substitute(key *Key) (Filter, bool) {
	var ok bool
	if f.initial, ok = f.initial.fill(key); !ok {
		return nil, false
	}
	if f.final, ok = f.final.fill(key); !ok {
		return nil, false
	}
	filled := make([]value, len(f.any))
	for i, v := range f.any {
		if filled[i], ok = v.fill(key); !ok {
			return nil, false
		}
	}
	f.any = filled
	return f, true
}
