package dsn

import (
	"bytes"
	"encoding/base64"
	"mime"
	"mime/quotedprintable"
	"strings"
	"unicode/utf8"

	"github.com/postern-mail/postern/mail"
)

// maxLine is where a quoted line is folded; RFC 5322 section 2.1.1 allows 998.
const maxLine = 900

// field writes one header or report field. The value is printable by
// construction or went through text; its line ends become folds, so that
// nothing in it can begin a field of its own.
func field(b *bytes.Buffer, name, value string) {
	b.WriteString(name)
	b.WriteString(": ")
	column := len(name) + 2
	for n, line := range strings.Split(value, "\n") {
		line = strings.TrimRight(line, " ")
		if n > 0 {
			// A fold of white space alone would end the header for some.
			if line == "" {
				continue
			}
			b.WriteString("\r\n\t")
			column = 1
		}
		for len(line) > maxLine-column {
			cut := foldAt(line, maxLine-column)
			b.WriteString(line[:cut])
			b.WriteString("\r\n\t")
			line, column = line[cut:], 1
		}
		b.WriteString(line)
	}
	b.WriteString("\r\n")
}

// foldAt finds the end of the last word before limit, or of the last whole
// rune when there is none.
func foldAt(line string, limit int) int {
	if i := strings.LastIndexByte(line[:limit], ' '); i > limit/2 {
		return i
	}
	for limit > 1 && !utf8.RuneStart(line[limit]) {
		limit--
	}
	return limit
}

// phrase returns words of a header field as they may stand there: as encoded
// words (RFC 2047) where they are not ASCII.
func phrase(s string) string {
	if isASCII([]byte(s)) {
		return s
	}
	encoding := mime.QEncoding
	if 3*nonASCII(s) > len(s) {
		encoding = mime.BEncoding
	}
	return strings.ReplaceAll(encoding.Encode("utf-8", s), "?= =?", "?=\n=?")
}

// encode gives a text the transfer encoding that carries it anywhere: none when
// it is ASCII in short lines.
func (x *part) encode(mayBe8Bit bool) {
	switch {
	case fitsMessage(x.content) && (mayBe8Bit || isASCII(x.content)):
		x.encoding = eightBit(x.content)
	case 3*nonASCII(string(x.content)) > len(x.content):
		x.content, x.encoding = base64Lines(x.content), "base64"
	default:
		x.content, x.encoding = quotedPrintable(x.content), "quoted-printable"
	}
}

// eightBit is the transfer encoding of a part whose octets go as they are.
func eightBit(content []byte) string {
	if isASCII(content) {
		return ""
	}
	return "8bit"
}

func quotedPrintable(content []byte) []byte {
	var b bytes.Buffer
	w := quotedprintable.NewWriter(&b)
	_, _ = w.Write(content) // a Buffer takes everything
	_ = w.Close()
	return b.Bytes()
}

func base64Lines(content []byte) []byte {
	const octets = 57 // 76 characters, the most of RFC 2045 section 6.8
	var b bytes.Buffer
	for len(content) > 0 {
		n := min(octets, len(content))
		b.WriteString(base64.StdEncoding.EncodeToString(content[:n]))
		b.WriteString("\r\n")
		content = content[n:]
	}
	return b.Bytes()
}

// plain returns s without control characters, its line ends kept as "\n".
func plain(s string) string {
	return strings.Map(func(r rune) rune {
		switch {
		case r == '\n':
			return r
		case r == '\t':
			return ' '
		case r < ' ', r == 0x7f, r == utf8.RuneError:
			return '?'
		case r >= 0x80 && r < 0xa0, r == 0x2028, r == 0x2029:
			return '?' // C1 controls and the line ends of Unicode
		}
		return r
	}, s)
}

// plainLine is plain in one line.
func plainLine(s string) string { return strings.ReplaceAll(plain(s), "\n", " ") }

// text is plain for a field: unless the report is UTF-8, what ASCII cannot hold
// is written as RFC 6533 section 3 writes it in addresses.
func (p *report) text(s string) string {
	s = plain(s)
	if p.utf8 {
		return s
	}
	return mail.EscapeNonASCII(s)
}

// line is text in one line.
func (p *report) line(s string) string { return strings.ReplaceAll(p.text(s), "\n", " ") }

func isASCII(p []byte) bool {
	for _, c := range p {
		if c >= utf8.RuneSelf {
			return false
		}
	}
	return true
}

func nonASCII(s string) (n int) {
	for i := range len(s) {
		if s[i] >= utf8.RuneSelf {
			n++
		}
	}
	return n
}

// maxLineOctets is the longest line a message may have (RFC 5322 section
// 2.1.1), without its CRLF.
const maxLineOctets = 998

func hasLongLine(p []byte) bool {
	for len(p) > maxLineOctets {
		i := bytes.IndexByte(p[:maxLineOctets+1], '\n')
		if i < 0 {
			// A line of 998 octets ends with the CR at that place.
			return !(len(p) > maxLineOctets+1 && p[maxLineOctets] == '\r' && p[maxLineOctets+1] == '\n')
		}
		p = p[i+1:]
	}
	return false
}
