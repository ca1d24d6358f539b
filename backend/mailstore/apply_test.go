package mailstore

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"testing"

	"github.com/emersion/go-imap/v2"
	"github.com/hashicorp/go-hclog"

	"github.com/postern-mail/postern/mail"
	"github.com/postern-mail/postern/status"
	"github.com/postern-mail/postern/store"
	"github.com/postern-mail/postern/store/storetest"
)

// records returns all a node logged.
func (s *side) records(t testing.TB) (raw [][]byte) {
	t.Helper()
	list, err := s.replica.Journal(context.Background(), 0, 1<<30)
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range list {
		raw = append(raw, r.Raw)
	}
	return raw
}

// bodies stages on to what the node's records need, and tells which are gone.
func (s *side) bodies(t testing.TB, to *Store) (staged map[store.Hash]store.Staged, gone Gone) {
	t.Helper()
	staged, gone = make(map[store.Hash]store.Staged), make(Gone)
	list, err := s.replica.Journal(context.Background(), 0, 1<<30)
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range list {
		for _, ref := range r.Bodies {
			if staged[ref.Hash] != nil {
				continue
			}
			body, err := s.blobs.Open(context.Background(), ref)
			if errors.Is(err, store.ErrNotFound) {
				gone[ref.Hash] = list[len(list)-1].Last
				continue
			}
			if err != nil {
				t.Fatal(err)
			}
			if staged[ref.Hash], err = to.Stage(context.Background(), body); err != nil {
				t.Fatal(err)
			}
		}
	}
	return staged, gone
}

func TestApplyOnceAndInOrder(t *testing.T) {
	t.Parallel()
	p := newPair(t, "kim")
	a, b := p.nodes[0], p.nodes[1]
	for i := range 10 {
		a.add(t, "INBOX", i)
	}
	p.connect()
	raw := a.records(t)
	bodies, _ := a.bodies(t, b.store)
	ctx := t.Context()
	var missing *MissingBodies
	if _, err := b.replica.Apply(ctx, raw, nil, nil); !errors.As(err, &missing) || len(missing.Refs) != 1 {
		t.Errorf("without bodies: %v", err) // of the first record that lacks one
	}
	if _, err := b.replica.Apply(ctx, raw[1:], bodies, nil); !errors.Is(err, ErrGap) {
		t.Errorf("without the first record: %v", err)
	}
	damaged := bytes.Clone(raw[0])
	damaged[20] ^= 1
	if _, err := b.replica.Apply(ctx, [][]byte{damaged}, bodies, nil); !errors.Is(err, ErrMalformed) {
		t.Errorf("a damaged record: %v", err)
	}
	if _, err := b.replica.Apply(ctx, b.records(t), nil, nil); !errors.Is(err, ErrMalformed) {
		t.Errorf("its own records: %v", err)
	}
	unknown := appendJournalHeader(nil, &JournalRecord{Origin: a.store.Origin(), First: 1, Ops: make([]JournalOp, 1)})
	unknown = sealJournal(appendBlock(append(unknown, byte(OpFloor)+1), make([]byte, 16)))
	if _, err := b.replica.Apply(ctx, [][]byte{unknown}, nil, nil); !errors.Is(err, ErrMalformed) {
		t.Errorf("an operation nobody knows: %v", err)
	}
	if at, err := b.replica.Position(ctx); err != nil || at.Vector.Of(a.store.Origin()).Seq != 0 {
		t.Errorf("after all that: %+v, %v", at, err)
	}
	for round := range 3 {
		done, err := b.replica.Apply(ctx, raw, bodies, nil)
		if err != nil {
			t.Fatal(err)
		}
		have, err := a.replica.Position(ctx)
		p.check(err)
		if done.Vector.Of(a.store.Origin()) != have.Vector.Of(a.store.Origin()) {
			t.Errorf("round %d: vectors %v and %v", round, done.Vector, have.Vector)
		}
	}
	for _, raw := range raw[len(raw)-3:] { // some again
		if _, err := b.replica.Apply(ctx, [][]byte{raw}, nil, nil); err != nil {
			t.Error(err)
		}
	}
	p.calm()
	if list := p.same("INBOX"); len(list) != 10 {
		t.Errorf("INBOX is %q", list)
	}
}

// TestApplyGone: a message whose body the partner has no more, because it
// expunged it, is not stored; what follows is.
func TestApplyGone(t *testing.T) {
	t.Parallel()
	p := newPair(t, "kim")
	for i := range 3 {
		p.nodes[0].add(t, "INBOX", i)
	}
	m := openMailbox(t, p.nodes[0].account, "INBOX")
	if _, err := m.remove(t.Context(), uidsOf(m.View())[1:2], false); err != nil {
		t.Fatal(err)
	}
	p.connect()
	p.calm()
	if list := p.same("INBOX"); len(list) != 2 {
		t.Errorf("INBOX is %q", list)
	}
}

// TestApplyCopies: copies and moves bring no body along.
func TestApplyCopies(t *testing.T) {
	t.Parallel()
	p := newPair(t, "kim")
	a := p.nodes[0]
	for i := range 4 {
		a.add(t, "INBOX", i)
	}
	_, err := a.account.Create(t.Context(), "Work", "")
	p.check(err)
	from, to := openMailbox(t, a.account, "INBOX"), openMailbox(t, a.account, "Work")
	uids := uidsOf(from.View())
	_, err = from.Copy(t.Context(), uids[:2], to)
	p.check(err)
	_, err = from.Move(t.Context(), uids[1:3], to)
	p.check(err)
	p.connect()
	p.calm()
	if list := p.same("INBOX"); len(list) != 2 {
		t.Errorf("INBOX is %q", list)
	}
	if list := p.same("Work"); len(list) != 4 {
		t.Errorf("Work is %q", list)
	}
}

// TestPendingMessages: a message of the node that is not home waits for its
// UID, outlives a crash, and gets a UID when the link goes.
func TestPendingMessages(t *testing.T) {
	t.Parallel()
	p := newPair(t, "kim")
	p.connect()
	p.calm()
	other := 1 - p.home()
	for i := range 3 {
		p.nodes[other].deliver(t, fmt.Sprint("Q", i), i)
	}
	if list := p.nodes[other].list(t, "INBOX"); len(list) != 0 {
		t.Errorf("shown without a UID: %q", list)
	}
	if used, _ := p.nodes[other].account.Quota(); used == 0 {
		t.Error("what waits for a UID does not count")
	}
	if err := p.nodes[other].store.Check(t.Context()); err != nil {
		t.Error(err)
	}
	refs := 0
	if _, err := p.nodes[other].store.References(t.Context(), func(store.Ref) { refs++ }); err != nil || refs != 3 {
		t.Errorf("%d references, %v", refs, err)
	}
	p.check(p.nodes[1-other].replica.Detach(t.Context()))
	p.start(other)
	if list := p.nodes[other].list(t, "INBOX"); len(list) != 3 {
		t.Errorf("after a crash: %q", list)
	}
	p.connect()
	p.calm()
	if list := p.same("INBOX"); len(list) != 3 {
		t.Errorf("INBOX is %q", list)
	}
}

// TestAppendWaitsForUID: APPEND on the other node answers with the UID that
// home gave, and without it in time fails.
func TestAppendWaitsForUID(t *testing.T) {
	t.Parallel()
	p := newPair(t, "kim")
	p.connect()
	p.calm()
	other := 1 - p.home()
	s := p.nodes[other]
	s.store.cfg.UIDWait = 1 // a nanosecond
	m := openMailbox(t, s.account, "INBOX")
	content := stage(t, s.store, message(1))
	if _, err := m.Append(t.Context(), []Append{{Content: content}}); status.Of(err) != status.StoreDown {
		t.Errorf("without an answer of home's: %v", err)
	}
	s.store.cfg.UIDWait = 1 << 40
	done := make(chan error)
	go func() {
		uids, err := m.Append(context.Background(), []Append{{Content: content}, {Content: content}})
		if err == nil && !slices.Equal(uids, []imap.UID{2, 3}) {
			err = fmt.Errorf("UIDs %v", uids)
		}
		done <- err
	}()
	for {
		p.calm()
		select {
		case err := <-done:
			if err != nil {
				t.Error(err)
			}
			p.same("INBOX")
			return
		default:
		}
	}
}

// TestHomeMoves hands the home over and back; UIDs stay contiguous.
func TestHomeMoves(t *testing.T) {
	t.Parallel()
	p := newPair(t, "kim")
	p.connect()
	p.calm()
	home := p.home()
	for i := range 6 {
		p.nodes[i%2].add(t, "INBOX", i)
		p.check(p.nodes[home].replica.SetHome(t.Context(), uint8(1-home)))
		if err := p.nodes[home].replica.SetHome(t.Context(), uint8(1-home)); !errors.Is(err, ErrNotHome) {
			t.Errorf("given away twice: %v", err)
		}
		home = 1 - home
		p.nodes[i%2].add(t, "INBOX", 100+i)
		p.calm()
	}
	list := p.same("INBOX")
	if len(list) != 12 || !strings.HasPrefix(list[11], "12 ") {
		t.Errorf("INBOX is %q", list)
	}
	for n, s := range p.nodes {
		if at, err := s.replica.Position(t.Context()); err != nil || at.Home != (Home{6, uint8(home)}) {
			t.Errorf("node %d: %+v, %v", n, at.Home, err)
		}
	}
}

// TestModSeqOfThePartner: what a client was told by one node is enough for it
// to learn all from the other, and not everything.
func TestModSeqOfThePartner(t *testing.T) {
	t.Parallel()
	p := newPair(t, "kim")
	p.connect()
	for i := range 4 {
		p.nodes[0].add(t, "INBOX", i)
		p.calm()
	}
	var boxes [2]*Mailbox
	for n := range boxes {
		boxes[n] = openMailbox(t, p.nodes[n].account, "INBOX")
	}
	told := boxes[0].View().HighestModSeq()
	if !boxes[1].IsForeign(told) {
		t.Fatal("a MODSEQ of the other node is taken for one of ours")
	}
	if base := boxes[1].Base(told); base == 0 || base > boxes[1].View().HighestModSeq() {
		t.Errorf("base %d for %d, highest is %d", base, told, boxes[1].View().HighestModSeq())
	}
	p.nodes[1].add(t, "INBOX", 9)
	_, err := boxes[1].StoreFlags(t.Context(), uidsOf(boxes[1].View())[:1], FlagsChange{Op: FlagsAdd, Flags: FlagSeen})
	p.check(err)
	p.calm()
	base := boxes[1].Base(told)
	v := boxes[1].View()
	var news []imap.UID
	for i := range v.Len() {
		if v.At(i).ModSeq > base {
			news = append(news, v.At(i).UID)
		}
	}
	for _, u := range []imap.UID{1, 5} {
		if !slices.Contains(news, u) {
			t.Errorf("UID %d is not told; base %d, news %v", u, base, news)
		}
	}
	if len(news) == v.Len() {
		t.Errorf("everything is told: base %d", base)
	}
}

// fetcher is a partner that brings bodies.
type fetcher struct {
	into *Store
	from store.Blobs
	n    int
}

func (f *fetcher) Committed(GUID, string, uint64)                          {}
func (f *fetcher) Durable(context.Context, GUID, uint64, Durability) error { return nil }
func (f *fetcher) Available(GUID, string) error                            { return nil }
func (f *fetcher) Fetch(ctx context.Context, ref store.Ref) error {
	f.n++
	body, err := f.from.Open(ctx, ref)
	if err != nil {
		return err
	}
	defer body.Close()
	content, err := f.into.Stage(ctx, body)
	if err != nil {
		return err
	}
	defer content.Discard()
	return f.into.Restore(ctx, content)
}

// TestBodyFromThePartner: a body that is gone here is fetched and stays.
func TestBodyFromThePartner(t *testing.T) {
	t.Parallel()
	p := newPair(t, "kim")
	p.connect()
	for i := range 3 {
		p.nodes[0].add(t, "INBOX", i)
	}
	p.calm()
	s := p.nodes[1]
	m := openMailbox(t, s.account, "INBOX")
	lost := m.View().At(1)
	b := store.NewBatch()
	s.blobs.Unlink(b, lost.Body)
	if _, err := s.kv.Commit(t.Context(), b); err != nil {
		t.Fatal(err)
	}
	if _, err := m.Body(t.Context(), lost); status.Of(err) != status.StoreDown {
		t.Errorf("without a partner: %v", err)
	}
	f := &fetcher{into: s.store, from: p.nodes[0].blobs}
	s.store.SetPartner(f)
	for range 2 {
		body, err := m.Body(t.Context(), lost)
		if err != nil {
			t.Fatal(err)
		}
		if octets, err := io.ReadAll(body); err != nil || string(octets) != message(1) {
			t.Errorf("read %q, %v", octets, err)
		}
		p.check(body.Close())
	}
	if f.n != 1 {
		t.Errorf("fetched %d times", f.n)
	}
	p.same("INBOX")
}

// TestJoining: the second node of a pair serves no account that it does not
// have yet.
func TestJoining(t *testing.T) {
	t.Parallel()
	kv, blobs := storetest.Open(t)
	s := openOn(t, Config{Node: 1, Pair: true}, kv, blobs)
	if !s.Joining() {
		t.Fatal("a new second node is not joining")
	}
	if _, err := s.Account(t.Context(), mail.Account{Name: "kim"}); status.Of(err) != status.ServerBusy {
		t.Errorf("open: %v", err)
	}
	r, err := s.Replica(t.Context(), accountGUID("kim"), "kim")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.Replica(t.Context(), accountGUID("kim"), "pat"); !errors.Is(err, ErrMalformed) {
		t.Errorf("under another name: %v", err)
	}
	p := newPair(t, "kim")
	if _, err := r.Apply(t.Context(), p.nodes[0].records(t), nil, nil); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Account(t.Context(), mail.Account{Name: "kim"}); status.Of(err) != status.ServerBusy {
		t.Errorf("before it is complete: %v", err)
	}
	if err := r.Joined(t.Context()); err != nil {
		t.Fatal(err)
	}
	openAccount(t, s, "kim")
	again := openOn(t, Config{Node: 1, Pair: true}, kv, blobs)
	openAccount(t, again, "kim")
	if _, err := again.Account(t.Context(), mail.Account{Name: "pat"}); status.Of(err) != status.ServerBusy {
		t.Errorf("another account: %v", err)
	}
	if err := again.Join(t.Context()); err != nil {
		t.Fatal(err)
	}
	openAccount(t, again, "pat")
	if err := again.Forget(t.Context()); err == nil {
		t.Error("forgot a partner that is configured")
	}
	alone := openOn(t, Config{Node: 1}, kv, blobs)
	if !alone.Paired() {
		t.Error("a pair is forgotten by a change of configuration")
	}
	if err := alone.Forget(t.Context()); err != nil || alone.Paired() {
		t.Errorf("forget: %v", err)
	}
}

// TestApplyPowerCuts cuts the power of a node while it applies, and goes on.
func TestApplyPowerCuts(t *testing.T) {
	t.Parallel()
	p := newPair(t, "kim")
	a := p.nodes[0]
	for i := range 12 {
		a.add(t, "INBOX", i)
	}
	m := openMailbox(t, a.account, "INBOX")
	uids := uidsOf(m.View())
	if _, err := m.StoreFlags(t.Context(), uids[:6], FlagsChange{Op: FlagsAdd, Flags: FlagSeen}); err != nil {
		t.Fatal(err)
	}
	if _, err := m.remove(t.Context(), uids[3:5], false); err != nil {
		t.Fatal(err)
	}
	want := a.list(t, "INBOX")
	raw := a.records(t)

	machine := storetest.NewMachine()
	type cut struct {
		n    int
		left *storetest.Machine
		done uint64 // what was answered
	}
	var cuts []cut
	var done uint64
	machine.OnOp(func(n int) {
		if n%3 == 0 {
			cuts = append(cuts, cut{n, machine.Cut(uint64(n)), done})
		}
	})
	apply := func(s *Store, note bool) *side {
		r, err := s.Replica(t.Context(), accountGUID("kim"), "kim")
		if err != nil {
			t.Fatal(err)
		}
		bodies, gone := a.bodies(t, s)
		for i := range raw {
			applied, err := r.Apply(t.Context(), raw[i:i+1], bodies, gone)
			if err != nil {
				t.Fatal(err)
			}
			if note {
				done = applied.Vector.Of(a.store.Origin()).Seq
			}
		}
		return &side{store: s, replica: r}
	}
	open := func(machine *storetest.Machine) *Store {
		kv, blobs := machine.Open(t)
		s, err := Open(t.Context(), Config{Node: 1, Pair: true, Mailboxes: []ConfiguredMailbox{}}, kv, blobs, hclog.NewNullLogger())
		if err != nil {
			t.Fatal(err)
		}
		p.check(s.Join(t.Context()))
		return s
	}
	apply(open(machine), true)
	machine.OnOp(nil)
	if len(cuts) < 10 {
		t.Errorf("only %d cuts", len(cuts))
	}
	for _, c := range cuts {
		s := open(c.left)
		if err := s.Check(t.Context()); err != nil {
			t.Errorf("cut %d: %v", c.n, err)
		}
		r, err := s.Replica(t.Context(), accountGUID("kim"), "kim")
		p.check(err)
		if at, err := r.Position(t.Context()); err != nil || at.Vector.Of(a.store.Origin()).Seq < c.done {
			t.Errorf("cut %d: %v, answered were %d: %v", c.n, at.Vector, c.done, err)
		}
		again := apply(s, false)
		again.account = openAccount(t, s, "kim")
		if got := again.list(t, "INBOX"); !slices.Equal(got, want) {
			t.Errorf("cut %d: INBOX is %q, want %q", c.n, got, want)
		}
		if err := s.Check(t.Context()); err != nil {
			t.Errorf("cut %d, after: %v", c.n, err)
		}
	}
	t.Logf("%d cuts", len(cuts))
}

// TestApplyLargeHeaders: what one node could commit its partner can, also when
// structures and bodies are as large as they get.
func TestApplyLargeHeaders(t *testing.T) {
	t.Parallel()
	p := newPair(t, "kim")
	a := p.nodes[0]
	filler := strings.Repeat("X-Filler: "+strings.Repeat("y", 60)+"\r\n", 600)
	content := stage(t, a.store, "Subject: large\r\n"+filler+"\r\n"+strings.Repeat("body\r\n", 500))
	defer content.Discard()
	m := openMailbox(t, a.account, "INBOX")
	var messages []Append
	for range 20 {
		messages = append(messages, Append{Content: content})
	}
	if _, err := m.Append(t.Context(), messages); err != nil {
		t.Fatal(err)
	}
	work, err := a.account.Create(t.Context(), "Work", "")
	p.check(err)
	if _, err := m.Copy(t.Context(), uidsOf(m.View()), openMailbox(t, a.account, work.Name)); err != nil {
		t.Fatal(err)
	}
	for i := range 150 { // bodies that travel in the batch
		content := stage(t, a.store, message(i)+strings.Repeat("x", 12<<10)+"\r\n")
		defer content.Discard()
		if _, err := m.Append(t.Context(), []Append{{Content: content}}); err != nil {
			t.Fatal(err)
		}
	}
	p.connect()
	p.calm()
	if list := p.same("INBOX"); len(list) != 170 {
		t.Errorf("%d messages", len(list))
	}
	if list := p.same("Work"); len(list) != 20 {
		t.Errorf("%d copies", len(list))
	}
}
