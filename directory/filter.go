package directory

import (
	"fmt"
	"strings"
	"unicode/utf8"
)

// Filter is a search filter: a tree of conditions. It is immutable. Its String
// is RFC 4515 text in which every octet of a value that could be read as
// syntax is escaped, so that reading it again gives the same tree.
//
// Filters are made by ParseFilter from text of ours, by Template.Execute, or
// from And, Or, Not, Equal and Present.
type Filter interface {
	fmt.Stringer
	appendText(dst []byte) []byte
	matches(e Entry) bool
	// substitute fills a template's values from key; false when a part that
	// the template needs is missing in key.
	substitute(key *Key) (Filter, bool)
	// unsupported returns the first matching rule that matches cannot judge.
	unsupported() string
	attributes(add func(attribute string))
}

type (
	conjunction []Filter // and; true when empty (RFC 4526)
	disjunction []Filter // or; false when empty
	negation    struct{ filter Filter }
	presence    struct{ attribute string }
	// comparison is every condition with one assertion value.
	comparison struct {
		attribute string // "" only with a rule
		operator  operator
		rule      string // matching rule of an extensible match, or ""
		dnToo     bool   // ":dn" of an extensible match
		value     value
	}
	substrings struct {
		attribute string
		initial   value
		any       []value
		final     value
	}
)

// operator is the text between attribute and value.
type operator string

const (
	equalTo        operator = "="
	approximately  operator = "~="
	greaterOrEqual operator = ">="
	lessOrEqual    operator = "<="
	extensible     operator = ":="
)

// And matches when every filter does; it matches everything when there is none.
func And(filters ...Filter) Filter {
	if len(filters) == 1 {
		return filters[0]
	}
	return conjunction(filters)
}

// Or matches when any filter does; it matches nothing when there is none.
func Or(filters ...Filter) Filter {
	if len(filters) == 1 {
		return filters[0]
	}
	return disjunction(filters)
}

// Not matches when filter does not.
func Not(filter Filter) Filter { return negation{filter} }

// Equal matches an attribute that has the value, whatever octets the value
// consists of. It panics when attribute is not an attribute description, since
// attributes come from code and checked configuration only.
func Equal(attribute, v string) Filter {
	mustAttribute(attribute)
	return comparison{attribute: attribute, operator: equalTo, value: value{literal: v}}
}

// Present matches an entry that has the attribute. It panics like Equal.
func Present(attribute string) Filter {
	mustAttribute(attribute)
	return presence{attribute}
}

func mustAttribute(attribute string) {
	if !IsAttributeDescription(attribute) {
		panic(fmt.Sprintf("directory: %q is not an attribute description", attribute))
	}
}

// Match reports whether e satisfies f by this package's own rules: text
// without regard to case and repeated spaces, integers and DNs as such.
func Match(f Filter, e Entry) bool { return f.matches(e) }

// UnsupportedRule returns the first matching rule of f that Match does not
// know, or "". A searcher that relies on Match must refuse such a filter:
// not knowing is not the same as not matching.
func UnsupportedRule(f Filter) string { return f.unsupported() }

// FilterAttributes returns the attributes f looks at, in lower case.
func FilterAttributes(f Filter) []string {
	var names []string
	f.attributes(func(name string) { names = append(names, attributeKey(name)) })
	return names
}

func (f conjunction) String() string { return string(f.appendText(nil)) }
func (f disjunction) String() string { return string(f.appendText(nil)) }
func (f negation) String() string    { return string(f.appendText(nil)) }
func (f presence) String() string    { return string(f.appendText(nil)) }
func (f comparison) String() string  { return string(f.appendText(nil)) }
func (f substrings) String() string  { return string(f.appendText(nil)) }

func (f conjunction) appendText(dst []byte) []byte { return appendList(dst, '&', f) }
func (f disjunction) appendText(dst []byte) []byte { return appendList(dst, '|', f) }

func appendList(dst []byte, operator byte, filters []Filter) []byte {
	dst = append(dst, '(', operator)
	for _, f := range filters {
		dst = f.appendText(dst)
	}
	return append(dst, ')')
}

func (f negation) appendText(dst []byte) []byte {
	return append(f.filter.appendText(append(dst, "(!"...)), ')')
}

func (f presence) appendText(dst []byte) []byte {
	return append(append(append(dst, '('), f.attribute...), "=*)"...)
}

func (f comparison) appendText(dst []byte) []byte {
	dst = append(append(dst, '('), f.attribute...)
	if f.dnToo {
		dst = append(dst, ":dn"...)
	}
	if f.rule != "" {
		dst = append(append(dst, ':'), f.rule...)
	}
	dst = append(dst, f.operator...)
	return append(f.value.appendText(dst), ')')
}

func (f substrings) appendText(dst []byte) []byte {
	dst = append(append(append(dst, '('), f.attribute...), '=')
	dst = append(f.initial.appendText(dst), '*')
	for _, v := range f.any {
		dst = append(v.appendText(dst), '*')
	}
	return append(f.final.appendText(dst), ')')
}

func (f conjunction) attributes(add func(string)) {
	for _, part := range f {
		part.attributes(add)
	}
}

func (f disjunction) attributes(add func(string)) { conjunction(f).attributes(add) }
func (f negation) attributes(add func(string))    { f.filter.attributes(add) }
func (f presence) attributes(add func(string))    { add(f.attribute) }
func (f substrings) attributes(add func(string))  { add(f.attribute) }
func (f comparison) attributes(add func(string)) {
	if f.attribute != "" {
		add(f.attribute)
	}
}

// appendEscaped writes s as an assertion value (RFC 4515 section 3). Octets
// that are no UTF-8 are escaped too, so that the text stays text.
func appendEscaped(dst []byte, s string) []byte {
	const hexDigits = "0123456789abcdef"
	for i := 0; i < len(s); {
		c := s[i]
		if c >= utf8.RuneSelf {
			// U+FFFD itself is escaped too: go-ldap takes it for an error.
			if r, n := utf8.DecodeRuneInString(s[i:]); r != utf8.RuneError {
				dst = append(dst, s[i:i+n]...)
				i += n
				continue
			}
		}
		if c < ' ' || c >= 0x7f || strings.IndexByte(`*()\`, c) >= 0 {
			dst = append(dst, '\\', hexDigits[c>>4], hexDigits[c&15])
		} else {
			dst = append(dst, c)
		}
		i++
	}
	return dst
}
