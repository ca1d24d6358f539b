package mailstore

import (
	"context"
	"errors"
	"slices"
	"strings"

	"github.com/emersion/go-imap/v2"

	"github.com/postern-mail/postern/store"
)

// How many messages one commit changes at most, so that others get a turn and
// the batch's bounds hold.
const (
	flagsPerCommit   = 250
	expungePerCommit = 150
	copyPerCommit    = 50
)

// sortedUIDs returns uids in ascending order, each once.
func sortedUIDs(uids []imap.UID) []imap.UID {
	if slices.IsSorted(uids) {
		return slices.Compact(slices.Clone(uids))
	}
	uids = slices.Clone(uids)
	slices.Sort(uids)
	return slices.Compact(uids)
}

// present returns the messages of uids that v still holds.
func (v *view) present(uids []imap.UID) []*Message {
	found := make([]*Message, 0, len(uids))
	for _, uid := range uids {
		if i, ok := v.list.find(uid); ok {
			found = append(found, v.list.at(i))
		}
	}
	return found
}

// StoreFlags changes the flags of messages; those that are gone are passed
// over. modified are those left alone because of UnchangedSince. A change of
// many is several commits: after an error some may be done.
func (m *Mailbox) StoreFlags(ctx context.Context, uids []imap.UID, c FlagsChange) (modified []imap.UID, err error) {
	if err := checkKeywords(c.Keywords); err != nil {
		return nil, err
	}
	for chunk := range slices.Chunk(sortedUIDs(uids), flagsPerCommit) {
		var refused []imap.UID
		err := m.box.account.change(ctx, func(t *txn) (err error) {
			refused, err = t.storeFlags(m.box, chunk, &c)
			return err
		})
		if err != nil {
			return modified, err
		}
		modified = append(modified, refused...)
	}
	return modified, nil
}

func (t *txn) storeFlags(b *box, uids []imap.UID, c *FlagsChange) (refused []imap.UID, err error) {
	before := t.peek(b)
	if before.gone {
		return nil, ErrNoMailbox
	}
	keywords := before.spell(c.Keywords)
	op := flagsOp(b.guid, c, keywords)
	var changed []*Message
	var delta map[string]keyword
	for _, m := range before.present(uids) {
		if c.UnchangedSince != nil && m.ModSeq > *c.UnchangedSince {
			refused = append(refused, m.UID)
			continue
		}
		flags, words := c.apply(m, keywords)
		if flags == m.Flags && slices.Equal(words, m.Keywords) {
			continue
		}
		if len(words) > maxMessageKeywords {
			return nil, ErrTooMany
		}
		n := *m
		n.Flags, n.Keywords, n.ModSeq = flags, words, t.nextModSeq()
		delta = addKeywords(addKeywords(delta, m.Keywords, -1), words, 1)
		changed = append(changed, &n)
		op.clearOthers(c, m, keywords)
		op.Dots = append(op.Dots, m.Dot)
	}
	if len(changed) == 0 {
		return refused, nil
	}
	return refused, t.putFlags(b, changed, delta, op)
}

// putFlags stores messages with their new flags.
func (t *txn) putFlags(b *box, changed []*Message, delta map[string]keyword, op *JournalOp) error {
	v := t.draft(b)
	if err := t.useKeywords(v, delta); err != nil {
		return err
	}
	for _, m := range changed {
		i, _ := v.list.find(m.UID)
		v.countFlags(v.list.at(i), -1)
		v.countFlags(m, 1)
		t.batch.Put(messageKey(t.account.id, kindMessage, b.guid, m.UID), m.encode())
	}
	v.list.replace(changed)
	v.modseq, v.dirty = t.nextModSeq(), true
	t.log(op)
	return nil
}

// apply returns what the change makes of a message's flags.
func (c *FlagsChange) apply(m *Message, keywords []string) (Flags, []string) {
	switch c.Op {
	case FlagsAdd:
		return m.Flags | c.Flags&allFlags, unite(m.Keywords, keywords)
	case FlagsRemove:
		return m.Flags &^ c.Flags, without(m.Keywords, keywords)
	}
	return c.Flags & allFlags, keywords
}

// flagsOp is the change as the journal has it: what is set and what cleared.
func flagsOp(mailbox GUID, c *FlagsChange, keywords []string) *JournalOp {
	op := &JournalOp{Code: OpFlags, Mailbox: mailbox}
	switch c.Op {
	case FlagsAdd:
		op.Set, op.SetKeywords = c.Flags&allFlags, keywords
	case FlagsRemove:
		op.Clear, op.ClearKeywords = c.Flags&allFlags, keywords
	default:
		op.Set, op.SetKeywords = c.Flags&allFlags, keywords
		op.Clear = allFlags &^ c.Flags
	}
	return op
}

// clearOthers notes the keywords that a replacement took from m.
func (op *JournalOp) clearOthers(c *FlagsChange, m *Message, keywords []string) {
	if c.Op == FlagsSet {
		op.ClearKeywords = unite(op.ClearKeywords, without(m.Keywords, keywords))
	}
}

func contains(list []string, name string) bool {
	return slices.ContainsFunc(list, func(have string) bool { return strings.EqualFold(have, name) })
}

// unite returns the keywords of both lists, sorted; a itself when b adds none.
func unite(a, b []string) []string {
	out := a[:len(a):len(a)]
	for _, name := range b {
		if !contains(a, name) {
			out = append(out, name)
		}
	}
	if len(out) > len(a) {
		slices.Sort(out)
	}
	return out
}

// without returns the keywords of a that are not in b; nil when none are left.
func without(a, b []string) []string {
	var out []string
	for _, name := range a {
		if !contains(b, name) {
			out = append(out, name)
		}
	}
	return out
}

// Expunge removes those of the messages that have \Deleted, or with nil all
// that have it, and returns their UIDs. A large number is several commits:
// after an error the UIDs returned are gone.
func (m *Mailbox) Expunge(ctx context.Context, uids []imap.UID) ([]imap.UID, error) {
	if uids == nil {
		v := m.box.current()
		for i := range v.list.len() {
			if message := v.list.at(i); message.Flags&FlagDeleted != 0 {
				uids = append(uids, message.UID)
			}
		}
	}
	return m.remove(ctx, sortedUIDs(uids), true)
}

// remove takes messages out of the mailbox, marked only those with \Deleted.
func (m *Mailbox) remove(ctx context.Context, uids []imap.UID, marked bool) (gone []imap.UID, err error) {
	for chunk := range slices.Chunk(uids, expungePerCommit) {
		var removed []*Message
		err := m.box.account.change(ctx, func(t *txn) error {
			v := t.peek(m.box)
			if v.gone {
				return ErrNoMailbox
			}
			removed = slices.DeleteFunc(v.present(chunk), func(message *Message) bool {
				return marked && message.Flags&FlagDeleted == 0
			})
			if len(removed) > 0 {
				t.remove(m.box, removed, false)
			}
			return nil
		})
		if err != nil {
			return gone, err
		}
		for _, message := range removed {
			gone = append(gone, message.UID)
		}
	}
	return gone, nil
}

// Copy adds the messages to dest, which may be of another account; those that
// are gone are passed over. When it fails, what was copied is taken back. A
// large number is several commits: after a crash midway the first may be there.
func (m *Mailbox) Copy(ctx context.Context, uids []imap.UID, dest *Mailbox) (CopyResult, error) {
	result, err := m.transfer(ctx, uids, dest, m.copyChunk)
	if err != nil && len(result.Dest) > 0 {
		undo, cancel := context.WithTimeout(context.WithoutCancel(ctx), m.box.account.store.cfg.CommitTimeout)
		defer cancel()
		if _, undoErr := dest.remove(undo, result.Dest, false); undoErr != nil {
			return CopyResult{}, errors.Join(err, undoErr)
		}
		return CopyResult{}, err
	}
	return result, err
}

// Move takes the messages over to dest, each in one commit within an account:
// it is in one of the mailboxes at any time. After an error the result tells
// which were moved. To another account it copies, then removes.
func (m *Mailbox) Move(ctx context.Context, uids []imap.UID, dest *Mailbox) (CopyResult, error) {
	if m.box.account == dest.box.account {
		return m.transfer(ctx, uids, dest, m.moveChunk)
	}
	result, err := m.Copy(ctx, uids, dest)
	if err != nil {
		return result, err
	}
	_, err = m.remove(ctx, result.Source, false)
	return result, err
}

// transfer copies or moves in as few commits as will do.
func (m *Mailbox) transfer(ctx context.Context, uids []imap.UID, dest *Mailbox,
	some func(context.Context, []*Message, [][]byte, *Mailbox, *CopyResult) error,
) (CopyResult, error) {
	var result CopyResult
	result.UIDValidity = dest.box.current().uidValidity
	for chunk := range slices.Chunk(m.box.current().present(sortedUIDs(uids)), copyPerCommit) {
		records, err := m.box.readMeta(ctx, chunk)
		if err != nil {
			return result, err
		}
		err = some(ctx, chunk, records, dest, &result)
		if errors.Is(err, errTooLarge) { // unusually large headers
			for i := range chunk {
				if err = some(ctx, chunk[i:i+1], records[i:i+1], dest, &result); err != nil {
					break
				}
			}
		}
		if err != nil {
			return result, err
		}
	}
	return result, nil
}

// copyChunk copies messages in one commit.
func (m *Mailbox) copyChunk(ctx context.Context, chunk []*Message, records [][]byte, dest *Mailbox, result *CopyResult) error {
	same := m.box.account == dest.box.account
	var sources, dests []imap.UID
	err := dest.box.account.change(ctx, func(t *txn) error {
		sources, dests = nil, nil
		source := m.box.current()
		if same {
			source = t.peek(m.box)
		}
		if source.gone {
			return ErrNoMailbox // and its bodies may be
		}
		for i, old := range chunk {
			now := source.present([]imap.UID{old.UID})
			if len(now) == 0 || records[i] == nil {
				continue
			}
			if err := t.room(now[0].Octets); err != nil {
				return err
			}
			uid, err := t.addCopy(dest.box, now[0], records[i], true)
			if err != nil {
				return err
			}
			sources, dests = append(sources, old.UID), append(dests, uid)
		}
		return nil
	})
	if err == nil {
		result.Source, result.Dest = append(result.Source, sources...), append(result.Dest, dests...)
	}
	return err
}

// moveChunk moves messages within an account in one commit.
func (m *Mailbox) moveChunk(ctx context.Context, chunk []*Message, records [][]byte, dest *Mailbox, result *CopyResult) error {
	var moved []*Message
	var dests []imap.UID
	err := m.box.account.change(ctx, func(t *txn) error {
		moved, dests = nil, nil
		source := t.peek(m.box)
		if source.gone {
			return ErrNoMailbox
		}
		for i, old := range chunk {
			now := source.present([]imap.UID{old.UID})
			if len(now) == 0 || records[i] == nil {
				continue
			}
			uid, err := t.addCopy(dest.box, now[0], records[i], false)
			if err != nil {
				return err
			}
			moved, dests = append(moved, now[0]), append(dests, uid)
		}
		if len(moved) > 0 {
			t.remove(m.box, moved, true)
		}
		return nil
	})
	if err == nil {
		for i, message := range moved {
			result.Source, result.Dest = append(result.Source, message.UID), append(result.Dest, dests[i])
		}
	}
	return err
}

// addCopy adds a message that exists already; share makes it a reference to
// the body of its own.
func (t *txn) addCopy(b *box, m *Message, meta []byte, share bool) (imap.UID, error) {
	trace, _, err := decodeMeta(meta)
	if err != nil {
		return 0, err
	}
	n := addition{message: *m, trace: trace, meta: meta, source: m.Dot}
	if share {
		n.link = func(batch *store.Batch) { t.account.store.blobs.Share(batch, m.Body) }
	}
	return t.add(b, n)
}
