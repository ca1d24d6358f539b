// Package config turns the text configuration into each room's Config.
//
// What comes in: HCL files. What goes out: a File that is valid as a whole, or
// every mistake at once, each with file, line and remedy. Nothing else decides
// how Postern behaves: no environment, no database, no flags beside the file's
// name. The grammar is the tags of the structs in schema.go.
package config

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/hashicorp/hcl/v2"
	"github.com/hashicorp/hcl/v2/hclparse"
	"github.com/hashicorp/hcl/v2/hclsyntax"
	"github.com/zclconf/go-cty/cty"
)

// maxFiles bounds what include may draw in.
const maxFiles = 1000

// Mistakes is every mistake of a configuration.
type Mistakes struct {
	diags hcl.Diagnostics
	files map[string]*hcl.File
}

// Error lists the mistakes, each with its place, the lines around it and what
// to do.
func (m *Mistakes) Error() string {
	var out bytes.Buffer
	writer := hcl.NewDiagnosticTextWriter(&out, m.files, 0, false)
	if err := writer.WriteDiagnostics(m.diags); err != nil {
		return m.diags.Error()
	}
	return strings.TrimRight(out.String(), "\n")
}

// Count is the number of mistakes.
func (m *Mistakes) Count() int { return len(m.diags) }

// loader reads files and keeps them for the snippets in diagnostics.
type loader struct {
	parser *hclparse.Parser
	body   *hclsyntax.Body
	read   []string
	diags  hcl.Diagnostics
}

// Load reads the configuration at path and everything it includes. The error
// is a *Mistakes, or that of reading path itself.
func Load(path string) (*File, error) {
	f, err := load(path)
	if err != nil {
		return nil, err
	}
	return f, nil
}

// ControlSocket tells where the server of a configuration answers commands. It
// overlooks mistakes as far as it can: the server runs with what it has read
// before, and who mends a configuration still has to reach it.
func ControlSocket(path string) (string, error) {
	f, err := load(path)
	if f == nil {
		return "", err
	}
	return f.controlSocket(), nil
}

// SubmitSocket tells where the server of a configuration takes mail from users
// of the machine. Like ControlSocket it overlooks mistakes: whoever asks may
// be unable to read the files the configuration names.
func SubmitSocket(path string) (string, error) {
	f, err := load(path)
	if f == nil {
		return "", err
	}
	if f.Gateway != nil {
		for _, l := range f.Gateway.Listeners {
			if cmp.Or(l.Mode, l.Name) == ModeLocal && len(l.Bind) > 0 {
				return strings.TrimPrefix(l.Bind[0], "unix:"), nil
			}
		}
	}
	return "", fmt.Errorf("%s has no listener of mode local", path)
}

func (f *File) controlSocket() string {
	if f.Control != nil && f.Control.Socket != "" {
		return f.Control.Socket
	}
	return filepath.Join(f.DataDir, "control.sock")
}

// load returns what could be understood beside a *Mistakes.
func load(path string) (*File, error) {
	if _, err := os.Stat(path); err != nil {
		return nil, fmt.Errorf("read configuration: %w", err)
	}
	l := &loader{parser: hclparse.NewParser(), body: &hclsyntax.Body{Attributes: make(hclsyntax.Attributes)}}
	l.file(path, hcl.Range{Filename: path})
	d := &decoder{ctx: l.references()}
	f := new(File)
	d.decode(l.body, nil, hcl.Range{Filename: path, Start: hcl.InitialPos, End: hcl.InitialPos}, f)
	f.sources = l.read
	diags := l.diags
	if !diags.HasErrors() { // or what follows from them would be told too
		f.check(d)
		diags = d.diags
	}
	if diags.HasErrors() {
		slices.SortStableFunc(diags, byPlace)
		return f, &Mistakes{diags: diags, files: withoutSecrets(l.parser.Files())}
	}
	return f, nil
}

func byPlace(a, b *hcl.Diagnostic) int {
	if a.Subject == nil || b.Subject == nil {
		return 0
	}
	if c := strings.Compare(a.Subject.Filename, b.Subject.Filename); c != 0 {
		return c
	}
	return a.Subject.Start.Line - b.Subject.Start.Line
}

// file reads one file into the body, then what it includes.
func (l *loader) file(path string, from hcl.Range) {
	if slices.ContainsFunc(l.read, func(before string) bool { return sameFile(before, path) }) {
		l.errorf(from, "Included twice", "The file %s was read already.", path)
		return
	}
	if len(l.read) == maxFiles {
		l.errorf(from, "Too many files", "More than %d files are included.", maxFiles)
		return
	}
	l.read = append(l.read, path)
	content, err := readBounded(path)
	if err != nil {
		l.errorf(from, "Cannot read file", "%v.", unwrapPath(err))
		return
	}
	if at, ok := tooDeep(content, path); ok {
		l.errorf(at, "Nested too deeply", "Blocks, lists and expressions nest at most %d deep.", maxNesting)
		return
	}
	parsed, diags := l.parser.ParseHCL(content, path)
	l.diags = append(l.diags, diags...)
	if parsed == nil {
		return
	}
	body := parsed.Body.(*hclsyntax.Body)
	include := body.Attributes["include"]
	delete(body.Attributes, "include")
	for name, attr := range body.Attributes {
		if first, ok := l.body.Attributes[name]; ok {
			l.errorf(attr.SrcRange, "Set twice", "%q is set in %s already.", name, place(first.SrcRange))
			continue
		}
		l.body.Attributes[name] = attr
	}
	l.body.Blocks = append(l.body.Blocks, body.Blocks...)
	if include != nil {
		l.include(include, filepath.Dir(path))
	}
}

func (l *loader) include(attr *hclsyntax.Attribute, dir string) {
	value, diags := attr.Expr.Value(nil)
	l.diags = append(l.diags, diags...)
	if diags.HasErrors() {
		return
	}
	if value.Type() == cty.String {
		value = cty.TupleVal([]cty.Value{value})
	}
	if !value.CanIterateElements() {
		l.errorf(attr.Expr.Range(), "Wrong value", "include is a list of files and folders.")
		return
	}
	for _, elem := range value.AsValueSlice() {
		if elem.Type() != cty.String || elem.IsNull() {
			l.errorf(attr.Expr.Range(), "Wrong value", "include is a list of files and folders.")
			return
		}
		name := elem.AsString()
		if !filepath.IsAbs(name) {
			name = filepath.Join(dir, name)
		}
		l.includeOne(name, attr.Expr.Range())
	}
}

func (l *loader) includeOne(name string, from hcl.Range) {
	info, err := os.Stat(name)
	if err != nil {
		l.errorf(from, "Cannot include", "%v.", unwrapPath(err))
		return
	}
	if !info.IsDir() {
		l.file(name, from)
		return
	}
	found, err := os.ReadDir(name)
	if err != nil {
		l.errorf(from, "Cannot include", "%v.", unwrapPath(err))
		return
	}
	for _, entry := range found {
		if filepath.Ext(entry.Name()) == ".hcl" && !strings.HasPrefix(entry.Name(), ".") {
			l.file(filepath.Join(name, entry.Name()), from)
		}
	}
}

func (l *loader) errorf(at hcl.Range, summary, detail string, args ...any) {
	d := decoder{}
	d.errorf(at, summary, detail, args...)
	l.diags = append(l.diags, d.diags...)
}

// references makes directory.NAME, database.NAME, target.NAME, milter.NAME and
// policy_service.NAME name the blocks there are.
func (l *loader) references() *hcl.EvalContext {
	names := map[string]map[string]cty.Value{"directory": {}, "target": {}, "database": {}, "milter": {}, "policy_service": {}}
	collect := func(blocks hclsyntax.Blocks) {
		for _, b := range blocks {
			set, ok := names[b.Type]
			switch {
			case ok && len(b.Labels) == 2:
				set[b.Labels[1]] = cty.StringVal(b.Labels[1])
			case ok && len(b.Labels) == 1 && (b.Type == "milter" || b.Type == "policy_service"):
				set[b.Labels[0]] = cty.StringVal(b.Labels[0])
			}
		}
	}
	collect(l.body.Blocks)
	for _, b := range l.body.Blocks {
		if b.Type == "gateway" {
			collect(b.Body.Blocks)
		}
	}
	ctx := &hcl.EvalContext{Variables: make(map[string]cty.Value)}
	for kind, set := range names {
		ctx.Variables[kind] = cty.ObjectVal(set)
	}
	// The words of closed sets may stand without quotes: auth = required.
	for _, word := range []string{"none", "optional", "required"} {
		ctx.Variables[word] = cty.StringVal(word)
	}
	return ctx
}

// place names where something stands, as mistakes are headed.
func place(r hcl.Range) string { return fmt.Sprintf("%s line %d", r.Filename, r.Start.Line) }

func unwrapPath(err error) error {
	var path *fs.PathError
	if errors.As(err, &path) {
		return fmt.Errorf("%s: %w", path.Path, path.Err)
	}
	return err
}
