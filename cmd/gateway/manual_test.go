package main

import (
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

// eachCommand calls fn for every command below c, with its words.
func eachCommand(c *cobra.Command, fn func(c *cobra.Command, words string)) {
	for _, sub := range c.Commands() {
		if sub.Name() == "help" || sub.Name() == "completion" {
			continue // cobra's own
		}
		_, words, _ := strings.Cut(sub.CommandPath(), " ")
		fn(sub, words)
		eachCommand(sub, fn)
	}
}

// helperFlags reads the options of the auth helper, which parses them itself.
func helperFlags(t *testing.T) []string {
	t.Helper()
	var names []string
	for _, m := range regexp.MustCompile(`flags\.\w+\((?:&[\w.]+, )?"([a-z-]+)"`).FindAllStringSubmatch(read(t, "../../authn/helper/process/main.go"), -1) {
		if m[1] != "worker" && m[1] != "exit-with-stdin" { // between the helper and its processes
			names = append(names, m[1])
		}
	}
	if len(names) < 5 {
		t.Fatalf("the helper's options are %q: the test looks for the wrong thing", names)
	}
	return names
}

func read(t *testing.T, path string) string {
	t.Helper()
	text, err := os.ReadFile(path)
	must(t, err)
	return string(text)
}

// TestManualIsWhole: the manual page tells every command and option, and no
// other.
func TestManualIsWhole(t *testing.T) {
	t.Parallel()
	page := read(t, "../../deploy/man/postern.8")
	flags := append(helperFlags(t), "help", "config")
	eachCommand(root(), func(c *cobra.Command, words string) {
		if c.Runnable() && !c.HasSubCommands() && !strings.Contains(page, ".It Cm "+words) && !strings.Contains(page, ".Cm "+words) {
			t.Errorf("the manual does not tell of %q", words)
		}
		c.LocalNonPersistentFlags().VisitAll(func(f *pflag.Flag) { flags = append(flags, f.Name) })
	})
	for _, name := range flags {
		if !strings.Contains(page, "Fl -"+name) {
			t.Errorf("the manual does not tell of --%s", name)
		}
	}
	for _, m := range regexp.MustCompile(`\bFl -([a-z][a-z-]*)`).FindAllStringSubmatch(page, -1) {
		if !slices.Contains(flags, m[1]) {
			t.Errorf("the manual tells of --%s, which does not exist", m[1])
		}
	}
}

var (
	codeInText = regexp.MustCompile("(?ms)^```.*?^```$|`[^`\n]+`")
	commandRun = regexp.MustCompile("(?:^|[\\s`(/])postern ([a-z][a-z-]*(?: [^\n|&;>`)#]*)?)")
)

// TestDocumentsNameCommands: what documents tell to type exists.
func TestDocumentsNameCommands(t *testing.T) {
	t.Parallel()
	found := 0
	must(t, filepath.WalkDir("../..", func(path string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() || filepath.Ext(path) != ".md" {
			return err
		}
		for _, code := range codeInText.FindAllString(read(t, path), -1) {
			for _, m := range commandRun.FindAllStringSubmatch(code, -1) {
				found++
				checkCommandLine(t, path, strings.Fields(m[1]))
			}
		}
		return nil
	}))
	if found < 30 {
		t.Fatalf("only %d command lines found: the test looks for the wrong thing", found)
	}
}

func checkCommandLine(t *testing.T, path string, words []string) {
	t.Helper()
	c, rest, err := root().Find(words)
	takesArguments := strings.Contains(c.Use, " ") // besides having commands below it
	if err != nil || !c.HasParent() || c.HasSubCommands() && !takesArguments && len(rest) > 0 && !strings.HasPrefix(rest[0], "-") {
		t.Errorf("%s: there is no command %q", path, strings.Join(words, " "))
		return
	}
	if c.DisableFlagParsing {
		return
	}
	for _, word := range rest {
		name, ok := strings.CutPrefix(strings.TrimRight(word, ",."), "--")
		name, _, _ = strings.Cut(name, "=")
		if ok && name != "help" && c.Flags().Lookup(name) == nil && c.InheritedFlags().Lookup(name) == nil {
			t.Errorf("%s: %q has no option --%s", path, c.CommandPath(), name)
		}
	}
}
