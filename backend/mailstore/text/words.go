package text

import (
	"bytes"
	"strings"

	"github.com/postern-mail/postern/backend/mailstore/transfer"
)

// words decodes the encoded-words (RFC 2047) of a header field.
type words struct {
	charset charset
	octets  []byte // of adjacent encoded-words of one charset
	utf8    []byte
	out     []byte
}

// decode returns value with its encoded-words decoded, white space between two
// of them left out. Adjacent ones of one charset are taken together: some
// programs cut characters in two. What is malformed stays as it is. The result
// is good until the next call.
func (w *words) decode(value []byte) []byte {
	if !bytes.Contains(value, []byte("=?")) {
		return value
	}
	w.out, w.octets = w.out[:0], w.octets[:0]
	name := ""
	for len(value) > 0 {
		start := bytes.Index(value, []byte("=?"))
		if start < 0 {
			break
		}
		charset, encoding, text, n := encodedWord(value[start:])
		if n == 0 {
			w.flush(name)
			w.out = append(w.out, value[:start+2]...)
			value = value[start+2:]
			continue
		}
		between := value[:start]
		if len(w.octets) == 0 || len(bytes.Trim(between, " \t\r\n")) > 0 {
			w.flush(name)
			w.out = append(w.out, between...)
		} else if !strings.EqualFold(name, charset) {
			w.flush(name)
		}
		name = charset
		w.octets = w.decoded(w.octets, encoding, text)
		value = value[start+n:]
		if len(w.octets) == 0 { // an empty word takes part in no run
			w.flush(name)
		}
	}
	w.flush(name)
	w.out = append(w.out, value...)
	return w.out
}

func (w *words) flush(name string) {
	if len(w.octets) == 0 {
		return
	}
	w.charset.reset(name)
	w.out = append(w.out, w.charset.add(&w.utf8, w.octets, true)...)
	w.octets = w.octets[:0]
}

func (w *words) decoded(dst []byte, encoding byte, text []byte) []byte {
	if encoding == 'b' || encoding == 'B' {
		d := transfer.New(transfer.Base64)
		return d.Finish(d.Append(dst, text))
	}
	for i := 0; i < len(text); i++ {
		c := text[i]
		switch {
		case c == '_':
			c = ' '
		case c == '=' && i+2 < len(text):
			high, ok := unhex(text[i+1])
			if low, also := unhex(text[i+2]); ok && also {
				c = high<<4 | low
				i += 2
			}
		}
		dst = append(dst, c)
	}
	return dst
}

// encodedWord reads the encoded-word that s begins with; n is its length, 0
// when it is none. A language (RFC 2231) is left out.
func encodedWord(s []byte) (charset string, encoding byte, text []byte, n int) {
	first := bytes.IndexByte(s[2:], '?')
	if first <= 0 || first > 64 {
		return "", 0, nil, 0
	}
	at := 2 + first + 1
	if len(s) < at+2 || s[at+1] != '?' || !strings.ContainsRune("bBqQ", rune(s[at])) {
		return "", 0, nil, 0
	}
	end := bytes.Index(s[at+2:], []byte("?="))
	if end < 0 || bytes.IndexByte(s[at+2:at+2+end], '?') >= 0 {
		return "", 0, nil, 0
	}
	name, _, _ := strings.Cut(string(s[2:2+first]), "*")
	return name, s[at], s[at+2 : at+2+end], at + 2 + end + 2
}

func unhex(c byte) (byte, bool) {
	switch {
	case '0' <= c && c <= '9':
		return c - '0', true
	case 'A' <= c && c <= 'F':
		return c - 'A' + 10, true
	case 'a' <= c && c <= 'f':
		return c - 'a' + 10, true
	}
	return 0, false
}
