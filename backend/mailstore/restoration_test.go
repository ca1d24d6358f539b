package mailstore

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/emersion/go-imap/v2"

	"github.com/postern-mail/postern/backend/mailstore/acl"
	"github.com/postern-mail/postern/mail"
	"github.com/postern-mail/postern/store/storetest"
)

// album is what a photograph told.
type album struct {
	photo         Photo
	mailboxes     []PhotoMailbox
	messages      map[GUID][]PhotoMessage
	subscriptions []string
	entries       []Entry
	deliveries    []PhotoDelivery
}

func photograph(t testing.TB, s *Store, name string) *album {
	t.Helper()
	b := &album{messages: make(map[GUID][]PhotoMessage)}
	err := s.Photograph(t.Context(), AccountGUID(name), Photographer{
		Account: func(p Photo) error { b.photo = p; return nil },
		Mailbox: func(m PhotoMailbox) error { b.mailboxes = append(b.mailboxes, m); return nil },
		Message: func(m *PhotoMessage) error {
			b.messages[m.Mailbox] = append(b.messages[m.Mailbox], *m)
			return nil
		},
		Subscription: func(name string) error { b.subscriptions = append(b.subscriptions, name); return nil },
		Entry:        func(e Entry) error { b.entries = append(b.entries, e); return nil },
		Delivery:     func(d PhotoDelivery) error { b.deliveries = append(b.deliveries, d); return nil },
	})
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// lines is the album without what a restoration changes: MODSEQs, dots, UIDNEXT.
func (b *album) lines() string {
	var out []string
	names := make(map[GUID]string)
	for _, m := range b.mailboxes {
		names[m.GUID] = m.Name
		if m.Buried {
			out = append(out, fmt.Sprintf("buried %s %s", m.Name, m.GUID))
			continue
		}
		out = append(out, fmt.Sprintf("mailbox %s %s %s %v %d %d", m.Name, m.GUID, m.SpecialUse, m.Subscribed, m.UIDValidity, m.Messages))
		for _, x := range b.messages[m.GUID] {
			line := fmt.Sprintf("message %s %d %s %d %q %d %d %d %x %q", m.Name, x.UID, x.EmailID, x.Flags, x.Keywords, x.InternalDate.Unix(), x.SaveDate.Unix(),
				x.Octets, x.Body.Hash, x.TraceHeader)
			if x.Delivery != nil {
				line += fmt.Sprintf(" %x %d", x.Delivery.Mark, x.Delivery.Expires.Unix())
			}
			out = append(out, line)
		}
	}
	for _, name := range b.subscriptions {
		out = append(out, "subscription "+name)
	}
	for _, e := range b.entries {
		out = append(out, fmt.Sprintf("entry %c %s %q %q", e.Space, names[e.Mailbox], e.Key, e.Value))
	}
	for _, d := range b.deliveries {
		out = append(out, fmt.Sprintf("delivery %x %d", d.Mark, d.Expires.Unix()))
	}
	slices.Sort(out)
	return strings.Join(out, "\n")
}

// livedIn is an account with some of everything.
func livedIn(t testing.TB, s *Store, name string) *Account {
	t.Helper()
	a := openAccount(t, s, name)
	in := openMailbox(t, a, inbox)
	appendMessages(t, s, in, 40)
	for i := range 3 {
		content := stage(t, s, message(100+i))
		if errs := a.Deliver(t.Context(), []Delivery{{ID: fmt.Sprintf("Q%d.1", i), Content: content, Trace: []byte("Return-Path: <>\r\n"), Mailbox: inbox}}); errs[0] != nil {
			t.Fatal(errs[0])
		}
		content.Discard()
	}
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	_, err := in.StoreFlags(t.Context(), []imap.UID{2, 3, 5, 43}, FlagsChange{Op: FlagsAdd, Flags: FlagSeen | FlagDeleted, Keywords: []string{"$Label1", "Mine"}})
	must(err)
	_, err = in.Expunge(t.Context(), []imap.UID{3, 43})
	must(err)
	for _, sub := range []string{"Work", "Work/Plans", "Old"} {
		_, err := a.Create(t.Context(), sub, "")
		must(err)
	}
	plans := openMailbox(t, a, "Work/Plans")
	_, err = in.Copy(t.Context(), []imap.UID{10, 11, 41}, plans)
	must(err)
	_, err = in.Move(t.Context(), []imap.UID{12, 42}, plans)
	must(err)
	must(a.Rename(t.Context(), "Work", "Projects"))
	must(a.Delete(t.Context(), "Old"))
	must(a.Delete(t.Context(), "Junk"))
	must(a.Subscribe(t.Context(), "Projects/Plans", true))
	must(a.Subscribe(t.Context(), "Nowhere", true))
	must(a.Subscribe(t.Context(), "Trash", false))
	must(a.SetEntry(t.Context(), Entry{Space: SpaceMetadata, Mailbox: plans.Info().GUID, Key: "/private/comment", Value: []byte("a\x00b")}))
	must(a.SetEntry(t.Context(), Entry{Space: SpaceOption, Key: "x", Value: []byte{}}))
	_, err = openFor(t, a, "Projects/Plans", "sam", false).StoreFlags(t.Context(), []imap.UID{1, 3}, FlagsChange{Op: FlagsAdd, Flags: FlagSeen})
	must(err)
	rights, err := acl.Parse("lr")
	must(err)
	must(a.SetAccess(t.Context(), plans.Info().GUID, "user=sam", &rights))
	return a
}

func restoreAll(ctx context.Context, t testing.TB, from *Store, b *album, to *Store, most int) (finished bool) {
	t.Helper()
	r, err := to.BeginRestoration(ctx, b.photo, "run 1")
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	if err := r.Tree(ctx, b.mailboxes); err != nil {
		t.Fatal(err)
	}
	for _, m := range b.mailboxes {
		for _, x := range b.messages[m.GUID] {
			if x.UID <= r.Reached(m.GUID) {
				continue
			}
			if most--; most < 0 {
				return false
			}
			body, err := from.OpenBody(ctx, x.Body)
			if err != nil {
				t.Fatal(err)
			}
			content, err := to.Stage(ctx, body)
			if err != nil {
				t.Fatal(err)
			}
			err = r.Add(ctx, m.GUID, []RestoredMessage{{
				Content: content, TraceHeader: x.TraceHeader, UID: x.UID, EmailID: x.EmailID, Flags: x.Flags, Keywords: x.Keywords,
				InternalDate: x.InternalDate, SaveDate: x.SaveDate, Delivery: x.Delivery,
			}})
			content.Discard()
			body.Close()
			if err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := r.Finish(ctx, b.mailboxes, b.subscriptions, b.entries, b.deliveries); err != nil {
		t.Fatal(err)
	}
	return true
}

// TestRestoration: an account comes back with all it had, by way of
// interruptions, into a store where it was or was not used before.
func TestRestoration(t *testing.T) {
	t.Parallel()
	from := openStore(t, Config{})
	livedIn(t, from, "kim")
	b := photograph(t, from, "kim")
	if len(b.deliveries) != 2 || len(b.subscriptions) != 2 || len(b.entries) != 4 {
		t.Fatalf("photograph of %d deliveries, %d subscriptions, %d entries", len(b.deliveries), len(b.subscriptions), len(b.entries))
	}
	for _, used := range []bool{false, true} {
		kv, blobs := storetest.Open(t)
		to := openOn(t, Config{}, kv, blobs)
		if used {
			openAccount(t, to, "kim")
		}
		for most := 7; !restoreAll(t.Context(), t, from, b, to, most); most += 11 {
			if used {
				to = openOn(t, Config{}, kv, blobs) // as after a restart
			}
			if from, err := to.Restoring(t.Context(), "kim"); err != nil || from != "run 1" {
				t.Fatalf("restoring from %q, %v", from, err)
			}
			if _, err := to.Account(t.Context(), mail.Account{Name: "kim"}); err == nil {
				t.Fatal("an account that is half there can be used")
			}
			if err := to.Photograph(t.Context(), AccountGUID("kim"), Photographer{}); !errors.Is(err, ErrRestoring) {
				t.Fatalf("photograph of an account that is half there: %v", err)
			}
			if _, err := to.BeginRestoration(t.Context(), b.photo, "run 2"); !errors.Is(err, ErrNotRestorable) {
				t.Fatalf("another backup in between: %v", err)
			}
		}
		got := photograph(t, to, "kim")
		if got.lines() != b.lines() {
			t.Errorf("used %v:\n%s\nwant\n%s", used, got.lines(), b.lines())
		}
		comesBack(t, b, to)
		if _, err := to.BeginRestoration(t.Context(), b.photo, "run 1"); !errors.Is(err, ErrNotRestorable) {
			t.Errorf("into an account with mail: %v", err)
		}
	}
}

// comesBack does as a client that knows what happened after the photograph.
func comesBack(t *testing.T, b *album, to *Store) {
	t.Helper()
	a := openAccount(t, to, "kim")
	in := openMailbox(t, a, inbox)
	var before PhotoMailbox
	for _, m := range b.mailboxes {
		if m.Name == inbox {
			before = m
		}
	}
	told := before.HighestModSeq + 2000
	if base := in.Base(told); base > 0 {
		for i := range in.View().Len() {
			if m := in.View().At(i); m.ModSeq <= base {
				t.Fatalf("UID %d has MODSEQ %d: not told to a client that knows %d", m.UID, m.ModSeq, told)
			}
		}
	}
	if _, complete := in.ExpungedSince(told); complete {
		t.Error("expunges are said to be known")
	}
	if in.View().HighestModSeq() <= told {
		t.Errorf("HIGHESTMODSEQ %d after %d", in.View().HighestModSeq(), told)
	}
	if next := appendMessages(t, to, in, 1)[0]; next < before.UIDNext+1000 {
		t.Errorf("UID %d is given out again", next)
	}
	content := stage(t, to, message(102))
	defer content.Discard()
	for _, id := range []string{"Q0.1", "Q2.1"} {
		n := in.View().Len()
		if errs := a.Deliver(t.Context(), []Delivery{{ID: id, Content: content}}); errs[0] != nil || in.View().Len() != n {
			t.Errorf("delivery %s is made again: %v", id, errs[0])
		}
	}
	expectSeen(t, "sam", openFor(t, a, "Projects/Plans", "sam", false), 1, 3)
	list, err := in.Copy(t.Context(), []imap.UID{41}, openMailbox(t, a, "Sent"))
	if err != nil || len(list.Dest) != 1 {
		t.Errorf("copy: %v, %v", list, err)
	}
}

// TestGiveUpRestoration: what is there can be used.
func TestGiveUpRestoration(t *testing.T) {
	t.Parallel()
	from, to := openStore(t, Config{}), openStore(t, Config{})
	livedIn(t, from, "kim")
	b := photograph(t, from, "kim")
	if err := to.GiveUpRestoration(t.Context(), "kim"); !errors.Is(err, ErrNoAccount) {
		t.Errorf("nothing to give up: %v", err)
	}
	restoreAll(t.Context(), t, from, b, to, 5)
	if err := to.GiveUpRestoration(t.Context(), "kim"); err != nil {
		t.Fatal(err)
	}
	openAccount(t, to, "kim")
	n := 0
	after := photograph(t, to, "kim")
	for _, list := range after.messages {
		n += len(list)
	}
	known := make(map[GUID]PhotoMailbox)
	for _, m := range b.mailboxes {
		known[m.GUID] = m
	}
	for _, m := range after.mailboxes {
		if was := known[m.GUID]; !m.Buried && m.UIDNext <= was.UIDNext && m.UIDValidity <= max(was.UIDValidity, b.photo.LastUIDValidity) {
			t.Errorf("%s gives UID %d out again under UIDVALIDITY %d, which clients know", m.Name, m.UIDNext, m.UIDValidity)
		}
	}
	if n != 5 {
		t.Errorf("%d messages, want 5", n)
	}
}

// TestRestorationInPair: the partner's state counts.
func TestRestorationInPair(t *testing.T) {
	t.Parallel()
	from := openStore(t, Config{})
	livedIn(t, from, "kim")
	b := photograph(t, from, "kim")
	p := newPair(t, "robin")
	if _, err := p.nodes[0].store.BeginRestoration(t.Context(), b.photo, "run"); !errors.Is(err, ErrNotRestorable) || !strings.Contains(err.Error(), "rejoin") {
		t.Errorf("restored in a pair: %v", err)
	}
}

// TestPutBack: a message comes back as a new one of the same email id.
func TestPutBack(t *testing.T) {
	t.Parallel()
	s := openStore(t, Config{})
	a := livedIn(t, s, "kim")
	b := photograph(t, s, "kim")
	if _, err := a.Create(t.Context(), "Restored/INBOX", ""); err != nil {
		t.Fatal(err)
	}
	dest := openMailbox(t, a, "Restored/INBOX")
	x := b.messages[openMailbox(t, a, inbox).Info().GUID][0]
	content := stage(t, s, message(0))
	defer content.Discard()
	results, err := dest.PutBack(t.Context(), []RestoredMessage{{Content: content, EmailID: x.EmailID, Flags: FlagSeen, InternalDate: time.Unix(1e9, 0)}})
	if err != nil || results[0].Err != nil || results[0].UID == 0 {
		t.Fatal(results, err)
	}
	if m := dest.View().At(0); m.EmailID != x.EmailID || m.Flags != FlagSeen || m.InternalDate.Unix() != 1e9 || m.SaveDate.IsZero() {
		t.Errorf("%+v", m)
	}
}
