package mailstore

import (
	"context"
	"errors"

	"github.com/emersion/go-imap/v2"

	"github.com/postern-mail/postern/backend/mailstore/flagset"
	"github.com/postern-mail/postern/backend/mailstore/uid"
)

// joinFlags merges flags and UIDs of messages that both nodes have.
func (p *Puller) joinFlags(ctx context.Context, items []stateItem) error {
	if len(items) == 0 {
		return nil
	}
	return p.change(ctx, func(t *txn) error {
		b := t.box(p.box)
		if b == nil || t.peek(b).removed {
			return nil
		}
		if err := t.load(b); err != nil {
			return err
		}
		for i := range items {
			if err := p.joinItem(t, b, &items[i]); err != nil {
				return err
			}
		}
		return nil
	})
}

func (p *Puller) joinItem(t *txn, b *box, it *stateItem) error {
	theirs := &it.op.Message
	m, err := t.find(b, theirs.Dot)
	if err != nil || m == nil {
		return err
	}
	vector := t.head.vector()
	joined, conflict, differs := flagset.Join(
		flagset.Side{
			State: m.flagState(), Class: uint8(t.account.store.class()),
			Knows: func(d flagset.Dot) bool { return vector.Covers(dotOfFlags(d)) },
		},
		flagset.Side{
			State: flagset.State{Flags: uint8(theirs.Flags), Keywords: theirs.Keywords, Pending: it.writes},
			Class: uint8(p.peer.position.Origin.Node() & 1),
			Knows: func(d flagset.Dot) bool { return covers(p.known, dotOfFlags(d)) },
		})
	if conflict {
		t.conflict(ConflictFlags, t.peek(b).name, "UID %d", m.UID)
	}
	if differs {
		t.conflict(ConflictFlags, t.peek(b).name, "UID %d: flags differed, and no change tells why", m.UID)
	}
	t.setFlags(b, []flagged{{m, m.withFlags(joined)}})
	if theirs.UID <= m.register() {
		return nil
	}
	t.draft(b).heard(theirs.UID)
	if m, err = t.find(b, theirs.Dot); err != nil {
		return err
	}
	return t.raise(b, m, theirs.UID)
}

// insert stores messages that are not here, as many in a commit as it holds,
// unless they were removed here: then the partner is told once more.
func (p *Puller) insert(ctx context.Context, fresh []remote) error {
	if len(fresh) == 0 {
		return nil
	}
	if err := p.readErased(ctx); err != nil {
		return err
	}
	for len(fresh) > 0 {
		n := 0
		err := p.change(ctx, func(t *txn) error {
			var err error
			n, err = p.insertSome(t, fresh)
			return err
		})
		if err != nil {
			return err
		}
		fresh = fresh[n:]
	}
	return nil
}

func (p *Puller) insertSome(t *txn, fresh []remote) (n int, err error) {
	b := t.box(p.box)
	if b == nil {
		return len(fresh), nil
	}
	joining := t.account.store.Joining() && !t.head.joined
	if joining {
		p.forgetIndex(t, b)
	} else if err := t.load(b); err != nil {
		return 0, err
	}
	var merged, removed []Dot
	for n = range fresh {
		mark := t.save()
		fate, err := p.insertOne(t, b, &fresh[n], joining)
		if n > 0 && (err == nil && t.isFull() || errors.Is(err, errTooLarge)) {
			t.restore(mark)
			n--
			break
		}
		if err != nil {
			return 0, err
		}
		switch dot := fresh[n].Ops[0].Message.Dot; fate {
		case fateMerged:
			merged = append(merged, dot)
		case fateRemoved:
			removed = append(removed, dot)
		}
	}
	if len(merged) > 0 {
		t.log(&JournalOp{Code: OpMerged, Mailbox: b.guid, Dots: merged})
	}
	if len(removed) > 0 {
		t.log(&JournalOp{Code: OpExpunge, Mailbox: b.guid, Dots: removed})
	}
	return n + 1, nil
}

// fate is what becomes of a message that the partner has and this node has not.
type fate int

const (
	fatePassed fate = iota
	fateMerged
	fateRemoved
)

func (p *Puller) insertOne(t *txn, b *box, r *remote, joining bool) (fate, error) {
	m := r.Ops[0].Message
	body, ok := r.prepared[m.Dot]
	if !ok || covers(t.peek(b).erased, m.Dot) {
		return fatePassed, nil
	}
	if !joining {
		if here, err := t.find(b, m.Dot); err != nil || here != nil {
			return fatePassed, err
		}
	}
	// What this node has applied and has not was removed here, if nothing else
	// is missing; otherwise only if it was written down.
	if p.erased[m.Dot] || p.index.whole && t.head.vector().Covers(m.Dot) {
		return fateRemoved, nil
	}
	if t.peek(b).removed {
		t.revive(b, m.Dot)
	}
	if body.staged != nil {
		t.account.store.blobs.Link(t.batch, body.staged)
	} else {
		t.account.store.blobs.Share(t.batch, m.Body)
	}
	n := m
	n.UID = 0
	n.setMore(more{uid: m.UID})
	if joining {
		p.place(t, b, &n, body.meta)
		return fateMerged, nil
	}
	return fateMerged, t.insert(b, &n, body.meta)
}

// forgetIndex unloads the mailbox: of an account that no client has seen yet,
// messages come in any order.
func (p *Puller) forgetIndex(t *txn, b *box) {
	if t.peek(b).loaded {
		v := t.draft(b)
		v.loaded, v.list, v.keywords = false, messages{}, nil
		t.after = append(t.after, func() { b.dots = nil })
	}
}

// place stores a message of an account that no client has seen here, at the UID
// it has on the partner.
func (p *Puller) place(t *txn, b *box, m *Message, meta []byte) {
	v := t.draft(b)
	t.head.octets += m.Octets
	u := m.register()
	if u == 0 || p.index.hasUID(u) {
		t.hide(b, m, meta)
		return
	}
	v.allocate(func(a *uid.Mailbox) { a.Expose(uint32(u)) })
	t.append(b, v, m.placed(u, t.nextModSeq()), meta)
}

// hasUID reports whether a message is shown at u.
func (x *index) hasUID(u imap.UID) bool {
	if x.uids == nil {
		x.uids = make(map[uint32]bool, len(x.items))
		for _, it := range x.items {
			x.uids[it.at] = true
		}
	}
	return x.uids[uint32(u)]
}

// readErased reads which messages of the mailbox were expunged here.
func (p *Puller) readErased(ctx context.Context) error {
	if p.erased != nil {
		return nil
	}
	err := p.replica.with(ctx, func(a *account) (err error) {
		p.erased, err = a.expungeLog(ctx, p.box)
		return err
	})
	if err != nil {
		return p.replica.store.failure("read the expunge log", err)
	}
	return nil
}

// finish notes that this node has what the partner had when the merge began.
func (p *Puller) finish(ctx context.Context) error {
	for ; len(p.gone) > 0; p.gone = p.gone[1:] {
		if err := p.remove(ctx, p.gone[0]); err != nil {
			return err
		}
	}
	err := p.change(ctx, func(t *txn) error {
		for _, e := range p.peer.position.Vector {
			have := t.head.others.Of(e.Origin)
			switch {
			case e.Origin == t.account.store.origin:
				t.account.link.acked.Store(max(t.account.link.acked.Load(), e.Seq))
			case e.Seq > have.Seq:
				e.Closed = e.Closed || have.Closed
				t.head.learn(e)
				// The records that lead there were not applied one by one.
				records := foreignKey(t.account.id, e.Origin)
				t.batch.DeleteRange(records, above(records))
			case e.Closed && !have.Closed:
				have.Closed = true
				t.head.learn(have)
			}
		}
		if h := p.peer.position.Home; h.Epoch > 0 { // as it is stored there
			t.adoptHome(h)
		}
		t.head.joined, t.head.merging, t.changed = true, false, true
		// All floors may be news to the partner, which waits for them.
		p.applied.note(t.account.inOrder())
		return nil
	})
	if err != nil {
		return err
	}
	return p.replica.with(ctx, func(a *account) error {
		if err := a.settle(ctx); err != nil {
			return err
		}
		conflicts, err := a.housekeep(ctx)
		p.applied.Conflicts = append(p.applied.Conflicts, conflicts...)
		if err != nil {
			return err
		}
		return a.applied(ctx, &p.applied)
	})
}
