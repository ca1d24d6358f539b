package dnsbl

import (
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"github.com/postern-mail/postern/mail"
	"github.com/postern-mail/postern/status"
)

// DefaultReply is what a listed client reads, as in Postfix.
const DefaultReply = "$rbl_code Service unavailable; $rbl_class [$rbl_what] blocked using $rbl_domain${rbl_reason?; $rbl_reason}"

// maxNested bounds macros within macros.
const maxNested = 5

// listing is what a reply can speak of.
type listing struct {
	code   int
	domain string // of the list
	class  string // "Client host"
	what   string // the address or name that is listed
	reason string // what the list says
	tx     *mail.Transaction
}

// macros are the names that a reply may hold.
var macros = map[string]func(l *listing) string{
	"rbl_code":   func(l *listing) string { return strconv.Itoa(l.code) },
	"rbl_domain": func(l *listing) string { return l.domain },
	"rbl_class":  func(l *listing) string { return l.class },
	"rbl_what":   func(l *listing) string { return l.what },
	"rbl_reason": func(l *listing) string { return l.reason },
	"rbl_txt":    func(l *listing) string { return l.reason },

	"client":              func(l *listing) string { return clientName(l.tx) + "[" + clientAddress(l.tx) + "]" },
	"client_address":      func(l *listing) string { return clientAddress(l.tx) },
	"client_name":         func(l *listing) string { return clientName(l.tx) },
	"client_port":         func(l *listing) string { return strconv.Itoa(int(l.tx.Client.Remote.Port())) },
	"reverse_client_name": func(l *listing) string { return orUnknown(l.tx.Client.ReverseName) },
	"helo_name":           func(l *listing) string { return l.tx.Client.Helo },
	"sender":              func(l *listing) string { return orNull(l.tx.Envelope.ReversePath) },
	"sender_name":         func(l *listing) string { return string(l.tx.Envelope.ReversePath.Local) },
	"sender_domain":       func(l *listing) string { return string(l.tx.Envelope.ReversePath.Domain) },
	"recipient":           func(l *listing) string { return recipientOf(l.tx).String() },
	"recipient_name":      func(l *listing) string { return string(recipientOf(l.tx).Local) },
	"recipient_domain":    func(l *listing) string { return string(recipientOf(l.tx).Domain) },
}

func orUnknown(name string) string {
	if name == "" {
		return "unknown"
	}
	return name
}

func clientName(tx *mail.Transaction) string { return orUnknown(tx.Client.Hostname) }

func clientAddress(tx *mail.Transaction) string {
	return plainAddress(tx.Client.Remote.Addr()).String()
}

func plainAddress(a netip.Addr) netip.Addr { return a.Unmap().WithZone("") }

func orNull(a mail.Address) string {
	if a.IsNull() {
		return "<>"
	}
	return a.String()
}

func recipientOf(tx *mail.Transaction) mail.Address {
	if tx.Recipient == nil {
		return mail.Address{}
	}
	return tx.Recipient.Address
}

// checkReply reports what is wrong with a reply as the configuration has it.
func checkReply(template string) error {
	sample := &listing{code: 554, tx: &mail.Transaction{}}
	text, err := expand(template, sample, 0)
	if err != nil {
		return fmt.Errorf("the reply %q: %w", template, err)
	}
	if _, _, ok := codeOf(text); !ok {
		return fmt.Errorf("the reply %q does not begin with a code that refuses, such as $rbl_code or 550", template)
	}
	return nil
}

// say makes the reply of a listing.
func (l *listing) say(template string) *status.Reply {
	reply := status.Listed.Reply()
	text, err := expand(template, l, 0)
	if err != nil {
		text, _ = expand(DefaultReply, l, 0) // the configuration has been checked
	}
	code, rest, ok := codeOf(text)
	if !ok {
		code, rest = l.code, text
	}
	reply.Code = code
	reply.Enhanced = [3]int{code / 100, 7, 1}
	if word, after, _ := strings.Cut(rest, " "); len(word) >= 5 {
		if dsn, ok := enhanced(word); ok {
			reply.Enhanced, rest = dsn, after
		}
	}
	reply.Text = rest
	if reply.Text == "" {
		reply.Text = "Service unavailable"
	}
	return &reply
}

// codeOf cuts the code off a reply.
func codeOf(text string) (code int, rest string, ok bool) {
	if len(text) < 3 || len(text) > 3 && text[3] != ' ' {
		return 0, text, false
	}
	code, err := strconv.Atoi(text[:3])
	if err != nil || code < 400 || code > 599 {
		return 0, text, false
	}
	return code, strings.TrimSpace(text[3:]), true
}

func enhanced(word string) (dsn [3]int, ok bool) {
	parts := strings.Split(word, ".")
	if len(parts) != 3 || !slices.Contains([]string{"2", "4", "5"}, parts[0]) {
		return dsn, false
	}
	for i, part := range parts {
		n, err := strconv.ParseUint(part, 10, 10)
		if err != nil || n > 999 {
			return dsn, false
		}
		dsn[i] = int(n)
	}
	return dsn, true
}

// expand replaces $name, ${name}, $(name), ${name?text}, which is text when
// name is not empty, ${name:text}, which is text when it is, and $$.
func expand(template string, l *listing, depth int) (string, error) {
	if depth > maxNested {
		return "", fmt.Errorf("macros are nested too deeply")
	}
	var b strings.Builder
	for {
		before, rest, found := strings.Cut(template, "$")
		b.WriteString(before)
		if !found {
			return b.String(), nil
		}
		var text string
		var err error
		if text, template, err = expandOne(rest, l, depth); err != nil {
			return "", err
		}
		b.WriteString(text)
	}
}

// expandOne expands the macro whose dollar sign was before text.
func expandOne(text string, l *listing, depth int) (value, rest string, err error) {
	if after, ok := strings.CutPrefix(text, "$"); ok {
		return "$", after, nil
	}
	if text != "" && (text[0] == '{' || text[0] == '(') {
		end := closing(text)
		if end < 0 {
			return "", "", fmt.Errorf("$%c is not closed", text[0])
		}
		value, err = expandBraced(text[1:end], l, depth)
		return value, text[end+1:], err
	}
	end := 0
	for end < len(text) && inName(text[end]) {
		end++
	}
	value, err = macro(text[:end], l)
	return value, text[end:], err
}

func expandBraced(inner string, l *listing, depth int) (string, error) {
	end := 0
	for end < len(inner) && inName(inner[end]) {
		end++
	}
	value, err := macro(inner[:end], l)
	if err != nil || end == len(inner) {
		return value, err
	}
	text, err := expand(inner[end+1:], l, depth+1)
	switch {
	case err != nil:
		return "", err
	case inner[end] == '?' && value != "", inner[end] == ':' && value == "":
		return text, nil
	case inner[end] == '?', inner[end] == ':':
		return "", nil
	default:
		return "", fmt.Errorf("${%s} is not understood", inner)
	}
}

// closing finds the end of what opens at text's first octet.
func closing(text string) int {
	depth := 0
	for i := range len(text) {
		switch text[i] {
		case '{', '(':
			depth++
		case '}', ')':
			if depth--; depth == 0 {
				return i
			}
		}
	}
	return -1
}

func inName(c byte) bool {
	return c == '_' || 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9'
}

func macro(name string, l *listing) (string, error) {
	value, ok := macros[name]
	if !ok {
		return "", fmt.Errorf("there is no macro $%s", name)
	}
	return value(l), nil
}
