package mailstore

import (
	"context"
	"errors"
	"slices"

	"github.com/emersion/go-imap/v2"

	"github.com/postern-mail/postern/backend/mailstore/uid"
)

// allocator is the mailbox's allocator of UIDs as it is now.
func (v *view) allocator() uid.Mailbox {
	m := v.uids
	m.Marks = uid.Marks{Exposed: uint32(v.uidNext) - 1, Allocated: uint32(v.allocated), Floor: uint32(v.floor)}
	if v.uidNext == 0 {
		m.Exposed = 0
	}
	return m
}

// report is the highest UID known of, for the partner.
func (v *view) report() uint32 {
	m := v.allocator()
	return m.Report()
}

// allocate lets fn change the allocator of a draft.
func (v *view) allocate(fn func(m *uid.Mailbox)) {
	m := v.allocator()
	fn(&m)
	v.uids = m
	v.uidNext, v.allocated, v.floor = imap.UID(m.Exposed)+1, imap.UID(m.Allocated), imap.UID(m.Floor)
}

// nextUID gives out a UID to be shown in this commit, or 0 when none may be
// given out now. ErrTooMany when the mailbox has used up all.
func (t *txn) nextUID(v *view) (u imap.UID, err error) {
	side := t.side()
	v.allocate(func(m *uid.Mailbox) {
		var n uint32
		if n, err = m.Next(side); err == nil {
			m.Expose(n)
			u = imap.UID(n)
		}
	})
	switch {
	case errors.Is(err, uid.ErrNoCredit):
		return 0, nil
	case errors.Is(err, uid.ErrExhausted):
		return 0, ErrTooMany
	}
	return u, err
}

// heard takes note of a UID that stands in a record of the partner's, which is
// durable there.
func (v *view) heard(u imap.UID) { v.allocate(func(m *uid.Mailbox) { m.Acked(uint32(u)) }) }

// settlePerCommit is how many messages get UIDs in one commit at most.
const settlePerCommit = 100

// settle gives UIDs to all messages that may have one now, in commits of some.
func (a *account) settle(ctx context.Context) error {
	for more := true; more; {
		err := a.changeAlone(ctx, func(t *txn) error {
			more = false
			if t.head.unsettled == 0 {
				return nil
			}
			left := settlePerCommit
			for _, b := range a.inOrder() {
				n, err := t.settle(b, left)
				if err != nil {
					return err
				}
				if left -= n; left <= 0 {
					more = true
					return nil
				}
			}
			return nil
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// inOrder returns the mailboxes by GUID, for the leader.
func (a *account) inOrder() []*box {
	list := make([]*box, 0, len(a.boxes))
	for _, b := range a.boxes {
		list = append(list, b)
	}
	slices.SortFunc(list, func(x, y *box) int { return slices.Compare(x.guid[:], y.guid[:]) })
	return list
}

// settle shows hidden messages of a mailbox and renumbers shown ones, limit at
// most, and returns how many.
func (t *txn) settle(b *box, limit int) (n int, err error) {
	v := t.peek(b)
	if v.gone || v.pending == 0 && v.misplaced == 0 {
		return 0, nil
	}
	side := t.side()
	if v.pending > 0 {
		if n, err = t.settleHidden(b, side, limit); err != nil {
			return n, err
		}
	}
	if t.peek(b).misplaced == 0 || !side.Sequences() && side.Link != uid.Alone {
		return n, nil
	}
	more, err := t.settleMisplaced(b, limit-n)
	return n + more, err
}

func (t *txn) settleHidden(b *box, side uid.Side, limit int) (n int, err error) {
	hidden, err := t.hidden(b)
	if err != nil {
		return 0, err
	}
	for _, m := range hidden {
		if n == limit {
			break
		}
		v := t.draft(b)
		alloc := v.allocator()
		switch alloc.Decide(side, 0, uint32(m.register())) {
		case uid.Expose:
			err = t.expose(b, m, m.register())
		case uid.Allocate:
			var u imap.UID
			if u, err = t.nextUID(v); err == nil && u == 0 {
				return n, nil // no credit: an acknowledgement brings it
			}
			if err == nil {
				v.given = append(v.given, dotUID{m.Dot, u})
				err = t.expose(b, m, u)
			}
		default:
			continue
		}
		if err != nil {
			return n, err
		}
		n++
	}
	return n, nil
}

// settleMisplaced gives shown messages that need one another UID.
func (t *txn) settleMisplaced(b *box, limit int) (n int, err error) {
	if err := t.load(b); err != nil {
		return 0, err
	}
	var list []*Message
	v := t.peek(b)
	for i := range v.list.len() {
		if m := v.list.at(i); m.isMisplaced() && len(list) < limit {
			list = append(list, m)
		}
	}
	for _, m := range list {
		draft := t.draft(b)
		u, err := t.nextUID(draft)
		if err != nil || u == 0 {
			return n, err
		}
		draft.given = append(draft.given, dotUID{m.Dot, u})
		if err := t.renumber(b, m, u); err != nil {
			return n, err
		}
		n++
	}
	return n, nil
}

// isMisplaced reports whether a message is shown at a UID that is not, or will
// not be, its highest.
func (m *Message) isMisplaced() bool { return m.UID != 0 && (m.register() > m.UID || m.asked()) }

// dotUID is a message with its UID; 0 when it is not there any more.
type dotUID struct {
	dot Dot
	uid imap.UID
}

// placed is a message as it is once it is shown at its highest UID u.
func (m *Message) placed(u imap.UID, modseq uint64) *Message {
	n := *m
	n.UID, n.ModSeq = u, modseq
	more := m.moreOf()
	more.uid, more.asked = 0, false
	n.setMore(more)
	return &n
}

// expose shows a hidden message at u, which the allocator knows to be shown.
func (t *txn) expose(b *box, m *Message, u imap.UID) error {
	meta, err := t.metaOf(b, m)
	if err != nil {
		return err
	}
	t.dropHidden(b, m)
	v := t.draft(b)
	v.allocate(func(a *uid.Mailbox) { a.Expose(uint32(u)) })
	n := m.placed(u, t.nextModSeq())
	v.countKeywords(addKeywords(nil, n.Keywords, 1))
	t.append(b, v, n, meta)
	t.tell(n.Dot, u)
	return nil
}

// renumber shows a message, of a mailbox whose index is in memory, at u
// instead, which is above all others.
func (t *txn) renumber(b *box, m *Message, u imap.UID) error {
	meta, err := t.metaOf(b, m)
	if err != nil {
		return err
	}
	t.batch.Delete(messageKey(t.account.id, kindMessage, b.guid, m.UID))
	t.batch.Delete(messageKey(t.account.id, kindMeta, b.guid, m.UID))
	t.dropSortKeys(b.guid, []imap.UID{m.UID})
	v := t.draft(b)
	v.allocate(func(a *uid.Mailbox) { a.Expose(uint32(u)) })
	n := m.placed(u, t.nextModSeq())
	t.putMessage(b, n)
	t.batch.Put(messageKey(t.account.id, kindMeta, b.guid, u), meta)
	if m.isMisplaced() {
		v.misplaced--
		t.head.unsettled--
	}
	v.sum(m, -1)
	v.sum(n, 1)
	v.list.remove([]imap.UID{m.UID})
	v.list.append(n)
	v.place(n.Dot, u)
	v.expunged = append(v.expunged, m.UID)
	v.modseq, v.dirty = n.ModSeq, true
	t.conflict(ConflictRenumbered, v.name, "UID %d is now %d", m.UID, u)
	return nil
}

// logUIDs puts the UIDs that were given out, and those asked for, into the
// journal.
func (t *txn) logUIDs() {
	for _, b := range t.order {
		v := t.drafts[b]
		if len(v.given) > 0 && !v.gone {
			for some := range slices.Chunk(v.given, settlePerCommit) {
				op := &JournalOp{Code: OpUid, Mailbox: b.guid}
				for _, g := range some {
					op.Dots, op.UIDs = append(op.Dots, g.dot), append(op.UIDs, g.uid)
				}
				// The partner may have to renumber each of them: that is a record's
				// worth by itself.
				t.flushJournal(0)
				t.log(op)
			}
		}
		if len(v.wanted) > 0 && !v.gone {
			t.log(&JournalOp{Code: OpNeedUid, Mailbox: b.guid, Dots: v.wanted, UID: v.uidNext - 1})
		}
	}
}

// isUnsettled reports whether messages wait for a UID, or for another.
func (a *account) isUnsettled() bool {
	a.mu.RLock()
	defer a.mu.RUnlock()
	return a.head.unsettled > 0
}
