package mailstore

import (
	"fmt"
	"reflect"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/emersion/go-imap/v2"

	"github.com/postern-mail/postern/store"
)

// keysOf are keys for sorting of the messages of a View.
func keysOf(v View) (keys []SortKey) {
	for _, m := range all(v) {
		keys = append(keys, SortKey{UID: m.UID, Message: emailStart(m), Key: fmt.Sprint("key ", m.UID)})
	}
	return keys
}

func (m *Mailbox) sortKeysMade(t *testing.T, made string) (keys []SortKey) {
	t.Helper()
	err := m.SortKeys(t.Context(), made, 1, 1<<32-1, func(k SortKey) error { keys = append(keys, k); return nil })
	if err != nil {
		t.Fatal(err)
	}
	return keys
}

func (s *Store) findings(t *testing.T) (found []string) {
	t.Helper()
	if err := s.Verify(t.Context(), func(f Finding) { found = append(found, f.Error()) }, new(atomic.Int64)); err != nil {
		t.Fatal(err)
	}
	return found
}

// TestSortKeys: keys are kept until their messages go, under one way of making
// them; what is damaged is none, is told by a check and taken away by a repair.
func TestSortKeys(t *testing.T) {
	t.Parallel()
	s := openStore(t, Config{})
	a := openAccount(t, s, "kim")
	const n = 3*sortKeyUIDs + 20
	box := many(t, s, n)
	before := keysOf(box.View())
	if err := box.KeepSortKeys(t.Context(), "so", before); err != nil {
		t.Fatal(err)
	}
	if got := box.sortKeysMade(t, "so"); !reflect.DeepEqual(got, before) {
		t.Errorf("got %v, want %v", got, before)
	}
	if got := box.sortKeysMade(t, "otherwise"); len(got) > 0 {
		t.Errorf("keys that were made otherwise: %v", got)
	}
	if found := s.findings(t); len(found) > 0 {
		t.Errorf("findings %q", found)
	}

	// The second and the third stretch go with a message of each.
	if _, err := box.Remove(t.Context(), []imap.UID{sortKeyUIDs + 5, 3*sortKeyUIDs - 1}); err != nil {
		t.Fatal(err)
	}
	if got, want := len(box.sortKeysMade(t, "so")), sortKeyUIDs-1+21; got != want {
		t.Errorf("%d keys are left, want %d", got, want)
	}
	// Keys that were worked out before are not kept of messages that are gone,
	// nor of others under their UIDs.
	before[2].Message++
	if err := box.KeepSortKeys(t.Context(), "so", before); err != nil {
		t.Fatal(err)
	}
	got := box.sortKeysMade(t, "so")
	if len(got) != n-3 {
		t.Errorf("%d keys, want %d", len(got), n-3)
	}
	for _, k := range got {
		if k.UID == before[2].UID || k.UID == sortKeyUIDs+5 || k.UID == 3*sortKeyUIDs-1 {
			t.Errorf("UID %d has a key", k.UID)
		}
	}

	// A damaged record, and one that tells of a message that is gone.
	damaged := sortBlockKey(a.account.id, box.Info().GUID, 1)
	stale := sortBlockKey(a.account.id, box.Info().GUID, 9*sortKeyUIDs)
	record, err := s.page(t.Context(), accountKey(a.account.id, kindSortKeys), 1)
	if err != nil || len(record) != 1 {
		t.Fatal(record, err)
	}
	b := store.NewBatch()
	b.Put(damaged, []byte{sortKeyVersion, 0xff})
	b.Put(stale, record[0].Value)
	if _, err := s.kv.Commit(t.Context(), b); err != nil {
		t.Fatal(err)
	}
	if got, want := len(box.sortKeysMade(t, "so")), n-3-(sortKeyUIDs-2); got != want+sortKeyUIDs-2 {
		t.Errorf("%d keys, want %d and those that are stale", got, want)
	}
	if found := s.findings(t); len(found) != 2 || !strings.Contains(found[0], "keys for sorting") || !strings.Contains(found[1], "which is gone") {
		t.Errorf("findings %q", found)
	}
	repaired := 0
	if err := s.Repair(t.Context(), func(Finding, string) { repaired++ }); err != nil || repaired != 2 {
		t.Errorf("%d repaired, %v", repaired, err)
	}
	if found := s.findings(t); len(found) > 0 {
		t.Errorf("findings after the repair: %q", found)
	}
}

// TestSortKeysGo: expunging messages that are far apart takes what is between,
// and nothing is left of a mailbox that was deleted.
func TestSortKeysGo(t *testing.T) {
	t.Parallel()
	s := openStore(t, Config{})
	a := openAccount(t, s, "kim")
	box := many(t, s, (maxSortKeyDrops+2)*sortKeyUIDs)
	if err := box.KeepSortKeys(t.Context(), "so", keysOf(box.View())); err != nil {
		t.Fatal(err)
	}
	var far []imap.UID
	for i := range imap.UID(maxSortKeyDrops + 1) {
		far = append(far, 1+i*sortKeyUIDs)
	}
	if _, err := box.Remove(t.Context(), far); err != nil {
		t.Fatal(err)
	}
	if got := box.sortKeysMade(t, "so"); len(got) != sortKeyUIDs+1 || got[0].UID != imap.UID(maxSortKeyDrops+1)*sortKeyUIDs {
		t.Errorf("%d keys are left", len(got))
	}
	if _, err := a.Create(t.Context(), "Gone", ""); err != nil {
		t.Fatal(err)
	}
	other := openMailbox(t, a, "Gone")
	if _, err := box.Move(t.Context(), []imap.UID{16, 17}, other); err != nil {
		t.Fatal(err)
	}
	if err := other.KeepSortKeys(t.Context(), "so", keysOf(other.View())); err != nil {
		t.Fatal(err)
	}
	if got := other.sortKeysMade(t, "so"); len(got) != 2 {
		t.Fatalf("%d keys", len(got))
	}
	if err := a.Delete(t.Context(), "Gone"); err != nil {
		t.Fatal(err)
	}
	if err := s.Sweep(t.Context()); err != nil {
		t.Fatal(err)
	}
	if got := other.sortKeysMade(t, "so"); len(got) > 0 {
		t.Errorf("keys of a deleted mailbox: %v", got)
	}
	if err := other.KeepSortKeys(t.Context(), "so", []SortKey{{UID: 1, Key: "x"}}); err != nil {
		t.Fatal(err)
	}
	if got := other.sortKeysMade(t, "so"); len(got) > 0 {
		t.Errorf("keys were kept of a deleted mailbox: %v", got)
	}
}

// FuzzSortKeys: whatever is read has UIDs of its stretch, in order.
func FuzzSortKeys(f *testing.F) {
	v := &view{}
	for uid := range imap.UID(4) {
		v.list.append(&Message{UID: 2*sortKeyUIDs + 3*uid, Instance: &Instance{}})
	}
	f.Add(v.encodeSortKeys("so", []SortKey{{UID: 2 * sortKeyUIDs, Key: "a"}, {UID: 2*sortKeyUIDs + 6, Key: ""}}))
	f.Add([]byte{sortKeyVersion, 0, 0xff})
	f.Fuzz(func(t *testing.T, b []byte) {
		keys, _, err := decodeSortKeys(2*sortKeyUIDs, b)
		for i, k := range keys {
			if err == nil && (SortKeyBlock(k.UID) != 2 || i > 0 && k.UID <= keys[i-1].UID) {
				t.Errorf("keys %v", keys)
			}
		}
	})
}
