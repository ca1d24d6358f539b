package config

import "testing"

func TestImpliedBase(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name string
		dir  Directory
		want string
	}{
		{"written", Directory{Base: "o=corp", BindDN: "cn=mail,dc=example,dc=com"}, "o=corp"},
		{"service account of FreeIPA", Directory{BindDN: "uid=mail,cn=sysaccounts,cn=etc,dc=ipa,dc=example,dc=com"}, "dc=ipa,dc=example,dc=com"},
		{"of Active Directory", Directory{BindDN: `CN=Mail\, Service,CN=Users,DC=corp,DC=example,DC=com`}, "dc=corp,dc=example,dc=com"},
		{"dc among other parts", Directory{BindDN: "cn=mail,dc=inner,ou=x,dc=example,dc=com"}, "dc=example,dc=com"},
		{"account without a domain", Directory{BindDN: "cn=mail,o=corp"}, ""},
		{"account by name", Directory{BindDN: "mail@corp.example.com", URIs: []string{"srv:corp.example.com"}}, "dc=corp,dc=example,dc=com"},
		{"discovery", Directory{URIs: []string{"srv:Example.com"}}, "dc=example,dc=com"},
		{"discovery by DN", Directory{URIs: []string{"ldaps:///dc=example,dc=com"}}, "dc=example,dc=com"},
		{"discovery by an escaped DN", Directory{URIs: []string{"ldap:///dc=example%2Cdc=com"}}, "dc=example,dc=com"},
		{"hosts tell nothing", Directory{URIs: []string{"ldaps://ldap.example.com", "ldapi:///"}}, ""},
	} {
		if got := c.dir.BaseDN(); got != c.want {
			t.Errorf("%s: base %q, want %q", c.name, got, c.want)
		}
	}
}
