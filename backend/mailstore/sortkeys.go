package mailstore

import (
	"context"
	"encoding/binary"
	"slices"

	"github.com/emersion/go-imap/v2"

	"github.com/postern-mail/postern/store"
)

// What messages are sorted and threaded by is kept by stretches of UIDs, so that
// after a restart a large mailbox is sorted without reading the headers of its
// messages. It is derived and each node's own, goes with the messages, and is
// worked out again where it is missing, damaged, or was made otherwise. What is
// in a key is the affair of who works it out.
//
//	record  version 1; how the keys were made; for each message: steps from the
//	        UID before, the beginning of the EMAILID, the key
const (
	// sortKeyUIDs is how many UIDs a record is for. The first is a multiple.
	sortKeyUIDs = 128
	// maxSortKeyOctets bounds a record. What is over it is worked out each time.
	maxSortKeyOctets = 48 << 10
	// sortKeysPerCommit is how many records one commit writes.
	sortKeysPerCommit = 12
	// maxSortKeyDrops is how many records a commit takes away one by one.
	maxSortKeyDrops = 8

	sortKeyVersion = 1
)

// SortKey is what a message is sorted by.
type SortKey struct {
	UID imap.UID
	// Message is the beginning of the EMAILID: a key of another message is none.
	Message uint64
	Key     string
}

// SortKeyBlock tells which messages' keys are kept together: those with the
// same number.
func SortKeyBlock(uid imap.UID) uint32 { return uint32(uid) / sortKeyUIDs }

// emailStart is the beginning of a message's EMAILID, as SortKey has it.
func emailStart(m *Message) uint64 { return binary.BigEndian.Uint64(m.EmailID[:]) }

// SortKeys calls look for the keys that are kept of messages with a UID in [from,
// to], and of some near them, by ascending UID; for those that were made that
// way. look's error ends it and is returned.
func (m *Mailbox) SortKeys(ctx context.Context, made string, from, to imap.UID, look func(SortKey) error) error {
	a := m.box.account
	lo := sortBlockKey(a.id, m.box.guid, from)
	hi := append(sortBlockKey(a.id, m.box.guid, to), 0)
	var stopped error
	err := a.store.kv.View(ctx, func(snap store.Snapshot) error {
		for pair, err := range snap.Range(lo, hi, 0, false) {
			if err != nil {
				return err
			}
			keys, how, err := decodeSortKeys(uidOf(pair.Key), pair.Value)
			if err != nil {
				a.store.log.Warn("keys for sorting are damaged, and made again", "account", a.name, "mailbox", m.box.guid, "err", err)
				continue
			}
			for i := 0; how == made && i < len(keys); i++ {
				if stopped = look(keys[i]); stopped != nil {
					return stopped
				}
			}
		}
		return nil
	})
	if stopped != nil {
		return stopped
	}
	return a.store.failure("read keys for sorting", err)
}

// KeepSortKeys keeps keys, by ascending UID, in place of those that are kept
// together with them. Messages that are gone are left out. Neither clients nor
// the partner see a change.
func (m *Mailbox) KeepSortKeys(ctx context.Context, made string, keys []SortKey) error {
	var blocks [][]SortKey
	for len(keys) > 0 {
		n := slices.IndexFunc(keys, func(k SortKey) bool { return SortKeyBlock(k.UID) != SortKeyBlock(keys[0].UID) })
		if n < 0 {
			n = len(keys)
		}
		blocks, keys = append(blocks, keys[:n]), keys[n:]
	}
	for some := range slices.Chunk(blocks, sortKeysPerCommit) {
		if err := m.box.account.changeAlone(ctx, func(t *txn) error { return t.keepSortKeys(m.box, made, some) }); err != nil {
			return m.box.account.store.failure("keep keys for sorting", err)
		}
	}
	return nil
}

func (t *txn) keepSortKeys(b *box, made string, blocks [][]SortKey) error {
	v := t.peek(b)
	if v.gone || !v.loaded {
		return nil
	}
	for _, keys := range blocks {
		key := sortBlockKey(t.account.id, b.guid, keys[0].UID)
		if value := v.encodeSortKeys(made, keys); value != nil {
			t.batch.Put(key, value)
			t.adds = true // a full disk has better use for its reserve
		} else {
			t.batch.Delete(key)
		}
	}
	return nil
}

// dropSortKeys removes the records that tell of messages that go, by ascending
// UID; where they are far apart, those between them, too.
func (t *txn) dropSortKeys(mailbox GUID, uids []imap.UID) {
	var keys [][]byte
	for i, uid := range uids {
		if i == 0 || SortKeyBlock(uids[i-1]) != SortKeyBlock(uid) {
			keys = append(keys, sortBlockKey(t.account.id, mailbox, uid))
		}
	}
	if len(keys) > maxSortKeyDrops {
		t.batch.DeleteRange(keys[0], append(keys[len(keys)-1], 0))
		return
	}
	for _, key := range keys {
		t.batch.Delete(key)
	}
}

func sortBlockKey(account, mailbox GUID, uid imap.UID) []byte {
	return messageKey(account, kindSortKeys, mailbox, uid-uid%sortKeyUIDs)
}

// encodeSortKeys is the record of the keys of one stretch; nil without any of
// messages that are there.
func (v *view) encodeSortKeys(made string, keys []SortKey) []byte {
	b := appendBlock([]byte{sortKeyVersion}, made)
	empty := len(b)
	at := keys[0].UID - keys[0].UID%sortKeyUIDs
	for _, k := range keys {
		i, ok := v.list.find(k.UID)
		if !ok || emailStart(v.list.at(i)) != k.Message || len(b)+len(k.Key) > maxSortKeyOctets {
			continue
		}
		b = append(b, byte(k.UID-at))
		b = binary.BigEndian.AppendUint64(b, k.Message)
		b = appendBlock(b, k.Key)
		at = k.UID
	}
	if len(b) == empty {
		return nil
	}
	return b
}

// decodeSortKeys reads a record. The keys are copies.
func decodeSortKeys(start imap.UID, b []byte) (keys []SortKey, made string, err error) {
	all := string(b)
	d := decoder{b: b}
	if d.versions(sortKeyVersion); start%sortKeyUIDs != 0 {
		d.bad = true
	}
	made = d.string()
	for at := uint64(start); len(d.b) > 0 && !d.bad; {
		step := uint64(d.byte())
		if at += step; at-uint64(start) >= sortKeyUIDs || step == 0 && len(keys) > 0 {
			d.bad = true
		}
		message := d.bytes(8)
		n := len(d.block())
		if d.bad {
			break
		}
		if keys == nil {
			keys = make([]SortKey, 0, sortKeyUIDs)
		}
		end := len(all) - len(d.b)
		keys = append(keys, SortKey{UID: imap.UID(at), Message: binary.BigEndian.Uint64(message), Key: all[end-n : end]})
	}
	return keys, made, d.end("keys for sorting")
}
