package mailstore

import (
	"context"
	"errors"

	"github.com/postern-mail/postern/store"
)

// referenced is a store of bodies that tells how often a body is linked.
type referenced interface {
	References(ctx context.Context, ref store.Ref) (int64, error)
}

// Restore puts the staged octets in the place of a body that is missing or
// damaged. The caller discards content, whatever the result. ErrNoMessage when
// nobody here needs the body; another error when the engine cannot.
func (s *Store) Restore(ctx context.Context, content store.Staged) error {
	mender, ok := s.blobs.(store.Mender)
	if !ok {
		return errors.New("this engine cannot replace a body")
	}
	if parsed, ok := content.(*staged); ok {
		content = parsed.Staged
	}
	found := int64(1)
	if blobs, ok := s.blobs.(referenced); ok {
		ref := content.Ref()
		linked, err := blobs.References(ctx, ref)
		if err != nil {
			return s.failure("restore body", err)
		}
		if linked == 0 { // its key is gone
			if found, err = s.countReferences(ctx, ref); err != nil {
				return s.failure("restore body", err)
			}
			if found == 0 {
				return ErrNoMessage
			}
		}
	}
	b := store.NewBatch()
	mender.Mend(b, content, found)
	return s.failure("restore body", s.commitSweep(ctx, b))
}

// countReferences counts the messages of all accounts that have a body.
func (s *Store) countReferences(ctx context.Context, ref store.Ref) (n int64, err error) {
	err = s.EachBody(ctx, func(have store.Ref) error {
		if have == ref {
			n++
		}
		return nil
	})
	return n, err
}

// EachBody calls look for the body of every message, as often as there are
// messages with it, also of those that have no UID yet or await the sweep.
// Messages whose records cannot be read are left out. It may run beside
// everything else.
func (s *Store) EachBody(ctx context.Context, look func(store.Ref) error) error {
	return s.eachAccount(ctx, func(id GUID, _ string, _ error) error { return s.eachBodyOf(ctx, id, look) })
}

func (s *Store) eachBodyOf(ctx context.Context, id GUID, look func(store.Ref) error) error {
	for _, kind := range []byte{kindMessage, kindPending} {
		prefix := accountKey(id, kind)
		err := store.Scan(ctx, s.kv, prefix, above(prefix), checkAtOnce, func(_ store.Snapshot, _, value []byte) error {
			var m Message
			if decodeInstance(&m, 0, value) != nil {
				return nil
			}
			return look(m.Body)
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// Refers reports whether a message of the account still has the body.
func (r *Replica) Refers(ctx context.Context, ref store.Ref) (bool, error) {
	found := errors.New("found")
	err := r.store.eachBodyOf(ctx, r.id, func(have store.Ref) error {
		if have == ref {
			return found
		}
		return nil
	})
	if errors.Is(err, found) {
		return true, nil
	}
	return false, r.store.failure("look for a message with a body", err)
}
