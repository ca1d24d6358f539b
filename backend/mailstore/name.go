package mailstore

import (
	"fmt"
	"strings"
	"unicode"
	"unicode/utf8"

	"golang.org/x/text/unicode/norm"
)

const (
	inbox     = "INBOX"
	separator = "/"
)

// normalize returns the form under which a mailbox name is stored: NFC, INBOX
// in capitals also as a parent (RFC 9051 section 5.1), no trailing separator.
// Wildcards of LIST and control characters are refused: a name must be able to
// stand in every command and log line.
func (c *Config) normalize(name string) (string, error) {
	name = strings.TrimSuffix(name, separator)
	if !utf8.ValidString(name) || len(name) > c.MaxNameOctets {
		return "", fmt.Errorf("%w: not UTF-8 or too long", ErrBadName)
	}
	name = norm.NFC.String(name)
	if len(name) > c.MaxNameOctets {
		return "", fmt.Errorf("%w: too long", ErrBadName)
	}
	levels := strings.Split(name, separator)
	if len(levels) > c.MaxDepth {
		return "", fmt.Errorf("%w: too many levels", ErrBadName)
	}
	for _, level := range levels {
		if level == "" {
			return "", fmt.Errorf("%w: empty level", ErrBadName)
		}
	}
	for _, r := range name {
		if unicode.IsControl(r) || r == '*' || r == '%' || r == '\u2028' || r == '\u2029' || r == '\ufeff' {
			return "", fmt.Errorf("%w: character %U", ErrBadName, r)
		}
	}
	if strings.EqualFold(levels[0], inbox) {
		name = inbox + name[len(inbox):]
	}
	return name, nil
}

// isBelow reports whether name is a descendant of parent.
func isBelow(name, parent string) bool {
	return len(name) > len(parent) && name[len(parent)] == separator[0] && name[:len(parent)] == parent
}
