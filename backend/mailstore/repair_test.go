package mailstore

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/emersion/go-imap/v2"
	"github.com/hashicorp/go-hclog"

	"github.com/postern-mail/postern/store"
)

// again opens the store anew, as fsck does: nothing of before is in memory.
func (r *record) again(t *testing.T) *Store {
	t.Helper()
	s, err := Open(t.Context(), Config{}, r.s.kv, r.s.blobs, hclog.NewNullLogger())
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func verified(t *testing.T, s *Store) (found []string) {
	t.Helper()
	if err := s.Verify(t.Context(), func(f Finding) { found = append(found, f.Error()) }, new(atomic.Int64)); err != nil {
		t.Fatal(err)
	}
	return found
}

// contents reads every message of a mailbox as a client does.
func contents(t *testing.T, s *Store, account, mailbox string) map[imap.UID]string {
	t.Helper()
	m := openMailbox(t, openAccount(t, s, account), mailbox)
	v := m.View()
	all := make(map[imap.UID]string)
	for i := range v.Len() {
		body, err := m.Body(t.Context(), v.At(i))
		if err != nil {
			all[v.At(i).UID] = err.Error()
			continue
		}
		octets, err := io.ReadAll(body)
		if err := errors.Join(err, body.Close()); err != nil {
			t.Fatal(err)
		}
		if _, err := m.Meta(t.Context(), v.At(i)); err != nil {
			t.Errorf("UID %d: %v", v.At(i).UID, err)
		}
		all[v.At(i).UID] = string(octets)
	}
	return all
}

// TestRepair breaks one thing at a time, has it repaired, and finds nothing any
// more, and every message as it was. What is lost goes when that is asked for.
func TestRepair(t *testing.T) {
	t.Parallel()
	kim := accountGUID("kim")
	rows := damages()
	rows["a mailbox"] = damage{do: func(b *store.Batch, r *record) { b.Put(mailboxKey(kim, kindMailbox, r.mailbox), []byte("\x01bad")) }}
	rows["a mailbox gone"] = damage{do: func(b *store.Batch, r *record) { b.Delete(mailboxKey(kim, kindMailbox, r.mailbox)) }}
	rows["a head that cannot be read"] = damage{do: func(b *store.Batch, _ *record) { b.Put(accountKey(kim, kindHead), []byte("\x01bad")) }}
	rows["a journal record"] = damage{do: func(b *store.Batch, r *record) { b.Put(r.journal, []byte("J\x01bad")) }}
	rows["a name used twice"] = damage{do: func(b *store.Batch, r *record) {
		other := r.box
		b.Put(mailboxKey(kim, kindMailbox, GUID{1}), other.encode())
	}}
	rows["a message of the past"] = damage{do: func(b *store.Batch, r *record) {
		b.Put(r.key(kindMessage), []byte("\x01bad"))
		prefix := accountKey(kim, kindJournal)
		b.DeleteRange(prefix, above(prefix))
	}}
	left := map[string]string{ // until what is lost may go
		"a message of the past": "UID 2: message: malformed",
		"a body":                "UID 2: body: ",
	}
	for name, row := range rows {
		if name == "the name" || name == "keys of no length" {
			continue // nothing tells what they were
		}
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := newRecord(t)
			before := contents(t, r.again(t), "kim", "INBOX")
			b := store.NewBatch()
			row.do(b, r)
			if _, err := r.s.kv.Commit(t.Context(), b); err != nil {
				t.Fatal(err)
			}
			s := r.again(t)
			var done []string
			repair := func() {
				t.Helper()
				if err := s.Repair(t.Context(), func(f Finding, how string) {
					done = append(done, f.Error()+": "+how)
				}); err != nil {
					t.Error(err)
				}
			}
			repair()
			found := verified(t, s)
			if want := left[name]; want == "" && len(found) > 0 || want != "" && (len(found) != 1 || !strings.Contains(found[0], want)) {
				t.Errorf("left %q, want %q; repaired %q", found, want, done)
			}
			if name == "nothing" && len(done) > 0 || name != "nothing" && name != "a body" && name != "a message of the past" && len(done) == 0 {
				t.Errorf("repaired %q", done)
			}
			if left[name] != "" {
				removeLost(t, s, left[name])
				delete(before, 2)
				if found := verified(t, s); len(found) > 0 {
					t.Errorf("after what is lost went: %q", found)
				}
			}
			if after := contents(t, r.again(t), "kim", "INBOX"); fmt.Sprint(after) != fmt.Sprint(before) {
				t.Errorf("%d messages, before %d: %.300v; repaired %q", len(after), len(before), after, done)
			}
			done = nil
			repair()
			if len(done) > 0 {
				t.Errorf("a second repair did %q", done)
			}
			// Everything goes on: no UID is given twice.
			content := stage(t, s, message(99))
			inbox := openMailbox(t, openAccount(t, s, "kim"), "INBOX")
			uids, err := inbox.Append(t.Context(), []Append{{Content: content}})
			if err != nil || len(uids) != 1 || uids[0] < 4 {
				t.Errorf("append: %v, %v", uids, err)
			}
			if found := verified(t, s); len(found) > 0 {
				t.Errorf("after an append: %q", found)
			}
		})
	}
}

// removeLost has what is lost removed, and looks at what is kept of it.
func removeLost(t *testing.T, s *Store, why string) {
	t.Helper()
	var kept []Lost
	isLost := func(ctx context.Context, ref store.Ref) error {
		body, err := s.blobs.Open(ctx, ref)
		if err != nil {
			return err
		}
		return body.Close()
	}
	refuse := func(Lost) error { return errors.New("no room") }
	if err := s.RemoveLost(t.Context(), isLost, refuse); err == nil || !strings.Contains(err.Error(), "no room") {
		t.Errorf("removed without being kept: %v", err)
	}
	if found := verified(t, s); len(found) != 1 || !strings.Contains(found[0], why) {
		t.Errorf("after a refusal: %q", found)
	}
	if err := s.RemoveLost(t.Context(), isLost, func(l Lost) error { kept = append(kept, l); return nil }); err != nil {
		t.Error(err)
	}
	if len(kept) != 1 || kept[0].UID != 2 || kept[0].Account != "kim" || !bytes.Contains(kept[0].Header, []byte("Subject:")) {
		t.Errorf("kept %+v", kept)
	}
	if text, err := json.Marshal(kept); err != nil || !strings.Contains(string(text), `"uid":2`) {
		t.Errorf("in JSON: %s, %v", text, err)
	}
}

// TestRepairTrace: trace fields come out of the journal; where that is gone a
// field of the same length stands for them.
func TestRepairTrace(t *testing.T) {
	t.Parallel()
	for _, forgotten := range []bool{false, true} {
		r := newRecord(t)
		a := openAccount(t, r.s, "kim")
		content := stage(t, r.s, message(50))
		trace := "Return-Path: <a@example.net>\r\nDelivered-To: kim@example.com\r\n"
		if errs := a.Deliver(t.Context(), []Delivery{{ID: "1", Content: content, Trace: []byte(trace)}}); errs[0] != nil {
			t.Fatal(errs[0])
		}
		before := contents(t, r.again(t), "kim", "INBOX")[4]
		b := store.NewBatch()
		b.Put(messageKey(accountGUID("kim"), kindMeta, r.mailbox, 4), []byte("\x01bad"))
		if forgotten {
			prefix := accountKey(accountGUID("kim"), kindJournal)
			b.DeleteRange(prefix, above(prefix))
		}
		if _, err := r.s.kv.Commit(t.Context(), b); err != nil {
			t.Fatal(err)
		}
		s := r.again(t)
		if err := s.Repair(t.Context(), func(Finding, string) {}); err != nil {
			t.Fatal(err)
		}
		after := contents(t, s, "kim", "INBOX")[4]
		want := before
		if forgotten {
			want = "X-Trace-Lost:" + strings.Repeat(" ", len(trace)-15) + "\r\n" + strings.TrimPrefix(before, trace)
		}
		if after != want {
			t.Errorf("message\n%q, want\n%q", after, want)
		}
		if found := verified(t, s); len(found) > 0 {
			t.Errorf("found %q", found)
		}
	}
}

// TestRepairKeepsOff: what a newer program wrote is left alone.
func TestRepairKeepsOff(t *testing.T) {
	t.Parallel()
	for _, kind := range []byte{kindHead, kindMailbox, kindMessage, kindMeta, kindJournal} {
		r := newRecord(t)
		key, value := r.key(kind), []byte{recordVersion + 1, 7, 7}
		switch kind {
		case kindHead:
			key, value[0] = accountKey(accountGUID("kim"), kindHead), headVersion+1
		case kindMailbox:
			key, value[0] = mailboxKey(accountGUID("kim"), kindMailbox, r.mailbox), mailboxVersion+1
		case kindMessage:
			value[0] = messageVersion + 1
		case kindMeta:
			value[0] = metaVersion + 1
		case kindJournal:
			key, value = r.journal, []byte{journalMagic, journalVersion + 1, 7, 7, 7, 7, 7}
		}
		b := store.NewBatch()
		b.Put(key, value)
		if _, err := r.s.kv.Commit(t.Context(), b); err != nil {
			t.Fatal(err)
		}
		s := r.again(t)
		_ = s.Repair(t.Context(), func(f Finding, how string) {
			if kind != kindMessage && kind != kindMeta { // the rest is mended
				t.Errorf("kind %c: %v: %s", kind, f, how)
			}
		})
		_ = s.RemoveLost(t.Context(), func(context.Context, store.Ref) error { return nil }, func(l Lost) error {
			t.Errorf("kind %c: %+v", kind, l)
			return nil
		})
		err := s.kv.View(t.Context(), func(snap store.Snapshot) error {
			got, err := snap.Get(key)
			if err == nil && !bytes.Equal(got, value) {
				t.Errorf("kind %c: now %x", kind, got)
			}
			return err
		})
		if err != nil {
			t.Errorf("kind %c: %v", kind, err)
		}
	}
}
