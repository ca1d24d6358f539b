package imapd

import (
	"context"
	"strings"
	"testing"

	"github.com/hashicorp/go-hclog"

	"github.com/postern-mail/postern/backend/mailstore"
	"github.com/postern-mail/postern/store/storetest"
)

// joiningStore is the fresh second node of a pair: it has no account yet.
func joiningStore(t testing.TB) *mailstore.Store {
	t.Helper()
	kv, blobs := storetest.Open(t)
	st, err := mailstore.Open(context.Background(), mailstore.Config{Node: 1, Pair: true}, kv, blobs, hclog.NewNullLogger())
	if err != nil {
		t.Fatal(err)
	}
	return st
}

// Whose mailboxes are still on their way is told so, as often as they ask, and
// not that the password is wrong.
func TestLoginBeforeTheAccountIsHere(t *testing.T) {
	t.Parallel()
	s := startServerOn(t, testConfig(), joiningStore(t))
	c := s.dial()
	c.line()
	for range 8 { // more than MaxAuthFailures
		if _, tagged := c.cmd("LOGIN alice secret"); tagged != "NO [UNAVAILABLE] Mailboxes are not available here now, try again later" {
			t.Fatal(tagged)
		}
	}
	if _, tagged := c.cmd("LOGIN alice wrong"); !strings.HasPrefix(tagged, "NO [AUTHENTICATIONFAILED]") {
		t.Error(tagged)
	}
	if n := s.Sessions(); n != 1 {
		t.Errorf("%d sessions", n)
	}
}
