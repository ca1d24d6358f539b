package mailstore

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/emersion/go-imap/v2"

	"github.com/postern-mail/postern/mail"
	"github.com/postern-mail/postern/store"
	"github.com/postern-mail/postern/store/storetest"
)

var allMail = &VirtualMailbox{Name: "All mail", SpecialUse: imap.MailboxAttrAll, Exclude: []string{"Trash", "Junk"}}

var flaggedMail = &VirtualMailbox{Name: "Flagged", Match: func(m *Message) bool { return m.Flags&FlagFlagged != 0 }}

func openVirtual(t testing.TB, a *Account, d *VirtualMailbox) *Virtual {
	t.Helper()
	v, err := a.Virtual(context.Background(), d)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(v.Close)
	return v
}

// addTo appends a message with that subject and flags to a mailbox, which is
// made when it is not there.
func addTo(t testing.TB, s *Store, a *Account, mailbox, subject string, flags Flags) {
	t.Helper()
	if _, err := a.Find(mailbox); err != nil {
		if _, err := a.Create(context.Background(), mailbox, ""); err != nil {
			t.Fatal(err)
		}
	}
	m, err := a.Mailbox(context.Background(), mailbox)
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	content := stage(t, s, "Subject: "+subject+"\r\n\r\nbody of "+subject+"\r\n")
	defer content.Discard()
	if _, err := m.Append(context.Background(), []Append{{Content: content, Flags: flags}}); err != nil {
		t.Fatal(err)
	}
}

// shownIn lists UID and subject of what is in a virtual mailbox, read through it.
func shownIn(t testing.TB, v *Virtual) (list []string) {
	t.Helper()
	now := v.View()
	for i := range now.Len() {
		m := now.At(i)
		body, err := v.Body(context.Background(), m)
		if err != nil {
			t.Fatalf("message %d: %v", m.UID, err)
		}
		b := make([]byte, body.Size())
		_, _ = body.ReadAt(b, 0)
		_ = body.Close()
		subject, _, _ := strings.Cut(strings.TrimPrefix(string(b), "Subject: "), "\r\n")
		list = append(list, fmt.Sprint(m.UID, " ", subject))
	}
	return list
}

// sound fails when the counts of a view are not those of its messages, or it is
// no successor of the one before.
func sound(t testing.TB, before, v View) {
	t.Helper()
	unseen, octets, last := 0, int64(0), imap.UID(0)
	for i := range v.Len() {
		m := v.At(i)
		if m.Flags&FlagSeen == 0 {
			unseen++
		}
		if octets += m.Octets; m.UID <= last || m.UID >= v.UIDNext() || m.ModSeq > v.HighestModSeq() {
			t.Errorf("message %d at %d behind %d, UIDNEXT %d, HIGHESTMODSEQ %d", m.UID, m.ModSeq, last, v.UIDNext(), v.HighestModSeq())
		}
		last = m.UID
		if at, found := v.Find(m.UID); !found || at != i {
			t.Errorf("message %d is not found", m.UID)
		}
		if before == nil || before.UIDValidity() != v.UIDValidity() {
			continue
		}
		k, was := before.Find(m.UID)
		if !was && (m.UID < before.UIDNext() || m.ModSeq <= before.HighestModSeq()) {
			t.Errorf("message %d is new at %d, the mailbox was at UID %d, MODSEQ %d", m.UID, m.ModSeq, before.UIDNext(), before.HighestModSeq())
		}
		if was && before.At(k).Flags != m.Flags && m.ModSeq <= before.HighestModSeq() {
			t.Errorf("flags of message %d changed at %d, the mailbox was at %d", m.UID, m.ModSeq, before.HighestModSeq())
		}
	}
	if unseen != v.Unseen() || octets != v.Octets() {
		t.Errorf("%d unseen and %d octets, counted %d and %d", v.Unseen(), v.Octets(), unseen, octets)
	}
}

func expectShown(t testing.TB, what string, v *Virtual, want ...string) {
	t.Helper()
	sound(t, nil, v.View())
	if got := shownIn(t, v); !slices.Equal(got, want) {
		t.Errorf("%s:\n got %q\nwant %q", what, got, want)
	}
}

// TestVirtual: the messages of all mailboxes but some stand together, follow
// what happens to them, and keep their UIDs.
func TestVirtual(t *testing.T) {
	t.Parallel()
	kv, blobs := storetest.Open(t)
	s := openOn(t, Config{}, kv, blobs)
	a := openAccount(t, s, "kim")
	addTo(t, s, a, "INBOX", "one", 0)
	addTo(t, s, a, "Trash/Old", "bin", 0)
	addTo(t, s, a, "Work", "two", FlagSeen)
	v := openVirtual(t, a, allMail)
	expectShown(t, "at first", v, "1 one", "2 two")
	first := v.View()

	changed := v.Changed()
	addTo(t, s, a, "Trasher", "three", 0)
	select {
	case <-changed:
	default:
		t.Error("nobody is told")
	}
	expectShown(t, "what came", v, "1 one", "2 two", "3 three")
	sound(t, first, v.View())
	before := v.View()
	addTo(t, s, a, "Junk", "spam", 0)
	if v.View() != before {
		t.Error("a message that is left out changes the view")
	}

	inbox := openMailbox(t, a, "INBOX")
	storeSeen(t, inbox, FlagsAdd, 1)
	sound(t, before, v.View())
	if got := seenIn(v.View()); !slices.Equal(got, []imap.UID{1, 2}) {
		t.Errorf("%v are read", got)
	}
	// Flags are the real ones', and UNCHANGEDSINCE means what it says here.
	since := before.HighestModSeq()
	modified, err := v.StoreFlags(t.Context(), []imap.UID{1, 2, 3}, FlagsChange{Op: FlagsAdd, Flags: FlagFlagged, Keywords: []string{"x"}, UnchangedSince: &since})
	if err != nil || !slices.Equal(modified, []imap.UID{1}) {
		t.Errorf("modified %v, %v", modified, err)
	}
	if m := openMailbox(t, a, "Work").View().At(0); m.Flags != FlagSeen|FlagFlagged {
		t.Errorf("the real one has flags %x", m.Flags)
	}
	if got := v.View().Keywords(); !slices.Equal(got, []string{"x"}) {
		t.Errorf("keywords %q", got)
	}

	before = v.View()
	trash := openMailbox(t, a, "Trash/Old")
	moved, err := v.Move(t.Context(), []imap.UID{2}, trash)
	if err != nil || !slices.Equal(moved.Source, []imap.UID{2}) || len(moved.Dest) != 1 {
		t.Errorf("moved %+v, %v", moved, err)
	}
	expectShown(t, "what left", v, "1 one", "3 three")
	if gone, complete := v.ExpungedSince(before.HighestModSeq()); !complete || !slices.Equal(gone, []imap.UID{2}) {
		t.Errorf("expunged %v, %v", gone, complete)
	}
	if v.View().HighestModSeq() <= before.HighestModSeq() {
		t.Error("what left has no later MODSEQ")
	}
	if _, err := trash.Move(t.Context(), moved.Dest, inbox); err != nil {
		t.Fatal(err)
	}
	expectShown(t, "what came back", v, "1 one", "3 three", "4 two")
	copied, err := v.Copy(t.Context(), []imap.UID{3, 1, 4}, trash)
	if err != nil || !slices.Equal(copied.Source, []imap.UID{1, 3, 4}) {
		t.Errorf("copied %+v, %v", copied, err)
	}
	for i, uid := range copied.Dest {
		k, _ := trash.View().Find(uid)
		if m := trash.View().At(k); m.EmailID != v.View().At(i).EmailID {
			t.Errorf("copy %d is of another message", uid)
		}
	}
	if _, err := v.StoreFlags(t.Context(), []imap.UID{3, 4}, FlagsChange{Op: FlagsAdd, Flags: FlagDeleted}); err != nil {
		t.Fatal(err)
	}
	v.View()
	if gone, err := v.Expunge(t.Context(), []imap.UID{4, 1}); err != nil || !slices.Equal(gone, []imap.UID{4}) {
		t.Errorf("expunged %v, %v", gone, err)
	}
	if gone, err := v.Expunge(t.Context(), nil); err != nil || !slices.Equal(gone, []imap.UID{3}) {
		t.Errorf("expunged %v, %v", gone, err)
	}
	expectShown(t, "what is left", v, "1 one")

	// Mailboxes come in and go by their names.
	before = v.View()
	if err := a.Rename(t.Context(), "Junk", "Fine"); err != nil {
		t.Fatal(err)
	}
	expectShown(t, "a mailbox that came in", v, "1 one", "5 spam")
	sound(t, before, v.View())
	if err := a.Rename(t.Context(), "INBOX", "Junk"); err != nil {
		t.Fatal(err)
	}
	expectShown(t, "a mailbox that went", v, "5 spam")
	last := v.View()

	// All of it is there after a restart, and what happened meanwhile.
	addTo(t, s, a, "INBOX", "six", 0)
	v.Close()
	addTo(t, s, a, "INBOX", "seven", 0)
	again := openVirtual(t, openAccount(t, openOn(t, Config{}, kv, blobs), "kim"), allMail)
	expectShown(t, "after a restart", again, "5 spam", "6 six", "7 seven")
	if now := again.View(); now.UIDValidity() != first.UIDValidity() {
		t.Errorf("UIDVALIDITY %d, was %d", now.UIDValidity(), first.UIDValidity())
	}
	sound(t, last, again.View())
	if gone, complete := again.ExpungedSince(first.HighestModSeq()); !complete || !slices.Equal(gone, []imap.UID{1, 2, 3, 4}) {
		t.Errorf("expunged %v, %v", gone, complete)
	}
	if list, _ := a.List(t.Context()); slices.ContainsFunc(list, func(m MailboxInfo) bool { return m.Name == allMail.Name }) {
		t.Error("the virtual mailbox is a real one")
	}
}

// TestVirtualByFlags: messages come and go as their flags change, with a new UID
// each time.
func TestVirtualByFlags(t *testing.T) {
	t.Parallel()
	s := openStore(t, Config{})
	a := openAccount(t, s, "kim")
	addTo(t, s, a, "INBOX", "one", FlagFlagged)
	addTo(t, s, a, "INBOX", "two", 0)
	v, inbox := openVirtual(t, a, flaggedMail), openMailbox(t, a, "INBOX")
	expectShown(t, "at first", v, "1 one")
	change := func(op FlagsOp, uids ...imap.UID) {
		before := v.View()
		if _, err := inbox.StoreFlags(t.Context(), uids, FlagsChange{Op: op, Flags: FlagFlagged}); err != nil {
			t.Fatal(err)
		}
		sound(t, before, v.View())
	}
	change(FlagsAdd, 2)
	expectShown(t, "two are flagged", v, "1 one", "2 two")
	change(FlagsRemove, 1)
	expectShown(t, "one is not any more", v, "2 two")
	change(FlagsAdd, 1)
	expectShown(t, "it is again", v, "2 two", "3 one")
	meta, err := v.Meta(t.Context(), v.View().At(1))
	if err != nil || !strings.Contains(string(meta.Header), "Subject: one") {
		t.Errorf("meta %+v, %v", meta, err)
	}
	if _, err := inbox.Remove(t.Context(), []imap.UID{1}); err != nil {
		t.Fatal(err)
	}
	if _, err := v.Body(t.Context(), &Message{UID: 3, Instance: &Instance{}}); err == nil {
		v.View()
		if _, err := v.Body(t.Context(), &Message{UID: 3, Instance: &Instance{}}); err == nil {
			t.Error("a message that is gone can be read")
		}
	}
	expectShown(t, "it is gone", v, "2 two")
}

// TestVirtualOfMany: more messages than one commit takes in.
func TestVirtualOfMany(t *testing.T) {
	t.Parallel()
	kv, blobs := storetest.Open(t)
	s := openOn(t, Config{}, kv, blobs)
	a := openAccount(t, s, "kim")
	inbox := openMailbox(t, a, "INBOX")
	content := stage(t, s, message(1))
	defer content.Discard()
	const n = virtualCommit*virtualBlock + 3*virtualBlock
	uids, err := inbox.Append(t.Context(), slices.Repeat([]Append{{Content: content}}, 50))
	if err != nil {
		t.Fatal(err)
	}
	for have := len(uids); have < n; have *= 2 {
		if _, err := inbox.Copy(t.Context(), uidsOf(inbox.View())[:min(have, n-have)], inbox); err != nil {
			t.Fatal(err)
		}
	}
	v := openVirtual(t, a, allMail)
	now := v.View()
	if now.Len() != inbox.View().Len() || now.UIDNext() != imap.UID(now.Len()+1) {
		t.Fatalf("%d messages, UIDNEXT %d, want %d", now.Len(), now.UIDNext(), inbox.View().Len())
	}
	sound(t, nil, now)
	var every []imap.UID
	for i := 0; i < now.Len(); i += 2 {
		every = append(every, inbox.View().At(i).UID)
	}
	if _, err := inbox.Remove(t.Context(), every); err != nil {
		t.Fatal(err)
	}
	left := v.View()
	sound(t, now, left)
	if gone, complete := v.ExpungedSince(now.HighestModSeq()); left.Len() != inbox.View().Len() || !complete || len(gone) != now.Len()-left.Len() {
		t.Errorf("%d messages of %d, %d expunged, %v", left.Len(), inbox.View().Len(), len(gone), complete)
	}
	again := openVirtual(t, openAccount(t, openOn(t, Config{}, kv, blobs), "kim"), allMail).View()
	if !slices.Equal(uidsOf(left), uidsOf(again)) || again.HighestModSeq() != left.HighestModSeq() {
		t.Error("it is another after a restart")
	}
}

// TestVirtualLogIsBounded: of what went, only so much is remembered, and that it
// was forgotten is told.
func TestVirtualLogIsBounded(t *testing.T) {
	t.Parallel()
	s := openStore(t, Config{})
	a := openAccount(t, s, "kim")
	addTo(t, s, a, "INBOX", "one", 0)
	v, inbox := openVirtual(t, a, flaggedMail), openMailbox(t, a, "INBOX")
	start := v.View().HighestModSeq()
	v.View()
	full := *v.box.index
	full.logs = maxVirtualLogs - 10 // so many more are not told of
	v.box.index = &full
	for range 20 {
		for _, op := range []FlagsOp{FlagsAdd, FlagsRemove} {
			if _, err := inbox.StoreFlags(t.Context(), []imap.UID{1}, FlagsChange{Op: op, Flags: FlagFlagged}); err != nil {
				t.Fatal(err)
			}
			v.View()
		}
	}
	if gone, complete := v.ExpungedSince(start); complete || len(gone) >= 20 {
		t.Errorf("%d expunged, %v", len(gone), complete)
	}
}

// TestVirtualIsMadeAnew: a damaged index is replaced, with another UIDVALIDITY.
func TestVirtualIsMadeAnew(t *testing.T) {
	t.Parallel()
	kv, blobs := storetest.Open(t)
	s := openOn(t, Config{}, kv, blobs)
	a := openAccount(t, s, "kim")
	addTo(t, s, a, "INBOX", "one", 0)
	addTo(t, s, a, "INBOX", "two", 0)
	v := openVirtual(t, a, allMail)
	before := v.View()
	v.Close()
	for i, damage := range []struct {
		part  byte
		value string
	}{{virtualHeader, "\xff"}, {virtualMembers, "\x01\xff\xff"}} {
		b := store.NewBatch()
		key := v.box.key(damage.part)
		if damage.part == virtualMembers {
			key = append(key, 0, 0, 0, 0)
		}
		b.Put(key, []byte(damage.value))
		if _, err := kv.Commit(t.Context(), b); err != nil {
			t.Fatal(err)
		}
		again := openVirtual(t, openAccount(t, openOn(t, Config{}, kv, blobs), "kim"), allMail)
		expectShown(t, fmt.Sprint("after damage ", i), again, "1 one", "2 two")
		if now := again.View(); damage.part == virtualMembers && now.UIDValidity() <= before.UIDValidity() {
			t.Errorf("UIDVALIDITY %d after %d", now.UIDValidity(), before.UIDValidity())
		}
		again.Close()
	}
}

// TestVirtualInAPair: each node has the messages of both, in a mailbox with its
// own UIDVALIDITY.
func TestVirtualInAPair(t *testing.T) {
	t.Parallel()
	p := newPair(t, "kim")
	p.connect()
	p.nodes[0].deliver(t, "a", 1)
	p.calm()
	var views [2]*Virtual
	for n := range views {
		views[n] = openVirtual(t, p.nodes[n].account, allMail)
	}
	p.nodes[0].deliver(t, "b", 2)
	p.nodes[1].deliver(t, "c", 3)
	p.calm()
	for n, v := range views {
		if now := v.View(); now.Len() != 3 {
			t.Errorf("node %d shows %d messages", n, now.Len())
		}
		sound(t, nil, v.View())
	}
	if a, b := views[0].View().UIDValidity(), views[1].View().UIDValidity(); a == b {
		t.Errorf("both have UIDVALIDITY %d", a)
	}
	if a, b := views[0].Info(), views[1].Info(); a.GUID != b.GUID {
		t.Error("they are two mailboxes")
	}
	before := views[1].View()
	if _, err := views[0].StoreFlags(t.Context(), []imap.UID{1}, FlagsChange{Op: FlagsAdd, Flags: FlagSeen}); err != nil {
		t.Fatal(err)
	}
	p.calm()
	if now := views[1].View(); now.Unseen() != 2 {
		t.Errorf("%d unseen on the other node", now.Unseen())
	}
	sound(t, before, views[1].View())
}

// TestVirtualPowerCuts: after the power was cut UIDs are those that were told,
// and MODSEQs do not go down.
func TestVirtualPowerCuts(t *testing.T) {
	t.Parallel()
	type cut struct {
		left *storetest.Machine
		told View
	}
	m := storetest.NewMachine()
	kv, blobs := m.Open(t)
	s := openOn(t, Config{}, kv, blobs)
	a := openAccount(t, s, "kim")
	addTo(t, s, a, "INBOX", "first", 0)
	addTo(t, s, a, "Work", "second", 0)
	v := openVirtual(t, a, allMail)
	var told atomic.Pointer[View]
	now := v.View()
	told.Store(&now)
	var cuts []cut
	m.OnOp(func(n int) {
		if n%3 == 0 {
			known := *told.Load()
			cuts = append(cuts, cut{m.Cut(uint64(n)), known})
		}
	})
	for i := range 6 {
		addTo(t, s, a, []string{"INBOX", "Work"}[i%2], fmt.Sprint("more ", i), 0)
		now := v.View()
		told.Store(&now)
		if i%3 == 2 {
			if _, err := v.StoreFlags(t.Context(), []imap.UID{imap.UID(i)}, FlagsChange{Op: FlagsAdd, Flags: FlagDeleted}); err != nil {
				t.Fatal(err)
			}
			if _, err := v.Expunge(t.Context(), []imap.UID{imap.UID(i)}); err != nil {
				t.Fatal(err)
			}
			now := v.View()
			told.Store(&now)
		}
	}
	m.OnOp(nil)
	if len(cuts) < 5 {
		t.Fatalf("only %d cuts", len(cuts))
	}
	for i, c := range cuts {
		ok := t.Run(fmt.Sprint("cut ", i), func(t *testing.T) {
			kv, blobs := c.left.Open(t)
			a, err := openOn(t, Config{}, kv, blobs).Account(t.Context(), mail.Account{Name: "kim"})
			if err != nil {
				t.Fatal(err)
			}
			defer a.Close()
			v := openVirtual(t, a, allMail)
			now := v.View()
			sound(t, c.told, now)
			if now.UIDValidity() != c.told.UIDValidity() || now.UIDNext() < c.told.UIDNext() || now.HighestModSeq() < c.told.HighestModSeq() {
				t.Errorf("UIDVALIDITY %d, UIDNEXT %d, HIGHESTMODSEQ %d; told were %d, %d, %d", now.UIDValidity(), now.UIDNext(), now.HighestModSeq(),
					c.told.UIDValidity(), c.told.UIDNext(), c.told.HighestModSeq())
			}
			for i := range c.told.Len() {
				old := c.told.At(i)
				if k, ok := now.Find(old.UID); ok && now.At(k).Dot != old.Dot {
					t.Errorf("UID %d is another message", old.UID)
				}
			}
		})
		if !ok {
			return
		}
	}
}

// TestVirtualStaysInMemory: what nobody has open is kept for the next, who sees
// all that happened meanwhile, and can change it.
func TestVirtualStaysInMemory(t *testing.T) {
	t.Parallel()
	s := openStore(t, Config{})
	a := openAccount(t, s, "kim")
	addTo(t, s, a, "INBOX", "one", 0)
	addTo(t, s, a, "INBOX", "two", 0)
	first := openVirtual(t, a, allMail)
	before := first.View()
	first.Close()
	a.account.names["INBOX"].unload()
	v := openVirtual(t, a, allMail)
	if v.box != first.box {
		t.Error("it was forgotten")
	}
	sound(t, before, v.View())
	addTo(t, s, a, "INBOX", "three", 0)
	if _, err := v.StoreFlags(t.Context(), []imap.UID{1}, FlagsChange{Op: FlagsAdd, Flags: FlagDeleted}); err != nil {
		t.Fatal(err)
	}
	v.View()
	if _, err := v.Expunge(t.Context(), nil); err != nil {
		t.Fatal(err)
	}
	expectShown(t, "then", v, "2 two", "3 three")
	v.Close()
	other := *allMail
	other.Exclude = []string{"INBOX"}
	expectShown(t, "with another configuration", openVirtual(t, a, &other))
}

// TestVirtualAtOnce: several sessions change the messages and look at the same
// time, and each sees a successor of what it saw.
func TestVirtualAtOnce(t *testing.T) {
	t.Parallel()
	s := openStore(t, Config{})
	a := openAccount(t, s, "kim")
	for i := range 20 {
		addTo(t, s, a, []string{"INBOX", "Work"}[i%2], fmt.Sprint(i), 0)
	}
	work := openMailbox(t, a, "Work")
	var group sync.WaitGroup
	for n := range 3 {
		group.Go(func() {
			v, err := a.Virtual(context.Background(), allMail)
			if err != nil {
				t.Error(err)
				return
			}
			defer v.Close()
			before := v.View()
			for i := range 10 {
				m := before.At((7*i + n) % before.Len())
				if _, err := v.StoreFlags(context.Background(), []imap.UID{m.UID}, FlagsChange{Op: FlagsAdd, Flags: FlagSeen}); err != nil {
					t.Error(err)
				}
				if _, err := v.Move(context.Background(), []imap.UID{m.UID}, work); err != nil {
					t.Error(err)
				}
				now := v.View()
				sound(t, before, now)
				before = now
			}
		})
	}
	group.Wait()
	if v := openVirtual(t, a, allMail); v.View().Len() != 20 {
		t.Errorf("%d messages", v.View().Len())
	}
}
