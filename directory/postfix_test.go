package directory_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/postern-mail/postern/directory"
)

func TestParsePostfixFile(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ name, text, want string }{
		{"empty", "", "[]"},
		{"comments", "# a = b\n\n   # c\n", "[]"},
		{"values", "a = b\nc=d = e\nempty =\n", `[a="b"@1 c="d = e"@2 empty=""@3]`},
		{"continued", "a = b\n  c\n# between\n\n\td\ne = f\n", `[a="b c d"@1 e="f"@6]`},
		{"continued value", "a =\n b\n", `[a="b"@1]`},
		{"twice", "a = b\na = c\n", `[a="b"@1 a="c"@2]`},
		{"carriage returns", "a = b\r\nc = d\r\n", `[a="b"@1 c="d"@2]`},
		{"no value", "a = b\nsecret\n", "line 2"},
		{"no name", "= b\n", "line 1"},
		{"two words", "a b = c\n", "line 1"},
		{"continues nothing", " a = b\n", "line 1"},
		{"NUL", "a = b\x00\n", "line 1"},
	} {
		parameters, err := directory.ParsePostfixFile(strings.NewReader(c.text))
		var got []string
		for _, p := range parameters {
			got = append(got, fmt.Sprintf("%s=%q@%d", p.Name, p.Value, p.Line))
		}
		text := fmt.Sprint(got)
		if err != nil {
			text = err.Error()
		}
		if !strings.Contains(text, c.want) {
			t.Errorf("%s: %s, want %s", c.name, text, c.want)
		}
	}
}

func FuzzParsePostfixFile(f *testing.F) {
	for _, seed := range []string{"a = b\n", "a =\n b\n# c\n\n d", "a", " a", "=", "a = b\x00"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		parameters, err := directory.ParsePostfixFile(strings.NewReader(text))
		lines := strings.Count(text, "\n") + 1
		last := 0
		for _, p := range parameters {
			if p.Name == "" || strings.ContainsAny(p.Name, " \t\n=") || p.Line <= last || p.Line > lines || strings.Contains(p.Value, "\n") {
				t.Errorf("%q gives %+v (%v)", text, p, err)
			}
			last = p.Line
		}
	})
}
