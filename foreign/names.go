package foreign

import (
	"path"
	"strings"
)

// space is how a server writes mailbox names.
type space struct{ prefix, delimiter string }

// name returns how both sides call a mailbox of this server: levels separated by
// "/", without the namespace's prefix. ok is false for one whose name the other
// side could not tell from another.
func (s space) name(raw string) (name string, ok bool) {
	if raw == "INBOX" {
		return raw, true
	}
	raw, ok = strings.CutPrefix(raw, s.prefix)
	if !ok || raw == "" || strings.EqualFold(raw, "INBOX") {
		return "", false
	}
	if s.delimiter == "/" {
		return raw, !strings.HasSuffix(raw, "/")
	}
	if strings.Contains(raw, "/") {
		return "", false
	}
	if s.delimiter == "" {
		return raw, true
	}
	return strings.ReplaceAll(raw, s.delimiter, "/"), !strings.HasSuffix(raw, s.delimiter)
}

// raw is the reverse: how this server writes name.
func (s space) raw(name string) (raw string, ok bool) {
	switch {
	case name == "INBOX":
		return name, true
	case s.delimiter == "/":
		return s.prefix + name, true
	case s.delimiter == "":
		return s.prefix + name, !strings.Contains(name, "/")
	case strings.Contains(name, s.delimiter):
		return "", false
	default:
		return s.prefix + strings.ReplaceAll(name, "/", s.delimiter), true
	}
}

// excluded reports whether one of the patterns fits name or a level above it.
func excluded(patterns []string, name string) bool {
	for _, pattern := range patterns {
		for above := name; above != "." && above != "/"; above = path.Dir(above) {
			if ok, err := path.Match(pattern, above); err == nil && ok {
				return true
			}
		}
	}
	return false
}
