package signing

import (
	"crypto/ed25519"
	"crypto/x509"
	"encoding/base64"
	"strings"

	"github.com/postern-mail/postern/policy/mailauth/dkim"
)

// Record returns the key record of a key, for the DNS.
func Record(key *dkim.Key) string {
	if public, ok := key.Public().(ed25519.PublicKey); ok {
		return "v=DKIM1; k=ed25519; p=" + base64.StdEncoding.EncodeToString(public)
	}
	octets, err := x509.MarshalPKIXPublicKey(key.Public())
	if err != nil {
		panic("RSA key cannot be written: " + err.Error()) // NewKey lets no other in
	}
	return "v=DKIM1; k=rsa; p=" + base64.StdEncoding.EncodeToString(octets)
}

// maxString is the longest string of a TXT record (RFC 1035 section 3.3).
const maxString = 255

// ZoneRecord returns a record as a zone file has it: in strings of at most 255
// octets, which the DNS joins.
func ZoneRecord(name, text string) string {
	var b strings.Builder
	b.WriteString(name + ". IN TXT (")
	for len(text) > 0 {
		n := min(len(text), maxString)
		b.WriteString("\n\t\"" + text[:n] + "\"")
		text = text[n:]
	}
	b.WriteString(" )")
	return b.String()
}
