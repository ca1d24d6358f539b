package smtpd

import (
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"fmt"
	"path/filepath"
	"strings"
	"testing"

	"github.com/postern-mail/postern/internal/testenv"
)

// cast is who else takes part in the replay: the holders of client certificates,
// by name, and what scenes call their files and fingerprints.
type cast struct {
	certificates map[string]tls.Certificate
	authority    *testenv.CA
	variables    []string // name, value, name, value...
}

// newCast issues certificates: "verified" and "partner" of the authority that
// both servers know, "foreign" and "stranger" of another one. $CERT_NAME and
// $KEY_NAME are their fingerprints, $CA the authority's file.
func newCast(t *testing.T, dir string) *cast {
	t.Helper()
	c := &cast{certificates: map[string]tls.Certificate{"none": {}}, authority: testenv.NewCA(t)}
	other := testenv.NewCA(t)
	for name, by := range map[string]*testenv.CA{"verified": c.authority, "partner": c.authority, "foreign": other, "stranger": other} {
		issued := by.Issue(name + ".example").TLS(t)
		leaf, err := x509.ParseCertificate(issued.Certificate[0])
		if err != nil {
			t.Fatal(err)
		}
		c.certificates[name] = issued
		c.variables = append(c.variables, "$CERT_"+strings.ToUpper(name), fingerprint(leaf.Raw), "$KEY_"+strings.ToUpper(name), fingerprint(leaf.RawSubjectPublicKeyInfo))
	}
	c.variables = append(c.variables, "$CA", c.authority.WriteFile(dir))
	return c
}

func fingerprint(octets []byte) string {
	return strings.ReplaceAll(fmt.Sprintf("% X", sha256.Sum256(octets)), " ", ":")
}

// fill replaces the variables of a scene whose files lie in dir.
func (c *cast) fill(text, dir string) string {
	return strings.NewReplacer(append([]string{"$DIR", dir}, c.variables...)...).Replace(text)
}

// serverTLS is for our server: every client is asked for a certificate.
func (c *cast) serverTLS(t *testing.T) *tls.Config {
	return &tls.Config{
		Certificates: []tls.Certificate{c.authority.Issue("localhost", "127.0.0.1").TLS(t)},
		ClientAuth:   tls.RequestClientCert, ClientCAs: c.authority.Pool(),
	}
}

// withAuth is how Postfix asks the server whose users are alice and bob.
func withAuth(t *testing.T) []string {
	t.Helper()
	d := testenv.Dovecot(t, "alice", "bob")
	return []string{"smtpd_sasl_type = dovecot", "smtpd_sasl_path = " + filepath.Clean(d.Auth)}
}

// secure begins TLS where the server is ready for it, with a certificate of the
// cast.
func (p *peer) secure(certificate string) string {
	p.say("STARTTLS")
	reply := p.reply()
	if !strings.HasPrefix(reply, "220") {
		return reply
	}
	shown := p.cast.certificates[certificate]
	// Whether the server is the right one is nothing that the replay asks, nor
	// whose certificates the server says it knows.
	conn := tls.Client(p.conn, &tls.Config{InsecureSkipVerify: true, GetClientCertificate: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
		return &shown, nil
	}})
	if err := conn.Handshake(); err != nil {
		return "handshake: " + err.Error() + " / closed"
	}
	p.conn = conn
	p.in.Reset(conn)
	return reply
}

// plain is AUTH PLAIN of "LOGIN PASSWORD".
func plainAuth(who string) string {
	login, password, given := strings.Cut(who, " ")
	if !given {
		password = "secret"
	}
	return "AUTH PLAIN " + base64.StdEncoding.EncodeToString([]byte("\x00"+login+"\x00"+password))
}
