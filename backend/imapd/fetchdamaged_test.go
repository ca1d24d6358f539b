package imapd

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"strings"
	"testing"

	"github.com/hashicorp/go-hclog"

	"github.com/postern-mail/postern/backend/mailstore"
	"github.com/postern-mail/postern/store"
	"github.com/postern-mail/postern/store/storetest"
)

// TestDamagedRecord: one message whose structure is damaged keeps nobody from
// those beside it. FETCH answers the others and says NO, SORT has it as if it had
// no header, and its body is read where that is all of the message.
func TestDamagedRecord(t *testing.T) {
	t.Parallel()
	kv, blobs := storetest.Open(t)
	st, err := mailstore.Open(t.Context(), mailstore.Config{}, kv, blobs, hclog.NewNullLogger())
	if err != nil {
		t.Fatal(err)
	}
	c := startServerOn(t, testConfig(), st).login("alice")
	const n, damaged = 30, 11
	for i := range n {
		sortable{subject: fmt.Sprintf("s%02d", n-i)}.add(c)
	}
	b := store.NewBatch()
	err = kv.View(t.Context(), func(snap store.Snapshot) error {
		for pair, err := range snap.Range(nil, bytes.Repeat([]byte{0xff}, 4), 0, false) {
			if err != nil {
				return err
			}
			// Account, kind, mailbox, UID.
			if k := pair.Key; len(k) == 18+1+16+4 && k[18] == 't' && binary.BigEndian.Uint32(k[35:]) == damaged {
				b.Put(bytes.Clone(k), []byte{1, 0xff})
			}
		}
		return nil
	})
	if err == nil {
		_, err = kv.Commit(context.Background(), b)
	}
	if err != nil || len(b.Ops) != 1 {
		t.Fatal(len(b.Ops), err)
	}
	c.ok("SELECT INBOX")
	for _, command := range []string{"FETCH 1:* (ENVELOPE)", "FETCH 9,11,13:* (ENVELOPE)", "FETCH 1:* (BODY.PEEK[HEADER])"} {
		got, tagged := c.cmd(command)
		want := n - 1
		if strings.Contains(command, "9,") {
			want = n - 11
		}
		if !strings.HasPrefix(tagged, "NO ") || strings.HasPrefix(tagged, "NO [EXPUNGEISSUED]") || len(got) != want || strings.Contains(strings.Join(got, "\n"), "* 11 FETCH") {
			t.Errorf("%s: %d answers, %s", command, len(got), tagged)
		}
	}
	if got := c.ok("FETCH 1:* (BODY.PEEK[])"); len(got) != n {
		t.Errorf("%d bodies", len(got))
	}
	want := "* SORT 11"
	for i := n; i > 0; i-- {
		if i != damaged {
			want += fmt.Sprint(" ", i)
		}
	}
	expect(t, "SORT", c.ok("SORT (SUBJECT) UTF-8 ALL"), want)
	c.fails("SEARCH SUBJECT s", "NO")
}
