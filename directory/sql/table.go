package sql

import (
	"context"
	"fmt"
	"slices"

	"github.com/postern-mail/postern/directory"
	"github.com/postern-mail/postern/mail"
	"github.com/postern-mail/postern/status"
)

// TableConfig describes a lookup in the terms of Postfix's mysql_table(5).
type TableConfig struct {
	// Name stands in explanations.
	Name string
	// Query is asked about each key, in Postfix's notation. Required.
	Query string
	// Domains, when given, restrict lookups to addresses with a local-part in
	// one of them.
	Domains []mail.Domain
	// ResultFormat is made of each column of each row; "" means %s.
	ResultFormat string
	// ExpansionLimit bounds the results; 0 means 1000. Postfix has no bound by
	// default. What goes beyond is an error.
	ExpansionLimit int
}

// Table is a table over a database. It may be used concurrently.
type Table struct {
	cfg    TableConfig
	db     *DB
	query  *Statement
	format directory.Format
}

// NewTable returns a table that asks db.
func NewTable(cfg TableConfig, db *DB) (*Table, error) {
	setDefault(&cfg.ExpansionLimit, 1000)
	if cfg.ResultFormat == "" {
		cfg.ResultFormat = "%s"
	}
	t := &Table{cfg: cfg, db: db}
	var err error
	if t.query, err = ParseStatement(cfg.Query, db.Driver(), Postfix); err != nil {
		return nil, fmt.Errorf("table %q: query: %w", cfg.Name, err)
	}
	if t.format, err = directory.ParseFormat(cfg.ResultFormat); err != nil {
		return nil, fmt.Errorf("table %q: result format: %w", cfg.Name, err)
	}
	return t, nil
}

// Name implements table.Table.
func (t *Table) Name() string { return t.cfg.Name }

// Where implements directory.Explainer.
func (t *Table) Where() string { return "database " + t.db.Name() + ": " + t.query.String() }

// Lookup implements table.Table. Every error is status.DirectoryDown.
func (t *Table) Lookup(ctx context.Context, text string) ([]string, error) {
	key := directory.NewKey(text)
	if !directory.IsPossibleKey(text) || !key.InDomains(t.cfg.Domains) || !t.format.Fits(&key) {
		return nil, nil
	}
	rows, _, err := t.db.Select(ctx, t.query, &key, t.cfg.ExpansionLimit)
	if err != nil {
		return nil, err
	}
	var values []string
	for _, row := range rows {
		for _, v := range row.Values {
			if v == nil || *v == "" {
				continue
			}
			text, ok := t.format.Apply(&key, *v)
			if !ok || slices.Contains(values, text) {
				continue
			}
			if len(values) == t.cfg.ExpansionLimit {
				return nil, status.Errorf(status.DirectoryDown, "table %s: %w", t.cfg.Name, tooMany(t.cfg.ExpansionLimit))
			}
			values = append(values, text)
		}
	}
	return values, nil
}
