package imapd

import (
	"fmt"
	"strings"
	"testing"

	"github.com/postern-mail/postern/backend/mailstore"
	"github.com/postern-mail/postern/mail"
)

// TestFetchDelivered fetches bodies of delivered messages, each with a trace
// header of its own, among such as were appended and have none, and one that is
// gone.
func TestFetchDelivered(t *testing.T) {
	t.Parallel()
	s := startServer(t, testConfig())
	c := s.login("alice")
	account, err := s.store.Account(t.Context(), mail.Account{Name: "alice"})
	if err != nil {
		t.Fatal(err)
	}
	defer account.Close()
	const n = 9
	want := make([]string, n)
	for i := range n {
		want[i] = message(fmt.Sprintf("m%d", i), strings.Repeat("text ", i))
		if i%3 == 0 {
			c.append("INBOX", "", want[i])
			continue
		}
		content, err := s.store.Stage(t.Context(), strings.NewReader(want[i]))
		if err != nil {
			t.Fatal(err)
		}
		trace := fmt.Sprintf("Return-Path: <p%d@example.com>\r\n", i)
		want[i] = trace + want[i]
		for _, err := range account.Deliver(t.Context(), []mailstore.Delivery{{ID: fmt.Sprint(i), Content: content, Trace: []byte(trace)}}) {
			if err != nil {
				t.Fatal(err)
			}
		}
		content.Discard()
	}
	c.ok("SELECT INBOX")
	b := s.login("alice")
	b.ok("SELECT INBOX")
	b.ok(`STORE 5 +FLAGS.SILENT (\Deleted)`)
	b.ok("EXPUNGE")
	got, tagged := c.cmd("FETCH 1:* (BODY.PEEK[] RFC822.SIZE)")
	if !strings.HasPrefix(tagged, "NO [EXPUNGEISSUED]") {
		t.Errorf("%s", tagged)
	}
	all := strings.Join(got, "\n")
	for i := range n {
		line := fmt.Sprintf("* %d FETCH (BODY[] {%d}\r\n%s RFC822.SIZE %d)", i+1, len(want[i]), want[i], len(want[i]))
		if strings.Contains(all, line) != (i != 4) {
			t.Errorf("message %d: %q is in %q: %v", i+1, line, all, i == 4)
		}
	}
	expect(t, "who is gone", c.ok("NOOP"), "* 5 EXPUNGE")
	expect(t, "a part", c.ok("UID FETCH 2 BODY.PEEK[]<2.9>"), "* 2 FETCH (UID 2 BODY[]<2> {9}\r\nturn-Path)")
}
