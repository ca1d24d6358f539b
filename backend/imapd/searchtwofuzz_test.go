package imapd

import (
	"context"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/postern-mail/postern/backend/mailstore"
)

// FuzzSearchOfMailbox runs programs over the same messages in a store with a
// search index and in one without: the answers are the same, and SORT orders
// what SEARCH finds, alike in both.
func FuzzSearchOfMailbox(f *testing.F) {
	for _, seed := range []string{
		"ALL", `TEXT inv`, `BODY "report"`, `OR SUBJECT zebra NOT BODY "x"`, `CHARSET UTF-8 TEXT "café"`, `CHARSET UTF-8 SUBJECT "文字"`,
		`HEADER Content-Type plain`, `FROM a@ NOT (SEEN TEXT "ab")`, `FUZZY BODY 12345`, `RETURN (MIN MAX COUNT) TEXT office`,
		`RETURN (PARTIAL 1:3) NOT TEXT "o"`, `RETURN (SAVE) BODY zebra`, `$ TEXT "report"`, `SENTBEFORE 1-Jan-2020`, `LARGER 200 TEXT ""`,
		`HEADER Subject ""`, `OR (1:5 TEXT "a") (UID 7:* BODY "b")`, `TEXT "http://example.net/a?b=c"`, `CHARSET iso-8859-1 TEXT "e"`,
	} {
		f.Add(seed)
	}
	with, without := startIndexed(f, mailstore.SearchIndex{MaxOctets: 400}), startServer(f, testConfig())
	clients := []*client{with.login("alice"), without.login("alice")}
	r := rand.New(rand.NewPCG(1, 2))
	for i := range 24 {
		m := randomMessage(r)
		for _, c := range clients {
			c.append("INBOX", []string{"", `\Seen`, "$x"}[i%3], m)
		}
		if i == 18 { // the last ones are not in the index
			if err := with.store.RebuildIndex(context.Background(), "alice", nil); err != nil {
				f.Fatal(err)
			}
		}
	}
	for _, c := range clients {
		c.ok("SELECT INBOX")
	}
	both := func(t *testing.T, command string) (untagged []string, tagged string) {
		var answers [2][]string
		for i, c := range clients {
			c.t = t
			untagged, tagged = c.cmd(command)
			answers[i] = append(slices.Clone(untagged), tagged)
		}
		if !slices.Equal(answers[0], answers[1]) {
			t.Fatalf("%q:\n with %q\nwithout %q", command, answers[0], answers[1])
		}
		return untagged, tagged
	}
	f.Fuzz(func(t *testing.T, program string) {
		if strings.ContainsAny(program, "\r\n\x00") || outsideOfMessages(program) {
			return
		}
		p := &parser{b: []byte(" " + program)}
		a, err := parseSearch(true)(p)
		if err != nil || p.i < len(p.b) { // many in a row end a session
			return
		}
		found, tagged := both(t, "UID SEARCH "+program)
		if a.returns.given || a.charset.given || !strings.HasPrefix(tagged, "OK") {
			return
		}
		ordered, tagged := both(t, "UID SORT (REVERSE SIZE SUBJECT FROM) UTF-8 "+program)
		if len(found) != 1 || len(ordered) != 1 {
			t.Fatalf("%q: %q, sorted %q %s", program, found, ordered, tagged)
		}
		if !slices.Equal(sortedWords(strings.TrimPrefix(found[0], "* SEARCH")), sortedWords(strings.TrimPrefix(ordered[0], "* SORT"))) {
			t.Fatalf("%q finds %q, sorted %q", program, found, ordered)
		}
	})
}

// outsideOfMessages reports whether a program asks for what two stores may
// answer differently: instants, mod-sequences, searches that go on.
func outsideOfMessages(program string) bool {
	upper := strings.ToUpper(program)
	return slices.ContainsFunc([]string{"OLDER", "YOUNGER", "SAVED", "MODSEQ", "UPDATE", "CONTEXT"}, func(word string) bool { return strings.Contains(upper, word) })
}
