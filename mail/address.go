package mail

import (
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"unicode/utf8"

	"golang.org/x/net/idna"
)

// LocalPart is the part of an address before the at-sign, unquoted: the octets
// the quotes protect, never the quotes themselves (RFC 5321 section 4.1.2).
type LocalPart string

// Domain is the part after the at-sign in its canonical form: lower-case, IDNA
// A-labels, no trailing dot; or an address literal with its brackets.
type Domain string

// Address is a mailbox address. The zero Address is the null reverse-path,
// "<>". The address of a postmaster without a domain has an empty Domain.
//
// Two addresses are the same mailbox address when they are equal as Go values,
// but for the letter case of the local-part, which only the directory judges.
type Address struct {
	Local  LocalPart
	Domain Domain
}

// Limits of RFC 5321 section 4.5.3.1. A local-part may be longer than its own
// limit where the whole address still makes a path: the section asks not to
// insist, and the senders of forwarders and bulk mailers are.
const (
	MaxLocalPartOctets = 64
	MaxDomainOctets    = 255
	MaxPathOctets      = 256
)

// maxLongLocalPart is what a path of one label's domain leaves a local-part.
const maxLongLocalPart = MaxPathOctets - len("<@x>")

// Postmaster is the one forward-path that needs no domain (RFC 5321 section 4.5.1).
const Postmaster LocalPart = "postmaster"

var (
	errAddressEmpty     = errors.New("empty address")
	errAddressUTF8      = errors.New("address needs SMTPUTF8")
	errAddressSyntax    = errors.New("malformed address")
	errAddressLong      = errors.New("address too long")
	errAddressNoDomain  = errors.New("address has no domain")
	errDomainSyntax     = errors.New("malformed domain")
	errLiteralSyntax    = errors.New("malformed address literal")
	errAddressControl   = errors.New("control character in address")
	errAddressNotUTF8   = errors.New("address is not valid UTF-8")
	errLocalPartUnquote = errors.New("malformed quoted string in local-part")
)

// IsNull reports whether a is the null reverse-path.
func (a Address) IsNull() bool { return a == Address{} }

// IsPostmaster reports whether a is "postmaster" without a domain, in any case.
func (a Address) IsPostmaster() bool {
	return a.Domain == "" && strings.EqualFold(string(a.Local), string(Postmaster))
}

// IsASCII reports whether a can be sent without SMTPUTF8 (RFC 6531).
func (a Address) IsASCII() bool {
	for i := 0; i < len(a.Local); i++ {
		if a.Local[i] >= utf8.RuneSelf {
			return false
		}
	}
	return true
}

// String returns the address as it goes onto the wire, without angle brackets:
// the local-part quoted where RFC 5321 asks for it, so that no local-part can
// ever be read as anything else by the next hop.
func (a Address) String() string {
	if a.IsNull() {
		return ""
	}
	if a.Domain == "" {
		return a.Local.String()
	}
	return a.Local.String() + "@" + string(a.Domain)
}

// Path returns the address in angle brackets; "<>" for the null reverse-path.
func (a Address) Path() string { return "<" + a.String() + ">" }

// MarshalText encodes the address for configuration, queue and audit records.
func (a Address) MarshalText() ([]byte, error) { return []byte(a.String()), nil }

// UnmarshalText reads what MarshalText wrote.
func (a *Address) UnmarshalText(text []byte) error {
	if len(text) == 0 {
		*a = Address{}
		return nil
	}
	if v, err := ParseAddress(string(text)); err == nil {
		*a = v
		return nil
	}
	local, err := parseLocalPart(string(text))
	if err != nil {
		return err
	}
	*a = Address{Local: local}
	return nil
}

// Fold returns the address with its local-part in lower case: the key under
// which directories and tables look an address up.
func (a Address) Fold() Address {
	return Address{Local: LocalPart(strings.ToLower(string(a.Local))), Domain: a.Domain}
}

// IsLiteral reports whether d is an address literal, "[192.0.2.1]".
func (d Domain) IsLiteral() bool { return strings.HasPrefix(string(d), "[") }

// String returns the local-part as it goes onto the wire, quoted where a
// dot-string cannot hold it.
func (l LocalPart) String() string {
	if isDotString(string(l)) {
		return string(l)
	}
	var b strings.Builder
	b.WriteByte('"')
	for i := 0; i < len(l); i++ {
		if l[i] == '"' || l[i] == '\\' {
			b.WriteByte('\\')
		}
		b.WriteByte(l[i])
	}
	b.WriteByte('"')
	return b.String()
}

// ParseAddress reads "local-part@domain" without angle brackets, quoted
// local-parts included. Octets above 127 are taken as UTF-8. It is for
// directory values, configuration and command lines; the wire reads paths
// with ParsePath.
func ParseAddress(s string) (Address, error) {
	a, err := parseMailbox(s)
	if err != nil {
		return Address{}, fmt.Errorf("%w: %q", err, s)
	}
	return a, nil
}

// MustAddress is ParseAddress for constants and tests; it panics on error.
func MustAddress(s string) Address {
	a, err := ParseAddress(s)
	if err != nil {
		panic(err)
	}
	return a
}

// ParsePath reads the path at the start of s, in angle brackets, and returns
// what follows it. A source route is accepted and dropped (RFC 5321 appendix
// F.2). The empty path gives the null Address; "<postmaster>" gives an Address
// without a domain. Without utf8Allowed an octet above 127 is an error.
func ParsePath(s string, utf8Allowed bool) (a Address, rest string, err error) {
	return ParsePathIn("", s, utf8Allowed)
}

// ParsePathIn is ParsePath for who may leave the domain out: a local-part that
// stands alone, but for "<postmaster>", gets the domain origin. Without origin
// it is an error.
func ParsePathIn(origin Domain, s string, utf8Allowed bool) (a Address, rest string, err error) {
	if !strings.HasPrefix(s, "<") {
		return Address{}, s, fmt.Errorf("%w: path without angle brackets", errAddressSyntax)
	}
	end := pathEnd(s)
	if end < 0 {
		return Address{}, s, fmt.Errorf("%w: path is not closed", errAddressSyntax)
	}
	inner, rest := s[1:end], s[end+1:]
	if inner == "" {
		return Address{}, rest, nil
	}
	if len(inner) > MaxPathOctets*2 {
		return Address{}, rest, errAddressLong
	}
	if !utf8Allowed && !isASCII(inner) {
		return Address{}, rest, errAddressUTF8
	}
	if inner, err = dropSourceRoute(inner); err != nil {
		return Address{}, rest, err
	}
	if strings.EqualFold(inner, string(Postmaster)) {
		return Address{Local: LocalPart(inner)}, rest, nil
	}
	a, err = parseMailbox(inner)
	if origin != "" && errors.Is(err, errAddressNoDomain) {
		a, err = parseMailbox(inner + "@" + string(origin))
	}
	return a, rest, err
}

// ParseDomain returns the canonical form of a domain or address literal.
func ParseDomain(s string) (Domain, error) {
	if strings.HasPrefix(s, "[") {
		return parseLiteral(s)
	}
	s = strings.TrimSuffix(s, ".")
	if s == "" || len(s) > MaxDomainOctets {
		return "", fmt.Errorf("%w: %q", errDomainSyntax, s)
	}
	ascii := s
	if !isASCII(s) {
		var err error
		if ascii, err = idna.Lookup.ToASCII(s); err != nil {
			return "", fmt.Errorf("%w: %q", errDomainSyntax, s)
		}
	}
	if len(ascii) > MaxDomainOctets || !isDomainName(ascii) {
		return "", fmt.Errorf("%w: %q", errDomainSyntax, s)
	}
	return Domain(strings.ToLower(ascii)), nil
}

// pathEnd finds the closing bracket of a path, jumping over quoted strings.
func pathEnd(s string) int {
	quoted := false
	for i := 1; i < len(s); i++ {
		switch c := s[i]; {
		case quoted && c == '\\':
			i++
		case c == '"':
			quoted = !quoted
		case !quoted && c == '>':
			return i
		case !quoted && (c == ' ' || c == '<'):
			return -1
		}
	}
	return -1
}

func dropSourceRoute(s string) (string, error) {
	if !strings.HasPrefix(s, "@") {
		return s, nil
	}
	route, rest, found := strings.Cut(s, ":")
	if !found {
		return "", fmt.Errorf("%w: source route without a mailbox", errAddressSyntax)
	}
	for _, hop := range strings.Split(route, ",") {
		domain, ok := strings.CutPrefix(hop, "@")
		if !ok {
			return "", fmt.Errorf("%w: source route", errAddressSyntax)
		}
		if _, err := ParseDomain(domain); err != nil {
			return "", err
		}
	}
	return rest, nil
}

func parseMailbox(s string) (Address, error) {
	if s == "" {
		return Address{}, errAddressEmpty
	}
	if !utf8.ValidString(s) {
		return Address{}, errAddressNotUTF8
	}
	at := mailboxAt(s)
	if at < 0 {
		return Address{}, errAddressNoDomain
	}
	local, err := parseLocalPart(s[:at])
	if err != nil {
		return Address{}, err
	}
	domain, err := ParseDomain(s[at+1:])
	if err != nil {
		return Address{}, err
	}
	a := Address{Local: local, Domain: domain}
	if len(local) > MaxLocalPartOctets && len(a.Path()) > MaxPathOctets {
		return Address{}, errAddressLong
	}
	return a, nil
}

// mailboxAt finds the at-sign that ends the local-part: the first one outside
// quotes. A second one makes the domain malformed, so there is no way to
// smuggle another address in.
func mailboxAt(s string) int {
	if !strings.HasPrefix(s, `"`) {
		return strings.IndexByte(s, '@')
	}
	for i := 1; i < len(s); i++ {
		switch s[i] {
		case '\\':
			i++
		case '"':
			if i+1 < len(s) && s[i+1] == '@' {
				return i + 1
			}
			return -1
		}
	}
	return -1
}

func parseLocalPart(s string) (LocalPart, error) {
	if len(s) > maxLongLocalPart*2 {
		return "", errAddressLong
	}
	for i := 0; i < len(s); i++ {
		if s[i] < ' ' || s[i] == 0x7f {
			return "", errAddressControl
		}
	}
	local := s
	if strings.HasPrefix(s, `"`) {
		unquoted, err := unquote(s)
		if err != nil {
			return "", err
		}
		local = unquoted
	} else if !isDotString(s) {
		return "", errAddressSyntax
	}
	switch {
	case local == "":
		// Two quotes. Nobody has such an address, and elsewhere a domain
		// without a local-part stands for everybody in it.
		return "", errAddressSyntax
	case len(local) > maxLongLocalPart:
		return "", errAddressLong
	}
	return LocalPart(local), nil
}

func unquote(s string) (string, error) {
	if len(s) < 2 || s[len(s)-1] != '"' {
		return "", errLocalPartUnquote
	}
	var b strings.Builder
	for i := 1; i < len(s)-1; i++ {
		c := s[i]
		if c == '"' {
			return "", errLocalPartUnquote
		}
		if c == '\\' {
			i++
			if i == len(s)-1 {
				return "", errLocalPartUnquote
			}
			c = s[i]
		}
		b.WriteByte(c)
	}
	return b.String(), nil
}

// isDotString reports whether s is a Dot-string of RFC 5321, or of RFC 6531
// with its UTF-8 atoms. Like the servers in the field it lets a local-part
// have leading, trailing or double dots only inside quotes.
func isDotString(s string) bool {
	if s == "" || s[0] == '.' || s[len(s)-1] == '.' {
		return false
	}
	for i := 0; i < len(s); i++ {
		c := s[i]
		if c == '.' && s[i-1] == '.' {
			return false
		}
		if c < utf8.RuneSelf && c != '.' && !isAtext(c) {
			return false
		}
	}
	return true
}

func isAtext(c byte) bool {
	return c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' ||
		strings.IndexByte("!#$%&'*+-/=?^_`{|}~", c) >= 0
}

func isDomainName(s string) bool {
	for _, label := range strings.Split(s, ".") {
		if label == "" || len(label) > 63 || label[0] == '-' || label[len(label)-1] == '-' {
			return false
		}
		for i := 0; i < len(label); i++ {
			c := label[i]
			if !(c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || c == '-' || c == '_') {
				return false
			}
		}
	}
	return true
}

func parseLiteral(s string) (Domain, error) {
	inner, ok := strings.CutSuffix(strings.TrimPrefix(s, "["), "]")
	if !ok {
		return "", fmt.Errorf("%w: %q", errLiteralSyntax, s)
	}
	v6 := len(inner) > 5 && strings.EqualFold(inner[:5], "ipv6:")
	if v6 {
		inner = inner[5:]
	}
	ip, err := netip.ParseAddr(inner)
	if err != nil || ip.Is6() != v6 || ip.Zone() != "" {
		return "", fmt.Errorf("%w: %q", errLiteralSyntax, s)
	}
	if v6 {
		return Domain("[IPv6:" + ip.String() + "]"), nil
	}
	return Domain("[" + ip.String() + "]"), nil
}

func isASCII(s string) bool {
	for i := 0; i < len(s); i++ {
		if s[i] >= utf8.RuneSelf {
			return false
		}
	}
	return true
}
