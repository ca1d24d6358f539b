package table_test

import (
	"bytes"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/postern-mail/postern/internal/testenv"
	"github.com/postern-mail/postern/table"
)

// TestPostmap: Postfix itself says the same of the same tables and keys.
func TestPostmap(t *testing.T) {
	t.Parallel()
	postmap := testenv.Program(t, "postmap")
	dir := testenv.TempDir(t)
	file(t, dir, "main.cf", "compatibility_level = 3.6\n")
	for _, c := range []struct{ kind, text, keys string }{
		{"texthash", "# c\n\nkey  value of it\nlong one,\n  two\n# between\n\tthree\nUPPER x\n\"a b\"@x.example y z\nuser@x.example  a@y.example, b@y.example  \n@x.example @y.example\n.x.example dot\n<> null\n1.2.3 net\n",
			"key KEY long upper Upper absent user@x.example USER@X.example @x.example .x.example x.example <> 1.2.3 1.2.3.4"},
		{"cidr", "192.0.2.128/25 upper half\n192.0.2.0/24 lower\n2001:db8::/32 six\n!10.0.0.0/8 outside\n10.1.0.0/16 one\n",
			"192.0.2.200 192.0.2.1 2001:db8::7 2001:db9::7 10.1.2.3 10.2.2.3 198.51.100.1 name"},
		{"cidr", "if 10.0.0.0/8\n10.1.0.0/16 one\nif !10.2.0.0/16\n0.0.0.0/0 other\nendif\nendif\n10.2.0.0/15 after\n::/0 six\n",
			"10.1.0.1 10.3.0.1 10.2.0.1 ::1 192.0.2.1"},
		{"regexp", "/^(.+)\\.(.+)@long\\.example$/   ${2}.$1@short.example\n/^CASE@(.*)$/i  case@$(1)\n/^price@/ a $$ b\n!/example$/ outside\n|^bar/| slash\n/^x[[:digit:]]+y/ digits  two\n/^esc\\/aped/ yes\n",
			"ann.lee@LONG.example CASE@a.example case@a.example price@b.example x@y.test bar/x.example foo.example x12y.example esc/aped.example"},
		{"regexp", "if /@x\\.example$/\n/^a/ a of x\nif !/^b/\n/^/ neither\nendif\nendif\n/^b/ any b\n",
			"a@x.example c@x.example b@x.example a@y.example"},
		{"regexp", "/^(a|ab)(c|bcd)$/ $1 $2\n/(x*)(xy?)/ <$1>\n", "abcd ac xxxy y"},
		{"pcre", "/^ a b $/x x\n/^only/A anchored\n/C/i exact\n/^(a|ab)(c|bcd)?$/ $1-$2\n/^(.+?)z(.*)/ first $1 rest $2\n/\\bword\\b/ $$1\nif /^in/\n/side$/ inside\nendif\n",
			"ab a#b only C c abcd a qzzz some#word inside in outside"},
	} {
		path := file(t, dir, "table", c.text)
		tab, err := (&table.Opener{}).Open(c.kind+":"+path, table.Use{})
		if err != nil {
			t.Errorf("%s %q: %v", c.kind, c.text, err)
			continue
		}
		cmd := exec.Command(postmap, "-c", dir, "-q", "-", c.kind+":"+path)
		cmd.Stdin = strings.NewReader(strings.Join(strings.Fields(c.keys), "\n") + "\n")
		var out, stderr bytes.Buffer
		cmd.Stdout, cmd.Stderr = &out, &stderr
		if err := cmd.Run(); err != nil && stderr.Len() > 0 { // it fails where it finds nothing, too
			t.Fatalf("%s: %v\n%s", filepath.Base(postmap), err, &stderr)
		}
		theirs := make(map[string]string)
		for line := range strings.Lines(out.String()) {
			key, value, _ := strings.Cut(strings.TrimSuffix(line, "\n"), "\t")
			theirs[key] = value
		}
		if len(theirs) == 0 {
			t.Errorf("%s: Postfix finds nothing in %q", c.kind, c.text)
		}
		for key := range strings.FieldsSeq(c.keys) {
			want, found := theirs[key]
			if !found {
				want = "-"
			}
			if got := says(t, tab, key); got != want {
				t.Errorf("%s: %q gives %q, Postfix %q, in\n%s", c.kind, key, got, want, c.text)
			}
		}
	}
}
