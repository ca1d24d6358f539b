package imapd

import (
	"encoding/base64"
	"errors"
	"strings"
	"unicode/utf16"
	"unicode/utf8"

	"golang.org/x/text/unicode/norm"
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

// errEncoding is a name that is not modified UTF-7 (RFC 3501 section 5.1.3).
var errEncoding = errors.New("name is not modified UTF-7")

// nameCoding is modified base64: "," for "/", no padding, no stray bits.
var nameCoding = base64.NewEncoding("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+,").
	WithPadding(base64.NoPadding).Strict()

// mailboxName turns a name from the wire into the store's form: NFC, "INBOX"
// in capitals, levels not empty, no delimiter at the end.
func mailboxName(wire string) (string, error) {
	name, err := decodeMailbox(wire)
	if err != nil {
		return "", err
	}
	switch {
	case name == "":
		return "", refuse("CANNOT", "Mailbox name is empty")
	case len(name) > maxNameOctets:
		return "", refuse("CANNOT", "Mailbox name is too long")
	case strings.HasPrefix(name, delimiter), strings.Contains(name, delimiter+delimiter):
		return "", refuse("CANNOT", "Mailbox name has an empty level")
	}
	return canonicalName(strings.TrimSuffix(name, delimiter)), nil
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
		if name, err = decodeUTF7(wire); err != nil {
			return "", refuse("CANNOT", "Mailbox name is not valid modified UTF-7")
		}
	}
	if !utf8.ValidString(name) || strings.ContainsFunc(name, isControl) {
		return "", refuse("CANNOT", "Mailbox name has invalid characters")
	}
	return norm.NFC.String(name), nil
}

func isControl(r rune) bool {
	return r < ' ' || r >= 0x7f && r < 0xa0 || r == '\u2028' || r == '\u2029'
}

func decodeUTF7(s string) (string, error) {
	var b strings.Builder
	for {
		plain, shifted, found := strings.Cut(s, "&")
		b.WriteString(plain)
		if !found {
			return b.String(), nil
		}
		run, rest, closed := strings.Cut(shifted, "-")
		if !closed {
			return "", errEncoding
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
	octets, err := nameCoding.DecodeString(run)
	if err != nil || len(octets)%2 != 0 {
		return errEncoding
	}
	for i := 0; i < len(octets); i += 2 {
		r := rune(octets[i])<<8 | rune(octets[i+1])
		if utf16.IsSurrogate(r) {
			i += 2
			if i+1 >= len(octets) {
				return errEncoding
			}
			if r = utf16.DecodeRune(r, rune(octets[i])<<8|rune(octets[i+1])); r == utf8.RuneError {
				return errEncoding
			}
		}
		b.WriteRune(r)
	}
	return nil
}

// encodeMailbox turns a name into modified UTF-7.
func encodeMailbox(name string) string {
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
	b.WriteString(nameCoding.EncodeToString(octets))
	b.WriteByte('-')
}
