package mailstore

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/emersion/go-imap/v2"
	"github.com/hashicorp/go-hclog"

	"github.com/postern-mail/postern/mail"
	"github.com/postern-mail/postern/store"
	"github.com/postern-mail/postern/store/storetest"
)

// side is one node of a pair under test.
type side struct {
	kv      store.Store
	blobs   store.Blobs
	store   *Store
	account *Account
	replica *Replica
}

// twoNodes are the stores of a pair in one process, with one account, and what
// carries records between them.
type twoNodes struct {
	t     testing.TB
	name  string
	nodes [2]*side
	up    bool
	// configured is Config.Home of each node.
	configured [2]*uint8
}

func newPair(t testing.TB, name string) *twoNodes {
	t.Helper()
	p := &twoNodes{t: t, name: name}
	for n := range p.nodes {
		kv, blobs := storetest.Open(t)
		p.nodes[n] = &side{kv: kv, blobs: blobs}
		p.start(n)
	}
	t.Cleanup(func() {
		for n, s := range p.nodes {
			if err := s.store.Check(context.Background()); err != nil {
				t.Errorf("node %d: check: %v", n, err)
			}
		}
	})
	return p
}

// start opens a node, or opens it again as after a crash.
func (p *twoNodes) start(n int) {
	s := p.nodes[n]
	var err error
	cfg := Config{flagBlockWorth: 1, Node: uint16(n), Pair: true, UIDWait: -1, Mailboxes: []ConfiguredMailbox{}, Home: p.configured[n]}
	if s.store, err = Open(context.Background(), cfg, s.kv, s.blobs, hclog.NewNullLogger()); err != nil {
		p.t.Fatal(err)
	}
	if s.replica, err = s.store.Replica(context.Background(), accountGUID(p.name), p.name); err != nil {
		p.t.Fatal(err)
	}
	if err := s.store.Join(context.Background()); err != nil {
		p.t.Fatal(err)
	}
	if s.account, err = s.store.Account(context.Background(), mail.Account{Name: p.name}); err != nil {
		p.t.Fatal(err)
	}
}

func (p *twoNodes) home() int {
	home := int(mail.Account{Name: p.name}.HomeClass())
	if a, b := p.configured[0], p.configured[1]; a != nil && b != nil {
		home = int(min(*a, *b))
	}
	return home
}

// connect attaches the account.
func (p *twoNodes) connect() {
	p.t.Helper()
	home, other := p.nodes[p.home()].replica, p.nodes[1-p.home()].replica
	ctx := context.Background()
	theirs, err := other.BeginAttach(ctx)
	p.check(err)
	p.check(home.Attached(ctx, theirs))
	ours, err := home.Position(ctx)
	p.check(err)
	p.check(other.Attached(ctx, ours))
	p.up = true
}

func (p *twoNodes) cut() {
	p.t.Helper()
	for _, s := range p.nodes {
		p.check(s.replica.Detach(context.Background()))
	}
	p.up = false
}

func (p *twoNodes) check(err error) {
	p.t.Helper()
	if err != nil {
		p.t.Fatal(err)
	}
}

// carry brings records from one node to the other, and reports whether there
// were any.
func (p *twoNodes) carry(from int, maxOctets int) bool {
	p.t.Helper()
	applied, ok := p.send(from, maxOctets)
	if ok {
		p.acknowledge(from, applied)
	}
	return ok
}

func (p *twoNodes) send(from int, maxOctets int) (Applied, bool) {
	p.t.Helper()
	ctx := context.Background()
	src, dst := p.nodes[from], p.nodes[1-from]
	at, err := dst.replica.Position(ctx)
	p.check(err)
	records, err := src.replica.Journal(ctx, at.Vector.Of(src.store.Origin()).Seq, maxOctets)
	p.check(err)
	if len(records) == 0 {
		return Applied{}, false
	}
	var raw [][]byte
	var refs []store.Ref
	for _, r := range records {
		raw, refs = append(raw, r.Raw), append(refs, r.Bodies...)
	}
	bodies, gone := make(map[store.Hash]store.Staged), make(Gone)
	refs, err = dst.replica.Missing(ctx, refs)
	p.check(err)
	fetch := func(refs []store.Ref) {
		for _, ref := range refs {
			body, err := src.blobs.Open(ctx, ref)
			if errors.Is(err, store.ErrNotFound) {
				gone[ref.Hash] = records[len(records)-1].Last
				continue
			}
			p.check(err)
			bodies[ref.Hash], err = dst.store.Stage(ctx, body)
			p.check(err)
		}
	}
	fetch(refs)
	applied, err := dst.replica.Apply(ctx, raw, bodies, gone)
	var missing *MissingBodies
	for errors.As(err, &missing) { // one record's at a time
		for _, ref := range missing.Refs {
			if _, known := gone[ref.Hash]; known || bodies[ref.Hash] != nil {
				p.t.Fatalf("body %x was sent, and is missing", ref.Hash[:8])
			}
		}
		fetch(missing.Refs)
		missing = nil
		applied, err = dst.replica.Apply(ctx, raw, bodies, gone)
	}
	p.check(err)
	for _, b := range bodies {
		b.Discard()
	}
	return applied, true
}

func (p *twoNodes) acknowledge(from int, applied Applied) {
	p.t.Helper()
	src := p.nodes[from]
	ack := Ack{Seq: applied.Vector.Of(src.store.Origin()).Seq, Floors: applied.Floors, ModSeq: applied.ModSeq, Vector: applied.Vector}
	p.check(src.replica.Acked(context.Background(), ack))
}

// calm carries records until there are none.
func (p *twoNodes) calm() {
	p.t.Helper()
	for round := 0; ; round++ {
		a, b := p.carry(0, 1<<20), p.carry(1, 1<<20)
		if !a && !b {
			return
		}
		if round > 200 {
			p.t.Fatal("the nodes do not come to rest")
		}
	}
}

// list describes a node's mailbox: UID, flags and subject of each message.
func (s *side) list(t testing.TB, mailbox string) []string {
	t.Helper()
	m, err := s.account.Mailbox(context.Background(), mailbox)
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	var list []string
	v := m.View()
	for i := range v.Len() {
		one := v.At(i)
		list = append(list, fmt.Sprintf("%d %x %v %s", one.UID, one.Flags, one.Keywords, strings.SplitN(readAll(t, m, one), "\r\n", 2)[0]))
	}
	return list
}

// same fails when the nodes differ in a mailbox.
func (p *twoNodes) same(mailbox string) []string {
	p.t.Helper()
	a, b := p.nodes[0].list(p.t, mailbox), p.nodes[1].list(p.t, mailbox)
	if !slices.Equal(a, b) {
		p.t.Errorf("%s differs:\n%s\nand\n%s", mailbox, strings.Join(a, "\n"), strings.Join(b, "\n"))
	}
	return a
}

func (s *side) add(t testing.TB, mailbox string, i int) {
	t.Helper()
	m, err := s.account.Mailbox(context.Background(), mailbox)
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	content := stage(t, s.store, message(i))
	defer content.Discard()
	if _, err := m.Append(context.Background(), []Append{{Content: content}}); err != nil {
		t.Fatal(err)
	}
}

func (s *side) deliver(t testing.TB, id string, i int) {
	t.Helper()
	content := stage(t, s.store, message(i))
	defer content.Discard()
	if err := s.account.Deliver(context.Background(), []Delivery{{ID: id, Content: content, Trace: []byte("Return-Path: <x>\r\n")}})[0]; err != nil {
		t.Fatal(err)
	}
}

func TestPairConnected(t *testing.T) {
	t.Parallel()
	p := newPair(t, "kim")
	p.connect()
	p.calm()
	for i := range 20 {
		p.nodes[i%2].add(t, "INBOX", i)
	}
	p.calm()
	list := p.same("INBOX")
	if len(list) != 20 {
		t.Fatalf("%d messages: %v", len(list), list)
	}
	if !strings.HasPrefix(list[19], "20 ") {
		t.Errorf("UIDs are not contiguous: %v", list)
	}
	box, err := p.nodes[0].account.Mailbox(t.Context(), "INBOX")
	p.check(err)
	defer box.Close()
	_, err = box.StoreFlags(t.Context(), []imap.UID{3, 4}, FlagsChange{Op: FlagsAdd, Flags: FlagSeen | FlagDeleted, Keywords: []string{"$x"}})
	p.check(err)
	_, err = box.Expunge(t.Context(), []imap.UID{4})
	p.check(err)
	p.calm()
	if list = p.same("INBOX"); len(list) != 19 || !strings.HasPrefix(list[2], "3 9 [$x]") {
		t.Errorf("after STORE and EXPUNGE: %v", list)
	}
}

func TestPairSplit(t *testing.T) {
	t.Parallel()
	for _, row := range []struct{ home, other, renumbered int }{{5, 0, 0}, {0, 5, 0}, {5, 2, 2}, {2, 5, 5}, {300, 300, 300}} {
		t.Run(fmt.Sprint(row.home, "+", row.other), func(t *testing.T) {
			t.Parallel()
			p := newPair(t, "kim")
			p.connect()
			for i := range 4 {
				p.nodes[i%2].add(t, "INBOX", i)
			}
			p.calm()
			p.cut()
			home, other := p.nodes[p.home()], p.nodes[1-p.home()]
			for i := range row.home {
				home.add(t, "INBOX", 100+i)
			}
			for i := range row.other {
				other.add(t, "INBOX", 1000+i)
			}
			before := append(home.list(t, "INBOX"), other.list(t, "INBOX")...)
			p.connect()
			p.calm()
			list := p.same("INBOX")
			if len(list) != 4+row.home+row.other {
				t.Errorf("%d messages", len(list))
			}
			renumbered := 0
			for _, one := range list {
				if !slices.Contains(before, one) {
					renumbered++
				}
			}
			if renumbered != row.renumbered {
				t.Errorf("%d messages have another UID, want %d", renumbered, row.renumbered)
			}
		})
	}
}

func TestPairTwins(t *testing.T) {
	t.Parallel()
	p := newPair(t, "kim")
	p.connect()
	p.calm()
	p.nodes[0].deliver(t, "Q1.1", 1)
	p.nodes[1].deliver(t, "Q1.1", 1)
	p.calm()
	if list := p.same("INBOX"); len(list) != 1 {
		t.Errorf("one delivery became %v", list)
	}
	p.nodes[0].deliver(t, "Q2.1", 2)
	p.calm()
	p.nodes[1].deliver(t, "Q2.1", 2)
	p.cut()
	p.nodes[0].deliver(t, "Q3.1", 3)
	p.nodes[1].deliver(t, "Q3.1", 3)
	p.connect()
	p.calm()
	if list := p.same("INBOX"); len(list) != 3 {
		t.Errorf("three deliveries became %v", list)
	}
}

// TestPairTwinExpunged: a delivery that reached both nodes while they were apart
// stays gone when it was expunged on one of them.
func TestPairTwinExpunged(t *testing.T) {
	t.Parallel()
	for on := range 2 {
		for _, first := range []int{0, 1} {
			p := newPair(t, "kim")
			p.connect()
			p.calm()
			p.cut()
			p.nodes[first].deliver(t, "Q1.1", 1)
			p.nodes[1-first].deliver(t, "Q1.1", 1)
			m := openMailbox(t, p.nodes[on].account, "INBOX")
			_, err := m.StoreFlags(t.Context(), uidsOf(m.View()), FlagsChange{Op: FlagsAdd, Flags: FlagDeleted})
			p.check(err)
			_, err = m.Expunge(t.Context(), nil)
			p.check(err)
			p.connect()
			p.calm()
			if list := p.same("INBOX"); len(list) != 0 {
				t.Errorf("expunged on node %d, came back: %v", on, list)
			}
		}
	}
}

// TestPairTwinsFlags: flags that the twins of a delivery got on both nodes are
// those of one message on both.
func TestPairTwinsFlags(t *testing.T) {
	t.Parallel()
	for _, first := range []int{0, 1} {
		p := newPair(t, "kim")
		for _, n := range []int{first, 1 - first} {
			p.nodes[n].deliver(t, "Q1.1", 1)
			m := openMailbox(t, p.nodes[n].account, "INBOX")
			c := FlagsChange{Op: FlagsSet, Flags: []Flags{FlagSeen | FlagFlagged, FlagAnswered}[n], Keywords: []string{[]string{"$a", "$b"}[n]}}
			_, err := m.StoreFlags(t.Context(), uidsOf(m.View()), c)
			p.check(err)
		}
		p.connect()
		p.calm()
		if list := p.same("INBOX"); len(list) != 1 {
			t.Errorf("one delivery became %v", list)
		}
	}
}

// TestAckedIsReadBeside: what the partner acknowledged is asked for, by sessions
// and by the status, while acknowledgements come in.
func TestAckedIsReadBeside(t *testing.T) {
	t.Parallel()
	p := newPair(t, "kim")
	p.connect()
	p.calm()
	var asking sync.WaitGroup
	done := make(chan struct{})
	asking.Go(func() {
		last := uint64(0)
		for {
			select {
			case <-done:
				return
			default:
			}
			h, err := p.nodes[0].store.Head(context.Background(), accountGUID("kim"))
			if err != nil || h.Acked < last {
				t.Errorf("acked %d after %d: %v", h.Acked, last, err)
				return
			}
			last = h.Acked
		}
	})
	for i := range 20 {
		p.nodes[0].add(t, "INBOX", i)
		p.calm()
	}
	close(done)
	asking.Wait()
}
