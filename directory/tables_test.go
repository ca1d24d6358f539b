package directory_test

import (
	"context"
	"errors"
	"strings"
	"testing"

	"github.com/hashicorp/go-hclog"

	"github.com/postern-mail/postern/directory"
	"github.com/postern-mail/postern/mail"
	"github.com/postern-mail/postern/status"
	"github.com/postern-mail/postern/table"
)

// aliases is a table in memory.
type aliases struct{ table.Table }

func (a aliases) Lookup(ctx context.Context, key string) ([]string, error) {
	if key == "broken@x.example" {
		return nil, errors.New("unreadable")
	}
	return a.Table.Lookup(ctx, key)
}

func TestTablesComeFirst(t *testing.T) {
	t.Parallel()
	static, err := (&table.Opener{}).Parse(table.KindAliases, "aliases", strings.NewReader(`
# the company's aliases
info@x.example    a@x.example, b@x.example
root: a,
      Somebody@elsewhere.example
copy@x.example    copy@x.example, b@x.example
a@x.example       a@x.example, archive@elsewhere.example
ping@x.example    pong@x.example
pong@x.example    ping@x.example
b: \c@x.example, \b
@x.example        b@x.example
`), directory.TargetUse)
	if err != nil {
		t.Fatal(err)
	}
	content := tree(t, person("a", "mail: a@x.example")+person("b", "mail: b@x.example")+person("c", "mail: c@x.example"))
	d, err := directory.New(directory.Config{BaseDN: "dc=x", Domains: []mail.Domain{"x.example"}}, content, hclog.NewNullLogger(), aliases{static})
	if err != nil {
		t.Fatal(err)
	}
	for address, want := range map[string]string{
		"info@x.example":   "a@x.example archive@elsewhere.example b@x.example c@x.example",
		"Root@x.example":   "Somebody@elsewhere.example a@x.example archive@elsewhere.example",
		"root+y@x.example": "Somebody@elsewhere.example a@x.example archive@elsewhere.example",
		"a@x.example":      "a@x.example archive@elsewhere.example",
		"c@x.example":      "c@x.example", // not the table's catch-all
		"none@x.example":   "b@x.example c@x.example",
		"copy@x.example":   "b@x.example c@x.example",
		"b@x.example":      "b@x.example c@x.example", // the mailboxes, not what the tables say of them
		"ping@x.example":   "AddressLoop",
		"broken@x.example": "DirectoryDown",
	} {
		if got := resolved(t, d, address); got != want {
			x, _ := d.Explain(t.Context(), address)
			t.Errorf("Resolve(%s) = %q, want %q\n%s", address, got, want, x)
		}
	}
	// An alias makes nobody an owner.
	if ok, err := d.MaySendAs(t.Context(), mail.Identity{Authentication: "a"}, mail.MustAddress("info@x.example")); ok || err != nil {
		t.Errorf("MaySendAs(info) = %v, %v", ok, err)
	}
}

func TestQueryTable(t *testing.T) {
	t.Parallel()
	content := tree(t, person("a", "mail: a@x.example", "maildrop: a", "maildrop: a2@y.example")+
		person("b", "mail: b@x.example", "maildrop: b@y.example", "final: b@final.example")+
		"dn: cn=g,ou=people,dc=x\nobjectClass: group\nmail: g@x.example\nlist: uid=a,ou=people,dc=x\nlist: uid=b,ou=people,dc=x\nlist: uid=gone,ou=people,dc=x\nlist: cn=g,ou=people,dc=x\nlist: ldap:///ou=people,dc=x??one?(uid=b)\nleaf: g\n\n"+
		"dn: ou=deep,dc=x\nou: deep\n\ndn: uid=c,ou=deep,dc=x\nuid: c\nmaildrop: c@y.example\nobjectClass: x\n")
	for _, c := range []struct {
		name string
		cfg  directory.QueryTableConfig
		key  string
		want string
	}{
		{"all values", directory.QueryTableConfig{QueryFilter: "(mail=%s)"}, "a@x.example", "a a2@y.example"},
		{"unknown", directory.QueryTableConfig{QueryFilter: "(mail=%s)"}, "z@x.example", ""},
		{"injection", directory.QueryTableConfig{QueryFilter: "(mail=%s)"}, "*", ""},
		{"parts", directory.QueryTableConfig{QueryFilter: "(uid=%u)"}, "a@anywhere.example", "a a2@y.example"},
		{"no such part", directory.QueryTableConfig{QueryFilter: "(&(uid=%u)(uid=*%d*))"}, "a", ""},
		{"format", directory.QueryTableConfig{QueryFilter: "(mail=%s)", ResultFormat: "smtp:[%u.%d] for %U 100%%"}, "a@x.example", "smtp:[a2.y.example] for a 100%"},
		{"format of the key", directory.QueryTableConfig{QueryFilter: "(uid=%u)", ResultFormat: "%S-%2"}, "b@x.example", "b@x.example-x"},
		{"format asks for what the key lacks", directory.QueryTableConfig{QueryFilter: "(uid=%u)", ResultFormat: "%s-%3"}, "b@x.example", ""},
		{"domain", directory.QueryTableConfig{QueryFilter: "(mail=%s)", Domains: []mail.Domain{"X.example"}}, "a@x.example", "a a2@y.example"},
		{"other domain", directory.QueryTableConfig{QueryFilter: "(uid=%u)", Domains: []mail.Domain{"z.example"}}, "a@x.example", ""},
		{"domain without local-part", directory.QueryTableConfig{QueryFilter: "(mail=*%s)", Domains: []mail.Domain{"x.example"}}, "@x.example", ""},
		{"special and terminal", directory.QueryTableConfig{QueryFilter: "(mail=%s)", SpecialResultAttributes: []string{"list"},
			TerminalResultAttributes: []string{"final"}, LeafResultAttributes: []string{"leaf", "uid"}}, "g@x.example", "a a2@y.example b@final.example"},
		{"base from the key", directory.QueryTableConfig{SearchBase: "ou=%u,dc=x", QueryFilter: "(uid=c)"}, "deep@x.example", "c@y.example"},
		{"base that does not exist", directory.QueryTableConfig{SearchBase: "ou=%u,dc=x", QueryFilter: "(uid=c)"}, "shallow@x.example", ""},
		{"base by injection", directory.QueryTableConfig{SearchBase: "ou=%u,dc=x", QueryFilter: "(uid=c)"}, "no,ou=deep", ""},
		{"expansion limit", directory.QueryTableConfig{QueryFilter: "(mail=%s)", ExpansionLimit: 1}, "a@x.example", "DirectoryDown"},
		{"size limit", directory.QueryTableConfig{QueryFilter: "(mail=*%d)", SizeLimit: 1}, "a@x.example", "DirectoryDown"},
		{"recursion limit", directory.QueryTableConfig{QueryFilter: "(mail=%s)", SpecialResultAttributes: []string{"list"}, RecursionLimit: -1}, "g@x.example", "DirectoryDown"},
		{"fixed base that does not exist", directory.QueryTableConfig{SearchBase: "ou=none,dc=x", QueryFilter: "(mail=%s)"}, "a@x.example", "DirectoryDown"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			if c.cfg.SearchBase == "" {
				c.cfg.SearchBase = "ou=people,dc=x"
			}
			q, err := directory.NewQueryTable(c.cfg, content)
			if err != nil {
				t.Fatal(err)
			}
			values, err := q.Lookup(t.Context(), c.key)
			got := strings.Join(values, " ")
			if err != nil {
				got = status.Of(err).String()
			}
			if got != c.want {
				t.Errorf("Lookup(%q) = %q (%v), want %q", c.key, got, err, c.want)
			}
		})
	}
	for name, cfg := range map[string]directory.QueryTableConfig{
		"no base": {}, "base": {SearchBase: "people"}, "filter": {SearchBase: "dc=x", QueryFilter: "mail=%s"},
		"placeholder": {SearchBase: "dc=x", ResultFormat: "%n"}, "attribute": {SearchBase: "dc=x", ResultAttributes: []string{"a b"}},
	} {
		if _, err := directory.NewQueryTable(cfg, content); err == nil {
			t.Errorf("%s: NewQueryTable accepts %+v", name, cfg)
		}
	}
}
