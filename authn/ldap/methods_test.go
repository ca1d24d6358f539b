package ldap_test

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/postern-mail/postern/authn"
	"github.com/postern-mail/postern/authn/file"
	"github.com/postern-mail/postern/authn/ldap"
	"github.com/postern-mail/postern/directory"
	"github.com/postern-mail/postern/directory/directorytest"
	dirldap "github.com/postern-mail/postern/directory/ldap"
	"github.com/postern-mail/postern/internal/testenv"
	"github.com/postern-mail/postern/mail"
	"github.com/postern-mail/postern/status"
	"github.com/postern-mail/postern/testdata/ldif"
)

// methods are chains that ask as the service account, in front of one server.
type methods struct {
	client        *dirldap.Client
	hash, compare *authn.Chain
}

func serve(t *testing.T, tree testenv.Tree, client *dirldap.Client, cfg ldap.Config) methods {
	t.Helper()
	people := directorytest.Open(t, directorytest.Config(tree), client)
	hasher, err := authn.NewHasher(authn.HashConfig{})
	if err != nil {
		t.Fatal(err)
	}
	hashes, err := ldap.NewHashes(cfg, people, client, "")
	if err != nil {
		t.Fatal(err)
	}
	stored, err := file.NewStored("ldap", hashes, hasher, hclog.NewNullLogger())
	if err != nil {
		t.Fatal(err)
	}
	comparer, err := ldap.NewComparer(cfg, people, client, "")
	if err != nil {
		t.Fatal(err)
	}
	chain := func(v authn.Verifier) *authn.Chain {
		c, err := authn.New(authn.Config{FailureBeat: -1, Timeout: 2 * time.Minute}, []authn.Link{{Verifier: v, Accounts: people}}, &ledger{}, hclog.NewNullLogger())
		if err != nil {
			t.Fatal(err)
		}
		return c
	}
	return methods{client: client, hash: chain(stored), compare: chain(comparer)}
}

func want(t *testing.T, c *authn.Chain, what, login, password string, reason status.Reason) {
	t.Helper()
	if _, got, err := verify(t, c, login, password); got != reason {
		t.Errorf("%s: Verify(%q, %q) = %v; want %v", what, login, password, err, reason)
	}
}

// grant lets slapd's service account have a level of access to passwords.
func grant(t *testing.T, s *testenv.SlapdServer, level string) {
	t.Helper()
	change := fmt.Sprintf("dn: olcDatabase={1}mdb,cn=config\nchangetype: modify\nadd: olcAccess\nolcAccess: {0}to attrs=userPassword by dn.exact=%q %s by anonymous auth by * none\n", s.Tree.ServiceDN, level)
	file := filepath.Join(testenv.TempDir(t), "access.ldif")
	if err := os.WriteFile(file, []byte(change), 0o600); err != nil {
		t.Fatal(err)
	}
	testenv.Run(t, testenv.Program(t, "ldapmodify"), "-x", "-H", s.LDAPI, "-D", "cn=config", "-w", "config-secret", "-f", file)
}

// TestSlapdAsService: without the right to see passwords nobody's is wrong;
// with it, people's passwords are checked, and no search shows one.
func TestSlapdAsService(t *testing.T) {
	t.Parallel()
	server := testenv.Slapd(t, testenv.SlapdOptions{GlobalConfig: "database config\nrootdn cn=config\nrootpw config-secret"})
	client := connect(t, server, time.Minute)
	const template = "uid={local},ou=people,dc=example,dc=com"
	found := serve(t, server.Tree, client, ldap.Config{})
	made := serve(t, server.Tree, client, ldap.Config{DNTemplate: template, Domains: []mail.Domain{ldif.Domain}})
	right := ldif.Password("alice")
	for what, c := range map[string]*authn.Chain{"hash": found.hash, "compare": found.compare, "hash, template": made.hash, "compare, template": made.compare} {
		want(t, c, what+" without a right", "alice", right, status.AuthTemporary)
		want(t, c, what+" without a right", "alice", "wrong", status.AuthTemporary)
	}
	const alice = "uid=alice,ou=people,dc=example,dc=com"
	if _, err := client.Passwords(t.Context(), alice, "userPassword"); !errors.Is(err, dirldap.ErrPasswordHidden) || !strings.Contains(err.Error(), "right to read") {
		t.Errorf("no right to read: %v", err)
	}
	if err := client.Compare(t.Context(), alice, "userPassword", right); !errors.Is(err, dirldap.ErrPasswordHidden) || !strings.Contains(err.Error(), "right to compare") {
		t.Errorf("no right to compare: %v", err)
	}

	grant(t, server, "read")
	for what, c := range map[string]*authn.Chain{"hash": found.hash, "hash, template": made.hash} {
		want(t, c, what, "alice", right, status.OK)
		want(t, c, what, "carol@example.com", ldif.Password("carol"), status.OK)
		want(t, c, what, "alice", "wrong", status.AuthFailed)
		want(t, c, what, "alice", "", status.AuthFailed)
		want(t, c, what, "nobody", right, status.AuthFailed)
		want(t, c, what, "alice,ou=people", right, status.AuthFailed)
		want(t, c, what+", disabled", "dave", ldif.Password("dave"), status.AuthFailed)
	}
	entries, err := client.Search(t.Context(), directory.Request{Base: alice, Scope: directory.ScopeBase, Filter: directory.Present("objectClass"), Attributes: []string{"uid", "userPassword"}})
	if err != nil || len(entries) != 1 || entries[0].First("uid") != "alice" || entries[0].First("userPassword") != "" {
		t.Errorf("a search shows %v, %v", entries, err)
	}
	if _, err := client.Passwords(t.Context(), "uid=nobody,ou=people,dc=example,dc=com", "userPassword"); status.Of(err) != status.NoSuchUser {
		t.Errorf("the password of nobody: %v", err)
	}
	if _, err := client.Passwords(t.Context(), alice, "noSuchAttribute"); !errors.Is(err, dirldap.ErrPasswordHidden) {
		t.Errorf("an attribute that is not there: %v", err)
	}

	server.Modify(t, "dn: "+alice+"\nchangetype: modify\nreplace: userPassword\nuserPassword: as it is\n")
	grant(t, server, "compare")
	for what, c := range map[string]*authn.Chain{"compare": found.compare, "compare, template": made.compare} {
		want(t, c, what, "alice", "as it is", status.OK)
		want(t, c, what, "alice", "As it is", status.AuthFailed)
		want(t, c, what, "nobody", right, status.AuthFailed)
	}
	want(t, found.hash, "hash with the right to compare", "alice", "as it is", status.AuthTemporary)

	server.Kill()
	for what, c := range map[string]*authn.Chain{"hash": found.hash, "compare": found.compare, "hash, template": made.hash, "compare, template": made.compare} {
		want(t, c, what+", killed", "alice", "as it is", status.AuthTemporary)
		want(t, c, what+", killed", "alice", "wrong", status.AuthTemporary)
	}
}

// TestHashesOf389 checks passwords as 389 Directory Server stores them.
func TestHashesOf389(t *testing.T) {
	t.Parallel()
	server := testenv.DS389(t, testenv.DS389Options{})
	client, err := dirldap.New(dirldap.Config{
		URIs: []string{server.LDAPS}, CAFile: server.CAFile, BindDN: server.Tree.ServiceDN,
		BindPasswordFile: server.ServicePasswordFile, Timeout: time.Minute,
	}, hclog.NewNullLogger())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(client.Close)
	m := serve(t, server.Tree, client, ldap.Config{})
	want(t, m.hash, "without a right", "alice", ldif.Password("alice"), status.AuthTemporary)
	want(t, m.compare, "without a right", "alice", ldif.Password("alice"), status.AuthTemporary)
	server.Modify(t, fmt.Sprintf(`dn: dc=example,dc=com
changetype: modify
add: aci
aci: (targetattr = "userPassword")(version 3.0; acl "passwords"; allow (read, search, compare) userdn = "ldap:///%s";)
`, server.Tree.ServiceDN))
	const alice = "uid=alice,cn=users,cn=accounts,dc=example,dc=com"
	for _, scheme := range []string{"PBKDF2-SHA512", "PBKDF2-SHA256", "PBKDF2-SHA1", "PBKDF2_SHA256", "SSHA512", "SSHA256", "SSHA", "CRYPT-SHA512"} {
		server.Modify(t, "dn: cn=config\nchangetype: modify\nreplace: passwordStorageScheme\npasswordStorageScheme: "+scheme+"\n")
		password := "by " + scheme
		server.Modify(t, "dn: "+alice+"\nchangetype: modify\nreplace: userPassword\nuserPassword: "+password+"\n")
		values, err := client.Passwords(t.Context(), alice, "userpassword")
		if prefix := "{" + strings.TrimSuffix(scheme, "-SHA512"); err != nil || len(values) != 1 || !strings.HasPrefix(strings.ToUpper(values[0]), prefix) {
			t.Errorf("%s: stored %.40q, %v", scheme, values, err)
		}
		want(t, m.hash, scheme, "alice", password, status.OK)
		want(t, m.hash, scheme, "alice", password+"x", status.AuthFailed)
	}
	want(t, m.hash, "unknown", "nobody", "x", status.AuthFailed)
}

// TestServiceCannotBind: the refusal of our own account, even with a result
// that would say something about the entry, is an outage.
func TestServiceCannotBind(t *testing.T) {
	t.Parallel()
	server := testenv.Slapd(t, testenv.SlapdOptions{})
	client, err := dirldap.New(dirldap.Config{
		URIs: []string{server.LDAPS}, CAFile: server.CAFile, BindDN: "cn=nobody,dc=example,dc=com",
		BindPasswordFile: server.ServicePasswordFile, Timeout: time.Minute,
	}, hclog.NewNullLogger())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(client.Close)
	const alice = "uid=alice,ou=people,dc=example,dc=com"
	if _, err := client.Passwords(t.Context(), alice, "userPassword"); status.Of(err) != status.DirectoryDown {
		t.Errorf("Passwords: %v", err)
	}
	if err := client.Compare(t.Context(), alice, "userPassword", "x"); status.Of(err) != status.DirectoryDown {
		t.Errorf("Compare: %v", err)
	}
}
