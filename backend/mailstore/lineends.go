package mailstore

import (
	"context"
	"encoding/binary"
	"errors"
	"maps"
	"slices"

	"github.com/emersion/go-imap/v2"

	"github.com/postern-mail/postern/store"
)

// Line ends. POP3 sends every line with CRLF at its end, and has to know before
// how long a message becomes by that. What came by LMTP has such lines already;
// of other messages the number of octets gained is kept, by stretches of UIDs,
// so that each is read once. It is derived, each node's own, and made again
// where it is missing or damaged.
const (
	// lineEndUIDs is how many UIDs a record is for. The first is a multiple.
	lineEndUIDs = 4096
	// lineEndsPerCommit bounds the records that one commit writes.
	lineEndsPerCommit = 8

	lineEndsVersion = 1
)

// LineEnds returns how many octets the messages of list gain by CRLF at the end
// of every line, of those that gain any. measure tells it of a message that it
// is not known of; ErrNoMessage, or ErrNotFound of the store, leaves that
// message out.
func (m *Mailbox) LineEnds(ctx context.Context, list []*Message, measure func(*Message) (int64, error)) (map[imap.UID]int64, error) {
	known, err := m.box.lineEnds(ctx)
	if err != nil {
		return nil, err
	}
	gained, fresh := make(map[imap.UID]int64), make(map[imap.UID]int64)
	for _, message := range list {
		if message.Trace() > 0 {
			continue // came by LMTP
		}
		n, isKnown := known[message.UID]
		if !isKnown {
			n, err = measure(message)
			if errors.Is(err, ErrNoMessage) || errors.Is(err, store.ErrNotFound) {
				err = nil
				continue
			}
			if err != nil {
				break
			}
			fresh[message.UID] = n
		}
		if n > 0 {
			gained[message.UID] = n
		}
	}
	m.box.keepLineEnds(ctx, known, fresh) // after an error too: the next one goes on from there
	if err != nil {
		return nil, m.box.account.store.failure("measure messages", err)
	}
	return gained, nil
}

// lineEnds reads what is known of the mailbox's messages.
func (b *box) lineEnds(ctx context.Context) (map[imap.UID]int64, error) {
	a := b.account
	known := make(map[imap.UID]int64)
	prefix := mailboxKey(a.id, kindLineEnds, b.guid)
	err := a.store.kv.View(ctx, func(snap store.Snapshot) error {
		for pair, err := range snap.Range(prefix, above(prefix), 0, false) {
			if err != nil {
				return err
			}
			some, err := decodeLineEnds(uidOf(pair.Key), pair.Value)
			if err != nil {
				a.store.log.Warn("sizes of messages are damaged, and made again", "account", a.name, "mailbox", b.guid, "err", err)
				continue
			}
			maps.Copy(known, some)
		}
		return nil
	})
	return known, a.store.failure("read sizes of messages", err)
}

// keepLineEnds writes the records that fresh changes, without messages that are
// gone, and takes those away that have none left. Neither clients nor the
// partner see a change, and what cannot be kept is measured again.
func (b *box) keepLineEnds(ctx context.Context, known, fresh map[imap.UID]int64) {
	if len(fresh) == 0 {
		return
	}
	records := make(map[imap.UID]map[imap.UID]int64) // by the first UID; nil for one to take away
	v := b.current()
	for uid := range known {
		records[uid-uid%lineEndUIDs] = nil
	}
	changed := make(map[imap.UID]bool)
	for uid := range fresh {
		changed[uid-uid%lineEndUIDs] = true
	}
	for _, numbers := range []map[imap.UID]int64{known, fresh} {
		for uid, n := range numbers {
			if _, ok := v.list.find(uid); !ok {
				continue
			}
			start := uid - uid%lineEndUIDs
			if records[start] == nil {
				records[start] = make(map[imap.UID]int64)
			}
			records[start][uid] = n
		}
	}
	maps.DeleteFunc(records, func(start imap.UID, r map[imap.UID]int64) bool { return r != nil && !changed[start] })
	for some := range slices.Chunk(slices.Sorted(maps.Keys(records)), lineEndsPerCommit) {
		err := b.account.changeAlone(ctx, func(t *txn) error {
			if t.peek(b).gone {
				return nil
			}
			for _, start := range some {
				key := messageKey(t.account.id, kindLineEnds, b.guid, start)
				if records[start] == nil {
					t.batch.Delete(key)
				} else {
					t.batch.Put(key, encodeLineEnds(start, records[start]))
					t.adds = true // it can wait for room
				}
			}
			return nil
		})
		if err != nil {
			b.account.store.log.Debug("cannot keep sizes of messages", "account", b.account.name, "err", err)
			return
		}
	}
}

func encodeLineEnds(start imap.UID, r map[imap.UID]int64) []byte {
	b := []byte{lineEndsVersion}
	at := start
	for _, uid := range slices.Sorted(maps.Keys(r)) {
		b = binary.AppendUvarint(b, uint64(uid-at))
		b = binary.AppendUvarint(b, uint64(r[uid]))
		at = uid
	}
	return b
}

func decodeLineEnds(start imap.UID, b []byte) (map[imap.UID]int64, error) {
	d := decoder{b: b}
	d.versions(lineEndsVersion)
	r := make(map[imap.UID]int64)
	for at := uint64(start); len(d.b) > 0 && !d.bad; {
		at += d.uvarint()
		n := int64(d.uvarint())
		if at-uint64(start) >= lineEndUIDs || n < 0 {
			d.bad = true
		}
		r[imap.UID(at)] = n
	}
	return r, d.end("line ends")
}
