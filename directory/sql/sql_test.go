package sql_test

import (
	"context"
	stdsql "database/sql"
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/postern-mail/postern/directory"
	"github.com/postern-mail/postern/directory/sql"
	"github.com/postern-mail/postern/internal/testenv"
	"github.com/postern-mail/postern/mail"
	"github.com/postern-mail/postern/status"
)

// content is what the tests put into a database.
const content = `
CREATE TABLE users (username VARCHAR(100), password VARCHAR(200), mail VARCHAR(100), forward VARCHAR(100), quota VARCHAR(20), active INTEGER);
INSERT INTO users VALUES ('alice@corp.example', '{PLAIN}x', NULL, NULL, '*:storage=1G', 1);
INSERT INTO users VALUES ('bob', '{PLAIN}x', 'bob@corp.example', NULL, '', 1), ('bob', '{PLAIN}x', 'robert@corp.example', NULL, NULL, 1);
INSERT INTO users VALUES ('carol', '{PLAIN}x', 'carol@corp.example', 'c@elsewhere.example', NULL, 1), ('dan', '{PLAIN}x', 'dan@corp.example', NULL, NULL, 0);
CREATE TABLE alias (address VARCHAR(100), target VARCHAR(200), more VARCHAR(100));
INSERT INTO alias VALUES ('info@corp.example', 'alice@corp.example', NULL), ('info@corp.example', 'bob@corp.example', ''), ('@old.example', 'alice@corp.example', 'bob');
INSERT INTO alias VALUES ('list@corp.example', 'bob@corp.example, x@elsewhere.example', NULL), ('it''s@corp.example', 'q', NULL);
`

func newDB(t testing.TB, cfg sql.Config) *sql.DB {
	t.Helper()
	cfg.Name = "test"
	db, err := sql.New(cfg, hclog.NewNullLogger())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(db.Close)
	return db
}

func sqlite(t testing.TB) sql.Config {
	t.Helper()
	file := filepath.Join(t.TempDir(), "a b.db")
	db, err := stdsql.Open("sqlite", file)
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	if _, err := db.Exec(content); err != nil {
		t.Fatal(err)
	}
	return sql.Config{Driver: sql.SQLite, Database: file}
}

func newTable(t testing.TB, cfg sql.TableConfig, db *sql.DB) *sql.Table {
	t.Helper()
	tab, err := sql.NewTable(cfg, db)
	if err != nil {
		t.Fatal(err)
	}
	return tab
}

// checkTables looks the same things up in any database.
func checkTables(t *testing.T, db *sql.DB) {
	t.Helper()
	for name, c := range map[string]struct {
		cfg  sql.TableConfig
		want map[string]string
	}{
		"every column of each row": {sql.TableConfig{Query: "SELECT target, more FROM alias WHERE address = '%s' ORDER BY target"}, map[string]string{
			"info@corp.example": "alice@corp.example bob@corp.example", "@old.example": "alice@corp.example bob", "nobody@corp.example": "",
			"it's@corp.example": "q", "' OR '1'='1": "", `\' OR 1=1 -- `: "", "%s": "", "": "",
		}},
		"parts": {sql.TableConfig{Query: "SELECT target FROM alias WHERE address = '%u@%d' ORDER BY 1", ResultFormat: "[%u]@%D"}, map[string]string{
			"info@corp.example": "[alice]@corp.example [bob]@corp.example", "info": "", "@corp.example": "",
		}},
		"domains": {sql.TableConfig{Query: "SELECT 'x'", Domains: []mail.Domain{"corp.example"}}, map[string]string{
			"a@corp.example": "x", "a@CORP.example": "x", "a@other.example": "", "a": "", "@corp.example": "", "corp.example": "",
		}},
		"no part, no lookup": {sql.TableConfig{Query: "SELECT 'x'", ResultFormat: "%s-%3"}, map[string]string{"a@b.c.example": "x-b", "a@c.example": ""}},
	} {
		tab := newTable(t, c.cfg, db)
		for key, want := range c.want {
			values, err := tab.Lookup(t.Context(), key)
			if got := strings.Join(values, " "); err != nil || got != want {
				t.Errorf("%s: %q gives %q, %v; want %q", name, key, got, err, want)
			}
		}
	}
	for name, cfg := range map[string]sql.TableConfig{
		"too many":  {Query: "SELECT address FROM alias", ExpansionLimit: 2},
		"no column": {Query: "SELECT nothing FROM alias WHERE address = '%s'"},
	} {
		if values, err := newTable(t, cfg, db).Lookup(t.Context(), "k"); status.Of(err) != status.DirectoryDown {
			t.Errorf("%s: %q, %v", name, values, err)
		}
	}
	// A query that is wrong says nothing of the host.
	if values, err := newTable(t, sql.TableConfig{Query: "SELECT 'x'"}, db).Lookup(t.Context(), "k"); err != nil || len(values) != 1 {
		t.Errorf("after wrong queries: %q, %v", values, err)
	}
}

// checkDirectory asks a directory over the database all that directories are
// asked.
func checkDirectory(t *testing.T, db *sql.DB) {
	t.Helper()
	source, err := sql.NewSource(sql.SourceConfig{
		User:    "SELECT username, mail, forward, quota, active FROM users WHERE username = '%u'",
		Address: "SELECT username, mail, forward, quota, active FROM users WHERE mail = '%u' OR username = '%u'",
		Alias:   "SELECT target, more FROM alias WHERE address = '%u'",
		Iterate: "SELECT username, mail FROM users",
	}, db)
	if err != nil {
		t.Fatal(err)
	}
	d, err := directory.New(directory.Config{Preset: "sql", BaseDN: sql.Base, Domains: []mail.Domain{"corp.example", "old.example"}}, source, hclog.NewNullLogger())
	if err != nil {
		t.Fatal(err)
	}
	for address, want := range map[string]string{
		"alice@corp.example": "alice@corp.example", "ALICE+x@corp.example": "alice+x@corp.example", "robert@corp.example": "robert@corp.example",
		"carol@corp.example": "c@elsewhere.example", "info@corp.example": "alice@corp.example bob@corp.example",
		"list@corp.example": "bob@corp.example x@elsewhere.example", "any@old.example": "alice@corp.example bob@corp.example",
		"nobody@corp.example": "NoSuchUser",
	} {
		found, err := d.Resolve(t.Context(), mail.MustAddress(address))
		got := ""
		for _, r := range found {
			got += " " + r.Address.String()
		}
		if err != nil {
			got = " " + status.Of(err).String()
		}
		if strings.TrimSpace(got) != want {
			x, _ := d.Explain(t.Context(), address)
			t.Errorf("%s: %s, %v; want %s\n%s", address, got, err, want, x)
		}
	}
	alice, err := d.Account(t.Context(), "alice@corp.example")
	if err != nil || alice.Name != "alice@corp.example" || alice.QuotaOctets != 1<<30 {
		t.Errorf("alice: %+v, %v", alice, err)
	}
	if dan, err := d.Account(t.Context(), "dan"); err != nil || !dan.Disabled {
		t.Errorf("dan: %+v, %v", dan, err)
	}
	if ok, err := d.MaySendAs(t.Context(), mail.Identity{Authentication: "bob"}, mail.MustAddress("bob@corp.example")); !ok || err != nil {
		t.Errorf("bob may not send as bob: %v", err)
	}
	all, err := source.Search(t.Context(), directory.Request{Base: sql.Base, Filter: directory.Present("objectClass")})
	if err != nil || len(all) != 4 {
		t.Errorf("listed %d accounts, %v", len(all), err)
	}
}

func TestSQLite(t *testing.T) {
	t.Parallel()
	db := newDB(t, sqlite(t))
	checkTables(t, db)
	checkDirectory(t, db)
	q, err := sql.NewQuery("SELECT username AS user, password, mail FROM users WHERE username='%u'", db)
	if err != nil {
		t.Fatal(err)
	}
	if rows, err := q.Rows(t.Context(), "alice@corp.example"); err != nil || len(rows) != 1 || rows[0]["user"] != "alice@corp.example" || len(rows[0]) != 2 {
		t.Errorf("%v, %v", rows, err)
	}
	if values, err := newTable(t, sql.TableConfig{Query: "DELETE FROM alias RETURNING address"}, db).Lookup(t.Context(), "k"); err == nil {
		t.Errorf("a lookup changes the database: %q", values)
	}
}

func TestConfigMistakes(t *testing.T) {
	t.Parallel()
	for name, cfg := range map[string]sql.Config{
		"driver":  {Driver: "oracle", Database: "x"},
		"no name": {Driver: sql.MySQL},
		"host":    {Driver: sql.MySQL, Database: "x", Hosts: []string{"a b"}},
		"port":    {Driver: sql.MySQL, Database: "x", Hosts: []string{"a:b"}},
		"ca":      {Driver: sql.PostgreSQL, Database: "x", CAFile: "/nonexistent"},
		"tls":     {Driver: sql.PostgreSQL, Database: "x", TLS: "perhaps"},
		"file":    {Driver: sql.SQLite, Database: "/nonexistent"},
		"hosts":   {Driver: sql.SQLite, Database: "x", Hosts: []string{"a"}},
	} {
		if _, err := sql.New(cfg, hclog.NewNullLogger()); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
}

// TestPostfixFiles: files of mysql_table(5) and its like are understood, and
// what is not is told with its line.
func TestPostfixFiles(t *testing.T) {
	t.Parallel()
	db, tab, err := sql.ReadPostfix("mysql", "f.cf", strings.NewReader(`# comment
user        = vmail
password    = p = w
hosts       = 127.0.0.1 unix:/run/mysqld.sock
port        = 3307
dbname      = vmail
query       = SELECT mailbox.username FROM mailbox,domain WHERE mailbox.username='%s' AND
 mailbox.domain='%d' AND domain.active=1
result_format = %u
expansion_limit = 100
domain = example.com, example.net
tls_CAfile = /etc/ca.pem
`))
	if err != nil {
		t.Fatal(err)
	}
	if fmt.Sprint(db.Hosts) != "[127.0.0.1:3307 unix:/run/mysqld.sock]" || db.Password != "p = w" || db.User != "vmail" || db.Database != "vmail" || db.TLS != "on" || !db.Shuffle {
		t.Errorf("%+v", db)
	}
	if !strings.HasSuffix(tab.Query, "AND domain.active=1") || tab.ExpansionLimit != 100 || len(tab.Domains) != 2 || tab.ResultFormat != "%u" {
		t.Errorf("%+v", tab)
	}
	for text, want := range map[string]string{
		"dbpath = x": "no query", "query = x\nquerry = y": "f.cf:2: querry", "query = x\nexpansion_limit = y": "f.cf:2:", "query = x\ndomain = hash:/y": "f.cf:2:",
	} {
		if _, _, err := sql.ReadPostfix("sqlite", "f.cf", strings.NewReader(text)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v, want %q", text, err, want)
		}
	}
}

func TestPostgreSQL(t *testing.T) {
	t.Parallel()
	server := testenv.PostgreSQL(t)
	checkServer(t, sql.PostgreSQL, server, "SELECT pg_sleep(60)", "SELECT pid FROM pg_stat_activity WHERE query LIKE '%%pg_sleep(60)%%' AND pid <> pg_backend_pid()")
}

func TestMariaDB(t *testing.T) {
	t.Parallel()
	server := testenv.MariaDB(t)
	checkServer(t, sql.MySQL, server, "SELECT SLEEP(60)", "SELECT id FROM information_schema.processlist WHERE info LIKE '%%SLEEP(60)' AND id <> CONNECTION_ID()")
}

// checkServer takes a real server through what can happen to one.
func checkServer(t *testing.T, driver string, server *testenv.Database, sleep, sleeping string) {
	server.Exec(content)
	if driver == sql.PostgreSQL {
		server.Exec("GRANT ALL ON ALL TABLES IN SCHEMA public TO postern")
	}
	good := sql.Config{Driver: driver, Hosts: []string{server.Host}, Database: "mail", User: "postern", Password: server.Password, CAFile: server.CAFile,
		Timeout: time.Minute, RetryInterval: time.Millisecond}
	db := newDB(t, good)
	checkTables(t, db)
	checkDirectory(t, db)

	encrypted := map[string]string{sql.PostgreSQL: "SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()", sql.MySQL: "SHOW SESSION STATUS LIKE 'Ssl_cipher'"}[driver]
	if values, err := newTable(t, sql.TableConfig{Query: strings.ReplaceAll(encrypted, "%", "%%")}, db).Lookup(t.Context(), "k"); err != nil || len(values) == 0 || values[len(values)-1] == "false" || values[len(values)-1] == "Ssl_cipher" {
		t.Errorf("the connection is not protected: %q, %v", values, err)
	}
	probe := sql.TableConfig{Query: "SELECT 'x'"}
	socket := good
	socket.Hosts, socket.CAFile = []string{"unix:" + server.Socket}, ""
	if _, err := newTable(t, probe, newDB(t, socket)).Lookup(t.Context(), "k"); err != nil {
		t.Errorf("by the unix socket: %v", err)
	}
	for name, change := range map[string]func(*sql.Config){
		"wrong password":   func(c *sql.Config) { c.Password = "other" },
		"wrong CA":         func(c *sql.Config) { c.CAFile = testenv.NewCA(t).WriteFile(t.TempDir()) },
		"name mismatch":    func(c *sql.Config) { c.ServerName = "other.example" },
		"no such database": func(c *sql.Config) { c.Database = "absent" },
		"nobody there":     func(c *sql.Config) { c.Hosts = []string{"127.0.0.1:1"} },
	} {
		cfg := good
		change(&cfg)
		if values, err := newTable(t, probe, newDB(t, cfg)).Lookup(t.Context(), "k"); status.Of(err) != status.DirectoryDown || len(values) > 0 {
			t.Errorf("%s: %q, %v", name, values, err)
		}
		cfg.Hosts = append(cfg.Hosts, server.Host)
		if name == "nobody there" {
			if _, err := newTable(t, probe, newDB(t, cfg)).Lookup(t.Context(), "k"); err != nil {
				t.Errorf("the second host is not asked: %v", err)
			}
		}
	}

	slow := good
	slow.Timeout = 300 * time.Millisecond
	if _, err := newTable(t, sql.TableConfig{Query: sleep}, newDB(t, slow)).Lookup(t.Context(), "k"); status.Of(err) != status.DirectoryDown {
		t.Errorf("a slow query: %v", err)
	}

	// The power fails in the middle of a query.
	done := make(chan error, 1)
	go func() {
		_, err := newTable(t, sql.TableConfig{Query: sleep}, db).Lookup(context.WithoutCancel(t.Context()), "k")
		done <- err
	}()
	testenv.Eventually(t, time.Minute, func() error {
		values, err := newTable(t, sql.TableConfig{Query: sleeping}, db).Lookup(t.Context(), "k")
		if err == nil && len(values) == 0 {
			err = errors.New("the query does not run yet")
		}
		return err
	})
	server.Kill()
	if err := <-done; status.Of(err) != status.DirectoryDown {
		t.Errorf("killed in mid-query: %v", err)
	}
	if _, err := newTable(t, probe, db).Lookup(t.Context(), "k"); status.Of(err) != status.DirectoryDown {
		t.Errorf("while it is down: %v", err)
	}
	server.Start()
	testenv.Eventually(t, time.Minute, func() error {
		_, err := newTable(t, probe, db).Lookup(t.Context(), "k")
		return err
	})
	checkTables(t, db)
}

// TestLargeResults: a result that is too large is an error of the query, not of
// the host, which goes on answering.
func TestLargeResults(t *testing.T) {
	t.Parallel()
	db := newDB(t, sqlite(t))
	large := newTable(t, sql.TableConfig{Name: "large", Query: "SELECT hex(zeroblob(4000000)) FROM users WHERE '%s' <> ''"}, db)
	if _, err := large.Lookup(t.Context(), "x"); status.Of(err) != status.DirectoryDown || !strings.Contains(err.Error(), "too large") {
		t.Errorf("large: %.200v", err)
	}
	small := newTable(t, sql.TableConfig{Name: "small", Query: "SELECT target FROM alias WHERE address = '%s'"}, db)
	if got, err := small.Lookup(t.Context(), "list@corp.example"); err != nil || len(got) != 1 {
		t.Errorf("then: %v, %v", got, err)
	}
}

// TestNoPasswordIsTold: errors do not show the passwords they are about.
func TestNoPasswordIsTold(t *testing.T) {
	t.Parallel()
	for _, file := range []string{"hosts = postgresql://mail:secret@db/mail\nquery = x\n", "hosts = mail:secret@db\nquery = x\n", "password = secret\nquery = x\nnonsense = secret\n"} {
		_, _, err := sql.ReadPostfix("pgsql", "f", strings.NewReader(file))
		if err == nil || strings.Contains(err.Error(), "secret") {
			t.Errorf("%q: %v", file, err)
		}
	}
	for _, driver := range []string{sql.MySQL, sql.PostgreSQL} {
		db := newDB(t, sql.Config{Driver: driver, Database: "mail", User: "mail", Password: "secret", Hosts: []string{"unix:" + filepath.Join(t.TempDir(), "s")}})
		tab := newTable(t, sql.TableConfig{Name: "t", Query: "SELECT '%s'"}, db)
		if _, err := tab.Lookup(t.Context(), "x"); status.Of(err) != status.DirectoryDown || strings.Contains(err.Error(), "secret") {
			t.Errorf("%s: %v", driver, err)
		}
	}
}
