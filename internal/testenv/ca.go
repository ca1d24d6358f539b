package testenv

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"
)

// CA is a certification authority of one test.
type CA struct {
	t    testing.TB
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
	pem  []byte
}

// NewCA returns an authority that nobody else trusts.
func NewCA(t testing.TB) *CA {
	t.Helper()
	key := newKey(t)
	template := &x509.Certificate{
		SerialNumber:          newSerial(t),
		Subject:               pkix.Name{CommonName: "Test authority of " + t.Name()},
		NotBefore:             time.Now().Add(-time.Hour),
		NotAfter:              time.Now().Add(24 * time.Hour),
		IsCA:                  true,
		BasicConstraintsValid: true,
		KeyUsage:              x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return &CA{t: t, cert: cert, key: key, pem: pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})}
}

// Certificate is a certificate with its key, in PEM.
type Certificate struct {
	CertPEM, KeyPEM []byte
}

// Issue returns a certificate for names, host names or IP addresses, that is
// valid now. A certificate for other names serves as the wrong one.
func (ca *CA) Issue(names ...string) Certificate {
	ca.t.Helper()
	return ca.issue(time.Now().Add(-time.Hour), time.Now().Add(24*time.Hour), names, nil)
}

// IssueTo returns a certificate that is valid now and that edit, which gets its
// template, has made somebody's: a person's, with a subject and addresses.
func (ca *CA) IssueTo(edit func(template *x509.Certificate)) Certificate {
	ca.t.Helper()
	return ca.issue(time.Now().Add(-time.Hour), time.Now().Add(24*time.Hour), nil, edit)
}

// IssueExpired returns a certificate for names that ended an hour ago.
func (ca *CA) IssueExpired(names ...string) Certificate {
	ca.t.Helper()
	return ca.issue(time.Now().Add(-48*time.Hour), time.Now().Add(-time.Hour), names, nil)
}

func (ca *CA) issue(from, until time.Time, names []string, edit func(*x509.Certificate)) Certificate {
	ca.t.Helper()
	key := newKey(ca.t)
	template := &x509.Certificate{
		SerialNumber: newSerial(ca.t),
		Subject:      pkix.Name{CommonName: "test"},
		NotBefore:    from,
		NotAfter:     until,
		KeyUsage:     x509.KeyUsageDigitalSignature,
		ExtKeyUsage:  []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
	for _, name := range names {
		if ip := net.ParseIP(name); ip != nil {
			template.IPAddresses = append(template.IPAddresses, ip)
		} else {
			template.DNSNames = append(template.DNSNames, name)
		}
	}
	if edit != nil {
		edit(template)
	}
	der, err := x509.CreateCertificate(rand.Reader, template, ca.cert, &key.PublicKey, ca.key)
	if err != nil {
		ca.t.Fatal(err)
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		ca.t.Fatal(err)
	}
	return Certificate{
		CertPEM: pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}),
		KeyPEM:  pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: keyDER}),
	}
}

// PEM returns the authority's own certificate.
func (ca *CA) PEM() []byte { return ca.pem }

// Pool returns a pool that trusts the authority alone.
func (ca *CA) Pool() *x509.CertPool {
	pool := x509.NewCertPool()
	pool.AddCert(ca.cert)
	return pool
}

// WriteFile writes the authority's certificate into dir and returns its path.
func (ca *CA) WriteFile(dir string) string {
	ca.t.Helper()
	return writeFile(ca.t, filepath.Join(dir, "ca.pem"), ca.pem, 0o644)
}

// WriteFiles writes the certificate and its key into dir as name.pem and
// name.key and returns the paths.
func (c Certificate) WriteFiles(t testing.TB, dir, name string) (certFile, keyFile string) {
	t.Helper()
	return writeFile(t, filepath.Join(dir, name+".pem"), c.CertPEM, 0o644),
		writeFile(t, filepath.Join(dir, name+".key"), c.KeyPEM, 0o600)
}

// TLS returns the certificate as a server of this process uses it.
func (c Certificate) TLS(t testing.TB) tls.Certificate {
	t.Helper()
	pair, err := tls.X509KeyPair(c.CertPEM, c.KeyPEM)
	if err != nil {
		t.Fatal(err)
	}
	return pair
}

func writeFile(t testing.TB, path string, content []byte, mode os.FileMode) string {
	t.Helper()
	if err := os.WriteFile(path, content, mode); err != nil {
		t.Fatal(err)
	}
	return path
}

func newKey(t testing.TB) *ecdsa.PrivateKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func newSerial(t testing.TB) *big.Int {
	t.Helper()
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 120))
	if err != nil {
		t.Fatal(err)
	}
	return serial
}
