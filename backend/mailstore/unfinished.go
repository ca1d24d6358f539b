package mailstore

import (
	"context"
	"errors"
	"slices"

	"github.com/postern-mail/postern/store"
)

// A state merge that was broken off leaves messages here that no vector covers:
// the records that added them are yet to come, or will be covered by the next
// merge. What clients did to these messages meanwhile must hold all the same.
// Whoever removes one leaves its dot in the expunge log, and nothing takes that
// away before its time while head.merging.

// wasRemoved reports whether a message that a record adds came by an unfinished
// merge before, and was removed since.
func (t *txn) wasRemoved(mailbox GUID, d Dot) (bool, error) {
	if !t.head.merging {
		return false, nil
	}
	if b := t.box(mailbox); b != nil && slices.Contains(t.peek(b).expungedDots, d) {
		return true, nil
	}
	log, known := t.expungeLogs[mailbox]
	if !known {
		var err error
		if log, err = t.account.expungeLog(t.ctx, mailbox); err != nil {
			return false, err
		}
		if t.expungeLogs == nil {
			t.expungeLogs = make(map[GUID]map[Dot]bool)
		}
		t.expungeLogs[mailbox] = log
	}
	return log[d], nil
}

// expungeLog reads which messages of a mailbox were expunged, as far as that is
// remembered.
func (a *account) expungeLog(ctx context.Context, mailbox GUID) (map[Dot]bool, error) {
	erased := make(map[Dot]bool)
	prefix := mailboxKey(a.id, kindExpunged, mailbox)
	err := store.Scan(ctx, a.store.kv, prefix, above(prefix), checkAtOnce, func(_ store.Snapshot, _, value []byte) error {
		_, _, dots, err := decodeExpungedDots(value)
		for _, d := range dots {
			erased[d] = true
		}
		return err
	})
	return erased, err
}

// errBeyond: a mailbox has messages that no vector covers.
var errBeyond = errors.New("messages of an unfinished merge")

// deleteWhole deletes a mailbox in a commit that change makes. A deletion names
// what it had seen by a vector; messages of an unfinished merge, which no vector
// covers, are expunged one by one before.
func (a *account) deleteWhole(ctx context.Context, name string) error {
	for try := 0; ; try++ {
		err := a.changeDurably(ctx, func(t *txn) error {
			if beyond, err := t.beyond(a.names[name], 1); err != nil || len(beyond) > 0 {
				return errors.Join(err, errBeyond)
			}
			return t.deleteMailbox(name)
		})
		if !errors.Is(err, errBeyond) || try == maxConflicts {
			return err
		}
		if err := a.expungeBeyond(ctx, name); err != nil {
			return err
		}
	}
}

func (a *account) expungeBeyond(ctx context.Context, name string) error {
	for more := true; more; {
		err := a.changeAlone(ctx, func(t *txn) error {
			b := a.names[name]
			beyond, err := t.beyond(b, expungePerCommit)
			if more = len(beyond) > 0; err != nil || !more {
				return err
			}
			return t.removeDots(b, beyond, true)
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// beyond returns messages of a mailbox, which may be nil, that nothing this node
// has applied covers, so many at most.
func (t *txn) beyond(b *box, limit int) (dots []Dot, err error) {
	if b == nil || !t.head.merging {
		return nil, nil
	}
	if err := t.load(b); err != nil {
		return nil, err
	}
	hidden, err := t.hidden(b)
	if err != nil {
		return nil, err
	}
	observed := t.observed()
	note := func(m *Message) {
		if len(dots) < limit && !covers(observed, m.Dot) {
			dots = append(dots, m.Dot)
		}
	}
	for _, m := range hidden {
		note(m)
	}
	v := t.peek(b)
	for i := range v.list.len() {
		note(v.list.at(i))
	}
	return dots, nil
}
