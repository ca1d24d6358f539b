package arch

import (
	"go/ast"
	"go/build"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// mayHide is where a test may be ended because something is missing: what is
// missing fails there when CI=true.
const mayHide = "internal/testenv"

// hiding are the calls by which a test does not test: on T, B and F, and on
// the packages testing and os/exec.
var hiding = map[string]bool{"Skip": true, "Skipf": true, "SkipNow": true, "Short": true, "LookPath": true}

// hidingScript finds the same in testscript archives.
var hidingScript = regexp.MustCompile(`(?m)^\s*(\[[^]]*\]\s*)*(skip|stop)\b.*$`)

// TestNothingIsSkipped holds every test to one door: what is missing on a
// machine is asked of testenv, which fails where CI=true.
func TestNothingIsSkipped(t *testing.T) {
	t.Parallel()
	const root = "../.."
	var sources, scripts int
	err := filepath.WalkDir(root, func(path string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		name, _ := strings.CutPrefix(filepath.ToSlash(path), root+"/")
		switch {
		case entry.IsDir() && strings.HasPrefix(entry.Name(), ".") && path != root:
			return filepath.SkipDir
		case strings.HasSuffix(name, ".go"):
			sources++
			checkSource(t, path, name)
		case strings.HasSuffix(name, ".txtar"):
			scripts++
			content, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			for _, line := range hidingScript.FindAllString(string(content), -1) {
				t.Errorf("%s: %q ends a script before it has tested: let testenv ask for what it needs", name, strings.TrimSpace(line))
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if sources < 100 || scripts < 5 {
		t.Fatalf("%d sources and %d scripts read: the test looks in the wrong place", sources, scripts)
	}
}

func checkSource(t *testing.T, path, name string) {
	t.Helper()
	files := token.NewFileSet()
	f, err := parser.ParseFile(files, path, nil, parser.ParseComments|parser.SkipObjectResolution)
	if err != nil {
		t.Errorf("%s: %v", name, err)
		return
	}
	if strings.HasSuffix(name, "_test.go") && hasTests(f) {
		checkIsRun(t, f, path, name)
	}
	if !importsTesting(f) || strings.HasPrefix(name, mayHide+"/") {
		return
	}
	ast.Inspect(f, func(n ast.Node) bool {
		call, ok := n.(*ast.CallExpr)
		if !ok {
			return true
		}
		if s, ok := call.Fun.(*ast.SelectorExpr); ok && hiding[s.Sel.Name] {
			t.Errorf("%s: line %d calls %s: only %s may skip", name, files.Position(s.Sel.Pos()).Line, s.Sel.Name, mayHide)
		}
		return true
	})
}

// checkIsRun reports a file whose tests "go test ./..." does not run on every
// machine.
func checkIsRun(t *testing.T, f *ast.File, path, name string) {
	t.Helper()
	for _, group := range f.Comments {
		for _, c := range group.List {
			if c.Pos() < f.Package && strings.HasPrefix(c.Text, "//go:build") {
				t.Errorf("%s holds tests behind %q, where nobody runs them", name, c.Text)
			}
		}
	}
	matches, err := build.Default.MatchFile(filepath.Dir(path), filepath.Base(path))
	if err != nil {
		t.Errorf("%s: %v", name, err)
	}
	ignored := strings.HasPrefix(name, "_") || strings.Contains(name, "/_") || strings.Contains("/"+name, "/testdata/")
	if !matches || ignored {
		t.Errorf("%s holds tests that go test does not run", name)
	}
}

func hasTests(f *ast.File) bool {
	for _, d := range f.Decls {
		if fn, ok := d.(*ast.FuncDecl); ok && fn.Recv == nil {
			for _, kind := range []string{"Test", "Fuzz", "Benchmark", "Example"} {
				if strings.HasPrefix(fn.Name.Name, kind) {
					return true
				}
			}
		}
	}
	return false
}

func importsTesting(f *ast.File) bool {
	for _, i := range f.Imports {
		if i.Path.Value == `"testing"` {
			return true
		}
	}
	return false
}
