package dkim

import (
	"context"
	"crypto"
	"crypto/ed25519"
	"crypto/rsa"
	"crypto/x509"
	"encoding/base64"
	"errors"
	"maps"
	"os"
	"strings"
	"sync"
	"testing"

	"github.com/postern-mail/postern/internal/dns"
	"github.com/postern-mail/postern/mail"
)

// split cuts a message with CRLF line ends into fields and body.
func split(message string) (fields []mail.Field, body string) {
	header, body, _ := strings.Cut(message, "\r\n\r\n")
	for line := range strings.SplitSeq(header, "\r\n") {
		if len(fields) > 0 && line != "" && (line[0] == ' ' || line[0] == '\t') {
			fields[len(fields)-1] += mail.Field("\r\n" + line)
			continue
		}
		if line != "" {
			fields = append(fields, mail.Field(line))
		}
	}
	return fields, body
}

func readMessage(t testing.TB, name string) (fields []mail.Field, body string) {
	t.Helper()
	text, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	return split(strings.ReplaceAll(string(text), "\n", "\r\n"))
}

// zone is a DNS in memory.
type zone map[string][]string

var errDown = errors.New("server failure")

func (z zone) TXT(_ context.Context, name string) (dns.Answer[string], error) {
	texts, ok := z[name]
	switch {
	case ok && len(texts) == 1 && texts[0] == "DOWN":
		return dns.Answer[string]{}, errDown
	case !ok:
		return dns.Answer[string]{Outcome: dns.NXDomain}, nil
	}
	return dns.Answer[string]{Records: texts}, nil
}

func (z zone) with(name string, texts ...string) zone {
	out := maps.Clone(z)
	out[name] = texts
	return out
}

const rfcKey = "v=DKIM1; p=MIGfMA0GCSqGSIb3DQEBAQUAA4GNADCBiQ" +
	"KBgQDwIRP/UC3SBsEmGqZ9ZJW3/DkMoGeLnQg1fWn7/zYt" +
	"IxN2SnFCjxOCKG9v3b4jYfcTNh5ijSsq631uBItLa7od+v" +
	"/RtdC2UzJ1lWT947qR+Rcac2gbto/NMqJ0fzfVjH4OuKhi" +
	"tdY9tf6mcwGjaNBcWToIMmPSPDdQPNUYckcQ2QIDAQAB"

const rfcOtherKey = "v=DKIM1; k=rsa; p=MIGfMA0GCSqGSIb3DQEBAQUAA4GNADCBiQKBgQDkHlOQoBTzWR" +
	"iGs5V6NpP3idY6Wk08a5qhdR6wy5bdOKb2jLQiY/J16JYi0Qvx/b" +
	"yYzCNb3W91y3FutACDfzwQ/BC/e/8uBsCR+yz1Lxj+PL6lHvqMKrM3rG4hstT5QjvHO9Pzo" +
	"xZyVYLzBfO2EeC3Ip3G+2kryOTIKT+l/K4w3QIDAQAB"

var rfcZone = zone{
	"brisbane._domainkey.example.com":          {rfcKey},
	"test._domainkey.football.example.com":     {rfcOtherKey},
	"brisbane._domainkey.football.example.com": {"v=DKIM1; k=ed25519; p=11qYAYKxCrfVS/7TyWQHOg7hcvPapiMlrwIaaPcHURo="},
}

// The keys of the tests. The small one is made by hand: the library makes none.
var (
	rsaKey = sync.OnceValue(func() *rsa.PrivateKey { return newRSA(2048) })
	edKey  = sync.OnceValue(func() ed25519.PrivateKey {
		return ed25519.NewKeyFromSeed([]byte(strings.Repeat("postern ", 4)))
	})
)

func newRSA(bits int) *rsa.PrivateKey {
	key, err := rsa.GenerateKey(nil, bits)
	if err != nil {
		panic(err)
	}
	return key
}

func recordOf(t testing.TB, key crypto.Signer) string {
	t.Helper()
	if public, ok := key.Public().(ed25519.PublicKey); ok {
		return "v=DKIM1; k=ed25519; p=" + base64.StdEncoding.EncodeToString(public)
	}
	octets, err := x509.MarshalPKIXPublicKey(key.Public())
	if err != nil {
		t.Fatal(err)
	}
	return "v=DKIM1; k=rsa; p=" + base64.StdEncoding.EncodeToString(octets)
}

func newKey(t testing.TB, domain, selector string, private crypto.Signer) *Key {
	t.Helper()
	key, err := NewKey(domain, selector, private)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func newSigner(t testing.TB, opts Options) *Signer {
	t.Helper()
	s, err := NewSigner(opts)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func base64Of(octets []byte) string { return base64.StdEncoding.EncodeToString(octets) }
