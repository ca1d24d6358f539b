package testenv

import (
	"os"
	"strings"
	"testing"

	"github.com/postern-mail/postern/testdata/ldif"
)

func TestMain(m *testing.M) { os.Exit(Main(m)) }

func TestDS389ServesFreeIPAsShape(t *testing.T) {
	t.Parallel()
	s := DS389(t, DS389Options{})
	for _, uri := range []string{s.LDAPI, s.LDAP, s.LDAPS} {
		out := searchTrusting(t, s.CAFile, uri, s.Tree.ServiceDN, s.Tree.ServicePassword, s.Tree.BaseDN,
			"(mail=alice@example.com)", "mail", "memberOf", "userPassword")
		if !strings.Contains(out, "mail: alice@example.com") || !strings.Contains(out, "memberOf: cn=staff") ||
			!strings.Contains(out, "memberOf: cn=everyone") || strings.Contains(out, "userPassword") {
			t.Errorf("%s answered\n%s", uri, out)
		}
	}
	out := searchTrusting(t, s.CAFile, s.LDAPI, s.RootDN, s.RootPassword, "", "(objectClass=*)", "supportedControl")
	if !strings.Contains(out, "1.3.6.1.4.1.4203.1.9.1.1") {
		t.Errorf("no content synchronization (RFC 4533) in\n%s", out)
	}
	s.Kill()
	s.Restart()
	searchTrusting(t, s.CAFile, s.LDAPS, "uid=bob,cn=users,cn=accounts,dc=example,dc=com", ldif.Password("bob"),
		"", "(objectClass=*)", "vendorName")
	s.Modify(t, "dn: uid=bob,cn=users,cn=accounts,dc=example,dc=com\nchangetype: modify\nreplace: mail\nmail: robert@example.com\n")
}

// searchTrusting runs ldapsearch as somebody, over TLS where the URI says so.
func searchTrusting(t *testing.T, caFile, uri, dn, password, base, filter string, attributes ...string) string {
	t.Helper()
	scope := "sub"
	if base == "" {
		scope = "base"
	}
	args := append([]string{"LDAPTLS_CACERT=" + caFile, Program(t, "ldapsearch"), "-x", "-LLL", "-o", "ldif-wrap=no", "-H", uri, "-D", dn,
		"-w", password, "-b", base, "-s", scope, filter}, attributes...)
	return Run(t, Program(t, "env"), args...)
}
