package main

import (
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/postern-mail/postern/internal/testenv"
	"github.com/postern-mail/postern/testdata/ldif"
)

// TestIndexCommands: an operator sees what the search index has, and has it
// built anew; mail that comes in is indexed by itself.
func TestIndexCommands(t *testing.T) {
	t.Parallel()
	s := newSite(t, standard, nil).start()
	must(t, s.submit("alice", ldif.Password("alice"), "alice@example.com", []string{"bob@example.com"}, "indexed"))
	s.waitFor("bob", "indexed", 1)
	testenv.Eventually(t, time.Minute, func() error {
		return matches(s.run("index", "status", "bob"), `bob +built +1 +1 +\S+ MiB +\S+ MiB +\S+ MiB +\d+ %`)
	})
	if err := matches(s.run("index", "status", "--json"), `{"account":"bob","state":"built","messages":1,.*"documents":1,"segments":1,`); err != nil {
		t.Error(err)
	}
	out := s.run("index", "rebuild", "bob")
	if err := matches(out, `^1 account\(s\): 1 message\(s\), \S+ MiB, in \S+s`); err != nil {
		t.Error(err)
	}
	if out := s.failing("index", "status", "nobody"); !strings.Contains(out, `there is no account "nobody"`) {
		t.Error(out)
	}
}

func matches(text, pattern string) error {
	if regexp.MustCompile("(?m)" + pattern).MatchString(text) {
		return nil
	}
	return &noMatch{text, pattern}
}

type noMatch struct{ text, pattern string }

func (e *noMatch) Error() string { return "no " + e.pattern + " in:\n" + e.text }
