package text

import (
	"bytes"
	"unicode"
	"unicode/utf8"
)

// Needle is text that is looked for, folded.
type Needle struct {
	octets []byte
	// loose: accents and other marks do not count.
	loose bool
}

// Exactly is a needle as SEARCH wants it.
func Exactly(text string) Needle { return Needle{octets: Fold(nil, []byte(text))} }

// Loosely is a needle that is found whatever accents and other marks there are.
func Loosely(text string) Needle {
	folded := Fold(nil, []byte(text))
	return Needle{octets: WithoutMarks(folded[:0], folded), loose: true}
}

// Empty reports whether everything has the needle.
func (n Needle) Empty() bool { return len(n.octets) == 0 }

// Folded is the needle as texts are folded. It is read-only.
func (n Needle) Folded() []byte { return n.octets }

// in reports whether folded text has the needle. spare is room for it.
func (n Needle) in(folded []byte, spare *[]byte) bool {
	if n.loose && !isASCII(folded) {
		*spare = WithoutMarks((*spare)[:0], folded)
		folded = *spare
	}
	return bytes.Contains(folded, n.octets)
}

// WithoutMarks appends folded text without its accents and other marks. dst may
// begin where folded does.
func WithoutMarks(dst, folded []byte) []byte {
	for len(folded) > 0 {
		n := 0
		for n < len(folded) && folded[n] < firstMark {
			n++
		}
		dst, folded = append(dst, folded[:n]...), folded[n:]
		if len(folded) == 0 {
			break
		}
		r, size := utf8.DecodeRune(folded)
		if !unicode.Is(unicode.Mn, r) {
			dst = append(dst, folded[:size]...)
		}
		folded = folded[size:]
	}
	return dst
}

// firstMark is the first octet of U+0300, the first of all marks. None of what
// comes before it begins a mark, whatever octets follow.
const firstMark = 0xcc
