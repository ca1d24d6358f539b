package ldap_test

import (
	"cmp"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/postern-mail/postern/directory"
	"github.com/postern-mail/postern/directory/directorytest"
	"github.com/postern-mail/postern/directory/ldap"
	"github.com/postern-mail/postern/internal/testenv"
	"github.com/postern-mail/postern/mail"
	company "github.com/postern-mail/postern/testdata/ldif"
)

var fence = regexp.MustCompile("(?ms)^```(ldif|ldif config|sh)\n(.*?)^```$")

// shown calls apply for each block of LDIF and of commands in a document, in
// order.
func shown(t *testing.T, document string, apply func(kind, text string)) {
	t.Helper()
	content, err := os.ReadFile("../../docs/" + document)
	if err != nil {
		t.Fatal(err)
	}
	blocks := fence.FindAllStringSubmatch(string(content), -1)
	if len(blocks) == 0 {
		t.Fatalf("%s shows nothing to do", document)
	}
	for _, block := range blocks {
		apply(block[1], block[2])
	}
}

// wantReader has a service account, made as a document says, see what mail needs
// and not be cut short by a server's limit.
func wantReader(t *testing.T, tree testenv.Tree, cfg ldap.Config, also string) {
	t.Helper()
	c := open(t, cfg)
	d := directorytest.Open(t, directorytest.Config(tree), c)
	for address, want := range map[string]int{"alice@example.com": 1, "staff@example.com": 4, also: 1} {
		if got, err := d.Resolve(ctx(t), mail.MustAddress(address)); err != nil || len(got) < want {
			t.Errorf("%s: %v, %v", address, got, err)
		}
	}
	if _, a, err := d.FindLogin(ctx(t), "dave"); err != nil || !a.Disabled {
		t.Errorf("dave: disabled = %v, %v", a.Disabled, err)
	}
	entries, err := c.Search(ctx(t), directory.Request{Base: directory.DN(tree.BaseDN), Filter: directory.Present("objectClass"), SizeLimit: 400})
	if err != nil || len(entries) < 15 {
		t.Errorf("everything: %d entries, %v", len(entries), err)
	}
}

// TestDocumentsAreDone does what the pages on servers say, on these servers.
func TestDocumentsAreDone(t *testing.T) {
	t.Parallel()
	const password = "a long random password"
	t.Run("directory-openldap.md", func(t *testing.T) {
		t.Parallel()
		s := testenv.Slapd(t, testenv.SlapdOptions{
			GlobalConfig: "database config\nrootdn cn=config\nrootpw config-secret", Config: "sizelimit 5",
		})
		shown(t, "directory-openldap.md", func(kind, text string) {
			if kind == "ldif" {
				s.Modify(t, text)
				return
			}
			file := filepath.Join(testenv.TempDir(t), "config.ldif")
			if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
				t.Fatal(err)
			}
			testenv.Run(t, testenv.Program(t, "ldapmodify"), "-x", "-H", s.LDAPI, "-D", "cn=config", "-w", "config-secret", "-f", file)
		})
		cfg := config(s, s.LDAPS)
		cfg.BindDN, cfg.BindPasswordFile = "cn=postern,ou=daemons,dc=example,dc=com", passwordFile(t, password)
		s.Modify(t, "dn: uid=dave,ou=people,dc=example,dc=com\nchangetype: modify\nreplace: pwdAccountLockedTime\npwdAccountLockedTime: 000001010000Z\n")
		wantReader(t, s.Tree, cfg, "a.anders@example.com")
	})
	cut := "dn: cn=config\nchangetype: modify\nreplace: nsslapd-sizelimit\nnsslapd-sizelimit: 5\n"
	t.Run("directory-freeipa.md", func(t *testing.T) {
		t.Parallel()
		s := testenv.DS389(t, testenv.DS389Options{})
		s.Modify(t, cut)
		s.Modify(t, `dn: cn=helpdesk,cn=groups,cn=accounts,dc=example,dc=com
objectClass: ipaUserGroup
cn: helpdesk
member: uid=bob,cn=users,cn=accounts,dc=example,dc=com

dn: dc=example,dc=com
changetype: modify
add: aci
aci: (targetattr != "userPassword || krbPrincipalKey")(version 3.0; acl "as FreeIPA allows"; allow (read, search, compare) userdn = "ldap:///all";)
`)
		shown(t, "directory-freeipa.md", func(kind, text string) {
			if kind == "ldif" { // the ipa commands need a whole FreeIPA
				s.Modify(t, text)
			}
		})
		cfg := of389(s, s.LDAPS)
		cfg.BindDN, cfg.BindPasswordFile = "uid=postern,cn=sysaccounts,cn=etc,dc=example,dc=com", passwordFile(t, password)
		wantReader(t, s.Tree, cfg, "helpdesk@example.com")
	})
	t.Run("directory-389ds.md", func(t *testing.T) {
		t.Parallel()
		s := testenv.DS389(t, testenv.DS389Options{Tree: company.DS389(), Plain: true})
		s.Modify(t, cut)
		shown(t, "directory-389ds.md", func(_, text string) { s.Modify(t, text) })
		cfg := of389(s, s.LDAPS)
		cfg.BindDN, cfg.BindPasswordFile = "uid=postern,ou=services,dc=example,dc=com", passwordFile(t, password)
		wantReader(t, s.Tree, cfg, "alice.anders@example.com")
	})
	t.Run("directory-ad.md", func(t *testing.T) {
		t.Parallel()
		s := samba.Get(t)
		shown(t, "directory-ad.md", func(_, text string) { s.Shell(t, text) })
		cfg := ofSamba(s, s.LDAPS)
		cfg.BindDN, cfg.BindPasswordFile = "cn=postern,cn=Users,dc=example,dc=com", passwordFile(t, "a-Long-random-password-1")
		wantReader(t, s.Tree, cfg, "everyone@example.com")
	})
}

// TestPresetsAreDocumented: what the presets read stands in the document.
func TestPresetsAreDocumented(t *testing.T) {
	t.Parallel()
	elsewhere := map[string]string{"nss": "system-users.md", "sql": "tables.md"}
	for _, preset := range directory.PresetNames() {
		document := cmp.Or(elsewhere[preset], "directory.md")
		content, err := os.ReadFile("../../docs/" + document)
		if err != nil {
			t.Fatal(err)
		}
		if document != "directory.md" { // its attributes are its own, and nobody's to name
			if !strings.Contains(string(content), "directory \""+preset+"\"") {
				t.Errorf("docs/%s does not show a directory of kind %s", document, preset)
			}
			continue
		}
		for _, name := range directory.PresetAttributes(preset) {
			if !strings.Contains(string(content), "`"+name+"`") {
				t.Errorf("docs/directory.md does not name %s of preset %s", name, preset)
			}
		}
	}
}
