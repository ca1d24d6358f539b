package mailstore

import (
	"strings"
	"testing"

	"github.com/hashicorp/go-hclog"

	"github.com/postern-mail/postern/store"
	"github.com/postern-mail/postern/store/storetest"
)

// TestPreviewsOfFirstRelease: what the first release stored has no preview until
// somebody asks; then it is kept, and nobody sees that the mailbox changed.
func TestPreviewsOfFirstRelease(t *testing.T) {
	t.Parallel()
	kv, blobs := storetest.Open(t)
	loadFirstRelease(t, kv)
	s, err := Open(t.Context(), Config{}, kv, blobs, hclog.NewNullLogger())
	if err != nil {
		t.Fatal(err)
	}
	m := openMailbox(t, openAccount(t, s, "kim@example.org"), inbox)
	before := m.View()
	list := make([]*Message, before.Len())
	for i := range list {
		list[i] = before.At(i)
	}
	read := func() []*Meta {
		metas, err := m.Metas(t.Context(), list)
		if err != nil {
			t.Fatal(err)
		}
		return metas
	}
	metas := read()
	for i, meta := range metas {
		if !meta.NoPreview || len(meta.Preview) > 0 {
			t.Errorf("message %d: preview %q, missing %v", i, meta.Preview, meta.NoPreview)
		}
	}
	metas[1] = nil // gone meanwhile
	if err := m.CompletePreviews(t.Context(), list, metas); err != nil {
		t.Fatal(err)
	}
	again := read()
	for i, meta := range metas {
		if i == 1 {
			if !again[i].NoPreview {
				t.Error("a preview that nobody asked for")
			}
			continue
		}
		if meta.NoPreview || len(meta.Preview) == 0 {
			t.Errorf("message %d: no preview was made", i)
		}
		if again[i].NoPreview || string(again[i].Preview) != string(meta.Preview) {
			t.Errorf("message %d: kept %q, made %q", i, again[i].Preview, meta.Preview)
		}
	}
	if m.View() != before {
		t.Error("the mailbox looks changed")
	}
	if err := s.Check(t.Context()); err != nil {
		t.Error(err)
	}
}

// TestPreviewsOfGone: a preview is not kept for a message that was expunged, or
// whose UID another has by now.
func TestPreviewsOfGone(t *testing.T) {
	t.Parallel()
	kv, blobs := storetest.Open(t)
	r := &reserves{Store: kv}
	s := openOn(t, Config{}, r, blobs)
	m := openMailbox(t, openAccount(t, s, "kim"), inbox)
	appendMessages(t, s, m, 2)
	list := []*Message{m.View().At(0), m.View().At(1)}
	old := store.NewBatch()
	for _, message := range list {
		key := messageKey(m.box.account.id, kindMeta, m.box.guid, message.UID)
		if err := s.kv.View(t.Context(), func(snap store.Snapshot) error {
			value, err := snap.Get(key)
			if err != nil {
				return err
			}
			first := append([]byte{1}, value[1:len(value)-1-len("body 0")]...) // as the first release wrote it
			old.Put(key, first)
			return nil
		}); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := s.kv.Commit(t.Context(), old); err != nil {
		t.Fatal(err)
	}
	metas, err := m.Metas(t.Context(), list)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := m.StoreFlags(t.Context(), uidsOf(m.View())[:1], FlagsChange{Op: FlagsAdd, Flags: FlagDeleted}); err != nil {
		t.Fatal(err)
	}
	if _, err := m.Expunge(t.Context(), nil); err != nil {
		t.Fatal(err)
	}
	if err := m.CompletePreviews(t.Context(), list, metas); err != nil || r.last {
		t.Fatalf("uses the reserve of a full disk: %v, %v", r.last, err)
	}
	if meta, err := m.Meta(t.Context(), list[1]); err != nil || string(meta.Preview) != "body 1" || meta.NoPreview {
		t.Errorf("%+v, %v", meta, err)
	}
}

// TestPreviewAtDelivery: a preview is there from the start, also behind a trace
// header and where only that stands in the record.
func TestPreviewAtDelivery(t *testing.T) {
	t.Parallel()
	s := openStore(t, Config{})
	a := openAccount(t, s, "kim")
	m := openMailbox(t, a, inbox)
	for _, text := range []string{"Subject: x\r\n\r\nHello there\r\n", "Subject: x\r\n" + strings.Repeat("X: "+strings.Repeat("y", 70)+"\r\n", 1000) + "\r\nHello there\r\n"} {
		content := stage(t, s, text)
		if errs := a.Deliver(t.Context(), []Delivery{{Content: content, Trace: []byte("Return-Path: <x@y>\r\n")}}); errs[0] != nil {
			t.Fatal(errs[0])
		}
		content.Discard()
		meta, err := m.Meta(t.Context(), m.View().At(m.View().Len()-1))
		if err != nil || string(meta.Preview) != "Hello there" || meta.NoPreview {
			t.Errorf("%q, %v, %v", meta.Preview, meta.NoPreview, err)
		}
	}
}
