package mailstore

import (
	"bytes"
	"context"
	"errors"
	"fmt"

	"github.com/postern-mail/postern/store"
)

// checkSortKeys tells what is wrong with a record of keys for sorting: it cannot
// be read, or tells of a message that is gone.
func checkSortKeys(snap store.Snapshot, account GUID, key, value []byte) (mailbox GUID, damage, err error) {
	if len(key) != messageKeyOctets {
		return mailbox, fmt.Errorf("key %x for sorting: %w", key, errRecord), nil
	}
	mailbox = GUID(key[accountPrefixOctets+1:])
	keys, _, damage := decodeSortKeys(uidOf(key), value)
	if damage != nil {
		return mailbox, damage, nil
	}
	for _, k := range keys {
		_, err := snap.Get(messageKey(account, kindMessage, mailbox, k.UID))
		if errors.Is(err, store.ErrNotFound) {
			return mailbox, fmt.Errorf("key for sorting of UID %d, which is gone", k.UID), nil
		}
		if err != nil {
			return mailbox, nil, err
		}
	}
	return mailbox, nil, nil
}

// sortKeys checks what messages are sorted by.
func (c *checker) sortKeys(ctx context.Context, records map[GUID]mailboxRecord) error {
	return c.each(ctx, kindSortKeys, func(snap store.Snapshot, key, value []byte) error {
		mailbox, damage, err := checkSortKeys(snap, c.id, key, value)
		if damage != nil {
			r := records[mailbox]
			c.report(Finding{Mailbox: mailboxText(mailbox, &r), Err: damage})
		}
		return err
	})
}

// sortKeys removes what is wrong: it is made again when somebody sorts.
func (r *repairer) sortKeys(ctx context.Context) error {
	return r.each(ctx, kindSortKeys, func(snap store.Snapshot, key, value []byte) error {
		mailbox, damage, err := checkSortKeys(snap, r.id, key, value)
		if damage == nil {
			return err
		}
		r.batch.Delete(bytes.Clone(key))
		r.tell(Finding{Mailbox: r.mailboxName(mailbox), Err: damage}, "removed, to be made anew")
		return r.flush(ctx, flushAt)
	})
}
