package table_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/postern-mail/postern/directory/table"
	"github.com/postern-mail/postern/internal/testenv"
)

func TestMistakes(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]string{
		"a@x.example":                       `f:1: "a@x.example" stands for nothing`,
		"a@x.example ,":                     `f:1: "a@x.example" stands for nothing`,
		"  a@x.example b@x.example":         "f:1: the line begins with white space",
		"\n#\nroot: |/bin/sh":               "f:3: \"|/bin/sh\": commands",
		"root: /dev/null":                   "f:1: \"/dev/null\": commands",
		`root: "|sh"`:                       "f:1: ",
		"root: :include:/etc/list":          "f:1: \":include:/etc/list\": commands",
		"a@x.example b\nA@X.EXAMPLE c":      "f:2: \"a@x.example\" stands at line 1 already",
		"a@x@y b":                           "f:1: ",
		"a@x.example @y.example":            "f:1: ",
		"a b\nc two words@x.example\nd e@@": "f:2: ",
	} {
		got, err := table.Parse("f", strings.NewReader(text))
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("Parse(%q) = %v, %v; want an error with %q", text, got, err, want)
		}
	}
}

func TestReload(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "aliases")
	write := func(text string) {
		t.Helper()
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("root: alice\n")
	tab, err := table.Open(table.Config{File: file, CheckInterval: 5 * time.Millisecond}, hclog.NewNullLogger())
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- tab.Run(ctx) }()
	t.Cleanup(func() {
		stop()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	first := tab.Generation()
	write("root: somebody-else\n")
	testenv.Eventually(t, 5*time.Second, func() error {
		if got, err := tab.Lookup(ctx, "ROOT"); err != nil || len(got) != 1 || got[0] != "somebody-else" {
			return errors.New("the old table is still in use")
		}
		return nil
	})
	if tab.Generation() == first {
		t.Error("answers from the old table stay in the cache")
	}
}

func FuzzParse(f *testing.F) {
	f.Add("info@x.example  a, b@y.example\n@x.example c\nroot: a,\n\tb\n# x\n")
	f.Add(`"quoted name"@x.example a` + "\n")
	f.Fuzz(func(t *testing.T, text string) {
		aliases, err := table.Parse("f", strings.NewReader(text))
		if err != nil {
			return
		}
		for name, targets := range aliases {
			if name == "" || name != strings.ToLower(name) || len(targets) == 0 {
				t.Fatalf("%q gives %q -> %q", text, name, targets)
			}
			for _, target := range targets {
				if strings.ContainsAny(target[:1], "|/:@") {
					t.Fatalf("%q gives the target %q", text, target)
				}
			}
		}
	})
}
