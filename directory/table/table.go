// Package table reads aliases from a text file, in the notation of Postfix's
// virtual(5) and aliases(5):
//
//	info@example.com   alice@example.com, bob@example.com
//	@example.net       carol@example.com
//	root: postmaster,
//	      admin@example.com
//
// A line that begins with white space continues the one before; # begins a
// comment. Names are read without regard to case. A name without a domain
// belongs to the directory's default domain. Commands, files and :include:
// are refused when the file is read, never at delivery.
package table

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/postern-mail/postern/internal/reload"
	"github.com/postern-mail/postern/mail"
)

// Config says which file holds the aliases.
type Config struct {
	// File is the path. Required.
	File string
	// CheckInterval is how often Run looks whether the file changed; 0 means
	// 2 s.
	CheckInterval time.Duration
	// MaxOctets bounds the file; 0 means 256 MiB.
	MaxOctets int64
}

// Table is a directory.Table over a file that may change. It may be used
// concurrently.
type Table struct {
	name string
	file *reload.File[Aliases]
}

// Aliases are the names of a file with what they stand for.
type Aliases map[string][]string

// Open reads the file. A broken file is an error that lists every mistake with
// its line.
func Open(cfg Config, log hclog.Logger) (*Table, error) {
	file, err := reload.Open(reload.Config(cfg), Parse, log)
	if err != nil {
		return nil, err
	}
	return &Table{name: cfg.File, file: file}, nil
}

// Run watches the file until ctx ends, as ldif.Source does.
func (t *Table) Run(ctx context.Context) error { return t.file.Run(ctx) }

// Name implements directory.Table.
func (t *Table) Name() string { return t.name }

// Generation implements directory.Generational.
func (t *Table) Generation() uint64 { return t.file.Generation() }

// Lookup implements directory.Table. It never fails.
func (t *Table) Lookup(_ context.Context, key string) ([]string, error) {
	return t.file.Value()[strings.ToLower(key)], nil
}

// maxMistakes are reported at once.
const maxMistakes = 20

// Parse reads a file of aliases. name stands in errors, which carry a line
// number each and are joined.
func Parse(name string, r io.Reader) (Aliases, error) {
	p := parser{file: name, aliases: Aliases{}, at: map[string]int{}}
	lines := bufio.NewScanner(r)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() && len(p.mistakes) < maxMistakes {
		p.line++
		p.read(strings.TrimRight(lines.Text(), " \t\r"))
	}
	p.finish()
	if err := lines.Err(); err != nil {
		p.fail(p.line+1, "%v", err)
	}
	if len(p.mistakes) > 0 {
		return nil, errors.Join(p.mistakes...)
	}
	return p.aliases, nil
}

type parser struct {
	file     string
	line     int
	aliases  Aliases
	at       map[string]int // where a name was defined
	mistakes []error

	entry string // the logical line being read
	start int    // where it began
}

func (p *parser) fail(line int, format string, args ...any) {
	p.mistakes = append(p.mistakes, fmt.Errorf("%s:%d: %w", p.file, line, fmt.Errorf(format, args...)))
}

func (p *parser) read(text string) {
	trimmed := strings.TrimLeft(text, " \t")
	switch {
	case trimmed == "" || trimmed[0] == '#':
	case len(trimmed) == len(text):
		p.finish()
		p.entry, p.start = trimmed, p.line
	case p.entry == "":
		p.fail(p.line, "the line begins with white space but continues nothing")
	default:
		p.entry += " " + trimmed
	}
}

// finish takes in the logical line that has ended.
func (p *parser) finish() {
	if p.entry == "" {
		return
	}
	name, targets, err := parseEntry(p.entry)
	p.entry = ""
	if err != nil {
		p.fail(p.start, "%w", err)
		return
	}
	if first := p.at[name]; first > 0 {
		p.fail(p.start, "%q stands at line %d already", name, first)
		return
	}
	p.at[name] = p.start
	p.aliases[name] = targets
}

func parseEntry(text string) (name string, targets []string, err error) {
	end := strings.IndexAny(text, " \t")
	if end < 0 {
		return "", nil, fmt.Errorf("%q stands for nothing", text)
	}
	name = strings.ToLower(strings.TrimSuffix(text[:end], ":"))
	if err := checkName(name, true); err != nil {
		return "", nil, err
	}
	for _, target := range strings.Split(text[end:], ",") {
		target = strings.TrimSpace(target)
		if target == "" {
			continue
		}
		if err := checkName(target, false); err != nil {
			return "", nil, err
		}
		targets = append(targets, target)
	}
	if len(targets) == 0 {
		return "", nil, fmt.Errorf("%q stands for nothing", name)
	}
	return name, targets, nil
}

// checkName accepts an address, a name without a domain and, when asked for, a
// whole domain.
func checkName(name string, domainToo bool) error {
	switch {
	case strings.HasPrefix(name, "|"), strings.HasPrefix(name, "/"), strings.HasPrefix(name, ":"), strings.HasPrefix(name, `"|`), strings.HasPrefix(name, `"/`):
		return fmt.Errorf("%q: commands, files and includes are not delivered to", name)
	case strings.HasPrefix(name, "@") && domainToo:
		_, err := mail.ParseDomain(name[1:])
		return err
	case !strings.Contains(name, "@"):
		name += "@example.invalid"
	}
	_, err := mail.ParseAddress(name)
	return err
}
