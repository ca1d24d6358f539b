package main

import (
	"bytes"
	stdsql "database/sql"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/hashicorp/go-hclog"

	"github.com/postern-mail/postern/authn"
	"github.com/postern-mail/postern/mail"
	"github.com/postern-mail/postern/status"
)

const sqlSite = `
hostname = "gw.corp.example"
data_dir = "%[1]s/data"
database "sqlite" "main" {
  database = "%[1]s/mail.db"
  table "logins"  { query = "SELECT login FROM sender WHERE address = '%%s'" }
  table "virtual" { query = "SELECT target FROM alias WHERE address = '%%s'" }
  table "access"  { query = "SELECT action FROM access WHERE name = '%%s'" }
}
directory "sql" "people" {
  database    = database.main
  user_query  = "SELECT username FROM users WHERE username='%%u'"
  alias_files = ["query:main/virtual", "sqlite:%[1]s/old.cf"]
}
authn "sql" {
  database       = database.main
  directory      = directory.people
  password_query = "SELECT username AS user, password FROM users WHERE username='%%u'"
  default_scheme = "SHA512-CRYPT"
}
gateway {
  sender_login_maps = ["query:main/logins"]
  listener "mx" { bind = ["127.0.0.1:0"] }
  target "lmtp" "box" { address = ["unix:%[1]s/l"] }
  domains "local" {
    names      = ["corp.example"]
    recipients = directory.people
    deliver    = target.box
  }
  rewrite { canonical_maps = ["query:main/virtual"] }
  policy "sender" {
    check_sender_access { table = "query:main/access" }
  }
}
`

// TestDatabaseSite: one database answers for recipients, logins, aliases,
// rewriting, senders and access.
func TestDatabaseSite(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	db, err := stdsql.Open("sqlite", filepath.Join(dir, "mail.db"))
	must(t, err)
	defer db.Close()
	_, err = db.Exec(`
CREATE TABLE users (username TEXT, password TEXT);
INSERT INTO users VALUES ('alice@corp.example', '$6$ab$taQi2R/p.00nDn/0OiJ.5VXxxXle4RnNFdp1MRTAv1YDfnWjTzvJxb43j8XusV1GVxGhgSwzDrEJhwBIxUw.Q/');
CREATE TABLE sender (address TEXT, login TEXT); INSERT INTO sender VALUES ('info@corp.example', 'alice@corp.example'), ('info@corp.example', 'bob');
CREATE TABLE alias (address TEXT, target TEXT); INSERT INTO alias VALUES ('info@corp.example', 'alice@corp.example');
CREATE TABLE old (address TEXT, target TEXT); INSERT INTO old VALUES ('was@corp.example', 'alice@corp.example');
CREATE TABLE access (name TEXT, action TEXT); INSERT INTO access VALUES ('bad.example', 'REJECT no');
`)
	must(t, err)
	config := strings.ReplaceAll(strings.ReplaceAll(sqlSite, "%[1]s", dir), "%%", "%")
	must(t, os.WriteFile(filepath.Join(dir, "postern.hcl"), []byte(config), 0o600))
	must(t, os.WriteFile(filepath.Join(dir, "old.cf"), []byte("dbpath = "+dir+"/mail.db\nquery = SELECT target FROM old WHERE address = '%s'\n"), 0o600))
	g, err := idleGeneration(filepath.Join(dir, "postern.hcl"))
	must(t, err)
	for _, address := range []string{"alice@corp.example", "info@corp.example", "was@corp.example"} {
		found, err := g.book.Resolve(t.Context(), mail.MustAddress(address), nil)
		if err != nil || len(found) != 1 || found[0].Address.String() != "alice@corp.example" {
			t.Errorf("%s: %v, %v", address, found, err)
		}
	}
	if _, err := g.book.Resolve(t.Context(), mail.MustAddress("nobody@corp.example"), nil); status.Of(err) != status.NoSuchUser {
		t.Errorf("nobody: %v", err)
	}
	id, err := g.verifiers.Verify(t.Context(), authn.Attempt{Login: "Alice@corp.example", Password: "correct horse", Service: "imap"})
	if err != nil || id.Authentication != "alice@corp.example" || id.Source != "people" {
		t.Errorf("login: %+v, %v", id, err)
	}
	b := &builder{generation: g, log: hclog.NewNullLogger()}
	b.openDatabases()
	must(t, b.err)
	owners := b.loginMaps(g.book)
	for login, want := range map[string]bool{"alice@corp.example": true, "bob": true, "carol": false} {
		if ok, err := owners.MaySendAs(t.Context(), mail.Identity{Authentication: login}, mail.MustAddress("info@corp.example")); ok != want || err != nil {
			t.Errorf("%s as info: %t, %v", login, ok, err)
		}
	}
	if to, err := g.rewriter.Recipient(t.Context(), mail.MustAddress("info@corp.example")); err != nil || to.String() != "alice@corp.example" {
		t.Errorf("rewritten to %s, %v", to, err)
	}

	run := func(args ...string) (string, error) {
		var out bytes.Buffer
		c := root()
		c.SetArgs(append(args, "-c", filepath.Join(dir, "postern.hcl")))
		c.SetOut(&out)
		c.SetErr(&out)
		err := c.ExecuteContext(t.Context())
		return out.String(), err
	}
	must(t, os.WriteFile(filepath.Join(dir, "t"), []byte("user@x.example one\nx.example two\n"), 0o600))
	must(t, os.WriteFile(filepath.Join(dir, "bad"), []byte("a.example smtp:\nb\n.c nowhere\n"), 0o600))
	for _, c := range []struct {
		args []string
		want string
		fail bool
	}{
		{[]string{"table", "query", "query:main/virtual", "info@corp.example"}, "info@corp.example\talice@corp.example\n", false},
		{[]string{"table", "query", "sqlite:" + dir + "/old.cf", "was@corp.example"}, "was@corp.example\talice@corp.example\n", false},
		{[]string{"table", "query", "--as", "access", dir + "/t", "User+x@x.example"}, "user+x@x.example\t-\nuser@x.example\tone\n", false},
		{[]string{"table", "query", dir + "/t", "absent"}, "absent\t-\n", true},
		{[]string{"table", "check", "--as", "transport", dir + "/bad"}, "/bad:2:", true},
		{[]string{"table", "check", dir + "/t"}, "no mistakes", false},
		{[]string{"table", "check", "--as", "nothing", dir + "/t"}, "", true},
	} {
		out, err := run(c.args...)
		if !strings.Contains(out, c.want) || (err != nil) != c.fail {
			t.Errorf("%s: %v\n%s", strings.Join(c.args, " "), err, out)
		}
	}
}
