// Package imapurl reads URLs that name a message, or a part of one (RFC 5092).
//
// What goes in: the text of a URL, absolute or relative to a server or to its
// selected mailbox. What comes out: its pieces, with percent-encoding undone.
// What it leaves to others: whether there is such a message, what its section
// means, and who may read it. URLs of lists of messages (a search behind "?")
// are refused: nobody asks for them inside the protocol.
package imapurl

import (
	"errors"
	"strconv"
	"strings"
	"unicode/utf8"
)

// MaxOctets bounds a URL.
const MaxOctets = 8 << 10

// URL names a message or a part of it.
type URL struct {
	// Server is "user@host:port" as it stands in an absolute URL, "" in a
	// relative one.
	Server string
	// Mailbox is the name in UTF-8, "" for the selected one.
	Mailbox     string
	UIDValidity uint32 // 0 when not given
	UID         uint32
	// Section is what stands between the brackets of FETCH BODY[], "" for the
	// whole message.
	Section string
	// Partial says that only Octets from Offset on are meant; Octets is -1 for
	// all the rest.
	Partial bool
	Offset  int64
	Octets  int64
	// Auth is what follows the message part of a URL that grants access (RFC
	// 4467), from ";EXPIRE=" or ";URLAUTH=" on; "" for others.
	Auth string
}

// What is wrong with a URL.
var (
	ErrSyntax  = errors.New("malformed IMAP URL")
	ErrNoUID   = errors.New("IMAP URL names no message")
	ErrTooLong = errors.New("IMAP URL is too long")
)

// Parse reads a URL.
func Parse(text string) (URL, error) {
	var u URL
	if len(text) > MaxOctets {
		return u, ErrTooLong
	}
	for i := range len(text) {
		if text[i] <= ' ' || text[i] >= 0x7f {
			return u, ErrSyntax
		}
	}
	path, err := u.server(text)
	if err != nil {
		return u, err
	}
	path, auth, granted := cutAuth(path)
	if granted {
		u.Auth = auth
	}
	if strings.Contains(path, "?") {
		return u, ErrNoUID
	}
	at := indexFold(path, ";UID=")
	if at < 0 {
		return u, ErrNoUID
	}
	if err := u.mailbox(path[:at]); err != nil {
		return u, err
	}
	return u, u.part(path[at+len(";UID="):])
}

// server takes scheme and server off an absolute URL, and the slash off a path.
func (u *URL) server(text string) (path string, err error) {
	const scheme = "imap://"
	if len(text) >= len(scheme) && strings.EqualFold(text[:len(scheme)], scheme) {
		text = text[len(scheme):]
		slash := strings.IndexByte(text, '/')
		if slash < 1 {
			return "", ErrNoUID
		}
		u.Server, text = text[:slash], text[slash:]
	} else if strings.HasPrefix(text, "//") || strings.Contains(text, "://") {
		return "", ErrSyntax
	}
	return strings.TrimPrefix(text, "/"), nil
}

// cutAuth cuts off what URLAUTH adds.
func cutAuth(path string) (rest, auth string, found bool) {
	for _, mark := range []string{";EXPIRE=", ";URLAUTH="} {
		if i := indexFold(path, mark); i >= 0 {
			return path[:i], path[i:], true
		}
	}
	return path, "", false
}

// mailbox reads what stands before the UID: nothing, or a name with its
// UIDVALIDITY and a slash.
func (u *URL) mailbox(text string) error {
	if text == "" {
		return nil
	}
	name, ok := strings.CutSuffix(text, "/")
	if !ok {
		return ErrSyntax
	}
	if i := indexFold(name, ";UIDVALIDITY="); i >= 0 {
		n, err := number(name[i+len(";UIDVALIDITY="):], 32)
		if err != nil || n == 0 {
			return ErrSyntax
		}
		name, u.UIDValidity = name[:i], uint32(n)
	}
	if name == "" {
		return nil
	}
	if strings.Contains(name, ";") {
		return ErrSyntax
	}
	var err error
	u.Mailbox, err = unescape(name)
	return err
}

// part reads the UID and what follows it.
func (u *URL) part(text string) error {
	uid, rest, _ := strings.Cut(text, "/")
	n, err := number(uid, 32)
	if err != nil || n == 0 {
		return ErrSyntax
	}
	u.UID = uint32(n)
	if tail, ok := cutPrefixFold(rest, ";SECTION="); ok {
		section := tail
		if section, rest, _ = strings.Cut(tail, "/"); section == "" {
			return ErrSyntax
		}
		if u.Section, err = unescape(section); err != nil {
			return err
		}
	}
	if tail, ok := cutPrefixFold(rest, ";PARTIAL="); ok {
		return u.partial(tail)
	}
	if rest != "" {
		return ErrSyntax
	}
	return nil
}

func (u *URL) partial(text string) error {
	offset, octets, limited := strings.Cut(text, ".")
	n, err := number(offset, 63)
	if err != nil {
		return ErrSyntax
	}
	u.Partial, u.Offset, u.Octets = true, n, -1
	if !limited {
		return nil
	}
	if u.Octets, err = number(octets, 63); err != nil || u.Octets == 0 {
		return ErrSyntax
	}
	return nil
}

// number reads decimal digits, and nothing else.
func number(text string, bits int) (int64, error) {
	if text == "" || text[0] == '+' || text[0] == '-' {
		return 0, ErrSyntax
	}
	n, err := strconv.ParseUint(text, 10, bits)
	return int64(n), err
}

// unescape undoes percent-encoding. NUL and line ends have no place in names.
func unescape(text string) (string, error) {
	var b strings.Builder
	for i := 0; i < len(text); i++ {
		c := text[i]
		if c == '%' {
			if i+2 >= len(text) {
				return "", ErrSyntax
			}
			n, err := strconv.ParseUint(text[i+1:i+3], 16, 8)
			if err != nil {
				return "", ErrSyntax
			}
			c = byte(n)
			i += 2
		}
		if c == 0 || c == '\r' || c == '\n' {
			return "", ErrSyntax
		}
		b.WriteByte(c)
	}
	if !utf8.ValidString(b.String()) {
		return "", ErrSyntax
	}
	return b.String(), nil
}

func indexFold(s, substr string) int {
	return strings.Index(strings.ToUpper(s), substr)
}

func cutPrefixFold(s, prefix string) (string, bool) {
	if len(s) < len(prefix) || !strings.EqualFold(s[:len(prefix)], prefix) {
		return s, false
	}
	return s[len(prefix):], true
}

// String composes the URL, relative to the server when Server is "".
func (u URL) String() string {
	var b strings.Builder
	if u.Server != "" {
		b.WriteString("imap://" + u.Server)
	}
	if u.Server != "" || u.Mailbox != "" || u.UIDValidity != 0 {
		b.WriteString("/" + escape(u.Mailbox))
		if u.UIDValidity != 0 {
			b.WriteString(";UIDVALIDITY=" + strconv.FormatUint(uint64(u.UIDValidity), 10))
		}
		b.WriteByte('/')
	}
	b.WriteString(";UID=" + strconv.FormatUint(uint64(u.UID), 10))
	if u.Section != "" {
		b.WriteString("/;SECTION=" + escape(u.Section))
	}
	if u.Partial {
		b.WriteString("/;PARTIAL=" + strconv.FormatInt(u.Offset, 10))
		if u.Octets >= 0 {
			b.WriteString("." + strconv.FormatInt(u.Octets, 10))
		}
	}
	return b.String() + u.Auth
}

// escape percent-encodes what may not stand in a mailbox name or section.
func escape(text string) string {
	const safe = "-._~!$'()*+,:@"
	var b strings.Builder
	for i := range len(text) {
		c := text[i]
		switch {
		case c|0x20 >= 'a' && c|0x20 <= 'z', c >= '0' && c <= '9', strings.IndexByte(safe, c) >= 0:
			b.WriteByte(c)
		case c == '/':
			b.WriteString("%2F")
		default:
			const digits = "0123456789ABCDEF"
			b.Write([]byte{'%', digits[c>>4], digits[c&15]})
		}
	}
	return b.String()
}
