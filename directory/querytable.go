package directory

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/postern-mail/postern/mail"
	"github.com/postern-mail/postern/status"
)

// QueryTableConfig describes a lookup in the terms of Postfix's ldap_table(5),
// for sites that bring such tables with them. Expansions in SearchBase and
// QueryFilter: %s the key, %u its local-part (the key when it has no domain),
// %d its domain, %1 to %9 its domain's labels from the right, %% a percent
// sign; a key that lacks a part asked for is not looked up.
type QueryTableConfig struct {
	// Name stands in explanations.
	Name string
	// SearchBase and Scope say where to search. Expansions in the base are
	// quoted as values of a DN.
	SearchBase string
	Scope      Scope
	// QueryFilter is the filter; "" means (mailacceptinggeneralid=%s).
	QueryFilter string
	// Domains, when given, restrict lookups to addresses with a local-part in
	// one of them.
	Domains []mail.Domain
	// ResultAttributes hold the results; none means maildrop.
	ResultAttributes []string
	// SpecialResultAttributes hold DNs or LDAP URLs whose entries are read
	// the same way.
	SpecialResultAttributes []string
	// TerminalResultAttributes, where an entry has one, are all that counts of
	// it. LeafResultAttributes count for entries without special attributes.
	TerminalResultAttributes []string
	LeafResultAttributes     []string
	// ResultFormat is made of each result: %s the value, %u and %d its parts,
	// %S %U %D and %1 to %9 the key's; "" means %s. A value that lacks a part
	// is left out.
	ResultFormat string
	// RecursionLimit bounds how deep special attributes nest; 0 means 1000.
	// ExpansionLimit bounds the results and SizeLimit the entries of one
	// search; 0 means 1000 and ExpansionLimit. Postfix has no bound by
	// default. What goes beyond is an error.
	RecursionLimit int
	ExpansionLimit int
	SizeLimit      int
}

// QueryTable is a Table of a directory in the manner of Postfix. It may be
// used concurrently.
type QueryTable struct {
	cfg        QueryTableConfig
	searcher   Searcher
	base       value
	filter     *Template
	format     value
	attributes []string
}

// NewQueryTable returns a table that searches with searcher.
func NewQueryTable(cfg QueryTableConfig, searcher Searcher) (*QueryTable, error) {
	setDefault(&cfg.QueryFilter, "(mailacceptinggeneralid=%s)")
	setDefault(&cfg.ResultFormat, "%s")
	setDefault(&cfg.RecursionLimit, 1000)
	setDefault(&cfg.ExpansionLimit, 1000)
	setDefault(&cfg.SizeLimit, cfg.ExpansionLimit)
	if len(cfg.ResultAttributes) == 0 {
		cfg.ResultAttributes = []string{"maildrop"}
	}
	t := &QueryTable{cfg: cfg, searcher: searcher}
	var err error
	if t.filter, err = ParseTemplate(cfg.QueryFilter); err != nil {
		return nil, fmt.Errorf("table %q: query filter: %w", cfg.Name, err)
	}
	if t.format, err = parseExpansions(cfg.ResultFormat); err != nil {
		return nil, fmt.Errorf("table %q: result format: %w", cfg.Name, err)
	}
	if t.base, err = parseExpansions(cfg.SearchBase); err != nil {
		return nil, fmt.Errorf("table %q: search base: %w", cfg.Name, err)
	}
	key := NewKey("a@b.c.d.e.f.g.h.i.j")
	if base, _ := t.baseFor(&key); base == "" {
		return nil, fmt.Errorf("table %q: search base %q is no DN", cfg.Name, cfg.SearchBase)
	}
	t.attributes = slices.Concat(cfg.ResultAttributes, cfg.SpecialResultAttributes, cfg.TerminalResultAttributes, cfg.LeafResultAttributes)
	for _, name := range t.attributes {
		if !IsAttributeDescription(name) {
			return nil, fmt.Errorf("table %q: %q is not an attribute", cfg.Name, name)
		}
	}
	return t, nil
}

// parseExpansions reads text with placeholders in which nothing else is
// special.
func parseExpansions(text string) (value, error) {
	v := value{parts: []valuePart{}}
	for {
		before, rest, found := strings.Cut(text, "%")
		v.parts = append(v.parts, valuePart{literal: before})
		switch {
		case !found:
			return v, nil
		case rest == "":
			return value{}, fmt.Errorf("%w: percent sign at the end", errValueSyntax)
		case rest[0] == '%':
			v.parts = append(v.parts, valuePart{literal: "%"})
		case isPlaceholder(rest[0]):
			v.parts = append(v.parts, valuePart{placeholder: rest[0]})
		default:
			return value{}, fmt.Errorf("%w: no placeholder %%%c", errValueSyntax, rest[0])
		}
		text = rest[1:]
	}
}

// Name implements Table.
func (t *QueryTable) Name() string { return t.cfg.Name }

// Generation implements Generational.
func (t *QueryTable) Generation() uint64 {
	if g, ok := t.searcher.(Generational); ok {
		return g.Generation()
	}
	return 0
}

// Lookup implements Table. Every error is status.DirectoryDown.
func (t *QueryTable) Lookup(ctx context.Context, text string) ([]string, error) {
	return t.lookup(ctx, text, nil)
}

func (t *QueryTable) lookup(ctx context.Context, text string, tr *trace) ([]string, error) {
	key := NewKey(text)
	if !isPossibleKey(text) || !t.asks(key) {
		return nil, nil
	}
	filter, ok := t.filter.Execute(key)
	base, okBase := t.baseFor(&key)
	if !ok || !okBase || !t.formatFits(&key) {
		return nil, nil
	}
	r := &tableResult{table: t, key: &key, trace: tr, seen: map[string]bool{}}
	err := r.search(ctx, Request{Base: base, Scope: t.cfg.Scope, Filter: filter}, 0)
	// A base made from the key may well not exist; a fixed one is a mistake.
	if errors.Is(err, ErrNoSuchBase) && strings.Contains(t.cfg.SearchBase, "%") {
		return nil, nil
	}
	if err != nil && status.Of(err) != status.DirectoryDown {
		err = status.New(status.DirectoryDown, err)
	}
	if err != nil {
		return nil, err
	}
	return r.values, nil
}

// asks reports whether the table is for a key at all.
func (t *QueryTable) asks(key Key) bool {
	if len(t.cfg.Domains) == 0 {
		return true
	}
	return key.local != "" && key.hasDomain && slices.ContainsFunc(t.cfg.Domains, func(d mail.Domain) bool {
		return strings.EqualFold(string(d), key.domain)
	})
}

func (t *QueryTable) baseFor(key *Key) (DN, bool) {
	var b strings.Builder
	for _, part := range t.base.parts {
		if part.placeholder == 0 {
			b.WriteString(part.literal)
			continue
		}
		text, ok := key.part(part.placeholder)
		if !ok {
			return "", false
		}
		b.WriteString(EscapeDNValue(text))
	}
	dn, err := ParseDN(b.String())
	return dn, err == nil
}

// formatFits reports whether key has the parts the result format takes from it.
func (t *QueryTable) formatFits(key *Key) bool {
	for _, part := range t.format.parts {
		if part.placeholder == 0 || strings.IndexByte("sud", part.placeholder) >= 0 {
			continue
		}
		if _, ok := key.part(part.placeholder); !ok {
			return false
		}
	}
	return true
}

// tableResult collects the results of one lookup.
type tableResult struct {
	table  *QueryTable
	key    *Key
	trace  *trace
	values []string
	seen   map[string]bool // entries read, so that nested ones end
}

func (r *tableResult) search(ctx context.Context, req Request, depth int) error {
	cfg := r.table.cfg
	if depth > cfg.RecursionLimit {
		return fmt.Errorf("special attributes nest deeper than %d", cfg.RecursionLimit)
	}
	req.Attributes, req.SizeLimit = r.table.attributes, cfg.SizeLimit
	started := time.Now()
	entries, err := r.table.searcher.Search(ctx, req)
	r.trace.query(req, entries, err, time.Since(started))
	if err != nil {
		return err
	}
	for _, e := range entries {
		key := e.DN.Key()
		if r.seen[key] {
			continue
		}
		r.seen[key] = true
		if err := r.entry(ctx, e, depth); err != nil {
			return err
		}
	}
	return nil
}

func (r *tableResult) entry(ctx context.Context, e Entry, depth int) error {
	cfg := r.table.cfg
	has := func(name string) bool { return len(e.Values(name)) > 0 }
	if slices.ContainsFunc(cfg.TerminalResultAttributes, has) {
		return r.take(e, cfg.TerminalResultAttributes)
	}
	if err := r.take(e, cfg.ResultAttributes); err != nil {
		return err
	}
	if !slices.ContainsFunc(cfg.SpecialResultAttributes, has) {
		return r.take(e, cfg.LeafResultAttributes)
	}
	for _, name := range cfg.SpecialResultAttributes {
		for _, v := range e.Values(name) {
			if err := r.follow(ctx, v, depth+1); err != nil {
				return err
			}
		}
	}
	return nil
}

// follow reads what a DN or LDAP URL names. An entry that is gone is left out.
func (r *tableResult) follow(ctx context.Context, v string, depth int) error {
	req, err := parseLDAPURL(v)
	if err != nil {
		dn := memberDN(v)
		if _, err := ParseDN(string(dn)); err != nil || dn == "" {
			return nil
		}
		req = Request{Base: dn, Scope: ScopeBase, Filter: Present("objectClass")}
	}
	err = r.search(ctx, req, depth)
	if errors.Is(err, ErrNoSuchBase) {
		return nil
	}
	return err
}

// take adds the values of attributes in the result format.
func (r *tableResult) take(e Entry, attributes []string) error {
	for _, name := range attributes {
		for _, v := range e.Values(name) {
			text, ok := r.format(v)
			if !ok || slices.Contains(r.values, text) {
				continue
			}
			if len(r.values) == r.table.cfg.ExpansionLimit {
				return fmt.Errorf("more than %d results", r.table.cfg.ExpansionLimit)
			}
			r.values = append(r.values, text)
		}
	}
	return nil
}

func (r *tableResult) format(v string) (string, bool) {
	own := NewKey(v)
	var b strings.Builder
	for _, part := range r.table.format.parts {
		if part.placeholder == 0 {
			b.WriteString(part.literal)
			continue
		}
		from := r.key
		if strings.IndexByte("sud", part.placeholder) >= 0 {
			from = &own
		}
		text, ok := from.part(part.placeholder)
		if !ok {
			return "", false
		}
		b.WriteString(text)
	}
	return b.String(), b.Len() > 0
}
