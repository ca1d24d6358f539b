package rewrite

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"strings"

	"github.com/hashicorp/go-hclog"

	"github.com/postern-mail/postern/internal/reload"
	"github.com/postern-mail/postern/mail"
)

// The kinds of table files, as a name begins: "regexp:/etc/postern/canonical".
const (
	kindText   = "texthash"
	kindRegexp = "regexp"
)

// FileTable is a Table over a file that may change.
type FileTable interface {
	Table
	// Run watches the file until ctx ends.
	Run(context.Context) error
}

// OpenTable reads a table file, "texthash:FILE" (also hash: and text:, or the
// name alone) in the notation of Postfix's canonical(5), or "regexp:FILE" in
// that of regexp_table(5). A name that is not absolute lies in dir. A broken
// file is an error that lists every mistake with its line.
func OpenTable(name, dir string, log hclog.Logger) (FileTable, error) {
	kind, file, typed := strings.Cut(name, ":")
	if !typed {
		kind, file = kindText, name
	}
	if file == "" {
		return nil, fmt.Errorf("table %q names no file", name)
	}
	if !filepath.IsAbs(file) {
		file = filepath.Join(dir, file)
	}
	cfg := reload.Config{File: file}
	switch kind {
	case kindText, "hash", "text":
		f, err := reload.Open(cfg, parseText, log)
		return &textTable{file, f}, err
	case kindRegexp, "pcre":
		f, err := reload.Open(cfg, parsePatterns, log)
		return &patternTable{file, f}, err
	default:
		return nil, fmt.Errorf("table %q: %q is no kind of table file; there are %s and %s", name, kind, kindText, kindRegexp)
	}
}

// textTable is a table of addresses.
type textTable struct {
	name string
	file *reload.File[map[string][]string]
}

// Name implements Table.
func (t *textTable) Name() string { return t.name }

// Run implements FileTable.
func (t *textTable) Run(ctx context.Context) error { return t.file.Run(ctx) }

// Lookup implements Table. It never fails.
func (t *textTable) Lookup(_ context.Context, key string) ([]string, error) {
	return t.file.Value()[key], nil
}

// patternTable is a table of regular expressions.
type patternTable struct {
	name string
	file *reload.File[[]pattern]
}

// Name implements Table.
func (t *patternTable) Name() string { return t.name }

// Run implements FileTable.
func (t *patternTable) Run(ctx context.Context) error { return t.file.Run(ctx) }

// Patterns implements Patterns.
func (t *patternTable) Patterns() {}

// Lookup implements Table. It never fails.
func (t *patternTable) Lookup(_ context.Context, key string) ([]string, error) {
	for _, p := range t.file.Value() {
		if value, ok := p.apply(key); ok {
			return []string{value}, nil
		}
	}
	return nil, nil
}

// maxMistakes are reported at once.
const maxMistakes = 20

// entry is a logical line of a table file.
type entry struct {
	line int
	text string
}

// mistakes collects what is wrong with a file.
type mistakes struct {
	file string
	all  []error
}

func (m *mistakes) add(line int, err error) {
	if len(m.all) < maxMistakes {
		m.all = append(m.all, fmt.Errorf("%s:%d: %w", m.file, line, err))
	}
}

// readEntries divides a file into logical lines: one that begins with white
// space goes on with the one before; empty lines and comments do not count.
func readEntries(r io.Reader, m *mistakes) []entry {
	var all []entry
	lines := bufio.NewScanner(r)
	lines.Buffer(nil, 1<<20)
	n := 0
	for lines.Scan() {
		n++
		raw := lines.Text()
		text := strings.TrimSpace(raw)
		switch {
		case text == "" || text[0] == '#':
		case raw[0] != ' ' && raw[0] != '\t':
			all = append(all, entry{n, text})
		case len(all) == 0:
			m.add(n, errors.New("the line begins with white space but continues nothing"))
		default:
			all[len(all)-1].text += " " + text
		}
	}
	if err := lines.Err(); err != nil {
		m.add(n+1, err)
	}
	return all
}

// parseText reads a table of addresses.
func parseText(name string, r io.Reader) (map[string][]string, error) {
	m := mistakes{file: name}
	table, lines := make(map[string][]string), make(map[string]int)
	for _, e := range readEntries(r, &m) {
		key, value := splitEntry(e.text)
		values, err := splitValues(value)
		if err == nil {
			key, err = canonicalKey(key)
		}
		if err != nil {
			m.add(e.line, err)
			continue
		}
		if first := lines[key]; first > 0 {
			m.add(e.line, fmt.Errorf("%q stands at line %d already", key, first))
			continue
		}
		table[key], lines[key] = values, e.line
	}
	return table, errors.Join(m.all...)
}

// splitEntry cuts a line behind its key, which may begin with a quoted string.
func splitEntry(text string) (key, value string) {
	quoted := false
	for i := 0; i < len(text); i++ {
		switch c := text[i]; {
		case quoted && c == '\\':
			i++
		case c == '"':
			quoted = !quoted
		case !quoted && (c == ' ' || c == '\t'):
			return text[:i], strings.TrimSpace(text[i:])
		}
	}
	return text, ""
}

// canonicalKey folds a key as lookups fold theirs.
func canonicalKey(key string) (string, error) {
	if domain, ok := strings.CutPrefix(key, "@"); ok {
		d, err := mail.ParseDomain(domain)
		return "@" + string(d), err
	}
	bare := !strings.Contains(key, "@")
	if bare {
		key += "@bare.invalid"
	}
	a, err := mail.ParseAddress(key)
	if err != nil {
		return "", err
	}
	if a = a.Fold(); bare {
		return a.Local.String(), nil
	}
	return a.String(), nil
}

// splitValues reads what a key stands for: addresses, local-parts or @domain,
// with commas between.
func splitValues(text string) ([]string, error) {
	var values []string
	for _, v := range splitList(text) {
		checked := v
		if strings.HasPrefix(v, "@") {
			checked = "x" + v
		}
		if _, err := parseValue(checked, "bare.invalid"); err != nil {
			return nil, fmt.Errorf("%q is no address: %w", v, err)
		}
		values = append(values, v)
	}
	if len(values) == 0 {
		return nil, errors.New("the key stands for nothing")
	}
	return values, nil
}

// splitList divides at commas outside of quoted strings.
func splitList(text string) []string {
	var list []string
	begin, quoted := 0, false
	take := func(part string) {
		if part = strings.TrimSpace(part); part != "" {
			list = append(list, part)
		}
	}
	for i := 0; i < len(text); i++ {
		switch c := text[i]; {
		case quoted && c == '\\':
			i++
		case c == '"':
			quoted = !quoted
		case !quoted && c == ',':
			take(text[begin:i])
			begin = i + 1
		}
	}
	take(text[begin:])
	return list
}
