// Package ldif holds Example Traders, a company small enough to read and odd
// enough to test with, as the kinds of directory there are, which all mean the same.
// The demo serves the OpenLDAP one; tests load all of them in process and into
// slapd, and those of other servers into these. README.md tells who is who.
package ldif

import _ "embed"

// Tree is one directory with what is needed to load and to read it.
type Tree struct {
	// Preset is the directory preset that reads the tree.
	Preset string
	// LDIF holds the entries.
	LDIF []byte
	// Schemas are those of OpenLDAP's that the entries need, by name;
	// ExtraSchema is what OpenLDAP has not, in slapd's notation.
	Schemas     []string
	ExtraSchema []byte
	// Schemas389 are files of the 389 Directory Server that it does not load by
	// itself; ExtraSchema389 is what it has not, in its own notation.
	Schemas389     []string
	ExtraSchema389 []byte
	// PasswordPolicy is the DN of slapd's default password policy, or "".
	PasswordPolicy string
	BaseDN         string
	// ServiceDN may read everything but passwords.
	ServiceDN       string
	ServicePassword string
}

//go:embed openldap.ldif
var openldapLDIF []byte

//go:embed freeipa.ldif
var freeipaLDIF []byte

//go:embed freeipa.schema
var freeipaSchema []byte

//go:embed freeipa.389.ldif
var freeipa389 []byte

//go:embed ad.ldif
var adLDIF []byte

//go:embed ad.schema
var adSchema []byte

//go:embed qmail.ldif
var qmailLDIF []byte

//go:embed qmail.schema
var qmailSchema []byte

//go:embed postfix-book.ldif
var postfixBookLDIF []byte

//go:embed postfix-book.schema
var postfixBookSchema []byte

//go:embed 389ds.ldif
var ds389LDIF []byte

// Domain is the company's mail domain. It also has example.net, which one
// person catches all mail of.
const Domain = "example.com"

// OpenLDAP returns the tree in OpenLDAP's shape. The caller must not change
// its slices, here and below.
func OpenLDAP() Tree {
	return Tree{
		Preset:          "openldap",
		LDIF:            openldapLDIF,
		Schemas:         []string{"core", "cosine", "inetorgperson", "nis", "misc"},
		PasswordPolicy:  "cn=default,ou=policies,dc=example,dc=com",
		BaseDN:          "dc=example,dc=com",
		ServiceDN:       "cn=mail,ou=services,dc=example,dc=com",
		ServicePassword: Password("mail"),
	}
}

// FreeIPA returns the tree in FreeIPA's shape.
func FreeIPA() Tree {
	return Tree{
		Preset:          "freeipa",
		LDIF:            freeipaLDIF,
		Schemas:         []string{"core", "cosine", "inetorgperson", "nis"},
		ExtraSchema:     freeipaSchema,
		Schemas389:      []string{"60kerberos.ldif"},
		ExtraSchema389:  freeipa389,
		BaseDN:          "dc=example,dc=com",
		ServiceDN:       "uid=mail,cn=sysaccounts,cn=etc,dc=example,dc=com",
		ServicePassword: Password("mail"),
	}
}

// AD returns the tree in Active Directory's shape.
func AD() Tree {
	return Tree{
		Preset:          "ad",
		LDIF:            adLDIF,
		Schemas:         []string{"core", "cosine", "inetorgperson"},
		ExtraSchema:     adSchema,
		BaseDN:          "dc=example,dc=com",
		ServiceDN:       "CN=Mail Service,CN=Users,DC=example,DC=com",
		ServicePassword: Password("mail"),
	}
}

// Qmail returns the tree by the schema of qmail-ldap.
func Qmail() Tree {
	return Tree{
		Preset:          "qmail",
		LDIF:            qmailLDIF,
		Schemas:         []string{"core", "cosine", "inetorgperson"},
		ExtraSchema:     qmailSchema,
		Schemas389:      []string{"60qmail.ldif"},
		BaseDN:          "dc=example,dc=com",
		ServiceDN:       "uid=mail,ou=services,dc=example,dc=com",
		ServicePassword: Password("mail"),
	}
}

// PostfixBook returns the tree by the postfix-book schema.
func PostfixBook() Tree {
	return Tree{
		Preset:          "postfix-book",
		LDIF:            postfixBookLDIF,
		Schemas:         []string{"core", "cosine", "inetorgperson"},
		ExtraSchema:     postfixBookSchema,
		BaseDN:          "dc=example,dc=com",
		ServiceDN:       "uid=mail,ou=services,dc=example,dc=com",
		ServicePassword: Password("mail"),
	}
}

// DS389 returns the tree by the mail classes of the 389 Directory Server.
func DS389() Tree {
	return Tree{
		Preset:          "389ds",
		LDIF:            ds389LDIF,
		Schemas:         []string{"core", "cosine", "inetorgperson", "nis"},
		ExtraSchema:     freeipaSchema,
		BaseDN:          "dc=example,dc=com",
		ServiceDN:       "uid=mail,ou=services,dc=example,dc=com",
		ServicePassword: Password("mail"),
	}
}

// Trees returns all of them.
func Trees() []Tree { return []Tree{OpenLDAP(), FreeIPA(), AD(), Qmail(), PostfixBook(), DS389()} }

// Password returns the password of a login in every tree.
func Password(login string) string { return login + "-secret" }
