package mailstore

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/postern-mail/postern/backend/mailstore/acl"
	"github.com/postern-mail/postern/store/storetest"
)

// told writes what a watcher gathered in a form to compare. Mailboxes are named
// as they are now, or "-".
func (w *Watcher) told(a *Account) string {
	c := w.Take()
	if c.Lost {
		return "lost"
	}
	var all []string
	for _, m := range c.Mailboxes {
		all = append(all, fmt.Sprintf("%s[%s]%s", a.nameOf(m.Mailbox), m.Before, m.What.letters()))
	}
	for _, name := range c.Subscriptions {
		all = append(all, "sub "+name)
	}
	for _, e := range c.Entries {
		all = append(all, fmt.Sprintf("entry %c %s %s", e.Space, a.nameOf(e.Mailbox), e.Key))
	}
	return strings.Join(all, ", ")
}

func (k ChangeKind) letters() string {
	var b strings.Builder
	for i, letter := range "MFUNLA" {
		if k&(1<<i) != 0 {
			b.WriteRune(letter)
		}
	}
	return b.String()
}

func (a *Account) nameOf(mailbox GUID) string {
	if info, err := a.FindGUID(mailbox); err == nil {
		return info.Name
	}
	return "-"
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// TestWatch has one watcher see every kind of change that others make.
func TestWatch(t *testing.T) {
	t.Parallel()
	s := openStore(t, Config{})
	a := openAccount(t, s, "kim")
	ctx := t.Context()
	woken := 0
	w := a.Watch(nil, func() { woken++ })
	defer w.Close()
	expect := func(what, want string) {
		t.Helper()
		if got := w.told(a); got != want {
			t.Errorf("%s: told %q, want %q", what, got, want)
		}
	}
	expect("nothing", "")

	m := openMailbox(t, a, "INBOX")
	expect("loading a mailbox", "")
	uids := appendMessages(t, s, m, 2)
	if woken != 1 || !w.Pending() {
		t.Errorf("woken %d times, pending %v; two appends are one reason to look", woken, w.Pending())
	}
	expect("append", "INBOX[]MU")
	if w.Pending() {
		t.Error("something is pending after Take")
	}
	_, err := m.StoreFlags(ctx, uids, FlagsChange{Op: FlagsAdd, Flags: FlagFlagged})
	must(t, err)
	expect("flag", "INBOX[]F")
	_, err = m.StoreFlags(ctx, uids, FlagsChange{Op: FlagsAdd, Flags: FlagSeen})
	must(t, err)
	expect("seen", "INBOX[]FU")
	_, err = m.Remove(ctx, uids[:1])
	must(t, err)
	expect("expunge of a seen message", "INBOX[]M")
	content := stage(t, s, message(7))
	defer content.Discard()
	must(t, a.Deliver(ctx, []Delivery{{ID: "x", Content: content}})[0])
	expect("delivery", "INBOX[]MU")

	_, err = a.Create(ctx, "Work", "")
	must(t, err)
	expect("create", "Work[]N")
	_, err = a.Create(ctx, "Work/Old/1999", "")
	must(t, err)
	expect("create below", "Work/Old/1999[]N")
	must(t, a.Rename(ctx, "Work", "Play"))
	expect("rename", "Play[Work]N, Play/Old/1999[]L")
	must(t, a.Rename(ctx, "Play/Old/1999", "Play/1999"))
	must(t, a.Rename(ctx, "Play", "Work"))
	expect("two renames", "Work/1999[Play/Old/1999]NL, Work[Play]N")
	must(t, a.Delete(ctx, "Work/1999"))
	expect("delete", "-[Work/1999]N")

	must(t, a.Subscribe(ctx, "Work", true))
	expect("subscribe", "sub Work")
	must(t, a.Subscribe(ctx, "Nowhere", true))
	expect("subscribe to a name", "sub Nowhere")
	must(t, a.Subscribe(ctx, "Work", true))
	expect("subscribe again", "")
	must(t, a.Delete(ctx, "Work"))
	expect("a subscription outlives its mailbox", "-[Work]N")
	must(t, a.Subscribe(ctx, "Work", false))
	expect("unsubscribe", "sub Work")

	box, err := a.Find("INBOX")
	must(t, err)
	must(t, a.SetEntry(ctx, Entry{Space: SpaceMetadata, Mailbox: box.GUID, Key: "/shared/comment", Value: []byte("x")}))
	must(t, a.SetEntry(ctx, Entry{Space: SpaceMetadata, Key: "/private/comment", Value: []byte("x")}))
	expect("entries", "entry m INBOX /shared/comment, entry m - /private/comment")
	rights, err := acl.Parse("lr")
	must(t, err)
	must(t, a.SetAccess(ctx, box.GUID, "bob", &rights))
	expect("access", "INBOX[]A")

	if _, err := a.Create(As(ctx, w), "Mine", ""); err != nil {
		t.Fatal(err)
	}
	expect("somebody else's change", "Mine[]N")
	w.Close()
	_, err = a.Create(ctx, "Late", "")
	must(t, err)
	expect("after Close", "")
}

// TestWatchLeavesOutOwn: an actor's watcher is not told of what it did alone.
func TestWatchLeavesOutOwn(t *testing.T) {
	t.Parallel()
	s := openStore(t, Config{})
	a := openAccount(t, s, "kim")
	me := new(int)
	mine, other := a.Watch(me, nil), a.Watch(new(int), nil)
	defer mine.Close()
	defer other.Close()
	_, err := a.Create(As(t.Context(), me), "Mine", "")
	must(t, err)
	_, err = a.Create(t.Context(), "Theirs", "")
	must(t, err)
	if got := mine.told(a); got != "Theirs[]N" {
		t.Errorf("the actor was told %q", got)
	}
	if got := other.told(a); got != "Mine[]N, Theirs[]N" {
		t.Errorf("the other was told %q", got)
	}
}

// TestWatchBounded: who never looks keeps no more than the bound.
func TestWatchBounded(t *testing.T) {
	t.Parallel()
	s := openStore(t, Config{})
	a := openAccount(t, s, "kim")
	w := a.Watch(nil, nil)
	defer w.Close()
	for i := range maxPendingChanges + 1 {
		a.account.feed.mu.Lock()
		a.account.feed.tellLocked(&Changes{Subscriptions: []string{fmt.Sprint(i)}}, nil)
		a.account.feed.mu.Unlock()
	}
	if c := w.Take(); !c.Lost || len(c.Subscriptions) > 0 {
		t.Errorf("took %d subscriptions, lost %v", len(c.Subscriptions), c.Lost)
	}
	must(t, a.Subscribe(t.Context(), "x", true))
	if got := w.told(a); got != "sub x" {
		t.Errorf("after that told %q", got)
	}
}

// TestWatchAfterDoubt: an outcome that was not certain has the account read
// again, and nobody knows what changed.
func TestWatchAfterDoubt(t *testing.T) {
	t.Parallel()
	s := openStore(t, Config{})
	a := openAccount(t, s, "kim")
	w := a.Watch(nil, nil)
	defer w.Close()
	must(t, a.account.changeAlone(t.Context(), func(*txn) error { a.account.stale = true; return nil }))
	must(t, a.Subscribe(t.Context(), "x", true))
	if got := w.told(a); got != "lost" {
		t.Errorf("told %q", got)
	}
}

// TestWatchPartner: what the partner's records change is told as well.
func TestWatchPartner(t *testing.T) {
	t.Parallel()
	p := newPair(t, "kim")
	p.connect()
	there := p.nodes[1].account
	w := there.Watch(nil, nil)
	defer w.Close()
	p.nodes[0].add(t, "INBOX", 1)
	_, err := p.nodes[0].account.Create(t.Context(), "Work", "")
	must(t, err)
	must(t, p.nodes[0].account.Subscribe(t.Context(), "Work", true))
	p.calm()
	got := w.told(there)
	for _, want := range []string{"INBOX[]MU", "Work[]N", "sub Work"} {
		if !strings.Contains(got, want) {
			t.Errorf("told %q, want %q in it", got, want)
		}
	}
}

// TestWatchAutoexpunge: what is expunged for its age is told.
func TestWatchAutoexpunge(t *testing.T) {
	t.Parallel()
	now := time.Date(2020, 1, 1, 0, 0, 0, 0, time.UTC)
	s := openStore(t, Config{
		Now:       func() time.Time { return now },
		Mailboxes: []ConfiguredMailbox{{Name: "Trash", Autoexpunge: time.Hour}},
	})
	a := openAccount(t, s, "kim")
	appendMessages(t, s, openMailbox(t, a, "Trash"), 1)
	w := a.Watch(nil, nil)
	defer w.Close()
	now = now.Add(2 * time.Hour)
	must(t, s.Autoexpunge(t.Context()))
	if got := w.told(a); got != "Trash[]MU" {
		t.Errorf("told %q", got)
	}
}

// TestWatchSharing: whoever a list begins or ends to name is told, nobody else.
func TestWatchSharing(t *testing.T) {
	t.Parallel()
	s := openStore(t, Config{})
	a := openAccount(t, s, "kim")
	box, err := a.Find("INBOX")
	must(t, err)
	var bob, eve int
	stop := s.WatchSharing([]string{"bob", "anyone"}, func() { bob++ })
	defer s.WatchSharing([]string{"eve"}, func() { eve++ })()
	rights, err := acl.Parse("lr")
	must(t, err)
	must(t, a.SetAccess(t.Context(), box.GUID, "bob", &rights))
	must(t, a.SetAccess(t.Context(), box.GUID, "bob", nil))
	stop()
	must(t, a.SetAccess(t.Context(), box.GUID, "anyone", &rights))
	if bob != 2 || eve != 0 {
		t.Errorf("bob was told %d times, eve %d times", bob, eve)
	}
}

// TestWatchMany has many write while some watch: whoever looks when the channel
// says so has seen, at the end, the last state of every mailbox.
func TestWatchMany(t *testing.T) {
	t.Parallel()
	kv, blobs := storetest.Open(t)
	s := openOn(t, Config{}, kv, blobs)
	a := openAccount(t, s, "kim")
	const boxes, writers, each = 4, 8, 20
	var mailboxes []*Mailbox
	for i := range boxes {
		name := fmt.Sprint("Box", i)
		_, err := a.Create(t.Context(), name, "")
		must(t, err)
		mailboxes = append(mailboxes, openMailbox(t, a, name))
	}
	content := stage(t, s, message(0))
	defer content.Discard()

	ctx, stop := context.WithCancel(t.Context())
	var watching, writing sync.WaitGroup
	var wakes atomic.Int64
	seen := make([]map[GUID]uint64, 3)
	for i := range seen {
		w := a.Watch(nil, func() { wakes.Add(1) })
		seen[i] = make(map[GUID]uint64)
		look := func() {
			for _, m := range w.Take().Mailboxes {
				if info, err := a.FindGUID(m.Mailbox); err == nil {
					st, err := a.Status(t.Context(), info.Name)
					if err == nil {
						seen[i][m.Mailbox] = st.HighestModSeq
					}
				}
			}
		}
		watching.Go(func() {
			defer w.Close()
			for {
				select {
				case <-w.Ready():
					look()
				case <-ctx.Done():
					look()
					return
				}
			}
		})
	}
	for n := range writers {
		writing.Go(func() {
			m := mailboxes[n%boxes]
			for range each {
				uids, err := m.Append(t.Context(), []Append{{Content: content}})
				if err == nil {
					_, err = m.StoreFlags(t.Context(), uids, FlagsChange{Op: FlagsAdd, Flags: FlagSeen})
				}
				if err != nil {
					t.Error(err)
				}
				a.Watch(nil, nil).Close()
			}
		})
	}
	writing.Wait()
	stop()
	watching.Wait()
	if n := wakes.Load(); n == 0 || n > 3*2*writers*each {
		t.Errorf("%d wakes", n)
	}
	for i := range seen {
		for _, m := range mailboxes {
			if got, want := seen[i][m.Info().GUID], m.View().HighestModSeq(); got != want {
				t.Errorf("watcher %d saw %s at %d, want %d", i, m.Info().Name, got, want)
			}
		}
	}
	if len(a.account.feed.watchers) != 0 {
		t.Error("closed watchers are kept")
	}
}
