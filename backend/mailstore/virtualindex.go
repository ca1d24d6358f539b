package mailstore

import (
	"cmp"
	"context"
	"encoding/binary"
	"errors"
	"slices"

	"github.com/emersion/go-imap/v2"

	"github.com/postern-mail/postern/store"
)

// virtualIndex says which message has which UID in a virtual mailbox, and what
// was removed from it when. It is kept, so that UIDs stay what they are, but it
// is derived, and each node's own: lost or damaged, it is made anew with another
// UIDVALIDITY. In memory its values are replaced, never changed.
type virtualIndex struct {
	uidValidity uint32
	uidNext     imap.UID
	modseq      uint64 // of the last change of the members
	floor       uint64 // what was removed up to here is forgotten
	logs        uint64 // how many records tell what was removed
	members     []virtualMember

	stored bool // as far as it goes
	// unshown: it was changed since the view was made.
	unshown bool
}

const (
	// virtualBlock is how many UIDs share a record.
	virtualBlock = 128
	// virtualCommit bounds the records one commit writes.
	virtualCommit = 32
	// maxVirtualLogs is how many records of what was removed are kept.
	maxVirtualLogs = 500
	// maxVirtualUID is where UIDs begin anew, long before they run out.
	maxVirtualUID = 1<<32 - 1<<24
)

// The parts of the key behind the mailbox.
const (
	virtualHeader  = 'h'
	virtualMembers = 'm'
	virtualLog     = 'x'
)

func (b *virtualBox) key(part byte) []byte {
	return append(mailboxKey(b.account.id, kindVirtual, b.guid), part)
}

func (x *virtualIndex) encode() []byte {
	out := binary.AppendUvarint([]byte{recordVersion}, uint64(x.uidValidity))
	for _, n := range []uint64{uint64(x.uidNext), x.modseq, x.floor, x.logs} {
		out = binary.AppendUvarint(out, n)
	}
	return out
}

func decodeVirtual(value []byte) (*virtualIndex, error) {
	d := decoder{b: value}
	d.version()
	x := &virtualIndex{
		uidValidity: d.uint32(), uidNext: imap.UID(d.uint32()), modseq: d.uvarint(), floor: d.uvarint(), logs: d.uvarint(), stored: true,
	}
	return x, d.end("virtual mailbox")
}

// resetIndex begins anew, with a UIDVALIDITY from the clock. Each node of a pair
// has its own, as it has its own UIDs.
func (b *virtualBox) resetIndex(t *txn) {
	above := uint32(0)
	if b.index != nil {
		above = b.index.uidValidity
	}
	v := uint32(t.now.Unix())&^1 | uint32(t.account.store.class())
	for v <= above {
		v += 2
	}
	b.index = &virtualIndex{uidValidity: v, uidNext: 1}
	b.forgetMembers()
	for _, p := range b.parts {
		p.seen = nil
	}
}

func (b *virtualBox) forgetMembers() {
	for _, p := range b.parts {
		clear(p.uids)
	}
}

// readIndex reads what is stored. What cannot be read is made anew.
func (b *virtualBox) readIndex(t *txn) error {
	var x *virtualIndex
	b.forgetMembers()
	err := b.account.store.kv.View(t.ctx, func(snap store.Snapshot) error {
		value, err := snap.Get(b.key(virtualHeader))
		if err != nil {
			return err
		}
		if x, err = decodeVirtual(value); err != nil {
			return err
		}
		b.index = x
		prefix := b.key(virtualMembers)
		for pair, err := range snap.Range(prefix, above(prefix), 0, false) {
			if err != nil {
				return err
			}
			if err := b.readMembers(x, pair.Value); err != nil {
				return err
			}
		}
		return nil
	})
	switch {
	case err == nil:
		return nil
	case errors.Is(err, errRecord):
		b.account.store.log.Warn("virtual mailbox is damaged; it is made anew", "account", b.account.name, "mailbox", b.define.Name, "err", err)
	case !errors.Is(err, store.ErrNotFound):
		return err
	}
	b.resetIndex(t)
	return nil
}

// appendMembers encodes members of one record: the mailboxes they are in, and
// for each its UID, the number of its mailbox, its UID there, and its MODSEQ, as
// differences.
func appendMembers(out []byte, members []virtualMember) []byte {
	var parts []*virtualPart
	for _, m := range members {
		if !slices.Contains(parts, m.part) {
			parts = append(parts, m.part)
		}
	}
	out = binary.AppendUvarint(append(out, recordVersion), uint64(len(parts)))
	for _, p := range parts {
		out = append(out, p.id.mailbox[:]...)
		out = binary.AppendUvarint(out, uint64(p.id.uidValidity))
	}
	var last virtualMember
	for _, m := range members {
		out = binary.AppendUvarint(out, uint64(m.uid-last.uid))
		out = binary.AppendUvarint(out, uint64(slices.Index(parts, m.part)))
		out = binary.AppendVarint(out, int64(m.real)-int64(last.real))
		out = binary.AppendVarint(out, int64(m.joined-last.joined))
		last = m
	}
	return out
}

// readMembers adds the members of a record, which lie above those before, each
// another message.
func (b *virtualBox) readMembers(x *virtualIndex, value []byte) error {
	d := decoder{b: value}
	d.version()
	n := d.uvarint()
	if n > virtualBlock {
		return errRecord
	}
	parts := make([]*virtualPart, n)
	for i := range parts {
		id := partID{mailbox: d.guid(), uidValidity: d.uint32()}
		if d.bad {
			return errRecord
		}
		parts[i] = b.part(id)
	}
	var last virtualMember
	for len(d.b) > 0 && !d.bad {
		uid, part := uint64(last.uid)+d.uvarint(), d.uvarint()
		real, joined := int64(last.real)+d.varint(), last.joined+uint64(d.varint())
		if k := len(x.members); part >= n || uid >= uint64(x.uidNext) || real < 1 || real >= 1<<32 || k > 0 && uid <= uint64(x.members[k-1].uid) {
			return errRecord
		}
		last = virtualMember{uid: imap.UID(uid), part: parts[part], real: imap.UID(real), joined: joined}
		if _, twice := last.part.uids[last.real]; twice {
			return errRecord
		}
		x.members, last.part.uids[last.real] = append(x.members, last), last.uid
	}
	return d.end("members of a virtual mailbox")
}

// at returns where the members from uid on begin.
func (x *virtualIndex) at(uid imap.UID) int {
	at, _ := slices.BinarySearchFunc(x.members, uid, func(m virtualMember, uid imap.UID) int { return cmp.Compare(m.uid, uid) })
	return at
}

// missing are the UIDs of messages that are no members.
func (x *virtualIndex) missing(list *messages) (uids []imap.UID) {
	k := 0
	for i := range list.len() {
		uid := list.at(i).UID
		for k < len(x.members) && x.members[k].uid < uid {
			k++
		}
		if k == len(x.members) || x.members[k].uid != uid {
			uids = append(uids, uid)
		}
	}
	return uids
}

// store puts a step into the commit, as much of it as that holds, and reports
// whether there is more. All that a commit changes of the mailbox has its MODSEQ.
func (b *virtualBox) store(t *txn, s *virtualStep) (more bool, err error) {
	x := *b.index
	s.index = &x
	blocks := make(map[imap.UID]bool)
	for i, uid := range s.removed {
		if blocks[uid/virtualBlock] = true; len(blocks) == virtualCommit {
			more = i+1 < len(s.removed)
			s.removed = s.removed[:i+1]
			break
		}
	}
	fresh := s.fresh[:min(len(s.fresh), (virtualCommit-len(blocks))*virtualBlock)]
	more = more || len(fresh) < len(s.fresh)
	if len(s.removed)+len(fresh) == 0 && x.stored {
		return more, nil
	}
	if !x.stored {
		prefix := mailboxKey(b.account.id, kindVirtual, b.guid)
		t.batch.DeleteRange(prefix, above(prefix))
		x.stored = true
	}
	x.modseq = t.nextModSeq()
	if len(s.removed) > 0 {
		x.members = slices.DeleteFunc(slices.Clone(x.members), func(m virtualMember) bool {
			_, gone := slices.BinarySearch(s.removed, m.uid)
			return gone
		})
		t.batch.Put(numberKey(b.key(virtualLog), x.modseq), encodeExpunged(t.now, s.removed, nil))
		x.logs++
	}
	for _, f := range fresh {
		m := virtualMember{uid: x.uidNext, part: f.part, real: f.message.UID, joined: x.modseq}
		x.members, s.added = append(x.members, m), append(s.added, m)
		blocks[m.uid/virtualBlock] = true
		x.uidNext++
	}
	for block := range blocks {
		b.storeMembers(t, &x, block)
	}
	if err := b.forgetLogs(t, &x); err != nil {
		return false, err
	}
	x.unshown = x.unshown || more
	t.batch.Put(b.key(virtualHeader), x.encode())
	return more, nil
}

func (b *virtualBox) storeMembers(t *txn, x *virtualIndex, block imap.UID) {
	key := binary.BigEndian.AppendUint32(b.key(virtualMembers), uint32(block))
	some := x.members[x.at(block*virtualBlock):x.at((block+1)*virtualBlock)]
	if len(some) == 0 {
		t.batch.Delete(key)
	} else {
		t.batch.Put(key, appendMembers(nil, some))
	}
}

// forgetLogs drops the oldest records of what was removed.
func (b *virtualBox) forgetLogs(t *txn, x *virtualIndex) error {
	if x.logs <= maxVirtualLogs {
		return nil
	}
	prefix := b.key(virtualLog)
	return b.account.store.kv.View(t.ctx, func(snap store.Snapshot) error {
		for pair, err := range snap.Range(prefix, above(prefix), maxVirtualLogs/10, false) {
			if err != nil {
				return err
			}
			t.batch.Delete(slices.Clone(pair.Key))
			x.floor = numberOf(pair.Key)
			x.logs--
		}
		return nil
	})
}

// expungedSince is Mailbox.ExpungedSince.
func (b *virtualBox) expungedSince(ctx context.Context, modseq uint64) (uids []imap.UID, complete bool, err error) {
	err = b.account.store.kv.View(ctx, func(snap store.Snapshot) error {
		value, err := snap.Get(b.key(virtualHeader))
		if err != nil {
			return err
		}
		x, err := decodeVirtual(value)
		if err != nil {
			return err
		}
		complete = modseq >= x.floor
		prefix := b.key(virtualLog)
		for pair, err := range snap.Range(numberKey(prefix, modseq+1), above(prefix), 0, false) {
			if err != nil {
				return err
			}
			_, some, err := decodeExpunged(pair.Value)
			if err != nil {
				return err
			}
			uids = append(uids, some...)
		}
		return nil
	})
	slices.Sort(uids)
	return uids, complete, err
}
