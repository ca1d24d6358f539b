package ldap_test

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/postern-mail/postern/directory"
	"github.com/postern-mail/postern/directory/directorytest"
	"github.com/postern-mail/postern/directory/ldap"
	"github.com/postern-mail/postern/internal/testenv"
	"github.com/postern-mail/postern/mail"
	"github.com/postern-mail/postern/status"
	company "github.com/postern-mail/postern/testdata/ldif"
)

func TestMain(m *testing.M) { os.Exit(testenv.Main(m)) }

// The servers that take long to start, of all tests here. Tests add entries of
// their own and change nothing else.
var (
	freeIPA = testenv.NewShared(func(t testing.TB) *testenv.DS389Server { return testenv.DS389(t, testenv.DS389Options{}) })
	samba   = testenv.NewShared(func(t testing.TB) *testenv.SambaServer { return testenv.Samba(t, testenv.SambaOptions{}) })
)

// of389 and ofSamba return how to reach a server as the tree's service account.
func of389(s *testenv.DS389Server, uris ...string) ldap.Config {
	return ldap.Config{URIs: uris, CAFile: s.CAFile, BindDN: s.Tree.ServiceDN,
		BindPasswordFile: s.ServicePasswordFile, Timeout: time.Minute}
}

func ofSamba(s *testenv.SambaServer, uris ...string) ldap.Config {
	return ldap.Config{URIs: uris, CAFile: s.CAFile, BindDN: s.Tree.ServiceDN,
		BindPasswordFile: s.ServicePasswordFile, Timeout: time.Minute}
}

// TestConformanceOf389 holds the 389 Directory Server to what slapd answers,
// in each shape that it is found in.
func TestConformanceOf389(t *testing.T) {
	t.Parallel()
	t.Run("freeipa", func(t *testing.T) {
		t.Parallel()
		s := freeIPA.Get(t)
		directorytest.Run(t, s.Tree, open(t, of389(s, s.LDAPI)))
	})
	for _, tree := range []testenv.Tree{company.DS389(), company.Qmail()} {
		t.Run(tree.Preset, func(t *testing.T) {
			t.Parallel()
			s := testenv.DS389(t, testenv.DS389Options{Tree: tree, Plain: true})
			directorytest.Run(t, tree, open(t, of389(s, s.LDAPS)))
		})
	}
}

// TestConformanceOfSamba does so with an Active Directory.
func TestConformanceOfSamba(t *testing.T) {
	t.Parallel()
	s := samba.Get(t)
	directorytest.Run(t, s.Tree, open(t, ofSamba(s, s.LDAPS)))
}

// TestLogins has people of every shape log in by each form of login there is,
// and every kind of password refused.
func TestLogins(t *testing.T) {
	t.Parallel()
	of := func(t *testing.T, tree testenv.Tree, cfg ldap.Config) (*ldap.Client, *directory.Directory) {
		c := open(t, cfg)
		return c, directorytest.Open(t, directorytest.Config(tree), c)
	}
	for _, row := range []struct {
		name   string
		open   func(*testing.T) (*ldap.Client, *directory.Directory)
		logins []string // Bob's
	}{
		{"slapd", func(t *testing.T) (*ldap.Client, *directory.Directory) {
			s := testenv.Slapd(t, testenv.SlapdOptions{})
			return of(t, s.Tree, config(s, s.LDAPS))
		}, []string{"bob", "BOB", "bob@example.com", "Bob@Example.COM"}},
		{"freeipa", func(t *testing.T) (*ldap.Client, *directory.Directory) {
			s := freeIPA.Get(t)
			s.Modify(t, "dn: uid=frank,cn=users,cn=accounts,dc=example,dc=com\nchangetype: modify\nadd: krbPrincipalName\nkrbPrincipalName: f.fischer@EXAMPLE.COM\n")
			_, d := of(t, s.Tree, of389(s, s.LDAPS))
			for _, login := range []string{"frank@EXAMPLE.COM", "f.fischer@EXAMPLE.COM"} { // his principal and its alias
				if _, account, err := d.FindLogin(ctx(t), login); err != nil || account.Name != "frank" {
					t.Errorf("login %s: %q, %v", login, account.Name, err)
				}
			}
			return of(t, s.Tree, of389(s, s.LDAPS))
		}, []string{"bob", "BOB", "bob@EXAMPLE.COM", "bob@example.com"}},
		{"ad", func(t *testing.T) (*ldap.Client, *directory.Directory) {
			s := samba.Get(t)
			return of(t, s.Tree, ofSamba(s, s.LDAPS))
		}, []string{"bob", "BOB", "bob@example.com", "bob@corp.example.com"}},
	} {
		t.Run(row.name, func(t *testing.T) {
			t.Parallel()
			c, d := row.open(t)
			for _, login := range row.logins {
				dn, account, err := d.FindLogin(ctx(t), login)
				if err != nil || account.Name != "bob" {
					t.Errorf("login %s: %q, %v", login, account.Name, err)
					continue
				}
				for password, want := range map[string]status.Reason{
					company.Password("bob"): status.OK, "wrong": status.AuthFailed, "": status.AuthFailed,
				} {
					if err := c.Bind(ctx(t), dn, password); status.Of(err) != want {
						t.Errorf("%s with %q: %v, want %s", login, password, err, want)
					}
				}
			}
			dn, _, err := d.FindLogin(ctx(t), "dave")
			if err != nil {
				t.Fatal(err)
			}
			if err := c.Bind(ctx(t), dn, company.Password("dave")); row.name != "slapd" && status.Of(err) != status.AccountDisabled {
				t.Errorf("the disabled account: %v", err)
			}
		})
	}
}

// TestActiveDirectoryTellsWhy has a domain controller refuse for each reason it
// gives in its text.
func TestActiveDirectoryTellsWhy(t *testing.T) {
	t.Parallel()
	s := samba.Get(t)
	c := open(t, ofSamba(s, s.LDAPS))
	dn := func(name string) string { return "CN=" + name + ",CN=Users,DC=example,DC=com" }
	add := func(name string) {
		s.Tool(t, "user", "create", name, "Secret-"+name)
	}
	change := func(name, changes string) {
		s.Modify(t, "dn: "+dn(name)+"\nchangetype: modify\n"+changes)
	}
	const past = "132000000000000000"
	add("left")
	change("left", "replace: accountExpires\naccountExpires: "+past+"\n")
	add("fresh")
	change("fresh", "replace: pwdLastSet\npwdLastSet: 0\n")
	add("gone")
	change("gone", "replace: userAccountControl\nuserAccountControl: 514\n")
	add("night")
	change("night", "replace: logonHours\nlogonHours:: AAAAAAAAAAAAAAAAAAAAAAAAAAAA\n")
	for _, row := range []struct {
		name, password string
		reason         status.Reason
		cause          string
	}{
		{"night", "Secret-night", status.AccountDisabled, "530"},
		{"left", "Secret-left", status.AccountDisabled, "701"},
		{"fresh", "Secret-fresh", status.AccountDisabled, "773"},
		{"gone", "Secret-gone", status.AccountDisabled, "533"},
		{"left", "wrong", status.AuthFailed, "52e"},
		{"nobody", "wrong", status.AuthFailed, ""},
	} {
		err := c.Bind(ctx(t), dn(row.name), row.password)
		if status.Of(err) != row.reason || !strings.Contains(fmt.Sprint(err), row.cause) {
			t.Errorf("%s with %q: %v; want %s with %q", row.name, row.password, err, row.reason, row.cause)
		}
	}
	// The account is disabled for us too, before anybody asks for a password.
	s.Modify(t, "dn: "+dn("left")+"\nchangetype: modify\nreplace: mail\nmail: left@example.com\n")
	d := directorytest.Open(t, directorytest.Config(s.Tree), c)
	for name, disabled := range map[string]bool{"left": true, "gone": true, "fresh": false} {
		if _, a, err := d.FindLogin(ctx(t), name); err != nil || a.Disabled != disabled {
			t.Errorf("%s: disabled = %v, %v", name, a.Disabled, err)
		}
	}
	// The plain port takes no password in the clear, and that is no answer about it.
	plain := ofSamba(s, s.LDAP)
	if err := open(t, plain).Bind(ctx(t), dn("fresh"), "Secret-fresh"); status.Of(err) != status.DirectoryDown {
		t.Errorf("in the clear: %v", err)
	}
	plain.StartTLS, plain.ServerName = true, "dc1.example.com"
	if err := open(t, plain).Bind(ctx(t), dn("Bob Berger"), company.Password("bob")); err != nil {
		t.Errorf("by StartTLS: %v", err)
	}
}

// TestActiveDirectoryLocks has its own domain, since the rule is the domain's:
// too many failures. It also has a group of more members than a controller shows
// at once.
func TestActiveDirectoryLocks(t *testing.T) {
	t.Parallel()
	s := testenv.Samba(t, testenv.SambaOptions{Crowd: 1600})
	c := open(t, ofSamba(s, s.LDAPS))
	bob := "CN=Bob Berger,CN=Users,DC=example,DC=com"
	s.Tool(t, "domain", "passwordsettings", "set", "--account-lockout-threshold=3")
	for range 3 {
		if err := c.Bind(ctx(t), bob, "wrong"); status.Of(err) != status.AuthFailed {
			t.Errorf("a wrong password: %v", err)
		}
	}
	if err := c.Bind(ctx(t), bob, company.Password("bob")); status.Of(err) != status.AccountDisabled || !strings.Contains(err.Error(), "775") {
		t.Errorf("locked: %v", err)
	}
	s.Tool(t, "user", "unlock", "bob")
	if err := c.Bind(ctx(t), bob, company.Password("bob")); err != nil {
		t.Errorf("unlocked: %v", err)
	}
	// One search for each member: a busy machine takes its time.
	cfg := directorytest.Config(s.Tree)
	cfg.LookupTimeout = 5 * time.Minute
	patient, cancel := context.WithTimeout(context.Background(), cfg.LookupTimeout)
	defer cancel()
	d := directorytest.Open(t, cfg, c)
	if got, err := d.Resolve(patient, mail.MustAddress("crowd@example.com")); err != nil || len(got) != 1600 {
		t.Errorf("a group of 1600: %d recipients, %v", len(got), err)
	}
	if entries, err := c.Search(ctx(t), directory.Request{Base: "DC=example,DC=com", Filter: directory.Equal("sAMAccountName", "crowd"),
		Attributes: []string{"member;range=0-999"}}); err != nil || len(entries) != 1 || len(entries[0].Values("member")) != 1600 {
		t.Errorf("in ranges: %d entries, %v", len(entries), err)
	}
}

// TestFreeIPATellsWhy has a 389 Directory Server lock accounts for every reason
// it knows.
func TestFreeIPATellsWhy(t *testing.T) {
	t.Parallel()
	s := testenv.DS389(t, testenv.DS389Options{})
	c := open(t, of389(s, s.LDAPS))
	dn := func(uid string) string { return "uid=" + uid + ",cn=users,cn=accounts,dc=example,dc=com" }
	s.Modify(t, `dn: cn=config
changetype: modify
replace: passwordLockout
passwordLockout: on
-
replace: passwordMaxFailure
passwordMaxFailure: 3
-
replace: passwordLockoutDuration
passwordLockoutDuration: 3600
-
replace: passwordExp
passwordExp: on
-
replace: passwordMustChange
passwordMustChange: on
`)
	if err := c.Bind(ctx(t), dn("dave"), company.Password("dave")); status.Of(err) != status.AccountDisabled {
		t.Errorf("nsAccountLock: %v", err)
	}
	var last error
	for range 4 {
		last = c.Bind(ctx(t), dn("bob"), "wrong")
	}
	if status.Of(last) != status.AccountDisabled {
		t.Errorf("the fourth wrong password: %v", last)
	}
	if err := c.Bind(ctx(t), dn("bob"), company.Password("bob")); status.Of(err) != status.AccountDisabled {
		t.Errorf("locked, with the right password: %v", err)
	}
	// Expired, and out of graces.
	s.Modify(t, "dn: "+dn("erin")+"\nchangetype: modify\nreplace: passwordExpirationTime\npasswordExpirationTime: 20200101000000Z\n")
	if err := c.Bind(ctx(t), dn("erin"), company.Password("erin")); status.Of(err) != status.AccountDisabled {
		t.Errorf("an expired password: %v", err)
	}
	// A principal that ended: the server still lets it in, FreeIPA does not want it.
	s.Modify(t, "dn: "+dn("carol")+"\nchangetype: modify\nreplace: krbPrincipalExpiration\nkrbPrincipalExpiration: 20200101000000Z\n")
	d := directorytest.Open(t, directorytest.Config(s.Tree), c)
	if _, a, err := d.FindLogin(ctx(t), "carol"); err != nil || !a.Disabled {
		t.Errorf("an expired principal: disabled = %v, %v", a.Disabled, err)
	}
	// A password that Kerberos calls expired and the server accepts counts only
	// where that is asked for.
	s.Modify(t, "dn: "+dn("frank")+"\nchangetype: modify\nreplace: krbPasswordExpiration\nkrbPasswordExpiration: 20200101000000Z\n")
	if _, a, err := d.FindLogin(ctx(t), "frank"); err != nil || a.Disabled {
		t.Errorf("a password expired for Kerberos: disabled = %v, %v", a.Disabled, err)
	}
	if err := c.Bind(ctx(t), dn("frank"), company.Password("frank")); err != nil {
		t.Errorf("a password expired for Kerberos: %v", err)
	}
	cfg := directorytest.Config(s.Tree)
	cfg.Mapping.ExpiryAttributes = []string{"krbPrincipalExpiration", "krbPasswordExpiration"}
	if _, a, err := directorytest.Open(t, cfg, c).FindLogin(ctx(t), "frank"); err != nil || !a.Disabled {
		t.Errorf("with krbPasswordExpiration: disabled = %v, %v", a.Disabled, err)
	}
	inactive(t, s, c, dn("grace"))
}

// inactive has the account policy plug-in lock somebody who was away for long.
func inactive(t *testing.T, s *testenv.DS389Server, c *ldap.Client, dn string) {
	t.Helper()
	s.Modify(t, `dn: cn=away,dc=example,dc=com
objectClass: ldapSubEntry
objectClass: extensibleObject
objectClass: accountPolicy
cn: away
accountInactivityLimit: 3600

dn: `+dn+`
changetype: modify
replace: lastLoginTime
lastLoginTime: 20200101000000Z
-
replace: acctPolicySubentry
acctPolicySubentry: cn=away,dc=example,dc=com
`)
	if err := c.Bind(ctx(t), dn, company.Password("grace")); status.Of(err) != status.AccountDisabled {
		t.Errorf("inactive for long: %v", err)
	}
}

// TestSlapdPolicyTellsWhy does so with the ppolicy overlay, which says more only
// in its control, and of locks only when it is told to.
func TestSlapdPolicyTellsWhy(t *testing.T) {
	t.Parallel()
	tree := company.OpenLDAP()
	tree.LDIF = []byte(strings.NewReplacer(
		"pwdLockout: TRUE\n", "pwdLockout: TRUE\npwdMaxFailure: 3\npwdMaxAge: 86400\npwdMustChange: TRUE\n",
		"\nuid: erin\n", "\nuid: erin\npwdChangedTime: 20200101000000Z\n",
		"\nuid: carol\n", "\nuid: carol\npwdReset: TRUE\n",
	).Replace(string(tree.LDIF)))
	s := testenv.Slapd(t, testenv.SlapdOptions{Tree: tree, GlobalConfig: "database config\nrootdn cn=config\nrootpw config-secret"})
	c := open(t, config(s, s.LDAPS))
	want := func(uid, password string, reason status.Reason, cause string) {
		t.Helper()
		err := c.Bind(ctx(t), "uid="+uid+",ou=people,dc=example,dc=com", password)
		if status.Of(err) != reason || !strings.Contains(fmt.Sprint(err), cause) {
			t.Errorf("%s with %q: %v; want %s with %q", uid, password, err, reason, cause)
		}
	}
	want("alice", company.Password("alice"), status.OK, "")
	want("erin", company.Password("erin"), status.AccountDisabled, "the password has expired")
	want("carol", company.Password("carol"), status.AccountDisabled, "must be changed")
	for range 3 {
		want("bob", "wrong", status.AuthFailed, "wrong password")
	}
	want("bob", company.Password("bob"), status.AuthFailed, "wrong password")
	file := filepath.Join(testenv.TempDir(t), "config.ldif")
	if err := os.WriteFile(file, []byte("dn: olcOverlay={0}ppolicy,olcDatabase={1}mdb,cn=config\nchangetype: modify\nreplace: olcPPolicyUseLockout\nolcPPolicyUseLockout: TRUE\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	testenv.Run(t, testenv.Program(t, "ldapmodify"), "-x", "-H", s.LDAPI, "-D", "cn=config", "-w", "config-secret", "-f", file)
	want("bob", company.Password("bob"), status.AccountDisabled, "the account is locked")
}

// TestFreeIPAReplicas: of two servers of a FreeIPA domain the first dies for
// good. The second answers, searches as well as passwords, and what changes there
// counts; when it does not answer either, nobody is unknown.
func TestFreeIPAReplicas(t *testing.T) {
	t.Parallel()
	old := testenv.DS389(t, testenv.DS389Options{})
	other := testenv.DS389(t, testenv.DS389Options{CA: old.CA})
	c := open(t, of389(old, old.LDAPS, other.LDAPS))
	d := directorytest.Open(t, directorytest.Config(old.Tree), c)
	names := func() string {
		got, err := d.Resolve(ctx(t), mail.MustAddress("info@example.com"))
		if err != nil {
			return status.Of(err).String()
		}
		var all []string
		for _, r := range got {
			all = append(all, r.Address.String())
		}
		slices.Sort(all)
		return strings.Join(all, " ")
	}
	if got := names(); got != "alice@example.com bob@example.com" {
		t.Errorf("at the first: %s", got)
	}
	old.Kill()
	if got := names(); got != "alice@example.com bob@example.com" {
		t.Errorf("at the second: %s", got)
	}
	if err := c.Bind(ctx(t), "uid=bob,cn=users,cn=accounts,dc=example,dc=com", company.Password("bob")); err != nil {
		t.Errorf("at the second: %v", err)
	}
	other.Modify(t, "dn: cn=info,cn=groups,cn=accounts,dc=example,dc=com\nchangetype: modify\ndelete: member\nmember: uid=bob,cn=users,cn=accounts,dc=example,dc=com\n")
	if got := names(); got != "alice@example.com" {
		t.Errorf("changed at the second: %s", got)
	}
	other.Pause()
	short, cancel := context.WithTimeout(context.Background(), 300*time.Millisecond)
	defer cancel()
	if _, err := d.Resolve(short, mail.MustAddress("info@example.com")); status.Of(err) != status.DirectoryDown {
		t.Errorf("nobody answers: %v", err)
	}
	other.Resume()
}

// TestDynamicGroups: members by a filter, evaluated by us (memberURL) and by
// slapd's dynlist overlay, which shows them as members; a person in both counts
// once.
func TestDynamicGroups(t *testing.T) {
	t.Parallel()
	for name, overlay := range map[string]string{
		"memberURL": "",
		"dynlist":   "overlay dynlist\ndynlist-attrset groupOfURLs memberURL member",
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			tree := company.OpenLDAP()
			tree.Schemas = append(slices.Clone(tree.Schemas), "dyngroup")
			modules := ""
			if overlay != "" {
				modules = "moduleload dynlist"
			}
			s := testenv.Slapd(t, testenv.SlapdOptions{Tree: tree, GlobalConfig: modules, Config: overlay})
			s.Modify(t, `dn: cn=berliners,ou=groups,dc=example,dc=com
objectClass: groupOfURLs
objectClass: inetLocalMailRecipient
cn: berliners
mailLocalAddress: berliners@example.com
memberURL: ldap:///ou=people,dc=example,dc=com??sub?(sn=B*)
memberURL: ldap:///ou=people,dc=example,dc=com??sub?(uid=alice)
`)
			d := directorytest.Open(t, directorytest.Config(tree), open(t, config(s, s.LDAPI)))
			got, err := d.Resolve(ctx(t), mail.MustAddress("berliners@example.com"))
			if err != nil || len(got) != 2 {
				t.Errorf("%v, %v; want alice and bob", got, err)
			}
		})
	}
}

// TestMailLocalAddressUnderItsOtherName: the attribute of a tree that moved
// between OpenLDAP and 389 Directory Server is found under either name.
func TestMailLocalAddressUnderItsOtherName(t *testing.T) {
	t.Parallel()
	s := testenv.DS389(t, testenv.DS389Options{Tree: company.DS389(), Plain: true})
	tree := s.Tree
	tree.Preset = "openldap"
	cfg := directorytest.Config(tree)
	cfg.Mapping.GroupFilter = "(objectClass=groupOfUniqueNames)"
	d := directorytest.Open(t, cfg, open(t, of389(s, s.LDAPI)))
	got, err := d.Resolve(ctx(t), mail.MustAddress("a.anders@example.com"))
	if err != nil || len(got) != 1 || got[0].Address != mail.MustAddress("alice@example.com") {
		t.Errorf("%v, %v", got, err)
	}
}
