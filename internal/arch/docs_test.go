package arch

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/postern-mail/postern/mail"
)

// root is the top of the repository, seen from here.
const root = "../.."

// documents returns the Markdown files of the repository by path below root.
func documents(t *testing.T) map[string]string {
	t.Helper()
	docs := make(map[string]string)
	err := filepath.WalkDir(root, func(path string, entry fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case entry.IsDir() && path != root && strings.HasPrefix(entry.Name(), "."):
			return fs.SkipDir
		case entry.IsDir() || filepath.Ext(path) != ".md":
			return nil
		}
		text, err := os.ReadFile(path)
		name, relErr := filepath.Rel(root, path)
		if err == nil {
			err = relErr
		}
		docs[filepath.ToSlash(name)] = string(text)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	if len(docs) < 10 {
		t.Fatalf("only %d documents found: the test looks in the wrong place", len(docs))
	}
	return docs
}

// document returns one of docs.
func document(t *testing.T, name string) string {
	t.Helper()
	text, ok := documents(t)[name]
	if !ok {
		t.Fatalf("%s is missing", name)
	}
	return text
}

var (
	fencedBlock = regexp.MustCompile("(?ms)^```.*?^```$")
	inlineCode  = regexp.MustCompile("`[^`\n]*`")
	link        = regexp.MustCompile(`\[[^\]]*\]\(([^)\s]+)\)`)
	heading     = regexp.MustCompile(`(?m)^#+ +(.+?) *$`)
	notInAnchor = regexp.MustCompile(`[^a-z0-9 _-]`)
)

// anchors returns what links into a document may name.
func anchors(text string) []string {
	var names []string
	for _, m := range heading.FindAllStringSubmatch(fencedBlock.ReplaceAllString(text, ""), -1) {
		name := notInAnchor.ReplaceAllString(strings.ToLower(m[1]), "")
		names = append(names, strings.ReplaceAll(name, " ", "-"))
	}
	return names
}

func TestLinks(t *testing.T) {
	t.Parallel()
	docs := documents(t)
	links := 0
	for name, text := range docs {
		prose := inlineCode.ReplaceAllString(fencedBlock.ReplaceAllString(text, ""), "")
		for _, m := range link.FindAllStringSubmatch(prose, -1) {
			if strings.Contains(m[1], "://") || strings.HasPrefix(m[1], "mailto:") {
				continue
			}
			links++
			file, anchor, _ := strings.Cut(m[1], "#")
			target := name
			if file != "" {
				target = filepath.ToSlash(filepath.Join(filepath.Dir(name), file))
			}
			if _, err := os.Stat(filepath.Join(root, target)); err != nil {
				t.Errorf("%s links to %s, which does not exist", name, m[1])
				continue
			}
			if anchor != "" && !slices.Contains(anchors(docs[target]), anchor) {
				t.Errorf("%s links to %s, which has no such heading", name, m[1])
			}
		}
	}
	if links < 30 {
		t.Fatalf("only %d links found: the test looks for the wrong thing", links)
	}
}

// sources calls each with every Go file of ours that is no test.
func sources(t *testing.T, each func(path, text string)) {
	t.Helper()
	out, err := exec.Command("go", "list", "-f", `{{$d := .Dir}}{{range .GoFiles}}{{$d}}/{{.}}{{"\n"}}{{end}}`, module+"/...").Output()
	if err != nil {
		t.Fatalf("go list: %v", err)
	}
	for _, path := range strings.Fields(string(out)) {
		text, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		each(path, string(text))
	}
}

// firstColumn returns what stands in code in the first column of the tables
// of a document.
func firstColumn(text string) []string {
	var names []string
	for line := range strings.Lines(text) {
		if !strings.HasPrefix(line, "| `") {
			continue
		}
		cell, _, _ := strings.Cut(line[2:], " |")
		for _, code := range inlineCode.FindAllString(cell, -1) {
			names = append(names, strings.Trim(code, "`"))
		}
	}
	return names
}

func checkSame(t *testing.T, document string, documented, existing []string) {
	t.Helper()
	if len(existing) == 0 {
		t.Fatal("nothing found in the code: the test looks for the wrong thing")
	}
	for _, name := range existing {
		if !slices.Contains(documented, name) {
			t.Errorf("%s does not tell of %s", document, name)
		}
	}
	for _, name := range documented {
		if !slices.Contains(existing, name) {
			t.Errorf("%s tells of %s, which does not exist", document, name)
		}
	}
}

func TestMetricsAreDocumented(t *testing.T) {
	t.Parallel()
	name := regexp.MustCompile(`"(gateway_[a-z_]+)"`)
	var registered []string
	sources(t, func(_, text string) {
		for _, m := range name.FindAllStringSubmatch(text, -1) {
			registered = append(registered, m[1])
		}
	})
	checkSame(t, "docs/metrics.md", firstColumn(document(t, "docs/metrics.md")), registered)
}

func TestAuditIsDocumented(t *testing.T) {
	t.Parallel()
	text := document(t, "docs/audit.md")
	_, fieldsAndEvents, ok := strings.Cut(text, "## A line")
	if !ok {
		t.Fatal("docs/audit.md has no section on the line")
	}
	fields, events, ok := strings.Cut(fieldsAndEvents, "## Events")
	if !ok {
		t.Fatal("docs/audit.md has no section on the events")
	}
	names := []string{"seq", "prev"} // which package audit adds
	for i := range reflect.TypeFor[mail.Event]().NumField() {
		name, _, _ := strings.Cut(reflect.TypeFor[mail.Event]().Field(i).Tag.Get("json"), ",")
		names = append(names, name)
	}
	checkSame(t, "docs/audit.md", firstColumn(fields), names)
	checkSame(t, "docs/audit.md", firstColumn(events), eventKinds(t))
}

// eventKinds reads the kinds of events out of package mail.
func eventKinds(t *testing.T) []string {
	t.Helper()
	file, err := parser.ParseFile(token.NewFileSet(), filepath.Join(root, "mail", "event.go"), nil, parser.SkipObjectResolution)
	if err != nil {
		t.Fatal(err)
	}
	var kinds []string
	ast.Inspect(file, func(n ast.Node) bool {
		spec, ok := n.(*ast.ValueSpec)
		if !ok {
			return true
		}
		if kind, ok := spec.Type.(*ast.Ident); !ok || kind.Name != "EventKind" {
			return true
		}
		for _, value := range spec.Values {
			text, err := strconv.Unquote(value.(*ast.BasicLit).Value)
			if err != nil {
				t.Fatal(err)
			}
			kinds = append(kinds, text)
		}
		return true
	})
	return kinds
}

var (
	hclBlock   = regexp.MustCompile("(?ms)^```hcl\n.*?^```$")
	hclSetting = regexp.MustCompile(`(?m)(?:^|[{` + "`" + `]) *([a-z_]+) *= `)
	firstCell  = regexp.MustCompile(`(?m)^\|[^|]*\|`)
	hclNested  = regexp.MustCompile(`(?m)(?:^|[^a-z_."-])([a-z_]+)(?: "[^"]*")* \{`)
)

// TestDocumentsNameSettings: settings, blocks and restrictions that documents
// write in the configuration's language exist.
func TestDocumentsNameSettings(t *testing.T) {
	t.Parallel()
	docs := documents(t)
	known := slices.Concat(firstColumn(docs["docs/config.md"]), blocksOf(docs["docs/config.md"]), restrictionsOf(t, docs["docs/policy.md"]))
	found := 0
	check := func(name, code string) {
		for _, m := range slices.Concat(hclSetting.FindAllStringSubmatch(code, -1), hclNested.FindAllStringSubmatch(code, -1)) {
			found++
			if !slices.Contains(known, m[1]) {
				t.Errorf("%s writes %q in the configuration, where nothing has that name", name, m[1])
			}
		}
	}
	for name, text := range docs {
		for _, block := range hclBlock.FindAllString(text, -1) {
			check(name, block)
		}
		if name == "docs/migration.md" {
			text = firstCell.ReplaceAllString(text, "") // others' configuration
		}
		for _, code := range inlineCode.FindAllString(fencedBlock.ReplaceAllString(text, ""), -1) {
			if strings.Contains(code, " { ") || strings.Contains(code, " {}") {
				check(name, code)
			}
		}
	}
	if found < 50 {
		t.Fatalf("only %d settings found: the test looks for the wrong thing", found)
	}
}

// blocksOf returns the names of blocks that config.md lists.
func blocksOf(text string) []string {
	var names []string
	for line := range strings.Lines(text) {
		if name, ok := strings.CutPrefix(line, "- `"); ok {
			name, _, _ = strings.Cut(name, "`")
			names = append(names, name)
		}
	}
	return names
}

// restrictionsOf returns the restrictions of policy.md with their arguments.
func restrictionsOf(t *testing.T, text string) []string {
	t.Helper()
	_, section, ok := strings.Cut(text, "## Restrictions")
	if !ok {
		t.Fatal("docs/policy.md has no section on restrictions")
	}
	var names []string
	for _, code := range inlineCode.FindAllString(section, -1) {
		names = append(names, strings.Trim(code, "`"))
	}
	return names
}

// TestReadmeShowsTheExample: the configuration in the walk is the one that is
// installed.
func TestReadmeShowsTheExample(t *testing.T) {
	t.Parallel()
	example, err := os.ReadFile(filepath.Join(root, "deploy", "examples", "openldap.hcl"))
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(document(t, "README.md"), "```hcl\n"+string(example)+"```\n") {
		t.Error("README.md does not show deploy/examples/openldap.hcl as it is")
	}
}
