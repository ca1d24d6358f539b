package mailstore

import (
	"errors"
	"fmt"
	"slices"
	"testing"

	"github.com/postern-mail/postern/backend/mailstore/acl"
	"github.com/postern-mail/postern/store"
	"github.com/postern-mail/postern/store/storetest"
)

func setAccess(t testing.TB, a *Account, mailbox, identifier, rights string) {
	t.Helper()
	m, err := a.Find(mailbox)
	if err != nil {
		t.Fatal(err)
	}
	r, err := acl.Parse(rights)
	if err != nil {
		t.Fatal(err)
	}
	if err := a.SetAccess(t.Context(), m.GUID, identifier, &r); err != nil {
		t.Fatal(err)
	}
}

func access(t testing.TB, a *Account, mailbox string) string {
	t.Helper()
	m, err := a.Find(mailbox)
	if err != nil {
		t.Fatal(err)
	}
	return fmt.Sprint(a.Access(m.GUID))
}

func sharing(t testing.TB, s *Store, identifiers ...string) []string {
	t.Helper()
	names, err := s.Sharing(t.Context(), identifiers)
	if err != nil {
		t.Fatal(err)
	}
	return names
}

// TestAccess: lists are kept over a restart, and the index tells who shares.
func TestAccess(t *testing.T) {
	t.Parallel()
	kv, blobs := storetest.Open(t)
	s := openOn(t, Config{}, kv, blobs)
	for _, name := range []string{"kim", "lee", "ann"} {
		a := openAccount(t, s, name)
		setAccess(t, a, "INBOX", "bob", "lr")
		setAccess(t, a, "Sent", "bob", "lrs")
		setAccess(t, a, "Sent", "-bob", "s")
	}
	openAccount(t, s, "alone")
	kim := openAccount(t, s, "kim")
	setAccess(t, kim, "INBOX", "$staff", "l")
	setAccess(t, kim, "INBOX", "bobby", "l")
	if got := sharing(t, s, "bob", "anyone"); !slices.Equal(got, []string{"ann", "kim", "lee"}) {
		t.Errorf("sharing with bob: %q", got)
	}
	if got := sharing(t, s, "$staff"); !slices.Equal(got, []string{"kim"}) {
		t.Errorf("sharing with staff: %q", got)
	}
	for name, want := range map[string]bool{"kim": true, "alone": false, "nobody": false} {
		if got, err := s.IsShared(t.Context(), name, []string{"x", "bob"}); got != want || err != nil {
			t.Errorf("%s shares: %v, %v", name, got, err)
		}
	}
	if got, err := s.Visit(t.Context(), "nobody"); !errors.Is(err, ErrNoAccount) {
		t.Errorf("an account nobody has: %v, %v", got, err)
	}
	again := openOn(t, Config{}, kv, blobs)
	kim, err := again.Visit(t.Context(), "kim")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(kim.Close)
	if got := access(t, kim, "INBOX"); got != "[{$staff l} {bob lr} {bobby l}]" {
		t.Errorf("after a restart: %s", got)
	}
	if got := access(t, kim, "Sent"); got != "[{-bob s} {bob lrs}]" {
		t.Errorf("after a restart: %s", got)
	}
	for _, name := range []string{"INBOX", "Sent"} {
		m, _ := kim.Find(name)
		if err := kim.SetAccess(t.Context(), m.GUID, "bob", nil); err != nil {
			t.Fatal(err)
		}
	}
	if got := sharing(t, again, "bob"); !slices.Equal(got, []string{"ann", "lee"}) {
		t.Errorf("sharing with bob: %q", got)
	}
}

// TestAccessIsReplicated: the other node of a pair has lists and index, too.
func TestAccessIsReplicated(t *testing.T) {
	t.Parallel()
	p := newPair(t, "kim")
	p.connect()
	p.calm()
	setAccess(t, p.nodes[0].account, "INBOX", "bob", "lr")
	if _, err := p.nodes[0].account.Create(t.Context(), "INBOX/Sub", ""); err != nil {
		t.Fatal(err)
	}
	p.calm()
	for n, s := range p.nodes {
		if got := access(t, s.account, "INBOX"); got != "[{bob lr}]" {
			t.Errorf("node %d: %s", n, got)
		}
		if got := access(t, s.account, "INBOX/Sub"); got != "[{bob lr}]" {
			t.Errorf("node %d: inherited: %s", n, got)
		}
		if got := sharing(t, s.store, "bob"); !slices.Equal(got, []string{"kim"}) {
			t.Errorf("node %d: sharing with bob: %q", n, got)
		}
	}
	// Changed on both while they do not see each other: the later one wins.
	p.cut()
	setAccess(t, p.nodes[0].account, "INBOX", "bob", "lrs")
	for _, name := range []string{"INBOX", "INBOX/Sub"} {
		m, _ := p.nodes[1].account.Find(name)
		if err := p.nodes[1].account.SetAccess(t.Context(), m.GUID, "bob", nil); err != nil {
			t.Fatal(err)
		}
	}
	p.connect()
	p.calm()
	a, b := access(t, p.nodes[0].account, "INBOX"), access(t, p.nodes[1].account, "INBOX")
	if a != b {
		t.Errorf("nodes differ: %s and %s", a, b)
	}
	for n, s := range p.nodes {
		if got := access(t, s.account, "INBOX/Sub"); got != "[]" {
			t.Errorf("node %d: %s", n, got)
		}
		if got := sharing(t, s.store, "bob"); (len(got) == 0) != (a == "[]") {
			t.Errorf("node %d: list %s, index %q", n, a, got)
		}
	}
}

// TestIndexOfSharingIsMended: fsck finds what the index lacks, and what it has
// too much, and mends both.
func TestIndexOfSharingIsMended(t *testing.T) {
	t.Parallel()
	kv, blobs := storetest.Open(t)
	s := openOn(t, Config{}, kv, blobs)
	kim := openAccount(t, s, "kim")
	setAccess(t, kim, "INBOX", "bob", "lr")
	m, err := kim.Find("INBOX")
	if err != nil {
		t.Fatal(err)
	}
	b := store.NewBatch()
	b.Delete(sharedKey("bob", kim.GUID(), m.GUID))
	b.Put(sharedKey("eve", kim.GUID(), m.GUID), []byte{recordVersion})
	b.Put([]byte{tag, tagShared, 'x'}, nil)
	if _, err := kv.Commit(t.Context(), b); err != nil {
		t.Fatal(err)
	}
	err = s.Check(t.Context())
	if !errors.Is(err, errNotIndexed) || !errors.Is(err, errIndexedStale) {
		t.Errorf("found: %v", err)
	}
	repaired := 0
	again := openOn(t, Config{}, kv, blobs)
	if err := again.Repair(t.Context(), func(Finding, string) { repaired++ }); err != nil {
		t.Fatal(err)
	}
	if err := again.Check(t.Context()); err != nil || repaired != 3 {
		t.Errorf("%d repairs, then %v", repaired, err)
	}
	if got := append(sharing(t, again, "bob"), sharing(t, again, "eve")...); !slices.Equal(got, []string{"kim"}) {
		t.Errorf("sharing: %q", got)
	}
}

// TestAccessSurvivesPowerCuts: what was answered is there after a cut, and the
// index agrees with the lists, which the check at the end of a test looks at.
func TestAccessSurvivesPowerCuts(t *testing.T) {
	t.Parallel()
	type cut struct {
		left   *storetest.Machine
		before int
	}
	machine := storetest.NewMachine()
	var cuts []cut
	done := 0
	kv, blobs := machine.Open(t)
	s := openOn(t, Config{}, kv, blobs)
	kim := openAccount(t, s, "kim")
	machine.OnOp(func(n int) {
		if len(cuts) < 40 {
			cuts = append(cuts, cut{machine.Cut(uint64(n)), done})
		}
	})
	for i := range 8 {
		setAccess(t, kim, "INBOX", fmt.Sprint("user", i), "lr")
		done++
	}
	machine.OnOp(nil)
	if len(cuts) < 8 {
		t.Fatalf("only %d cuts", len(cuts))
	}
	for _, c := range cuts {
		kv, blobs := c.left.Open(t)
		again := openOn(t, Config{}, kv, blobs)
		m, err := openAccount(t, again, "kim").Find("INBOX")
		if err != nil {
			t.Fatal(err)
		}
		if got := len(openAccount(t, again, "kim").Access(m.GUID)); got < c.before {
			t.Errorf("%d of %d answered changes are there", got, c.before)
		}
	}
}

// TestRestrictedChanges: flags that a change must not touch stay, also those
// that come with a copy.
func TestRestrictedChanges(t *testing.T) {
	t.Parallel()
	s := openStore(t, Config{})
	a := openAccount(t, s, "kim")
	m := openMailbox(t, a, "INBOX")
	uids := appendMessages(t, s, m, 1)
	all := FlagsChange{Op: FlagsSet, Flags: FlagSeen | FlagFlagged, Keywords: []string{"x"}}
	for _, change := range []FlagsChange{
		all,
		{Op: FlagsSet, Flags: FlagSeen | FlagDeleted, Keywords: []string{"y"}, Except: FlagFlagged | FlagDeleted, ExceptKeywords: true},
		{Op: FlagsRemove, Flags: FlagFlagged | FlagSeen, Keywords: []string{"x"}, Except: FlagFlagged | FlagSeen, ExceptKeywords: true},
		{Op: FlagsAdd, Flags: FlagDeleted, Except: FlagDeleted},
	} {
		if _, err := m.StoreFlags(t.Context(), uids, change); err != nil {
			t.Fatal(err)
		}
		if got := m.View().At(0); got.Flags != FlagSeen|FlagFlagged || !slices.Equal(got.Keywords, []string{"x"}) {
			t.Errorf("%+v: flags %b %q", change, got.Flags, got.Keywords)
		}
	}
	to := openMailbox(t, a, "Sent")
	to.DropFlags(FlagSeen, true)
	if _, err := m.Copy(t.Context(), uids, to); err != nil {
		t.Fatal(err)
	}
	if _, err := m.Move(t.Context(), uids, to); err != nil {
		t.Fatal(err)
	}
	for i := range to.View().Len() {
		if got := to.View().At(i); got.Flags != FlagFlagged || len(got.Keywords) != 0 {
			t.Errorf("copy has %b %q", got.Flags, got.Keywords)
		}
	}
}

// TestDeletedMailboxesKeepNoEntries: who makes, shares and deletes mailboxes all
// day does not fill the account, and nobody is told of what is gone. A new one
// of that name begins anew.
func TestDeletedMailboxesKeepNoEntries(t *testing.T) {
	t.Parallel()
	p := newPair(t, "kim")
	p.connect()
	a := p.nodes[0].account
	m, err := a.Create(t.Context(), "Work", "")
	if err != nil {
		t.Fatal(err)
	}
	setAccess(t, a, "Work", "bob", "lr")
	list := make([]Entry, 250)
	for i := range list {
		list[i] = Entry{Space: SpaceMetadata, Mailbox: m.GUID, Key: fmt.Sprint("/shared/", i), Value: []byte("x")}
	}
	if err := a.SetEntries(t.Context(), list); err != nil {
		t.Fatal(err)
	}
	p.calm()
	if err := a.Delete(t.Context(), "Work"); err != nil {
		t.Fatal(err)
	}
	p.calm()
	if _, err := p.nodes[1].account.Create(t.Context(), "Work", ""); err != nil {
		t.Fatal(err)
	}
	p.calm()
	for n, s := range p.nodes {
		if left, err := s.account.Entries(t.Context(), SpaceMetadata, m.GUID); len(left) > 0 || err != nil || s.account.Access(m.GUID) != nil {
			t.Errorf("node %d: %d entries, %v are left, %v", n, len(left), s.account.Access(m.GUID), err)
		}
		if got := sharing(t, s.store, "bob"); len(got) > 0 {
			t.Errorf("node %d: sharing with bob: %q", n, got)
		}
		if got := access(t, s.account, "Work"); got != "[]" {
			t.Errorf("node %d: a new mailbox has the old one's list: %s", n, got)
		}
	}
}
