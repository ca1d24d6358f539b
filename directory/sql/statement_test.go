package sql

import (
	"fmt"
	"strings"
	"testing"

	"github.com/postern-mail/postern/directory"
)

// TestStatements: placeholders become parameters wherever they stand, and
// nothing of a key is ever text of the query.
func TestStatements(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		driver   string
		notation Notation
		query    string
		want     string
		values   string
	}{
		{MySQL, Postfix, "SELECT a FROM t WHERE b='%s' AND c = %u AND d=\"%d\";", "SELECT a FROM t WHERE b=? AND c = ? AND d=?", `[bob@mail.example.com bob mail.example.com]`},
		{PostgreSQL, Postfix, "SELECT a FROM t WHERE b='%s' AND c = %u", "SELECT a FROM t WHERE b=$1 AND c = $2", `[bob@mail.example.com bob]`},
		{SQLite, Postfix, "SELECT '%u@%d', 'it''s %u', '%3.%2.%1'", "SELECT ?, ?, ?", `[bob@mail.example.com it's bob mail.example.com]`},
		{MySQL, Postfix, `SELECT 'a\'b %u\n' LIKE 'x\%%'`, `SELECT ? LIKE 'x\%'`, "[a'b bob\n]"},
		{PostgreSQL, Postfix, `SELECT 'a\b%u' || '100%%' -- it's` + "\n+ %s", `SELECT $1 || '100%' -- it's` + "\n+ $2", `[a\bbob bob@mail.example.com]`},
		{MySQL, Postfix, "SELECT `a` /* 100%% 'x */ FROM t # '\nWHERE x=%S", "SELECT `a` /* 100% 'x */ FROM t # '\nWHERE x=?", `[bob@mail.example.com]`},
		{PostgreSQL, Postfix, "SELECT $$it's$$, $a$ ' $a$, %D", "SELECT $$it's$$, $a$ ' $a$, $1", `[mail.example.com]`},
		{MySQL, Dovecot, "SELECT username AS user, password FROM users WHERE username='%u' AND n='%n' AND d='%d' AND l='%Lu'", "SELECT username AS user, password FROM users WHERE username=? AND n=? AND d=? AND l=?", `[bob@mail.example.com bob mail.example.com bob@mail.example.com]`},
		{SQLite, Dovecot, "SELECT %{user}, '%{username}', '%{domain}'", "SELECT ?, ?, ?", `[bob@mail.example.com bob mail.example.com]`},
	} {
		s, err := ParseStatement(c.query, c.driver, c.notation)
		if err != nil {
			t.Errorf("%s: %v", c.query, err)
			continue
		}
		key := directory.NewKey("bob@mail.example.com")
		values, ok := s.fill(key.Part)
		if got := fmt.Sprint(values); s.String() != c.want || !ok || got != c.values {
			t.Errorf("%s\n gives %s %s\n want  %s %s", c.query, s, got, c.want, c.values)
		}
	}
	for query, want := range map[string]string{
		"": "empty", "SELECT %x": "no placeholder %x", "SELECT 5 % 2": "no placeholder", "SELECT 'a": "no closing", "SELECT %": "ends the query",
		`SELECT "%s"`: "name of a column", "SELECT E'%s'": "before its quotes", "SELECT 1 -- %s": "in a comment", "SELECT /* %s */ 1": "in a comment",
		"SELECT $$%s$$": "between dollar signs", "SELECT /* x": "no end", "SELECT \x00": "NUL",
		"SELECT $1, '%s'": "behind a dollar sign",
	} {
		if s, err := ParseStatement(query, PostgreSQL, Postfix); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v, %v; want %q", query, s, err, want)
		}
	}
	for _, driver := range []string{MySQL, SQLite} {
		if s, err := ParseStatement("SELECT a FROM t WHERE b = ? AND c = '%s'", driver, Postfix); err == nil {
			t.Errorf("%s: a mark of the operator's own: %v", driver, s)
		}
	}
	for _, key := range []string{"bob", "@example.com", ""} {
		s, err := ParseStatement("SELECT '%u@%d'", MySQL, Postfix)
		if err != nil {
			t.Fatal(err)
		}
		k := directory.NewKey(key)
		if values, ok := s.fill(k.Part); ok {
			t.Errorf("%q lacks a part and is looked up with %q", key, values)
		}
	}
}

// FuzzParseStatement: a query that is read has as many marks as parameters,
// outside of strings, and no key changes its text.
func FuzzParseStatement(f *testing.F) {
	f.Add("SELECT a FROM t WHERE b='%s' -- x\n/* y */", uint8(0), false)
	f.Add("SELECT $a$x$a$, \"q\", '%u@%d''' ", uint8(1), true)
	f.Fuzz(func(t *testing.T, query string, driver uint8, dovecot bool) {
		name := []string{MySQL, PostgreSQL, SQLite}[driver%3]
		notation := Postfix
		if dovecot {
			notation = Dovecot
		}
		s, err := ParseStatement(query, name, notation)
		if err != nil {
			return
		}
		if name == PostgreSQL && len(s.parameters) > 0 && !strings.Contains(s.text, fmt.Sprintf("$%d", len(s.parameters))) {
			t.Fatalf("%q gives %q with %d parameters", query, s.text, len(s.parameters))
		}
		if len(s.parameters) > strings.Count(query, "%") {
			t.Fatalf("%q has %d parameters", query, len(s.parameters))
		}
	})
}
