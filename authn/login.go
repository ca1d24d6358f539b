package authn

import (
	"errors"
	"fmt"
	"strings"
	"unicode/utf8"

	"golang.org/x/text/secure/precis"

	"github.com/postern-mail/postern/mail"
)

var (
	errLoginEmpty    = errors.New("empty login")
	errLoginLong     = errors.New("login too long")
	errLoginChar     = errors.New("character not allowed in login")
	errPasswordEmpty = errors.New("empty password")
	errPasswordLong  = errors.New("password too long")
	errPasswordNUL   = errors.New("NUL in password")
)

// CanonicalLogin returns the form of a login under which verifiers, memories
// and audit know it: lower case and normalised by RFC 8265 section 3.3, an
// address without quotes it does not need and with its domain in A-labels, so
// that no two spellings of one login are two logins. Control characters and
// spaces are refused; a NUL would end the name early for a verifier in C.
func CanonicalLogin(login string) (string, error) {
	canonical, err := canonicalText(login)
	if err != nil || !strings.Contains(canonical, "@") {
		return canonical, err
	}
	if a, err := mail.ParseAddress(canonical); err == nil {
		return a.Fold().String(), nil
	}
	return canonical, nil
}

func canonicalText(login string) (string, error) {
	switch {
	case login == "":
		return "", errLoginEmpty
	case len(login) > MaxLoginOctets:
		return "", errLoginLong
	}
	for i := 0; i < len(login); i++ {
		if login[i] >= utf8.RuneSelf {
			return canonicalUnicode(login)
		}
		if login[i] <= ' ' || login[i] == 0x7f {
			return "", errLoginChar
		}
	}
	return strings.ToLower(login), nil
}

func canonicalUnicode(login string) (string, error) {
	canonical, err := precis.UsernameCaseMapped.String(login)
	if err != nil {
		return "", fmt.Errorf("%w: %w", errLoginChar, err)
	}
	return canonical, nil
}

// CheckPassword refuses passwords that no verifier may see. An empty one would
// be an anonymous bind, which many directories answer with success (RFC 4513
// section 5.1.2); a NUL would cut the password short for a verifier in C.
func CheckPassword(password string) error {
	switch {
	case password == "":
		return errPasswordEmpty
	case len(password) > MaxPasswordOctets:
		return errPasswordLong
	case strings.IndexByte(password, 0) >= 0:
		return errPasswordNUL
	}
	return nil
}
