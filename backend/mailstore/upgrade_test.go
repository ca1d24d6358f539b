package mailstore

import (
	"bufio"
	"encoding/hex"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/hashicorp/go-hclog"

	"github.com/postern-mail/postern/store"
	"github.com/postern-mail/postern/store/storetest"
)

// loadFirstRelease puts in what the first release wrote: every key and value of
// an account, with its bodies.
func loadFirstRelease(t *testing.T, kv store.Store) {
	t.Helper()
	f, err := os.Open("testdata/first-release.txt")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	b := store.NewBatch()
	lines := bufio.NewScanner(f)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		key, value, ok := strings.Cut(lines.Text(), " ")
		k, errKey := hex.DecodeString(key)
		v, errValue := hex.DecodeString(value)
		if !ok || errKey != nil || errValue != nil {
			t.Fatalf("line %q", lines.Text())
		}
		b.Put(k, v)
	}
	if _, err := kv.Commit(t.Context(), b); err != nil || lines.Err() != nil || len(b.Ops) < 50 {
		t.Fatal(err, lines.Err(), len(b.Ops))
	}
}

// TestFirstRelease opens, verifies and changes what the first release wrote.
func TestFirstRelease(t *testing.T) {
	t.Parallel()
	for _, pair := range []bool{false, true} {
		kv, blobs := storetest.Open(t)
		loadFirstRelease(t, kv)
		s, err := Open(t.Context(), Config{Pair: pair}, kv, blobs, hclog.NewNullLogger())
		if err != nil {
			t.Fatal(err)
		}
		if s.Joining() {
			t.Error("a store with accounts waits for its partner")
		}
		if err := s.Check(t.Context()); err != nil {
			t.Error(err)
		}
		a := openAccount(t, s, "kim@example.org")
		n := &side{store: s, account: a}
		want := []string{
			"1 1 [$Work] Subject: number 0", "2 1 [$Work] Subject: number 1", "5 0 [] Subject: number 4",
			"6 0 [] Return-Path: <pat@example.org>", "7 0 [] Return-Path: <pat@example.org>",
		}
		if got := n.list(t, "INBOX"); !slices.Equal(got, want) {
			t.Errorf("INBOX is %q", got)
		}
		if got := n.list(t, "Trash"); len(got) != 1 {
			t.Errorf("Trash is %q", got)
		}
		var names []string
		list, err := a.List(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		for _, info := range list {
			names = append(names, info.Name)
		}
		if want := "Drafts INBOX Junk Lists Lists/go Nowhere Old/Under Sent Trash"; strings.Join(names, " ") != want {
			t.Errorf("mailboxes are %q", names)
		}
		n.deliver(t, "Q1.1", 101) // it was delivered before
		n.deliver(t, "Q9.1", 9)
		if got := n.list(t, "INBOX"); len(got) != 6 || !pair && !strings.HasPrefix(got[5], "8 ") {
			t.Errorf("after a delivery and a repeat: %q", got)
		}
		in := openMailbox(t, a, "INBOX")
		if _, err := in.StoreFlags(t.Context(), uidsOf(in.View()), FlagsChange{Op: FlagsAdd, Flags: FlagDeleted}); err != nil {
			t.Fatal(err)
		}
		if _, err := in.Expunge(t.Context(), nil); err != nil {
			t.Fatal(err)
		}
		if err := a.Rename(t.Context(), "Lists", "All"); err != nil {
			t.Fatal(err)
		}
		if err := s.Check(t.Context()); err != nil {
			t.Error(err)
		}
		if err := s.Repair(t.Context(), func(f Finding, how string) { t.Errorf("%v: %s", f, how) }); err != nil {
			t.Error(err)
		}
		if !pair {
			continue
		}
		r, err := s.Replica(t.Context(), a.GUID(), "")
		if err != nil {
			t.Fatal(err)
		}
		at, err := r.Position(t.Context())
		if err != nil || at.StreamFrom <= 1 {
			t.Errorf("position %+v, %v: the first release's records cannot be streamed", at, err)
		}
		if _, err := r.Journal(t.Context(), 0, 1<<20); err != ErrTruncated {
			t.Errorf("journal from the start: %v", err)
		}
		if records, err := r.Journal(t.Context(), at.StreamFrom-1, 1<<20); err != nil || len(records) == 0 {
			t.Errorf("%d records, %v", len(records), err)
		}
	}
}

// TestUpgradeOfManyMailboxes: an account of the first release can be attached
// however many mailboxes it has, whose digests nobody kept.
func TestUpgradeOfManyMailboxes(t *testing.T) {
	t.Parallel()
	kv, blobs := storetest.Open(t)
	ctx := t.Context()
	openAccount(t, openOn(t, Config{}, kv, blobs), "kim")
	id := accountGUID("kim")
	for i := range 12 {
		b := store.NewBatch()
		for range 100 {
			leaf := fmt.Sprint("box ", i, len(b.Ops))
			r := mailboxRecord{name: leaf, leaf: leaf, uidValidity: 1, uidNext: 1, modseq: 1}
			b.Put(mailboxKey(id, kindMailbox, derive("test", []byte(leaf))), r.encode())
		}
		if _, err := kv.Commit(ctx, b); err != nil {
			t.Fatal(err)
		}
	}
	s := openOn(t, Config{Pair: true}, kv, blobs)
	r, err := s.Replica(ctx, id, "kim")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := r.BeginAttach(ctx); err != nil {
		t.Error(err)
	}
	if at, err := r.Position(ctx); err != nil || at.Digest == (Digest{}) {
		t.Error(at.Digest, err)
	}
}
