package table

import (
	"context"
	"fmt"
	"io"
	"path/filepath"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/hashicorp/go-hclog"

	"github.com/postern-mail/postern/internal/reload"
)

// The kinds of tables that are files.
const (
	KindText    = "texthash"
	KindCIDR    = "cidr"
	KindRegexp  = "regexp"
	KindPCRE    = "pcre"
	KindAliases = "aliases"
)

// kinds are the words a name may begin with, besides those of other rooms. The
// indexed files of Postfix are read from the text they are made from.
var kinds = map[string]string{
	KindText: KindText, "text": KindText, "hash": KindText, "btree": KindText, "lmdb": KindText, "cdb": KindText, "dbm": KindText,
	KindCIDR: KindCIDR, KindRegexp: KindRegexp, KindPCRE: KindPCRE, KindAliases: KindAliases,
}

// maxFileOctets bounds a file.
const maxFileOctets = 256 << 20

// Opener opens tables by their names.
type Opener struct {
	// Dir is where files lie whose names are not absolute; "" the working
	// directory.
	Dir string
	// Default is the kind of a name that has none; "" means texthash.
	Default string
	// IncludeDir is the folder below which :include: of aliases may read; ""
	// means nowhere.
	IncludeDir string
	// CheckInterval is how often Run looks whether files changed; 0 means 2 s.
	CheckInterval time.Duration
	// Foreign opens tables of other rooms, by the word before the colon; nil
	// and no error for a word it does not know. ForeignKinds are the words.
	Foreign      func(kind, rest string) (Table, error)
	ForeignKinds []string
	Log          hclog.Logger
}

// content is what was read of a table.
type content interface {
	find(key string) ([]string, error)
}

// version is one reading of a file.
type version struct {
	content
	warnings Mistakes
}

// Files implements reload.Multifile.
func (v version) Files() []string {
	if a, ok := v.content.(aliases); ok {
		return a.files()
	}
	return nil
}

// fileTable is a table over a file that may change.
type fileTable struct {
	name  string
	whole bool
	file  *reload.File[version]
}

// Name implements Table.
func (t *fileTable) Name() string { return t.name }

// Run implements Opened.
func (t *fileTable) Run(ctx context.Context) error { return t.file.Run(ctx) }

// Generation implements Opened.
func (t *fileTable) Generation() uint64 { return t.file.Generation() }

// Changed implements Opened.
func (t *fileTable) Changed() <-chan struct{} { return t.file.Changed() }

// Whole implements Opened.
func (t *fileTable) Whole() bool { return t.whole }

// Lookup implements Table. A key that is no UTF-8 is in no table.
func (t *fileTable) Lookup(_ context.Context, key string) ([]string, error) {
	if !utf8.ValidString(key) {
		return nil, nil
	}
	return t.file.Value().find(key)
}

// Open opens a table: KIND:FILE, inline:{key=value}, static:value,
// unionmap:{table, table}, pipemap:{table, table}, fail:reason, or one of
// another room. The error tells every mistake of a file with its line
// (Mistakes).
func (o *Opener) Open(name string, use Use) (Opened, error) {
	return o.open(name, use, 0)
}

func (o *Opener) open(name string, use Use, depth int) (Opened, error) {
	word, rest, typed := strings.Cut(name, ":")
	if !typed || strings.ContainsAny(word, "/.") {
		word, rest = o.Default, name
		if word == "" {
			word = KindText
		}
	}
	if kind, known := kinds[word]; known {
		return o.openFile(kind, rest, use)
	}
	t, err := o.openOther(word, rest, use, depth)
	if err != nil {
		return nil, fmt.Errorf("table %q: %w", name, err)
	}
	return t, nil
}

func (o *Opener) openOther(word, rest string, use Use, depth int) (Opened, error) {
	name := word + ":" + rest
	switch word {
	case "inline":
		t, err := parseInline(rest, use)
		return &constant{name, t, false}, err
	case "static":
		if strings.HasPrefix(rest, "{") {
			rest = strings.TrimSpace(strings.TrimSuffix(rest[1:], "}"))
		}
		values, err := use.values(rest)
		return &constant{name, always{values: values}, true}, err
	case "fail":
		return &constant{name, always{err: fmt.Errorf("it always fails: %s", rest)}, true}, nil
	case "proxy":
		return o.open(rest, use, depth) // every table is open once, for all
	case "unionmap":
		p, err := o.openParts(name, rest, func(int, int) Use { return use }, depth)
		return &union{p}, err
	case "pipemap":
		p, err := o.openParts(name, rest, func(i, n int) Use {
			if i == n-1 {
				return use
			}
			return Use{NoReferences: use.NoReferences} // what it says is a key
		}, depth)
		return &pipe{p}, err
	}
	if o.Foreign != nil {
		if t, err := o.Foreign(word, rest); err != nil || t != nil {
			return &foreign{t, use}, err
		}
	}
	known := append([]string{KindText, KindCIDR, KindRegexp, KindPCRE, KindAliases, "inline", "static", "unionmap", "pipemap"}, o.ForeignKinds...)
	return nil, fmt.Errorf("%q is no kind of table; there are %s", word, strings.Join(known, ", "))
}

func (o *Opener) openParts(name, rest string, use func(i, n int) Use, depth int) (*parts, error) {
	p := &parts{name: name}
	words, err := splitWords(rest)
	switch {
	case err != nil:
		return p, err
	case len(words) == 0:
		return p, fmt.Errorf("it is made of no tables")
	case depth >= maxIncludeDepth:
		return p, fmt.Errorf("tables nest deeper than %d", maxIncludeDepth)
	}
	for i, word := range words {
		t, err := o.open(word, use(i, len(words)), depth+1)
		if err != nil {
			return p, err
		}
		p.tables = append(p.tables, t)
	}
	return p, nil
}

// openFile opens a table that is a file.
func (o *Opener) openFile(kind, path string, use Use) (Opened, error) {
	if path == "" {
		return nil, fmt.Errorf("a table %q names no file", kind)
	}
	if !filepath.IsAbs(path) {
		path = filepath.Join(o.Dir, path)
	}
	log := o.Log
	if log == nil {
		log = hclog.NewNullLogger()
	}
	read := o.reader(kind)
	parse := func(name string, r io.Reader) (version, error) {
		n := &notes{file: name}
		v := version{content: read(n, r, use)}
		v.warnings = n.warnings
		for _, w := range n.warnings {
			log.Warn("table", "problem", w.Error())
		}
		return v, n.err()
	}
	file, err := reload.Open(reload.Config{File: path, CheckInterval: o.CheckInterval, MaxOctets: maxFileOctets}, parse, log)
	if err != nil {
		return nil, err
	}
	return &fileTable{kind + ":" + path, isWhole(kind), file}, nil
}

// Parse reads a table of a kind that is a file, once. name stands in mistakes.
func (o *Opener) Parse(kind, name string, r io.Reader, use Use) (Table, error) {
	n := &notes{file: name}
	read := o.reader(kinds[kind])(n, r, use)
	if err := n.err(); err != nil {
		return nil, err
	}
	return &constant{name, read, isWhole(kinds[kind])}, nil
}

func isWhole(kind string) bool {
	return slices.Contains([]string{KindRegexp, KindPCRE, KindCIDR}, kind)
}

func (o *Opener) reader(kind string) func(*notes, io.Reader, Use) content {
	switch kind {
	case KindCIDR:
		return readNetworks
	case KindRegexp:
		return readPatterns(dialectRegexp)
	case KindPCRE:
		return readPatterns(dialectPCRE)
	case KindAliases:
		return readAliases(o.IncludeDir)
	default:
		return readText
	}
}
