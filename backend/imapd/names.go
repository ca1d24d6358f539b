package imapd

import (
	"strings"
	"unicode/utf8"

	"golang.org/x/text/unicode/norm"

	"github.com/postern-mail/postern/internal/utf7"
)

// delimiter stands between the levels of a mailbox name.
const delimiter = "/"

const (
	inbox             = "INBOX"
	maxNameOctets     = 1000
	maxPatternOctets  = 1000
	maxPatterns       = 64
	maxPatternsOctets = 4000
)

// mailboxName turns a name from the wire into the store's form: NFC, "INBOX"
// in capitals, levels not empty, no delimiter at the end.
func mailboxName(wire string) (string, error) {
	name, err := decodeMailbox(wire)
	if err != nil {
		return "", err
	}
	return levels(name)
}

// levels is mailboxName for a name that was decoded.
func levels(name string) (string, error) {
	switch {
	case name == "":
		return "", refuse("CANNOT", "Mailbox name is empty")
	case len(name) > maxNameOctets:
		return "", refuse("LIMIT", "Mailbox name is too long")
	case strings.HasPrefix(name, delimiter), strings.Contains(name, delimiter+delimiter):
		return "", refuse("CANNOT", "Mailbox name has an empty level")
	}
	return canonicalName(strings.TrimSuffix(name, delimiter)), nil
}

// otherSeparator is what clients may be told to put between levels instead.
const otherSeparator = "."

// swapSeparators turns names with the other separator into the store's form,
// and back. A "/" within a level, which the store cannot have, stands for a
// ".", which the client cannot say: nothing is lost, and no two names become
// the same.
func swapSeparators(name string) string {
	return strings.Map(func(c rune) rune {
		switch c {
		case '/':
			return '.'
		case '.':
			return '/'
		}
		return c
	}, name)
}

// separator stands between levels in what the client sees.
func (s *session) separator() string {
	if s.cfg.Separator == otherSeparator {
		return otherSeparator
	}
	return delimiter
}

// wireName is a name as the client sees it.
func (s *session) wireName(name string) string {
	if s.separator() == otherSeparator {
		name = swapSeparators(name)
	}
	if s.utf8 {
		return name
	}
	return utf7.Encode(name)
}

func (s *session) writeMailbox(name string) {
	if wire := s.wireName(name); ascii(wire) {
		s.w.astring(wire)
	} else {
		s.w.text(wire)
	}
}

// parserOf returns a parser for what this client says.
func (s *session) parserOf(b []byte) *parser {
	return &parser{b: b, swaps: s.separator() == otherSeparator, dialect: s.dialect}
}

// decode turns a name, or a pattern for names, into the store's form.
func (p *parser) decode(wire string) (string, error) {
	decoded := decodeMailbox
	if p.utf8 {
		decoded = plainMailbox
	}
	name, err := decoded(wire)
	if p.swaps {
		name = swapSeparators(name)
	}
	return name, err
}

// canonicalName writes INBOX and what lies below it in capitals.
func canonicalName(name string) string {
	if len(name) < len(inbox) || !strings.EqualFold(name[:len(inbox)], inbox) {
		return name
	}
	if rest := name[len(inbox):]; rest == "" || strings.HasPrefix(rest, delimiter) {
		return inbox + rest
	}
	return name
}

// decodeMailbox decodes modified UTF-7. Raw UTF-8, which some programs send,
// is taken as it is.
func decodeMailbox(wire string) (string, error) {
	name := wire
	if strings.IndexByte(wire, '&') >= 0 {
		var err error
		if name, err = utf7.Decode(wire); err != nil {
			return "", refuse("CANNOT", "Mailbox name is not valid modified UTF-7")
		}
	}
	return plainMailbox(name)
}

// plainMailbox checks a name in UTF-8.
func plainMailbox(name string) (string, error) {
	if !utf8.ValidString(name) || strings.ContainsFunc(name, isControl) {
		return "", refuse("CANNOT", "Mailbox name has invalid characters")
	}
	return norm.NFC.String(name), nil
}

func isControl(r rune) bool {
	return r < ' ' || r >= 0x7f && r < 0xa0 || r == '\u2028' || r == '\u2029'
}
