package main

import (
	"context"
	"fmt"
	"strings"

	"github.com/hashicorp/go-hclog"

	"github.com/postern-mail/postern/authn"
	authnsql "github.com/postern-mail/postern/authn/sql"
	"github.com/postern-mail/postern/config"
	"github.com/postern-mail/postern/directory/sql"
	"github.com/postern-mail/postern/mail"
	"github.com/postern-mail/postern/policy"
	"github.com/postern-mail/postern/status"
	"github.com/postern-mail/postern/table"
)

// openDatabases makes the pools of databases. Nothing is connected to yet.
func (b *builder) openDatabases() {
	b.databases, b.described = make(map[string]*sql.DB), make(map[sqlPlace]*sql.DB)
	for _, cfg := range b.file.Databases {
		what := "database " + cfg.Name
		db, err := sql.New(cfg.Room(), b.log.Named("database").With("database", cfg.Name))
		if b.failed(what, err) {
			continue
		}
		b.databases[cfg.Name] = db
		b.task(what, db.Run)
	}
}

// sqlPlace tells databases apart that Postfix's files describe.
type sqlPlace struct{ driver, hosts, database, user, password, ca string }

// database returns the pool of a database: the configuration's, or one for all
// of Postfix's files that describe the same.
func (b *builder) database(cfg sql.Config) (*sql.DB, error) {
	if db := b.databases[cfg.Name]; db != nil {
		return db, nil
	}
	at := sqlPlace{cfg.Driver, strings.Join(cfg.Hosts, " "), cfg.Database, cfg.User, cfg.Password, cfg.CAFile}
	if db := b.described[at]; db != nil {
		return db, nil
	}
	db, err := sql.New(cfg, b.log.Named("database").With("database", cfg.Name))
	if err == nil {
		b.described[at] = db
		b.task("database of "+cfg.Name, db.Run)
	}
	return db, err
}

// opener opens tables for a room.
func (b *builder) opener(room string) *table.Opener {
	o := &table.Opener{Dir: b.file.TableDir(), Log: b.log.Named(room)}
	b.foreignTables(o)
	return o
}

// foreignTables lets tables be opened that are no files.
func (b *builder) foreignTables(o *table.Opener) {
	o.ForeignKinds = config.ForeignKinds()
	o.Foreign = func(kind, rest string) (table.Table, error) {
		if dir, query, known := b.file.RewriteTable(kind + ":" + rest); known && query != nil {
			return b.directoryTable(dir, query)
		}
		return b.file.ForeignTable(kind, rest, b.database)
	}
}

// directoryTable is a table of a directory for those that name it.
func (b *builder) directoryTable(dir *config.Directory, query *config.QueryTable) (table.Table, error) {
	searcher := b.searchers[dir.Name]
	if searcher == nil {
		return nil, fmt.Errorf("directory %q is built later and cannot be asked here", dir.Name)
	}
	t, err := b.queryTable(dir, query, searcher)
	if err != nil {
		return nil, err
	}
	return t, nil
}

// sqlVerifier makes what verifies passwords by a database.
func (b *builder) sqlVerifier(cfg *config.Authn, hasher *authn.Hasher, log hclog.Logger) (authn.Verifier, error) {
	query, err := sql.NewQuery(cfg.PasswordQuery, b.databases[cfg.Database])
	if err != nil {
		return nil, fmt.Errorf("password_query: %w", err)
	}
	return authnsql.New(cfg.SQL(), query, hasher, log)
}

// loginMaps are tables of who may send as whom, before a directory.
type loginMaps struct {
	policy.SenderLogins
	book    policy.Owners
	sources map[string]source
}

// loginMaps puts sender_login_maps before a directory.
func (b *builder) loginMaps(book *addressBook) policy.Owners {
	gateway := b.file.Gateway
	if len(gateway.SenderLogins) == 0 {
		return book
	}
	maps := loginMaps{book: book, sources: b.sources}
	maps.Order = table.Order{Delimiters: gateway.Delimiter, Local: func(d mail.Domain) bool {
		return d == mail.Domain(strings.ToLower(b.file.Hostname))
	}}
	for _, name := range gateway.SenderLogins {
		t, err := b.opener("policy").Open(name, table.Use{Value: policy.ParseLogins})
		if !b.failed("sender_login_maps", err) {
			maps.Tables = append(maps.Tables, t)
			b.task("table "+name, t.Run)
		}
	}
	return maps
}

// MaySendAs implements policy.Owners.
func (m loginMaps) MaySendAs(ctx context.Context, id mail.Identity, a mail.Address) (bool, error) {
	logins, err := m.SenderLogins.Owners(ctx, a)
	if err != nil {
		return false, err
	}
	if len(logins) == 0 {
		return m.book.MaySendAs(ctx, id, a)
	}
	who := policy.ActsAs(id)
	if policy.NamesLogin(logins, who) {
		return true, nil
	}
	return m.isOneOf(ctx, id.Source, who, logins)
}

// maxOwners bounds the logins of one address that a directory is asked about.
const maxOwners = 100

// isOneOf reports whether one of the logins that a table names is another login
// of the account: people log in by name or address, and tables hold either.
func (m loginMaps) isOneOf(ctx context.Context, source, account string, logins []string) (bool, error) {
	directory := m.sources[source].Directory
	if directory == nil {
		return false, nil
	}
	for _, login := range logins[:min(len(logins), maxOwners)] {
		_, found, err := directory.FindLogin(ctx, login)
		if status.Of(err) == status.NoSuchUser {
			continue
		}
		if err != nil {
			return false, err
		}
		if found.Name == account {
			return true, nil
		}
	}
	return false, nil
}

// Owners implements policy.Owners.
func (m loginMaps) Owners(ctx context.Context, a mail.Address) ([]string, error) {
	if logins, err := m.SenderLogins.Owners(ctx, a); err != nil || len(logins) > 0 {
		return logins, err
	}
	return m.book.Owners(ctx, a)
}
