package sql

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/postern-mail/postern/directory"
	"github.com/postern-mail/postern/status"
)

// Base is the DN above the entries of a Source; Accounts and Aliases are those
// above people and above aliases. The preset "sql" has them.
const (
	Base     directory.DN = "dc=sql"
	Accounts directory.DN = "ou=people,dc=sql"
	Aliases  directory.DN = "ou=aliases,dc=sql"
)

// maxRows bounds what one question may find, and maxIterated a whole listing.
const (
	maxRows     = 1000
	maxIterated = 1_000_000
)

// SourceConfig says which queries give the entries. All are in Dovecot's
// notation.
type SourceConfig struct {
	// User finds the account of a login or of a name, a row or several that
	// are joined. Columns are attributes: uid (or user, username) is the
	// account's name; mail (address, email) an address of it; forward, quota,
	// host, transport, disabled and others mean what the preset "sql" says.
	// Without mail the name is the address where it has a domain. Required.
	User string
	// Address finds the account that has an address; "" asks User.
	Address string
	// Alias finds what an address that is no account stands for: each column of
	// each row but mail and sender holds addresses, with commas between.
	Alias string
	// Iterate lists all accounts, for commands that do; columns as User's.
	Iterate string
}

// Source shows a database as a directory of entries, so that all a directory
// is asked is asked of it, too: a question about an attribute's value is one of
// the queries, and what its rows say is checked by the question's filter. It
// implements directory.Searcher and may be used concurrently.
type Source struct {
	db                            *DB
	user, address, alias, iterate *Statement
}

// NewSource returns a source that asks db.
func NewSource(cfg SourceConfig, db *DB) (*Source, error) {
	s := &Source{db: db}
	for _, q := range []struct {
		name, text string
		into       **Statement
	}{{"user_query", cfg.User, &s.user}, {"address_query", cfg.Address, &s.address}, {"alias_query", cfg.Alias, &s.alias}, {"iterate_query", cfg.Iterate, &s.iterate}} {
		if q.text == "" {
			continue
		}
		var err error
		if *q.into, err = ParseStatement(q.text, db.Driver(), Dovecot); err != nil {
			return nil, fmt.Errorf("%s: %w", q.name, err)
		}
	}
	if s.user == nil {
		return nil, errors.New("user_query is missing")
	}
	if s.address == nil {
		s.address = s.user
	}
	return s, nil
}

// Where implements directory.Explainer.
func (s *Source) Where() string { return "database " + s.db.Name() }

var errCannotList = errors.New("the database has no iterate_query to list accounts")

// Search implements directory.Searcher.
func (s *Source) Search(ctx context.Context, req directory.Request) ([]directory.Entry, error) {
	found, err := s.candidates(ctx, req)
	if err != nil {
		if status.Of(err) != status.DirectoryDown {
			err = status.New(status.DirectoryDown, err)
		}
		return nil, err
	}
	var entries []directory.Entry
	for _, e := range found {
		if !directory.Match(req.Filter, e) {
			continue
		}
		if req.SizeLimit > 0 && len(entries) == req.SizeLimit {
			return nil, status.New(status.DirectoryDown, directory.ErrSizeLimit)
		}
		entries = append(entries, e)
	}
	return entries, nil
}

// candidates returns the entries that a search may be about.
func (s *Source) candidates(ctx context.Context, req directory.Request) ([]directory.Entry, error) {
	if req.Scope == directory.ScopeBase {
		return s.named(ctx, req.Base)
	}
	values, ok := directory.RequiredValues(req.Filter)
	if !ok {
		if s.iterate == nil {
			return nil, errCannotList
		}
		rows, _, err := s.db.Select(ctx, s.iterate, new(directory.Key), maxIterated)
		return accounts(rows, ""), err
	}
	aliases := strings.HasSuffix(req.Base.Key(), Aliases.Key())
	all := make(map[string]directory.Entry)
	asked := make(map[string]bool)
	for _, v := range values {
		query := s.queryFor(v.Attribute, aliases)
		once := v.Key
		if query == s.user {
			once = "user " + once
		}
		if query == nil || asked[once] {
			continue
		}
		asked[once] = true
		found, err := s.ask(ctx, query, v.Key, aliases)
		if err != nil {
			return nil, err
		}
		for _, e := range found {
			all[e.DN.Key()] = e
		}
	}
	var entries []directory.Entry
	for _, e := range all {
		entries = append(entries, e)
	}
	slices.SortFunc(entries, func(a, b directory.Entry) int { return strings.Compare(string(a.DN), string(b.DN)) })
	return entries, nil
}

// queryFor returns the query that answers who has a value of an attribute; nil
// where nobody can have it.
func (s *Source) queryFor(attribute string, aliases bool) *Statement {
	switch {
	case aliases && attribute == "mail":
		return s.alias
	case aliases:
		return nil
	case attribute == "uid":
		return s.user
	case attribute == "mail":
		return s.address
	default:
		return nil
	}
}

// named reads the entry of a DN.
func (s *Source) named(ctx context.Context, dn directory.DN) ([]directory.Entry, error) {
	name, isAccount := strings.CutSuffix(dn.Key(), ","+Accounts.Key())
	name, isNamed := strings.CutPrefix(name, "uid=")
	if !isAccount || !isNamed {
		return nil, directory.ErrNoSuchBase
	}
	found, err := s.ask(ctx, s.user, name, false)
	if err != nil {
		return nil, err
	}
	for _, e := range found {
		if e.DN.Equal(dn) {
			return []directory.Entry{e}, nil
		}
	}
	return nil, directory.ErrNoSuchBase
}

func (s *Source) ask(ctx context.Context, query *Statement, text string, aliases bool) ([]directory.Entry, error) {
	if !directory.IsPossibleKey(text) {
		return nil, nil
	}
	key := directory.NewKey(text)
	rows, _, err := s.db.Select(ctx, query, &key, maxRows)
	if err != nil {
		return nil, err
	}
	if aliases {
		return alias(rows, text), nil
	}
	return accounts(rows, text), nil
}

// attributeOf is what a column means.
func attributeOf(column string) string {
	column = strings.TrimPrefix(strings.ToLower(column), "userdb_")
	switch column {
	case "user", "username":
		return "uid"
	case "address", "email":
		return "mail"
	case "quota_rule":
		return "quota"
	default:
		return column
	}
}

// valueOf reads a value. Quotas may be Dovecot's rules: *:storage=1G.
func valueOf(attribute, value string) string {
	if attribute == "quota" {
		for _, prefix := range []string{"*:bytes=", "*:storage="} {
			if rest, ok := strings.CutPrefix(value, prefix); ok {
				if prefix == "*:storage=" && strings.Trim(rest, "0123456789") == "" {
					rest += "K"
				}
				return rest
			}
		}
	}
	return value
}

// accounts makes entries of rows, one of all rows of a name.
func accounts(rows []Row, asked string) []directory.Entry {
	all := make(map[string]map[string][]string)
	var names []string
	for _, row := range rows {
		name := row.first("uid")
		if name == "" {
			continue
		}
		if all[name] == nil {
			names = append(names, name)
			all[name] = map[string][]string{"objectClass": {"account"}}
		}
		row.each(func(attribute, value string) { addValue(all[name], attribute, value) })
	}
	entries := make([]directory.Entry, 0, len(names))
	for _, name := range names {
		attributes := all[name]
		if len(attributes["mail"]) == 0 {
			switch {
			case strings.Contains(name, "@"):
				attributes["mail"] = []string{name}
			case strings.Contains(asked, "@"):
				attributes["mail"] = []string{asked}
			}
		}
		entries = append(entries, directory.NewEntry("uid="+directory.DN(directory.EscapeDNValue(name))+","+Accounts, attributes))
	}
	return entries
}

// alias makes one entry of the rows of an address.
func alias(rows []Row, asked string) []directory.Entry {
	attributes := map[string][]string{"objectClass": {"alias"}, "mail": {asked}}
	for _, row := range rows {
		row.each(func(attribute, value string) {
			switch attribute {
			case "mail":
			case "sender":
				addValue(attributes, attribute, value)
			default:
				for _, one := range strings.FieldsFunc(value, func(c rune) bool { return c == ',' || c == ' ' || c == '\n' }) {
					addValue(attributes, "member", one)
				}
			}
		})
	}
	if len(attributes["member"]) == 0 {
		return nil
	}
	return []directory.Entry{directory.NewEntry("mail="+directory.DN(directory.EscapeDNValue(asked))+","+Aliases, attributes)}
}

func addValue(attributes map[string][]string, name, value string) {
	if !slices.Contains(attributes[name], value) {
		attributes[name] = append(attributes[name], value)
	}
}

// each calls f for each column that says something.
func (r Row) each(f func(attribute, value string)) {
	for i, column := range r.Columns {
		if v := r.Values[i]; v != nil && *v != "" {
			attribute := attributeOf(column)
			f(attribute, valueOf(attribute, *v))
		}
	}
}

// first returns what a row says of an attribute.
func (r Row) first(attribute string) (value string) {
	r.each(func(name, v string) {
		if name == attribute && value == "" {
			value = v
		}
	})
	return value
}
