package config

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/hashicorp/go-hclog"

	authnsql "github.com/postern-mail/postern/authn/sql"
	"github.com/postern-mail/postern/directory/sql"
	"github.com/postern-mail/postern/mail"
	"github.com/postern-mail/postern/table"
)

// DirectorySQL is a directory over a database.
const DirectorySQL = "sql"

// Database is a database that tables, directories and verifiers ask.
type Database struct {
	block
	Driver string `conf:"driver,label"`
	Name   string `conf:"name,label"`

	Hosts        []string      `conf:"hosts" doc:"Hosts, asked in order until one answers: name, name:port, or unix:/path. Empty: localhost. sqlite has none."`
	Shuffle      bool          `conf:"shuffle" default:"false" doc:"Ask the hosts in any order, as Postfix does, in place of in theirs."`
	Database     string        `conf:"database" required:"the database's name, or sqlite's file" doc:"Name of the database; sqlite: its file, which is only read."`
	User         string        `conf:"user" doc:"Login at the database."`
	PasswordFile string        `conf:"password_file" doc:"File that holds the password in its first line."`
	TLS          string        `conf:"tls" default:"auto" oneof:"auto on off" doc:"Whether connections are protected. auto: towards hosts other than this machine, and where ca_file is given; off in the clear."`
	CAFile       string        `conf:"ca_file" doc:"CA certificates to trust, PEM. Empty: the system's."`
	ServerName   string        `conf:"server_name" doc:"Name the server's certificate must hold. Empty: the host."`
	SkipVerify   bool          `conf:"insecure_skip_verify" default:"false" doc:"Do not verify the server's certificate: whoever is in between then reads and writes what is looked up."`
	CertFile     string        `conf:"cert_file" doc:"Certificate to show the server, PEM."`
	KeyFile      string        `conf:"key_file" doc:"Its private key, PEM."`
	Timeout      time.Duration `conf:"timeout" default:"5s" doc:"Longest time one query may take on one host."`
	MaxConns     int           `conf:"max_connections" default:"8" doc:"Connections to each host."`
	Retry        time.Duration `conf:"retry_interval" default:"60s" doc:"How long, at most, a host that did not answer is left alone: a second at first, then longer each time."`

	Tables []*SQLTable `conf:"table,block" example:"table \"virtual\" { query = \"SELECT target FROM alias WHERE address = '%s'\" }" doc:"Lookups with the keys of Postfix's mysql_table(5), which settings name as query:DATABASE/TABLE. Label: a name of your choice."`
}

// SQLTable is a lookup in the manner of Postfix's mysql_table(5).
type SQLTable struct {
	block
	Name string `conf:"name,label"`

	Query     string        `conf:"query" required:"what is asked, such as \"SELECT target FROM alias WHERE address = '%s'\"" doc:"Query; %s is the address, @domain or name looked up, %u and %d its local-part and domain, %1 to %9 the domain's labels from the right. They are bound as parameters, never text of the query. Each column of each row is a result."`
	Domain    []mail.Domain `conf:"domain" doc:"Domains whose addresses are looked up; names without a domain then are not. Empty: all."`
	Format    string        `conf:"result_format" default:"%s" doc:"What is made of each result: %s the value, %u and %d its parts, %S, %U, %D and %1 to %9 those of what was looked up. A value that lacks a part is left out."`
	Expansion int           `conf:"expansion_limit" default:"1000" doc:"Results one lookup may have. More is an error, and mail waits."`
}

// Room returns where the database is.
func (d *Database) Room() sql.Config {
	return sql.Config{
		Name: d.Name, Driver: d.Driver, Hosts: d.Hosts, Shuffle: d.Shuffle, Database: d.Database, User: d.User, PasswordFile: d.PasswordFile,
		TLS: d.TLS, CAFile: d.CAFile, ServerName: d.ServerName, SkipVerify: d.SkipVerify, CertFile: d.CertFile, KeyFile: d.KeyFile,
		Timeout: d.Timeout, MaxConnections: d.MaxConns, RetryInterval: d.Retry,
	}
}

// Room returns the lookup.
func (t *SQLTable) Room(database string) sql.TableConfig {
	return sql.TableConfig{
		Name: queryTable + database + "/" + t.Name, Query: t.Query, Domains: t.Domain, ResultFormat: t.Format, ExpansionLimit: t.Expansion,
	}
}

// SQL returns the queries of a directory of kind sql.
func (d *Directory) SQL() sql.SourceConfig {
	return sql.SourceConfig{User: d.UserQuery, Address: d.AddressQuery, Alias: d.AliasQuery, Iterate: d.IterateQuery}
}

// SQL returns how a verifier of kind sql reads passwords.
func (a *Authn) SQL() authnsql.Config { return authnsql.Config{DefaultScheme: a.DefaultScheme} }

// Database returns a database; nil where there is none of the name.
func (f *File) Database(name string) *Database {
	at := slices.IndexFunc(f.Databases, func(d *Database) bool { return d.Name == name })
	if at < 0 {
		return nil
	}
	return f.Databases[at]
}

// DatabaseTable returns the database and the table that "DATABASE/TABLE" names.
func (f *File) DatabaseTable(name string) (*Database, *SQLTable) {
	database, wanted, _ := strings.Cut(name, "/")
	d := f.Database(database)
	if d == nil {
		return nil, nil
	}
	at := slices.IndexFunc(d.Tables, func(t *SQLTable) bool { return t.Name == wanted })
	if at < 0 {
		return d, nil
	}
	return d, d.Tables[at]
}

// ForeignKinds are the words that begin the names of tables that are no files.
func ForeignKinds() []string { return append([]string{"query"}, sql.PostfixKinds()...) }

// ForeignTable opens a table that is no file: query:DATABASE/TABLE, or one of
// Postfix's files, mysql:FILE, pgsql:FILE, sqlite:FILE. open returns a
// database, the one of that name where there is one. A word it does not know
// gives nil and no error.
func (f *File) ForeignTable(kind, rest string, open func(sql.Config) (*sql.DB, error)) (table.Table, error) {
	var cfg sql.Config
	var lookup sql.TableConfig
	switch {
	case kind == "query":
		d, t := f.DatabaseTable(rest)
		if t == nil {
			return nil, fmt.Errorf("there is no such table: write query:DATABASE/TABLE, or query:DIRECTORY/TABLE where the table says use = \"tables\"")
		}
		cfg, lookup = d.Room(), t.Room(d.Name)
	case slices.Contains(sql.PostfixKinds(), kind):
		path := rest
		if !filepath.IsAbs(path) {
			path = filepath.Join(f.TableDir(), path)
		}
		file, err := os.Open(path)
		if err != nil {
			return nil, unwrapPath(err)
		}
		cfg, lookup, err = sql.ReadPostfix(kind, path, file)
		if err = errors.Join(err, file.Close()); err != nil {
			return nil, err
		}
	default:
		return nil, nil
	}
	db, err := open(cfg)
	if err != nil {
		return nil, err
	}
	return sql.NewTable(lookup, db)
}

// opener opens tables to check them: nothing is connected to.
func (c checker) opener() *table.Opener {
	return &table.Opener{Dir: c.file.TableDir(), ForeignKinds: ForeignKinds(), Foreign: func(kind, rest string) (table.Table, error) {
		if _, query, known := c.file.RewriteTable(kind + ":" + rest); known && query != nil {
			return unasked(rest), nil
		}
		return c.file.ForeignTable(kind, rest, checkDatabase)
	}}
}

// unasked is a directory's table while a configuration is checked.
type unasked string

// Name implements table.Table.
func (u unasked) Name() string { return string(u) }

// Lookup implements table.Table.
func (unasked) Lookup(context.Context, string) ([]string, error) { return nil, nil }

func checkDatabase(cfg sql.Config) (*sql.DB, error) {
	db, err := sql.New(cfg, hclog.NewNullLogger())
	if err == nil {
		db.Close()
	}
	return db, err
}

// databases checks where databases are, and their tables.
func (c checker) databases() {
	seen := make(map[string]bool)
	for _, d := range c.file.Databases {
		if seen[d.Name] || c.file.Directory(d.Name) != nil {
			c.errorf(d.at, "Repeated name", "There is a database or directory %q already.", d.Name)
		}
		seen[d.Name] = true
		c.readable(&d.block, "password_file", d.PasswordFile)
		c.readable(&d.block, "ca_file", d.CAFile)
		c.keyPair(&d.block, d.CertFile, d.KeyFile)
		db, err := checkDatabase(d.Room())
		if err != nil {
			c.errorf(d.at, "Wrong database", "%v.", err)
			continue
		}
		tables := make(map[string]bool)
		for _, t := range d.Tables {
			if tables[t.Name] {
				c.errorf(t.at, "Repeated name", "The database %q has a table %q already.", d.Name, t.Name)
			}
			tables[t.Name] = true
			if _, err := sql.NewTable(t.Room(d.Name), db); err != nil {
				c.errorf(t.at, "Wrong table", "%v.", err)
			}
		}
	}
}

// database returns the database that a block names, for checks of its queries.
func (c checker) database(b *block, name string) *sql.DB {
	d := c.file.Database(name)
	if d == nil {
		c.errorf(b.at, "Missing setting", `It needs "database", one of the database blocks, such as database.NAME.`)
		return nil
	}
	db, err := checkDatabase(d.Room())
	if err != nil {
		return nil // told already
	}
	return db
}

// sqlDirectory checks a directory of kind sql.
func (c checker) sqlDirectory(dir *Directory) {
	c.forbid(&dir.block, DirectorySQL, "file", "uris", "base", "preset", "bind_dn", "bind_password_file", "ca_file", "server_name")
	if db := c.database(&dir.block, dir.Database); db != nil {
		if _, err := sql.NewSource(dir.SQL(), db); err != nil {
			c.errorf(dir.at, "Wrong query", "%v.", err)
		}
	}
}

// sqlVerifier checks a verifier of kind sql.
func (c checker) sqlVerifier(a *Authn) {
	db := c.database(&a.block, a.Database)
	if db == nil {
		return
	}
	if _, err := sql.NewQuery(a.PasswordQuery, db); err != nil {
		c.errorf(a.rangeOf("password_query"), "Wrong query", "password_query: %v.", err)
	}
}
