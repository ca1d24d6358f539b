package signing

import (
	"crypto"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/postern-mail/postern/policy/mailauth/dkim"
)

// maxKeyFile bounds a key file; one of 8192 bits has about 6 KiB.
const maxKeyFile = 32 << 10

// ReadKeyFile reads a private key in PEM: PKCS #8, as openssl and we write it,
// or PKCS #1, as opendkim-genkey does. A file that its group or others can read
// or write is refused.
func ReadKeyFile(name string) (crypto.Signer, error) {
	file, err := os.Open(name)
	if errors.Is(err, fs.ErrPermission) {
		return nil, fmt.Errorf("%w: the file must belong to the user the server runs as", err)
	}
	if err != nil {
		return nil, err
	}
	defer func() { _ = file.Close() }() // only read
	info, err := file.Stat()
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() {
		return nil, fmt.Errorf("%s is no file", name)
	}
	if perm := info.Mode().Perm(); perm&0o077 != 0 {
		return nil, fmt.Errorf("%s can be read or written by others than its owner (mode %04o): run chmod 600 %s", name, perm, name)
	}
	text, err := io.ReadAll(io.LimitReader(file, maxKeyFile))
	if err != nil {
		return nil, err
	}
	key, err := parsePrivate(text)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	return key, nil
}

func parsePrivate(text []byte) (crypto.Signer, error) {
	block, _ := pem.Decode(text)
	if block == nil {
		return nil, errors.New("no private key in PEM")
	}
	if block.Type == "ENCRYPTED PRIVATE KEY" || block.Headers["DEK-Info"] != "" {
		return nil, errors.New("the key needs a passphrase, which a server cannot type: write it without (openssl pkey)")
	}
	if key, err := x509.ParsePKCS1PrivateKey(block.Bytes); err == nil {
		return key, nil
	}
	parsed, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		return nil, fmt.Errorf("no private key that is understood: %w", err)
	}
	switch key := parsed.(type) {
	case *rsa.PrivateKey:
		return key, nil
	case ed25519.PrivateKey:
		return key, nil
	}
	return nil, fmt.Errorf("a key of type %T: DKIM knows RSA and Ed25519", parsed)
}

// Generate makes a private key. bits is the size of an RSA key.
func Generate(kind dkim.KeyType, bits int) (crypto.Signer, error) {
	if kind == dkim.Ed25519 {
		_, key, err := ed25519.GenerateKey(rand.Reader)
		return key, err
	}
	if bits < 2048 || bits > 4096 || bits%256 != 0 {
		return nil, fmt.Errorf("an RSA key of %d bits: use 2048, 3072 or 4096; less is not believed for long, and more does not fit the DNS", bits)
	}
	return rsa.GenerateKey(rand.Reader, bits)
}

// WriteKeyFile writes a private key to a file that must not exist, for its owner
// alone, and has it on stable storage when it returns.
func WriteKeyFile(name string, key crypto.Signer) error {
	octets, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return err
	}
	text := pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: octets})
	file, err := os.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	_, err = file.Write(text)
	err = errors.Join(err, file.Sync(), file.Close())
	if err == nil {
		err = syncDir(filepath.Dir(name))
	}
	if err != nil {
		_ = os.Remove(name) // nothing names it yet
	}
	return err
}

func syncDir(name string) error {
	dir, err := os.Open(name)
	if err != nil {
		return err
	}
	return errors.Join(dir.Sync(), dir.Close())
}
