package config

import (
	"regexp"

	authnldap "github.com/postern-mail/postern/authn/ldap"
)

// Values of method of a verifier of kind ldap.
const (
	MethodBind    = "bind"
	MethodCompare = "compare"
	MethodHash    = "hash"
)

// attributeName is a short name or an OID (RFC 4512 section 2.5), without
// options.
var attributeName = regexp.MustCompile(`^([A-Za-z][A-Za-z0-9-]*|[0-9]+(\.[0-9]+)+)$`)

// ldapMethod checks how passwords are verified by LDAP, and refuses to say so
// of other verifiers. The defaults mean nothing anywhere: config show writes
// them into each block.
func (c checker) ldapMethod(a *Authn) {
	named := a.PasswordAttr != authnldap.DefaultPasswordAttribute
	if a.Kind != "ldap" {
		if a.Method != MethodBind {
			c.forbid(&a.block, a.Kind, "method")
		}
		if named {
			c.forbid(&a.block, a.Kind, "password_attribute")
		}
		return
	}
	if a.Method == MethodBind && named {
		c.errorf(a.rangeOf("password_attribute"), "Contradiction", `A verifier that binds reads no attribute: write method = "compare" or method = "hash", or leave password_attribute out.`)
		return
	}
	if !attributeName.MatchString(a.PasswordAttr) {
		c.errorf(a.rangeOf("password_attribute"), "Wrong value", "%q is no name of an attribute, such as userPassword.", a.PasswordAttr)
	}
}
