package mailstore

import (
	"strings"
	"sync/atomic"
	"testing"

	"github.com/emersion/go-imap/v2"
	"github.com/hashicorp/go-hclog"

	"github.com/postern-mail/postern/store"
	"github.com/postern-mail/postern/store/storetest"
)

// damage is one thing that is broken, and what is found of it.
type damage struct {
	do   func(b *store.Batch, r *record)
	want []string
}

func damages() map[string]damage {
	kim := accountGUID("kim")
	return map[string]damage{
		"nothing": {func(*store.Batch, *record) {}, nil},
		"a message": {func(b *store.Batch, r *record) { b.Put(r.key(kindMessage), []byte("\x01bad")) },
			[]string{`account "kim", mailbox "INBOX", UID 2: message: malformed`, `account "kim", mailbox "INBOX": counts 3 messages`}},
		"a message gone": {func(b *store.Batch, r *record) { b.Delete(r.key(kindMessage)) },
			[]string{`mailbox "INBOX": counts 3 messages`, `mailbox "INBOX", UID 2: structure without a message`}},
		"a structure":      {func(b *store.Batch, r *record) { b.Put(r.key(kindMeta), []byte("\x01")) }, []string{`UID 2: structure: `}},
		"a structure gone": {func(b *store.Batch, r *record) { b.Delete(r.key(kindMeta)) }, []string{`UID 2: no structure: `}},
		"a body": {func(b *store.Batch, r *record) { r.s.blobs.Unlink(b, r.m.Body) },
			[]string{`account "kim", mailbox "INBOX", UID 2: body: `}},
		"the quota": {func(b *store.Batch, r *record) {
			r.head.octets++
			b.Put(accountKey(kim, kindHead), r.head.encode())
		}, []string{`account "kim": mailboxes have`}},
		"a UID too high": {func(b *store.Batch, r *record) {
			r.box.uidNext = 2
			b.Put(mailboxKey(kim, kindMailbox, r.mailbox), r.box.encode())
		}, []string{`UID 2: UID, MODSEQ`, `UID 3: UID, MODSEQ`}},
		"a count": {func(b *store.Batch, r *record) {
			r.box.unseen++
			b.Put(mailboxKey(kim, kindMailbox, r.mailbox), r.box.encode())
		}, []string{`mailbox "INBOX": counts 3 messages, 4 unseen`}},
		"the journal": {func(b *store.Batch, r *record) { b.DeleteRange(r.journal, append(r.journal, 0)) },
			[]string{`account "kim": journal`}},
		"the head":          {func(b *store.Batch, _ *record) { b.Delete(accountKey(kim, kindHead)) }, []string{`account "kim": account head: `}},
		"the name":          {func(b *store.Batch, _ *record) { b.Delete(accountKey(kim, kindInfo)) }, []string{`": name: `}},
		"keys of no length": {func(b *store.Batch, _ *record) { b.Put(append(accountKey(kim, kindMessage), 1), nil) }, []string{`account "kim": message key`}},
	}
}

// TestVerify breaks one thing at a time and looks for what is found, and where.
func TestVerify(t *testing.T) {
	t.Parallel()
	for name, row := range damages() {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := newRecord(t)
			b := store.NewBatch()
			row.do(b, r)
			if _, err := r.s.kv.Commit(t.Context(), b); err != nil {
				t.Fatal(err)
			}
			var messages atomic.Int64
			var found []string
			if err := r.s.Verify(t.Context(), func(f Finding) { found = append(found, f.Error()) }, &messages); err != nil {
				t.Fatal(err)
			}
			for _, want := range row.want {
				if !strings.Contains(strings.Join(found, "\n"), want) {
					t.Errorf("%q is not found", want)
				}
			}
			if row.want == nil && (len(found) > 0 || messages.Load() != 4) || t.Failed() {
				t.Errorf("%d messages, found: %s", messages.Load(), strings.Join(found, "\n"))
			}
			for _, f := range found {
				if strings.Contains(f, "lee") {
					t.Errorf("found in another account: %s", f)
				}
			}
		})
	}
}

// record is the second of three messages in kim's INBOX; lee has one more.
type record struct {
	s       *Store
	m       Message
	mailbox GUID
	box     mailboxRecord
	head    head
	journal []byte // key of the second record of the journal
}

func (r *record) key(kind byte) []byte {
	return messageKey(accountGUID("kim"), kind, r.mailbox, r.m.UID)
}

func newRecord(t *testing.T) *record {
	t.Helper()
	kv, blobs := storetest.Open(t)
	s, err := Open(t.Context(), Config{}, kv, blobs, hclog.NewNullLogger())
	if err != nil {
		t.Fatal(err)
	}
	appendMessages(t, s, openMailbox(t, openAccount(t, s, "lee"), "INBOX"), 1)
	inbox := openMailbox(t, openAccount(t, s, "kim"), "INBOX")
	for i := range 3 {
		content := stage(t, s, message(7+i))
		if _, err := inbox.Append(t.Context(), []Append{{Content: content}}); err != nil {
			t.Fatal(err)
		}
	}
	r := &record{s: s, mailbox: inbox.box.guid, box: inbox.box.current().mailboxRecord, head: inbox.box.account.head}
	err = kv.View(t.Context(), func(snap store.Snapshot) error {
		value, err := snap.Get(messageKey(accountGUID("kim"), kindMessage, r.mailbox, imap.UID(2)))
		if err != nil {
			return err
		}
		if err := decodeMessage(&r.m, 2, value); err != nil {
			return err
		}
		prefix := accountKey(accountGUID("kim"), kindJournal)
		for pair, err := range snap.Range(prefix, above(prefix), 2, false) {
			if err != nil {
				return err
			}
			r.journal = append([]byte(nil), pair.Key...)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// TestReferences: every message counts, also those of deleted mailboxes until
// the sweep was there; unreadable ones are told.
func TestReferences(t *testing.T) {
	t.Parallel()
	r := newRecord(t)
	a := openAccount(t, r.s, "kim")
	trash := openMailbox(t, a, "Trash")
	if _, err := openMailbox(t, a, "INBOX").Copy(t.Context(), []imap.UID{1, 2}, trash); err != nil {
		t.Fatal(err)
	}
	if err := a.Delete(t.Context(), "Trash"); err != nil {
		t.Fatal(err)
	}
	count := func() (of, all, unreadable int64) {
		unreadable, err := r.s.References(t.Context(), func(ref store.Ref) {
			if all++; ref == r.m.Body {
				of++
			}
		})
		if err != nil {
			t.Fatal(err)
		}
		return of, all, unreadable
	}
	if of, all, unreadable := count(); of != 2 || all != 6 || unreadable != 0 {
		t.Errorf("%d references to the body, %d in all, %d unreadable", of, all, unreadable)
	}
	if err := r.s.Sweep(t.Context()); err != nil {
		t.Fatal(err)
	}
	if of, all, unreadable := count(); of != 1 || all != 4 || unreadable != 0 {
		t.Errorf("after the sweep: %d references to the body, %d in all, %d unreadable", of, all, unreadable)
	}
	b := store.NewBatch()
	b.Put(r.key(kindMessage), []byte("\x01bad"))
	if _, err := r.s.kv.Commit(t.Context(), b); err != nil {
		t.Fatal(err)
	}
	if of, all, unreadable := count(); of != 0 || all != 3 || unreadable != 1 {
		t.Errorf("damaged: %d references to the body, %d in all, %d unreadable", of, all, unreadable)
	}
}
