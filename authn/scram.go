package authn

import (
	"context"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha1"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"hash"
	"strconv"
	"strings"

	"github.com/xdg-go/stringprep"
	"golang.org/x/crypto/pbkdf2"

	"github.com/postern-mail/postern/status"
)

// SCRAMKeys are what a server keeps of a password for SCRAM (RFC 5802 section
// 3): enough to check a client's proof and to give its own, and not enough to
// log in elsewhere.
type SCRAMKeys struct {
	Iterations           int
	Salt                 []byte
	StoredKey, ServerKey []byte
}

// scramHashes are the hash functions by form.
var scramHashes = map[string]func() hash.Hash{FormSCRAMSHA1: sha1.New, FormSCRAMSHA256: sha256.New}

// Bounds of stored keys: what a client is made to compute, and what a line
// holds.
const (
	maxSCRAMIterations = 1_000_000
	maxSCRAMSaltOctets = 64
)

// ParseSCRAM reads "{SCRAM-SHA-256}iterations,salt,StoredKey,ServerKey", the
// latter three in base64, as Dovecot writes it. Errors never show the keys.
func ParseSCRAM(form, stored string) (SCRAMKeys, error) {
	data, found := strings.CutPrefix(stored, "{"+form+"}")
	if !found {
		return SCRAMKeys{}, fmt.Errorf("%w: not {%s}", errHashScheme, form)
	}
	return parseSCRAM(form, data)
}

func parseSCRAM(form, data string) (keys SCRAMKeys, err error) {
	newHash := scramHashes[form]
	fields := strings.Split(data, ",")
	if newHash == nil || len(fields) != 4 {
		return SCRAMKeys{}, fmt.Errorf("%w: not iterations,salt,StoredKey,ServerKey", errHashMalformed)
	}
	if keys.Iterations, err = strconv.Atoi(fields[0]); err != nil {
		return SCRAMKeys{}, fmt.Errorf("%w: iterations", errHashMalformed)
	}
	if keys.Iterations < 1 || keys.Iterations > maxSCRAMIterations {
		return SCRAMKeys{}, fmt.Errorf("%w: %d iterations, at most %d", errHashCost, keys.Iterations, maxSCRAMIterations)
	}
	for i, field := range []*[]byte{&keys.Salt, &keys.StoredKey, &keys.ServerKey} {
		if *field, err = base64.StdEncoding.Strict().DecodeString(fields[i+1]); err != nil {
			return SCRAMKeys{}, fmt.Errorf("%w: not base64", errHashMalformed)
		}
	}
	size := newHash().Size()
	if len(keys.Salt) == 0 || len(keys.Salt) > maxSCRAMSaltOctets || len(keys.StoredKey) != size || len(keys.ServerKey) != size {
		return SCRAMKeys{}, fmt.Errorf("%w: %d octets of salt, %d and %d of keys", errHashMalformed, len(keys.Salt), len(keys.StoredKey), len(keys.ServerKey))
	}
	return keys, nil
}

// encode writes the keys as ParseSCRAM reads them.
func (k SCRAMKeys) encode(form string) string {
	b64 := base64.StdEncoding.EncodeToString
	return "{" + form + "}" + strconv.Itoa(k.Iterations) + "," + b64(k.Salt) + "," + b64(k.StoredKey) + "," + b64(k.ServerKey)
}

// CleartextKeys computes the keys of a login whose password is held as it is,
// one of a bounded number at a time. An error means that ctx ended before.
func (c *Chain) CleartextKeys(ctx context.Context, form, password string, salt []byte) (SCRAMKeys, error) {
	select {
	case c.slots <- struct{}{}:
		defer func() { <-c.slots }()
	case <-ctx.Done():
		return SCRAMKeys{}, status.New(status.AuthTemporary, fmt.Errorf("waiting to compute SCRAM keys: %w", ctx.Err()))
	}
	return DeriveSCRAM(form, password, salt, newSCRAMIterations), nil
}

// DeriveSCRAM computes the keys of a password, prepared by SASLprep as clients
// do. It takes milliseconds on purpose.
func DeriveSCRAM(form, password string, salt []byte, iterations int) SCRAMKeys {
	return deriveSCRAM(form, prepared(password), salt, iterations)
}

func deriveSCRAM(form, password string, salt []byte, iterations int) SCRAMKeys {
	newHash := scramHashes[form]
	mac := func(key []byte, message string) []byte {
		h := hmac.New(newHash, key)
		h.Write([]byte(message))
		return h.Sum(nil)
	}
	salted := pbkdf2.Key([]byte(password), salt, iterations, newHash().Size(), newHash)
	client := newHash()
	client.Write(mac(salted, "Client Key"))
	return SCRAMKeys{Iterations: iterations, Salt: salt, StoredKey: client.Sum(nil), ServerKey: mac(salted, "Server Key")}
}

// prepared is a password after SASLprep (RFC 4013), or as it is where that
// forbids it: a client that does the same gets in, others never could.
func prepared(password string) string {
	if p, err := stringprep.SASLprep.Prepare(password); err == nil && p != "" {
		return p
	}
	return password
}

func makeSCRAM(form, password string) (string, error) {
	if _, err := stringprep.SASLprep.Prepare(password); err != nil {
		return "", errors.New("the password holds characters that SASLprep (RFC 4013) forbids, so clients could not use it with SCRAM")
	}
	var salt [16]byte
	rand.Read(salt[:])
	return DeriveSCRAM(form, password, salt[:], newSCRAMIterations).encode(form), nil
}

// parseSCRAMHash lets PLAIN and LOGIN check a password against SCRAM's keys.
// Other servers keep keys of the password as it is, so that is tried too.
func parseSCRAMHash(form string) func(string) (Hash, error) {
	return func(data string) (Hash, error) {
		keys, err := parseSCRAM(form, data)
		if err != nil {
			return Hash{}, err
		}
		is := func(password string) bool {
			return hmac.Equal(deriveSCRAM(form, password, keys.Salt, keys.Iterations).StoredKey, keys.StoredKey)
		}
		return Hash{scheme: strings.ToLower(form), stored: "{" + form + "}" + data, match: func(password string) (bool, error) {
			p := prepared(password)
			return is(p) || p != password && is(password), nil
		}}, nil
	}
}
