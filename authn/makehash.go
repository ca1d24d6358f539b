package authn

import (
	"crypto/rand"
	"encoding/base64"
	"fmt"
	"strings"

	"github.com/go-crypt/crypt/algorithm/shacrypt"
	"golang.org/x/crypto/argon2"
)

// Costs of new hashes: argon2id as OWASP advises for servers with many
// logins, SHA-512-crypt at about the same time.
const (
	newArgon2KiB      = 19 << 10
	newArgon2Passes   = 2
	newSHACryptRounds = 50_000
	// newSCRAMIterations is what a client computes at each login, telephones
	// included; RFC 7677 asks for 4096 at least.
	newSCRAMIterations = 10_000
)

// MakeSchemes lists the schemes MakeHash knows, the default first.
func MakeSchemes() []string {
	return []string{"argon2id", "sha512-crypt", "scram-sha-256", "scram-sha-1"}
}

// MakeHash returns a new hash of password, with a random salt and in the
// notation of userPassword, which password files take as well. An empty scheme
// means the default.
func MakeHash(scheme, password string) (string, error) {
	if err := CheckPassword(password); err != nil {
		return "", err
	}
	switch strings.ToLower(scheme) {
	case "", "argon2id":
		return makeArgon2id(password), nil
	case "sha512-crypt":
		return makeSHA512Crypt(password)
	case "scram-sha-256":
		return makeSCRAM(FormSCRAMSHA256, password)
	case "scram-sha-1":
		return makeSCRAM(FormSCRAMSHA1, password)
	default:
		return "", fmt.Errorf("%w %q (known: %s)", errHashScheme, scheme, strings.Join(MakeSchemes(), ", "))
	}
}

func makeArgon2id(password string) string {
	var salt [16]byte
	rand.Read(salt[:])
	key := argon2.IDKey([]byte(password), salt[:], newArgon2Passes, newArgon2KiB, 1, 32)
	return fmt.Sprintf("{ARGON2}$argon2id$v=%d$m=%d,t=%d,p=1$%s$%s", argon2.Version, newArgon2KiB, newArgon2Passes,
		base64.RawStdEncoding.EncodeToString(salt[:]), base64.RawStdEncoding.EncodeToString(key))
}

func makeSHA512Crypt(password string) (string, error) {
	hasher, err := shacrypt.New(shacrypt.WithSHA512(), shacrypt.WithIterations(newSHACryptRounds))
	if err != nil {
		return "", err
	}
	digest, err := hasher.HashWithSalt(password, []byte(randomText(shacrypt.SaltLengthMax)))
	if err != nil {
		return "", err
	}
	return "{CRYPT}" + digest.Encode(), nil
}

// randomText returns n random characters of the crypt(3) alphabet.
func randomText(n int) string {
	text := make([]byte, n)
	rand.Read(text)
	for i := range text {
		text[i] = shacrypt.SaltCharSet[text[i]%64]
	}
	return string(text)
}
