package apppass

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/base32"
	"strings"
)

// alphabet has no digits that look like letters.
const alphabet = "abcdefghijklmnopqrstuvwxyz234567"

var encoding = base32.NewEncoding(alphabet).WithPadding(base32.NoPadding)

const (
	randomOctets = 10 // 80 bits, 16 characters
	randomChars  = 16
	checkChars   = 4 // 20 bits
	groupChars   = 4
)

// newSecret makes a password without its hyphens.
func newSecret() string {
	var random [randomOctets]byte
	rand.Read(random[:])
	text := encoding.EncodeToString(random[:])
	return text + check(text)
}

// check is what ends a password, so that hardly any word of a person has the
// form of one: one in a million of those of the right length and alphabet.
func check(text string) string {
	sum := sha256.Sum256([]byte("postern app password " + text))
	return encoding.EncodeToString(sum[:])[:checkChars]
}

// grouped is a password as people copy it.
func grouped(secret string) string {
	var groups []string
	for ; len(secret) > 0; secret = secret[groupChars:] {
		groups = append(groups, secret[:groupChars])
	}
	return strings.Join(groups, "-")
}

// plain undoes grouped, whatever was made of hyphens and case; false when the
// password has not the form of one made here.
func plain(password string) (secret string, ok bool) {
	if len(password) < randomChars+checkChars || len(password) > 3*(randomChars+checkChars) {
		return "", false
	}
	secret = strings.ToLower(strings.NewReplacer("-", "", " ", "").Replace(password))
	if len(secret) != randomChars+checkChars || strings.Trim(secret, alphabet) != "" {
		return "", false
	}
	return secret, check(secret[:randomChars]) == secret[randomChars:]
}

// HasForm reports whether a password is, or could be, one made here: no other
// verifier needs to see it.
func HasForm(password string) bool {
	_, ok := plain(password)
	return ok
}
