package checks

import (
	"strings"
	"unicode/utf8"
)

// Tables hold text, and messages octets. An octet that is not part of UTF-8 is
// shown to a table as a character of its own, from a range for private use, so
// that no octet hides a line from its pattern, and comes back as what it was.
const (
	firstPrivate = 0xf680
	lastPrivate  = firstPrivate + 0x7f
)

// asText returns octets as the text that tables are asked about.
func asText(octets []byte) string {
	if isPlain(string(octets)) {
		return string(octets)
	}
	var b strings.Builder
	b.Grow(len(octets) + 16)
	for len(octets) > 0 {
		r, n := utf8.DecodeRune(octets)
		if r == utf8.RuneError && n == 1 || r >= firstPrivate && r <= lastPrivate {
			for _, c := range octets[:n] {
				b.WriteRune(rune(c) - 0x80 + firstPrivate)
			}
		} else {
			b.Write(octets[:n])
		}
		octets = octets[n:]
	}
	return b.String()
}

// isPlain reports whether text is UTF-8 without characters of the range.
func isPlain(text string) bool {
	for i := 0; i < len(text); i++ {
		if text[i] >= utf8.RuneSelf {
			return utf8.ValidString(text) && strings.IndexFunc(text, private) < 0
		}
	}
	return true
}

func private(r rune) bool { return r >= firstPrivate && r <= lastPrivate }

// asOctets returns text that came from a table with the octets it stands for.
func asOctets(text string) string {
	if strings.IndexFunc(text, private) < 0 {
		return text
	}
	var b strings.Builder
	for _, r := range text {
		if private(r) {
			b.WriteByte(byte(r - firstPrivate + 0x80))
		} else {
			b.WriteRune(r)
		}
	}
	return b.String()
}
