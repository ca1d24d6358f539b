package mailstore

import (
	"maps"
	"testing"

	"github.com/emersion/go-imap/v2"

	"github.com/postern-mail/postern/status"
	"github.com/postern-mail/postern/store"
)

// asked counts whom a measure is asked about.
type asked map[imap.UID]int

func (a asked) measure(m *Message) (int64, error) {
	a[m.UID]++
	if m.UID%7 == 0 {
		return 0, ErrNoMessage
	}
	return int64(m.UID % 3), nil
}

func all(v View) (list []*Message) {
	for i := range v.Len() {
		list = append(list, v.At(i))
	}
	return list
}

// TestLineEnds: what was measured is known, also after a restart and an error
// midway; a damaged record is made again; nothing is kept of messages and
// mailboxes that are gone.
func TestLineEnds(t *testing.T) {
	t.Parallel()
	s := openStore(t, Config{})
	a := openAccount(t, s, "kim")
	box := many(t, s, 20)
	look := func(want int) {
		t.Helper()
		who := make(asked)
		gained, err := box.LineEnds(t.Context(), all(box.View()), who.measure)
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range all(box.View()) {
			want := int64(m.UID % 3)
			if m.UID%7 == 0 {
				want = 0
			}
			if gained[m.UID] != want {
				t.Errorf("message %d gains %d, want %d", m.UID, gained[m.UID], want)
			}
		}
		if len(who) != want {
			t.Errorf("asked about %v, want %d", who, want)
		}
	}
	_, err := box.LineEnds(t.Context(), all(box.View()), func(m *Message) (int64, error) {
		if m.UID > 10 {
			return 0, store.ErrFull
		}
		return asked{}.measure(m)
	})
	if status.Of(err) != status.MailSystemFull {
		t.Errorf("an error of the store: %v", err)
	}
	look(11) // 7, which was gone, and 11 to 20
	look(2)
	if _, err := box.Remove(t.Context(), []imap.UID{1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15}); err != nil {
		t.Fatal(err)
	}
	look(0)
	key := messageKey(a.account.id, kindLineEnds, box.Info().GUID, 0)
	b := store.NewBatch()
	b.Put(key, []byte{lineEndsVersion, 0xff})
	if _, err := s.kv.Commit(t.Context(), b); err != nil {
		t.Fatal(err)
	}
	look(5)
	look(0)
	records, err := s.page(t.Context(), accountKey(a.account.id, kindLineEnds), 0)
	if err != nil || len(records) != 1 {
		t.Fatalf("%d records, %v", len(records), err)
	}
	if kept, err := decodeLineEnds(0, records[0].Value); err != nil || len(kept) != 5 {
		t.Errorf("kept of messages that are gone: %v, %v", kept, err)
	}

	if _, err := a.Create(t.Context(), "Gone", ""); err != nil {
		t.Fatal(err)
	}
	other := openMailbox(t, a, "Gone")
	if _, err := box.Move(t.Context(), []imap.UID{16, 17}, other); err != nil {
		t.Fatal(err)
	}
	if _, err := other.LineEnds(t.Context(), all(other.View()), asked{}.measure); err != nil {
		t.Fatal(err)
	}
	gone := accountKey(a.account.id, kindLineEnds)
	if records, err := s.page(t.Context(), gone, 0); err != nil || len(records) != 2 {
		t.Fatalf("%d records, %v", len(records), err)
	}
	if err := a.Delete(t.Context(), "Gone"); err != nil {
		t.Fatal(err)
	}
	if err := s.Sweep(t.Context()); err != nil {
		t.Fatal(err)
	}
	if records, err := s.page(t.Context(), gone, 0); err != nil || len(records) != 1 {
		t.Errorf("%d records behind the sweep, %v", len(records), err)
	}
	if err := s.Check(t.Context()); err != nil {
		t.Error(err)
	}
}

// FuzzLineEnds: records that are read are written the same, and others are
// refused.
func FuzzLineEnds(f *testing.F) {
	f.Add([]byte{1, 0, 0, 1, 200, 3}, uint32(0))
	f.Add([]byte{1, 0xff, 0x1f, 1}, uint32(4096))
	f.Add([]byte{2}, uint32(0))
	f.Add([]byte{1, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1, 0}, uint32(4096))
	f.Fuzz(func(t *testing.T, b []byte, at uint32) {
		start := imap.UID(at - at%lineEndUIDs)
		r, err := decodeLineEnds(start, b)
		if err != nil {
			return
		}
		again, err := decodeLineEnds(start, encodeLineEnds(start, r))
		if err != nil || !maps.Equal(r, again) {
			t.Errorf("%v becomes %v, %v", r, again, err)
		}
	})
}
