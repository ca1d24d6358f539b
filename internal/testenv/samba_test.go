package testenv

import (
	"strings"
	"testing"

	"github.com/postern-mail/postern/testdata/ldif"
)

func TestSambaServesADomain(t *testing.T) {
	t.Parallel()
	s := Samba(t, SambaOptions{Crowd: 3})
	for _, uri := range []string{s.LDAPS, s.Secure} {
		out := searchTrusting(t, s.CAFile, uri, s.Tree.ServiceDN, s.Tree.ServicePassword, s.Tree.BaseDN,
			"(|(proxyAddresses=smtp:a.anders@example.com)(mail=crowd@example.com))", "mail", "proxyAddresses", "member")
		if !strings.Contains(out, "mail: alice@example.com") || !strings.Contains(out, "SMTP:alice@example.com") {
			t.Errorf("%s answered\n%s", uri, out)
		}
		if uri == s.LDAPS && !strings.Contains(out, "member: CN=crowd2,") {
			t.Errorf("%s answered\n%s", uri, out)
		}
	}
	s.Kill()
	s.Restart()
	searchTrusting(t, s.CAFile, s.LDAPS, "bob@corp.example.com", ldif.Password("bob"), "", "(objectClass=*)", "defaultNamingContext")
	s.Modify(t, "dn: CN=Bob Berger,CN=Users,DC=example,DC=com\nchangetype: modify\nreplace: mail\nmail: robert@example.com\n")
	if out := s.Tool(t, "user", "show", "bob"); !strings.Contains(out, "mail: robert@example.com") {
		t.Errorf("samba-tool shows\n%s", out)
	}
}
