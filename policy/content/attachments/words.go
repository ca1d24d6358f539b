package attachments

import (
	"bytes"
	"io"
	"strings"

	"golang.org/x/net/html/charset"
	"golang.org/x/text/encoding"
	"golang.org/x/text/encoding/ianaindex"
	"golang.org/x/text/encoding/unicode"
	"golang.org/x/text/encoding/unicode/utf32"
)

// decoded returns a name with its encoded words (RFC 2047) decoded, which have no
// business in a parameter and are there all the same. What is wrong with a word
// does not keep mail programs from decoding it, so it does not matter here.
func decoded(text string) string {
	var b strings.Builder
	after := false // an encoded word
	for text != "" {
		at := strings.Index(text, "=?")
		if at < 0 {
			break
		}
		before := text[:at]
		word, rest, ok := encodedWord(text[at:])
		if !ok {
			b.WriteString(text[:at+2])
			text, after = text[at+2:], false
			continue
		}
		if !after || strings.Trim(before, " \t\r\n") != "" {
			b.WriteString(before)
		}
		b.WriteString(word)
		text, after = rest, true
	}
	return b.String() + text
}

// encodedWord decodes the encoded word that text begins with.
func encodedWord(text string) (word, rest string, ok bool) {
	parts := strings.SplitN(text, "?", 4) // "=", charset, encoding, what follows
	if len(parts) < 4 {
		return "", text, false
	}
	if !strings.EqualFold(parts[2], "b") && !strings.EqualFold(parts[2], "q") {
		return "", text, false
	}
	octets, rest, ended := strings.Cut(parts[3], "?=")
	if !ended {
		octets, rest = parts[3], ""
	}
	label, _, _ := strings.Cut(parts[1], "*") // a language may follow (RFC 2231 section 5)
	r := newBase64(strings.NewReader(octets))
	if strings.EqualFold(parts[2], "q") {
		r = newQuoted(strings.NewReader(strings.ReplaceAll(octets, "_", " ")))
	}
	var b bytes.Buffer
	if _, err := b.ReadFrom(r); err != nil {
		return "", text, false
	}
	return converted(label, b.String()), rest, true
}

// converted returns text of a character set in UTF-8; as it is where nobody knows
// the set.
func converted(label, text string) string {
	if strings.EqualFold(label, "utf-7") || strings.EqualFold(label, "unicode-1-1-utf-7") {
		return utf7(text)
	}
	e := encodingOf(strings.ToLower(label), text)
	if e == nil {
		return text
	}
	out, err := e.NewDecoder().String(text)
	if err != nil {
		return text
	}
	return out
}

// encodingOf returns the character set of a name; nil for none.
func encodingOf(label, text string) encoding.Encoding {
	switch label {
	case "":
		return nil
	case "utf-16", "ucs-2", "iso-10646-ucs-2", "unicode":
		order := unicode.LittleEndian
		if strings.HasPrefix(text, "\x00") {
			order = unicode.BigEndian
		}
		return unicode.UTF16(order, unicode.UseBOM)
	case "utf-32":
		return utf32.UTF32(utf32.BigEndian, utf32.UseBOM)
	}
	// The set that stands for those nobody should read shows one mark in the place
	// of all the text.
	if e, name := charset.Lookup(label); e != nil && name != "replacement" {
		return e
	}
	e, err := ianaindex.MIME.Encoding(label)
	if err != nil {
		return nil
	}
	return e
}

// utf7 decodes UTF-7 (RFC 2152): UTF-16 in base64 between "+" and what is none.
func utf7(text string) string {
	var b strings.Builder
	for text != "" {
		at := strings.IndexByte(text, '+')
		if at < 0 {
			break
		}
		b.WriteString(text[:at])
		text = text[at+1:]
		end := strings.IndexFunc(text, func(r rune) bool { return r > 0x7f || sextets[byte(r)] < 0 })
		if end < 0 {
			end = len(text)
		}
		shifted := text[:end]
		text = strings.TrimPrefix(text[end:], "-")
		if shifted == "" {
			b.WriteByte('+')
			continue
		}
		octets, _ := io.ReadAll(newBase64(strings.NewReader(shifted))) // of memory
		out, err := unicode.UTF16(unicode.BigEndian, unicode.IgnoreBOM).NewDecoder().Bytes(octets[:len(octets)&^1])
		if err != nil {
			out = octets
		}
		b.Write(out)
	}
	return b.String() + text
}
