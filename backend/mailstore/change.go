package mailstore

import (
	"context"
	"errors"
	"slices"
	"strings"

	"github.com/emersion/go-imap/v2"

	"github.com/postern-mail/postern/backend/mailstore/flagset"
	"github.com/postern-mail/postern/backend/mailstore/mime"
	"github.com/postern-mail/postern/store"
)

// How many messages one commit changes at most, so that others get a turn and
// the batch's bounds hold.
const (
	flagsPerCommit   = 250
	blocksPerCommit  = 4 // of flags, see flagBlocks
	expungePerCommit = 150
	copyPerCommit    = 150
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

// present returns the messages of uids, in ascending order, that v still holds.
func (v *view) present(uids []imap.UID) []*Message {
	found := make([]*Message, 0, len(uids))
	at := v.list.cursor()
	for _, uid := range uids {
		if at.find(uid) {
			found = append(found, at.message())
		}
	}
	return found
}

// StoreFlags changes the flags of messages; those that are gone are passed
// over. modified are those left alone because of UnchangedSince, which may be a
// value of the partner's (see Base). A change of many is several commits: after an error some may be done.
func (m *Mailbox) StoreFlags(ctx context.Context, uids []imap.UID, c FlagsChange) (modified []imap.UID, err error) {
	if err := checkKeywords(c.Keywords); err != nil {
		return nil, err
	}
	if c.UnchangedSince != nil {
		base := m.Base(*c.UnchangedSince)
		c.UnchangedSince = &base
	}
	if m.reader != nil {
		return m.storeFlagsFor(ctx, uids, &c)
	}
	most := flagsPerCommit
	if m.box.account.link == nil {
		most = blocksPerCommit * flagBlockUIDs
	}
	last := uint64(0)
	for chunk := range slices.Chunk(sortedUIDs(uids), most) {
		refused, seq, err := m.storeFlags(ctx, chunk, &c)
		modified, last = append(modified, refused...), max(last, seq)
		if err != nil {
			return modified, err
		}
	}
	return modified, m.box.account.durable(ctx, last, DurabilityDefault)
}

// storeFlags changes the flags of messages in one commit, or, where their flags
// are not alike enough for that, in several.
func (m *Mailbox) storeFlags(ctx context.Context, uids []imap.UID, c *FlagsChange) (refused []imap.UID, last uint64, err error) {
	last, err = m.box.account.changeSeq(ctx, func(t *txn) (err error) {
		refused, err = t.storeFlags(m.box, uids, c)
		return err
	})
	if !errors.Is(err, errTooLarge) || len(uids) <= flagsPerCommit {
		return refused, last, err
	}
	refused, last = nil, 0
	for part := range slices.Chunk(uids, flagsPerCommit) {
		some, seq, err := m.storeFlags(ctx, part, c)
		refused, last = append(refused, some...), max(last, seq)
		if err != nil {
			return refused, last, err
		}
	}
	return refused, last, nil
}

// storeFlags makes the change of those of uids, in ascending order, that are
// there. With a partner they are flagsPerCommit at most.
func (t *txn) storeFlags(b *box, uids []imap.UID, c *FlagsChange) (refused []imap.UID, err error) {
	before := t.peek(b)
	if before.gone {
		return nil, ErrNoMailbox
	}
	keywords := before.spell(c.Keywords)
	if c.ExceptKeywords {
		keywords = nil
	}
	changed := make([]flagged, 0, len(uids))
	var ops []*JournalOp
	var delta map[string]keyword
	var made slab
	at := before.list.cursor()
	for _, uid := range uids {
		if !at.find(uid) {
			continue
		}
		m := at.message()
		if c.UnchangedSince != nil && m.ModSeq > *c.UnchangedSince {
			refused = append(refused, m.UID)
			continue
		}
		flags, words := c.outcome(m, keywords)
		if flags == m.Flags && slices.Equal(words, m.Keywords) {
			continue
		}
		if len(words) > maxMessageKeywords {
			return nil, ErrTooMany
		}
		delta = addKeywords(addKeywords(delta, m.Keywords, -1), words, 1)
		var after *Message
		if t.account.link == nil {
			after = made.copyOf(m, len(uids)-len(changed))
			after.Flags, after.Keywords = flags, words
		}
		changed = append(changed, flagged{m, after})
		if len(changed)%flagsPerCommit == 1 { // a journal record each
			op := flagsOp(b.guid, c, keywords)
			op.Dots = make([]Dot, 0, min(len(uids)-len(changed)+1, flagsPerCommit))
			ops = append(ops, op)
		}
		op := ops[len(ops)-1]
		op.clearOthers(c, m, keywords)
		op.Dots = append(op.Dots, m.Dot)
	}
	if len(changed) == 0 {
		return refused, nil
	}
	if err := t.mayUseKeywords(t.peek(b), delta); err != nil {
		return nil, err
	}
	if t.account.link != nil {
		return refused, t.putFlags(b, changed, ops[0])
	}
	t.setFlags(b, changed)
	for _, op := range ops {
		t.log(op)
	}
	return refused, nil
}

// slab makes copies of messages, several to an allocation.
type slab []Message

// slabMessages bounds how many messages one that is kept can keep in memory.
const slabMessages = 32

// copyOf copies m; so many more are wanted at most.
func (s *slab) copyOf(m *Message, more int) *Message {
	if len(*s) == 0 {
		*s = make([]Message, min(more, slabMessages))
	}
	n := &(*s)[0]
	*s = (*s)[1:]
	*n = *m
	return n
}

// putFlags makes the change of messages that op is, which it logs, with what the
// partner may not know of it.
func (t *txn) putFlags(b *box, changed []flagged, op *JournalOp) error {
	at := t.stamp()
	w := flagset.Write{Change: op.change(), HLC: at.hlc, Dot: at.dot.inFlags()}
	for i, c := range changed {
		state := c.before.flagState().Settle(t.partnerKnows).Local(w)
		if state.IsFull() {
			return ErrTooMany
		}
		changed[i].after = c.before.withFlags(state)
	}
	t.setFlags(b, changed)
	t.log(op)
	return nil
}

// partnerKnows reports whether the partner knew an own write of flags when it
// wrote what was applied here last.
func (t *txn) partnerKnows(d flagset.Dot) bool {
	l := t.account.link
	return l != nil && covers(l.peerKnows, dotOfFlags(d))
}

// outcome is what the change makes of a message's flags and keywords.
func (c *FlagsChange) outcome(m *Message, keywords []string) (Flags, []string) {
	if len(m.Keywords) > 0 || len(keywords) > 0 {
		after := m.flagState().Apply(c.of(m, keywords))
		return Flags(after.Flags), after.Keywords
	}
	named := c.Flags & allFlags &^ c.Except
	switch c.Op {
	case FlagsAdd:
		return m.Flags | named, nil
	case FlagsRemove:
		return m.Flags &^ named, nil
	}
	return m.Flags&c.Except | named, nil
}

// of is what the change does to a message.
func (c *FlagsChange) of(m *Message, keywords []string) flagset.Change {
	change := flagset.Change{Set: uint8(c.Flags & allFlags &^ c.Except), SetKeywords: keywords}
	switch c.Op {
	case FlagsAdd:
		return change.Junk()
	case FlagsRemove:
		return flagset.Change{Clear: change.Set, ClearKeywords: keywords}
	}
	change.Clear = uint8(allFlags &^ c.Flags &^ c.Except)
	if !c.ExceptKeywords {
		change.ClearKeywords = without(m.Keywords, keywords)
	}
	return change.Junk()
}

// flagsOp is the change as the journal has it: what is set and what cleared.
func flagsOp(mailbox GUID, c *FlagsChange, keywords []string) *JournalOp {
	op := &JournalOp{Code: OpFlags, Mailbox: mailbox}
	flags := c.Flags & allFlags &^ c.Except
	switch c.Op {
	case FlagsAdd:
		op.Set, op.SetKeywords = flags, keywords
		op.ClearKeywords = flagset.Change{SetKeywords: keywords}.Junk().ClearKeywords
	case FlagsRemove:
		op.Clear, op.ClearKeywords = flags, keywords
	default:
		op.Set, op.SetKeywords = flags, keywords
		op.Clear = allFlags &^ c.Flags &^ c.Except
		op.ClearKeywords = flagset.Change{SetKeywords: keywords}.Junk().ClearKeywords
	}
	return op
}

// clearOthers notes the keywords that a replacement took from m.
func (op *JournalOp) clearOthers(c *FlagsChange, m *Message, keywords []string) {
	if c.Op == FlagsSet && !c.ExceptKeywords {
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
	last := uint64(0)
	for chunk := range slices.Chunk(uids, expungePerCommit) {
		var removed []*Message
		seq, err := m.box.account.changeSeq(ctx, func(t *txn) error {
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
		last = max(last, seq)
	}
	return gone, m.box.account.durable(ctx, last, DurabilityDefault)
}

// Copy adds the messages to dest, which may be of another account; those that
// are gone are passed over. When it fails, what was copied is taken back. A
// large number is several commits: after a crash midway the first may be there.
func (m *Mailbox) Copy(ctx context.Context, uids []imap.UID, dest *Mailbox) (CopyResult, error) {
	originals := m.View()
	done, err := m.transfer(ctx, uids, dest, m.copyChunk)
	if err == nil {
		err = done.settle(ctx, dest)
	}
	if err != nil && len(done.dests) > 0 {
		undo, cancel := context.WithTimeout(context.WithoutCancel(ctx), m.box.account.store.cfg.CommitTimeout)
		defer cancel()
		if undoErr := dest.takeBack(undo, done.dests); undoErr != nil {
			return CopyResult{}, errors.Join(err, undoErr)
		}
		return CopyResult{}, err
	}
	dest.markCopies(ctx, &done, originals)
	return done.result(dest), err
}

// takeBack removes messages that were just added.
func (m *Mailbox) takeBack(ctx context.Context, list []added) error {
	for chunk := range slices.Chunk(list, expungePerCommit) {
		err := m.box.account.changeAlone(ctx, func(t *txn) error {
			if t.peek(m.box).gone {
				return nil
			}
			if err := t.load(m.box); err != nil {
				return err
			}
			dots := make([]Dot, len(chunk))
			for i, one := range chunk {
				dots[i] = one.dot
			}
			return t.removeDots(m.box, dots, true)
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// Move takes the messages over to dest, each in one commit within an account:
// it is in one of the mailboxes at any time. After an error the result tells
// which were moved. To another account it copies, then removes.
func (m *Mailbox) Move(ctx context.Context, uids []imap.UID, dest *Mailbox) (CopyResult, error) {
	if m.box.account == dest.box.account {
		originals := m.View()
		done, err := m.transfer(ctx, uids, dest, m.moveChunk)
		if err == nil {
			err = done.settle(ctx, dest)
		}
		dest.markCopies(ctx, &done, originals)
		return done.result(dest), err
	}
	result, err := m.Copy(ctx, uids, dest)
	if err != nil {
		return result, err
	}
	_, err = m.remove(ctx, result.Source, false)
	return result, err
}

// transferred is what a COPY or MOVE has done so far.
type transferred struct {
	sources []imap.UID
	dests   []added
	seq     uint64 // the last operation in dest's journal
	// deliveries are those whose messages stay known as theirs where they go.
	deliveries map[Dot]madeOf
}

// settle waits for UIDs that are to come, and for the partner.
func (d *transferred) settle(ctx context.Context, dest *Mailbox) error {
	if err := dest.box.account.awaitUIDs(ctx, d.dests); err != nil {
		return err
	}
	return dest.box.account.durable(ctx, d.seq, DurabilityDefault)
}

func (d *transferred) result(dest *Mailbox) CopyResult {
	return CopyResult{UIDValidity: dest.box.current().uidValidity, Source: d.sources, Dest: uidsIn(d.dests)}
}

// transfer copies or moves in as few commits as will do.
func (m *Mailbox) transfer(ctx context.Context, uids []imap.UID, dest *Mailbox,
	some func(context.Context, []*Message, [][]byte, *Mailbox, *transferred) error,
) (done transferred, err error) {
	for chunk := range slices.Chunk(m.box.current().present(sortedUIDs(uids)), copyPerCommit) {
		records, err := m.box.readMeta(ctx, chunk)
		if err != nil {
			return done, err
		}
		if err := m.transferChunk(ctx, chunk, records, dest, &done, some); err != nil {
			return done, err
		}
	}
	return done, nil
}

// transferChunk copies or moves in one commit, or in several where the headers
// are too large for that.
func (m *Mailbox) transferChunk(ctx context.Context, chunk []*Message, records [][]byte, dest *Mailbox, done *transferred,
	some func(context.Context, []*Message, [][]byte, *Mailbox, *transferred) error,
) error {
	err := some(ctx, chunk, records, dest, done)
	if !errors.Is(err, errTooLarge) || len(chunk) < 2 {
		return err
	}
	half := len(chunk) / 2
	if err := m.transferChunk(ctx, chunk[:half], records[:half], dest, done, some); err != nil {
		return err
	}
	return m.transferChunk(ctx, chunk[half:], records[half:], dest, done, some)
}

// copyChunk copies messages in one commit.
func (m *Mailbox) copyChunk(ctx context.Context, chunk []*Message, records [][]byte, dest *Mailbox, done *transferred) error {
	same := m.box.account == dest.box.account
	var sources []imap.UID
	var dests []added
	seq, err := dest.box.account.changeSeq(ctx, func(t *txn) error {
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
			if err := t.room(dest.box, now[0].Octets, 1); err != nil {
				return err
			}
			one, err := t.addCopy(m.box, dest, m.shown(now[0]), records[i], deliveryMark{}, true)
			if err != nil {
				return err
			}
			sources, dests = append(sources, old.UID), append(dests, one)
		}
		return nil
	})
	if err == nil {
		done.sources, done.dests, done.seq = append(done.sources, sources...), append(done.dests, dests...), max(done.seq, seq)
	}
	return err
}

// moveChunk moves messages within an account in one commit.
func (m *Mailbox) moveChunk(ctx context.Context, chunk []*Message, records [][]byte, dest *Mailbox, done *transferred) error {
	var moved []*Message
	var dests []added
	seq, err := m.box.account.changeSeq(ctx, func(t *txn) error {
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
			delivery, known := done.deliveries[now[0].Dot]
			one, err := t.addCopy(m.box, dest, m.shown(now[0]), records[i], delivery.mark, false)
			if err != nil {
				return err
			}
			if known {
				t.noteDelivery(delivery.mark, twin{dest.box.guid, one.dot}, delivery.at)
			}
			moved, dests = append(moved, now[0]), append(dests, one)
		}
		if len(moved) > 0 {
			t.remove(m.box, moved, true)
		}
		return nil
	})
	if err == nil {
		for i, message := range moved {
			done.sources, done.dests = append(done.sources, message.UID), append(done.dests, dests[i])
		}
		done.seq = max(done.seq, seq)
	}
	return err
}

// addCopy adds a message that exists already; share makes it a reference to
// the body of its own.
func (t *txn) addCopy(from *box, dest *Mailbox, m *Message, meta []byte, delivery deliveryMark, share bool) (added, error) {
	trace, _, err := decodeMetaInto(new(mime.Result), meta, MetaPreview) // all of it: what is damaged is not copied
	if err != nil {
		return added{}, err
	}
	b := dest.box
	n := addition{message: *m, trace: trace, meta: meta, delivery: delivery}
	if from.account == b.account {
		n.source, n.sourceMailbox = m.Dot, from.guid
	}
	n.message.more = nil
	n.message.Flags &^= dest.dropped | dest.unstored()
	if dest.dropKeywords {
		n.message.Keywords = nil
	}
	if share {
		n.link = func(batch *store.Batch) { t.account.store.blobs.Share(batch, m.Body) }
	}
	return t.add(b, n)
}
