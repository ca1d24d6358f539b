package mailstore

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"slices"

	"github.com/emersion/go-imap/v2"

	"github.com/postern-mail/postern/backend/mailstore/seenset"
	"github.com/postern-mail/postern/store"
)

// How much one commit marks at most.
const (
	readerCommit       = 64 * seenset.Size
	readerCommitBlocks = 64
)

// readerChunks parts UIDs, in order, into what one commit marks.
func readerChunks(uids []imap.UID, most int) iter.Seq[[]imap.UID] {
	return func(yield func([]imap.UID) bool) {
		for len(uids) > 0 {
			n, blocks, last := 0, 0, uint32(0)
			for ; n < len(uids) && n < most; n++ {
				number, _ := blockOf(uids[n])
				if n == 0 || number != last {
					blocks, last = blocks+1, number
				}
				if blocks > readerCommitBlocks {
					break
				}
			}
			if !yield(uids[:n]) {
				return
			}
			uids = uids[n:]
		}
	}
}

// shown is a message as the handle's user sees it.
func (m *Mailbox) shown(message *Message) *Message {
	if m.reader == nil {
		return message
	}
	v := m.box.readerView(*m.reader)
	return v.state.show(message, v.inherit)
}

// storeFlagsFor is StoreFlags for a Reader: \Seen goes to its marks, the rest
// to the messages, both in one commit.
func (m *Mailbox) storeFlagsFor(ctx context.Context, uids []imap.UID, c *FlagsChange) (modified []imap.UID, err error) {
	rest := *c
	rest.Except, rest.UnchangedSince = c.Except|FlagSeen, nil
	some := rest.Op == FlagsSet || rest.Flags&allFlags&^rest.Except != 0 || len(rest.Keywords) > 0 && !rest.ExceptKeywords
	most := readerCommit
	if some {
		most = flagsPerCommit
	}
	last := uint64(0)
	for chunk := range readerChunks(sortedUIDs(uids), most) {
		var refused []imap.UID
		seq, err := m.box.account.changeSeq(ctx, func(t *txn) error {
			refused = nil
			left, err := t.markAs(m, chunk, c)
			if err != nil {
				return err
			}
			for _, uid := range chunk {
				if _, ok := slices.BinarySearch(left, uid); !ok {
					refused = append(refused, uid)
				}
			}
			if some {
				_, err = t.storeFlags(m.box, left, &rest)
			}
			return err
		})
		modified, last = append(modified, refused...), max(last, seq)
		if err != nil {
			return modified, err
		}
	}
	return modified, m.box.account.durable(ctx, last, DurabilityDefault)
}

// unstored are the flags that are not stored with the messages that the handle
// puts into the mailbox.
func (m *Mailbox) unstored() Flags {
	if m.reader == nil {
		return 0
	}
	return FlagSeen
}

// markAs changes a reader's \Seen as a STORE asks for, and returns the messages
// that UnchangedSince lets it change, and those that are gone.
func (t *txn) markAs(m *Mailbox, uids []imap.UID, c *FlagsChange) (left []imap.UID, err error) {
	before := t.peek(m.box)
	if before.gone {
		return nil, ErrNoMailbox
	}
	named := c.Flags&FlagSeen != 0
	touch := c.Except&FlagSeen == 0 && (named || c.Op == FlagsSet)
	seen := named && c.Op != FlagsRemove
	state := t.readerState(m.box, *m.reader)
	inherit := m.inherits()
	var change []imap.UID
	for _, uid := range uids {
		i, ok := before.list.find(uid)
		if !ok {
			left = append(left, uid)
			continue
		}
		now := state.show(before.list.at(i), inherit)
		if c.UnchangedSince != nil && now.ModSeq > *c.UnchangedSince {
			continue
		}
		left = append(left, uid)
		if touch && (now.Flags&FlagSeen != 0) != seen {
			change = append(change, uid)
		}
	}
	return left, t.mark(m.box, *m.reader, change, seen)
}

func (m *Mailbox) inherits() bool {
	m.box.mu.Lock()
	defer m.box.mu.Unlock()
	return m.box.readers[*m.reader].inherit
}

// readerState is what a reader, who has the mailbox open, has read as of this
// commit.
func (t *txn) readerState(b *box, id GUID) *readerState {
	b.mu.Lock()
	state := b.readers[id].state
	b.mu.Unlock()
	for _, u := range t.readers {
		if u.box == b && u.reader == id {
			state = state.with(u.block)
		}
	}
	return state
}

// markSeen marks messages that the handle's user has just put into the mailbox.
func (m *Mailbox) markSeen(ctx context.Context, uids []imap.UID) error {
	for chunk := range readerChunks(sortedUIDs(uids), readerCommit) {
		err := m.box.account.changeDurably(ctx, func(t *txn) error {
			if t.peek(m.box).gone {
				return nil
			}
			return t.mark(m.box, *m.reader, chunk, true)
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// mark changes a reader's \Seen of messages, in UID order, which it has the
// other way.
func (t *txn) mark(b *box, id GUID, uids []imap.UID, seen bool) error {
	for len(uids) > 0 {
		number, _ := blockOf(uids[0])
		n := 0
		for n < len(uids) && uint32(uids[n])/seenset.Size == number {
			n++
		}
		name := seenName(b.guid, id, number)
		_, old, err := t.seenEntry(name)
		if err != nil {
			return err
		}
		block := old
		for _, uid := range uids[:n] {
			_, i := blockOf(uid)
			block.Set(i, seen, t.clock())
		}
		e := entry{at: t.stamp(), value: block.Append(nil)}
		if err := t.putMarks(b, name, &old, &block, e); err != nil {
			return err
		}
		t.log(&JournalOp{Code: OpEntry, Mailbox: b.guid, Space: SpaceSeen, Key: string(name[entryNameOctets:]), Value: e.value})
		uids = uids[n:]
	}
	return t.forgetMarks(b, id)
}

// putMarks stores a block, gives what changed in it this commit's MODSEQ, and
// shows it to the reader when the commit is done.
func (t *txn) putMarks(b *box, name []byte, before, after *seenset.Block, e entry) error {
	_, id, number, _ := ofSeen(name)
	at, err := t.seenAt(name)
	if err != nil {
		return err
	}
	t.putEntry(name, e)
	for i := range after {
		if after[i].IsSet() && (!before[i].IsSet() || before[i].Seen != after[i].Seen) {
			at[i] = t.nextModSeq()
		}
	}
	t.batch.Put(seenAtKey(t.account.id, name), at.Append(nil))
	t.showMarks(readerUpdate{b, id, newReaderBlock(number, after, &at)})
	t.noteSeenAt(name, &at)
	return nil
}

func (t *txn) showMarks(u readerUpdate) {
	n := len(t.readers)
	t.readers = append(t.readers, u)
	t.undo = append(t.undo, func() { t.readers = t.readers[:n:n] })
}

// publishMarks shows marks of readers where the commit changed nothing else.
func (t *txn) publishMarks(shown []*box) {
	for _, u := range t.readers {
		if !slices.Contains(shown, u.box) {
			u.box.publishAll(nil, t.readers)
			shown = append(shown, u.box)
		}
	}
}

// seenAt reads the MODSEQs of a block as they are in this commit.
func (t *txn) seenAt(name []byte) (at seenset.ModSeqs, err error) {
	if pending := t.marked[string(name)]; pending != nil {
		return *pending, nil
	}
	err = t.account.store.kv.View(t.ctx, func(snap store.Snapshot) error {
		at, err = t.account.readSeenAt(snap, name)
		return err
	})
	return at, err
}

func (t *txn) noteSeenAt(name []byte, at *seenset.ModSeqs) {
	if t.marked == nil {
		t.marked = make(map[string]*seenset.ModSeqs)
	}
	before := t.marked[string(name)]
	t.marked[string(name)] = at
	t.undo = append(t.undo, func() { t.marked[string(name)] = before })
}

// joinMarks is joinEntry for what the partner knows of a reader.
func (t *txn) joinMarks(name []byte, e entry) error {
	mailbox, _, _, ok := ofSeen(name)
	if !ok || e.removed {
		return fmt.Errorf("%w: entry of a reader", ErrMalformed)
	}
	theirs, err := seenset.Decode(e.value)
	if err != nil {
		return fmt.Errorf("%w: %w", ErrMalformed, err)
	}
	b := t.box(mailbox)
	if b == nil || t.peek(b).gone {
		return nil
	}
	before, old, err := t.seenEntry(name)
	if err != nil {
		return err
	}
	block := old
	if block.Join(&theirs); block == old {
		return nil
	}
	if before.at.compare(e.at) > 0 {
		e.at = before.at
	}
	e.value = block.Append(nil)
	return t.putMarks(b, name, &old, &block, e)
}

// forgottenAtOnce is how many blocks one change looks at to forget them.
const forgottenAtOnce = 4

// forgetMarks drops the reader's oldest blocks when no message that they speak
// of is left. Each node does so for itself: nothing asks for them any more.
func (t *txn) forgetMarks(b *box, id GUID) error {
	v := t.peek(b)
	b.mu.Lock()
	r := b.readers[id]
	var blocks []*readerBlock
	if r != nil && r.state != nil {
		blocks = r.state.blocks
	}
	b.mu.Unlock()
	if !v.loaded || v.pending > 0 {
		return nil
	}
	for _, old := range blocks[:min(len(blocks), forgottenAtOnce)] {
		end := uint64(old.number+1) * seenset.Size
		i, _ := v.list.find(imap.UID(old.number * seenset.Size))
		if end > uint64(v.uidNext) || i < v.list.len() && uint64(v.list.at(i).UID) < end {
			return nil
		}
		name := seenName(b.guid, id, old.number)
		if _, now := t.entries[string(name)]; now {
			return nil // this commit writes it
		}
		t.batch.Delete(entryKey(t.account.id, name))
		t.batch.Delete(seenAtKey(t.account.id, name))
		t.showMarks(readerUpdate{b, id, &readerBlock{number: old.number}})
	}
	return nil
}

// markAppended marks those new messages that were given \Seen. A crash before
// leaves them unread.
func (m *Mailbox) markAppended(ctx context.Context, uids []imap.UID, messages []Append) {
	if m.reader == nil {
		return
	}
	var read []imap.UID
	for i, uid := range uids {
		if uid != 0 && messages[i].Flags&FlagSeen != 0 {
			read = append(read, uid)
		}
	}
	m.noteUnmarked(m.markSeen(ctx, read))
}

// markCopies marks those copies whose originals the user of the handle had
// read.
func (m *Mailbox) markCopies(ctx context.Context, done *transferred, originals View) {
	if m.reader == nil || m.dropped&FlagSeen != 0 {
		return
	}
	var uids []imap.UID
	made := uidsIn(done.dests)
	for i, uid := range done.sources {
		if k, ok := originals.Find(uid); ok && i < len(made) && made[i] != 0 && originals.At(k).Flags&FlagSeen != 0 {
			uids = append(uids, made[i])
		}
	}
	m.noteUnmarked(m.markSeen(ctx, uids))
}

// noteUnmarked tells of what is no failure of what was done: messages are where
// they belong, and are unread.
func (m *Mailbox) noteUnmarked(err error) {
	if err != nil && !errors.Is(err, context.Canceled) {
		m.box.account.store.log.Warn("messages that were put into a mailbox stay unread", "account", m.box.account.id, "mailbox", m.box.guid, "err", err)
	}
}
