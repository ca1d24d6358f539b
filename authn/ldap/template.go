package ldap

import (
	"encoding/hex"
	"errors"
	"fmt"
	"strings"
)

// template is a DN with holes. It is parsed once; a login fills the holes as a
// value and is escaped as one (RFC 4514 section 2.4), so that no login becomes
// another RDN.
type template struct {
	parts []part
}

// part is literal DN text, or a hole when name is set.
type part struct {
	literal string
	name    string // "login", "local" or "domain"
}

var errTemplate = errors.New("malformed DN template")

// parseTemplate reads "uid={local},ou=people,dc=example,dc=com". A hole may
// stand only in the value of an attribute, as the whole of it or beside fixed
// text, and there must be one that tells people apart.
func parseTemplate(text string) (template, error) {
	var t template
	personal := false
	for _, rdn := range strings.Split(text, ",") {
		attribute, value, found := strings.Cut(rdn, "=")
		if !found || !isAttribute(strings.TrimSpace(attribute)) {
			return template{}, fmt.Errorf("%w: %q is not attribute=value", errTemplate, rdn)
		}
		if strings.ContainsAny(value, `+";<>\`+"\x00") || strings.TrimSpace(value) == "" {
			return template{}, fmt.Errorf("%w: value %q needs characters a template cannot hold", errTemplate, value)
		}
		if len(t.parts) > 0 {
			attribute = "," + attribute
		}
		t.parts = append(t.parts, part{literal: attribute + "="})
		holes, err := parseValue(value)
		if err != nil {
			return template{}, err
		}
		for _, p := range holes {
			personal = personal || p.name == "login" || p.name == "local"
		}
		t.parts = append(t.parts, holes...)
	}
	if !personal {
		return template{}, fmt.Errorf("%w: neither {login} nor {local} in %q", errTemplate, text)
	}
	return t, nil
}

func parseValue(value string) ([]part, error) {
	var parts []part
	for value != "" {
		literal, rest, found := strings.Cut(value, "{")
		if strings.Contains(literal, "}") {
			return nil, fmt.Errorf("%w: brace closed that was not opened in %q", errTemplate, value)
		}
		if literal != "" {
			parts = append(parts, part{literal: literal})
		}
		if !found {
			break
		}
		name, after, closed := strings.Cut(rest, "}")
		if !closed || name != "login" && name != "local" && name != "domain" {
			return nil, fmt.Errorf("%w: %q is none of {login}, {local}, {domain}", errTemplate, "{"+name)
		}
		parts = append(parts, part{name: name})
		value = after
	}
	return parts, nil
}

func isAttribute(s string) bool {
	for i := 0; i < len(s); i++ {
		c := s[i] | 0x20
		letter := c >= 'a' && c <= 'z'
		if !letter && (i == 0 || s[i] != '-' && s[i] != '.' && (s[i] < '0' || s[i] > '9')) {
			return false
		}
	}
	return s != ""
}

// has reports whether the template has a hole called name.
func (t template) has(name string) bool {
	for _, p := range t.parts {
		if p.name == name {
			return true
		}
	}
	return false
}

// fill returns the DN with the holes filled.
func (t template) fill(values map[string]string) string {
	var dn strings.Builder
	for _, p := range t.parts {
		if p.name == "" {
			dn.WriteString(p.literal)
		} else {
			escapeValue(&dn, values[p.name])
		}
	}
	return dn.String()
}

// escapeValue writes s so that it reads as one attribute value wherever it
// stands inside it. More is escaped than RFC 4514 asks for: everything but
// letters, digits, "-", ".", "_" and "@" goes out in hexadecimal.
func escapeValue(dn *strings.Builder, s string) {
	for i := 0; i < len(s); i++ {
		c := s[i]
		switch {
		case c >= 'a' && c <= 'z', c >= 'A' && c <= 'Z', c >= '0' && c <= '9', strings.IndexByte("-._@", c) >= 0:
			dn.WriteByte(c)
		default:
			dn.WriteByte('\\')
			dn.WriteString(hex.EncodeToString([]byte{c}))
		}
	}
}
