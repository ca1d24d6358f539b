package text

import (
	"encoding/binary"
	"sync/atomic"
	"unicode"
	"unicode/utf8"

	"golang.org/x/text/encoding/charmap"
	"golang.org/x/text/unicode/norm"
)

// Fold appends s as searches compare it: in titlecase, decomposed, as RFC 5051
// has it, with combining marks in canonical order beyond that. It is the same
// for text in any Unicode form. An octet that is no UTF-8 counts as Windows-1252,
// which is what mislabelled text most often is.
func Fold(dst, s []byte) []byte {
	var f folder
	return f.end(f.add(dst, s))
}

// folder folds text that comes in pieces, cut anywhere.
type folder struct {
	rest  [utf8.UTFMax]byte // the start of a rune that was cut
	nRest int
	marks [maxMarks]mark // combining marks that wait for their order
	n     int
}

// maxMarks bounds the marks that are put in order, as the stream-safe text
// format does (UAX 15).
const maxMarks = 30

type mark struct {
	r     rune
	class uint8
}

// reset forgets what was cut.
func (f *folder) reset() { f.nRest, f.n = 0, 0 }

// add appends src folded, but for what may go on.
func (f *folder) add(dst, src []byte) []byte {
	for f.nRest > 0 && len(src) > 0 {
		f.rest[f.nRest] = src[0]
		f.nRest++
		src = src[1:]
		if !utf8.FullRune(f.rest[:f.nRest]) {
			continue
		}
		r, size := utf8.DecodeRune(f.rest[:f.nRest])
		if r == utf8.RuneError && size == 1 {
			dst = f.invalid(dst)
			continue
		}
		f.nRest = 0
		dst = f.rune(dst, r)
	}
	for len(src) > 0 {
		if src[0] < utf8.RuneSelf {
			if f.n > 0 {
				dst = f.flush(dst)
			}
			n := 0
			dst, n = appendUpper(dst, src)
			src = src[n:]
			continue
		}
		r, size := utf8.DecodeRune(src)
		if r == utf8.RuneError && size == 1 {
			if !utf8.FullRune(src) {
				f.nRest = copy(f.rest[:], src)
				return dst
			}
			r = windows1252[src[0]]
		}
		src = src[size:]
		dst = f.rune(dst, r)
	}
	return dst
}

// invalid takes the first octet of what was cut, which begins no rune, and
// looks at those behind it again.
func (f *folder) invalid(dst []byte) []byte {
	again := f.rest
	n := f.nRest
	f.nRest = 0
	dst = f.rune(dst, windows1252[again[0]])
	return f.add(dst, again[1:n])
}

// end appends what was waiting for more.
func (f *folder) end(dst []byte) []byte {
	for f.nRest > 0 {
		dst = f.invalid(dst)
	}
	return f.flush(dst)
}

func (f *folder) rune(dst []byte, r rune) []byte {
	folded := foldOf(r)
	if !folded.marks {
		if f.n > 0 {
			dst = f.flush(dst)
		}
		return append(dst, folded.text...)
	}
	for _, r := range folded.text {
		class := norm.NFD.PropertiesString(string(r)).CCC()
		if class == 0 || f.n == maxMarks {
			dst = f.flush(dst)
		}
		if class == 0 {
			dst = utf8.AppendRune(dst, r)
			continue
		}
		at := f.n
		for ; at > 0 && f.marks[at-1].class > class; at-- {
			f.marks[at] = f.marks[at-1]
		}
		f.marks[at] = mark{r, class}
		f.n++
	}
	return dst
}

func (f *folder) flush(dst []byte) []byte {
	for _, m := range f.marks[:f.n] {
		dst = utf8.AppendRune(dst, m.r)
	}
	f.n = 0
	return dst
}

// folded is what becomes of a rune. marks: there are combining marks in it.
type folded struct {
	text  string
	marks bool
}

// pages hold what runes become, 256 of them each, made when first asked for.
var pages [(unicode.MaxRune + 1) >> 8]atomic.Pointer[[256]folded]

func foldOf(r rune) folded {
	p := pages[r>>8].Load()
	if p == nil {
		p = new([256]folded)
		for i := range p {
			p[i] = foldRune(r&^0xff | rune(i))
		}
		pages[r>>8].Store(p)
	}
	return p[r&0xff]
}

func foldRune(r rune) folded {
	if !utf8.ValidRune(r) {
		r = utf8.RuneError
	}
	text := string(r)
	for range 4 { // settles after two
		titled := []byte(nil)
		for _, r := range text {
			titled = utf8.AppendRune(titled, unicode.ToTitle(r))
		}
		text = string(norm.NFKD.Bytes(titled))
	}
	f := folded{text: text}
	for _, r := range text {
		f.marks = f.marks || norm.NFD.PropertiesString(string(r)).CCC() != 0
	}
	return f
}

var windows1252 = func() (t [256]rune) {
	for c := range t {
		t[c] = charmap.Windows1252.DecodeByte(byte(c))
	}
	return t
}()

// appendUpper appends the ASCII that src begins with, in capitals, and returns
// how long it is.
func appendUpper(dst, src []byte) ([]byte, int) {
	const (
		high = 0x8080808080808080
		each = 0x0101010101010101
	)
	i := 0
	for ; i+8 <= len(src); i += 8 {
		x := binary.LittleEndian.Uint64(src[i:])
		if x&high != 0 {
			break
		}
		// The high bit of an octet of lower is set where it is from a to z.
		lower := ((x + (0x80-'a')*each) ^ (x + (0x7f-'z')*each)) & high
		dst = binary.LittleEndian.AppendUint64(dst, x-lower>>2)
	}
	for ; i < len(src) && src[i] < utf8.RuneSelf; i++ {
		c := src[i]
		if 'a' <= c && c <= 'z' {
			c -= 'a' - 'A'
		}
		dst = append(dst, c)
	}
	return dst, i
}

// isASCII reports whether s has no other octets.
func isASCII(s []byte) bool {
	for ; len(s) >= 8; s = s[8:] {
		if binary.LittleEndian.Uint64(s)&0x8080808080808080 != 0 {
			return false
		}
	}
	for _, c := range s {
		if c >= utf8.RuneSelf {
			return false
		}
	}
	return true
}
