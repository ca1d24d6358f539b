package gssapi

import (
	"errors"
	"fmt"
	"slices"
	"strings"
)

var errPrincipal = errors.New("not a principal that is anybody's login")

// loginOf returns the login of a principal: its name alone when the realm is
// one of realms, and otherwise the whole principal, which the directory has to
// know as such (krbPrincipalName, userPrincipalName). Realms are compared octet
// by octet, as Kerberos does (RFC 4120 section 6.1).
//
// A name with an escaped character is refused: "alice\@other" is one component
// that would read as alice of another realm.
func loginOf(principal string, realms []string) (string, error) {
	if strings.ContainsAny(principal, `\ `) {
		return "", fmt.Errorf("%w: %q", errPrincipal, principal)
	}
	name, realm, ok := strings.Cut(principal, "@")
	if !ok || name == "" || realm == "" || strings.Contains(realm, "@") {
		return "", fmt.Errorf("%w: %q", errPrincipal, principal)
	}
	if slices.Contains(realms, realm) {
		return name, nil
	}
	return principal, nil
}
