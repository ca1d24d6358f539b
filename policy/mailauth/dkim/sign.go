package dkim

import (
	"crypto"
	"crypto/ed25519"
	"crypto/rsa"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/postern-mail/postern/mail"
)

// Key is a private key that signs for a domain. It may be used concurrently.
type Key struct {
	Domain, Selector string // in lower case
	Algorithm        Algorithm
	private          crypto.Signer // *rsa.PrivateKey or ed25519.PrivateKey
}

// NewKey returns a key that signs for a domain under a selector.
func NewKey(domain, selector string, private crypto.Signer) (*Key, error) {
	k := &Key{Domain: strings.ToLower(domain), Selector: strings.ToLower(selector), private: private}
	if !IsDomain(k.Domain) {
		return nil, fmt.Errorf("%q is no domain that can sign", domain)
	}
	if !IsSelector(k.Selector) {
		return nil, fmt.Errorf("%q is no selector: use letters, digits and hyphens", selector)
	}
	switch private := private.(type) {
	case *rsa.PrivateKey:
		if bits := private.N.BitLen(); bits < 1024 || bits > MaxKeyBits {
			return nil, fmt.Errorf("RSA key has %d bits, which nobody accepts: use 2048", bits)
		}
		k.Algorithm = RSASHA256
		private.Precompute()
	case ed25519.PrivateKey:
		k.Algorithm = Ed25519SHA256
	default:
		return nil, fmt.Errorf("key of type %T: DKIM knows RSA and Ed25519", private)
	}
	return k, nil
}

// Public returns the key's public half.
func (k *Key) Public() crypto.PublicKey { return k.private.Public() }

// Sign signs a SHA-256 digest; the signature is in base64.
func (k *Key) Sign(digest [sha256.Size]byte) (string, error) {
	var value []byte
	switch private := k.private.(type) {
	case *rsa.PrivateKey:
		var err error
		if value, err = rsa.SignPKCS1v15(nil, private, crypto.SHA256, digest[:]); err != nil {
			return "", fmt.Errorf("sign with %s: %w", RecordName(k.Selector, k.Domain), err)
		}
	case ed25519.PrivateKey:
		value = ed25519.Sign(private, digest[:])
	}
	return base64.StdEncoding.EncodeToString(value), nil
}

// Options are what is signed of a message, and how.
type Options struct {
	// Headers are the fields that are signed where a message has them; nil is
	// DefaultHeaders. From is signed always.
	Headers []string
	// Oversigned are those of them that are signed once more than they are
	// there, so that nobody can add one; nil is DefaultOversigned.
	Oversigned []string
	// SimpleHeader and SimpleBody ask for the simple canonicalization, instead
	// of the relaxed one, which survives what servers on the way do.
	SimpleHeader, SimpleBody bool
	// Validity is how long a signature holds (x=); 0 is for ever.
	Validity time.Duration
}

// DefaultHeaders returns the fields that carry what a message says to people
// and programs (RFC 6376 section 5.4.1).
func DefaultHeaders() []string {
	return []string{
		"from", "sender", "reply-to", "to", "cc", "subject", "date", "message-id", "in-reply-to", "references",
		"mime-version", "content-type", "content-transfer-encoding", "content-id", "content-description",
		"resent-date", "resent-from", "resent-sender", "resent-to", "resent-cc", "resent-message-id",
		"list-id", "list-help", "list-subscribe", "list-unsubscribe", "list-unsubscribe-post", "list-owner",
		"list-archive", "list-post", "auto-submitted", "autocrypt", "feedback-id",
		"tls-report-domain", "tls-report-submitter", "tls-required",
	}
}

// DefaultOversigned returns the fields that change what people see of a
// message when one is added. Those that mailing lists add are not among them.
func DefaultOversigned() []string {
	return []string{
		"from", "reply-to", "to", "cc", "subject", "date", "message-id",
		"mime-version", "content-type", "content-transfer-encoding",
	}
}

// unsignable are fields that servers on the way add, change or remove.
var unsignable = []string{
	"return-path", "received", "received-spf", "delivered-to", "x-original-to", "bcc", "resent-bcc",
	"authentication-results", SignatureField, "arc-seal", "arc-message-signature", "arc-authentication-results",
}

// Check reports fields that cannot be signed, and oversigned ones that are not
// among the signed.
func (o Options) Check() error {
	o = o.withDefaults()
	for _, name := range o.Headers {
		if slices.Contains(unsignable, name) {
			return fmt.Errorf("header field %q cannot be signed: it changes on the way", name)
		}
		if name == "" || strings.ContainsAny(name, ": \t\r\n;") {
			return fmt.Errorf("%q is no name of a header field", name)
		}
	}
	for _, name := range o.Oversigned {
		if !slices.Contains(o.Headers, name) {
			return fmt.Errorf("header field %q is oversigned, but not signed: add it to the signed ones", name)
		}
	}
	if o.Validity < 0 {
		return errors.New("signatures cannot expire before they are made")
	}
	return nil
}

func (o Options) withDefaults() Options {
	if o.Headers == nil {
		o.Headers = DefaultHeaders()
	}
	if o.Oversigned == nil {
		o.Oversigned = DefaultOversigned()
	}
	o.Headers, o.Oversigned = lowerAll(o.Headers), lowerAll(o.Oversigned)
	if !slices.Contains(o.Headers, "from") {
		o.Headers = slices.Insert(o.Headers, 0, "from")
	}
	return o
}

func lowerAll(names []string) []string {
	out := make([]string, len(names))
	for i, name := range names {
		out[i] = strings.ToLower(strings.TrimSpace(name))
	}
	return out
}

// Signer makes signatures. It may be used concurrently.
type Signer struct {
	opts         Options
	over         map[string]bool
	header, body Canon
}

// NewSigner returns a Signer, or what Check finds wrong.
func NewSigner(opts Options) (*Signer, error) {
	if err := opts.Check(); err != nil {
		return nil, err
	}
	s := &Signer{opts: opts.withDefaults(), over: make(map[string]bool), header: Relaxed, body: Relaxed}
	if opts.SimpleHeader {
		s.header = Simple
	}
	if opts.SimpleBody {
		s.body = Simple
	}
	for _, name := range s.opts.Oversigned {
		s.over[name] = true
	}
	return s, nil
}

// Errors about messages that cannot be signed.
var (
	ErrNoFrom  = errors.New("the message has no From field, which every signature must cover")
	ErrTooMany = errors.New("the message has too many header fields to sign")
)

// Names returns h= for a message: each field that is signed as often as the
// message has it, and once more if it is oversigned.
func (s *Signer) Names(header *Header) ([]string, error) {
	if header.Count("from") == 0 {
		return nil, ErrNoFrom
	}
	names := make([]string, 0, 2*len(s.opts.Oversigned))
	for _, name := range s.opts.Headers {
		n := header.Count(name)
		if s.over[name] {
			n++
		}
		if len(names)+n > maxNames {
			return nil, ErrTooMany
		}
		for range n {
			names = append(names, name)
		}
	}
	return names, nil
}

// Sign returns a DKIM-Signature field for each key, the first to stand
// uppermost. The body is read once. identity is i=, an address or "@" and a
// domain, which a key's domain must be or stand above; "" leaves it out. Nothing
// of the message may change after it, but for fields that are not signed.
func (s *Signer) Sign(fields []mail.Field, body io.Reader, identity string, keys ...*Key) ([]mail.Field, error) {
	header := NewHeader(fields)
	names, err := s.Names(header)
	if err != nil {
		return nil, err
	}
	hasher := &BodyHasher{}
	number := hasher.Want(s.body, WholeBody)
	_, err = hasher.ReadFrom(body)
	hasher.Close()
	if err != nil {
		return nil, fmt.Errorf("read the message: %w", err)
	}
	bodyHash := hasher.Sum(number)
	buffer := buffers.Get().(*[]byte)
	signed := header.AppendNamed((*buffer)[:0], names, s.header, -1)
	defer func() { keep(buffer, signed) }()
	out, now := make([]mail.Field, 0, len(keys)), time.Now()
	for _, key := range keys {
		field := s.draft(key, names, identity, bodyHash, now)
		all := AppendField(signed[:len(signed):cap(signed)], field.With("b=", ""), s.header)
		value, err := key.Sign(sha256.Sum256(all))
		if err != nil {
			return nil, err
		}
		out = append(out, mail.Field(field.With("b=", value)))
	}
	return out, nil
}

// draft writes a signature field up to its last tag, "b=".
func (s *Signer) draft(key *Key, names []string, identity string, bodyHash [sha256.Size]byte, now time.Time) *Folder {
	f := NewFolder("DKIM-Signature:")
	f.Add("v=1;")
	f.Add("a=" + string(key.Algorithm) + ";")
	f.Add("c=" + s.header.String() + "/" + s.body.String() + ";")
	f.Add("d=" + key.Domain + ";")
	f.Add("s=" + key.Selector + ";")
	if identity != "" {
		f.Add("i=" + quoteIdentity(identity) + ";")
	}
	f.Add("t=" + strconv.FormatInt(now.Unix(), 10) + ";")
	if s.opts.Validity > 0 {
		f.Add("x=" + strconv.FormatInt(now.Add(s.opts.Validity).Unix(), 10) + ";")
	}
	f.Names("h=", names)
	f.Add("bh=" + base64.StdEncoding.EncodeToString(bodyHash[:]) + ";")
	return f
}

// quoteIdentity puts what may not stand in a tag's value into the form of
// dkim-quoted-printable (RFC 6376 section 2.11).
func quoteIdentity(identity string) string {
	var b strings.Builder
	for i := range len(identity) {
		if c := identity[i]; c <= ' ' || c == ';' || c == '=' || c == 0x7f {
			fmt.Fprintf(&b, "=%02X", c)
		} else {
			b.WriteByte(c)
		}
	}
	return b.String()
}
