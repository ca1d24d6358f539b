package directory_test

import (
	"testing"

	"github.com/postern-mail/postern/directory"
	"github.com/postern-mail/postern/mail"
	"github.com/postern-mail/postern/status"
)

// TestTwoPeopleOfOneName: a directory keeps names unique in one place of the
// tree only, and mailboxes are named by them.
func TestTwoPeopleOfOneName(t *testing.T) {
	t.Parallel()
	content := tree(t, person("alice", "mail: alice@x.example")+person("bob", "mail: bob@x.example")+
		"dn: ou=branch,ou=people,dc=x\nobjectClass: organizationalUnit\nou: branch\n\n"+
		"dn: uid=alice,ou=branch,ou=people,dc=x\nobjectClass: inetOrgPerson\nuid: Alice\nmail: alice2@x.example\n\n")
	d := open(t, directory.Config{}, content)
	for _, address := range []string{"alice@x.example", "alice2@x.example"} {
		if a, err := d.AccountOf(t.Context(), mail.MustAddress(address)); status.Of(err) != status.AddressAmbiguous {
			t.Errorf("AccountOf(%s) = %+v, %v; want AddressAmbiguous", address, a, err)
		}
	}
	if _, err := d.AccountNamed(t.Context(), "alice"); status.Of(err) != status.AddressAmbiguous {
		t.Errorf("AccountNamed(alice): %v", err)
	}
	if a, err := d.AccountOf(t.Context(), mail.MustAddress("bob@x.example")); err != nil || a.Name != "bob" {
		t.Errorf("AccountOf(bob) = %+v, %v", a, err)
	}
}

// TestAccountNamed: what people log in with need not be what their mailboxes
// are named by.
func TestAccountNamed(t *testing.T) {
	t.Parallel()
	content := tree(t, person("alice", "mail: alice@x.example", "employeeNumber: 4711")+person("4711", "mail: other@x.example", "employeeNumber: 7"))
	for name, row := range map[string]struct {
		mapping directory.Mapping
		login   string
		want    string
	}{
		"login filter":   {directory.Mapping{LoginFilter: "(mail=%s)"}, "alice@x.example", "alice"},
		"name attribute": {directory.Mapping{NameAttribute: "employeeNumber"}, "alice", "4711"},
	} {
		d := open(t, directory.Config{Mapping: row.mapping}, content)
		account, err := d.Account(t.Context(), row.login)
		if err != nil || account.Name != row.want {
			t.Fatalf("%s: Account(%s) = %+v, %v", name, row.login, account, err)
		}
		named, err := d.AccountNamed(t.Context(), account.Name)
		if err != nil || named.Primary != mail.MustAddress("alice@x.example") {
			t.Errorf("%s: AccountNamed(%s) = %+v, %v", name, account.Name, named, err)
		}
		id := mail.Identity{Authentication: account.Name, Source: d.Name()}
		if may, err := d.MaySendAs(t.Context(), id, mail.MustAddress("other@x.example")); may || err != nil {
			t.Errorf("%s: who is named like another's login sends as that one: %v", name, err)
		}
		if may, err := d.MaySendAs(t.Context(), id, mail.MustAddress("alice@x.example")); !may || err != nil {
			t.Errorf("%s: own address: %v, %v", name, may, err)
		}
		if _, err := d.AccountNamed(t.Context(), "nobody"); status.Of(err) != status.NoSuchUser {
			t.Errorf("%s: AccountNamed(nobody): %v", name, err)
		}
	}
}
