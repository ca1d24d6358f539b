// Package ldif holds Example Traders, a company small enough to read and odd
// enough to test with, as three kinds of directory that mean the same. The
// demo serves the OpenLDAP one; tests load all three in process and into
// slapd. README.md tells who is who.
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

//go:embed ad.ldif
var adLDIF []byte

//go:embed ad.schema
var adSchema []byte

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

// Trees returns all three.
func Trees() []Tree { return []Tree{OpenLDAP(), FreeIPA(), AD()} }

// Password returns the password of a login in every tree.
func Password(login string) string { return login + "-secret" }
