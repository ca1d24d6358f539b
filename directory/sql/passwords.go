package sql

import (
	"context"
	"strings"

	"github.com/postern-mail/postern/directory"
)

// Query is a query about logins, for a verifier. It may be used concurrently.
type Query struct {
	db        *DB
	statement *Statement
}

// NewQuery reads a query in Dovecot's notation.
func NewQuery(text string, db *DB) (*Query, error) {
	s, err := ParseStatement(text, db.Driver(), Dovecot)
	return &Query{db, s}, err
}

// Rows returns what the database says of a login: columns by name, in lower
// case, without those that are NULL. Every error is status.DirectoryDown.
func (q *Query) Rows(ctx context.Context, login string) ([]map[string]string, error) {
	if !directory.IsPossibleKey(login) {
		return nil, nil
	}
	key := directory.NewKey(login)
	found, _, err := q.db.Select(ctx, q.statement, &key, 8)
	rows := make([]map[string]string, len(found))
	for i, row := range found {
		rows[i] = make(map[string]string, len(row.Columns))
		for n, column := range row.Columns {
			if v := row.Values[n]; v != nil {
				rows[i][strings.ToLower(column)] = *v
			}
		}
	}
	return rows, err
}
