package mailstore

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/emersion/go-imap/v2"

	"github.com/postern-mail/postern/status"
	"github.com/postern-mail/postern/store"
)

// Hidden messages are stored, count for the quota, and have no UID that could
// be shown: they wait for home to give them one.

// dotKey is the key of a hidden message, or of its Meta.
func dotKey(account GUID, kind byte, mailbox GUID, d Dot) []byte {
	return append(mailboxKey(account, kind, mailbox), d.bytes()...)
}

// hidden returns the hidden messages of a mailbox, reading them if need be.
func (t *txn) hidden(b *box) ([]*Message, error) {
	v := t.peek(b)
	if v.pending == int64(len(v.hiddenList)) {
		return v.hiddenList, nil
	}
	list, err := t.account.readHidden(t.ctx, b.guid, v.erased)
	if err != nil {
		return nil, err
	}
	// Those that this commit added or dropped are not, or still, among them.
	draft := t.draft(b)
	list = slices.DeleteFunc(list, func(m *Message) bool {
		return slices.Contains(draft.unhidden, m.Dot) || slices.ContainsFunc(draft.hiddenList, func(h *Message) bool { return h.Dot == m.Dot })
	})
	draft.hiddenList = append(list, draft.hiddenList...)
	if draft.pending != int64(len(draft.hiddenList)) {
		return nil, fmt.Errorf("mailbox %s: %d messages wait for a UID, found %d: %w", b.guid, draft.pending, len(draft.hiddenList), errRecord)
	}
	return draft.hiddenList, nil
}

// readHidden reads hidden messages, those saved first in front.
func (a *account) readHidden(ctx context.Context, mailbox GUID, erased []Dot) ([]*Message, error) {
	var list []*Message
	prefix := mailboxKey(a.id, kindPending, mailbox)
	err := a.store.kv.View(ctx, func(snap store.Snapshot) error {
		for pair, err := range snap.Range(prefix, above(prefix), 0, false) {
			if err != nil {
				return err
			}
			m := new(Message)
			if err := decodeInstance(m, 0, pair.Value); err != nil {
				return err
			}
			if !covers(erased, m.Dot) {
				list = append(list, m)
			}
		}
		return nil
	})
	slices.SortStableFunc(list, func(x, y *Message) int {
		return cmp.Or(x.SaveDate.Compare(y.SaveDate), cmp.Compare(x.Dot.Seq, y.Dot.Seq))
	})
	return list, err
}

// hide adds a message without a UID to be shown.
func (t *txn) hide(b *box, m *Message, meta []byte) {
	v := t.draft(b)
	t.batch.Put(dotKey(t.account.id, kindPending, b.guid, m.Dot), m.encode())
	t.batch.Put(dotKey(t.account.id, kindPendingMeta, b.guid, m.Dot), meta)
	t.keepMeta(m.Dot, meta)
	v.sum(m, 1)
	v.pending++
	v.pendingOctets += m.Octets
	v.hiddenList = append(slices.Clip(v.hiddenList), m)
	v.dirty = true
	t.head.unsettled++
}

// rewriteHidden stores a hidden message in another state.
func (t *txn) rewriteHidden(b *box, m *Message) {
	v := t.draft(b)
	v.hiddenList = slices.Clone(v.hiddenList)
	for i, old := range v.hiddenList {
		if old.Dot == m.Dot {
			v.sum(old, -1)
			v.sum(m, 1)
			v.hiddenList[i] = m
		}
	}
	v.dirty = true
	t.batch.Put(dotKey(t.account.id, kindPending, b.guid, m.Dot), m.encode())
}

// dropHidden takes a message out of the hidden ones. Its octets stay counted in
// the account's, and its body linked: who calls it shows it, or removes it.
func (t *txn) dropHidden(b *box, m *Message) {
	v := t.draft(b)
	t.batch.Delete(dotKey(t.account.id, kindPending, b.guid, m.Dot))
	t.batch.Delete(dotKey(t.account.id, kindPendingMeta, b.guid, m.Dot))
	v.sum(m, -1)
	v.pending--
	v.pendingOctets -= m.Octets
	v.hiddenList = slices.DeleteFunc(slices.Clone(v.hiddenList), func(h *Message) bool { return h.Dot == m.Dot })
	v.unhidden = append(v.unhidden, m.Dot)
	v.dirty = true
	t.head.unsettled--
}

// removeHidden removes a hidden message for good.
func (t *txn) removeHidden(b *box, m *Message) {
	t.dropHidden(b, m)
	if t.head.merging {
		v := t.draft(b)
		v.expungedDots = append(v.expungedDots, m.Dot)
	}
	t.account.store.blobs.Unlink(t.batch, m.Body)
	t.head.octets -= m.Octets
	t.tell(m.Dot, 0)
}

// keepMeta remembers a Meta record that this commit writes, for who reads it
// before it is there.
func (t *txn) keepMeta(d Dot, meta []byte) {
	if t.account.link == nil {
		return
	}
	if t.metas == nil {
		t.metas = make(map[Dot][]byte)
	}
	t.metas[d] = meta
	t.undo = append(t.undo, func() { delete(t.metas, d) })
}

// metaOf returns the Meta record of a message, also one of this commit.
func (t *txn) metaOf(b *box, m *Message) (record []byte, err error) {
	if record = t.metas[m.Dot]; record != nil {
		return record, nil
	}
	key := dotKey(t.account.id, kindPendingMeta, b.guid, m.Dot)
	if m.UID != 0 {
		key = messageKey(t.account.id, kindMeta, b.guid, m.UID)
	}
	err = t.account.store.kv.View(t.ctx, func(snap store.Snapshot) error {
		value, err := snap.Get(key)
		record = bytes.Clone(value)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("structure of message %d.%d: %w", m.Dot.Origin, m.Dot.Seq, err)
	}
	t.keepMeta(m.Dot, record)
	return record, nil
}

// tell gives the UID to who waits for it, once the commit is there; 0 when the
// message is gone.
func (t *txn) tell(d Dot, u imap.UID) {
	a := t.account
	if a.link == nil {
		return
	}
	t.after = append(t.after, func() {
		a.mu.Lock()
		defer a.mu.Unlock()
		if wait := a.waits[d]; wait != nil {
			wait <- u
			delete(a.waits, d)
		}
	})
}

// added is a message that was added, with its UID, or where that is to come.
type added struct {
	dot  Dot
	uid  imap.UID
	wait chan imap.UID
}

// await has the commit note that somebody waits for the UID of m.
func (t *txn) await(m *added) {
	a := t.account
	wait := make(chan imap.UID, 1)
	m.wait = wait
	t.after = append(t.after, func() {
		a.mu.Lock()
		defer a.mu.Unlock()
		if a.waits == nil {
			a.waits = make(map[Dot]chan imap.UID)
		}
		a.waits[m.dot] = wait
	})
}

var errNoUID = errors.New("no UID came in time")

// awaitUIDs fills in the UIDs that are to come. StoreDown when one does not come
// in time; the messages are there all the same.
func (a *account) awaitUIDs(ctx context.Context, list []added) error {
	if a.link == nil || !slices.ContainsFunc(list, func(m added) bool { return m.wait != nil }) {
		return nil
	}
	defer a.stopWaiting(list)
	if a.store.cfg.UIDWait < 0 {
		return nil
	}
	timer := time.NewTimer(a.store.cfg.UIDWait)
	defer timer.Stop()
	for i := range list {
		m := &list[i]
		if m.wait == nil {
			continue
		}
		select {
		case m.uid = <-m.wait:
		case <-timer.C:
			return status.Errorf(status.StoreDown, "message %d.%d: %w", m.dot.Origin, m.dot.Seq, errNoUID)
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return nil
}

func (a *account) stopWaiting(list []added) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, m := range list {
		if m.wait != nil {
			delete(a.waits, m.dot)
		}
	}
}

func uidsIn(list []added) []imap.UID {
	uids := make([]imap.UID, len(list))
	for i, m := range list {
		uids[i] = m.uid
	}
	return uids
}
