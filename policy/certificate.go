package policy

import (
	"context"
	"crypto/sha1"
	"crypto/sha256"
	"crypto/sha512"
	"crypto/x509"
	"fmt"
	"iter"
	"slices"
	"strings"

	"github.com/postern-mail/postern/mail"
	"github.com/postern-mail/postern/table"
)

// fingerprints says how certificates are turned into keys: the digests of the
// whole certificate and of its public key, as Postfix writes them
// ("0A:1B:..."), in an order.
type fingerprints struct {
	digest func([]byte) []byte
	order  []string
}

const (
	byCertificate = "cert_fingerprint"
	byPublicKey   = "pubkey_fingerprint"
)

// digests are those that lists of fingerprints are made with. SHA-1 is for lists
// that exist.
var digests = map[string]func([]byte) []byte{
	"sha256": func(b []byte) []byte { s := sha256.Sum256(b); return s[:] },
	"sha512": func(b []byte) []byte { s := sha512.Sum512(b); return s[:] },
	"sha1":   func(b []byte) []byte { s := sha1.Sum(b); return s[:] },
}

// of yields the keys of a certificate.
func (f fingerprints) of(c *x509.Certificate) iter.Seq[string] {
	return func(yield func(string) bool) {
		for _, by := range f.order {
			octets := c.Raw
			if by == byPublicKey {
				octets = c.RawSubjectPublicKeyInfo
			}
			if !yield(hexPairs(f.digest(octets))) {
				return
			}
		}
	}
}

func hexPairs(b []byte) string {
	return strings.ReplaceAll(fmt.Sprintf("% X", b), " ", ":")
}

// parseFingerprints reads the attributes digest and search_order. first is the
// order where none is given.
func (b *builder) parseFingerprints(spec Spec, first ...string) fingerprints {
	f := fingerprints{digest: digests["sha256"], order: first}
	if name := strings.ToLower(strings.Join(spec.Args["digest"], " ")); name != "" {
		if f.digest = digests[name]; f.digest == nil {
			b.mistake(spec.Pos, fmt.Sprintf("digest of %s is %q", spec.Name, name), "use sha256, sha512 or sha1; make MD5 fingerprints anew")
			f.digest = digests["sha256"]
		}
	}
	if given, ok := spec.Args["search_order"]; ok {
		f.order = given
		for _, by := range given {
			if by != byCertificate && by != byPublicKey {
				b.mistake(spec.Pos, fmt.Sprintf("search_order of %s has %q", spec.Name, by), "use "+byCertificate+" and "+byPublicKey)
			}
		}
	}
	return f
}

// shownCertificate is the certificate of the client, or nil. Nothing is said
// of whether it can be trusted: whoever knows its fingerprint knows its owner.
func shownCertificate(client *mail.Client) *x509.Certificate {
	if client.TLS == nil || client.TLS.Connection == nil || len(client.TLS.Connection.PeerCertificates) == 0 {
		return nil
	}
	return client.TLS.Connection.PeerCertificates[0]
}

// isVerified reports whether the client's certificate leads to an authority of
// ours.
func isVerified(client *mail.Client) bool {
	tls := client.TLS
	return tls != nil && (tls.PeerCN != "" || tls.Connection != nil && len(tls.Connection.VerifiedChains) > 0)
}

// permitVerified is permit_tls_all_clientcerts.
func permitVerified(tx *mail.Transaction) mail.Verdict { return permitted(isVerified(&tx.Client)) }

// knownCertificates is permit_tls_clientcerts: a certificate whose subject is
// listed and that was verified, or whose fingerprint is in a table.
type knownCertificates struct {
	name     string
	subjects []string // none: any that was verified, unless there is a table
	table    table.Opened
	keys     fingerprints
}

// makeCertificates makes permit_tls_clientcerts.
func makeCertificates(b *builder, _ scope, name string, spec Spec) Stage {
	k := knownCertificates{name: name, subjects: spec.Args["subjects"], keys: b.parseFingerprints(spec, byPublicKey, byCertificate)}
	tables, given := spec.Args["table"]
	if !given {
		return k
	}
	if len(tables) != 1 {
		b.mistake(spec.Pos, name+" takes one table", `write table = "/etc/postern/relay_clientcerts"`)
		return k
	}
	opened, err := b.chain.opener.Open(tables[0], table.Use{})
	if err != nil {
		b.mistakes = append(b.mistakes, asMistakes(spec.Pos, err)...)
		return k
	}
	b.chain.watched = append(b.chain.watched, opened)
	k.table = opened
	return k
}

// Name returns the restriction's name.
func (k knownCertificates) Name() string { return k.name }

// Evaluate permits who shows a certificate that is known.
func (k knownCertificates) Evaluate(ctx context.Context, tx *mail.Transaction) (mail.Verdict, error) {
	if isVerified(&tx.Client) {
		anyone := len(k.subjects) == 0 && k.table == nil
		if anyone || slices.Contains(k.subjects, tx.Client.TLS.PeerCN) {
			return permitted(true), nil
		}
	}
	shown := shownCertificate(&tx.Client)
	if k.table == nil || shown == nil {
		return mail.Verdict{}, nil
	}
	for key := range k.keys.of(shown) {
		found, _, _, err := table.Find(ctx, []table.Opened{k.table}, key, only(strings.ToLower(key)))
		if err != nil {
			return mail.Verdict{}, fmt.Errorf("table %s: %s: %w", k.table.Name(), key, err)
		}
		if len(found) > 0 {
			return permitted(true), nil
		}
	}
	return mail.Verdict{}, nil
}
