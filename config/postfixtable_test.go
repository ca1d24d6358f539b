package config_test

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/postern-mail/postern/config"
	"github.com/postern-mail/postern/directory"
	"github.com/postern-mail/postern/directory/ldap"
	"github.com/postern-mail/postern/internal/testenv"
)

// postfixSchema has the attributes that Postfix's manual speaks of.
const postfixSchema = `
attributetype ( 1.3.6.1.4.1.4203.666.77.1 NAME 'mailacceptinggeneralid' EQUALITY caseIgnoreMatch SUBSTR caseIgnoreSubstringsMatch SYNTAX 1.3.6.1.4.1.1466.115.121.1.15 )
attributetype ( 1.3.6.1.4.1.4203.666.77.2 NAME 'maildrop' EQUALITY caseIgnoreMatch SYNTAX 1.3.6.1.4.1.1466.115.121.1.15 )
attributetype ( 1.3.6.1.4.1.4203.666.77.3 NAME 'finaldrop' SUP maildrop )
attributetype ( 1.3.6.1.4.1.4203.666.77.4 NAME 'leafdrop' EQUALITY caseIgnoreMatch SYNTAX 1.3.6.1.4.1.1466.115.121.1.15 )
attributetype ( 1.3.6.1.4.1.4203.666.77.5 NAME 'listdn' EQUALITY distinguishedNameMatch SYNTAX 1.3.6.1.4.1.1466.115.121.1.12 )
attributetype ( 1.3.6.1.4.1.4203.666.77.6 NAME 'listurl' EQUALITY caseExactMatch SYNTAX 1.3.6.1.4.1.1466.115.121.1.15 )
objectclass ( 1.3.6.1.4.1.4203.666.77.9 NAME 'mailthing' SUP top AUXILIARY MAY ( mailacceptinggeneralid $ maildrop $ leafdrop $ listdn $ listurl $ finaldrop ) )
`

func postfixTree() testenv.Tree {
	var b strings.Builder
	b.WriteString(`dn: dc=example,dc=com
objectClass: organization
objectClass: dcObject
o: example
dc: example

dn: cn=mail,dc=example,dc=com
objectClass: organizationalRole
objectClass: simpleSecurityObject
cn: mail
userPassword: mail-secret

`)
	for _, ou := range []string{"people", "lists", "example.com"} {
		fmt.Fprintf(&b, "dn: ou=%s,dc=example,dc=com\nobjectClass: organizationalUnit\nou: %s\n\n", ou, ou)
	}
	thing := func(base, cn string, lines ...string) {
		fmt.Fprintf(&b, "dn: cn=%s,%s,dc=example,dc=com\nobjectClass: device\nobjectClass: mailthing\ncn: %s\n%s\n\n",
			cn, base, strings.ReplaceAll(cn, `\`, ""), strings.Join(lines, "\n"))
	}
	person := func(cn string, lines ...string) { thing("ou=people", cn, lines...) }
	list := func(cn string, lines ...string) { thing("ou=lists", cn, lines...) }
	person("alice", "mailacceptinggeneralid: alice@example.com", "mailacceptinggeneralid: alice", "maildrop: alice@mail1.example.com")
	person("bob", "mailacceptinggeneralid: bob@example.com", "maildrop: bob@mail1.example.com", "maildrop: bob@mail2.example.com")
	person("carol", "mailacceptinggeneralid: carol@example.com", "mailacceptinggeneralid: carol@sub.example.org", "maildrop: carol", "leafdrop: carol@leaf.example.com")
	person("dan", "mailacceptinggeneralid: dan@example.com", "maildrop: dan@mail1.example.com", "finaldrop: dan@final.example.com")
	person("nodrop", "mailacceptinggeneralid: nodrop@example.com")
	person("star", "mailacceptinggeneralid: a*b@example.com", "maildrop: star@mail1.example.com")
	person(`comma\, plus\+`, "mailacceptinggeneralid: comma@example.com", "maildrop: comma@mail1.example.com")
	person("paren", "mailacceptinggeneralid: a(b)c@example.com", "maildrop: paren@mail1.example.com")
	person("uml", "mailacceptinggeneralid: müller@example.com", "maildrop: uml@mail1.example.com")
	person("odd", "mailacceptinggeneralid: odd@example.com", "maildrop: @nolocal.example.com", "maildrop: nodomain", "maildrop: odd@mail1.example.com")
	person("twin1", "mailacceptinggeneralid: twin@example.com", "maildrop: twin1@mail1.example.com")
	person("twin2", "mailacceptinggeneralid: twin@example.com", "maildrop: twin2@mail1.example.com")
	person("catchall", "mailacceptinggeneralid: @example.com", "maildrop: catchall@mail1.example.com")
	people := ",ou=people,dc=example,dc=com"
	list("staff", "mailacceptinggeneralid: staff@example.com", "listdn: cn=alice"+people, "listdn: cn=bob"+people, "leafdrop: staff@leaf.example.com")
	list("nested", "mailacceptinggeneralid: nested@example.com", "listdn: cn=staff,ou=lists,dc=example,dc=com", "listdn: cn=carol"+people)
	list("gone", "mailacceptinggeneralid: gone@example.com", "listdn: cn=nobody"+people, "listdn: cn=alice"+people)
	list("loop", "mailacceptinggeneralid: loop@example.com", "listdn: cn=loop,ou=lists,dc=example,dc=com", "listdn: cn=alice"+people)
	list("escaped", "mailacceptinggeneralid: escaped@example.com", `listdn: cn=comma\, plus\+`+people)
	list("dynamic", "mailacceptinggeneralid: dynamic@example.com", "listurl: ldap:///ou=people,dc=example,dc=com??one?(cn=*o*)")
	list("dynamichost", "mailacceptinggeneralid: dynamichost@example.com", "listurl: ldap://ldap.elsewhere.example/ou=people,dc=example,dc=com??sub?(cn=alice)")
	list("dynamicattrs", "mailacceptinggeneralid: dynamicattrs@example.com", "listurl: ldap:///ou=people,dc=example,dc=com?leafdrop?one?(cn=carol)")
	list("dynamicnone", "mailacceptinggeneralid: dynamicnone@example.com", "listurl: ldap:///ou=people,dc=example,dc=com??one?(cn=zz*)")
	list("mixed", "mailacceptinggeneralid: mixed@example.com", "maildrop: mixed@mail1.example.com", "listdn: cn=dan"+people, "leafdrop: mixed@leaf.example.com")
	thing("ou=example.com", "erin", "mailacceptinggeneralid: erin@example.com", "maildrop: erin@mail1.example.com")
	return testenv.Tree{
		Preset: "openldap", LDIF: []byte(b.String()), Schemas: []string{"core", "cosine", "inetorgperson"}, ExtraSchema: []byte(postfixSchema),
		BaseDN: "dc=example,dc=com", ServiceDN: "cn=mail,dc=example,dc=com", ServicePassword: "mail-secret",
	}
}

// postfixTables are parameters of ldap_table(5) besides the server's.
var postfixTables = map[string]string{
	"plain":      "",
	"format":     "result_format = smtp:[%d]:%u\n",
	"keyformat":  "result_format = %U at %D is %s 100%%\n",
	"labels":     "result_format = %1.%2-%s\n",
	"labels3":    "result_format = %3-%s\n",
	"older":      "result_filter = <%s>\n",
	"localpart":  "query_filter = (cn=%u)\n",
	"needdomain": "query_filter = (&(mailacceptinggeneralid=%s)(mailacceptinggeneralid=*%d))\n",
	"domain":     "domain = example.com, other.example\n",
	"otherdom":   "domain = example.org\n",
	"one":        "scope = one\n",
	"base":       "scope = base\n",
	"varied":     "search_base = ou=%d,dc=example,dc=com\n",
	"variedname": "search_base = cn=%u,ou=people,dc=example,dc=com\nscope = base\n",
	"badbase":    "search_base = ou=missing,dc=example,dc=com\n",
	"special":    "special_result_attribute = listdn, listurl\nrecursion_limit = 20\n",
	"leaf":       "special_result_attribute = listdn listurl\nleaf_result_attribute = leafdrop\n",
	"terminal":   "special_result_attribute = listdn\nterminal_result_attribute = finaldrop\n",
	"leafresult": "special_result_attribute = listdn\nresult_attribute = maildrop, leafdrop\nleaf_result_attribute = leafdrop\n",
	"shallow":    "special_result_attribute = listdn\nrecursion_limit = 1\n",
	"expansion":  "expansion_limit = 1\n",
	"size":       "size_limit = 1\n",
	"attributes": "result_attribute = cn, maildrop\n",
	"noattr":     "result_attribute = leafdrop\n",
}

// postfixKeys are what the tables are asked, beside what single tables are.
var postfixKeys = []string{
	"ALICE@Example.com", "carol@sub.example.org", "twin@example.com",
}

var postfixSpecial = map[string][]string{
	"plain": {"alice", "alice@example.com", "bob@example.com", "nobody@example.com", "@example.com", "nodrop@example.com", "a*b@example.com", "*", "*@example.com", "a(b)c@example.com", "müller@example.com", "m\xfcller@example.com", "alice)(cn=*", `alice\2a`, `\`,
		"dan@example.com", "odd@example.com", "comma@example.com", "alice@", "alice@@example.com", "alice@example.com ", strings.Repeat("x", 330) + "@example.com", "alice@example.com\t"},
	"labels":     {"alice", "bob@example.com"},
	"needdomain": {"alice", "bob@example.com"},
	"expansion":  {"bob@example.com"},
	"attributes": {"bob@example.com"},
	"noattr":     {"carol@example.com"},
	"older":      {"bob@example.com"},
	"format":     {"odd@example.com", "carol@example.com"},
	"keyformat":  {"odd@example.com", "a*b@example.com"},
	"localpart":  {"comma, plus+@x", "comma, plus+", "alice@anywhere.example", "*@x"},
	"domain":     {"alice", "@example.com", "bob@example.com", "erin@example.com", "alice@sub.example.com"},
	"varied":     {"erin@example.com", "erin@missing.example", "erin@people", "erin@people,dc=example"},
	"variedname": {"comma, plus+@x", "bob@x", "bob,ou=people@x", "zz@x", "#x@y", " bob@x", "bob;a@x", `bob\@x`},
	"special":    {"staff@example.com", "nested@example.com", "gone@example.com", "loop@example.com", "escaped@example.com", "dynamic@example.com", "dynamichost@example.com", "dynamicattrs@example.com", "dynamicnone@example.com", "mixed@example.com"},
	"leaf":       {"staff@example.com", "nested@example.com", "carol@example.com", "mixed@example.com", "dynamicattrs@example.com"},
	"terminal":   {"dan@example.com", "mixed@example.com", "staff@example.com"},
	"leafresult": {"staff@example.com", "carol@example.com", "mixed@example.com"},
	"shallow":    {"staff@example.com", "nested@example.com"},
}

// postfixDifferences are the pairs in which we mean to differ, and how; the
// reasons stand in docs/migration.md.
var postfixDifferences = map[string]string{
	"attributes carol@sub.example.org": "carol",                   // a result counts once
	"special loop@example.com":         "alice@mail1.example.com", // an entry counts once, so that loops end
}

// TestPostfixTables puts the same keys to the same files through Postfix's own
// postmap and through ours.
func TestPostfixTables(t *testing.T) {
	t.Parallel()
	s := testenv.Slapd(t, testenv.SlapdOptions{Tree: postfixTree(), Config: "sizelimit 100"})
	p := testenv.Postfix(t, "ldap")
	var text strings.Builder
	text.WriteString("hostname = \"mx.example.com\"\ngateway {\n  listener \"mx\" {\n    bind = [\"127.0.0.1:0\"]\n  }\n}\n")
	fmt.Fprintf(&text, "authn \"ldap\" { directory = directory.corp }\ndirectory \"ldap\" \"corp\" {\n  uris = [%q]\n  base = \"dc=example,dc=com\"\n", s.LDAP)
	files := make(map[string]string)
	for name, parameters := range postfixTables {
		if !strings.Contains(parameters, "search_base") {
			parameters += "search_base = dc=example,dc=com\n"
		}
		files[name] = p.Write(name+".cf", "# a table\nserver_host = "+s.LDAP+"\nversion = 3\ntimeout = 10\nbind_dn =\n  "+s.Tree.ServiceDN+"\nbind_pw = "+s.Tree.ServicePassword+"\n"+parameters)
		fmt.Fprintf(&text, "  table %q { postfix_file = %q }\n", name, files[name])
	}
	text.WriteString("}\n")
	f := loadText(t, text.String())
	cfg, _ := f.Directories[0].Tables[0].LDAP(f.Directories[0])
	client, err := ldap.New(cfg, hclog.NewNullLogger())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(client.Close)
	compared := 0
	for _, table := range f.Directories[0].Tables {
		ours, err := directory.NewQueryTable(table.Room("dc=example,dc=com"), client)
		if err != nil {
			t.Fatal(err)
		}
		keys := slices.Concat(postfixKeys, postfixSpecial[table.Name])
		compared += len(keys)
		t.Run(table.Name, func(t *testing.T) {
			t.Parallel()
			for _, key := range keys {
				theirs, theirErr := p.Query("ldap:"+files[table.Name], key)
				want := outcomeOf(strings.Split(theirs, ","), theirErr)
				values, ourErr := ours.Lookup(t.Context(), key)
				got := outcomeOf(values, ourErr)
				switch meant, listed := postfixDifferences[table.Name+" "+key]; {
				case got == want && listed:
					t.Errorf("%q: no difference any more: %s", key, got)
				case got != want && got != meant:
					t.Errorf("%q: ours %q (%v), Postfix's %q (%v)", key, got, ourErr, want, theirErr)
				}
			}
		})
	}
	if compared < 60 {
		t.Errorf("only %d pairs were compared", compared)
	}
}

// outcomeOf is an answer in one line. The order of values is the server's.
func outcomeOf(values []string, err error) string {
	if err != nil {
		return "error"
	}
	values = slices.DeleteFunc(slices.Clone(values), func(v string) bool { return v == "" })
	slices.Sort(values)
	return strings.Join(values, ",")
}

func loadText(t testing.TB, text string) *config.File {
	t.Helper()
	file := filepath.Join(t.TempDir(), "postern.hcl")
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	f, err := config.Load(file)
	if err != nil {
		t.Fatal(err)
	}
	return f
}

// TestPostfixFile reads what tables of Postfix say beyond the lookup, and tells
// what of it is not followed, with its line.
func TestPostfixFile(t *testing.T) {
	t.Parallel()
	const base = "search_base = dc=x\n"
	for _, c := range []struct {
		name, content, beside string
		want                  func(ldap.Config) bool
		warning               string
		mistake               string
	}{
		{"standard", base, "", func(c ldap.Config) bool {
			return fmt.Sprint(c.URIs) == "[ldap://localhost:389]" && c.Timeout == 10*time.Second && c.BindDN == ""
		}, "", ""},
		{"hosts", base + "server_host = localhost:390 ldaps://b.example.com,[::1]\nserver_port = 391\ntls_require_cert = yes\n", "", func(c ldap.Config) bool {
			return fmt.Sprint(c.URIs) == "[ldap://localhost:390 ldaps://b.example.com ldap://[::1]:391]"
		}, "", ""},
		{"login", base + "bind_dn = cn=a\nbind_pw = b\n", "", func(c ldap.Config) bool { return c.BindDN == "cn=a" && c.BindPasswordParameter == "bind_pw" }, "", ""},
		{"no login", base + "bind = no\nbind_dn = cn=a\nbind_pw = b\n", "", func(c ldap.Config) bool { return c.BindDN == "" && !c.SASLExternal }, "", ""},
		{"login without password", base + "bind_dn = cn=a\n", "", nil, "", ":2: bind_dn without bind_pw"},
		{"EXTERNAL", base + "bind = sasl\nsasl_mechs = EXTERNAL\n", "", func(c ldap.Config) bool { return c.SASLExternal }, "", ""},
		{"GSSAPI", base + "bind = sasl\nsasl_mechs = GSSAPI\nserver_host = ldaps://ldap.example.com\ntls_require_cert = yes\n", "kerberos_keytab = \"" + servedKeytab(t) + "\"\nkerberos_principal = \"postern@EXAMPLE.COM\"", func(c ldap.Config) bool { return c.Kerberos.Principal == "postern@EXAMPLE.COM" && c.BindDN == "" }, "", ""},
		{"GSSAPI without a key", base + "bind = sasl\nsasl_mechs = GSSAPI\n", "", nil, "", "name it beside postfix_file, kerberos_keytab"},
		{"another mechanism", base + "bind = sasl\nsasl_mechs = DIGEST-MD5\n", "", nil, "", ":2: bind = sasl"},
		{"unverified", base + "server_host = ldaps://a.example.com\ntls_require_cert = no\n", "", func(c ldap.Config) bool { return !c.InsecureSkipVerify }, ":3: tls_require_cert = no is not followed", ""},
		{"unverified by default", base + "server_host = a.example.com\nstart_tls = yes\n", "", func(c ldap.Config) bool { return c.StartTLS && !c.InsecureSkipVerify }, "tls_require_cert = no is not followed", ""},
		{"unverified, and meant", base + "server_host = ldaps://a.example.com\n", "insecure_skip_verify = true", func(c ldap.Config) bool { return c.InsecureSkipVerify }, "", ""},
		{"in the clear", base + "server_host = a.example.com\nbind_dn = cn=a\nbind_pw = b\n", "", nil, "", "would send passwords in the clear"},
		{"in the clear, and meant", base + "server_host = a.example.com\n", "allow_plaintext = true", func(c ldap.Config) bool { return c.AllowPlaintext }, "", ""},
		{"aliases", base + "dereference = 2\n", "", func(c ldap.Config) bool { return c.Dereference == "finding" }, "", ""},
		{"referrals", base + "chase_referrals = yes\n", "", func(c ldap.Config) bool { return len(c.ChaseReferrals) == 0 }, ":2: chase_referrals = yes", ""},
		{"referrals, listed", base + "chase_referrals = yes\n", `chase_referrals = ["ldaps://b.example.com"]`, func(c ldap.Config) bool { return len(c.ChaseReferrals) == 1 }, "", ""},
		{"version", base + "version = 2\n", "", func(ldap.Config) bool { return true }, ":2: version = 2", ""},
		{"cache", base + "cache = yes\n", "", func(ldap.Config) bool { return true }, ":2: cache is not followed", ""},
		{"unknown", base + "serch_base = dc=y\n", "", func(ldap.Config) bool { return true }, ":2: serch_base is no parameter", ""},
		{"twice", base + base, "", func(ldap.Config) bool { return true }, ":1: search_base stands here and again in line 2", ""},
		{"no base", "bind = no\n", "", nil, "", "search_base is missing"},
		{"scope", base + "scope = tree\n", "", nil, "", ":2: scope = tree"},
		{"number", base + "size_limit = many\n", "", nil, "", ":2: size_limit = many"},
		{"domain of a table", base + "domain = hash:/etc/postfix/domains\n", "", nil, "", ":2: domain = ... hash:"},
		{"filter", base + "query_filter = mail=%s\n", "", nil, "", "query filter"},
		{"not a file", "search_base\n", "", nil, "", "line 1"},
		{"said twice", base, `query_filter = "(mail=%s)"`, nil, "", "Said twice"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			table, file := filepath.Join(dir, "t.cf"), filepath.Join(dir, "postern.hcl")
			text := fmt.Sprintf("hostname = \"mx.example.com\"\ngateway {\n  listener \"mx\" { bind = [\"127.0.0.1:0\"] }\n}\n"+
				"directory \"ldap\" \"corp\" {\n  uris = [\"ldaps://ldap.example.com\"]\n  base = \"dc=x\"\n  table \"t\" {\n    postfix_file = %q\n    %s\n  }\n}\n", table, c.beside)
			for name, content := range map[string]string{table: c.content, file: text} {
				if err := os.WriteFile(name, []byte(content), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			f, err := config.Load(file)
			if c.mistake != "" {
				if err == nil || !strings.Contains(strings.Join(strings.Fields(err.Error()), " "), c.mistake) {
					t.Errorf("Load = %v, want %q", err, c.mistake)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			cfg, own := f.Directories[0].Tables[0].LDAP(f.Directories[0])
			if !own || !c.want(cfg) {
				t.Errorf("servers %+v", cfg)
			}
			warnings := strings.Join(f.Warnings(), "\n")
			if c.warning == "" && warnings != "" || !strings.Contains(warnings, c.warning) {
				t.Errorf("warnings %q, want %q", warnings, c.warning)
			}
		})
	}
}

// TestTableServers: a table has its directory's servers, the same with other
// settings, or servers of its own, which get nothing of the directory's login.
func TestTableServers(t *testing.T) {
	t.Parallel()
	password := filepath.Join(t.TempDir(), "password")
	if err := os.WriteFile(password, []byte("secret\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	f := loadText(t, fmt.Sprintf(`hostname = "mx.example.com"
gateway {
  listener "mx" { bind = ["127.0.0.1:0"] }
}
directory "ldap" "corp" {
  uris               = ["ldaps://ldap.example.com"]
  base               = "dc=x"
  bind_dn            = "cn=mail"
  bind_password_file = %q
  table "shared" {}
  table "deref" { dereference = "always" }
  table "other" { uris = ["ldaps://other.example.com"] }
  table "third" { uris = ["ldaps://other.example.com"] }
}
`, password))
	dir := f.Directories[0]
	if _, own := dir.Tables[0].LDAP(dir); own {
		t.Error("a table without settings has servers of its own")
	}
	if cfg, own := dir.Tables[1].LDAP(dir); !own || cfg.BindDN != "cn=mail" || cfg.Dereference != "always" || cfg.URIs[0] != "ldaps://ldap.example.com" {
		t.Errorf("the directory's servers with another setting: %+v", cfg)
	}
	other, _ := dir.Tables[2].LDAP(dir)
	if other.BindDN != "" || other.BindPasswordFile != "" || other.URIs[0] != "ldaps://other.example.com" {
		t.Errorf("other servers: %+v", other)
	}
	if third, _ := dir.Tables[3].LDAP(dir); third.Key() != other.Key() {
		t.Error("equal connections have different keys")
	}
}
