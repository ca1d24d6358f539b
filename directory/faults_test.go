package directory_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/postern-mail/postern/directory"
	"github.com/postern-mail/postern/mail"
	"github.com/postern-mail/postern/status"
)

// FuzzLookupsFindOnlyWhatWasAsked puts any text into every place that takes
// text from outside. Whatever is found has exactly that value: nothing in a text
// is read as a filter, a DN or a placeholder.
func FuzzLookupsFindOnlyWhatWasAsked(f *testing.F) {
	content := person("alice", "mail: alice@x.example", "maildrop: alice") + person("bob", "mail: bob@x.example", "maildrop: bob") +
		person("carol", "mail: carol@sub.x.example", "maildrop: carol")
	people := tree(f, content)
	d := open(f, directory.Config{Cache: directory.CacheConfig{Disabled: true}, RecipientDelimiter: "off"}, people)
	table := func(base, filter string, scope directory.Scope) *directory.QueryTable {
		q, err := directory.NewQueryTable(directory.QueryTableConfig{SearchBase: base, QueryFilter: filter, Scope: scope}, people)
		if err != nil {
			f.Fatal(err)
		}
		return q
	}
	tables := []struct {
		*directory.QueryTable
		asked func(key directory.Key, text string) string // the uid that may be found
	}{
		{table("ou=people,dc=x", "(mail=%s)", directory.ScopeSub), func(_ directory.Key, text string) string {
			local, domain, _ := strings.Cut(text, "@")
			if domain == "x.example" && local != "carol" || domain == "sub.x.example" && local == "carol" {
				return local
			}
			return ""
		}},
		{table("ou=people,dc=x", "(uid=%u)", directory.ScopeSub), func(_ directory.Key, text string) string { return beforeLastAt(text) }},
		{table("uid=%u,ou=people,dc=x", "(objectClass=*)", directory.ScopeBase), func(_ directory.Key, text string) string { return beforeLastAt(text) }},
		{table("ou=people,dc=x", "(&(uid=%u)(mail=%u@%d))", directory.ScopeSub), func(_ directory.Key, text string) string { return beforeLastAt(text) }},
		{table("ou=people,dc=x", "(mail=%u@%3.%2.%1)", directory.ScopeSub), func(_ directory.Key, text string) string { return beforeLastAt(text) }},
	}
	for _, seed := range []string{
		"alice", "alice@x.example", "ALICE@X.EXAMPLE", "*", "*@x.example", "a*", "alice)(uid=*", "*)(uid=*))(|(uid=*", "alice,ou=people,dc=x", `alice\2c`, `\2a`, "%s", "%u@x.example",
		"alice\x00", "\x00", "(alice)", "alice+uid=bob", "uid=alice", "#616c696365", `"alice"`, " alice", "alice ", "ａlice", "alice\u0301", "\xff", "@x.example", "alice@", "alice@*", "carol@sub.x.example", "&", "|", "!", "a=b",
	} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		folded := strings.ToLower(strings.TrimSpace(text))
		for i, table := range tables {
			values, err := table.Lookup(t.Context(), text)
			if err != nil {
				t.Errorf("table %d: %q: %v", i, text, err)
			}
			for _, v := range values {
				// LDAP compares without regard to case and spaces around (RFC 4518).
				if want := strings.TrimSpace(table.asked(directory.NewKey(text), folded)); v != want {
					t.Errorf("table %d: %q finds %q", i, text, v)
				}
			}
		}
		if account, err := d.Account(t.Context(), text); err == nil {
			local, domain, isAddress := strings.Cut(folded, "@")
			if account.Name != local || isAddress && domain != string(account.Primary.Domain) {
				t.Errorf("login %q is %q", text, account.Name)
			}
		}
		if a, err := mail.ParseAddress(text); err == nil {
			recipients, err := d.Resolve(t.Context(), a)
			for _, r := range recipients {
				if r.Address.Fold() != a.Fold() {
					t.Errorf("%s resolves to %s (%v)", a, r.Address, err)
				}
			}
		}
	})
}

func beforeLastAt(text string) string {
	if at := strings.LastIndexByte(text, '@'); at >= 0 {
		return text[:at]
	}
	return text
}

// TestAmbiguityNamesBoth: an address that two entries claim is nobody's, and
// the operator is told whose.
func TestAmbiguityNamesBoth(t *testing.T) {
	t.Parallel()
	d := open(t, directory.Config{}, tree(t, person("a", "mail: a@x.example")+person("b", "mail: A@X.example")))
	for _, ask := range []func() error{
		func() error { _, err := d.Resolve(t.Context(), mail.MustAddress("a@x.example")); return err },
		func() error { _, err := d.Account(t.Context(), "a@x.example"); return err },
	} {
		err := ask()
		if status.Of(err) != status.AddressAmbiguous || !strings.Contains(err.Error(), "uid=a,") || !strings.Contains(err.Error(), "uid=b,") {
			t.Errorf("two claim the address: %v; want both named", err)
		}
	}
}

// TestHugeGroup: a group of tens of thousands is delivered to whole or not at
// all, never in part.
func TestHugeGroup(t *testing.T) {
	t.Parallel()
	const members = 30_000
	var lines []string
	for i := range members {
		lines = append(lines, fmt.Sprintf("forward: m%d@elsewhere.example", i))
	}
	content := tree(t, "dn: cn=all,dc=x\nobjectClass: groupOfNames\ncn: all\nmail: all@x.example\n"+strings.Join(lines, "\n")+"\n")
	ours := []mail.Domain{"x.example"} // the members are elsewhere: nobody is asked about them
	mapping := directory.Mapping{MemberAddressAttributes: []string{"forward"}}
	small := open(t, directory.Config{Mapping: mapping, Domains: ours}, content)
	if got, err := small.Resolve(t.Context(), mail.MustAddress("all@x.example")); err == nil || status.Of(err) == status.NoSuchUser || len(got) > 0 {
		t.Errorf("beyond the bound: %d recipients, %v; want an error and none", len(got), err)
	}
	large := open(t, directory.Config{Mapping: mapping, Domains: ours, MaxRecipients: 2 * members, LookupTimeout: time.Minute}, content)
	if got, err := large.Resolve(t.Context(), mail.MustAddress("all@x.example")); err != nil || len(got) != members {
		t.Errorf("within the bound: %d recipients, %v; want %d", len(got), err, members)
	}
}
