package mailstore

import (
	"cmp"
	"context"
	"slices"
	"time"

	"github.com/postern-mail/postern/store"
)

// Deleted mailboxes keep their records, and ended subscriptions theirs: what the
// partner sends late must meet them. Once it can send nothing late any more they
// are only remembered so that a name gets no lower UIDVALIDITY than it had, and
// that only for so many.

const (
	// maxDeleted is how many deleted mailboxes of an account the sweep leaves,
	// the latest, beside those that others hang below or that would be made
	// anew under the same identity.
	maxDeleted = 100
	// maxEnded is how many ended subscriptions it leaves.
	maxEnded = 100
	// dropPerCommit bounds what one commit drops.
	dropPerCommit = 200
)

// clockUIDValidity is where UIDVALIDITYs from the clock begin: see
// configuredUIDValidity.
const clockUIDValidity = 1 << 30

// sweepDeleted drops records of deleted mailboxes and ended subscriptions that
// are too many.
func (s *Store) sweepDeleted(ctx context.Context, id GUID, name string, _ time.Time) error {
	deleted, ended := 0, 0
	err := s.kv.View(ctx, func(snap store.Snapshot) error {
		records, subscriptions := make(map[GUID]mailboxRecord), make(map[string]subscription)
		if err := readRegisters(snap, id, records, subscriptions); err != nil {
			return err
		}
		for _, r := range records {
			deleted += int(boolByte(r.removed))
		}
		for _, s := range subscriptions {
			ended += int(boolByte(!s.on))
		}
		return nil
	})
	if err != nil || deleted <= maxDeleted && ended <= maxEnded {
		return err
	}
	a := s.hold(id, name)
	defer s.release(a)
	if err := a.open(ctx); err != nil {
		return err
	}
	for more := true; more; {
		err := a.changeAlone(ctx, func(t *txn) error {
			subscriptions := t.dropEnded()
			mailboxes, err := t.dropDeleted()
			more = subscriptions+mailboxes > 0
			t.changed = more
			return err
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// isStable reports whether the partner can send nothing any more that it wrote
// without knowing the account's own operation seq.
func (t *txn) isStable(seq uint64) bool {
	l := t.account.link
	return l == nil || !t.head.merging && seq <= l.stable
}

// dropDeleted drops records of deleted mailboxes, and returns how many.
func (t *txn) dropDeleted() (n int, err error) {
	a := t.account
	garbage, err := a.store.page(t.ctx, accountKey(a.id, kindGarbage), 0)
	if err != nil {
		return 0, err
	}
	keep := make(map[GUID]bool)
	for _, pair := range garbage {
		keep[GUID(pair.Key[len(pair.Key)-16:])] = true
	}
	deleted := 0
	var list []*box
	for _, b := range a.boxes {
		v := t.peek(b)
		keep[v.parent] = true
		deleted += int(boolByte(v.removed))
	}
	for id, b := range a.boxes {
		v := t.peek(b)
		// Its deletion follows what it had seen: with it, a subscription may.
		const deletion = 2
		if v.removed && !keep[id] && v.uidValidity >= clockUIDValidity && t.isStable(ownSeq(v.erased, a.store.origin)+deletion) {
			list = append(list, b)
		}
	}
	slices.SortFunc(list, func(x, y *box) int { return cmp.Compare(t.peek(x).modseq, t.peek(y).modseq) })
	list = list[:min(len(list), max(deleted-maxDeleted, 0), dropPerCommit)]
	for _, b := range list {
		log := mailboxKey(a.id, kindExpunged, b.guid)
		t.batch.DeleteRange(log, above(log))
		t.batch.Delete(mailboxKey(a.id, kindMailbox, b.guid))
		if t.dropped == nil {
			t.dropped = make(map[GUID]bool)
		}
		t.dropped[b.guid] = true
		t.retree = true
		t.after = append(t.after, func() {
			if a.link != nil {
				delete(a.link.boxes, b.guid)
			}
		})
	}
	return len(list), nil
}

// ownSeq is how far dots cover an origin.
func ownSeq(dots []Dot, origin Origin) uint64 {
	for _, d := range dots {
		if d.Origin == origin {
			return d.Seq
		}
	}
	return 0
}

// dropEnded drops ended subscriptions, and returns how many.
func (t *txn) dropEnded() (n int) {
	a := t.account
	ended := 0
	for _, s := range a.subscriptions {
		ended += int(boolByte(!s.on))
	}
	for name, s := range a.subscriptions {
		if n == dropPerCommit || ended-n <= maxEnded {
			break
		}
		own := s.at.dot.Origin == a.store.origin
		if !s.on && (!own || t.isStable(s.at.dot.Seq)) && !t.head.merging {
			t.dropSubscription(name)
			n++
		}
	}
	return n
}

// dropSubscription forgets that a name was ever subscribed to.
func (t *txn) dropSubscription(name string) {
	a := t.account
	t.batch.Delete(subscriptionKey(a.id, name))
	t.subscribe(name, subscription{})
	t.after = append(t.after, func() {
		a.mu.Lock()
		defer a.mu.Unlock()
		delete(a.subscriptions, name)
	})
}
