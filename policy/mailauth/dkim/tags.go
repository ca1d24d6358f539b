package dkim

import (
	"errors"
	"fmt"
	"strings"
)

// Tags is a parsed tag list (RFC 6376 section 3.2). Names are case-sensitive.
type Tags struct {
	text string
	list []tag
}

type tag struct {
	name, value string
	// from and to are the place of the value in the text, with the white space
	// around it.
	from, to int
}

// maxTags bounds the tags of one list; RFC 6376 knows fifteen.
const maxTags = 64

// ParseTags reads a tag list as strictly as RFC 6376 section 3.2 says: a tag
// that stands there twice or an empty place between two semicolons make all of
// it invalid.
func ParseTags(text string) (Tags, error) { return parseTags(text, false) }

// parseTags reads a tag list; lenient lets empty places pass.
func parseTags(text string, lenient bool) (Tags, error) {
	t := Tags{text: text, list: make([]tag, 0, 12)}
	for at := 0; at < len(text); {
		end := strings.IndexByte(text[at:], ';')
		if end < 0 {
			end = len(text)
		} else {
			end += at
		}
		spec := text[at:end]
		if trimFWS(spec) == "" {
			if end == len(text) || lenient { // what follows the last semicolon
				at = end + 1
				continue
			}
			return Tags{}, errors.New("an empty tag")
		}
		equals := strings.IndexByte(spec, '=')
		if equals < 0 {
			return Tags{}, fmt.Errorf("a tag without \"=\": %q", shorten(trimFWS(spec)))
		}
		name := trimFWS(spec[:equals])
		if !isTagName(name) {
			return Tags{}, fmt.Errorf("%q is no name of a tag", shorten(name))
		}
		if _, twice := t.Get(name); twice {
			return Tags{}, fmt.Errorf("tag %s stands there twice", shorten(name))
		}
		if len(t.list) == maxTags {
			return Tags{}, fmt.Errorf("more than %d tags", maxTags)
		}
		value := trimFWS(spec[equals+1:])
		if !isTagValue(value) {
			return Tags{}, fmt.Errorf("tag %s has characters that no value may have", shorten(name))
		}
		t.list = append(t.list, tag{name, value, at + equals + 1, end})
		at = end + 1
	}
	return t, nil
}

// Get returns the value of a tag, without white space at its ends.
func (t Tags) Get(name string) (value string, ok bool) {
	for i := range t.list {
		if t.list[i].name == name {
			return t.list[i].value, true
		}
	}
	return "", false
}

// Without returns the text of the list with the value of a tag taken out, and
// the white space around that value (RFC 6376 section 3.5, "b=").
func (t Tags) Without(name string) string {
	for i := range t.list {
		if t.list[i].name == name {
			return t.text[:t.list[i].from] + t.text[t.list[i].to:]
		}
	}
	return t.text
}

// isTagName is ALPHA *(ALPHA / DIGIT / "_").
func isTagName(name string) bool {
	for i := range len(name) {
		c := name[i]
		letter := 'a' <= c|0x20 && c|0x20 <= 'z'
		if !letter && (i == 0 || (c != '_' && (c < '0' || c > '9'))) {
			return false
		}
	}
	return name != ""
}

// isTagValue lets pass what RFC 6376 section 3.2 does, and UTF-8 (RFC 8616).
func isTagValue(value string) bool {
	for i := range len(value) {
		c := value[i]
		if c < ' ' && !isFWS(c) || c == 0x7f {
			return false
		}
	}
	return true
}

func isFWS(c byte) bool { return c == ' ' || c == '\t' || c == '\r' || c == '\n' }

func trimFWS(s string) string {
	for s != "" && isFWS(s[0]) {
		s = s[1:]
	}
	for s != "" && isFWS(s[len(s)-1]) {
		s = s[:len(s)-1]
	}
	return s
}

// withoutFWS removes all white space, as in values of base64.
func withoutFWS(s string) string {
	clean := true
	for i := range len(s) {
		clean = clean && !isFWS(s[i])
	}
	if clean {
		return s
	}
	out := make([]byte, 0, len(s))
	for i := range len(s) {
		if !isFWS(s[i]) {
			out = append(out, s[i])
		}
	}
	return string(out)
}

// maxQuoted bounds what is repeated of a stranger's words in a reason.
const maxQuoted = 40

func shorten(s string) string {
	if len(s) > maxQuoted {
		return s[:maxQuoted] + "..."
	}
	return s
}
