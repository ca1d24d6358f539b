package testenv

import (
	"strings"
	"testing"

	"github.com/postern-mail/postern/testdata/ldif"
)

func TestSlapdServesEveryTree(t *testing.T) {
	t.Parallel()
	for _, tree := range ldif.Trees() {
		t.Run(tree.Preset, func(t *testing.T) {
			t.Parallel()
			s := Slapd(t, SlapdOptions{Tree: tree})
			for _, uri := range []string{s.LDAPI, s.LDAP} {
				out := Run(t, Program(t, "ldapsearch"), "-x", "-LLL", "-H", uri, "-D", tree.ServiceDN,
					"-w", tree.ServicePassword, "-b", tree.BaseDN, "(mail=alice@example.com)", "mail", "userPassword")
				if !strings.Contains(out, "mail: alice@example.com") || strings.Contains(out, "userPassword") {
					t.Errorf("%s answered\n%s", uri, out)
				}
			}
		})
	}
}

func TestSlapdComesBackAfterKill(t *testing.T) {
	t.Parallel()
	s := Slapd(t, SlapdOptions{})
	s.Kill()
	s.Restart()
	Run(t, Program(t, "ldapsearch"), "-x", "-H", s.LDAP, "-D", "uid=bob,ou=people,dc=example,dc=com",
		"-w", ldif.Password("bob"), "-b", "", "-s", "base")
}
