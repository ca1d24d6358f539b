package main

import (
	"fmt"
	"strings"
	"testing"

	"github.com/postern-mail/postern/mail"
	"github.com/postern-mail/postern/status"
)

const virtualSite = `
hostname = "mail.corp.example"
data_dir = "%[1]s"
directory "aliases" "old" { file = "%[1]s/virtual" }
directory "ldif" "corp" {
  file        = "%[1]s/corp.ldif"
  base        = "dc=corp"
  alias_files = ["%[1]s/aliases"]
  table "lists" {
    search_base              = "ou=lists,dc=corp"
    query_filter             = "(&(objectClass=list)(listMail=%s))"
    result_attribute         = "address"
    special_result_attribute = "listMember"
    leaf_result_attribute    = "mail"
  }
}
gateway {
  listener "mx" { bind = ["127.0.0.1:0"] }
  target "lmtp" "box" { address = ["unix:%[1]s/l"] }
  domains "local" {
    names      = ["corp.example"]
    recipients = directory.corp
    deliver    = target.box
  }
  domains "local" {
    names      = ["old.example"]
    recipients = directory.old
    deliver    = target.box
  }
}
`

const lists = `
dn: ou=lists,dc=corp
objectClass: organizationalUnit
ou: lists

dn: cn=all,ou=lists,dc=corp
objectClass: list
cn: all
listMail: all@corp.example
address: archive@elsewhere.example
listMember: uid=alice,ou=people,dc=corp
`

func TestAliasFilesAndTables(t *testing.T) {
	t.Parallel()
	g := generationOf(t, virtualSite, map[string]string{
		"corp.ldif": fmt.Sprintf(person, "corp") + lists,
		"aliases":   "root: alice\nteam: all\nring: ring@old.example\n",
		"virtual":   "info@old.example  all@corp.example, x@elsewhere.example\n@old.example  alice@corp.example\ngone@old.example nobody@corp.example\nring@old.example ring@corp.example\n",
	})
	for address, want := range map[string]string{
		"root@corp.example":   "alice@corp.example",
		"all@corp.example":    "alice@corp.example archive@elsewhere.example",
		"team@corp.example":   "alice@corp.example archive@elsewhere.example",
		"nobody@corp.example": "NoSuchUser",
		"info@old.example":    "alice@corp.example archive@elsewhere.example x@elsewhere.example",
		"any@old.example":     "alice@corp.example",
		"gone@old.example":    "NoSuchUser",
		"ring@old.example":    "AddressLoop",
	} {
		got := ""
		found, err := g.book.Resolve(t.Context(), mail.MustAddress(address), nil)
		for _, r := range found {
			got += " " + r.Address.String()
		}
		if err != nil {
			got = " " + status.Of(err).String()
		}
		if got != " "+want {
			t.Errorf("Resolve(%s) =%s (%v), want %s", address, got, err, want)
		}
	}
	x, err := g.sources["corp"].Explain(t.Context(), "team@corp.example")
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		"aliases: team stands for all", "filter (&(objectClass=list)(listMail=all@corp.example))",
		"table lists: all@corp.example stands for archive@elsewhere.example, alice@corp.example", "recipient   alice@corp.example",
	} {
		if !strings.Contains(x.String(), want) {
			t.Errorf("no %q in the explanation:\n%s", want, x)
		}
	}
}

func TestAccountsOfAnotherBackend(t *testing.T) {
	t.Parallel()
	g := generationOf(t, strings.Replace(virtualSite, `alias_files =`, "host \"Box2.corp.example\" { deliver = target.box }\n  alias_files =", 1), map[string]string{
		"corp.ldif": fmt.Sprintf(person, "corp") + "mailHost: box2.Corp.example\n" + lists, "aliases": "", "virtual": "",
	})
	found, err := g.book.Resolve(t.Context(), mail.MustAddress("alice@corp.example"), nil)
	if err != nil || len(found) != 1 || found[0].Route.Transport != "box" {
		t.Errorf("Resolve = %+v, %v", found, err)
	}
}
