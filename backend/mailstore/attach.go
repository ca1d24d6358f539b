package mailstore

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/postern-mail/postern/backend/mailstore/uid"
	"github.com/postern-mail/postern/mail"
)

// link is how an account stands to the partner. It outlives the account's stay
// in memory, but not the process. The account's leader alone uses it.
type link struct {
	state uid.Link
	epoch uint64 // see uid.Side
	peer  Origin // whom the account is attached to
	// catchUp is the partner's operation that home has to have applied before
	// it gives out UIDs again, or the time has come.
	catchUp      uint64
	catchUpUntil time.Time
	// boxes hold what an allocator has in memory only.
	boxes map[GUID]uid.Mailbox
	// floors are those the partner told of, also of mailboxes that are not here
	// yet: where they come by a state merge no record tells which UIDs were used.
	floors map[GUID]uint32
	// acked is written in commits only, and read without one.
	acked atomic.Uint64
	// stable is an own operation up to which everything was known to the partner
	// when it wrote what it has not sent yet.
	stable uint64
	// peerKnows is what the partner knew when it wrote the record that was
	// applied last.
	peerKnows []Dot
	// untold are conflicts that the next Applied is to tell of.
	untoldMu sync.Mutex
	untold   []Conflict
	// mark is the latest of the partner's, until a commit stores it.
	mark *mark
	// home is what the nodes agreed on at the last attachment where nobody ever
	// moved the account's home and their configurations differ.
	home *Home
}

// keepForLater keeps conflicts until somebody can be told.
func (l *link) keepForLater(conflicts []Conflict) {
	l.untoldMu.Lock()
	defer l.untoldMu.Unlock()
	l.untold = append(l.untold, conflicts...)
}

// takeUntold returns what was kept.
func (l *link) takeUntold() []Conflict {
	l.untoldMu.Lock()
	defer l.untoldMu.Unlock()
	untold := l.untold
	l.untold = nil
	return untold
}

// maxCatchUp is how long home keeps its own messages back so that its partner's
// can keep their UIDs.
const maxCatchUp = time.Second

// link returns how the account stands to the partner, nil without one.
func (s *Store) link(id GUID) *link {
	if !s.Paired() {
		return nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	l := s.links[id]
	if l == nil {
		l = &link{state: uid.Detached, epoch: 1, boxes: make(map[GUID]uid.Mailbox)}
		s.links[id] = l
	}
	return l
}

// side is what the allocators of UIDs are told.
func (t *txn) side() uid.Side {
	s := t.account.store
	l := t.account.link
	if l == nil {
		return uid.Side{Link: uid.Alone}
	}
	return uid.Side{
		Link: l.state, Class: uint8(s.class()), Home: t.isHome(), CatchingUp: t.isCatchingUp(), Epoch: l.epoch, Rules: s.rules,
	}
}

func (t *txn) isHome() bool {
	return uint64(t.homeNow().Class) == t.account.store.class()
}

// homeNow says where the account's UIDs are given out.
func (t *txn) homeNow() Home {
	if h := t.head.home; h.Epoch > 0 {
		return h
	}
	if l := t.account.link; l != nil && l.home != nil {
		return *l.home
	}
	return t.account.store.firstHome(t.account.name)
}

// firstHome is where an account is at home that nobody moved.
func (s *Store) firstHome(name string) Home {
	if s.cfg.Home != nil {
		return Home{Class: *s.cfg.Home & 1}
	}
	return Home{Class: mail.Account{Name: name}.HomeClass()}
}

func (t *txn) isCatchingUp() bool {
	l := t.account.link
	return l.catchUp > t.head.others.Of(l.peer).Seq && t.now.Before(l.catchUpUntil)
}

// position is Replica.Position within a commit.
func (t *txn) position() (Position, error) {
	a := t.account
	p := Position{
		Origin: a.store.origin, Vector: t.head.vector(), Home: t.homeNow(), StreamFrom: t.head.streamFrom,
		Settled: t.head.unsettled == 0, ModSeq: t.head.modseqs<<1 | a.store.class(), Joined: t.head.joined, Merging: t.head.merging,
	}
	for _, b := range a.inOrder() {
		if floor := t.peek(b).report(); floor > 0 {
			p.Floors = append(p.Floors, MailboxFloor{b.guid, floor})
		}
	}
	if a.headRecord == nil {
		p.StreamFrom = 1
		return p, nil
	}
	var err error
	if p.Digest, err = t.digest(); err != nil {
		return p, err
	}
	oldest, err := t.oldestRecord()
	p.StreamFrom = max(p.StreamFrom, oldest)
	return p, err
}

// oldestRecord is the first operation in the journal, or the next there will be.
func (t *txn) oldestRecord() (uint64, error) {
	prefix := accountKey(t.account.id, kindJournal)
	pairs, err := t.account.store.page(t.ctx, prefix, 1)
	if err != nil || len(pairs) == 0 {
		return t.head.seq + 1, err
	}
	return numberOf(pairs[0].Key), nil
}

// ErrAlone means that this store has no partner.
var ErrAlone = errors.New("this store is not one of a pair")

// ErrNotHome means that another node gives out the account's UIDs.
var ErrNotHome = errors.New("this node is not the account's home")

// changeLink runs fn in a commit of its own, on a store of a pair.
func (r *Replica) changeLink(ctx context.Context, fn func(t *txn, l *link) error) error {
	return r.with(ctx, func(a *account) error {
		if a.link == nil {
			return ErrAlone
		}
		return a.changeAlone(ctx, func(t *txn) error { return fn(t, a.link) })
	})
}

// BeginAttach stops giving out UIDs and tells where the account stands then:
// the partner may be told, and must be before Attached. Until Attached or
// Detach, messages that need a UID wait for it.
func (r *Replica) BeginAttach(ctx context.Context) (p Position, err error) {
	err = r.changeLink(ctx, func(t *txn, l *link) error {
		l.state = uid.Pending
		p, err = t.position()
		return err
	})
	return p, err
}

// Attached begins a session: peer is what the partner told after it had stopped
// giving out UIDs. The home gives them out from now on, once it has applied
// what peer says the partner has, or a second has passed.
func (r *Replica) Attached(ctx context.Context, peer Position) error {
	err := r.changeLink(ctx, func(t *txn, l *link) error {
		l.state, l.peer = uid.Attached, peer.Origin
		l.catchUp, l.catchUpUntil = peer.Vector.Of(peer.Origin).Seq, t.now.Add(maxCatchUp)
		if t.adoptHome(peer.Home) {
			t.changed = true
		}
		floors := make(map[GUID]uint32, len(peer.Floors))
		for _, f := range peer.Floors {
			floors[f.Mailbox] = f.UID
		}
		l.floors = floors
		side := t.side()
		for guid, b := range t.account.boxes {
			t.draft(b).allocate(func(m *uid.Mailbox) { m.Attach(side, floors[guid]) })
		}
		// What this node was to give out itself, as home, it never asked for.
		return t.askAgain()
	})
	if err != nil {
		return err
	}
	return r.with(ctx, func(a *account) error {
		if err := a.settle(ctx); err != nil {
			return err
		}
		conflicts, err := a.housekeep(ctx)
		a.link.keepForLater(conflicts)
		return err
	})
}

// askAgain asks home once more for UIDs of messages that cannot be shown at
// theirs.
func (r *Replica) askAgain(ctx context.Context) error {
	return r.changeLink(ctx, func(t *txn, _ *link) error { return t.askAgain() })
}

// askAgain asks home for what is not where it belongs.
func (t *txn) askAgain() error {
	if t.head.unsettled == 0 || t.isHome() {
		return nil
	}
	for _, b := range t.account.inOrder() {
		if v := t.peek(b); v.gone || v.pending == 0 && v.misplaced == 0 {
			continue
		}
		if err := t.askFor(b); err != nil {
			return err
		}
	}
	return nil
}

// askFor asks for UIDs of a mailbox's messages.
func (t *txn) askFor(b *box) error {
	hidden, err := t.hidden(b)
	if err != nil {
		return err
	}
	if err := t.load(b); err != nil {
		return err
	}
	v := t.draft(b)
	side, alloc := t.side(), v.allocator()
	ask := func(m *Message) {
		if alloc.Decide(side, uint32(m.UID), uint32(m.register())) == uid.Ask && len(v.wanted) < settlePerCommit {
			v.wanted, v.dirty = append(v.wanted, m.Dot), true
		}
	}
	for _, m := range hidden {
		ask(m)
	}
	if v.misplaced > 0 {
		for i := range v.list.len() {
			ask(v.list.at(i))
		}
	}
	return nil
}

// adoptHome takes over what the partner says of the home, when it is newer.
func (t *txn) adoptHome(h Home) bool {
	now := t.homeNow()
	if h.Epoch < now.Epoch || h.Epoch == now.Epoch && h.Class >= now.Class {
		return false
	}
	if h.Epoch == 0 {
		t.account.link.home = &h
		return true
	}
	t.head.home = h
	return true
}

// Detach ends a session, or the attempt at one: from now on this node gives out
// UIDs of its own, also to the messages that waited for one. It may be repeated.
func (r *Replica) Detach(ctx context.Context) error {
	err := r.changeLink(ctx, func(_ *txn, l *link) error {
		if l.state != uid.Detached {
			l.state = uid.Detached
			l.epoch++
		}
		return nil
	})
	if err != nil {
		return err
	}
	return r.settle(ctx)
}

// Acked takes note of what is durable at the partner. The home then gives UIDs
// to messages that waited for that.
func (r *Replica) Acked(ctx context.Context, ack Ack) error {
	waiting := false
	err := r.changeLink(ctx, func(t *txn, l *link) error {
		if ack.Seq > t.head.seq {
			return fmt.Errorf("%w: the partner has %d of %d own operations", ErrChain, ack.Seq, t.head.seq)
		}
		l.acked.Store(max(l.acked.Load(), ack.Seq))
		if wrote := ack.Vector.Of(l.peer).Seq; len(ack.Vector) > 0 && wrote <= t.head.others.Of(l.peer).Seq {
			l.stable = max(l.stable, ack.Seq)
		}
		if ack.ModSeq != 0 && ack.ModSeq&1 != t.account.store.class() {
			t.account.noteMark(&mark{modseq: ack.ModSeq, known: ack.Vector.Dots()})
		}
		for _, f := range ack.Floors {
			if l.floors != nil {
				l.floors[f.Mailbox] = max(l.floors[f.Mailbox], f.UID)
			}
			if b := t.account.boxes[f.Mailbox]; b != nil {
				t.draft(b).allocate(func(m *uid.Mailbox) { m.Acked(f.UID) })
			}
		}
		waiting = t.head.unsettled > 0
		return nil
	})
	if err != nil || !waiting {
		return err
	}
	return r.settle(ctx)
}

// SetHome hands the account's home over to the node of that class. ErrNotHome
// when it is not this node's to give.
func (r *Replica) SetHome(ctx context.Context, class uint8) error {
	return r.changeLink(ctx, func(t *txn, _ *link) error {
		if !t.isHome() {
			return ErrNotHome
		}
		if uint64(class&1) == t.account.store.class() {
			return nil
		}
		t.head.home = Home{Epoch: t.homeNow().Epoch + 1, Class: class & 1}
		t.log(&JournalOp{Code: OpHome, Home: t.head.home})
		return nil
	})
}

// settle gives UIDs to messages, as many as may have one now.
func (r *Replica) settle(ctx context.Context) error {
	return r.with(ctx, func(a *account) error { return a.settle(ctx) })
}
