package smtp

import (
	"errors"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/postern-mail/postern/mail"
	"github.com/postern-mail/postern/status"
)

// Bounds of parameter values.
const (
	maxParameters      = 20
	maxEnvelopeID      = 100 // RFC 3461 section 4.4, encoded
	maxOriginal        = 500 // RFC 3461 section 4.2
	maxDeliveryID      = 256
	maxParameterOctets = 40 // of a keyword
)

// cutKeyword removes keyword from the start of arg, in any letter case, and
// blanks after it: clients that write "FROM: <a@b>" are many.
func cutKeyword(arg, keyword string) (string, bool) {
	if len(arg) < len(keyword) || !strings.EqualFold(arg[:len(keyword)], keyword) {
		return arg, false
	}
	return strings.TrimLeft(arg[len(keyword):], " "), true
}

// tightened returns arg with the path behind keyword as it should have been
// written: in angle brackets, without blanks inside them. What cannot be meant
// for an address stays as it is.
func tightened(arg, keyword string) string {
	path, ok := cutKeyword(arg, keyword)
	if !ok || path == "" {
		return arg
	}
	if path[0] != '<' {
		end := outsideQuotes(path, ' ')
		return keyword + "<" + path[:end] + ">" + path[end:]
	}
	end := outsideQuotes(path, '>')
	return keyword + "<" + strings.Trim(path[1:end], " ") + path[end:]
}

// outsideQuotes returns where c stands first in s outside of quoted strings, or
// the end of s.
func outsideQuotes(s string, c byte) int {
	quoted := false
	for i := 0; i < len(s); i++ {
		switch {
		case quoted && s[i] == '\\':
			i++
		case s[i] == '"':
			quoted = !quoted
		case !quoted && s[i] == c:
			return i
		}
	}
	return len(s)
}

// parsePathArgument reads "FROM:<path> parameters" and its like. Non-ASCII in
// the path is taken when utf8Allowed, else it is NeedSMTPUTF8; every other
// mistake in it is syntaxReason. A local-part alone is one without origin.
func parsePathArgument(arg, keyword string, origin mail.Domain, utf8Allowed bool, syntaxReason status.Reason) (mail.Address, string, error) {
	path, ok := cutKeyword(arg, keyword)
	if !ok {
		return mail.Address{}, "", status.Errorf(status.SyntaxError, "%s missing", keyword)
	}
	address, rest, err := mail.ParsePathIn(origin, path, utf8Allowed)
	if err != nil {
		if !utf8Allowed && !isASCIIText(path) {
			return mail.Address{}, "", status.New(status.NeedSMTPUTF8, err)
		}
		return mail.Address{}, "", status.New(syntaxReason, err)
	}
	if rest != "" && rest[0] != ' ' {
		return mail.Address{}, "", status.Errorf(syntaxReason, "octets after the path")
	}
	return address, rest, nil
}

func isASCIIText(s string) bool {
	for i := 0; i < len(s); i++ {
		if s[i] >= utf8.RuneSelf {
			return false
		}
	}
	return true
}

// eachParameter calls set for every "KEYWORD=value" in text, the keyword in
// upper case; given tells whether there was an equals sign. Set reports false
// for a keyword it does not know.
func eachParameter(text string, set func(keyword, value string, given bool) (known bool, err error)) error {
	var seen [maxParameters]string
	for n := 0; ; n++ {
		text = strings.TrimLeft(text, " ")
		if text == "" {
			return nil
		}
		if n == maxParameters {
			return status.New(status.ParameterSyntax, errors.New("too many parameters"))
		}
		var parameter string
		parameter, text, _ = strings.Cut(text, " ")
		keyword, value, given := strings.Cut(parameter, "=")
		keyword = strings.ToUpper(keyword)
		if !isKeyword(keyword) || given && value == "" {
			return status.Errorf(status.ParameterSyntax, "parameter %q", parameter)
		}
		for _, other := range seen[:n] {
			if other == keyword {
				return status.Errorf(status.ParameterSyntax, "parameter %s given twice", keyword)
			}
		}
		seen[n] = keyword
		known, err := set(keyword, value, given)
		if err != nil {
			return err
		}
		if !known {
			return status.Errorf(status.ParameterUnimplemented, "parameter %s", keyword)
		}
	}
}

// isKeyword holds upper-case keywords against RFC 5321's esmtp-keyword.
func isKeyword(s string) bool {
	if s == "" || len(s) > maxParameterOctets || s[0] == '-' {
		return false
	}
	for i := 0; i < len(s); i++ {
		c := s[i]
		if !(c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || c == '-') {
			return false
		}
	}
	return true
}

func badValue(keyword, value string) error {
	return status.Errorf(status.ParameterSyntax, "value of %s: %q", keyword, value)
}

// parseSize reads SIZE's value (RFC 1870 section 3: at most 20 digits). What
// does not fit into 63 bits is as big as can be.
func parseSize(value string) (int64, error) {
	if value == "" || len(value) > 20 || strings.Trim(value, "0123456789") != "" {
		return 0, badValue("SIZE", value)
	}
	n, err := strconv.ParseInt(value, 10, 64)
	if err != nil {
		return unlimited, nil
	}
	return n, nil
}

// parseNotify reads NOTIFY's value (RFC 3461 section 4.1).
func parseNotify(value string) (mail.Notify, error) {
	var notify mail.Notify
	for item := range strings.SplitSeq(value, ",") {
		var member mail.Notify
		switch strings.ToUpper(item) {
		case "NEVER":
			member = mail.NotifyNever
		case "SUCCESS":
			member = mail.NotifySuccess
		case "FAILURE":
			member = mail.NotifyFailure
		case "DELAY":
			member = mail.NotifyDelay
		default:
			return 0, badValue("NOTIFY", value)
		}
		if notify&member != 0 {
			return 0, badValue("NOTIFY", value)
		}
		notify |= member
	}
	if notify&mail.NotifyNever != 0 && notify != mail.NotifyNever {
		return 0, badValue("NOTIFY", value)
	}
	return notify, nil
}

// parseOriginal reads ORCPT's value, "type;xtext" (RFC 3461 section 4.2), and
// for the type utf-8 also the encodings of RFC 6533 section 3. It returns the
// address decoded.
func parseOriginal(value string) (string, error) {
	kind, encoded, ok := strings.Cut(value, ";")
	if !ok || kind == "" || encoded == "" || len(value) > maxOriginal || !isKeyword(strings.ToUpper(kind)) {
		return "", badValue("ORCPT", value)
	}
	decode := decodeXtext
	if strings.EqualFold(kind, "utf-8") {
		decode = decodeUTF8Address
	}
	address, err := decode(encoded)
	if err != nil {
		return "", status.Errorf(status.ParameterSyntax, "value of ORCPT: %w", err)
	}
	return kind + ";" + address, nil
}

var errXtext = errors.New("malformed xtext")

// decodeXtext undoes RFC 3461 section 4: "+3D" stands for an octet. The
// result must be printable: it ends up in header fields of reports. An equals
// sign, which had to be encoded, is let through: there are senders that do not.
func decodeXtext(s string) (string, error) {
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		c := s[i]
		if c == '+' {
			if i+2 >= len(s) {
				return "", errXtext
			}
			n, err := strconv.ParseUint(s[i+1:i+3], 16, 8)
			if err != nil {
				return "", errXtext
			}
			c = byte(n)
			i += 2
		}
		b.WriteByte(c)
	}
	return printable(b.String())
}

// decodeUTF8Address undoes utf-8-addr-xtext and utf-8-addr-unitext of RFC
// 6533 section 3: "\x{20AC}" stands for a character.
func decodeUTF8Address(s string) (string, error) {
	var b strings.Builder
	for {
		before, after, escaped := strings.Cut(s, `\x{`)
		b.WriteString(before)
		if !escaped {
			break
		}
		digits, rest, closed := strings.Cut(after, "}")
		n, err := strconv.ParseUint(digits, 16, 32)
		if !closed || err != nil || !utf8.ValidRune(rune(n)) {
			return "", errXtext
		}
		b.WriteRune(rune(n))
		s = rest
	}
	return printable(b.String())
}

func printable(s string) (string, error) {
	if !utf8.ValidString(s) || strings.ContainsFunc(s, func(r rune) bool { return r < ' ' || r == 0x7f }) {
		return "", errXtext
	}
	return s, nil
}

// parseAuthMailbox reads the value of MAIL's AUTH parameter (RFC 4954 section
// 5): an xtext mailbox, or "<>".
func parseAuthMailbox(value string) (*mail.Address, error) {
	if value == "<>" {
		return &mail.Address{}, nil
	}
	decoded, err := decodeXtext(value)
	if err != nil {
		return nil, status.Errorf(status.ParameterSyntax, "value of AUTH: %w", err)
	}
	address, err := mail.ParseAddress(decoded)
	if err != nil {
		return nil, status.Errorf(status.ParameterSyntax, "value of AUTH: %w", err)
	}
	return &address, nil
}
