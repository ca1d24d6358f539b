package table_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/postern-mail/postern/internal/testenv"
	"github.com/postern-mail/postern/table"
)

func parse(t testing.TB, kind, text string) table.Table {
	t.Helper()
	tab, err := (&table.Opener{}).Parse(kind, "f", strings.NewReader(text), table.Use{})
	if err != nil {
		t.Fatalf("%s: %v", text, err)
	}
	return tab
}

// says returns what a table says for a key: "-" for nothing, "!" for an error.
func says(t testing.TB, tab table.Table, key string) string {
	t.Helper()
	values, err := tab.Lookup(t.Context(), key)
	switch {
	case err != nil:
		return "!"
	case len(values) == 0:
		return "-"
	}
	return table.Join(values)
}

// TestKinds: each notation, a table and what it says.
func TestKinds(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name, kind, text string
		want             map[string]string
	}{
		{"text", "texthash", "# c\n\nkey  value of it\nlong one,\n  two\n# between\n\tthree\nUPPER x\n\"a b\"@x.example y\nbücher.example z\n", map[string]string{
			"key": "value of it", "KEY": "value of it", "long": "one,  two\tthree", "upper": "x", `"A B"@x.example`: "y",
			"xn--bcher-kva.example": "z", "absent": "-", "\xff": "-", "": "-",
		}},
		{"cidr", "cidr", "192.0.2.128/25 upper\n192.0.2.0/24 lower\n2001:db8::/32 six\n[2001:db9::]/32 seven\n::ffff:198.51.100.0/120 mapped\n", map[string]string{
			"192.0.2.200": "upper", "192.0.2.1": "lower", "2001:db8::7": "six", "2001:DB8::7": "six", "2001:db9::1": "seven",
			"198.51.100.9": "mapped", "::ffff:192.0.2.200": "upper", "[192.0.2.1]": "lower", "203.0.113.1": "-", "name.example": "-",
		}},
		{"cidr: the first line decides, not the longest", "cidr", "10.0.0.0/8 all\n10.1.0.0/16 never\n", map[string]string{"10.1.2.3": "all"}},
		{"cidr: negation", "cidr", "!10.0.0.0/8 outside\n10.1.0.0/16 in\n", map[string]string{"10.1.0.1": "in", "10.2.0.1": "-", "192.0.2.1": "outside", "::1": "-"}},
		{"cidr: blocks", "cidr", "if 10.0.0.0/8\n10.1.0.0/16 one\nif !10.2.0.0/16\n0.0.0.0/0 other\nendif\nendif\n10.2.0.0/15 after\n::/0 six\n", map[string]string{
			"10.1.0.1": "one", "10.3.0.1": "other", "10.2.0.1": "after", "::1": "six", "192.0.2.1": "-",
		}},
		{"regexp", "regexp", `
/^(.+)\.(.+)@long\.example$/   ${2}.$1@short.example
/^CASE@(.*)$/i                 case@$(1)
/^price@/                      a $$ b
!/example$/                    outside
|^bar/|                        slash
`, map[string]string{
			"ann.lee@LONG.example": "lee.ann@short.example", "CASE@a.example": "case@a.example", "case@a.example": "-",
			"price@b.example": "a $ b", "x@y.test": "outside", "bar/x.example": "slash", "foo.example": "-",
		}},
		{"regexp: blocks", "regexp", "if /@x\\.example$/\n/^a/ a of x\nif !/^b/\n/^/ neither\nendif\nendif\n/^b/ any b\nIF /c/\nENDIF\n", map[string]string{
			"a@x.example": "a of x", "c@x.example": "neither", "b@x.example": "any b", "a@y.example": "-",
		}},
		{"regexp: the longest match", "regexp", "/(a|ab)(c|bcd)?$/ $1", map[string]string{"abcd": "a", "ab": "ab"}},
		{"pcre: flags", "pcre", "/^ a b $/x x\n/^(.+?)z/U greedy $1\n/^only/A anchored\n/C/i exact\n", map[string]string{
			"ab": "x", "a b": "-", "qzz": "greedy qz", "only": "anchored", "C": "exact", "c": "-",
		}},
		{"pcre: the first alternative", "pcre", "/^(a|ab)(c|bcd)?$/ $1-$2", map[string]string{"abcd": "a-bcd", "a": "a-"}},
		{"regexp: an empty value is an error, not nothing", "regexp", "/^(x*)y/ $1", map[string]string{"y": "!", "xy": "x"}},
		{"aliases", "aliases", "root: alice, bob@x.example\n\"two words\": carol\ninfo@x.example  e\n@y.example f\nself: \\self, g\nspaced : h\n", map[string]string{
			"root": "alice,bob@x.example", "ROOT": "alice,bob@x.example", "two words": "carol", "info@x.example": "e", "@y.example": "f",
			"self": `\self,g`, "spaced": "h",
		}},
	} {
		tab := parse(t, c.kind, c.text)
		for key, want := range c.want {
			if got := says(t, tab, key); got != want {
				t.Errorf("%s: %q gives %q, want %q", c.name, key, got, want)
			}
		}
	}
}

// TestMistakes: all that is wrong is told, with its line, and nothing of such
// a file is used.
func TestMistakes(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ kind, text, want string }{
		{"texthash", "a@x.example", `f:1: "a@x.example" stands for nothing`},
		{"texthash", "  a b", "f:1: the first line begins with white space"},
		{"texthash", "a b\nA c", `f:2: "A" stands at line 1 already`},
		{"texthash", "root: x", `take the colon out`},
		{"texthash", "\"a b c", "f:1: a quoted string is not closed"},
		{"texthash", "ok x\n\na\xff b", "f:3: the line is not valid UTF-8"},
		{"texthash", "a b\x01c", "f:1: control character"},
		{"texthash", "a\nb\nc d\ne", "f:4:"},
		{"cidr", "192.0.2.1/33 x", "f:1: \"192.0.2.1/33\" is not an address or network"},
		{"cidr", "192.0.2.1/24 x", "host bits set: the network is 192.0.2.0/24"},
		{"cidr", "host.example x", "f:1:"},
		{"cidr", "192.0.2.1", "f:1: 192.0.2.1: the key stands for nothing"},
		{"cidr", "if 10.0.0.0/8\n10.0.0.1 x\n", "f:1: if without endif"},
		{"cidr", "endif", "f:1: endif without if"},
		{"cidr", "if 10.0.0.0/8\nendif what", `"what" stands behind endif`},
		{"cidr", "::ffff:0:0/90 x", "has host bits set"},
		{"regexp", "abc x", "f:1: \"abc\": a line is"},
		{"regexp", "/abc x", "f:1: the pattern has no closing"},
		{"regexp", "/a(b/ x", "f:1: error parsing regexp"},
		{"regexp", `/(a)\1/ x`, "back references"},
		{"pcre", "# one\n/(?=a)/ x", "f:2: error parsing regexp: invalid or unsupported Perl syntax"},
		{"pcre", "/(?>a)/ x", "f:1:"},
		{"regexp", "/a/ $1", "f:1: $1: the pattern has 0 groups"},
		{"regexp", "!/(a)/ $1", "a pattern that must not match"},
		{"regexp", "/a/q x", "unknown flag 'q'"},
		{"regexp", "/a/x x", "basic expressions"},
		{"regexp", "/a/", "the pattern stands for nothing"},
		{"regexp", "/a/ x$y", "a dollar sign"},
		{"regexp", "if /a/ value\nendif", "stands behind the condition"},
		{"regexp", "if /a/\n/b/ c", "f:1: if without endif"},
		{"aliases", "a@x.example", `f:1: "a@x.example" stands for nothing`},
		{"aliases", "a@x.example ,", `f:1: "a@x.example" stands for nothing`},
		{"aliases", "\n#\nroot: |/bin/sh", "f:3: |/bin/sh: no programs are run; take the entry out"},
		{"aliases", `root: "|sh -c x"`, "f:1: \"|sh -c x\": no programs are run"},
		{"aliases", "root: /dev/null", "no files are written"},
		{"aliases", "root: :include:/etc/list", "allow a folder by alias_include_dir"},
		{"aliases", "root: :fail:x", "the only directive is :include:"},
		{"aliases", "a@x@y b", "f:1:"},
		{"aliases", "a@x.example @y.example", "f:1:"},
		{"aliases", "a b\nA: c", `"A" stands at line 1 already`},
	} {
		tab, err := (&table.Opener{}).Parse(c.kind, "f", strings.NewReader(c.text), table.Use{})
		var all table.Mistakes
		if tab != nil || !errors.As(err, &all) || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s %q: %v, want %q", c.kind, c.text, err, c.want)
		}
	}
}

// TestUse: what a use refuses is a mistake of the file, and secrets stay out of
// what is told.
func TestUse(t *testing.T) {
	t.Parallel()
	refuse := errors.New("refused")
	use := table.Use{
		Key: func(key string) error {
			if key == "bad" {
				return refuse
			}
			return nil
		},
		Value: func(text string) ([]string, error) {
			if text == "bad" {
				return nil, refuse
			}
			return strings.Fields(text), nil
		},
		NoReferences: true,
	}
	for _, c := range []struct{ kind, text string }{
		{"texthash", "bad x"}, {"texthash", "x bad"}, {"cidr", "192.0.2.1 bad"}, {"regexp", "/x/ bad"},
	} {
		if _, err := (&table.Opener{}).Parse(c.kind, "f", strings.NewReader(c.text), use); !errors.Is(err, refuse) {
			t.Errorf("%s %q: %v", c.kind, c.text, err)
		}
	}
	if _, err := (&table.Opener{}).Parse("regexp", "f", strings.NewReader("/(.*)/ $1"), use); err == nil {
		t.Error("the key's author writes the value")
	}
	tab, err := (&table.Opener{}).Parse("texthash", "f", strings.NewReader("k one two"), use)
	if err != nil {
		t.Fatal(err)
	}
	if values, _ := tab.Lookup(t.Context(), "k"); len(values) != 2 {
		t.Errorf("values %q", values)
	}
	for _, text := range []string{"geheim", "\"geheim x", "geheim: x", "a b\nA geheim", "geheim c\ngeheim d"} {
		if _, err := (&table.Opener{}).Parse("texthash", "f", strings.NewReader(text), table.Use{Secret: true}); err == nil || strings.Contains(err.Error(), "geheim") {
			t.Errorf("%q: %v", text, err)
		}
	}
}

func file(t testing.TB, dir, name, text string) string {
	t.Helper()
	path := filepath.Join(dir, name)
	replace(t, path, text)
	return path
}

// replace puts a whole file in the place of another, as editors do.
func replace(t testing.TB, path, text string) {
	t.Helper()
	err := os.WriteFile(path+".new", []byte(text), 0o600)
	if err == nil {
		err = os.Rename(path+".new", path)
	}
	if err != nil {
		t.Error(err)
	}
}

// TestNames: tables by their names, made of others and of nothing.
func TestNames(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	file(t, dir, "one", "a 1\nb 2\n")
	file(t, dir, "two", "a 3\n2 two\n")
	file(t, dir, "re", "/^(.)$/ re-$1\n")
	o := table.Opener{Dir: dir, ForeignKinds: []string{"far"}, Foreign: func(kind, rest string) (table.Table, error) {
		if kind != "far" {
			return nil, nil
		}
		if rest == "" {
			return nil, errors.New("nowhere")
		}
		return far(rest), nil
	}}
	for name, want := range map[string]map[string]string{
		"one":                                 {"a": "1", "c": "-"},
		"hash:one":                            {"a": "1"},
		"lmdb:" + dir + "/one":                {"B": "2"},
		"regexp:re":                           {"x": "re-x"},
		"inline:{a=1, {b = two, three}}":      {"a": "1", "B": "two, three", "c": "-"},
		"static:yes":                          {"anything": "yes", "": "yes"},
		"static:{ with, comma }":              {"x": "with, comma"},
		"fail:why":                            {"x": "!"},
		"proxy:hash:one":                      {"a": "1"},
		"unionmap:{one, two}":                 {"a": "1,3", "b": "2", "2": "two", "c": "-"},
		"unionmap:{one,fail:x}":               {"a": "!"},
		"pipemap:{one, two}":                  {"b": "two", "a": "-"},
		"pipemap:{one, inline:{1=uno, 2=do}}": {"a": "uno", "b": "do"},
		"far:x":                               {"k": "x k", "down": "!"},
		"unionmap:{one, far:y}":               {"a": "1,y a"},
		"unionmap:{unionmap:{one,two}, two}":  {"a": "1,3,3"},
	} {
		tab, err := o.Open(name, table.Use{})
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		for key, value := range want {
			if got := says(t, tab, key); got != value {
				t.Errorf("%s: %q gives %q, want %q", name, key, got, value)
			}
		}
	}
	for name, want := range map[string]string{
		"": "names no file", "texthash:": "names no file", "absent": "no such file", "nis:x": "there are texthash, cidr",
		"far:": "nowhere", "inline:{}": "no entries", "inline:{a}": "not key=value", "inline:a=b": "braces", "unionmap:{}": "no tables",
		"unionmap:{one": "braces", "unionmap:{{one}": "braces", "static:": "stands for nothing", "inline:{a=1, A=2}": "already",
		"pipemap:{one, absent}": "no such file", "unionmap:{unionmap:{unionmap:{unionmap:{unionmap:{one}}}}}": "deeper",
	} {
		if _, err := o.Open(name, table.Use{}); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v, want %q", name, err, want)
		}
	}
	for name, whole := range map[string]bool{"one": false, "regexp:re": true, "unionmap:{one, regexp:re}": true, "pipemap:{one, regexp:re}": false, "static:x": true} {
		if tab, err := o.Open(name, table.Use{}); err != nil || tab.Whole() != whole {
			t.Errorf("%s: %v, asked about whole keys only: %v", name, err, !whole)
		}
	}
}

// far is a table of another room.
type far string

func (f far) Name() string { return "far:" + string(f) }
func (f far) Lookup(_ context.Context, key string) ([]string, error) {
	if key == "down" {
		return nil, errors.New("no answer")
	}
	return []string{string(f) + " " + key}, nil
}

func run(t testing.TB, tab table.Opened) {
	t.Helper()
	ctx, stop := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- tab.Run(ctx) }()
	t.Cleanup(func() {
		stop()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

// TestReload: a changed file is taken over when it is good, and a broken one
// leaves the one before in force and is told.
func TestReload(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	path := file(t, dir, "t", "root alice\n")
	var log strings.Builder
	o := table.Opener{CheckInterval: 5 * time.Millisecond, Log: hclog.New(&hclog.LoggerOptions{Output: &log})}
	tab, err := o.Open("unionmap:{"+path+", inline:{x=y}}", table.Use{})
	if err != nil {
		t.Fatal(err)
	}
	changed, first := tab.Changed(), tab.Generation()
	run(t, tab)
	file(t, dir, "t", "root bob\n")
	becomes(t, tab, "ROOT", "bob")
	<-changed
	if tab.Generation() == first {
		t.Error("answers from the old table stay in caches")
	}
	file(t, dir, "t", "root\n")
	time.AfterFunc(50*time.Millisecond, func() { replace(t, path, "root carol\n") })
	testenv.Eventually(t, time.Minute, func() error {
		switch got := says(t, tab, "root"); got {
		case "carol":
			return nil
		case "bob":
			return errors.New("not yet read")
		default:
			t.Fatalf("a broken table is used: %q", got)
			return nil
		}
	})
}

func becomes(t testing.TB, tab table.Table, key, want string) {
	t.Helper()
	testenv.Eventually(t, time.Minute, func() error {
		if got := says(t, tab, key); got != want {
			return fmt.Errorf("%s gives %q, want %q", key, got, want)
		}
		return nil
	})
}

// TestIncludes: aliases read lists below one folder, and nothing else.
func TestIncludes(t *testing.T) {
	t.Parallel()
	dir := testenv.TempDir(t)
	lists := filepath.Join(dir, "lists")
	if err := os.MkdirAll(filepath.Join(lists, "sub"), 0o700); err != nil {
		t.Fatal(err)
	}
	secret := file(t, dir, "secret", "a@x.example\n")
	file(t, lists, "staff", "# people\na@x.example, b@x.example\n\nc\n:include:sub/more\n")
	file(t, lists, "sub/more", "d\n")
	file(t, lists, "loop", ":include:loop\n")
	file(t, lists, "bomb", strings.Repeat(":include:bomb\n", 1001))
	if err := syscall.Mkfifo(filepath.Join(lists, "pipe"), 0o600); err != nil {
		t.Fatal(err)
	}
	file(t, lists, "program", "ok\n|/bin/sh\n")
	file(t, lists, "large", strings.Repeat("x@y.example\n", 100000))
	if err := os.Symlink(secret, filepath.Join(lists, "link")); err != nil {
		t.Fatal(err)
	}
	o := table.Opener{Dir: dir, Default: table.KindAliases, IncludeDir: lists, CheckInterval: 5 * time.Millisecond}
	for text, want := range map[string]string{
		"all: :include:../secret":                   "outside of alias_include_dir",
		"all: :include:" + secret:                   "outside of alias_include_dir",
		"all: :include:link":                        "escapes",
		"all: :include:sub":                         "not a regular file",
		"all: :include:bomb":                        "more than 1000 files",
		"all: :include:pipe":                        "not a regular file",
		"all: :include:loop":                        "nest deeper",
		"all: :include:absent":                      "no such file",
		"all: :include:large":                       "larger than",
		"x: y\nall: :include:" + lists + "/program": "program:2: |/bin/sh: no programs",
	} {
		if _, err := o.Open(file(t, dir, "bad", text), table.Use{}); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v, want %q", text, err, want)
		}
	}
	tab, err := o.Open(file(t, dir, "aliases", "staff: :include:"+lists+"/staff, e\n"), table.Use{})
	if err != nil {
		t.Fatal(err)
	}
	if got := says(t, tab, "staff"); got != "a@x.example,b@x.example,c,d,e" {
		t.Errorf("staff is %q", got)
	}
	run(t, tab)
	file(t, lists, "sub/more", "new@x.example\n")
	becomes(t, tab, "staff", "a@x.example,b@x.example,c,new@x.example,e")
}

// FuzzParse: whatever a file holds, reading it ends with a table or with
// mistakes that have their place, and lookups in it end.
func FuzzParse(f *testing.F) {
	for _, seed := range []string{
		"a@x.example b@y.example\n@x c\n  , d\n\"a b\"@x \"c, d\"@y", "/^(.*)@x$/i $1@y\n!/a/ b\n|x|x y\n/a\\/b/ $$x",
		"if /x/\n!/y/ z\nendif\n", "if 10.0.0.0/8\n!10.1.0.0/16 x\nendif\n::/0 y", "root: a,\n\tb\n# x\n", "\"q\\\"\" :include:x", "/[]a ]#b/x y",
	} {
		for kind := range uint8(5) {
			f.Add(kind, seed, "a@x.example")
		}
	}
	f.Fuzz(func(t *testing.T, which uint8, text, key string) {
		kind := []string{"texthash", "cidr", "regexp", "pcre", "aliases"}[which%5]
		tab, err := (&table.Opener{}).Parse(kind, "f", strings.NewReader(text), table.Use{})
		if err != nil {
			if !strings.HasPrefix(err.Error(), "f:") {
				t.Fatalf("%v does not say where", err)
			}
			return
		}
		for _, k := range append(strings.Fields(text), key) {
			values, err := tab.Lookup(t.Context(), k)
			if err == nil && len(values) > 0 && table.Join(values) == "" {
				t.Fatalf("%q stands for an empty text", k)
			}
		}
	})
}
