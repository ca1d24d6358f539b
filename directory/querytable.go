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
// for sites that bring such tables with them. Keys are looked up in lower case,
// as there. Expansions in SearchBase and
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
	// RecursionLimit bounds how deep special attributes nest, 1 being the entry
	// found by the filter alone; 0 means 1000.
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
	format     Format
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
	if t.format, err = ParseFormat(cfg.ResultFormat); err != nil {
		return nil, fmt.Errorf("table %q: result format: %w", cfg.Name, err)
	}
	if t.base, err = parseExpansions(cfg.SearchBase); err != nil {
		return nil, fmt.Errorf("table %q: search base: %w", cfg.Name, err)
	}
	key := NewKey("a@b.c.d.e.f.g.h.i.j")
	if base, _ := t.baseFor(&key); base == "" {
		return nil, fmt.Errorf("table %q: search base %q is no DN", cfg.Name, cfg.SearchBase)
	}
	t.cfg.once()
	cfg = t.cfg
	t.attributes = slices.Concat(cfg.ResultAttributes, cfg.SpecialResultAttributes, cfg.TerminalResultAttributes, cfg.LeafResultAttributes)
	for _, name := range t.attributes {
		if !IsAttributeDescription(name) {
			return nil, fmt.Errorf("table %q: %q is not an attribute", cfg.Name, name)
		}
	}
	return t, nil
}

// once makes each attribute count in one way only, as in Postfix: what is
// terminal is nothing else, then what is leaf, then what is a result.
func (cfg *QueryTableConfig) once() {
	known := slices.Clone(cfg.TerminalResultAttributes)
	for _, list := range []*[]string{&cfg.LeafResultAttributes, &cfg.ResultAttributes, &cfg.SpecialResultAttributes} {
		*list = slices.DeleteFunc(slices.Clone(*list), func(name string) bool { return containsFold(known, name) })
		known = append(known, *list...)
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
	key := NewKey(strings.ToLower(text))
	if !isPossibleKey(text) || !key.InDomains(t.cfg.Domains) {
		return nil, nil
	}
	filter, ok := t.filter.Execute(key)
	base, okBase := t.baseFor(&key)
	if !ok || !okBase || !t.format.Fits(&key) {
		return nil, nil
	}
	r := &tableResult{table: t, key: &key, trace: tr, seen: map[string]bool{}}
	err := r.search(ctx, Request{Base: base, Scope: t.cfg.Scope, Filter: filter}, 0)
	// A base made from the key may well not exist; a fixed one is a mistake.
	if errors.Is(err, ErrNoSuchBase) && t.baseVaries() {
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

func (t *QueryTable) baseFor(key *Key) (DN, bool) {
	var b strings.Builder
	for _, part := range t.base.parts {
		if part.placeholder == 0 {
			b.WriteString(part.literal)
			continue
		}
		text, ok := key.Part(part.placeholder)
		if !ok {
			return "", false
		}
		b.WriteString(EscapeDNValue(text))
	}
	dn, err := ParseDN(b.String())
	return dn, err == nil
}

// baseVaries reports whether the base depends on the key.
func (t *QueryTable) baseVaries() bool {
	return slices.ContainsFunc(t.base.parts, func(part valuePart) bool { return part.placeholder != 0 })
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
	if depth >= cfg.RecursionLimit {
		return fmt.Errorf("special attributes nest %d deep", depth)
	}
	req.SizeLimit = cfg.SizeLimit
	if len(req.Attributes) == 0 {
		req.Attributes = r.table.attributes
	}
	started := time.Now()
	searcher := chosen(ctx, r.table.searcher)
	entries, err := searcher.Search(ctx, req)
	if r.trace != nil {
		r.trace.query(req, entries, err, time.Since(started), whereOf(searcher))
	}
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

// follow reads what a DN or LDAP URL names, here whatever host the URL names.
// An entry that is gone is left out; what names nothing is an error, for the
// result would lack something nobody knows of.
func (r *tableResult) follow(ctx context.Context, v string, depth int) error {
	req, err := parseLDAPURL(withoutHost(v))
	if err == nil && len(req.Attributes) > 0 {
		// What the URL asks for counts as far as the table knows it.
		req.Attributes = slices.DeleteFunc(slices.Clone(r.table.attributes), func(name string) bool { return !containsFold(req.Attributes, name) })
		if len(req.Attributes) == 0 {
			return nil
		}
	}
	if err != nil {
		dn := memberDN(v)
		if _, err := ParseDN(string(dn)); err != nil || dn == "" {
			return fmt.Errorf("%.200q names no entry", v)
		}
		req = Request{Base: dn, Scope: ScopeBase, Filter: Present("objectClass")}
	}
	err = r.search(ctx, req, depth)
	if errors.Is(err, ErrNoSuchBase) {
		return nil
	}
	return err
}

// withoutHost returns an LDAP URL without the host it names; what is none as it
// is.
func withoutHost(v string) string {
	scheme, rest, ok := strings.Cut(v, "://")
	if _, path, found := strings.Cut(rest, "/"); ok && found && strings.HasPrefix(strings.ToLower(scheme), "ldap") {
		return "ldap:///" + path
	}
	return v
}

// take adds the values of attributes in the result format.
func (r *tableResult) take(e Entry, attributes []string) error {
	for _, name := range attributes {
		for _, v := range e.Values(name) {
			text, ok := r.table.format.Apply(r.key, v)
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
