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

// NameError is a mailbox name that is not taken. It is an ErrBadName.
type NameError struct {
	// Reason goes on from "mailbox name", for the client.
	Reason string
	// Limit: another name of that kind would do, only shorter.
	Limit bool
}

func (e *NameError) Error() string { return "mailbox name " + e.Reason }

// Is reports that it is an ErrBadName.
func (e *NameError) Is(target error) bool { return target == ErrBadName }

// normalize returns the form under which a mailbox name is stored: NFC, INBOX
// in capitals also as a parent (RFC 9051 section 5.1), no trailing separator.
// Wildcards of LIST and control characters are refused: a name must be able to
// stand in every command and log line. What the configuration asks of new names
// is none of its business: see newName.
func (c *Config) normalize(name string) (string, error) {
	name = strings.TrimSuffix(name, separator)
	if !utf8.ValidString(name) {
		return "", &NameError{Reason: "is not UTF-8"}
	}
	name = norm.NFC.String(name)
	if len(name) > maxNameOctets {
		return "", tooLong("", maxNameOctets)
	}
	levels := strings.Split(name, separator)
	for _, level := range levels {
		if level == "" {
			return "", &NameError{Reason: "has an empty level"}
		}
	}
	for _, r := range name {
		if unicode.IsControl(r) || r == '*' || r == '%' || r == '\u2028' || r == '\u2029' || r == '\ufeff' {
			return "", badCharacter(r)
		}
	}
	if strings.EqualFold(levels[0], inbox) {
		name = inbox + name[len(inbox):]
	}
	return name, nil
}

// newName is normalize for a mailbox that is to be made.
func (c *Config) newName(name string) (string, error) {
	name, err := c.normalize(name)
	if err != nil {
		return "", err
	}
	if len(name) > c.MaxNameOctets {
		return "", tooLong("", c.MaxNameOctets)
	}
	levels := strings.Split(name, separator)
	if len(levels) > c.MaxDepth {
		return "", &NameError{Reason: fmt.Sprintf("has more than %d levels", c.MaxDepth), Limit: true}
	}
	for _, level := range levels {
		if len(level) > c.MaxLevelOctets {
			return "", tooLong("has a level that ", c.MaxLevelOctets)
		}
	}
	for _, r := range name {
		if strings.ContainsRune(c.RefusedCharacters, r) {
			return "", badCharacter(r)
		}
	}
	return name, nil
}

func tooLong(what string, octets int) error {
	return &NameError{Reason: fmt.Sprintf("%sis longer than %d octets", what, octets), Limit: true}
}

func badCharacter(r rune) error {
	return &NameError{Reason: fmt.Sprintf("has the character %U, which is not allowed", r)}
}

// isBelow reports whether name is a descendant of parent.
func isBelow(name, parent string) bool {
	return len(name) > len(parent) && name[len(parent)] == separator[0] && name[:len(parent)] == parent
}
