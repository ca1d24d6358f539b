package mailstore

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/emersion/go-imap/v2"

	"github.com/postern-mail/postern/store"
	"github.com/postern-mail/postern/store/storetest"
)

// writes counts what is written.
type writes struct {
	store.Store
	ops, batches atomic.Int64
}

func (c *writes) Commit(ctx context.Context, b *store.Batch) (store.Result, error) {
	c.ops.Add(int64(len(b.Ops)))
	c.batches.Add(1)
	return c.Store.Commit(ctx, b)
}

// many gives INBOX of kim n small messages.
func many(t testing.TB, s *Store, n int) *Mailbox {
	t.Helper()
	box := openMailbox(t, openAccount(t, s, "kim"), "INBOX")
	for at := 0; at < n; at += 100 {
		appendMessages(t, s, box, min(100, n-at))
	}
	return box
}

// flagsIn tells the flags of all messages, with their MODSEQs.
func flagsIn(m *Mailbox) []string {
	v := m.View()
	var all []string
	for i := range v.Len() {
		n := v.At(i)
		all = append(all, fmt.Sprintf("%d %d %d %v", n.UID, n.Flags, n.ModSeq, n.Keywords))
	}
	return all
}

func setFlags(t testing.TB, m *Mailbox, uids []imap.UID, op FlagsOp, flags Flags, keywords ...string) {
	t.Helper()
	if _, err := m.StoreFlags(t.Context(), uids, FlagsChange{Op: op, Flags: flags, Keywords: keywords}); err != nil {
		t.Fatal(err)
	}
}

// A change of all messages writes little, and is all there after a restart, with
// what was changed for single ones before and after it.
func TestFlagsOfManyMessages(t *testing.T) {
	t.Parallel()
	kv, blobs := storetest.Open(t)
	counted := &writes{Store: kv}
	s := openOn(t, Config{}, counted, blobs)
	const n = 1500
	box := many(t, s, n)
	uids := uidsOf(box.View())
	setFlags(t, box, uids[10:11], FlagsAdd, FlagFlagged, "before")
	ops, batches := counted.ops.Load(), counted.batches.Load()
	setFlags(t, box, uids, FlagsAdd, FlagSeen, "all")
	if got := counted.ops.Load() - ops; got > 30 {
		t.Errorf("%d messages took %d operations", n, got)
	}
	if got := counted.batches.Load() - batches; got != 1 {
		t.Errorf("%d messages took %d commits", n, got)
	}
	setFlags(t, box, uids[20:21], FlagsRemove, FlagSeen)
	setFlags(t, box, uids[30:31], FlagsAdd, FlagDeleted, "after")
	want := flagsIn(box)
	if v := box.View(); v.Unseen() != 1 || !slices.Equal(v.Keywords(), []string{"after", "all", "before"}) {
		t.Errorf("%d unseen, keywords %v", v.Unseen(), v.Keywords())
	}
	again := openOn(t, Config{}, kv, blobs)
	other := openMailbox(t, openAccount(t, again, "kim"), "INBOX")
	if got := flagsIn(other); !slices.Equal(got, want) {
		t.Errorf("after a restart %d messages differ", differing(got, want))
	}
	if err := again.Check(t.Context()); err != nil {
		t.Error(err)
	}
}

func differing(a, b []string) (n int) {
	for i := range min(len(a), len(b)) {
		if a[i] != b[i] {
			n++
		}
	}
	return n + max(len(a), len(b)) - min(len(a), len(b))
}

// Flags that are not alike do not fit a block: they are written all the same.
func TestFlagsWithoutOrder(t *testing.T) {
	t.Parallel()
	kv, blobs := storetest.Open(t)
	s := openOn(t, Config{}, kv, blobs)
	box := many(t, s, 1200)
	uids := uidsOf(box.View())
	for i, k := range []string{"a", "b", "c", "d", "e", "f", "g"} {
		var some []imap.UID
		for _, u := range uids {
			if int(u)>>i&1 == 1 {
				some = append(some, u)
			}
		}
		setFlags(t, box, some, FlagsAdd, 0, strings.Repeat(k, 100))
	}
	setFlags(t, box, uids, FlagsAdd, FlagSeen)
	want := flagsIn(box)
	again := openOn(t, Config{}, kv, blobs)
	if got := flagsIn(openMailbox(t, openAccount(t, again, "kim"), "INBOX")); !slices.Equal(got, want) {
		t.Errorf("after a restart %d messages differ", differing(got, want))
	}
	if err := again.Check(t.Context()); err != nil {
		t.Error(err)
	}
}

// Changes of many and of single messages that one commit takes together: what
// came last holds after a restart, too.
func TestFlagsOfManyAtTheSameTime(t *testing.T) {
	t.Parallel()
	kv, blobs := storetest.Open(t)
	s := openOn(t, Config{flagBlockWorth: 3}, kv, blobs)
	box := many(t, s, 300)
	uids := uidsOf(box.View())
	var wg sync.WaitGroup
	for k := range 8 {
		wg.Go(func() {
			for i := range 12 {
				set := uids[(k*31+i*7)%250:][:1+(i%3)*20]
				if _, err := box.StoreFlags(t.Context(), set, FlagsChange{Op: FlagsOp(i % 3), Flags: Flags(1 << (k % 5)), Keywords: []string{fmt.Sprint("k", k)}}); err != nil {
					t.Error(err)
				}
				if i%4 == 3 {
					appendMessages(t, s, box, 1)
				}
			}
		})
	}
	wg.Wait()
	want := flagsIn(box)
	again := openOn(t, Config{}, kv, blobs)
	if got := flagsIn(openMailbox(t, openAccount(t, again, "kim"), "INBOX")); !slices.Equal(got, want) {
		t.Errorf("after a restart %d messages differ", differing(got, want))
	}
	if err := again.Check(t.Context()); err != nil {
		t.Error(err)
	}
}

func blocksOf(t testing.TB, s *Store, mailbox GUID) (keys [][]byte) {
	t.Helper()
	prefix := mailboxKey(accountGUID("kim"), kindFlagBlock, mailbox)
	err := s.kv.View(t.Context(), func(snap store.Snapshot) error {
		for pair, err := range snap.Range(prefix, above(prefix), 0, false) {
			if err != nil {
				return err
			}
			keys = append(keys, slices.Clone(pair.Key))
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return keys
}

// A block goes with the last of its messages, and with its mailbox.
func TestFlagBlocksEnd(t *testing.T) {
	t.Parallel()
	s := openStore(t, Config{flagBlockWorth: 2})
	a := openAccount(t, s, "kim")
	box := many(t, s, 10)
	id := box.Info().GUID
	setFlags(t, box, uidsOf(box.View()), FlagsAdd, FlagDeleted)
	if got := len(blocksOf(t, s, id)); got != 1 {
		t.Fatalf("%d blocks", got)
	}
	if _, err := box.Expunge(t.Context(), nil); err != nil {
		t.Fatal(err)
	}
	if got := len(blocksOf(t, s, id)); got != 0 {
		t.Errorf("%d blocks of no messages", got)
	}
	if _, err := a.Create(t.Context(), "Gone", ""); err != nil {
		t.Fatal(err)
	}
	gone := openMailbox(t, a, "Gone")
	appendMessages(t, s, gone, 5)
	setFlags(t, gone, uidsOf(gone.View()), FlagsAdd, FlagSeen)
	id = gone.Info().GUID
	if err := a.Delete(t.Context(), "Gone"); err != nil {
		t.Fatal(err)
	}
	if err := s.Sweep(t.Context()); err != nil {
		t.Fatal(err)
	}
	if got := len(blocksOf(t, s, id)); got != 0 {
		t.Errorf("%d blocks of a deleted mailbox", got)
	}
	if err := s.Check(t.Context()); err != nil {
		t.Error(err)
	}
}

// A block that cannot be read is found, and a repair goes back to what the
// records say rather than to no mailbox at all.
func TestDamagedFlagBlock(t *testing.T) {
	t.Parallel()
	kv, blobs := storetest.Open(t)
	s := openOn(t, Config{flagBlockWorth: 2}, kv, blobs)
	box := many(t, s, 5)
	setFlags(t, box, uidsOf(box.View()), FlagsAdd, FlagSeen)
	b := store.NewBatch()
	b.Put(blocksOf(t, s, box.Info().GUID)[0], []byte{flagBlockVersion, 200, 1})
	if _, err := kv.Commit(t.Context(), b); err != nil {
		t.Fatal(err)
	}
	again := openOn(t, Config{}, kv, blobs)
	if found := verified(t, again); len(found) == 0 || !strings.Contains(found[0], "flags of the messages from UID 0 on") {
		t.Errorf("found %q", found)
	}
	var done []string
	if err := again.Repair(t.Context(), func(f Finding, how string) { done = append(done, f.Error()+": "+how) }); err != nil {
		t.Fatal(err)
	}
	if len(done) == 0 || !strings.Contains(done[0], "flags of an earlier time") {
		t.Errorf("repaired %q", done)
	}
	if found := verified(t, again); len(found) > 0 {
		t.Errorf("left %q", found)
	}
	if v := openMailbox(t, openAccount(t, again, "kim"), "INBOX").View(); v.Len() != 5 || v.Unseen() != 5 {
		t.Errorf("%d messages, %d unseen", v.Len(), v.Unseen())
	}
}

// What programs that know no blocks may read has none.
func TestMailboxVersionTellsOfBlocks(t *testing.T) {
	t.Parallel()
	r := mailboxRecord{name: "x"}
	if got := r.encode()[0]; got != 2 {
		t.Errorf("version %d without blocks", got)
	}
	r.blocks = true
	got, err := decodeMailbox(r.encode())
	if r.encode()[0] != 3 || err != nil || !got.blocks {
		t.Errorf("version %d, %+v, %v", r.encode()[0], got, err)
	}
}
