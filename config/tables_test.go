package config

import (
	"strings"
	"testing"
)

const tabled = `
hostname = "mail.example.com"
directory "aliases" "local" {
  file = "$DIR/virtual"
}
directory "ldap" "corp" {
  uris        = ["ldap://127.0.0.1:1"]
  base        = "dc=example,dc=com"
  alias_files = ["$DIR/aliases"]
  table "lists" {
    search_base              = "ou=%d,ou=lists,dc=example,dc=com"
    scope                    = "one"
    query_filter             = "(&(objectClass=list)(mail=%s))"
    domain                   = ["Lists.Example.com"]
    result_attribute         = ["mail", "maildrop"]
    special_result_attribute = ["member"]
    leaf_result_attribute    = ["mail"]
    result_format            = "%u@%d"
    recursion_limit          = 10
    expansion_limit          = 500
  }
  table "plain" {}
  host "Mail2.example.com" { deliver = target.box }
}
gateway {
  listener "mx" { bind = ["127.0.0.1:0"] }
  target "lmtp" "box" { address = ["unix:/run/x"] }
  domains "local" {
    names      = ["example.com"]
    recipients = directory.corp
    deliver    = target.box
  }
  domains "local" {
    names      = ["old.example"]
    recipients = directory.local
    deliver    = target.box
  }
}
`

func TestTables(t *testing.T) {
	t.Parallel()
	path := write(t, map[string]string{"postern.hcl": tabled, "virtual": "@old.example info@example.com\n", "aliases": "root: alice\n"})
	f, err := Load(path)
	if err != nil {
		t.Fatal(err)
	}
	corp := f.Directory("corp")
	lists, plain := corp.Tables[0].Room(corp.Base), corp.Tables[1].Room(corp.Base)
	if lists.SearchBase != "ou=%d,ou=lists,dc=example,dc=com" || lists.Scope.String() != "one" || lists.Domains[0] != "lists.example.com" ||
		lists.ResultFormat != "%u@%d" || lists.RecursionLimit != 10 || lists.ExpansionLimit != 500 || lists.SizeLimit != 1000 ||
		strings.Join(lists.ResultAttributes, " ") != "mail maildrop" || lists.SpecialResultAttributes[0] != "member" || lists.LeafResultAttributes[0] != "mail" {
		t.Errorf("table lists is %+v", lists)
	}
	if plain.SearchBase != "dc=example,dc=com" || plain.Scope.String() != "sub" || plain.ResultAttributes[0] != "maildrop" || plain.QueryFilter != "(mailacceptinggeneralid=%s)" {
		t.Errorf("a table's defaults are %+v", plain)
	}
	if hosts := f.DirectoryRoom(corp, nil).Hosts; hosts["mail2.example.com"] != "box" {
		t.Errorf("hosts: %v", hosts)
	}
	if files := corp.Aliases(); len(files) != 1 || !strings.HasSuffix(files[0], "/aliases") {
		t.Errorf("alias files of corp: %v", files)
	}
	if files := f.Directory("local").Aliases(); len(files) != 1 || !strings.HasSuffix(files[0], "/virtual") {
		t.Errorf("alias files of local: %v", files)
	}
}

func TestMistakesInTables(t *testing.T) {
	t.Parallel()
	for _, row := range []struct {
		name, from, to string
		want           []string
	}{
		{"filter", `"(&(objectClass=list)(mail=%s))"`, `"(mail=%s"`, []string{"line 10", `table "lists": query filter`}},
		{"placeholder", `"%u@%d"`, `"%x"`, []string{"line 10", "no placeholder %x"}},
		{"scope", `"one"`, `"children"`, []string{"line 12", `"sub", "one", "base"`}},
		{"limit", "= 10\n", "= 0\n", []string{"line 19", "recursion_limit must be 1 or more"}},
		{"key of Postfix we have not", "result_format ", "result_formatt ", []string{"line 18", `Did you mean "result_format"?`}},
		{"two of a name", `table "plain"`, `table "lists"`, []string{"line 22", "already"}},
		{"host without a target", `deliver = target.box }`, `deliver = target.boxes }`, []string{"line 23", `Did you mean "box"?`}},
		{"no file", `file = "$DIR/virtual"`, ``, []string{"line 3", `needs "file"`}},
		{"missing file", `$DIR/virtual`, `$DIR/none`, []string{"line 4", "no such file"}},
		{"broken aliases", `$DIR/aliases`, `$DIR/broken`, []string{"line 9", "broken:2", "no programs are run"}},
		{"people's setting", `file = "$DIR/virtual"`, "file = \"$DIR/virtual\"\n  user_filter = \"(uid=*)\"", []string{"line 5", "means nothing in a block of kind aliases"}},
		{"filter of people", `alias_files =`, "user_filter = \"(uid=\"\n  alias_files =", []string{"line 6", "user filter"}},
		{"verifier of aliases", "gateway {", "authn \"file\" {\n  file = \"$DIR/virtual\"\n  directory = directory.local\n}\ngateway {", []string{"line 27", "holds aliases and no people"}},
	} {
		t.Run(row.name, func(t *testing.T) {
			t.Parallel()
			if !strings.Contains(tabled, row.from) {
				t.Fatalf("nothing to replace: %s", row.from)
			}
			path := write(t, map[string]string{"postern.hcl": strings.Replace(tabled, row.from, row.to, 1),
				"virtual": "a@old.example b@example.com\n", "aliases": "", "broken": "a: b\nc: |rm\n"})
			_, err := Load(path)
			if err == nil {
				t.Fatal("loaded")
			}
			for _, want := range row.want {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("no %q in:\n%v", want, err)
				}
			}
		})
	}
}
