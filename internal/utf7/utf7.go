// Package utf7 is the modified UTF-7 of mailbox names (RFC 3501 section 5.1.3),
// which IMAP4rev1 and Maildir++ write.
package utf7

import (
	"encoding/base64"
	"errors"
	"strings"
	"unicode/utf16"
	"unicode/utf8"
)

// ErrEncoding is a name that is not modified UTF-7.
var ErrEncoding = errors.New("name is not modified UTF-7")

// coding is modified base64: "," for "/", no padding, no stray bits.
var coding = base64.NewEncoding("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+,").
	WithPadding(base64.NoPadding).Strict()

// Decode returns the name that s stands for. What is not shifted is taken as
// it is, UTF-8 and control characters too. ErrEncoding.
func Decode(s string) (string, error) {
	var b strings.Builder
	for {
		plain, shifted, found := strings.Cut(s, "&")
		b.WriteString(plain)
		if !found {
			return b.String(), nil
		}
		run, rest, closed := strings.Cut(shifted, "-")
		if !closed {
			return "", ErrEncoding
		}
		if run == "" {
			b.WriteByte('&')
		} else if err := decodeRun(&b, run); err != nil {
			return "", err
		}
		s = rest
	}
}

func decodeRun(b *strings.Builder, run string) error {
	octets, err := coding.DecodeString(run)
	if err != nil || len(octets)%2 != 0 {
		return ErrEncoding
	}
	for i := 0; i < len(octets); i += 2 {
		r := rune(octets[i])<<8 | rune(octets[i+1])
		if utf16.IsSurrogate(r) {
			i += 2
			if i+1 >= len(octets) {
				return ErrEncoding
			}
			if r = utf16.DecodeRune(r, rune(octets[i])<<8|rune(octets[i+1])); r == utf8.RuneError {
				return ErrEncoding
			}
		}
		b.WriteRune(r)
	}
	return nil
}

// Encode writes a name in modified UTF-7: printable ASCII.
func Encode(name string) string {
	if !strings.ContainsFunc(name, func(r rune) bool { return r == '&' || r < ' ' || r > '~' }) {
		return name
	}
	var b strings.Builder
	for len(name) > 0 {
		end := strings.IndexFunc(name, func(r rune) bool { return r < ' ' || r > '~' })
		if end < 0 {
			end = len(name)
		}
		b.WriteString(strings.ReplaceAll(name[:end], "&", "&-"))
		name = name[end:]
		run := strings.IndexFunc(name, func(r rune) bool { return r >= ' ' && r <= '~' })
		if run < 0 {
			run = len(name)
		}
		if run > 0 {
			encodeRun(&b, name[:run])
		}
		name = name[run:]
	}
	return b.String()
}

func encodeRun(b *strings.Builder, run string) {
	octets := make([]byte, 0, 2*len(run))
	for _, unit := range utf16.Encode([]rune(run)) {
		octets = append(octets, byte(unit>>8), byte(unit))
	}
	b.WriteByte('&')
	b.WriteString(coding.EncodeToString(octets))
	b.WriteByte('-')
}
