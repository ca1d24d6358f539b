package mailstore

import (
	"context"
	"fmt"

	"github.com/postern-mail/postern/store"
)

// eachDamagedVirtual calls fn, once for each, for the virtual mailboxes whose
// records cannot be read or do not fit together.
func (s *Store) eachDamagedVirtual(ctx context.Context, account GUID, fn func(mailbox GUID, damage error) error) error {
	var at, told GUID
	var x *virtualIndex
	var b *virtualBox // takes the members apart
	prefix := accountKey(account, kindVirtual)
	return store.Scan(ctx, s.kv, prefix, above(prefix), checkAtOnce, func(_ store.Snapshot, key, value []byte) error {
		rest := key[len(prefix):]
		if len(rest) < 16+1 {
			return fn(GUID{}, fmt.Errorf("key %x of a virtual mailbox: %w", key, errRecord))
		}
		mailbox, part := GUID(rest[:16]), rest[16]
		if mailbox != at || b == nil {
			at, x, b = mailbox, nil, &virtualBox{parts: make(map[partID]*virtualPart)}
		}
		var err error
		switch {
		case mailbox == told:
			return nil
		case part == virtualHeader:
			x, err = decodeVirtual(value)
		case x == nil: // the header comes first
			err = fmt.Errorf("virtual mailbox without a header: %w", errRecord)
		case part == virtualMembers:
			err = b.readMembers(x, value)
		case part == virtualLog:
			_, _, err = decodeExpunged(value)
		default:
			err = fmt.Errorf("key %x of a virtual mailbox: %w", key, errRecord)
		}
		if err == nil {
			return nil
		}
		told = mailbox
		return fn(mailbox, err)
	})
}

// virtual checks what is kept of virtual mailboxes. It is derived: damage is no
// harm to mail, but clients get other UIDs.
func (c *checker) virtual(ctx context.Context) error {
	return c.store.eachDamagedVirtual(ctx, c.id, func(mailbox GUID, damage error) error {
		c.failf("virtual mailbox %s, which is made anew: %w", mailbox, damage)
		return nil
	})
}

// virtual removes what cannot be read: who opens the mailbox has it made anew.
func (r *repairer) virtual(ctx context.Context) error {
	return r.store.eachDamagedVirtual(ctx, r.id, func(mailbox GUID, damage error) error {
		prefix := mailboxKey(r.id, kindVirtual, mailbox)
		if mailbox == (GUID{}) {
			prefix = accountKey(r.id, kindVirtual) // nobody's: all of them go
		}
		r.batch.DeleteRange(prefix, above(prefix))
		r.tell(Finding{Err: fmt.Errorf("virtual mailbox %s: %w", mailbox, damage)}, "removed, to be made anew with another UIDVALIDITY")
		return r.flush(ctx, flushAt)
	})
}
