package authn

import (
	"crypto/sha1"
	"crypto/sha256"
	"crypto/sha512"
	"crypto/subtle"
	"encoding/base64"
	"encoding/binary"
	"fmt"
	"hash"
	"strconv"
	"strings"

	"golang.org/x/crypto/pbkdf2"
)

// schemes are the parsers of what follows "{SCHEME}". Beside the names of RFC
// 2307 and OpenLDAP stand Dovecot's, so that its password files can be taken
// over as they are.
var schemes = map[string]func(data string) (Hash, error){
	"SHA":     digest("sha", sha1.New, sha1.Size, false),
	"SSHA":    digest("ssha", sha1.New, sha1.Size, true),
	"SHA256":  digest("sha256", sha256.New, sha256.Size, false),
	"SSHA256": digest("ssha256", sha256.New, sha256.Size, true),
	"SHA384":  digest("sha384", sha512.New384, sha512.Size384, false),
	"SSHA384": digest("ssha384", sha512.New384, sha512.Size384, true),
	"SHA512":  digest("sha512", sha512.New, sha512.Size, false),
	"SSHA512": digest("ssha512", sha512.New, sha512.Size, true),

	"PBKDF2":        derived("pbkdf2-sha1", sha1.New),
	"PBKDF2-SHA1":   derived("pbkdf2-sha1", sha1.New),
	"PBKDF2-SHA256": derived("pbkdf2-sha256", sha256.New),
	"PBKDF2-SHA512": derived("pbkdf2-sha512", sha512.New),
	"PBKDF2_SHA256": parse389PBKDF2,

	FormSCRAMSHA1:   parseSCRAMHash(FormSCRAMSHA1),
	FormSCRAMSHA256: parseSCRAMHash(FormSCRAMSHA256),

	"CRYPT":        parseCrypt,
	"SHA256-CRYPT": parseCrypt,
	"SHA512-CRYPT": parseCrypt,
	"BLF-CRYPT":    parseCrypt,
	"BCRYPT":       parseCrypt,
	"ARGON2":       parseCrypt,
	"ARGON2I":      parseCrypt,
	"ARGON2ID":     parseCrypt,
}

// maxPBKDF2Iterations keeps one login under about a second of CPU.
const maxPBKDF2Iterations = 2_000_000

// digest parses base64(digest || salt); without salted, nothing may follow the
// digest.
func digest(scheme string, newHash func() hash.Hash, size int, salted bool) func(string) (Hash, error) {
	return func(data string) (Hash, error) {
		raw, err := base64.StdEncoding.DecodeString(data)
		if err != nil {
			return Hash{}, fmt.Errorf("%w: not base64", errHashMalformed)
		}
		if len(raw) < size || salted == (len(raw) == size) {
			return Hash{}, fmt.Errorf("%w: %d octets", errHashMalformed, len(raw))
		}
		want, salt := raw[:size], raw[size:]
		return Hash{scheme: scheme, match: func(password string) (bool, error) {
			h := newHash()
			h.Write([]byte(password))
			h.Write(salt)
			return subtle.ConstantTimeCompare(h.Sum(nil), want) == 1, nil
		}}, nil
	}
}

// derived parses OpenLDAP's pw-pbkdf2 notation, "iterations$salt$key" in the
// base64 alphabet with "." for "+" and without padding, or in plain base64.
func derived(scheme string, newHash func() hash.Hash) func(string) (Hash, error) {
	return func(data string) (Hash, error) {
		parts := strings.Split(data, "$")
		if len(parts) != 3 {
			return Hash{}, fmt.Errorf("%w: not iterations$salt$key", errHashMalformed)
		}
		iterations, err := strconv.Atoi(parts[0])
		if err != nil {
			return Hash{}, fmt.Errorf("%w: iterations", errHashMalformed)
		}
		salt, err := adaptedBase64(parts[1])
		if err != nil {
			return Hash{}, err
		}
		key, err := adaptedBase64(parts[2])
		if err != nil {
			return Hash{}, err
		}
		return pbkdf2Hash(scheme, newHash, iterations, salt, key)
	}
}

// What 389 Directory Server and FreeIPA write as {PBKDF2_SHA256}: base64 of the
// iterations in four octets, the salt, and a key of eight digests.
const (
	iterationsOctets389 = 4
	saltOctets389       = 64
	keyOctets389        = 256
)

func parse389PBKDF2(data string) (Hash, error) {
	raw, err := base64.StdEncoding.DecodeString(data)
	if err != nil {
		return Hash{}, fmt.Errorf("%w: not base64", errHashMalformed)
	}
	if len(raw) != iterationsOctets389+saltOctets389+keyOctets389 {
		return Hash{}, fmt.Errorf("%w: %d octets", errHashMalformed, len(raw))
	}
	// Each digest of the key costs all iterations.
	iterations := int64(binary.BigEndian.Uint32(raw))
	if most := int64(maxPBKDF2Iterations / (keyOctets389 / sha256.Size)); iterations > most {
		return Hash{}, fmt.Errorf("%w: %d iterations, at most %d", errHashCost, iterations, most)
	}
	rest := raw[iterationsOctets389:]
	return pbkdf2Hash("pbkdf2-sha256", sha256.New, int(iterations), rest[:saltOctets389], rest[saltOctets389:])
}

func pbkdf2Hash(scheme string, newHash func() hash.Hash, iterations int, salt, key []byte) (Hash, error) {
	if iterations < 1 || iterations > maxPBKDF2Iterations {
		return Hash{}, fmt.Errorf("%w: %d iterations, at most %d", errHashCost, iterations, maxPBKDF2Iterations)
	}
	if len(salt) == 0 || len(key) < 16 {
		return Hash{}, fmt.Errorf("%w: %d octets of salt, %d of key", errHashMalformed, len(salt), len(key))
	}
	return Hash{scheme: scheme, match: func(password string) (bool, error) {
		got := pbkdf2.Key([]byte(password), salt, iterations, len(key), newHash)
		return subtle.ConstantTimeCompare(got, key) == 1, nil
	}}, nil
}

func adaptedBase64(s string) ([]byte, error) {
	s = strings.TrimRight(strings.ReplaceAll(s, ".", "+"), "=")
	raw, err := base64.RawStdEncoding.DecodeString(s)
	if err != nil {
		return nil, fmt.Errorf("%w: not base64", errHashMalformed)
	}
	return raw, nil
}

func parseCleartext(data string) (Hash, error) {
	if data == "" {
		return Hash{}, errHashEmpty
	}
	want := sha256.Sum256([]byte(data))
	return Hash{scheme: "cleartext", stored: "{" + FormCleartext + "}" + data, match: func(password string) (bool, error) {
		got := sha256.Sum256([]byte(password))
		return subtle.ConstantTimeCompare(got[:], want[:]) == 1, nil
	}}, nil
}
