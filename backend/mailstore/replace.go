package mailstore

import (
	"context"

	"github.com/emersion/go-imap/v2"
)

// Replace adds a message to dest and removes the one with a UID from m (RFC
// 8508). Within an account that is one commit: there is always the one or the
// other. In another account the new message is stored first, so that a failure
// between leaves both. Nothing of the old message, its flags neither, goes over
// to the new one. ErrNoMessage when the old one is gone; otherwise as Append.
func (m *Mailbox) Replace(ctx context.Context, old imap.UID, dest *Mailbox, message Append) (imap.UID, error) {
	if m.box.account != dest.box.account {
		return m.replaceAcross(ctx, old, dest, message)
	}
	a := m.box.account
	n, err := a.store.prepare(message.Content, nil, message.Flags&^dest.unstored(), message.Keywords, message.InternalDate)
	if err != nil {
		return 0, err
	}
	var made added
	seq, err := a.changeSeq(ctx, func(t *txn) error {
		if t.peek(m.box).gone {
			return ErrNoMailbox
		}
		gone := t.peek(m.box).present([]imap.UID{old})
		if len(gone) == 0 {
			return ErrNoMessage
		}
		if err := t.room(dest.box, n.message.Octets-gone[0].Octets, 0); err != nil {
			return err
		}
		// The new one comes first, lest a partner that gets half of it has none.
		if made, err = t.add(dest.box, n.addition); err != nil {
			return err
		}
		t.remove(m.box, gone, false)
		return nil
	})
	if err != nil {
		return 0, err
	}
	list := []added{made}
	if err := a.awaitUIDs(ctx, list); err != nil {
		return 0, err
	}
	if err := a.durable(ctx, seq, DurabilityDefault); err != nil {
		return 0, err
	}
	uids := uidsIn(list)
	dest.markAppended(ctx, uids, []Append{message})
	return uids[0], nil
}

func (m *Mailbox) replaceAcross(ctx context.Context, old imap.UID, dest *Mailbox, message Append) (imap.UID, error) {
	if len(m.box.current().present([]imap.UID{old})) == 0 {
		return 0, ErrNoMessage
	}
	uids, err := dest.Append(ctx, []Append{message})
	if err != nil {
		return 0, err
	}
	_, err = m.remove(ctx, []imap.UID{old}, false)
	return uids[0], err
}
