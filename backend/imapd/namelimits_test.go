package imapd

import (
	"context"
	"strings"
	"testing"

	"github.com/hashicorp/go-hclog"

	"github.com/postern-mail/postern/backend/mailstore"
	"github.com/postern-mail/postern/store/storetest"
)

// A name that is refused is told why: with LIMIT where a shorter one would do,
// with CANNOT where none would.
func TestRefusedNames(t *testing.T) {
	t.Parallel()
	kv, blobs := storetest.Open(t)
	limits := mailstore.Config{
		Mailboxes: []mailstore.ConfiguredMailbox{}, MaxMailboxes: 4, MaxSubscriptions: 1, MaxNameOctets: 20, MaxLevelOctets: 9, MaxDepth: 2, RefusedCharacters: "~",
	}
	st, err := mailstore.Open(context.Background(), limits, kv, blobs, hclog.NewNullLogger())
	if err != nil {
		t.Fatal(err)
	}
	c := startServerOn(t, testConfig(), st).login("alice")
	c.fails("CREATE a/b/c", "NO [LIMIT] Mailbox name has more than 2 levels")
	c.fails("CREATE tenoctets/a", "OK")
	c.fails("CREATE tenoctets10", "NO [LIMIT] Mailbox name has a level that is longer than 9 octets")
	c.fails("CREATE "+strings.Repeat("x", 21), "NO [LIMIT] Mailbox name is longer than 20 octets")
	c.fails("CREATE "+strings.Repeat("x", 2000), "NO [LIMIT] Mailbox name is too long")
	c.fails("CREATE home~", "NO [CANNOT] Mailbox name has the character U+007E, which is not allowed")
	c.fails(`CREATE "a*"`, "NO [CANNOT] Mailbox name has the character U+002A, which is not allowed")
	c.fails("RENAME tenoctets/a b~", "NO [CANNOT]")
	c.ok("CREATE b")
	c.ok("CREATE c")
	c.fails("CREATE d", "NO [LIMIT] The account has as many mailboxes as it may have")
	c.ok("SUBSCRIBE nowhere")
	c.fails("SUBSCRIBE elsewhere", "NO [LIMIT] The account has as many subscriptions as it may have")
}
