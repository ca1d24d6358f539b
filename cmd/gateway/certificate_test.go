package main

import (
	"crypto/rand"
	"crypto/rsa"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/postern-mail/postern/config"
	"github.com/postern-mail/postern/internal/testenv"
)

// writeRSA writes a self-signed RSA certificate for a name.
func writeRSA(t *testing.T, dir, name string) (certFile, keyFile string) {
	t.Helper()
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	must(t, err)
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "rsa"}, DNSNames: []string{name},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	must(t, err)
	private, err := x509.MarshalPKCS8PrivateKey(key)
	must(t, err)
	certFile, keyFile = filepath.Join(dir, "rsa.pem"), filepath.Join(dir, "rsa.key")
	must(t, os.WriteFile(certFile, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), 0o600))
	must(t, os.WriteFile(keyFile, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: private}), 0o600))
	return certFile, keyFile
}

// TestSeveralCertificates: each client is shown the one that fits it.
func TestSeveralCertificates(t *testing.T) {
	t.Parallel()
	dir := testenv.TempDir(t)
	ca := testenv.NewCA(t)
	first, firstKey := ca.Issue("mail.example.com").WriteFiles(t, dir, "first")
	second, secondKey := ca.Issue("mail.example.net", "*.example.org").WriteFiles(t, dir, "second")
	old, oldKey := writeRSA(t, dir, "mail.example.com")
	text := strings.Replace(standard, `{{.Dir}}/cert.pem"`, first+`"
  certificate {
    cert_file = "`+second+`"
    key_file  = "`+secondKey+`"
  }
  certificate {
    cert_file = "`+old+`"
    key_file  = "`+oldKey+`"
  }`, 1)
	s := newSite(t, strings.Replace(text, "{{.Dir}}/key.pem", firstKey, 1), nil)
	f, err := config.Load(s.Config)
	must(t, err)
	server, err := certificate(f.TLS)
	must(t, err)
	for _, row := range []struct {
		name, asked, want string
		rsaOnly           bool
	}{
		{"first name", "mail.example.com", "mail.example.com", false},
		{"another name", "mail.example.net", "mail.example.net", false},
		{"wildcard", "x.example.org", "mail.example.net", false},
		{"unknown name", "elsewhere.example", "mail.example.com", false},
		{"no name", "", "mail.example.com", false},
		{"no ECDSA", "mail.example.com", "rsa", true},
	} {
		client := &tls.Config{ServerName: row.asked, InsecureSkipVerify: true}
		if row.rsaOnly {
			client.MaxVersion = tls.VersionTLS12
			client.CipherSuites = []uint16{tls.TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256}
		}
		if got := shown(t, server, client); got != row.want {
			t.Errorf("%s: shown %s, want %s", row.name, got, row.want)
		}
	}
	must(t, os.Remove(oldKey))
	if _, err := config.Load(s.Config); err == nil || !strings.Contains(err.Error(), "rsa.key") {
		t.Errorf("a key that is not there: %v", err)
	}
}

// shown returns what the certificate is for that a server shows a client.
func shown(t *testing.T, server, client *tls.Config) string {
	t.Helper()
	a, b := net.Pipe()
	defer a.Close()
	go func() {
		defer b.Close()
		_ = tls.Server(b, server).Handshake() // the client tells
	}()
	conn := tls.Client(a, client)
	must(t, conn.Handshake())
	leaf := conn.ConnectionState().PeerCertificates[0]
	if leaf.Subject.CommonName == "rsa" {
		return "rsa"
	}
	return leaf.DNSNames[0]
}
