package link

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"math/big"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/postern-mail/postern/internal/fsx"
)

// Pin is the SHA-256 digest of a public key, as a certificate holds it
// (SubjectPublicKeyInfo): it stays when the certificate is renewed with its key.
type Pin [sha256.Size]byte

const pinPrefix = "sha256:"

// String returns the pin as configurations hold it.
func (p Pin) String() string { return pinPrefix + hex.EncodeToString(p[:]) }

// ParsePin reads a pin; colons between its digits do no harm.
func ParsePin(text string) (Pin, error) {
	digits := strings.ReplaceAll(strings.TrimPrefix(strings.ToLower(strings.TrimSpace(text)), pinPrefix), ":", "")
	b, err := hex.DecodeString(digits)
	if err != nil || len(b) != len(Pin{}) {
		return Pin{}, fmt.Errorf("%q is no pin: that is %s and 64 hexadecimal digits; the partner prints its own by: postern replica pin", text, pinPrefix)
	}
	return Pin(b), nil
}

// PinOf returns a certificate's pin.
func PinOf(c tls.Certificate) (Pin, error) {
	if len(c.Certificate) == 0 {
		return Pin{}, errors.New("no certificate")
	}
	leaf, err := x509.ParseCertificate(c.Certificate[0])
	if err != nil {
		return Pin{}, err
	}
	return pinOf(leaf), nil
}

func pinOf(c *x509.Certificate) Pin { return sha256.Sum256(c.RawSubjectPublicKeyInfo) }

// NewSecret returns a secret of 256 bits in a line of text.
func NewSecret() string {
	var b [sha256.Size]byte
	if _, err := rand.Read(b[:]); err != nil {
		panic(err) // documented never to happen
	}
	return base64.RawURLEncoding.EncodeToString(b[:])
}

// ReadSecret reads the first line of a file.
func ReadSecret(name string) ([]byte, error) {
	b, err := os.ReadFile(name)
	if err != nil {
		return nil, fmt.Errorf("secret_file: %w", err)
	}
	line, _, _ := strings.Cut(string(b), "\n")
	line = strings.TrimSpace(line)
	if len(line) < MinSecret {
		return nil, fmt.Errorf("secret_file: the first line of %s has %d octets and needs at least %d; make one with: postern replica keygen FILE, and copy it to the partner", name, len(line), MinSecret)
	}
	return []byte(line), nil
}

// The names of the key pair a server makes itself.
const (
	certName = "replica.crt"
	keyName  = "replica.key"
)

// OwnKey returns the certificate and key in a folder, and makes them when there
// are none: signed by itself, as only its key counts. It lasts until the files
// are removed.
func OwnKey(dir string, node uint16) (tls.Certificate, error) {
	cert, key := filepath.Join(dir, certName), filepath.Join(dir, keyName)
	pair, err := tls.LoadX509KeyPair(cert, key)
	if !errors.Is(err, fs.ErrNotExist) {
		return pair, err
	}
	certPEM, keyPEM, err := NewKey(fmt.Sprintf("postern node %d", node), time.Now())
	if err != nil {
		return tls.Certificate{}, err
	}
	if err := fsx.OS().MkdirAll(dir); err != nil {
		return tls.Certificate{}, err
	}
	// The key first: a certificate without its key would be found and refused.
	if err := fsx.WriteFile(fsx.OS(), key, keyPEM); err != nil {
		return tls.Certificate{}, err
	}
	if err := fsx.WriteFile(fsx.OS(), cert, certPEM); err != nil {
		return tls.Certificate{}, err
	}
	return tls.X509KeyPair(certPEM, keyPEM)
}

// lifetime is long: it is the pin that says who a partner is, not a date.
const lifetime = 50 * 365 * 24 * time.Hour

// NewKey makes a key and a certificate for it, both PEM.
func NewKey(name string, now time.Time) (certPEM, keyPEM []byte, err error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, nil, err
	}
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 120))
	if err != nil {
		return nil, nil, err
	}
	template := &x509.Certificate{
		SerialNumber: serial, Subject: pkix.Name{CommonName: name},
		NotBefore: now.Add(-24 * time.Hour), NotAfter: now.Add(lifetime), KeyUsage: x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return nil, nil, err
	}
	pkcs8, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, nil, err
	}
	certPEM = pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	keyPEM = pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: pkcs8})
	return certPEM, keyPEM, nil
}
