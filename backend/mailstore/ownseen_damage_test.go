package mailstore

import (
	"slices"
	"strings"
	"testing"

	"github.com/postern-mail/postern/backend/mailstore/seenset"
	"github.com/postern-mail/postern/store"
)

func put(t testing.TB, s *Store, key, value []byte) {
	t.Helper()
	b := store.NewBatch()
	b.Put(key, value)
	if _, err := s.kv.Commit(t.Context(), b); err != nil {
		t.Fatal(err)
	}
}

// TestDamagedMarks: a damaged block is unread, not more; the reader can mark its
// messages again. A check tells of it, a repair takes it away.
func TestDamagedMarks(t *testing.T) {
	t.Parallel()
	good := entry{value: []byte("\x01\xff\xff")}
	for what, damage := range map[string]struct {
		at    bool
		value []byte
		want  []uint32
	}{
		"the entry":      {false, []byte{recordVersion}, nil},
		"its marks":      {false, good.encode(), nil},
		"their MODSEQs":  {true, []byte("\x01\xff"), []uint32{2}},
		"no octets":      {false, nil, nil},
		"another format": {true, []byte("hello"), []uint32{2}},
	} {
		t.Run(what, func(t *testing.T) {
			t.Parallel()
			s := openStore(t, Config{})
			a := openAccount(t, s, "public")
			for range 3 {
				addTo(t, s, a, "INBOX", "hello", 0)
			}
			m := openFor(t, a, "INBOX", "bob", false)
			storeSeen(t, m, FlagsAdd, 2)
			before := m.View().HighestModSeq()
			guid := m.Info().GUID
			m.Close()
			name := seenName(guid, accountGUID("bob"), 0)
			key := entryKey(a.account.id, name)
			if damage.at {
				key = seenAtKey(a.account.id, name)
			}
			put(t, s, key, damage.value)
			if found := s.findings(t); len(found) != 1 || !strings.Contains(found[0], "marks") {
				t.Errorf("findings %q", found)
			}
			m = openFor(t, a, "INBOX", "bob", false)
			m.Close()
			// Read it again as after a restart.
			m.box.mu.Lock()
			m.box.readers = nil
			m.box.mu.Unlock()
			if st, err := a.StatusFor(t.Context(), "INBOX", &Reader{Account: "bob"}); err != nil || int(st.Unseen) != 3-len(damage.want) {
				t.Errorf("STATUS: %d unseen, %v", st.Unseen, err)
			}
			m = openFor(t, a, "INBOX", "bob", false)
			if got := seenIn(m.View()); len(got) != len(damage.want) || m.View().HighestModSeq() < before {
				t.Errorf("seen %v, MODSEQ %d after %d", got, m.View().HighestModSeq(), before)
			}
			err := a.account.changeAlone(t.Context(), func(txn *txn) error {
				_, err := txn.sumRegisters()
				return err
			})
			if err != nil {
				t.Errorf("digest: %v", err)
			}
			storeSeen(t, m, FlagsAdd, 1, 2)
			expectSeen(t, "marked again", m, 1, 2)
			m.Close()
			put(t, s, key, damage.value)
			repaired := 0
			if err := s.Repair(t.Context(), func(Finding, string) { repaired++ }); err != nil || repaired != 1 {
				t.Errorf("%d repaired, %v", repaired, err)
			}
			if found := s.findings(t); len(found) > 0 {
				t.Errorf("findings after the repair: %q", found)
			}
		})
	}
}

// TestNewerMarks: what a newer program wrote is neither damage nor overwritten.
func TestNewerMarks(t *testing.T) {
	t.Parallel()
	s := openStore(t, Config{})
	a := openAccount(t, s, "public")
	addTo(t, s, a, "INBOX", "hello", 0)
	m := openFor(t, a, "INBOX", "bob", false)
	storeSeen(t, m, FlagsAdd, 1)
	name := seenName(m.Info().GUID, accountGUID("bob"), 0)
	m.Close()
	m.box.mu.Lock()
	m.box.readers = nil
	m.box.mu.Unlock()
	newerOne := entry{value: []byte{seenset.Version + 1, 7}}
	var kept []byte
	err := s.kv.View(t.Context(), func(snap store.Snapshot) (err error) {
		kept, err = snap.Get(entryKey(a.account.id, name))
		kept = slices.Clone(kept)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	put(t, s, entryKey(a.account.id, name), newerOne.encode())
	defer func() { put(t, s, entryKey(a.account.id, name), kept) }()
	if m, err := a.MailboxFor(t.Context(), "INBOX", &Reader{Account: "bob"}); err == nil {
		m.Close()
		t.Error("opened")
	}
	if err := s.Repair(t.Context(), func(f Finding, _ string) { t.Errorf("repaired: %v", f) }); err != nil {
		t.Error(err)
	}
}

// TestDamagedVirtualIsTold: a check tells of what is damaged of a virtual
// mailbox, and a repair removes it.
func TestDamagedVirtualIsTold(t *testing.T) {
	t.Parallel()
	s := openStore(t, Config{})
	a := openAccount(t, s, "kim")
	for range 3 {
		addTo(t, s, a, "INBOX", "one", 0)
	}
	v := openVirtual(t, a, allMail)
	members := append(v.box.key(virtualMembers), 0, 0, 0, 0)
	twice := appendMembers(nil, []virtualMember{v.box.index.members[0], v.box.index.members[0]})
	twice[len(twice)-4] = 1 // another UID of the same message
	if found := s.findings(t); len(found) > 0 {
		t.Fatalf("findings %q", found)
	}
	for what, damage := range map[string]struct{ key, value []byte }{
		"header":    {v.box.key(virtualHeader), []byte("\xff")},
		"members":   {members, []byte("\x01\xff\xff")},
		"twice":     {members, twice},
		"log":       {numberKey(v.box.key(virtualLog), 7), []byte("\xff")},
		"no part":   {v.box.key('?'), nil},
		"no header": {numberKey(mailboxKey(a.account.id, kindVirtual, GUID{9, 9, 9}), 1), nil},
	} {
		put(t, s, damage.key, damage.value)
		if found := s.findings(t); len(found) != 1 || !strings.Contains(found[0], "virtual mailbox") {
			t.Errorf("%s: findings %q", what, found)
		}
		repaired := 0
		if err := s.Repair(t.Context(), func(Finding, string) { repaired++ }); err != nil || repaired != 1 {
			t.Errorf("%s: %d repaired, %v", what, repaired, err)
		}
		if found := s.findings(t); len(found) > 0 {
			t.Errorf("%s: findings after the repair: %q", what, found)
		}
		again := openVirtual(t, openAccount(t, openOn(t, Config{}, s.kv, s.blobs), "kim"), allMail)
		expectShown(t, what, again, "1 one", "2 one", "3 one")
		again.Close()
	}
}
