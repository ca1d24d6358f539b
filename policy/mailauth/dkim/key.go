package dkim

import (
	"context"
	"crypto"
	"crypto/ed25519"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"errors"
	"fmt"
	"slices"
	"strings"

	"golang.org/x/net/idna"

	"github.com/postern-mail/postern/internal/dns"
)

// Resolver asks the DNS for the texts of a name, each with its strings joined;
// *dns.Resolver is one. An error means that it could not find out. It is called
// concurrently.
type Resolver interface {
	TXT(ctx context.Context, name string) (dns.Answer[string], error)
}

// KeyType is the algorithm of a public key, as k= names it.
type KeyType string

// The types of keys.
const (
	RSA     KeyType = "rsa"
	Ed25519 KeyType = "ed25519"
)

// PublicKey is a key record (RFC 6376 section 3.6.1).
type PublicKey struct {
	Type KeyType
	// Bits is the size of the modulus of an RSA key; 256 for Ed25519.
	Bits int
	// Hashes are those that the record allows (h=); none allows all.
	Hashes []string
	// Services are those it is for (s=); none is for all.
	Services []string
	// Testing is the flag "y": the domain only tries DKIM.
	Testing bool
	// Strict is the flag "s": the domain of i= must be that of d=.
	Strict bool
	// Notes is what the record says to people.
	Notes string

	key crypto.PublicKey // *rsa.PublicKey or ed25519.PublicKey
}

// Errors about key records.
var (
	// ErrRevoked is a record with an empty p=.
	ErrRevoked = errors.New("the key is revoked")
	// ErrNoKey is a name without a key record.
	ErrNoKey = errors.New("no key in the DNS")
)

const (
	maxRecordOctets = 16 << 10
	// MaxKeyBits bounds the RSA keys that are used: to verify with one costs
	// the square of its size.
	MaxKeyBits = 8192
)

// ParseKey reads a key record. Tags it does not know are left alone.
func ParseKey(record string) (*PublicKey, error) {
	if len(record) > maxRecordOctets {
		return nil, errors.New("key record is too long")
	}
	tags, err := parseTags(record, true)
	if err != nil {
		return nil, fmt.Errorf("key record: %w", err)
	}
	if version, ok := tags.Get("v"); ok && (version != "DKIM1" || tags.list[0].name != "v") {
		return nil, errors.New("key record is not of version DKIM1")
	}
	key := &PublicKey{Type: RSA}
	if kind, ok := tags.Get("k"); ok {
		key.Type = KeyType(strings.ToLower(kind))
	}
	if hashes, ok := tags.Get("h"); ok {
		key.Hashes = words(hashes)
	}
	if services, ok := tags.Get("s"); ok {
		key.Services = words(services)
	}
	if flags, ok := tags.Get("t"); ok {
		key.Testing = slices.Contains(words(flags), "y")
		key.Strict = slices.Contains(words(flags), "s")
	}
	key.Notes, _ = tags.Get("n")
	data, ok := tags.Get("p")
	if !ok {
		return nil, errors.New("key record has no p=")
	}
	if data = withoutFWS(data); data == "" {
		return nil, ErrRevoked
	}
	octets, err := decode64(data)
	if err != nil {
		return nil, errors.New("p= of the key record is not base64")
	}
	return key, key.setKey(octets)
}

func (k *PublicKey) setKey(octets []byte) error {
	switch k.Type {
	case RSA:
		key, err := parseRSA(octets)
		if err != nil {
			return err
		}
		k.key, k.Bits = key, key.N.BitLen()
	case Ed25519:
		if len(octets) != ed25519.PublicKeySize {
			return errors.New("p= of the key record is no Ed25519 key")
		}
		k.key, k.Bits = ed25519.PublicKey(octets), 8*ed25519.PublicKeySize
	default:
		return fmt.Errorf("key of unknown type %q", shorten(string(k.Type)))
	}
	return nil
}

// parseRSA takes a SubjectPublicKeyInfo, as everybody publishes, and a bare
// RSAPublicKey, as RFC 6376 section 3.6.1 can be read.
func parseRSA(octets []byte) (*rsa.PublicKey, error) {
	if key, err := x509.ParsePKIXPublicKey(octets); err == nil {
		if key, ok := key.(*rsa.PublicKey); ok {
			return key, nil
		}
		return nil, errors.New("p= of the key record is a key, but none for RSA")
	}
	key, err := x509.ParsePKCS1PublicKey(octets)
	if err != nil {
		return nil, errors.New("p= of the key record is no RSA key")
	}
	return key, nil
}

// words splits a list with colons, in lower case, without empty words.
func words(list string) []string {
	var out []string
	for word := range strings.SplitSeq(list, ":") {
		if word = strings.ToLower(trimFWS(word)); word != "" {
			out = append(out, word)
		}
	}
	return out
}

// decode64 takes base64 with or without padding.
func decode64(text string) ([]byte, error) {
	text = strings.TrimRight(text, "=")
	return base64.RawStdEncoding.DecodeString(text)
}

// allowsMail tells whether the key may sign mail.
func (k *PublicKey) allowsMail() bool {
	return len(k.Services) == 0 || slices.Contains(k.Services, "*") || slices.Contains(k.Services, "email")
}

func (k *PublicKey) allowsHash(name string) bool {
	return len(k.Hashes) == 0 || slices.Contains(k.Hashes, name)
}

// Fits tells whether a key may verify signatures of mail by an algorithm: "" and
// no reason when it may.
func (k *PublicKey) Fits(a Algorithm, minRSABits int) (Result, string) {
	switch {
	case k.Type != a.KeyType():
		return PermError, "the key is not for the algorithm of the signature"
	case !k.allowsHash("sha256"):
		return PermError, "the key is not for SHA-256"
	case !k.allowsMail():
		return PermError, "the key is not for mail"
	case k.Type == RSA && k.Bits < minRSABits:
		return Policy, "the " + k.keyNote() + " is too short"
	case k.Type == RSA && k.Bits > MaxKeyBits:
		return Policy, "the " + k.keyNote() + " is too long"
	}
	return "", ""
}

// Verify tells whether a signature of a SHA-256 digest is the key's.
func (k *PublicKey) Verify(digest [sha256.Size]byte, signature []byte) bool {
	switch key := k.key.(type) {
	case *rsa.PublicKey:
		return rsa.VerifyPKCS1v15(key, crypto.SHA256, digest[:], signature) == nil
	case ed25519.PublicKey:
		return ed25519.Verify(key, digest[:], signature)
	}
	return false
}

// Equal tells whether a record holds the public half of a key.
func (k *PublicKey) Equal(other crypto.PublicKey) bool {
	key, ok := k.key.(interface{ Equal(crypto.PublicKey) bool })
	return ok && key.Equal(other)
}

// RecordName is where the key of a selector stands in the DNS.
func RecordName(selector, domain string) string { return selector + "._domainkey." + domain }

// maxKeys bounds the records at one name that are tried.
const maxKeys = 4

// LookUpKeys asks for the keys of a selector. More than one is a mistake of
// their owner that RFC 6376 section 3.6.2.2 leaves open: all are returned, up
// to four. A record that cannot be used is passed over when there is another.
// The error is ErrNoKey, ErrRevoked or another certainty about the record; an
// outage is an *Outage.
func LookUpKeys(ctx context.Context, resolver Resolver, selector, domain string) ([]*PublicKey, error) {
	answer, err := resolver.TXT(ctx, RecordName(ascii(selector), ascii(domain)))
	if err != nil {
		return nil, &Outage{err}
	}
	var keys []*PublicKey
	bad := ErrNoKey
	for _, text := range answer.Records[:min(len(answer.Records), maxKeys)] {
		key, err := ParseKey(text)
		if err != nil {
			bad = err
			continue
		}
		keys = append(keys, key)
	}
	if len(keys) == 0 {
		return nil, bad
	}
	return keys, nil
}

// ascii puts a name in the form the DNS has it in (RFC 8616 section 4). A name
// that has none is asked for as it is, and not found.
func ascii(name string) string {
	for i := range len(name) {
		if name[i] >= 0x80 {
			if converted, err := idna.Lookup.ToASCII(name); err == nil {
				return converted
			}
			break
		}
	}
	return name
}

// Outage is a failure to learn a key: nothing is known of it.
type Outage struct{ Err error }

// Error describes the failure.
func (o *Outage) Error() string { return fmt.Sprintf("key cannot be looked up: %v", o.Err) }

// Unwrap returns the resolver's error.
func (o *Outage) Unwrap() error { return o.Err }
