package mailstore

import (
	"bytes"
	"context"
	"errors"
	"fmt"

	"github.com/postern-mail/postern/store"
)

// Entry is one of an account's registers for what is neither message nor
// mailbox: annotations, access rights, options. Both nodes of a pair have it;
// of two changes at the same time the later wins.
type Entry struct {
	// Space is one of the Space constants.
	Space byte
	// Mailbox is whose entry it is, zero for the account's own. It survives a
	// rename, and the mailbox's end.
	Mailbox GUID
	Key     string
	Value   []byte
}

// Bounds of entries.
const (
	MaxEntryKeyOctets   = 900
	MaxEntryValueOctets = 40 << 10
	// MaxEntries bounds those of one space and mailbox.
	MaxEntries = 1000
)

// ErrEntry means that an entry is over the bounds.
var ErrEntry = errors.New("entry too large, or too many of them")

// entry is the register as it is stored. A removed one is kept: it must beat
// a value that the partner sends late.
type entry struct {
	at      stamp
	removed bool
	value   []byte
}

func (e *entry) encode() []byte {
	b := appendStamp([]byte{recordVersion, boolByte(e.removed)}, e.at)
	return appendBlock(b, e.value)
}

func decodeEntry(b []byte) (entry, error) {
	d := decoder{b: b}
	d.version()
	e := entry{removed: d.byte() != 0, at: d.stamp()}
	e.value = bytes.Clone(d.block())
	return e, d.end("entry")
}

// entryName is the part of an entry's key behind the account.
func entryName(space byte, mailbox GUID, key string) []byte {
	return append(append([]byte{space}, mailbox[:]...), key...)
}

const entryNameOctets = 1 + 16 // before the key

func entryKey(account GUID, name []byte) []byte {
	return append(accountKey(account, kindEntry), name...)
}

// SetEntry sets an entry, or with a nil Value removes it. ErrEntry.
func (a *Account) SetEntry(ctx context.Context, e Entry) error {
	return a.SetEntries(ctx, []Entry{e})
}

// SetEntries is SetEntry for several, all or none: ErrEntry also when one
// commit cannot hold them.
func (a *Account) SetEntries(ctx context.Context, list []Entry) error {
	if len(list) == 0 {
		return nil
	}
	for _, e := range list {
		if len(e.Key) > MaxEntryKeyOctets || len(e.Value) > MaxEntryValueOctets {
			return ErrEntry
		}
	}
	err := a.account.changeDurably(ctx, func(t *txn) error {
		added := 0
		for i := range list {
			isNew, err := t.setEntry(&list[i])
			if err != nil {
				return err
			}
			if isNew {
				added++
			}
		}
		if added == 0 {
			return nil
		}
		return t.countEntries(list[0].Space, list[0].Mailbox, added)
	})
	if errors.Is(err, errTooLarge) {
		err = ErrEntry
	}
	return err
}

// setEntry sets one entry; isNew says that its name was never used before.
func (t *txn) setEntry(e *Entry) (isNew bool, err error) {
	name := entryName(e.Space, e.Mailbox, e.Key)
	before, err := t.entry(name)
	if err != nil || before.removed == (e.Value == nil) && bytes.Equal(before.value, e.Value) {
		return false, err
	}
	t.adds = t.adds || e.Value != nil
	t.flushJournal(0) // a large value needs a record of its own
	t.putEntry(name, entry{at: t.stamp(), removed: e.Value == nil, value: e.Value})
	t.log(&JournalOp{
		Code: OpEntry, Mailbox: e.Mailbox, Space: e.Space, Key: e.Key, Value: e.Value, Removed: e.Value == nil,
	})
	return before.at.isZero(), nil
}

// countEntries refuses more entries of a space and mailbox than there may be.
func (t *txn) countEntries(space byte, mailbox GUID, added int) error {
	n := added
	err := t.account.eachEntry(t.ctx, entryName(space, mailbox, ""), func([]byte, *entry) error { n++; return nil })
	if err == nil && n > MaxEntries {
		return ErrEntry
	}
	return err
}

// Entries returns the entries of a space and mailbox, by key.
func (a *Account) Entries(ctx context.Context, space byte, mailbox GUID) ([]Entry, error) {
	var list []Entry
	err := a.account.eachEntry(ctx, entryName(space, mailbox, ""), func(name []byte, e *entry) error {
		if !e.removed {
			list = append(list, Entry{Space: space, Mailbox: mailbox, Key: string(name[entryNameOctets:]), Value: e.value})
		}
		return nil
	})
	return list, a.account.store.failure("read entries", err)
}

// eachEntry calls fn for the entries whose names begin with prefix, removed
// ones too.
func (a *account) eachEntry(ctx context.Context, prefix []byte, fn func(name []byte, e *entry) error) error {
	return a.store.kv.View(ctx, func(snap store.Snapshot) error {
		from := entryKey(a.id, prefix)
		for pair, err := range snap.Range(from, above(from), 0, false) {
			if err != nil {
				return err
			}
			e, err := decodeEntry(pair.Value)
			if err != nil && isSeenName(pair.Key[accountPrefixOctets+1:]) && isDamagedSeen(err) {
				continue // unread
			}
			if err != nil {
				return err
			}
			if err := fn(bytes.Clone(pair.Key[accountPrefixOctets+1:]), &e); err != nil {
				return err
			}
		}
		return nil
	})
}

// entry reads a register as it is in this commit; a removed one with a zero
// stamp when it was never set.
func (t *txn) entry(name []byte) (entry, error) {
	if e, ok := t.entries[string(name)]; ok {
		return e, nil
	}
	e := entry{removed: true}
	err := t.account.store.kv.View(t.ctx, func(snap store.Snapshot) error {
		value, err := snap.Get(entryKey(t.account.id, name))
		if errors.Is(err, store.ErrNotFound) {
			return nil
		} else if err != nil {
			return err
		}
		e, err = decodeEntry(value)
		return err
	})
	return e, err
}

func (t *txn) putEntry(name []byte, e entry) {
	if t.entries == nil {
		t.entries = make(map[string]entry)
	}
	before, was := t.entries[string(name)]
	t.entries[string(name)] = e
	t.undo = append(t.undo, func() {
		if was {
			t.entries[string(name)] = before
		} else {
			delete(t.entries, string(name))
		}
	})
	t.batch.Put(entryKey(t.account.id, name), e.encode())
	switch name[0] {
	case SpaceACL:
		t.putAccess(name, &e)
	case SpaceSeen:
		return // not in the digest
	}
	t.registersChanged()
}

// applyEntry is the partner's change of an entry.
func (t *txn) applyEntry(op *JournalOp, r *remote, dot Dot) error {
	if len(op.Key) > MaxEntryKeyOctets || len(op.Value) > MaxEntryValueOctets {
		return fmt.Errorf("%w: entry of %d and %d octets", ErrMalformed, len(op.Key), len(op.Value))
	}
	return t.joinEntry(entryName(op.Space, op.Mailbox, op.Key), entry{at: stamp{r.HLC, dot}, removed: op.Removed, value: op.Value}, r.knows)
}

// joinEntry puts the later of two registers in.
func (t *txn) joinEntry(name []byte, e entry, knows func(Dot) bool) error {
	if name[0] == SpaceSeen {
		return t.joinMarks(name, e)
	}
	before, err := t.entry(name)
	if err != nil {
		return err
	}
	differ := before.removed != e.removed || !bytes.Equal(before.value, e.value)
	if differ && !before.at.isZero() && !knows(before.at.dot) {
		t.conflict(ConflictEntry, "", "%c %q was changed on both nodes", name[0], name[entryNameOctets:])
	}
	if e.at.compare(before.at) > 0 {
		t.putEntry(name, e)
	}
	return nil
}
