package mailstore

import (
	"context"
	"errors"

	"github.com/postern-mail/postern/store"
)

// Damaged counts and sums the messages of all mailboxes anew and names those
// mailboxes whose messages are not what was kept of them: the digest in Position
// is not to be believed then. It reads every message's record, beside everything
// else.
func (r *Replica) Damaged(ctx context.Context) (names []string, err error) {
	err = r.with(ctx, func(a *account) error {
		boxes, err := a.namesOfBoxes(ctx)
		if err != nil {
			return err
		}
		for id, name := range boxes {
			x, err := a.readIndex(ctx, id)
			switch {
			case ctx.Err() != nil:
				return ctx.Err()
			case errors.Is(err, store.ErrNotFound): // deleted meanwhile
			case errors.Is(err, errRecord), err == nil && !x.isWhole():
				names = append(names, name)
			case err != nil:
				return err
			}
		}
		return nil
	})
	return names, r.store.failure("count messages anew", err)
}

// namesOfBoxes returns the mailboxes that are not deleted.
func (a *account) namesOfBoxes(ctx context.Context) (names map[GUID]string, err error) {
	err = a.changeAlone(ctx, func(t *txn) error {
		names = make(map[GUID]string, len(a.boxes))
		for id, b := range a.boxes {
			if v := t.peek(b); !v.removed {
				names[id] = v.name
			}
		}
		return nil
	})
	return names, err
}
