package dkim

import (
	"errors"
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"
)

// Algorithm is how a signature was made, as a= names it.
type Algorithm string

// The algorithms that are verified (RFC 8301, RFC 8463). "rsa-sha1" is known
// and refused.
const (
	RSASHA256     Algorithm = "rsa-sha256"
	Ed25519SHA256 Algorithm = "ed25519-sha256"
	rsaSHA1       Algorithm = "rsa-sha1"
)

// KeyType returns which keys the algorithm takes.
func (a Algorithm) KeyType() KeyType {
	if a == Ed25519SHA256 {
		return Ed25519
	}
	return RSA
}

// Signature is what a DKIM-Signature field says (RFC 6376 section 3.5).
type Signature struct {
	Algorithm Algorithm
	Domain    string // d=, in lower case
	Selector  string // s=, in lower case
	// Identity is i=, the agent or user on whose behalf the domain signs;
	// "@" and the domain when not given.
	Identity string
	// HeaderCanon and BodyCanon are c=.
	HeaderCanon, BodyCanon Canon
	// Headers are the names of h=, in lower case and as often as given.
	Headers []string
	// BodyLimit is l=, or WholeBody.
	BodyLimit int64
	// Signed and Expires are t= and x=; zero when not given.
	Signed, Expires time.Time
	BodyHash        []byte // bh=
	Value           []byte // b=, decoded
	// Text is b= as written, without white space.
	Text string

	tags Tags
	keys []*PublicKey // under Verify
}

// malformed is a signature field that cannot be understood; missing one that
// lacks what it needs, or contradicts itself. RFC 8601 has different results
// for them.
type (
	malformed struct{ error }
	missing   struct{ error }
)

func malformedf(format string, args ...any) error { return malformed{fmt.Errorf(format, args...)} }
func missingf(format string, args ...any) error   { return missing{fmt.Errorf(format, args...)} }

// Limits of one signature.
const (
	maxSignatureOctets = 16 << 10
	maxNames           = 500 // in h=
)

// ParseSignature reads the value of a DKIM-Signature field. What it returns
// beside an error is what could be read, for the report.
func ParseSignature(value string) (*Signature, error) {
	s := &Signature{BodyLimit: WholeBody}
	if len(value) > maxSignatureOctets {
		return s, malformedf("the signature is longer than %d octets", maxSignatureOctets)
	}
	tags, err := ParseTags(value)
	if err != nil {
		return s, malformed{err}
	}
	s.tags = tags
	s.readNames()
	return s, s.read()
}

// readNames reads what a report names, whatever else is wrong.
func (s *Signature) readNames() {
	domain, _ := s.tags.Get("d")
	selector, _ := s.tags.Get("s")
	algorithm, _ := s.tags.Get("a")
	text, _ := s.tags.Get("b")
	s.Domain, s.Selector = strings.ToLower(domain), strings.ToLower(selector)
	s.Algorithm = Algorithm(strings.ToLower(algorithm))
	s.Text = withoutFWS(text)
	s.Identity = "@" + s.Domain
}

func (s *Signature) read() error {
	for _, name := range []string{"v", "a", "b", "bh", "d", "h", "s"} {
		if value, ok := s.tags.Get(name); !ok {
			return missingf("the signature has no %s=", name)
		} else if value == "" {
			return malformedf("%s= of the signature is empty", name)
		}
	}
	if version, _ := s.tags.Get("v"); version != "1" {
		return malformedf("version %q of signatures is unknown", shorten(version))
	}
	if !IsDomain(s.Domain) || !IsSelector(s.Selector) {
		return malformedf("d= or s= of the signature is no name")
	}
	if err := s.readCommon(s.tags); err != nil {
		return err
	}
	if s.Algorithm == rsaSHA1 {
		return missingf("rsa-sha1 proves nothing any more (RFC 8301)")
	}
	if s.Algorithm != RSASHA256 && s.Algorithm != Ed25519SHA256 {
		return malformedf("algorithm %q is unknown", shorten(string(s.Algorithm)))
	}
	if err := s.readIdentity(); err != nil {
		return err
	}
	if !s.Covers("from") {
		return missingf("the signature does not cover From")
	}
	if query, ok := s.tags.Get("q"); ok && !strings.Contains(":"+withoutFWS(strings.ToLower(query))+":", ":dns/txt:") {
		return missingf("keys of method %q are unknown", shorten(query))
	}
	return nil
}

// FromTags reads the tags that signatures of messages share in DKIM and ARC: a,
// b, bh, c, d, h, l, s, t and x. What else they need, and what those may hold, is
// for the caller to see.
func FromTags(tags Tags) (*Signature, error) {
	s := &Signature{BodyLimit: WholeBody, tags: tags}
	s.readNames()
	return s, s.readCommon(tags)
}

func (s *Signature) readCommon(tags Tags) error {
	var err error
	if s.Value, err = decode64(s.Text); err != nil || len(s.Value) == 0 {
		return malformedf("b= of the signature is not base64")
	}
	hash, _ := tags.Get("bh")
	if s.BodyHash, err = decode64(withoutFWS(hash)); err != nil {
		return malformedf("bh= of the signature is not base64")
	}
	if err := s.readCanons(tags); err != nil {
		return err
	}
	names, _ := tags.Get("h")
	if s.Headers, err = parseNames(names); err != nil {
		return malformed{err}
	}
	if limit, ok := tags.Get("l"); ok {
		if s.BodyLimit, err = parseNumber(limit); err != nil {
			return malformedf("l= of the signature is %w", err)
		}
	}
	if s.Signed, err = parseTime(tags, "t"); err != nil {
		return err
	}
	if s.Expires, err = parseTime(tags, "x"); err != nil {
		return err
	}
	if !s.Signed.IsZero() && !s.Expires.IsZero() && s.Expires.Before(s.Signed) {
		return malformedf("the signature expires before it was made")
	}
	return nil
}

func (s *Signature) readCanons(tags Tags) error {
	text, ok := tags.Get("c")
	if !ok {
		return nil
	}
	header, body, both := strings.Cut(text, "/")
	known := true
	if s.HeaderCanon, known = parseCanon(trimFWS(header)); known && both {
		s.BodyCanon, known = parseCanon(trimFWS(body))
	}
	if !known {
		return malformedf("canonicalization %q is unknown", shorten(text))
	}
	return nil
}

// parseNames reads h=.
func parseNames(list string) ([]string, error) {
	if strings.Count(list, ":") >= maxNames {
		return nil, fmt.Errorf("h= of the signature has more than %d names", maxNames)
	}
	names := make([]string, 0, strings.Count(list, ":")+1)
	for name := range strings.SplitSeq(list, ":") {
		if name = trimFWS(name); name != "" {
			names = append(names, strings.ToLower(name))
		}
	}
	return names, nil
}

// parseNumber reads at most 76 digits; what is larger than an int64 counts as
// the largest one.
func parseNumber(digits string) (int64, error) {
	if digits == "" || len(digits) > 76 || strings.Trim(digits, "0123456789") != "" {
		return 0, errors.New("no number")
	}
	n, err := strconv.ParseInt(digits, 10, 64)
	if err != nil {
		return math.MaxInt64, nil
	}
	return n, nil
}

func parseTime(tags Tags, name string) (time.Time, error) {
	text, ok := tags.Get(name)
	if !ok {
		return time.Time{}, nil
	}
	seconds, err := parseNumber(text)
	if err != nil || len(text) > 12 {
		return time.Time{}, malformedf("%s= of the signature is no time", name)
	}
	return time.Unix(seconds, 0), nil
}

// readIdentity reads i=, whose domain must be d= or below it. Domains are
// alike in any case of letters.
func (s *Signature) readIdentity() error {
	identity, ok := s.tags.Get("i")
	if !ok {
		return nil
	}
	s.Identity = identity
	at := strings.LastIndexByte(identity, '@')
	if at < 0 {
		return malformedf("i= of the signature is no address")
	}
	if !IsWithin(strings.ToLower(trimFWS(identity[at+1:])), s.Domain) {
		return missingf("i= of the signature is not within its domain")
	}
	return nil
}

// identityDomain is what stands after the @ of i=, in lower case.
func (s *Signature) identityDomain() string {
	return strings.ToLower(trimFWS(s.Identity[strings.LastIndexByte(s.Identity, '@')+1:]))
}

// Covers tells whether h= names a field, in lower case.
func (s *Signature) Covers(name string) bool { return s.timesNamed(name) > 0 }

func (s *Signature) timesNamed(name string) int {
	n := 0
	for _, named := range s.Headers {
		if named == name {
			n++
		}
	}
	return n
}

// IsWithin tells whether a domain is another or below it. Both are in lower
// case.
func IsWithin(domain, parent string) bool {
	rest, ok := strings.CutSuffix(domain, parent)
	return ok && parent != "" && (rest == "" || strings.HasSuffix(rest, "."))
}

// maxNameOctets is the DNS's.
const maxNameOctets = 253

// IsDomain tells whether a name in lower case can be asked for in the DNS as
// the domain of a signature: at least two labels of letters, digits, hyphens,
// underscores or UTF-8.
func IsDomain(name string) bool { return strings.Contains(name, ".") && IsSelector(name) }

// IsSelector tells whether a name in lower case can be a selector: one label or more.
func IsSelector(name string) bool {
	if name == "" || len(name) > maxNameOctets {
		return false
	}
	for label := range strings.SplitSeq(name, ".") {
		if label == "" || len(label) > 63 {
			return false
		}
		for i := range len(label) {
			c := label[i]
			if c < 0x80 && c != '-' && c != '_' && (c < '0' || c > '9') && (c < 'a' || c > 'z') {
				return false
			}
		}
	}
	return true
}
