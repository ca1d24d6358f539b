// Package preview makes the few words of a message that a mail program shows in
// its list (RFC 8970).
//
// What goes in: a text part, or the beginning of one, as it stands in the
// message. What comes out: one line of UTF-8 without control characters, of at
// most MaxRunes, "" where there is nothing to read. Transfer encoding and charset
// are undone; of HTML the text is taken. What others wrote before (quotes, and
// the line that introduces them) and signatures are left out, unless there is
// nothing else. No input is an error.
package preview

import (
	"io"
	"strings"
	"unicode"
	"unicode/utf8"

	"golang.org/x/text/encoding"
	"golang.org/x/text/encoding/charmap"
	"golang.org/x/text/encoding/htmlindex"

	"github.com/postern-mail/postern/backend/mailstore/transfer"
)

const (
	// MaxRunes is what RFC 8970 section 3.1 recommends.
	MaxRunes = 200
	// MaxPlainOctets and MaxHTMLOctets are how much of a part is of use: HTML
	// often begins with its styles.
	MaxPlainOctets = 16 << 10
	MaxHTMLOctets  = 64 << 10
)

// Part is a text part, or its beginning.
type Part struct {
	Raw      []byte
	Encoding transfer.Encoding
	// Charset is the parameter of Content-Type, "" when there is none.
	Charset string
	HTML    bool
}

// Of returns the part's preview.
func Of(p Part) string {
	limit := MaxPlainOctets
	if p.HTML {
		limit = MaxHTMLOctets
	}
	d := transfer.New(p.Encoding)
	text := toUTF8(p.Charset, d.Append(nil, p.Raw[:min(len(p.Raw), limit)]))
	if p.HTML {
		if line := fromPlain(fromHTML(text, true)); line != "" {
			return line
		}
		text = fromHTML(text, false)
	}
	return fromPlain(text)
}

// toUTF8 decodes a charset. What is labelled wrongly, or not at all, is taken
// for UTF-8 if it can be, else for Windows-1252. The end may be cut off anywhere.
func toUTF8(charset string, b []byte) string {
	var e encoding.Encoding
	if charset != "" && !strings.EqualFold(charset, "us-ascii") {
		if known, err := htmlindex.Get(charset); err == nil && known != encoding.Nop && known != encoding.Replacement {
			e = known
		}
	}
	name, _ := htmlindex.Name(e)
	if e == nil || name == "utf-8" || strings.EqualFold(charset, "iso-8859-1") {
		if whole := trimRune(b); utf8.Valid(whole) {
			return string(whole)
		}
		if e == nil || name == "utf-8" {
			e = charmap.Windows1252
		}
	}
	text, err := io.ReadAll(e.NewDecoder().Reader(strings.NewReader(string(b))))
	if err != nil {
		return strings.ToValidUTF8(string(text), "")
	}
	return string(text)
}

// trimRune cuts off a rune that is not complete.
func trimRune(b []byte) []byte {
	for i := 1; i < utf8.UTFMax && i <= len(b); i++ {
		if c := b[len(b)-i]; utf8.RuneStart(c) {
			if !utf8.FullRune(b[len(b)-i:]) {
				return b[:len(b)-i]
			}
			break
		}
	}
	return b
}

// fromPlain takes the preview from lines of text.
func fromPlain(text string) string {
	if line := own(text); line != "" {
		return line
	}
	var l line
	for s := range strings.Lines(text) {
		if l.add(strings.TrimLeft(s, "> \t")); l.isFull() {
			break
		}
	}
	return l.String()
}

// own takes what the author wrote, and stops where what others wrote, or a
// signature, follows.
func own(text string) string {
	var l line
	armor := false // in the header of a signed text
	introduces := -1
	for s := range strings.Lines(text) {
		s = strings.TrimRight(s, "\r\n")
		trimmed := strings.TrimSpace(s)
		switch {
		case s == "-- " || s == "--", isForwardMark(trimmed):
			return l.String()
		case trimmed == "-----BEGIN PGP SIGNED MESSAGE-----":
			armor = true
			continue
		case strings.HasPrefix(trimmed, "-----BEGIN PGP "):
			return l.String()
		case armor:
			armor = trimmed != ""
			continue
		case strings.HasPrefix(trimmed, ">"):
			if introduces >= 0 {
				l.cut(introduces)
			}
			introduces = -1
			continue
		case trimmed == "" || isRule(trimmed):
			continue
		}
		introduces = l.introducedBy(trimmed, introduces)
		if l.add(s); l.isFull() {
			break
		}
	}
	return l.String()
}

// isForwardMark reports the line that programs set above a whole message which
// they quote without marks.
func isForwardMark(s string) bool {
	s, ok := strings.CutPrefix(s, "-----")
	if !ok {
		return false
	}
	s = strings.Trim(s, "- ")
	return strings.EqualFold(s, "Original Message") || strings.EqualFold(s, "Ursprüngliche Nachricht") ||
		strings.EqualFold(s, "Message d'origine")
}

// isRule reports a line that only draws.
func isRule(s string) bool {
	return len(s) >= 3 && strings.Trim(s, "-=_*~#+.<>|/\\ \u2500\u2501\u2550\u2014\u00a0") == ""
}

// line gathers words into one line.
type line struct {
	b     strings.Builder
	runes int
	space bool // one is due before the next word
	joins rune // a joiner that is due before the next character of the word
}

func (l *line) isFull() bool { return l.runes >= MaxRunes }

// add takes in a line of text as further words.
func (l *line) add(s string) {
	l.space, l.joins = l.b.Len() > 0, 0
	for _, r := range s {
		switch {
		case unicode.IsSpace(r):
			l.space, l.joins = l.b.Len() > 0, 0
			continue
		case r == utf8.RuneError, unicode.IsControl(r), isFiller(r):
			continue
		case isJoiner(r):
			if !l.space && l.b.Len() > 0 {
				l.joins = r
			}
			continue
		}
		if l.space {
			l.put(' ')
		}
		if l.joins != 0 {
			l.put(l.joins)
		}
		l.put(r)
		l.space, l.joins = false, 0
	}
}

func (l *line) put(r rune) {
	if !l.isFull() {
		l.b.WriteRune(r)
		l.runes++
	}
}

// isFiller reports characters that nobody sees: senders of newsletters fill the
// preview with them. Those that turn the direction of writing have no place in
// what is shown among other things.
func isFiller(r rune) bool {
	switch {
	case r == 0xad, r == 0x34f, r == 0x61c, r == 0x115f, r == 0x1160, r == 0x17b4, r == 0x17b5, r == 0x180e, r == 0x3164, r == 0xfeff, r == 0xffa0,
		r == 0x200b, r == 0x200e, r == 0x200f, r >= 0x202a && r <= 0x202e, r >= 0x2060 && r <= 0x206f:
		return true
	}
	return false
}

// isJoiner reports characters that mean something within words only.
func isJoiner(r rune) bool { return r == 0x200c || r == 0x200d }

// introducedBy returns where the words begin that introduce a quote, should one
// follow the next line: "On Monday Kim wrote:", which may fill two lines.
func (l *line) introducedBy(next string, before int) int {
	begins := before < 0 || !strings.HasSuffix(next, ":")
	if begins {
		before = l.b.Len()
	}
	if strings.HasSuffix(next, ":") || strings.HasPrefix(next, "On ") || strings.HasPrefix(next, "Am ") || strings.HasPrefix(next, "Le ") {
		return before
	}
	return -1
}

// cut drops what was added from an octet on.
func (l *line) cut(at int) {
	kept := l.b.String()[:at]
	l.b.Reset()
	l.b.WriteString(kept)
	l.runes = utf8.RuneCountInString(kept)
}

func (l *line) String() string { return strings.TrimRight(l.b.String(), " ") }
