package mailstore

import (
	"bytes"
	"context"
	"errors"
	"fmt"

	"github.com/emersion/go-imap/v2"

	"github.com/postern-mail/postern/backend/mailstore/seenset"
	"github.com/postern-mail/postern/store"
)

// What is damaged of a reader's marks costs nobody access to mail: messages are
// unread where the marks cannot be read, and the next change begins a new block,
// which in a pair the partner's marks are joined with. Only a newer program's
// records are left alone, with an error.

// isSeenName reports whether an entry is of a reader's marks.
func isSeenName(name []byte) bool { return len(name) > 0 && name[0] == SpaceSeen }

// isDamagedSeen reports whether an error says that marks cannot be read, and
// not that the store cannot.
func isDamagedSeen(err error) bool {
	return errors.Is(err, errRecord) || errors.Is(err, seenset.ErrFormat) || errors.Is(err, ErrMalformed)
}

// noteDamagedSeen tells of marks that count as not there.
func (a *account) noteDamagedSeen(name []byte, err error) {
	mailbox, _, block, _ := ofSeen(name)
	a.store.log.Warn("what somebody has read is damaged, and counts as unread or as just changed", "account", a.name, "mailbox", mailbox, "block", block, "err", err)
}

// lastModSeq is the highest that this node gave.
func (a *account) lastModSeq() uint64 { return a.head.modseqs<<1 | a.store.class() }

// unreadBlock stands for a damaged one: clients are told that its messages are
// unread.
func (a *account) unreadBlock(number uint32) *readerBlock {
	first := imap.UID(number * seenset.Size)
	return &readerBlock{number: number, marks: []readerMark{{first, first + seenset.Size - 1, false, a.lastModSeq()}}}
}

// decodeSeen decodes an entry of a reader's marks.
func decodeSeen(value []byte) (e entry, block seenset.Block, err error) {
	if newer(value, recordVersion) {
		return e, block, errNewer
	}
	if e, err = decodeEntry(value); err != nil {
		return e, block, err
	}
	if newer(e.value, seenset.Version) {
		return e, block, errNewer
	}
	block, err = seenset.Decode(e.value)
	return e, block, err
}

// decodeSeenAt decodes the MODSEQs of marks.
func decodeSeenAt(value []byte) (seenset.ModSeqs, error) {
	if newer(value, seenset.Version) {
		return seenset.ModSeqs{}, errNewer
	}
	return seenset.DecodeModSeqs(value)
}

// seenEntry reads a reader's block as it is in this commit: an empty one where
// it was never written, or is damaged.
func (t *txn) seenEntry(name []byte) (e entry, block seenset.Block, err error) {
	if pending, ok := t.entries[string(name)]; ok {
		block, err = seenset.Decode(pending.value)
		return pending, block, err
	}
	err = t.account.store.kv.View(t.ctx, func(snap store.Snapshot) error {
		value, err := snap.Get(entryKey(t.account.id, name))
		if errors.Is(err, store.ErrNotFound) {
			return nil
		}
		if err == nil {
			e, block, err = decodeSeen(value)
		}
		return err
	})
	if isDamagedSeen(err) {
		t.account.noteDamagedSeen(name, err)
		return entry{}, seenset.Block{}, nil
	}
	return e, block, err
}

// checkEntry tells what is wrong with an entry.
func checkEntry(name, value []byte) (err error) {
	if isSeenName(name) {
		if _, _, _, ok := ofSeen(name); !ok {
			return fmt.Errorf("marks of a reader: key %x: %w", name, errRecord)
		}
		if _, _, err = decodeSeen(value); err != nil {
			err = fmt.Errorf("marks of a reader: %w", err)
		}
		return err
	}
	_, err = decodeEntry(value)
	return err
}

// entries checks that entries can be read.
func (c *checker) entries(ctx context.Context) error {
	return c.each(ctx, kindEntry, func(_ store.Snapshot, key, value []byte) error {
		name := key[accountPrefixOctets+1:]
		if err := checkEntry(name, value); err != nil {
			c.failf("entry %q: %w", name, err)
		}
		return nil
	})
}

// seenAt checks that the MODSEQs of readers' marks can be read.
func (c *checker) seenAt(ctx context.Context) error {
	return c.each(ctx, kindSeenAt, func(_ store.Snapshot, key, value []byte) error {
		if _, err := decodeSeenAt(value); err != nil {
			c.failf("MODSEQs of a reader's marks %x: %w", key[accountPrefixOctets+1:], err)
		}
		return nil
	})
}

// readers removes what is damaged of readers' marks: messages are unread then,
// or count as changed just now. Other entries are left: an access list without
// one of its lines could give more than it did.
func (r *repairer) readers(ctx context.Context) error {
	remove := func(key []byte, damage error, how string) error {
		if !isDamagedSeen(damage) {
			return nil
		}
		r.batch.Delete(bytes.Clone(key))
		r.tell(Finding{Err: damage}, how)
		return r.flush(ctx, flushAt)
	}
	err := r.each(ctx, kindEntry, func(_ store.Snapshot, key, value []byte) error {
		name := key[accountPrefixOctets+1:]
		if !isSeenName(name) {
			return nil
		}
		return remove(key, checkEntry(name, value), "removed: its messages are unread for that reader")
	})
	if err != nil {
		return err
	}
	return r.each(ctx, kindSeenAt, func(_ store.Snapshot, key, value []byte) error {
		_, err := decodeSeenAt(value)
		if err != nil {
			err = fmt.Errorf("MODSEQs of a reader's marks: %w", err)
		}
		return remove(key, err, "removed: the marks count as changed just now")
	})
}
