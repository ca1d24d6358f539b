package dkim

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"
	"time"

	"github.com/postern-mail/postern/mail"
)

// Config is how strict a Verifier is and how much it does for one message.
type Config struct {
	// MaxSignatures is how many signatures of a message are verified, the
	// topmost first; the rest are PermError. 0 is 8.
	MaxSignatures int
	// MinRSABits is the smallest RSA key that is believed; 0, and what is
	// below it, is 1024 (RFC 8301 section 3.2).
	MinRSABits int
	// RefusePartial makes Policy of a signature that leaves an end of the body
	// uncovered by l=, to which anybody may have added.
	RefusePartial bool
	// LookupTimeout bounds the search for all keys of a message; 0 is 10
	// seconds.
	LookupTimeout time.Duration
	// Thorough looks at the body even when the header is known to be changed,
	// to tell people all that is wrong.
	Thorough bool
}

func (c Config) withDefaults() Config {
	if c.MaxSignatures <= 0 {
		c.MaxSignatures = 8
	}
	c.MinRSABits = max(c.MinRSABits, 1024)
	if c.LookupTimeout <= 0 {
		c.LookupTimeout = 10 * time.Second
	}
	return c
}

// Verifier verifies the signatures of messages. It may be used concurrently.
type Verifier struct {
	cfg      Config
	resolver Resolver
}

// NewVerifier returns a Verifier that asks a resolver for keys.
func NewVerifier(cfg Config, resolver Resolver) *Verifier {
	return &Verifier{cfg: cfg.withDefaults(), resolver: resolver}
}

// SignatureField is the name of the field, in lower case.
const SignatureField = "dkim-signature"

// Verify verifies the signatures of a message: its header fields, the topmost
// first and without what we wrote ourselves, and its body with CRLF line ends,
// which is read at most once and only if a signature is worth it. There is one
// Verification for each DKIM-Signature field, in their order; none for a
// message without. The error is the body's: the results then are worth
// nothing. What the DNS does not tell is TempError and no error.
func (v *Verifier) Verify(ctx context.Context, fields []mail.Field, body io.Reader) ([]Verification, error) {
	var all []Verification
	for i, f := range fields {
		if !f.Is(SignatureField) {
			continue
		}
		if len(all) >= v.cfg.MaxSignatures {
			if len(all) >= v.cfg.MaxSignatures+maxReported {
				break
			}
			all = append(all, Verification{Field: i, Result: PermError, Signature: &Signature{},
				Reason: "the message has too many signatures; this one was not looked at"})
			continue
		}
		all = append(all, v.begin(i, f))
	}
	if len(all) == 0 {
		return nil, nil
	}
	v.findKeys(ctx, all)
	header := NewHeader(fields)
	hasher := &BodyHasher{}
	numbers := make([]int, len(all))
	for i := range all {
		numbers[i] = -1
		if all[i].Result == "" && v.checkHeader(&all[i], header) {
			numbers[i] = hasher.Want(all[i].Signature.BodyCanon, all[i].Signature.BodyLimit)
		}
	}
	if len(hasher.wanted) > 0 {
		if _, err := hasher.ReadFrom(body); err != nil {
			hasher.Close()
			return nil, fmt.Errorf("read the message: %w", err)
		}
		hasher.Close()
	}
	for i := range all {
		if all[i].Result == "" {
			v.conclude(&all[i], header, hasher, numbers[i])
		}
	}
	return all, nil
}

// maxReported bounds the signatures that are reported without being verified.
const maxReported = 8

// begin reads a signature. It leaves Result empty when that is still open.
func (v *Verifier) begin(at int, f mail.Field) Verification {
	s, err := ParseSignature(f.Value())
	out := Verification{Field: at, Signature: s}
	switch {
	case err == nil:
	case errors.As(err, &missing{}):
		out.is(PermError, err.Error())
	default:
		out.is(Neutral, err.Error())
	}
	return out
}

// findKeys asks for the keys of all signatures at once, each name once.
func (v *Verifier) findKeys(ctx context.Context, all []Verification) {
	type answer struct {
		keys []*PublicKey
		err  error
	}
	ctx, cancel := context.WithTimeout(ctx, v.cfg.LookupTimeout)
	defer cancel()
	answers := make(map[string]*answer, len(all))
	var asking sync.WaitGroup
	for i := range all {
		s := all[i].Signature
		name := RecordName(s.Selector, s.Domain)
		if all[i].Result != "" || answers[name] != nil {
			continue
		}
		a := &answer{}
		answers[name] = a
		asking.Go(func() { a.keys, a.err = LookUpKeys(ctx, v.resolver, s.Selector, s.Domain) })
	}
	asking.Wait()
	for i := range all {
		if all[i].Result != "" {
			continue
		}
		a := answers[RecordName(all[i].Signature.Selector, all[i].Signature.Domain)]
		var outage *Outage
		switch {
		case errors.As(a.err, &outage):
			all[i].is(TempError, "the key cannot be looked up now")
		case a.err != nil:
			all[i].is(PermError, a.err.Error())
		default:
			all[i].Signature.keys = a.keys
		}
	}
}

// checkHeader verifies the header's half of a signature with each of its keys.
// It reports whether the body is worth looking at.
func (v *Verifier) checkHeader(out *Verification, header *Header) bool {
	s := out.Signature
	var usable []*PublicKey
	for _, key := range s.keys {
		out.Key = key
		if out.is(v.usable(s, key)); out.Result == "" {
			usable = append(usable, key)
		}
	}
	if len(usable) == 0 {
		return false
	}
	out.is("", "")
	digest := s.HeaderDigest(header, out.Field, s.tags)
	for _, key := range usable {
		out.Key = key
		if out.HeaderIntact = key.Verify(digest, s.Value); out.HeaderIntact {
			break
		}
	}
	out.Testing = out.Key.Testing
	return out.HeaderIntact || v.cfg.Thorough
}

// usable tells whether a key may verify a signature.
func (v *Verifier) usable(s *Signature, key *PublicKey) (Result, string) {
	if key.Strict && s.identityDomain() != s.Domain {
		return PermError, "the key is for i= of exactly its domain"
	}
	return key.Fits(s.Algorithm, v.cfg.MinRSABits)
}

// HeaderDigest hashes the fields that a signature covers and the signature
// itself, which stands at index at and has the tags given, without its b=
// (RFC 6376 section 3.7).
func (s *Signature) HeaderDigest(header *Header, at int, tags Tags) [sha256.Size]byte {
	buffer := buffers.Get().(*[]byte)
	data := header.AppendNamed((*buffer)[:0], s.Headers, s.HeaderCanon, at)
	data = AppendField(data, unsigned(header.fields[at], tags), s.HeaderCanon)
	digest := sha256.Sum256(data)
	keep(buffer, data)
	return digest
}

// unsigned is a field of tags without its b=.
func unsigned(f mail.Field, tags Tags) string {
	name, _, _ := strings.Cut(string(f), ":")
	return name + ":" + tags.Without("b")
}

// buffers keeps memory for canonical headers.
var buffers = sync.Pool{New: func() any { b := make([]byte, 0, 8<<10); return &b }}

// keep gives a buffer back, unless it grew out of the ordinary.
func keep(buffer *[]byte, data []byte) {
	if cap(data) <= 256<<10 {
		*buffer = data
		buffers.Put(buffer)
	}
}

// conclude decides a signature whose header and body have been looked at.
func (v *Verifier) conclude(out *Verification, header *Header, body *BodyHasher, number int) {
	s := out.Signature
	shorter := false
	if number >= 0 {
		sum := body.Sum(number)
		out.BodyIntact = bytes.Equal(sum[:], s.BodyHash)
		if s.BodyLimit != WholeBody {
			out.UnsignedOctets = max(0, body.Octets(s.BodyCanon)-s.BodyLimit)
			shorter = body.Octets(s.BodyCanon) < s.BodyLimit
		}
	}
	twice := s.UncoveredTwin(header)
	switch {
	case !out.HeaderIntact:
		out.is(Fail, "the signature does not fit the header: a signed field was changed, added or removed, or the key is another")
	case shorter:
		out.is(Fail, "the body is shorter than what was signed")
	case !out.BodyIntact:
		out.is(Fail, "the body was changed")
	case !s.Expires.IsZero() && time.Now().After(s.Expires):
		out.is(Policy, "the signature expired")
	case twice != "":
		out.is(Policy, "the message has more "+twice+" fields than are signed")
	case out.UnsignedOctets > 0 && v.cfg.RefusePartial:
		out.is(Policy, fmt.Sprintf("%d octets at the end of the body are not signed", out.UnsignedOctets))
	case out.UnsignedOctets > 0:
		out.is(Pass, fmt.Sprintf("%d octets at the end of the body are not signed", out.UnsignedOctets))
	default:
		out.is(Pass, "")
	}
	if out.Testing && out.Result == Fail {
		out.is(Neutral, out.Reason+" (the domain only tests DKIM)")
	}
}

// once are the fields that a message has once (RFC 5322 section 3.6 and RFC
// 2045). A second one that is not signed may be what people are shown (RFC
// 6376 section 8.15).
var once = [...]string{
	"from", "sender", "reply-to", "to", "cc", "subject", "date", "message-id", "in-reply-to", "references",
	"mime-version", "content-type", "content-transfer-encoding",
}

// UncoveredTwin names a field of those that messages have once which is signed
// but stands there more often; "" when there is none.
func (s *Signature) UncoveredTwin(header *Header) string {
	for _, name := range once {
		if count := header.Count(name); count > 1 {
			if signed := s.timesNamed(name); signed > 0 && signed < count {
				return name
			}
		}
	}
	return ""
}
