package mail

import (
	"fmt"
	"strings"
	"unicode/utf8"
)

// EscapeNonASCII writes what is not ASCII as \x{HEX}, the form RFC 6533 section
// 3 has for addresses where only ASCII is taken.
func EscapeNonASCII(s string) string {
	if isASCII(s) {
		return s
	}
	var b strings.Builder
	for _, r := range s {
		if r < utf8.RuneSelf {
			b.WriteRune(r)
		} else {
			fmt.Fprintf(&b, `\x{%X}`, r)
		}
	}
	return b.String()
}
