package directory

import (
	"fmt"
	"slices"
	"strings"

	"github.com/postern-mail/postern/mail"
)

// Format is what a lookup makes of each result, in Postfix's notation: %s the
// value, %u and %d its parts, %S %U %D and %1 to %9 those of the key.
type Format struct{ value value }

// ParseFormat reads a format.
func ParseFormat(text string) (Format, error) {
	v, err := parseExpansions(text)
	return Format{v}, err
}

// Fits reports whether key has the parts the format takes from it.
func (f Format) Fits(key *Key) bool {
	for _, part := range f.value.parts {
		if part.placeholder == 0 || strings.IndexByte("sud", part.placeholder) >= 0 {
			continue
		}
		if _, ok := key.Part(part.placeholder); !ok {
			return false
		}
	}
	return true
}

// Apply returns what becomes of a value; false when it lacks a part.
func (f Format) Apply(key *Key, v string) (string, bool) {
	own := NewKey(v)
	var b strings.Builder
	for _, part := range f.value.parts {
		if part.placeholder == 0 {
			b.WriteString(part.literal)
			continue
		}
		from := key
		if strings.IndexByte("sud", part.placeholder) >= 0 {
			from = &own
		}
		text, ok := from.Part(part.placeholder)
		if !ok {
			return "", false
		}
		b.WriteString(text)
	}
	return b.String(), b.Len() > 0
}

// InDomains reports whether a table that is for some domains only is asked for
// a key: it needs a local-part then. No domains mean all keys.
func (k *Key) InDomains(domains []mail.Domain) bool {
	if len(domains) == 0 {
		return true
	}
	return k.local != "" && k.hasDomain && slices.ContainsFunc(domains, func(d mail.Domain) bool {
		return strings.EqualFold(string(d), k.domain)
	})
}

// IsPossibleKey reports whether a text is one that directories can hold: not
// empty, not too long, and UTF-8 without control characters.
func IsPossibleKey(text string) bool { return isPossibleKey(text) }

// parseExpansions reads text with placeholders in which nothing else is
// special.
func parseExpansions(text string) (value, error) {
	v := value{parts: []valuePart{}}
	for {
		before, rest, found := strings.Cut(text, "%")
		v.parts = append(v.parts, valuePart{literal: before})
		switch {
		case !found:
			return v, nil
		case rest == "":
			return value{}, fmt.Errorf("%w: percent sign at the end", errValueSyntax)
		case rest[0] == '%':
			v.parts = append(v.parts, valuePart{literal: "%"})
		case isPlaceholder(rest[0]):
			v.parts = append(v.parts, valuePart{placeholder: rest[0]})
		default:
			return value{}, fmt.Errorf("%w: no placeholder %%%c", errValueSyntax, rest[0])
		}
		text = rest[1:]
	}
}
