package directory

import (
	"slices"
	"strings"
)

// Classes tell which object classes others imply, by lower-case name. Servers
// know them from their schema and let a filter for the one find entries of the
// other; whoever judges entries by their values alone needs to know them too.
type Classes map[string][]string

// StandardClasses are those of RFC 4519, RFC 2798, Active Directory and
// FreeIPA.
var StandardClasses = Classes{
	"inetorgperson":        {"organizationalPerson"},
	"organizationalperson": {"person"},
	"residentialperson":    {"person"},
	"user":                 {"organizationalPerson"},
	"contact":              {"organizationalPerson"},
	"computer":             {"user"},
	"ipausergroup":         {"nestedGroup"},
	"nestedgroup":          {"groupOfNames"},
}

// Complete returns e with the object classes that its own ones imply.
func (c Classes) Complete(e Entry) Entry {
	have := e.Values("objectclass")
	classes := have[:len(have):len(have)]
	for i := 0; i < len(classes); i++ {
		for _, superior := range c[strings.ToLower(classes[i])] {
			if !containsFold(classes, superior) {
				classes = append(classes, superior)
			}
		}
	}
	if len(classes) == len(have) {
		return e
	}
	return e.With("objectclass", classes)
}

// ParseClass reads what a server's schema says of an object class (RFC 4512
// section 4.1.1): its names and those of its direct superiors. It gives nothing
// for what it cannot read.
func ParseClass(definition string) (names, superiors []string) {
	words := schemaWords(definition)
	for i, word := range words {
		switch strings.ToUpper(word) {
		case "NAME":
			names = schemaList(words[i+1:])
		case "SUP":
			superiors = schemaList(words[i+1:])
		}
	}
	if len(names) == 0 {
		return nil, nil
	}
	return names, slices.DeleteFunc(superiors, func(name string) bool { return strings.EqualFold(name, "top") })
}

// schemaWords splits a definition into words, parentheses and quoted texts
// without their quotes.
func schemaWords(s string) []string {
	var words []string
	for {
		s = strings.TrimLeft(s, " \t\r\n$")
		if s == "" {
			return words
		}
		end := 1
		switch s[0] {
		case '(', ')':
		case '\'':
			text, rest, _ := strings.Cut(s[1:], "'")
			// A text that is no name must not be read as a keyword.
			words = append(words, strings.ReplaceAll(text, " ", "_"))
			s = rest
			continue
		default:
			if end = strings.IndexAny(s, " \t\r\n$()'"); end < 0 {
				end = len(s)
			}
		}
		words = append(words, s[:end])
		s = s[end:]
	}
}

// schemaList reads one word, or several in parentheses.
func schemaList(words []string) []string {
	if len(words) == 0 || words[0] == ")" {
		return nil
	}
	if words[0] != "(" {
		return words[:1]
	}
	end := slices.Index(words, ")")
	if end < 0 {
		return nil
	}
	return words[1:end]
}
