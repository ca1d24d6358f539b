package tlspolicy

import (
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
)

// Level is how much is asked of a connection. Names and meaning are those of
// Postfix's smtp_tls_security_level.
type Level string

// The levels.
const (
	// None never asks for TLS.
	None Level = "none"
	// May takes STARTTLS when offered, with any certificate, and goes on in
	// the clear when the handshake fails.
	May Level = "may"
	// Encrypt requires TLS with any certificate.
	Encrypt Level = "encrypt"
	// DANE requires what the TLSA records of the host say, TLS with any
	// certificate when it has none that can be used, and is May when the host
	// has none at all or is not in a signed zone.
	DANE Level = "dane"
	// DANEOnly is DANE for hosts with TLSA records that can be used; the
	// others get no mail.
	DANEOnly Level = "dane-only"
	// Fingerprint requires a certificate or public key with a given digest.
	Fingerprint Level = "fingerprint"
	// Verify requires a trusted certificate with the name of the host. The
	// name comes from the DNS, so that is as safe as the DNS.
	Verify Level = "verify"
	// Secure requires a trusted certificate with the name of the next hop, or
	// below it, whatever the DNS says about its hosts.
	Secure Level = "secure"
)

// Levels lists all levels, for documents and checks.
func Levels() []Level {
	return []Level{None, May, Encrypt, DANE, DANEOnly, Fingerprint, Verify, Secure}
}

// The names in Match that stand for others.
const (
	MatchHostname   = "hostname"    // the MX host
	MatchNextHop    = "nexthop"     // the domain, or the host of a relay
	MatchDotNextHop = "dot-nexthop" // any name below it
)

// Rule is what the operator wants for a destination. The zero Rule is May.
type Rule struct {
	// Level is the level, "" for May.
	Level Level
	// Match holds, for Verify and Secure, the names of which the certificate
	// must have one: "hostname", "nexthop", "dot-nexthop", a name, or
	// ".example.com" for any name below it. None means hostname for Verify,
	// nexthop and dot-nexthop for Secure. For Fingerprint it holds the SHA-256
	// digests, in hexadecimal with or without colons, of which the
	// certificate or its public key must have one.
	Match []string
	// CAFile holds the trusted certificates in PEM, "" means the system's.
	CAFile string
	// ServerName is sent as SNI and takes the place of the host's name in
	// matching; "" means the host's name.
	ServerName string
	// MTASTS asks for the destination's MTA-STS policy where Level is May,
	// Encrypt or DANE, and keeps to it when it is stricter.
	MTASTS bool
}

// rule is a Rule that was checked and made ready.
type rule struct {
	Rule
	digests [][sha256.Size]byte
	roots   *x509.CertPool // nil for the system's
}

var errRule = errors.New("TLS policy")

// prepare checks a rule and reads its file.
func (r Rule) prepare() (rule, error) {
	p := rule{Rule: r}
	if p.Level == "" {
		p.Level = May
	}
	if !slices.Contains(Levels(), p.Level) {
		return p, fmt.Errorf("%w: unknown level %q", errRule, r.Level)
	}
	var err error
	switch p.Level {
	case Fingerprint:
		p.digests, err = digests(r.Match)
	case Verify, Secure:
		p.Match, err = names(r.Match)
	default:
		if len(r.Match) > 0 {
			err = fmt.Errorf("%w: level %s matches nothing", errRule, p.Level)
		}
	}
	if err != nil {
		return p, err
	}
	if len(p.Match) == 0 && p.Level == Verify {
		p.Match = []string{MatchHostname}
	}
	if len(p.Match) == 0 && p.Level == Secure {
		p.Match = []string{MatchNextHop, MatchDotNextHop}
	}
	if r.CAFile != "" {
		pem, err := os.ReadFile(r.CAFile)
		if err != nil {
			return p, fmt.Errorf("%w: %w", errRule, err)
		}
		p.roots = x509.NewCertPool()
		if !p.roots.AppendCertsFromPEM(pem) {
			return p, fmt.Errorf("%w: no certificates in %s", errRule, r.CAFile)
		}
	}
	return p, nil
}

func digests(texts []string) ([][sha256.Size]byte, error) {
	if len(texts) == 0 {
		return nil, fmt.Errorf("%w: level fingerprint without a digest to match; name one or more in match", errRule)
	}
	var all [][sha256.Size]byte
	for _, text := range texts {
		octets, err := hex.DecodeString(strings.ReplaceAll(text, ":", ""))
		if err != nil || len(octets) != sha256.Size {
			return nil, fmt.Errorf("%w: %q is not a SHA-256 digest in hexadecimal", errRule, text)
		}
		all = append(all, [sha256.Size]byte(octets))
	}
	return all, nil
}

// names checks names to match and writes them as certificates do.
func names(texts []string) ([]string, error) {
	var all []string
	for _, text := range texts {
		name, err := normal(text)
		if err != nil || strings.Trim(name, ".") == "" || strings.ContainsAny(name, " *@[]/:") {
			return nil, fmt.Errorf("%w: %q is not a name to match", errRule, text)
		}
		all = append(all, name)
	}
	return all, nil
}

// names returns what the certificate may be called: Match with its words
// replaced.
func (r rule) names(host, nextHop string) []string {
	var names []string
	for _, m := range r.Match {
		switch m {
		case MatchHostname:
			m = host
			if r.ServerName != "" {
				m = r.ServerName
			}
		case MatchNextHop:
			m = nextHop
		case MatchDotNextHop:
			m = "." + nextHop
		}
		names = append(names, strings.ToLower(m))
	}
	return names
}
