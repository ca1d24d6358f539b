package mailstore

import (
	"bytes"
	"context"
	"fmt"
	"strings"
	"sync"
	"testing"
	"unicode"

	"github.com/emersion/go-imap/v2"
	"golang.org/x/text/unicode/norm"

	"github.com/postern-mail/postern/backend/mailstore/fulltext"
	"github.com/postern-mail/postern/backend/mailstore/text"
	"github.com/postern-mail/postern/mail"
	"github.com/postern-mail/postern/store"
	"github.com/postern-mail/postern/store/storetest"
)

var withIndex = Config{SearchIndex: &SearchIndex{}}

func unpaced(context.Context, int64) error { return nil }

// soundHints fails when the index rules out a message that has a needle, and
// returns how many messages it does not know and how many it rules out.
func soundHints(t testing.TB, m *Mailbox, needles ...string) (unknown, out int) {
	t.Helper()
	var all []text.Needle
	for _, n := range needles {
		all = append(all, text.Exactly(n))
	}
	hints, err := m.TextHints(context.Background(), all)
	if err != nil || hints == nil {
		t.Fatalf("no hints: %v", err)
	}
	v := m.View()
	for i := range v.Len() {
		one := v.At(i)
		if _, known := hints.answer.May(fulltext.ID(one.EmailID), 0); !known {
			unknown++
		}
		folded := string(text.Fold(nil, []byte(readAll(t, m, one))))
		for k, n := range all {
			may := hints.May(one, k)
			if !may {
				out++
			}
			if !may && strings.Contains(folded, string(n.Folded())) {
				t.Errorf("message %d has %q and was ruled out", one.UID, needles[k])
			}
		}
	}
	return unknown, out
}

func addText(t testing.TB, m *Mailbox, texts ...string) []imap.UID {
	t.Helper()
	var uids []imap.UID
	for _, one := range texts {
		content := stage(t, m.box.account.store, one)
		defer content.Discard()
		got, err := m.Append(context.Background(), []Append{{Content: content}})
		if err != nil {
			t.Fatal(err)
		}
		uids = append(uids, got...)
	}
	return uids
}

func indexNow(t testing.TB, s *Store, name string, w wish) {
	t.Helper()
	if err := s.bringUpToDate(context.Background(), accountGUID(name), w, unpaced); err != nil {
		t.Fatal(err)
	}
}

// TestIndexFollows: copies share a document, what is expunged leaves the index,
// what was passed over comes in when a search meets it, and of all this the
// account's commits and its journal know nothing.
func TestIndexFollows(t *testing.T) {
	t.Parallel()
	s := openStore(t, withIndex)
	a := openAccount(t, s, "kim")
	inbox, trash := openMailbox(t, a, "INBOX"), openMailbox(t, a, "Trash")
	var texts []string
	for i := range 300 {
		texts = append(texts, message(i))
	}
	uids := addText(t, inbox, texts...)
	before, err := s.Head(t.Context(), a.GUID())
	if err != nil {
		t.Fatal(err)
	}
	if unknown, _ := soundHints(t, inbox, "number 7"); unknown != 300 {
		t.Errorf("%d of 300 are unknown", unknown)
	}
	indexNow(t, s, "kim", wantSoon)
	if unknown, out := soundHints(t, inbox, "number 277"); unknown != 0 || out < 250 {
		t.Errorf("%d unknown, %d ruled out", unknown, out)
	}
	after, err := s.Head(t.Context(), a.GUID())
	if err != nil || after.Seq != before.Seq {
		t.Errorf("the journal went from %d to %d, %v", before.Seq, after.Seq, err)
	}
	if _, err := inbox.Copy(t.Context(), uids[:50], trash); err != nil {
		t.Fatal(err)
	}
	indexNow(t, s, "kim", wantSoon)
	if unknown, _ := soundHints(t, trash, "number 4"); unknown != 0 {
		t.Errorf("%d copies are unknown", unknown)
	}
	if u, err := s.AccountIndex(t.Context(), "kim"); err != nil || u.Documents != 300 || u.Messages != 350 || !u.Current {
		t.Errorf("%+v, %v", u, err)
	}
	if _, err := inbox.StoreFlags(t.Context(), uids[60:], FlagsChange{Op: FlagsAdd, Flags: FlagDeleted}); err != nil {
		t.Fatal(err)
	}
	if _, err := inbox.Expunge(t.Context(), nil); err != nil {
		t.Fatal(err)
	}
	indexNow(t, s, "kim", wantSoon)
	if u, err := s.AccountIndex(t.Context(), "kim"); err != nil || u.Documents != 60 {
		t.Errorf("after the expunge: %+v, %v", u, err)
	}
	soundHints(t, inbox, "number 5", "body 50")
	if n := s.IndexStats(); n.Messages != 300 || n.Removed != 240 || n.Failed != 0 {
		t.Errorf("%+v", n)
	}
}

// TestIndexPassedOver: a message below the mark that the index does not know is
// found by a search that meets it.
func TestIndexPassedOver(t *testing.T) {
	t.Parallel()
	s := openStore(t, withIndex)
	inbox := openMailbox(t, openAccount(t, s, "kim"), "INBOX")
	addText(t, inbox, message(1), message(2))
	x := s.indexOf(accountGUID("kim"))
	w, err := x.Open(t.Context(), s.cfg.SearchIndex.made())
	if err != nil {
		t.Fatal(err)
	}
	w.Marks = indexMarks{inbox.box.guid: 2}.encode()
	if err := w.Flush(t.Context()); err != nil {
		t.Fatal(err)
	}
	hints, err := inbox.TextHints(t.Context(), []text.Needle{text.Exactly("body 1")})
	if err != nil || !hints.May(inbox.View().At(0), 0) {
		t.Fatalf("%v", err)
	}
	hints.Close()
	one, _ := s.index.next()
	if one == nil || one.wish != wantAll {
		t.Fatalf("%+v", one)
	}
	indexNow(t, s, "kim", one.wish)
	if unknown, _ := soundHints(t, inbox, "body 1"); unknown != 0 {
		t.Errorf("%d unknown", unknown)
	}
}

// TestIndexPowerCuts cuts the power while an index is built, merged and shrunk.
// After each cut it rules out nothing that is there, mail is whole, and the next
// pass makes it complete.
func TestIndexPowerCuts(t *testing.T) {
	t.Parallel()
	m := storetest.NewMachine()
	var mu sync.Mutex
	cuts := map[int]*storetest.Machine{}
	kv, blobs := m.Open(t)
	s := openOn(t, withIndex, kv, blobs)
	inbox := openMailbox(t, openAccount(t, s, "kim"), "INBOX")
	m.OnOp(func(n int) {
		if n%7 == 0 {
			left := m.Cut(uint64(n))
			mu.Lock()
			defer mu.Unlock()
			cuts[n] = left
		}
	})
	for round := range 6 {
		var texts []string
		for i := range 3 {
			texts = append(texts, message(10*round+i))
		}
		uids := addText(t, inbox, texts...)
		indexNow(t, s, "kim", wantSoon)
		if _, err := inbox.StoreFlags(t.Context(), uids[:1], FlagsChange{Op: FlagsAdd, Flags: FlagDeleted}); err != nil {
			t.Fatal(err)
		}
		if _, err := inbox.Expunge(t.Context(), nil); err != nil {
			t.Fatal(err)
		}
	}
	m.OnOp(nil)
	if len(cuts) < 10 {
		t.Errorf("only %d cuts", len(cuts))
	}
	for n, left := range cuts {
		kv, blobs := left.Open(t)
		s := openOn(t, withIndex, kv, blobs)
		inbox := openMailbox(t, openAccount(t, s, "kim"), "INBOX")
		soundHints(t, inbox, "number 1", "body 51", "kim@")
		indexNow(t, s, "kim", wantSoon)
		if unknown, _ := soundHints(t, inbox, "number 1", "body 51", "kim@"); unknown != 0 {
			t.Errorf("cut %d: %d unknown", n, unknown)
		}
	}
}

// TestIndexDamage: a damaged index is no damage to mail: searches go without,
// fsck tells of it and removes it, and it is built anew.
func TestIndexDamage(t *testing.T) {
	t.Parallel()
	kv, blobs := storetest.Open(t)
	s := openOn(t, withIndex, kv, blobs)
	inbox := openMailbox(t, openAccount(t, s, "kim"), "INBOX")
	addText(t, inbox, message(1), message(2))
	indexNow(t, s, "kim", wantSoon)
	damage := func() {
		t.Helper()
		prefix := append(accountKey(accountGUID("kim"), kindIndex), 'h')
		b := store.NewBatch()
		err := store.Scan(t.Context(), kv, prefix, above(prefix), 10, func(_ store.Snapshot, key, _ []byte) error {
			b.Put(append([]byte(nil), key...), []byte("damaged"))
			return nil
		})
		if err != nil || len(b.Ops) == 0 {
			t.Fatalf("%d segments, %v", len(b.Ops), err)
		}
		if _, err := kv.Commit(t.Context(), b); err != nil {
			t.Fatal(err)
		}
	}
	damage()
	if hints, err := inbox.TextHints(t.Context(), []text.Needle{text.Exactly("body")}); hints != nil || err != nil {
		t.Errorf("hints of a damaged index, %v", err)
	}
	one, _ := s.index.next()
	if one == nil || one.wish != wantAnew {
		t.Errorf("%+v", one)
	}
	if err := s.Check(t.Context()); err == nil || !strings.Contains(err.Error(), "search index, which is built anew") {
		t.Errorf("check: %v", err)
	}
	again := openOn(t, Config{}, kv, blobs) // as fsck does
	told := ""
	if err := again.Repair(t.Context(), func(f Finding, how string) { told += f.Error() + ": " + how + "\n" }); err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(told, "search index") || strings.Count(told, "\n") != 1 {
		t.Errorf("repairs: %s", told)
	}
	indexNow(t, s, "kim", wantSoon)
	if unknown, _ := soundHints(t, inbox, "body 1"); unknown != 0 {
		t.Errorf("%d unknown", unknown)
	}
	damage()
	indexNow(t, s, "kim", wantSoon)
	if unknown, _ := soundHints(t, inbox, "body 1"); unknown != 0 {
		t.Errorf("%d unknown after damage", unknown)
	}
}

// TestIndexOfAPair: each node indexes what it has, and neither sends nor counts
// an index.
func TestIndexOfAPair(t *testing.T) {
	t.Parallel()
	p := newPair(t, "kim")
	for _, side := range p.nodes {
		side.store.cfg.SearchIndex, side.store.index = &SearchIndex{}, newIndexer()
	}
	p.connect()
	p.calm()
	for i := range 20 {
		p.nodes[i%2].add(t, "INBOX", i)
	}
	p.nodes[0].deliver(t, "x", 100)
	p.calm()
	indexNow(t, p.nodes[0].store, "kim", wantSoon)
	p.calm()
	if u, err := p.nodes[1].store.AccountIndex(t.Context(), "kim"); err != nil || u.Documents != 0 {
		t.Errorf("the other node has %+v, %v", u, err)
	}
	for n, side := range p.nodes {
		one, _ := side.store.index.next()
		if one == nil && side.store.index.queue.Len() == 0 && n == 1 {
			t.Error("what came from the partner does not wait to be indexed")
		}
		indexNow(t, side.store, "kim", wantSoon)
		m, err := side.account.Mailbox(t.Context(), "INBOX")
		if err != nil {
			t.Fatal(err)
		}
		if unknown, _ := soundHints(t, m, "number 7", "Return-Path", "body 100"); unknown != 0 {
			t.Errorf("node %d: %d unknown", n, unknown)
		}
		m.Close()
	}
	p.calm()
	p.same("INBOX")
}

// TestIndexerRuns: accounts that were left behind by a stop are found at the
// start, and a switched off index does nothing.
func TestIndexerRuns(t *testing.T) {
	t.Parallel()
	kv, blobs := storetest.Open(t)
	before := openOn(t, Config{}, kv, blobs)
	if err := before.RunIndex(t.Context()); err != nil {
		t.Error(err)
	}
	for i := range 3 {
		a, err := before.Account(t.Context(), mail.Account{Name: fmt.Sprint("user", i)})
		if err != nil {
			t.Fatal(err)
		}
		if i > 0 {
			addText(t, openMailbox(t, a, "INBOX"), message(i))
		}
		a.Close()
	}
	s := openOn(t, withIndex, kv, blobs)
	if err := s.findBehind(t.Context()); err != nil {
		t.Fatal(err)
	}
	if n := s.IndexStats(); !n.Enabled || n.Waiting != 2 {
		t.Errorf("%+v", n)
	}
	indexNow(t, s, "user1", wantSoon)
	again := openOn(t, withIndex, kv, blobs)
	if err := again.findBehind(t.Context()); err != nil || again.IndexStats().Waiting != 1 {
		t.Errorf("%+v, %v", again.IndexStats(), err)
	}
	if _, err := s.AccountIndex(t.Context(), "nobody"); err == nil {
		t.Error("an account that is not there has an index")
	}
	progress := int64(0)
	if err := s.RebuildIndex(t.Context(), "user2", func(octets int64) { progress += octets }); err != nil || progress == 0 {
		t.Errorf("%d octets, %v", progress, err)
	}
}

// What characters are folded into changes with the tables of Unicode: an index
// made with others would leave out messages that match.
func TestIndexIsOfItsUnicode(t *testing.T) {
	t.Parallel()
	made := string((&SearchIndex{}).made())
	if !strings.Contains(made, unicode.Version) || !strings.Contains(made, norm.Version) {
		t.Errorf("%q does not tell of the tables of characters", made)
	}
	if plain, more := (&SearchIndex{}).made(), (&SearchIndex{Attachments: true}).made(); bytes.Equal(plain, more) {
		t.Error("attachments make no difference")
	}
}

// TestIndexMadeOtherwise: whatever changes what is text has the index built anew,
// and an index of before is one made with the defaults.
func TestIndexMadeOtherwise(t *testing.T) {
	t.Parallel()
	made := make(map[string]SearchIndex)
	for _, c := range []SearchIndex{{}, {Attachments: true}, {Documents: true}, {Attachments: true, Documents: true}, {MaxOctets: 1 << 20}} {
		if other, known := made[string(c.made())]; known {
			t.Errorf("%+v and %+v make the same", c, other)
		}
		made[string(c.made())] = c
	}
	if got := (&SearchIndex{Attachments: true}).made(); got[1] != 1 {
		t.Errorf("an index made before documents were read begins with %x now", got[:2])
	}
}
