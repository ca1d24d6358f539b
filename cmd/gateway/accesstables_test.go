package main

import (
	stdsql "database/sql"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/postern-mail/postern/internal/testenv"
)

const accessTables = `
hostname = "gw.example.com"
data_dir = "%[1]s/data"
database "sqlite" "main" {
  database = "%[1]s/access.db"
  table "access" { query = "SELECT action FROM access WHERE name = '%%s'" }
}
directory "ldap" "corp" {
  uris                = ["LDAPI"]
  base                = "dc=example,dc=com"
  bind_dn             = "SERVICE"
  bind_password_file  = "PASSWORD"
  replica             = "off"
  cache_ttl           = "0s"
  negative_cache_ttl  = "0s"
  timeout             = "1m"
  table "blocked" {
    use              = "tables"
    query_filter     = "(mail=%%s)"
    result_attribute = "cn"
    result_format    = "REJECT %%s writes to nobody here"
  }
}
gateway {
  listener "mx" { bind = ["127.0.0.1:0"] }
  policy "sender" {
    check_sender_access { table = "query:main/access" }
    check_sender_access { table = "query:corp/blocked" }
    check_sender_access { table = "texthash:%[1]s/senders" }
  }
  domains "relay" {
    names   = ["relayed.example"]
    deliver = target.box
  }
  target "lmtp" "box" { address = ["127.0.0.1:9"] }
}
`

// executed runs a command and returns what it prints.
func executed(t *testing.T, args ...string) (string, error) {
	t.Helper()
	return command(t.Context(), args...)
}

// TestBrokenAccessTable: while a table has a mistake the one before stays in
// force, and the log tells the mistake with its line; then the new one counts.
func TestBrokenAccessTable(t *testing.T) {
	t.Parallel()
	s := newSite(t, variant(t, standard, `  relay      = target.outside`, `  relay      = target.outside
  policy "sender" {
    check_sender_access { table = "texthash:senders" }
  }`), nil)
	senders := filepath.Join(s.Dir, "senders")
	replace := func(text string) {
		t.Helper()
		must(t, os.WriteFile(senders+".new", []byte(text), 0o600))
		must(t, os.Rename(senders+".new", senders))
	}
	replace("bad.example REJECT the first\n")
	s.start()
	answer := func() string {
		if err := s.inject("x@bad.example", []string{"bob@example.com"}, "greetings"); err != nil {
			return err.Error()
		}
		return ""
	}
	if got := answer(); !strings.Contains(got, "the first") {
		t.Fatalf("at first: %q", got)
	}
	replace("bad.example REJECT the second\nbad.example EXPLODE\n")
	s.waitForLog(`senders:2: `)
	if got := answer(); !strings.Contains(got, "the first") {
		t.Errorf("while the table has a mistake: %q", got)
	}
	if out, err := executed(t, "reload", "-c", s.Config); err == nil || !strings.Contains(out+err.Error(), "senders line 2") {
		t.Errorf("a reload with the mistake: %v\n%s", err, out)
	}
	if got := answer(); !strings.Contains(got, "the first") {
		t.Errorf("after the reload that was refused: %q", got)
	}
	replace("bad.example REJECT the third\n")
	s.run("reload")
	if got := answer(); !strings.Contains(got, "the third") {
		t.Errorf("after the mistake was mended: %q", got)
	}
}

// TestAccessTables: restrictions ask tables of databases and directories like
// files; what is out of order defers and never refuses for good.
func TestAccessTables(t *testing.T) {
	t.Parallel()
	slapd := testenv.Slapd(t, testenv.SlapdOptions{})
	dir := t.TempDir()
	db, err := stdsql.Open("sqlite", filepath.Join(dir, "access.db"))
	must(t, err)
	_, err = db.Exec(`CREATE TABLE access (name TEXT, action TEXT);
INSERT INTO access VALUES ('bad.example', 'REJECT no'), ('strange.example', 'EXPLODE'), ('slow.example', '450 4.7.1 later');`)
	must(t, err)
	must(t, db.Close())
	database := read(t, filepath.Join(dir, "access.db"))
	g := generationOf(t, strings.NewReplacer("LDAPI", slapd.LDAPI, "SERVICE", slapd.Tree.ServiceDN, "PASSWORD", slapd.ServicePasswordFile, "%%", "%").Replace(accessTables), map[string]string{
		"senders": "file.example REJECT by the file\n", "access.db": database,
	})
	reply := func(from string) string {
		t.Helper()
		out := walk(t, g, url.Values{"client": {"192.0.2.1"}, "from": {from}, "to": {"x@relayed.example"}})
		_, answer, _ := strings.Cut(out, "RCPT TO:<x@relayed.example>\n")
		_, answer, _ = strings.Cut(answer, "  => ")
		answer, _, _ = strings.Cut(answer, "\n")
		return answer
	}
	for from, want := range map[string]string{
		"x@bad.example":     "554 5.7.1 <x@bad.example>: Sender address rejected: no",
		"x@sub.bad.example": "554 5.7.1 <x@sub.bad.example>: Sender address rejected: no",
		"x@slow.example":    "450 4.7.1 <x@slow.example>: Sender address rejected: later",
		"x@strange.example": "451 4.3.5 <x@strange.example>: Sender address rejected: Server configuration error",
		"alice@example.com": "554 5.7.1 <alice@example.com>: Sender address rejected: Alice Anders writes to nobody here",
		"x@file.example":    "554 5.7.1 <x@file.example>: Sender address rejected: by the file",
		"x@good.example":    "250 2.1.5 Ok",
	} {
		if got := reply(from); got != want {
			t.Errorf("%s: %q, want %q", from, got, want)
		}
	}
	// The commands ask as the restrictions do, in the order of their keys.
	path := filepath.Join(g.file.DataDir, "..", "postern.hcl")
	for _, row := range []struct {
		table, key, want string
		found            bool
	}{
		{"query:main/access", "x+y@sub.bad.example", "x+y@sub.bad.example\t-\nx@sub.bad.example\t-\nsub.bad.example\t-\n.bad.example\t-\nbad.example\tREJECT no\n", true},
		{"query:main/access", "host.bad.example", "host.bad.example\t-\n.bad.example\t-\nbad.example\tREJECT no\n", true},
		{"query:main/access", "192.0.2.1", "192.0.2.1\t-\n192.0.2\t-\n192.0\t-\n192\t-\n", false},
		{"query:corp/blocked", "alice@example.com", "alice@example.com\tREJECT Alice Anders writes to nobody here\n", true},
		{"query:corp/blocked", "nobody@example.com", "nobody@example.com\t-\nexample.com\t-\n.com\t-\ncom\t-\nnobody@\t-\n", false},
	} {
		out, err := executed(t, "table", "query", "--as", "access", row.table, row.key, "-c", path)
		if out != row.want || (err == nil) != row.found {
			t.Errorf("query %s %s: %v\n%q, want\n%q", row.table, row.key, err, out, row.want)
		}
	}
	for _, name := range []string{"query:main/access", "query:corp/blocked"} {
		if out, err := executed(t, "table", "check", "--as", "access", name, "-c", path); err != nil || !strings.Contains(out, "no mistakes") {
			t.Errorf("check %s: %v\n%s", name, err, out)
		}
	}
	slapd.Stop()
	if out, err := executed(t, "table", "query", "--as", "access", "query:corp/blocked", "alice@example.com", "-c", path); err == nil || strings.Contains(out, "alice@example.com\t-") {
		t.Errorf("query while the directory is down: %v\n%s", err, out)
	}
	if got := reply("x@good.example"); !strings.HasPrefix(got, "451 4.") {
		t.Errorf("while the directory is down: %q", got)
	}
	if got := reply("x@bad.example"); !strings.HasPrefix(got, "554 5.7.1 ") {
		t.Errorf("before the directory is come to: %q", got)
	}
}
