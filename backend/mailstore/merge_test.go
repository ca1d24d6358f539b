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
	"github.com/hashicorp/go-hclog"
	"pgregory.net/rapid"

	"github.com/postern-mail/postern/mail"
	"github.com/postern-mail/postern/store"
	"github.com/postern-mail/postern/store/memory"
)

// memoryPair are two nodes in memory, with a clock that stands still unless it
// is moved.
type memoryPair struct {
	*twoNodes
	disks [2]*memory.Disk
	clock time.Time
	// moved counts the octets of state merges, questions the questions.
	moved, questions int
	conflicts        []Conflict
}

func newMemoryPair(t testing.TB) *memoryPair {
	m := &memoryPair{twoNodes: &twoNodes{t: t, name: "kim"}, clock: time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)}
	for n := range m.nodes {
		m.disks[n] = memory.NewDisk()
		m.open(n)
		m.enter(n)
	}
	return m
}

// open starts a node on its disk; enter makes it one that clients can use.
func (m *memoryPair) open(n int) {
	m.t.Helper()
	s := &side{}
	m.nodes[n] = s
	kv, blobs := m.disks[n].Open()
	s.kv, s.blobs = kv, blobs
	var err error
	cfg := Config{Node: uint16(n), Pair: true, UIDWait: -1, Mailboxes: []ConfiguredMailbox{}, Now: func() time.Time { return m.clock }}
	if s.store, err = Open(context.Background(), cfg, s.kv, s.blobs, hclog.NewNullLogger()); err != nil {
		m.t.Fatal(err)
	}
	if s.replica, err = s.store.Replica(context.Background(), accountGUID(m.name), m.name); err != nil {
		m.t.Fatal(err)
	}
}

func (m *memoryPair) enter(n int) {
	m.t.Helper()
	s := m.nodes[n]
	var err error
	m.check(s.store.Join(context.Background()))
	s.account, err = s.store.Account(context.Background(), mail.Account{Name: m.name})
	m.check(err)
}

func (m *memoryPair) pass(d time.Duration) { m.clock = m.clock.Add(d) }

// pull merges the other node's state into node n, and stops before the
// question stop, if that is not negative.
func (m *memoryPair) pull(n, stop int, deep bool) Applied {
	m.t.Helper()
	ctx := context.Background()
	into, from := m.nodes[n], m.nodes[1-n]
	p, err := into.replica.Pull(ctx)
	m.check(err)
	p.Deep = deep
	for i := 0; ; i++ {
		query, err := p.Query(ctx)
		m.check(err)
		if query == nil || i == stop {
			m.conflicts = append(m.conflicts, p.Applied().Conflicts...)
			return p.Applied()
		}
		answer, err := from.replica.Answer(ctx, query)
		m.check(err)
		m.moved += len(query) + len(answer)
		m.questions++
		need, err := p.Take(ctx, answer)
		m.check(err)
		if len(need) > 0 {
			m.give(p, into, from, need)
		}
	}
}

func (m *memoryPair) give(p *Puller, into, from *side, need []store.Ref) {
	m.t.Helper()
	ctx := context.Background()
	bodies, gone := make(map[store.Hash]store.Staged), make(Gone)
	for _, ref := range need {
		body, err := from.blobs.Open(ctx, ref)
		if errors.Is(err, store.ErrNotFound) {
			gone[ref.Hash] = 0
			continue
		}
		m.check(err)
		bodies[ref.Hash], err = into.store.Stage(ctx, body)
		m.check(err)
	}
	m.check(p.Give(ctx, bodies, gone))
}

// heal connects the nodes, lets them come to rest and compares them.
func (m *memoryPair) heal() {
	m.t.Helper()
	m.connect()
	m.calm()
	m.pass(2 * time.Second)
	m.connect()
	m.calm()
	for _, s := range m.nodes {
		done, err := s.replica.Housekeep(context.Background())
		m.check(err)
		m.conflicts = append(m.conflicts, done.Conflicts...)
	}
	m.calm()
	m.alike()
}

// calm is twoNodes.calm with the conflicts kept.
func (m *memoryPair) calm() {
	m.t.Helper()
	for round := 0; ; round++ {
		moved := false
		for from := range m.nodes {
			if applied, ok := m.send(from, 1<<20); ok {
				moved = true
				m.conflicts = append(m.conflicts, applied.Conflicts...)
				m.acknowledge(from, applied)
			}
		}
		if !moved {
			return
		}
		if round > 200 {
			m.t.Fatal("the nodes do not come to rest")
		}
	}
}

func (s *side) names(t testing.TB) []string {
	list, err := s.account.List(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, info := range list {
		name := info.Name
		if info.Subscribed {
			name += "*"
		}
		if !info.Exists {
			name += "?"
		}
		names = append(names, name)
	}
	return names
}

// alike fails unless both nodes show the same and have the same digest.
func (m *memoryPair) alike() {
	m.t.Helper()
	a, b := m.nodes[0].names(m.t), m.nodes[1].names(m.t)
	if !slices.Equal(a, b) {
		m.t.Fatalf("mailboxes %q, %q", a, b)
	}
	for _, name := range a {
		if name = strings.TrimSuffix(name, "*"); !strings.HasSuffix(name, "?") {
			m.same(name)
		}
	}
	x, err := m.nodes[0].replica.Position(context.Background())
	m.check(err)
	y, err := m.nodes[1].replica.Position(context.Background())
	m.check(err)
	if x.Digest != y.Digest || !x.Settled || !y.Settled {
		m.t.Errorf("digests %x, %x; settled %v, %v", x.Digest, y.Digest, x.Settled, y.Settled)
	}
	for n, s := range m.nodes {
		if err := s.store.Check(context.Background()); err != nil {
			m.t.Errorf("node %d: %v", n, err)
		}
	}
}

func (m *memoryPair) conflict(kind ConflictKind) bool {
	return slices.ContainsFunc(m.conflicts, func(c Conflict) bool { return c.Kind == kind })
}

// subjects lists a mailbox of both nodes, which are alike, without UIDs.
func (m *memoryPair) subjects(mailbox string) (list []string) {
	m.t.Helper()
	for _, line := range m.nodes[0].list(m.t, mailbox) {
		_, rest, _ := strings.Cut(line, " ")
		list = append(list, rest)
	}
	slices.Sort(list)
	return list
}

func (s *side) create(t testing.TB, name string) {
	t.Helper()
	if _, err := s.account.Create(context.Background(), name, ""); err != nil {
		t.Fatal(err)
	}
}

func (s *side) flag(t testing.TB, mailbox string, uid imap.UID, c FlagsChange) {
	t.Helper()
	box, err := s.account.Mailbox(context.Background(), mailbox)
	if err != nil {
		t.Fatal(err)
	}
	defer box.Close()
	if _, err := box.StoreFlags(context.Background(), []imap.UID{uid}, c); err != nil {
		t.Fatal(err)
	}
}

func (s *side) expunge(t testing.TB, mailbox string, uids ...imap.UID) {
	t.Helper()
	box, err := s.account.Mailbox(context.Background(), mailbox)
	if err != nil {
		t.Fatal(err)
	}
	defer box.Close()
	if _, err := box.remove(context.Background(), uids, false); err != nil {
		t.Fatal(err)
	}
}

// One mail on each side of a split: both are on both afterwards.
func TestMergeOneMailOnEachSide(t *testing.T) {
	t.Parallel()
	for _, byState := range []bool{false, true} {
		m := newMemoryPair(t)
		m.heal()
		m.nodes[0].add(t, inbox, 0)
		m.heal()
		m.cut()
		m.nodes[0].add(t, inbox, 1)
		m.nodes[1].add(t, inbox, 2)
		if byState {
			m.pull(0, -1, false)
			m.pull(1, -1, false)
		}
		m.heal()
		if got := m.subjects(inbox); len(got) != 3 {
			t.Errorf("by state %v: %v", byState, got)
		}
	}
}

// A mailbox is deleted on one node while mail is put into it on the other, which
// the one who deleted it cannot have seen: it stays, with just that mail.
func TestMergeDeleteAgainstAppend(t *testing.T) {
	t.Parallel()
	for _, byState := range []bool{false, true} {
		for _, expunged := range []bool{false, true} {
			m := newMemoryPair(t)
			m.heal()
			m.nodes[0].create(t, "X")
			m.nodes[0].add(t, "X", 0)
			m.heal()
			before, err := m.nodes[1].account.Status(t.Context(), "X")
			m.check(err)
			m.cut()
			m.check(m.nodes[0].account.Delete(t.Context(), "X"))
			m.nodes[1].add(t, "X", 1)
			if expunged {
				m.nodes[1].expunge(t, "X", m.nodes[1].uids(t, "X")[1])
			}
			if byState {
				m.pull(1, -1, false)
				m.pull(0, -1, false)
			}
			m.heal()
			want := 1
			if expunged {
				want = 0
			}
			if got := m.subjects("X"); len(got) != want {
				t.Errorf("by state %v, expunged %v: %v", byState, expunged, got)
			}
			after, err := m.nodes[0].account.Status(t.Context(), "X")
			m.check(err)
			if after.UIDValidity != before.UIDValidity || !expunged && after.UIDNext <= before.UIDNext || after.GUID != before.GUID {
				t.Errorf("before %+v, after %+v", before, after)
			}
			if !m.conflict(ConflictDeleted) {
				t.Errorf("not told: %v", m.conflicts)
			}
			for _, s := range m.nodes {
				m.check(s.store.Sweep(t.Context()))
			}
			m.alike()
		}
	}
}

func (s *side) uids(t testing.TB, mailbox string) []imap.UID {
	t.Helper()
	box, err := s.account.Mailbox(context.Background(), mailbox)
	if err != nil {
		t.Fatal(err)
	}
	defer box.Close()
	return box.View().(*view).uidList()
}

// What a node expunged does not come back when the journals do not reach each
// other any more.
func TestMergeResurrectsNothing(t *testing.T) {
	t.Parallel()
	m := newMemoryPair(t)
	m.heal()
	for i := range 8 {
		m.nodes[0].add(t, inbox, i)
	}
	m.heal()
	m.cut()
	uids := m.nodes[0].uids(t, inbox)
	m.nodes[0].expunge(t, inbox, uids[2], uids[6], uids[7])
	m.nodes[1].flag(t, inbox, uids[7], FlagsChange{Op: FlagsAdd, Flags: FlagSeen})
	m.pull(1, -1, false)
	m.pull(0, -1, false)
	m.heal()
	if got := m.subjects(inbox); len(got) != 5 {
		t.Errorf("left %v", got)
	}
}

// A record that got lost on a node's disk is not taken for an expunge: it comes
// back from the partner, who keeps it.
func TestMergeOfDamageDeletesNothing(t *testing.T) {
	t.Parallel()
	m := newMemoryPair(t)
	m.heal()
	for i := range 5 {
		m.nodes[0].add(t, inbox, i)
	}
	m.heal()
	m.cut()
	account := accountGUID(m.name)
	m.nodes[0].account.Close()
	m.disks[0].Drop(messageKey(account, kindMessage, configuredGUID(account, inbox), 3))
	m.disks[0].Drop(messageKey(account, kindMeta, configuredGUID(account, inbox), 3))
	m.open(0)
	m.enter(0)
	m.pull(1, -1, true)
	if got := m.nodes[1].list(t, inbox); len(got) != 5 {
		t.Fatalf("the healthy node has %v", got)
	}
	m.pull(0, -1, true)
	m.heal()
	if got := m.subjects(inbox); len(got) != 5 {
		t.Errorf("left %v", got)
	}
}

// An empty partner gets everything, usable after each crash, and goes on where
// it was.
func TestMergeBootstrap(t *testing.T) {
	t.Parallel()
	m := newMemoryPair(t)
	src := m.nodes[0]
	src.create(t, "Work")
	src.create(t, "Work/Old")
	m.check(src.account.Subscribe(t.Context(), "Work", true))
	m.check(src.account.Subscribe(t.Context(), "elsewhere", true))
	m.check(src.account.SetEntry(t.Context(), Entry{Space: SpaceMetadata, Key: "/private/comment", Value: []byte("x")}))
	for i := range 150 {
		src.add(t, []string{inbox, "Work", "Work/Old"}[i%3], i%6)
	}
	src.flag(t, inbox, 7, FlagsChange{Op: FlagsSet, Flags: FlagSeen, Keywords: []string{"$a"}})
	src.expunge(t, inbox, 9)
	m.disks[1] = memory.NewDisk()
	m.open(1)
	for stop := 0; stop < 12; stop += 2 {
		m.pull(1, stop, false)
		m.open(1) // killed
	}
	m.pull(1, -1, false)
	if _, err := m.nodes[1].store.Account(t.Context(), mail.Account{Name: m.name}); err != nil {
		t.Fatalf("after the merge: %v", err)
	}
	m.enter(1)
	m.alike()
	if got := m.nodes[1].uids(t, inbox); !slices.Equal(got, src.uids(t, inbox)) {
		t.Errorf("UIDs %v", got)
	}
	entries, err := m.nodes[1].account.Entries(t.Context(), SpaceMetadata, GUID{})
	if err != nil || len(entries) != 1 || string(entries[0].Value) != "x" {
		t.Errorf("entries %v, %v", entries, err)
	}
	m.heal()
	m.nodes[1].add(t, "Work", 1)
	m.nodes[0].add(t, "Work/Old", 1)
	m.heal()
}

// A node that comes back from an older backup has what the other has, not what
// it expunged since.
func TestMergeOfABackup(t *testing.T) {
	t.Parallel()
	m := newMemoryPair(t)
	m.heal()
	for i := range 4 {
		m.nodes[0].add(t, inbox, i)
	}
	m.heal()
	backup := m.disks[1].Clone()
	m.nodes[0].expunge(t, inbox, m.nodes[0].uids(t, inbox)[1])
	m.nodes[1].add(t, inbox, 5)
	m.heal()
	m.disks[1] = backup
	m.open(1)
	p, err := m.nodes[1].replica.Pull(t.Context())
	m.check(err)
	query, err := p.Query(t.Context())
	m.check(err)
	answer, err := m.nodes[0].replica.Answer(t.Context(), query)
	m.check(err)
	if _, err := p.Take(t.Context(), answer); !errors.Is(err, ErrStale) {
		t.Fatalf("a node from a backup merges: %v", err)
	}
	// As a new node it may.
	m.disks[1] = memory.NewDisk()
	m.open(1)
	m.pull(1, -1, false)
	m.enter(1)
	m.heal()
	if got := m.subjects(inbox); len(got) != 4 {
		t.Errorf("has %v", got)
	}
}

func TestMergeFlags(t *testing.T) {
	t.Parallel()
	for _, byState := range []bool{false, true} {
		m := newMemoryPair(t)
		m.heal()
		m.nodes[0].add(t, inbox, 0)
		m.heal()
		uid := m.nodes[0].uids(t, inbox)[0]
		m.nodes[0].flag(t, inbox, uid, FlagsChange{Op: FlagsAdd, Flags: FlagFlagged | FlagDeleted})
		m.heal()
		m.cut()
		// The earlier with more edits loses to the later; what clears \Deleted wins.
		m.nodes[0].flag(t, inbox, uid, FlagsChange{Op: FlagsRemove, Flags: FlagFlagged})
		m.nodes[0].flag(t, inbox, uid, FlagsChange{Op: FlagsRemove, Flags: FlagDeleted})
		m.nodes[0].flag(t, inbox, uid, FlagsChange{Op: FlagsAdd, Keywords: []string{"$Junk", "mine"}})
		m.pass(time.Minute)
		m.nodes[1].flag(t, inbox, uid, FlagsChange{Op: FlagsSet, Flags: FlagFlagged | FlagDeleted | FlagSeen, Keywords: []string{"$NotJunk"}})
		if byState {
			m.pull(0, -1, false)
			m.pull(1, -1, false)
		}
		m.heal()
		if got := m.subjects(inbox); len(got) != 1 || !strings.HasPrefix(got[0], "5 [$NotJunk mine] ") {
			t.Errorf("by state %v: %q", byState, got)
		}
		if !m.conflict(ConflictFlags) {
			t.Errorf("by state %v: not told: %v", byState, m.conflicts)
		}
	}
}

func TestMergeTree(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name  string
		there []string
		do    [2]func(a *Account) error
		want  []string
		kind  ConflictKind
	}{
		{
			name: "rename cycle", there: []string{"P", "Q"},
			do:   [2]func(a *Account) error{rename("P", "Q/P"), rename("Q", "P/Q")},
			want: []string{"INBOX*", "Q", "Q/P"}, kind: ConflictCycle,
		},
		{
			name: "created on both sides",
			do:   [2]func(a *Account) error{create("X", "X/Y", "X/Z"), create("X", "X/Y", "X/A")},
			want: []string{"INBOX*", "X", "X/A", "X/Y", "X/Z"}, kind: ConflictMerged,
		},
		{
			name: "renamed to a name that is made", there: []string{"P", "P/c"},
			do:   [2]func(a *Account) error{rename("P", "X"), create("X")},
			want: []string{"INBOX*", "X", "X (conflict 2026-03-01 node 0)", "X (conflict 2026-03-01 node 0)/c"}, kind: ConflictName,
		},
		{
			name: "both renamed", there: []string{"P", "Q"},
			do:   [2]func(a *Account) error{rename("P", "X"), rename("Q", "X")},
			want: []string{"INBOX*", "X", "X (conflict 2026-03-01 node 1)"}, kind: ConflictName,
		},
		{
			name: "made below what is renamed", there: []string{"P"},
			do:   [2]func(a *Account) error{rename("P", "X"), create("P/c")},
			want: []string{"INBOX*", "X", "X/c"},
		},
		{
			name: "made below what is deleted", there: []string{"P"},
			do:   [2]func(a *Account) error{func(a *Account) error { return a.Delete(context.Background(), "P") }, create("P/c")},
			want: []string{"INBOX*", "P/c"},
		},
		{
			name: "subscriptions", there: []string{"P", "Q"},
			do: [2]func(a *Account) error{subscribe("P", true), func(a *Account) error {
				return errors.Join(subscribe("nowhere", true)(a), rename("P", "R")(a), subscribe("Q", true)(a), subscribe("Q", false)(a))
			}},
			want: []string{"INBOX*", "Q", "R*", "nowhere*?"},
		},
	} {
		for _, byState := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s, by state %v", c.name, byState), func(t *testing.T) {
				t.Parallel()
				m := newMemoryPair(t)
				m.heal()
				m.check(m.nodes[0].account.Subscribe(t.Context(), inbox, true))
				for _, name := range c.there {
					m.nodes[0].create(t, name)
					m.nodes[0].add(t, name, 0)
				}
				m.heal()
				m.cut()
				for n, do := range c.do {
					m.pass(time.Minute)
					m.check(do(m.nodes[n].account))
				}
				if byState {
					m.pull(0, -1, false)
					m.pull(1, -1, false)
				}
				m.heal()
				if got := m.nodes[0].names(t); !slices.Equal(got, c.want) {
					t.Errorf("got %q, want %q", got, c.want)
				}
				if c.kind != "" && !m.conflict(c.kind) {
					t.Errorf("not told: %v", m.conflicts)
				}
				if resolved := m.nodes[0].account.account.tree; len(resolved.Same)+len(resolved.Suffixed)+len(resolved.Cut) > 0 {
					t.Errorf("not made permanent: %+v", resolved)
				}
			})
		}
	}
}

func rename(from, to string) func(a *Account) error {
	return func(a *Account) error { return a.Rename(context.Background(), from, to) }
}

func create(names ...string) func(a *Account) error {
	return func(a *Account) error {
		for _, name := range names {
			if _, err := a.Create(context.Background(), name, ""); err != nil {
				return err
			}
		}
		return nil
	}
}

func subscribe(name string, on bool) func(a *Account) error {
	return func(a *Account) error { return a.Subscribe(context.Background(), name, on) }
}

// Two nodes deliver to a mailbox that neither has: they make the same one.
func TestMergeDeliveriesToANewMailbox(t *testing.T) {
	t.Parallel()
	m := newMemoryPair(t)
	m.heal()
	m.cut()
	for n, s := range m.nodes {
		content := stage(t, s.store, message(n))
		defer content.Discard()
		m.check(errors.Join(s.account.Deliver(t.Context(), []Delivery{{Content: content, Mailbox: "lists/go"}})...))
	}
	m.heal()
	if got := m.subjects("lists/go"); len(got) != 2 || m.conflict(ConflictMerged) {
		t.Errorf("got %v, %v", got, m.conflicts)
	}
}

func TestMergeEntries(t *testing.T) {
	t.Parallel()
	m := newMemoryPair(t)
	m.heal()
	set := func(n int, key, value string) {
		e := Entry{Space: SpaceACL, Mailbox: m.nodes[0].account.account.inboxID(), Key: key, Value: []byte(value)}
		if value == "" {
			e.Value = nil
		}
		m.check(m.nodes[n].account.SetEntry(t.Context(), e))
	}
	set(0, "anyone", "lr")
	set(0, "kim", "lrs")
	m.heal()
	m.cut()
	set(0, "anyone", "")
	m.pass(time.Minute)
	set(1, "anyone", "lrswi")
	set(1, "kim", "")
	m.heal()
	for _, s := range m.nodes {
		list, err := s.account.Entries(t.Context(), SpaceACL, s.account.account.inboxID())
		if err != nil || len(list) != 1 || list[0].Key != "anyone" || string(list[0].Value) != "lrswi" {
			t.Errorf("got %+v, %v", list, err)
		}
	}
	if !m.conflict(ConflictEntry) {
		t.Errorf("not told: %v", m.conflicts)
	}
	for _, e := range []Entry{{Key: strings.Repeat("k", MaxEntryKeyOctets+1)}, {Value: make([]byte, MaxEntryValueOctets+1)}} {
		if err := m.nodes[0].account.SetEntry(t.Context(), e); !errors.Is(err, ErrEntry) {
			t.Errorf("got %v", err)
		}
	}
}

// Ten differences among 20 000 messages are found with less than 100 kB.
func TestMergeMovesLittle(t *testing.T) {
	t.Parallel()
	m := newMemoryPair(t)
	m.nodes[0].add(t, inbox, 0)
	m.heal()
	const messages = 20_000
	account, mailbox := accountGUID(m.name), configuredGUID(accountGUID(m.name), inbox)
	var sample Message
	m.check(m.nodes[0].kv.View(t.Context(), func(snap store.Snapshot) error {
		uid := m.nodes[0].uids(t, inbox)[0]
		value, err := snap.Get(messageKey(account, kindMessage, mailbox, uid))
		if err != nil {
			return err
		}
		return decodeMessage(&sample, uid, value)
	}))
	for n, s := range m.nodes {
		v := s.account.account.boxes[mailbox].current()
		r, h := v.mailboxRecord, s.account.account.head
		first := int(r.uidNext)
		for i := first; i < first+messages; i++ {
			one := sample
			// Copies that an origin of long ago has made.
			one.UID, one.Dot = imap.UID(i), Dot{Origin(1)<<48 | 5, uint64(i) * 3}
			if n == 1 && i%2000 == 1 {
				one.Flags |= FlagSeen
			}
			m.disks[n].Put(messageKey(account, kindMessage, mailbox, one.UID), one.encode())
			addSum(&r.digest, sumOf(mailbox, &one))
			r.messages++
			r.octets += one.Octets
			h.octets += one.Octets
			if one.Flags&FlagSeen == 0 {
				r.unseen++
			}
		}
		r.uidNext += messages
		h.others = append(slices.Clone(h.others), VectorEntry{Origin: Origin(1)<<48 | 5, Seq: 1 << 40})
		slices.SortFunc(h.others, compareEntries)
		m.disks[n].Put(mailboxKey(account, kindMailbox, mailbox), r.encode())
		m.disks[n].Put(accountKey(account, kindHead), h.encode())
		m.open(n)
		m.enter(n)
	}
	m.moved, m.questions = 0, 0
	m.pull(1, -1, false)
	t.Logf("%d octets in %d questions", m.moved, m.questions)
	if m.moved > 100_000 || m.questions > 12 {
		t.Errorf("moved %d octets in %d questions", m.moved, m.questions)
	}
	if got := m.nodes[1].account.account.boxes[mailbox].current().digest; got != m.nodes[0].account.account.boxes[mailbox].current().digest {
		t.Error("the mailboxes differ still")
	}
}

func FuzzAnswer(f *testing.F) {
	m := newMemoryPair(f)
	m.nodes[0].add(f, inbox, 0)
	box := configuredGUID(accountGUID(m.name), inbox)
	for _, q := range []question{
		{kind: askHeader}, {kind: askMailboxes}, {kind: askSubscriptions, after: []byte("x")}, {kind: askEntries},
		{kind: askRanges, mailbox: box, known: []Dot{{1, 2}}, ranges: []dotRange{{to: lastDot, count: 1}}},
		{kind: askMessages, mailbox: box, dots: []Dot{{m.nodes[0].store.Origin(), 2}}},
	} {
		f.Add(q.encode())
	}
	f.Fuzz(func(t *testing.T, query []byte) {
		if answer, err := m.nodes[0].replica.Answer(t.Context(), query); err == nil && len(answer) > 2*maxAnswerOctets {
			t.Errorf("answer of %d octets", len(answer))
		}
	})
}

// Whatever a partner answers, nothing here is lost, and the store stays whole.
func FuzzPuller(f *testing.F) {
	m := newMemoryPair(f)
	m.nodes[0].add(f, inbox, 0)
	disk := m.disks[1]
	ctx := context.Background()
	p, _ := m.nodes[1].replica.Pull(ctx)
	for step := byte(0); ; step++ {
		query, err := p.Query(ctx)
		m.check(err)
		if query == nil {
			break
		}
		answer, err := m.nodes[0].replica.Answer(ctx, query)
		m.check(err)
		f.Add(step, answer)
		need, err := p.Take(ctx, answer)
		m.check(err)
		if len(need) > 0 {
			m.give(p, m.nodes[1], m.nodes[0], need)
		}
	}
	f.Fuzz(func(t *testing.T, step byte, answer []byte) {
		x := &memoryPair{twoNodes: &twoNodes{t: t, name: m.name}, clock: m.clock}
		x.disks[1] = disk.Clone()
		x.open(1)
		p, _ := x.nodes[1].replica.Pull(ctx)
		for range step % 8 {
			query, err := p.Query(ctx)
			if query == nil || err != nil {
				return
			}
			good, err := m.nodes[0].replica.Answer(ctx, query)
			if err != nil {
				t.Fatal(err)
			}
			if need, err := p.Take(ctx, good); err != nil || len(need) > 0 {
				return
			}
		}
		if query, _ := p.Query(ctx); query == nil {
			return
		}
		_, _ = p.Take(ctx, answer)
	})
}

// step is what a client of one node does, if it can be done.
type step struct {
	node, op, a, b int
}

func (m *memoryPair) do(st step) {
	s := m.nodes[st.node]
	ctx := context.Background()
	names := []string{inbox, "a", "a/b", "c", "c/d"}
	name, other := names[st.a%len(names)], names[st.b%len(names)]
	m.pass(time.Second)
	switch st.op {
	case 0, 1, 2:
		if _, err := s.account.Status(ctx, name); err == nil {
			s.add(m.t, name, st.b%6)
		}
	case 3:
		if _, err := s.account.Status(ctx, name); err == nil {
			for _, uid := range s.uids(m.t, name) {
				s.flag(m.t, name, uid, FlagsChange{Op: FlagsOp(st.b % 3), Flags: Flags(st.b) & allFlags, Keywords: []string{"$Junk"}})
			}
		}
	case 4:
		if _, err := s.account.Status(ctx, name); err == nil {
			if uids := s.uids(m.t, name); len(uids) > 0 {
				s.expunge(m.t, name, uids[st.b%len(uids)])
			}
		}
	case 5:
		_, _ = s.account.Create(ctx, name, "")
	case 6:
		_ = s.account.Delete(ctx, name)
	case 7:
		if name != inbox {
			_ = s.account.Rename(ctx, name, other)
		}
	case 8:
		_ = s.account.Subscribe(ctx, name, st.b%2 == 0)
	}
}

var steps = rapid.SliceOfN(rapid.Custom(func(t *rapid.T) step {
	return step{
		rapid.IntRange(0, 1).Draw(t, "node"), rapid.IntRange(0, 8).Draw(t, "op"),
		rapid.IntRange(0, 4).Draw(t, "a"), rapid.IntRange(0, 31).Draw(t, "b"),
	}
}), 0, 12)

// Whatever clients do on both sides of a split, the nodes agree afterwards, and
// no message is lost: by their journals, and by merging states.
func TestMergeModel(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(r *rapid.T) {
		m := newMemoryPair(t)
		done := []any{"home", m.home()}
		defer func() {
			if t.Failed() {
				t.Log(done...)
			}
		}()
		m.heal()
		for _, st := range steps.Draw(r, "before") {
			done = append(done, st)
			m.do(st)
		}
		m.calm()
		m.heal()
		for range rapid.IntRange(1, 2).Draw(r, "splits") {
			m.cut()
			done = append(done, "split")
			for _, st := range steps.Draw(r, "in the split") {
				done = append(done, st)
				m.do(st)
			}
			// Nobody, one or both merge states; a merge may be broken off.
			if who := rapid.IntRange(0, 3).Draw(r, "who merges"); who > 0 {
				for n := range m.nodes {
					if who&(n+1) != 0 {
						done = append(done, "merge", n)
						m.pull(n, rapid.IntRange(-1, 6).Draw(r, "broken off after"), rapid.Bool().Draw(r, "deep"))
					}
				}
			}
			for _, st := range steps.Draw(r, "then") {
				done = append(done, st)
				m.do(st)
			}
			m.heal()
			if t.Failed() {
				r.Fatal("see above")
			}
		}
	})
}
