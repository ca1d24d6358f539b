package table

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/postern-mail/postern/mail"
)

// Bounds on what one entry may include.
const (
	maxIncludeDepth  = 4
	maxIncludeOctets = 1 << 20
	maxIncluded      = 100000 // addresses of one file of aliases
	maxIncludes      = 1000   // files it reads, one as often as it is named
)

// errTooMuch ends the reading: whoever may write an included file must not
// make it endless.
var errTooMuch = errors.New("too much is included")

// aliases is a table in the notation of aliases(5) and virtual(5).
type aliases struct {
	text
	included []string // files that were read, too
}

// find implements content.
func (a aliases) find(key string) ([]string, error) { return a.text.find(key) }

// files implements multifile.
func (a aliases) files() []string { return a.included }

// aliasReader reads a file of aliases with what it includes.
type aliasReader struct {
	notes      *notes
	includeDir string
	included   []string
	count      int
}

// readAliases reads lines "name: target, target", where the colon may be left
// out. A target is an address, a name without a domain, \name for the mailbox
// of that name whatever the aliases say, or :include:FILE for the targets that
// a file below includeDir holds.
func readAliases(includeDir string) func(n *notes, r io.Reader, use Use) content {
	return func(n *notes, r io.Reader, use Use) content {
		t, at := make(text), make(map[string]int)
		read := &aliasReader{notes: n, includeDir: includeDir}
		n.eachLine(r, func(e entry) {
			name, value, err := splitAlias(e.text)
			if err == nil {
				err = checkAliasName(name)
			}
			if err != nil {
				n.mistake(e.line, err)
				return
			}
			targets, err := read.targets(value, 0)
			if err == nil && len(targets) == 0 {
				err = fmt.Errorf("%q stands for nothing: write an address after it", name)
			}
			if err != nil {
				n.mistake(e.line, err)
				return
			}
			t.add(n, at, e.line, name, "listed", Use{Key: use.Key, Value: func(string) ([]string, error) { return targets, nil }})
		})
		return aliases{t, read.included}
	}
}

// splitAlias cuts a line behind its name, whose quotes go.
func splitAlias(line string) (name, value string, err error) {
	end, quoted := -1, false
	for i := 0; i < len(line) && end < 0; i++ {
		switch c := line[i]; {
		case c == '\\':
			i++
		case c == '"':
			quoted = !quoted
		case !quoted && (c == ' ' || c == '\t' || c == ':'):
			end = i
		}
	}
	if quoted {
		return "", "", errNotClosed
	}
	if end < 0 {
		return "", "", fmt.Errorf("%q stands for nothing: write an address after it", line)
	}
	name, value = line[:end], strings.TrimSpace(line[end:])
	if strings.HasPrefix(value, ":") && !strings.HasPrefix(value, ":include:") {
		value = strings.TrimSpace(value[1:])
	}
	if len(name) > 1 && name[0] == '"' && name[len(name)-1] == '"' {
		name = unquoted(name)
	}
	return name, value, nil
}

func unquoted(text string) string {
	var b strings.Builder
	for i := 1; i < len(text)-1; i++ {
		if text[i] == '\\' && i+1 < len(text)-1 {
			i++
		}
		b.WriteByte(text[i])
	}
	return b.String()
}

// targets reads what an alias stands for.
func (r *aliasReader) targets(value string, depth int) ([]string, error) {
	var all []string
	for _, target := range SplitList(value) {
		file, isInclude := strings.CutPrefix(strings.Trim(target, `"`), ":include:")
		if isInclude {
			more, err := r.include(strings.TrimSpace(file), depth+1)
			if err != nil {
				return nil, err
			}
			all = append(all, more...)
			continue
		}
		if err := checkTarget(target); err != nil {
			return nil, err
		}
		if r.count++; r.count > maxIncluded {
			return nil, fmt.Errorf("%w: more than %d addresses; make it a group of the directory", errTooMuch, maxIncluded)
		}
		all = append(all, target)
	}
	return all, nil
}

// include reads the targets in a file: one or more a line, # begins a comment
// line.
func (r *aliasReader) include(path string, depth int) ([]string, error) {
	what := fmt.Errorf(":include:%s", path)
	switch {
	case r.includeDir == "":
		return nil, fmt.Errorf("%w: files are not included; allow a folder by alias_include_dir, or write the addresses here", what)
	case len(r.included) >= maxIncludes:
		return nil, fmt.Errorf("%w: more than %d files", errTooMuch, maxIncludes)
	case depth > maxIncludeDepth:
		return nil, fmt.Errorf("%w: includes nest deeper than %d", what, maxIncludeDepth)
	}
	below, err := filepath.Rel(r.includeDir, path)
	if !filepath.IsAbs(path) {
		below, err = path, nil
	}
	if err != nil || !filepath.IsLocal(below) {
		return nil, fmt.Errorf("%w lies outside of alias_include_dir, %s", what, r.includeDir)
	}
	content, err := r.readIncluded(below)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", what, err)
	}
	var all []string
	inner := &notes{file: filepath.Join(r.includeDir, below)}
	line := 0
	for text := range strings.Lines(content) {
		line++
		if text = strings.TrimSpace(text); text == "" || text[0] == '#' {
			continue
		}
		more, err := r.targets(text, depth)
		if errors.Is(err, errTooMuch) {
			return nil, err
		}
		if err != nil {
			inner.mistake(line, err)
			continue
		}
		all = append(all, more...)
	}
	if err := inner.err(); err != nil {
		return nil, err
	}
	return all, nil
}

// readIncluded reads a regular file below the folder, which no symbolic link
// may lead out of.
func (r *aliasReader) readIncluded(below string) (string, error) {
	root, err := os.OpenRoot(r.includeDir)
	if err != nil {
		return "", err
	}
	defer root.Close()
	file, err := root.OpenFile(below, os.O_RDONLY|syscall.O_NONBLOCK, 0) // a pipe must not hold us up
	if err != nil {
		return "", err
	}
	defer file.Close()
	info, err := file.Stat()
	switch {
	case err != nil:
		return "", err
	case !info.Mode().IsRegular():
		return "", errors.New("not a regular file")
	}
	content, err := io.ReadAll(io.LimitReader(file, maxIncludeOctets+1))
	switch {
	case err != nil:
		return "", err
	case len(content) > maxIncludeOctets:
		return "", fmt.Errorf("larger than %d octets", maxIncludeOctets)
	}
	r.included = append(r.included, filepath.Join(r.includeDir, below))
	return string(content), nil
}

// checkAliasName accepts an address, a name without a domain and a whole
// domain.
func checkAliasName(name string) error {
	if domain, ok := strings.CutPrefix(name, "@"); ok {
		_, err := mail.ParseDomain(domain)
		return err
	}
	if !strings.Contains(name, "@") {
		name = mail.LocalPart(name).String()
	}
	return checkAddress(name)
}

// checkTarget refuses what is no address. What would run a program or write a
// file is told apart.
func checkTarget(target string) error {
	bare := strings.TrimPrefix(target, `"`)
	switch {
	case strings.HasPrefix(bare, "|"):
		return fmt.Errorf("%s: no programs are run; take the entry out, or send the address to a target that runs it (transport_files)", target)
	case strings.HasPrefix(bare, "/"):
		return fmt.Errorf("%s: no files are written; take the entry out, or name a mailbox", target)
	case strings.HasPrefix(bare, ":"):
		return fmt.Errorf("%s: the only directive is :include:FILE", target)
	}
	return checkAddress(strings.TrimPrefix(target, `\`))
}

func checkAddress(text string) error {
	if !strings.Contains(text, "@") {
		text += "@bare.invalid"
	}
	_, err := mail.ParseAddress(text)
	return err
}
