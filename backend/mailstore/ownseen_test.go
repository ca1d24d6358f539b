package mailstore

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/emersion/go-imap/v2"

	"github.com/postern-mail/postern/backend/mailstore/seenset"
	"github.com/postern-mail/postern/mail"
	"github.com/postern-mail/postern/store/storetest"
)

func openFor(t testing.TB, a *Account, name, reader string, inherit bool) *Mailbox {
	t.Helper()
	m, err := a.MailboxFor(context.Background(), name, &Reader{Account: reader, Inherit: inherit})
	if err != nil {
		t.Fatalf("mailbox %q for %s: %v", name, reader, err)
	}
	t.Cleanup(m.Close)
	return m
}

// seenIn lists what is read in a View.
func seenIn(v View) (uids []imap.UID) {
	for i := range v.Len() {
		if m := v.At(i); m.Flags&FlagSeen != 0 {
			uids = append(uids, m.UID)
		}
	}
	return uids
}

func storeSeen(t testing.TB, m *Mailbox, op FlagsOp, uids ...imap.UID) {
	t.Helper()
	if _, err := m.StoreFlags(context.Background(), uids, FlagsChange{Op: op, Flags: FlagSeen}); err != nil {
		t.Fatal(err)
	}
}

func expectSeen(t testing.TB, what string, m *Mailbox, want ...imap.UID) {
	t.Helper()
	v := m.View()
	if got := seenIn(v); !slices.Equal(got, want) || v.Unseen() != v.Len()-len(want) {
		t.Errorf("%s: %v are read, and %d unseen; want %v", what, got, v.Unseen(), want)
	}
}

// TestReaders: what one reads is read for nobody else, and for nobody else
// anything changed.
func TestReaders(t *testing.T) {
	t.Parallel()
	s := openStore(t, Config{})
	a := openAccount(t, s, "public")
	plain := openMailbox(t, a, "INBOX")
	uids := appendMessages(t, s, plain, 5)
	ann, ann2, bob := openFor(t, a, "INBOX", "ann", false), openFor(t, a, "INBOX", "ann", false), openFor(t, a, "INBOX", "bob", false)

	before, changed, other := ann.View(), ann2.Changed(), bob.Changed()
	bobBefore := bob.View()
	storeSeen(t, ann, FlagsAdd, uids[1], uids[3])
	select {
	case <-changed:
	default:
		t.Error("the reader's other session is not told")
	}
	select {
	case <-other:
		t.Error("another reader is told")
	default:
	}
	if bob.View() != bobBefore {
		t.Error("another reader's view changed")
	}
	expectSeen(t, "the reader", ann, uids[1], uids[3])
	expectSeen(t, "the reader's other session", ann2, uids[1], uids[3])
	expectSeen(t, "another", bob)
	expectSeen(t, "the owner", plain)
	if got := seenIn(before); len(got) > 0 {
		t.Errorf("the view of before has %v", got)
	}

	now := ann.View()
	if now.HighestModSeq() <= before.HighestModSeq() || now.At(1).ModSeq != now.HighestModSeq() || now.At(0).ModSeq != before.At(0).ModSeq {
		t.Errorf("MODSEQs %d, %d and %d, of the view %d and before %d", now.At(0).ModSeq, now.At(1).ModSeq, now.At(3).ModSeq, now.HighestModSeq(), before.HighestModSeq())
	}
	appendMessages(t, s, plain, 1)
	if v := ann.View(); v.HighestModSeq() <= now.HighestModSeq() || v.At(5).ModSeq <= now.HighestModSeq() {
		t.Error("what comes later has no later MODSEQ")
	}

	since := ann.View().At(0).ModSeq
	modified, err := ann.StoreFlags(t.Context(), uids[:2], FlagsChange{Op: FlagsAdd, Flags: FlagSeen | FlagFlagged, UnchangedSince: &since})
	if err != nil || !slices.Equal(modified, uids[1:2]) {
		t.Errorf("UNCHANGEDSINCE leaves %v alone, %v", modified, err)
	}
	expectSeen(t, "the reader", ann, uids[0], uids[1], uids[3])
	if m := plain.View().At(0); m.Flags != FlagFlagged {
		t.Errorf("the owner sees flags %x", m.Flags)
	}
	storeSeen(t, ann, FlagsSet, uids[2])
	storeSeen(t, ann, FlagsRemove, uids[0])
	expectSeen(t, "the reader", ann, uids[1], uids[2], uids[3])
	storeSeen(t, plain, FlagsAdd, uids[4])
	expectSeen(t, "the reader", ann, uids[1], uids[2], uids[3])

	st, err := a.StatusFor(t.Context(), "INBOX", &Reader{Account: "ann"})
	if err != nil || st.Unseen != 3 || st.HighestModSeq != ann.View().HighestModSeq() {
		t.Errorf("STATUS of the reader: %+v, %v", st, err)
	}
	if st, err := a.StatusFor(t.Context(), "INBOX", &Reader{Account: "cid"}); err != nil || st.Unseen != 6 {
		t.Errorf("STATUS of one who never read: %+v, %v", st, err)
	}
	if st, err := a.StatusFor(t.Context(), "INBOX", &Reader{Account: "cid", Inherit: true}); err != nil || st.Unseen != 5 {
		t.Errorf("STATUS of one who inherits: %+v, %v", st, err)
	}
}

// TestReaderInherits: what is stored as read is read until a reader says
// otherwise.
func TestReaderInherits(t *testing.T) {
	t.Parallel()
	s := openStore(t, Config{})
	a := openAccount(t, s, "public")
	plain := openMailbox(t, a, "INBOX")
	uids := appendMessages(t, s, plain, 3)
	storeSeen(t, plain, FlagsAdd, uids[0], uids[1])
	ann := openFor(t, a, "INBOX", "ann", true)
	expectSeen(t, "at first", ann, uids[0], uids[1])
	storeSeen(t, ann, FlagsRemove, uids[0])
	storeSeen(t, ann, FlagsAdd, uids[2])
	expectSeen(t, "then", ann, uids[1], uids[2])
	expectSeen(t, "the stored ones", plain, uids[0], uids[1])
}

// TestReaderPutsIn: messages that a reader adds, copies and moves come with
// \Seen for the reader alone, and go with it to where all have one.
func TestReaderPutsIn(t *testing.T) {
	t.Parallel()
	s := openStore(t, Config{})
	public, own := openAccount(t, s, "public"), openAccount(t, s, "ann")
	if _, err := public.Create(t.Context(), "Other", ""); err != nil {
		t.Fatal(err)
	}
	inbox, home := openFor(t, public, "INBOX", "ann", false), openMailbox(t, own, "INBOX")
	other := openFor(t, public, "Other", "ann", false)
	plain, plainOther := openMailbox(t, public, "INBOX"), openMailbox(t, public, "Other")
	content := stage(t, s, message(1))
	defer content.Discard()
	uids, err := inbox.Append(t.Context(), []Append{{Content: content, Flags: FlagSeen | FlagDraft}, {Content: content}})
	if err != nil {
		t.Fatal(err)
	}
	expectSeen(t, "after APPEND", inbox, uids[0])
	expectSeen(t, "others after APPEND", plain)

	copied, err := inbox.Copy(t.Context(), uids, home)
	if err != nil {
		t.Fatal(err)
	}
	expectSeen(t, "after COPY to the own account", home, copied.Dest[0])
	back, err := home.Copy(t.Context(), copied.Dest, other)
	if err != nil {
		t.Fatal(err)
	}
	expectSeen(t, "after COPY from the own account", other, back.Dest[0])
	expectSeen(t, "others", plainOther)
	moved, err := inbox.Move(t.Context(), uids, other)
	if err != nil {
		t.Fatal(err)
	}
	expectSeen(t, "after MOVE", other, back.Dest[0], moved.Dest[0])
	expectSeen(t, "others", plainOther)
	drop := openFor(t, public, "INBOX", "ann", false)
	drop.DropFlags(FlagSeen, false)
	if _, err := other.Copy(t.Context(), moved.Dest, drop); err != nil {
		t.Fatal(err)
	}
	expectSeen(t, "without the right", drop)
	if _, err := other.Replace(t.Context(), back.Dest[1], inbox, Append{Content: content, Flags: FlagSeen}); err != nil {
		t.Fatal(err)
	}
	expectSeen(t, "after REPLACE", inbox, inbox.View().At(inbox.View().Len()-1).UID)
	expectSeen(t, "others", plain)
}

// TestReaderReopened: it is all there after a restart, MODSEQs too, and also
// after an index was out of memory.
func TestReaderReopened(t *testing.T) {
	t.Parallel()
	kv, blobs := storetest.Open(t)
	s := openOn(t, Config{}, kv, blobs)
	a := openAccount(t, s, "public")
	plain := openMailbox(t, a, "INBOX")
	var all []imap.UID
	content := stage(t, s, message(1))
	defer content.Discard()
	for range 6 {
		uids, err := plain.Append(t.Context(), slices.Repeat([]Append{{Content: content}}, 50))
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, uids...)
	}
	ann := openFor(t, a, "INBOX", "ann", false)
	storeSeen(t, ann, FlagsAdd, all...)
	storeSeen(t, ann, FlagsRemove, all[10], all[270])
	v := ann.View()

	again := openFor(t, openAccount(t, openOn(t, Config{}, kv, blobs), "public"), "INBOX", "ann", false).View()
	if again.HighestModSeq() != v.HighestModSeq() || again.Unseen() != 2 {
		t.Errorf("MODSEQ %d and %d unseen, want %d and 2", again.HighestModSeq(), again.Unseen(), v.HighestModSeq())
	}
	for i := range v.Len() {
		if a, b := v.At(i), again.At(i); a.Flags != b.Flags || a.ModSeq != b.ModSeq {
			t.Fatalf("message %d has flags %x at %d, had %x at %d", i, b.Flags, b.ModSeq, a.Flags, a.ModSeq)
		}
	}
}

// seenEntries counts what is stored of readers.
func seenEntries(t testing.TB, a *Account, mailbox GUID) int {
	t.Helper()
	list, err := a.Entries(context.Background(), SpaceSeen, mailbox)
	if err != nil {
		t.Fatal(err)
	}
	return len(list)
}

// TestReaderIsForgotten: what was read of messages that are gone does not
// gather, and ends with the mailbox.
func TestReaderIsForgotten(t *testing.T) {
	t.Parallel()
	s := openStore(t, Config{})
	a := openAccount(t, s, "public")
	info, err := a.Create(t.Context(), "News", "")
	if err != nil {
		t.Fatal(err)
	}
	plain := openMailbox(t, a, "News")
	ann := openFor(t, a, "News", "ann", false)
	content := stage(t, s, message(1))
	defer content.Discard()
	for range 8 {
		uids, err := plain.Append(t.Context(), slices.Repeat([]Append{{Content: content}}, 100))
		if err != nil {
			t.Fatal(err)
		}
		storeSeen(t, ann, FlagsAdd, uids...)
		if _, err := plain.remove(t.Context(), uids[:99], false); err != nil {
			t.Fatal(err)
		}
		if _, err := plain.remove(t.Context(), uids[99:], false); err != nil {
			t.Fatal(err)
		}
	}
	if n := seenEntries(t, a, info.GUID); n > 2 {
		t.Errorf("%d entries are left for no message", n)
	}
	uids := appendMessages(t, s, plain, 2)
	storeSeen(t, ann, FlagsAdd, uids[1])
	expectSeen(t, "what came later", ann, uids[1])
	if err := a.Delete(t.Context(), "News"); err != nil {
		t.Fatal(err)
	}
	if err := s.Sweep(t.Context()); err != nil {
		t.Fatal(err)
	}
	if n := seenEntries(t, a, info.GUID); n != 0 {
		t.Errorf("%d entries are left of the mailbox", n)
	}
}

// TestReaderOnBothNodes: what is read on one node is read on the other, also
// when both wrote while they were apart.
func TestReaderOnBothNodes(t *testing.T) {
	t.Parallel()
	p := newPair(t, "public")
	p.connect()
	home := p.home()
	for i := range 6 {
		p.nodes[home].add(t, "INBOX", i)
	}
	p.calm()
	at := func(n int) *Mailbox { return openFor(t, p.nodes[n].account, "INBOX", "ann", false) }
	a, b := at(home), at(1-home)
	uids := uidsOf(a.View())
	before := b.View().HighestModSeq()
	storeSeen(t, a, FlagsAdd, uids[0], uids[1])
	p.calm()
	expectSeen(t, "the other node", b, uids[0], uids[1])
	if v := b.View(); v.At(0).ModSeq <= before || v.At(0).ModSeq > v.HighestModSeq() || v.At(2).ModSeq > before {
		t.Errorf("MODSEQs there %d and %d, before %d", v.At(0).ModSeq, v.At(2).ModSeq, before)
	}
	p.cut()
	storeSeen(t, a, FlagsAdd, uids[2])
	storeSeen(t, a, FlagsRemove, uids[0])
	storeSeen(t, b, FlagsAdd, uids[3], uids[4])
	storeSeen(t, b, FlagsRemove, uids[4])
	p.connect()
	p.calm()
	expectSeen(t, "home", a, uids[1], uids[2], uids[3])
	expectSeen(t, "the other node", b, uids[1], uids[2], uids[3])
	info := a.Info()
	var values [2]string
	for n := range values {
		list, err := p.nodes[n].account.Entries(t.Context(), SpaceSeen, info.GUID)
		if err != nil {
			t.Fatal(err)
		}
		values[n] = fmt.Sprintf("%x", list)
	}
	if values[0] != values[1] {
		t.Errorf("the nodes hold %s and %s", values[0], values[1])
	}
}

// TestReaderPowerCuts: what was answered is there after the power was cut, and
// MODSEQs never go down.
func TestReaderPowerCuts(t *testing.T) {
	t.Parallel()
	type cut struct {
		left   *storetest.Machine
		marked int64
		modseq uint64
	}
	m := storetest.NewMachine()
	kv, blobs := m.Open(t)
	s := openOn(t, Config{}, kv, blobs)
	a := openAccount(t, s, "public")
	plain := openMailbox(t, a, "INBOX")
	uids := appendMessages(t, s, plain, 12)
	ann := openFor(t, a, "INBOX", "ann", false)
	var marked atomic.Int64
	var modseq atomic.Uint64
	var cuts []cut
	m.OnOp(func(n int) {
		if n%2 == 0 {
			known, at := marked.Load(), modseq.Load()
			cuts = append(cuts, cut{m.Cut(uint64(n)), known, at})
		}
	})
	for i, uid := range uids {
		storeSeen(t, ann, FlagsAdd, uid)
		modseq.Store(ann.View().HighestModSeq())
		marked.Store(int64(i) + 1)
	}
	m.OnOp(nil)
	if len(cuts) < 5 {
		t.Fatalf("only %d cuts", len(cuts))
	}
	for i, c := range cuts {
		ok := t.Run(fmt.Sprint("cut ", i), func(t *testing.T) {
			kv, blobs := c.left.Open(t)
			s := openOn(t, Config{}, kv, blobs)
			a, err := s.Account(t.Context(), mail.Account{Name: "public"})
			if err != nil {
				t.Fatal(err)
			}
			defer a.Close()
			v := openFor(t, a, "INBOX", "ann", false).View()
			got := seenIn(v)
			if len(got) < int(c.marked) || len(got) > int(c.marked)+1 || !slices.Equal(got, uids[:len(got)]) {
				t.Errorf("%v are read, %d were answered", got, c.marked)
			}
			if v.HighestModSeq() < c.modseq {
				t.Errorf("HIGHESTMODSEQ is %d, was %d", v.HighestModSeq(), c.modseq)
			}
		})
		if !ok {
			return
		}
	}
}

// TestMalformedMarks: what a partner sends that is no block is refused.
func TestMalformedMarks(t *testing.T) {
	t.Parallel()
	s := openStore(t, Config{})
	a := openAccount(t, s, "public")
	info := openMailbox(t, a, "INBOX").Info()
	for what, e := range map[string]struct {
		name  []byte
		value string
	}{
		"a short name": {entryName(SpaceSeen, info.GUID, "x"), ""},
		"no block":     {seenName(info.GUID, GUID{1}, 0), "\x09"},
		"too long":     {seenName(info.GUID, GUID{1}, 0), "\x01" + strings.Repeat("\x01", 3*seenset.Size)},
	} {
		err := a.account.change(t.Context(), func(txn *txn) error { return txn.joinEntry(e.name, entry{value: []byte(e.value)}, nil) })
		if err == nil {
			t.Errorf("%s is taken", what)
		}
	}
}

// TestSameAt: Views of a reader are compared without making their messages.
func TestSameAt(t *testing.T) {
	t.Parallel()
	s := openStore(t, Config{})
	a := openAccount(t, s, "public")
	plain := openMailbox(t, a, "INBOX")
	uids := appendMessages(t, s, plain, 4)
	ann := openFor(t, a, "INBOX", "ann", false)
	storeSeen(t, ann, FlagsAdd, uids[1], uids[2])
	before := ann.View()
	storeSeen(t, ann, FlagsRemove, uids[2])
	storeSeen(t, plain, FlagsAdd, uids[3])
	after := ann.View()
	for i, want := range []bool{true, true, false, false} {
		if got := SameAt(before, i, after, i); got != want {
			t.Errorf("message %d is the same: %v", i+1, got)
		}
		if UIDAt(after, i) != uids[i] {
			t.Errorf("message %d has UID %d, want %d", i+1, UIDAt(after, i), uids[i])
		}
	}
	if SameAt(before, 0, after, 1) || SameAt(before, 1, plain.View(), 1) || !SameAt(plain.View(), 1, plain.View(), 1) {
		t.Error("what is another message, or seen by another, is the same")
	}
}
