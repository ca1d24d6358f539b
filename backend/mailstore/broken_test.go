package mailstore

import (
	"context"
	"errors"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/emersion/go-imap/v2"

	"github.com/postern-mail/postern/status"
	"github.com/postern-mail/postern/store"
	"github.com/postern-mail/postern/store/storetest"
)

// TestNothingOutOfADeletedMailbox: a session that still has a deleted mailbox
// open takes nothing out of it. Its messages' bodies are about to go, and its
// octets were given back already.
func TestNothingOutOfADeletedMailbox(t *testing.T) {
	t.Parallel()
	for name, take := range map[string]func(m, to *Mailbox, uids []imap.UID) error{
		"copy": func(m, to *Mailbox, uids []imap.UID) error {
			_, err := m.Copy(t.Context(), uids, to)
			return err
		},
		"move": func(m, to *Mailbox, uids []imap.UID) error {
			_, err := m.Move(t.Context(), uids, to)
			return err
		},
		"expunge": func(m, _ *Mailbox, uids []imap.UID) error {
			_, err := m.Expunge(t.Context(), uids)
			return err
		},
		"flags": func(m, _ *Mailbox, uids []imap.UID) error {
			_, err := m.StoreFlags(t.Context(), uids, FlagsChange{Op: FlagsAdd, Flags: FlagSeen})
			return err
		},
	} {
		for _, elsewhere := range []bool{false, true} {
			s := openStore(t, Config{})
			a := openAccount(t, s, "kim")
			dest := openMailbox(t, a, "INBOX")
			if elsewhere {
				dest = openMailbox(t, openAccount(t, s, "lee"), "INBOX")
			}
			source := openMailbox(t, a, "Trash")
			uids := appendMessages(t, s, source, 3)
			if err := a.Delete(t.Context(), "Trash"); err != nil {
				t.Fatal(err)
			}
			if err := take(source, dest, uids); !errors.Is(err, ErrNoMailbox) {
				t.Errorf("%s: %v, want ErrNoMailbox", name, err)
			}
			if err := s.Sweep(t.Context()); err != nil {
				t.Fatal(err)
			}
			if n := dest.View().Len(); n != 0 {
				t.Errorf("%s: %d messages came out of a deleted mailbox", name, n)
			}
			if used, _ := a.Quota(); used != 0 {
				t.Errorf("%s: the empty account uses %d octets", name, used)
			}
		}
	}
}

// TestPanicInAChange: a fault in one change costs those who share its commit
// an error, and nobody else anything.
func TestPanicInAChange(t *testing.T) {
	t.Parallel()
	s := openStore(t, Config{})
	a := openAccount(t, s, "kim")
	m := openMailbox(t, a, "INBOX")
	content := stage(t, s, message(0))
	defer content.Discard()

	var wait sync.WaitGroup
	for i := range 8 {
		wait.Go(func() {
			ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
			defer cancel()
			if i == 3 {
				err := a.account.change(ctx, func(t *txn) error {
					t.draft(m.box).uidNext = 77 // must not be seen
					panic("broken invariant")
				})
				if status.Of(err) != status.StoreDown {
					t.Errorf("the panic came back as %v", err)
				}
				return
			}
			if _, err := m.Append(ctx, []Append{{Content: content}}); err != nil && status.Of(err) != status.StoreDown {
				t.Errorf("beside the panic: %v", err)
			}
		})
	}
	wait.Wait()
	uids, err := m.Append(t.Context(), []Append{{Content: content}})
	if err != nil || len(uids) != 1 || uids[0] >= 77 {
		t.Errorf("after the panic: %v, %v", uids, err)
	}
}

// TestSweepPassesADamagedAccount: what is damaged in one account does not keep
// the others from being swept, and is told.
func TestSweepPassesADamagedAccount(t *testing.T) {
	t.Parallel()
	kv, blobs := storetest.Open(t)
	s := openOn(t, Config{}, kv, blobs)
	for _, name := range []string{"a", "b", "c", "d", "e"} {
		a := openAccount(t, s, name)
		appendMessages(t, s, openMailbox(t, a, "Trash"), 1)
		if err := a.Delete(t.Context(), "Trash"); err != nil {
			t.Fatal(err)
		}
	}
	delivery := append(accountKey(accountGUID("c"), kindDelivery), "damaged"...)
	info := accountKey(accountGUID("d"), kindInfo)
	write := func(fill func(b *store.Batch)) {
		t.Helper()
		b := store.NewBatch()
		fill(b)
		if _, err := kv.Commit(t.Context(), b); err != nil {
			t.Fatal(err)
		}
	}
	write(func(b *store.Batch) {
		b.Put(delivery, []byte("damaged"))
		b.Put(info, []byte("damaged"))
	})
	err := s.Sweep(t.Context())
	write(func(b *store.Batch) { // for the check at the end
		b.Delete(delivery)
		b.Put(info, appendBlock([]byte{recordVersion}, "d"))
	})
	if err == nil || !strings.Contains(err.Error(), accountGUID("c").String()) || !strings.Contains(err.Error(), accountGUID("d").String()) {
		t.Errorf("sweep: %v", err)
	}
	for _, name := range []string{"a", "b", "c", "d", "e"} {
		left, err := s.page(t.Context(), accountKey(accountGUID(name), kindGarbage), 0)
		if err != nil {
			t.Fatal(err)
		}
		if len(left) > 0 {
			t.Errorf("account %s is not swept", name)
		}
	}
}

// TestSweepOfManyExpunges: more young records than one read takes do not hide
// old ones behind them.
func TestSweepOfManyExpunges(t *testing.T) {
	t.Parallel()
	s := openStore(t, Config{})
	id := accountGUID("kim")
	openAccount(t, s, "kim")
	first, last := GUID{1}, GUID{2}
	now := time.Now()
	young := encodeExpunged(now, []imap.UID{1}, nil)
	for modseq := uint64(1); modseq <= 51*sweepPage; {
		b := store.NewBatch()
		for range 900 {
			b.Put(numberKey(mailboxKey(id, kindExpunged, first), modseq), young)
			modseq++
		}
		if _, err := s.kv.Commit(t.Context(), b); err != nil {
			t.Fatal(err)
		}
	}
	b := store.NewBatch()
	old := numberKey(mailboxKey(id, kindExpunged, last), 7)
	b.Put(old, encodeExpunged(now.Add(-s.cfg.ExpungeRetention-time.Hour), []imap.UID{1}, nil))
	if _, err := s.kv.Commit(t.Context(), b); err != nil {
		t.Fatal(err)
	}
	floors, err := s.oldExpunges(t.Context(), accountKey(id, kindExpunged), now.Add(-s.cfg.ExpungeRetention))
	if err != nil || len(floors) != 1 || floors[last] != 7 {
		t.Errorf("old expunges: %v, %v", floors, err)
	}
}
