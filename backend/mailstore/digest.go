package mailstore

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"math/bits"
	"slices"
	"strings"

	"github.com/postern-mail/postern/store"
)

// A digest is a sum, modulo 2^128, of truncated hashes of what a mailbox or an
// account holds: it is kept as things come and go, in no order, and two nodes
// that hold the same have the same. It is compared by nodes that trust each
// other; it is not a signature.

func addSum(to *[16]byte, s [16]byte) {
	low, carry := bits.Add64(binary.LittleEndian.Uint64(to[:]), binary.LittleEndian.Uint64(s[:]), 0)
	high, _ := bits.Add64(binary.LittleEndian.Uint64(to[8:]), binary.LittleEndian.Uint64(s[8:]), carry)
	binary.LittleEndian.PutUint64(to[:], low)
	binary.LittleEndian.PutUint64(to[8:], high)
}

func subtractSum(to *[16]byte, s [16]byte) {
	low, borrow := bits.Sub64(binary.LittleEndian.Uint64(to[:]), binary.LittleEndian.Uint64(s[:]), 0)
	high, _ := bits.Sub64(binary.LittleEndian.Uint64(to[8:]), binary.LittleEndian.Uint64(s[8:]), borrow)
	binary.LittleEndian.PutUint64(to[:], low)
	binary.LittleEndian.PutUint64(to[8:], high)
}

func hashSum(b []byte) (s [16]byte) {
	h := sha256.Sum256(b)
	copy(s[:], h[:])
	return s
}

// sumOf is what a message adds to the digest of its mailbox: its instance, the
// highest UID it was given, and its flags. MODSEQs are each node's own.
func sumOf(mailbox GUID, m *Message) [16]byte {
	return hashSum(appendSummed(make([]byte, 0, 128), mailbox, m))
}

// quickSumOf is sumOf for a quick digest.
func quickSumOf(mailbox GUID, m *Message) [16]byte {
	return quickSum(appendSummed(make([]byte, 0, 128), mailbox, m))
}

// summedOctets is how many appendSummed writes of a message without keywords; the
// last of them are its flags.
const summedOctets = 1 + 16 + 16 + 4 + 1

// appendSummed writes the octets of which a message's sum is the hash.
func appendSummed(b []byte, mailbox GUID, m *Message) []byte {
	b = append(b, 'm')
	b = append(b, mailbox[:]...)
	b = binary.BigEndian.AppendUint64(b, uint64(m.Dot.Origin))
	b = binary.BigEndian.AppendUint64(b, m.Dot.Seq)
	b = binary.LittleEndian.AppendUint32(b, uint32(m.register()))
	b = append(b, byte(m.Flags))
	if len(m.Keywords) > 0 {
		// Each node spells a keyword as it first saw it.
		folded := make([]string, len(m.Keywords))
		for i, k := range m.Keywords {
			folded[i] = strings.ToLower(k)
		}
		slices.Sort(folded)
		b = appendStrings(b, folded)
	}
	return b
}

// sum adds m to the kept digest, or takes it away for sign -1.
func (v *view) sum(m *Message, sign int64) {
	switch {
	case !v.summed:
	case sign > 0:
		addSum(&v.digest, v.sumOf(v.guid, m))
	default:
		subtractSum(&v.digest, v.sumOf(v.guid, m))
	}
}

// sumOf is what a message adds to the mailbox's kept digest, of whichever kind
// that is.
func (r *mailboxRecord) sumOf(mailbox GUID, m *Message) [16]byte {
	if r.quick {
		return quickSumOf(mailbox, m)
	}
	return sumOf(mailbox, m)
}

// forPartner reports whether the kept digest is one that a partner understands.
func (r *mailboxRecord) forPartner() bool { return r.summed && !r.quick }

// sumOfRegisters is what a mailbox that is not deleted adds to the account's
// digest beside its messages.
func (r *mailboxRecord) sumOfRegisters(id GUID) [16]byte {
	b := append(make([]byte, 0, 256), 'b')
	b = append(b, id[:]...)
	b = append(b, r.parent[:]...)
	b = appendBlock(b, r.leaf)
	b = binary.LittleEndian.AppendUint32(b, r.uidValidity)
	b = append(b, boolByte(r.subscribed))
	for _, s := range []stamp{r.created, r.moved, r.subscribing} {
		b = appendStamp(b, s)
	}
	return hashSum(appendVector(b, r.erased))
}

// digest identifies what the account holds. What is not kept yet, as after an
// upgrade, is computed and kept from now on.
func (t *txn) digest() (Digest, error) {
	var sum [16]byte
	a := t.account
	for _, b := range a.boxes {
		if t.peek(b).removed {
			continue
		}
		if !t.peek(b).forPartner() {
			if err := t.sumMailbox(b); err != nil {
				return Digest{}, err
			}
		}
		addSum(&sum, t.peek(b).digest)
	}
	if a.registers == nil {
		registers, err := t.sumRegisters()
		if err != nil {
			return Digest{}, err
		}
		a.registers = &registers
	}
	addSum(&sum, *a.registers)
	return Digest(sum), nil
}

// sumPerCommit is how many mailboxes share a commit that keeps their digests.
const sumPerCommit = 100

// sumMailboxes keeps the digests of mailboxes that have none yet, or a quick one:
// after an upgrade, or when a store was given a partner, these are more than one
// commit could store.
func (a *account) sumMailboxes(ctx context.Context) error {
	if a.link == nil || a.summed.Load() {
		return nil
	}
	for more := true; more; {
		err := a.changeAlone(ctx, func(t *txn) error {
			more = false
			n := 0
			for _, b := range a.boxes {
				if v := t.peek(b); v.removed || v.forPartner() {
					continue
				}
				if more = n == sumPerCommit; more {
					return nil
				}
				if err := t.sumMailbox(b); err != nil {
					return err
				}
				n++
			}
			return nil
		})
		if err != nil {
			return err
		}
	}
	a.summed.Store(true)
	return nil
}

// sumMailbox computes a mailbox's digest, to be kept from now on. That of a
// mailbox that is not whole is not that of its messages.
func (t *txn) sumMailbox(b *box) error {
	index, err := t.account.readIndex(t.ctx, b.guid)
	if err != nil {
		return err
	}
	v := t.draft(b)
	sum := index.sum(0, len(index.items))
	if v.summed && v.quick {
		addSum(&sum, v.digest)
		subtractSum(&sum, index.quick)
	}
	v.digest, v.summed, v.quick, v.dirty = sum, true, false, true
	return nil
}

// registersChanged has the part of the digest that is kept in memory computed
// anew.
func (t *txn) registersChanged() {
	t.after = append(t.after, func() { t.account.registers = nil })
}

// sumRegisters is the part of the digest that seldom changes: mailboxes without
// their messages, subscriptions to names, entries.
func (t *txn) sumRegisters() (sum [16]byte, err error) {
	a := t.account
	for id, b := range a.boxes {
		if v := t.peek(b); !v.removed {
			addSum(&sum, v.sumOfRegisters(id))
		}
	}
	for name, s := range a.subscriptions {
		if s.on {
			addSum(&sum, hashSum(append([]byte{'s'}, name...)))
		}
	}
	err = a.eachEntry(t.ctx, nil, func(key []byte, e *entry) error {
		// Of readers' marks each node forgets some for itself.
		if !e.removed && key[0] != SpaceSeen {
			addSum(&sum, hashSum(append(append([]byte{'e'}, key...), e.value...)))
		}
		return nil
	})
	return sum, err
}

// item is one message of a mailbox for comparing with the partner's.
type item struct {
	dot Dot
	sum [16]byte
	at  uint32 // its UID, 0 for one that is hidden
}

// index is a mailbox's messages in the order of their dots.
type index struct {
	record mailboxRecord
	raw    []byte // of the record
	items  []item
	quick  [16]byte // the quick digest, where the record has one
	// counted is what the items count up to.
	counted view
	known   []Dot           // what the node had applied
	whole   bool            // see isWhole
	uids    map[uint32]bool // those of items; made when asked for
	blocks  flagBlocks      // of its messages
}

// count counts a message in.
func (x *index) count(m *Message) {
	if m.UID == 0 {
		x.counted.pending++
		x.counted.pendingOctets += m.Octets
		return
	}
	x.counted.count(m, 1)
	if m.isMisplaced() {
		x.counted.misplaced++
	}
}

// sum is the digest of a part of the items.
func (x *index) sum(from, to int) (sum [16]byte) {
	for _, it := range x.items[from:to] {
		addSum(&sum, it.sum)
	}
	return sum
}

// isWhole is the integrity gate: what is there is what was kept of it. A node
// whose mailbox is not whole never says that a message is gone.
func (x *index) isWhole() bool {
	r := &x.record
	if r.messages+r.pending != int64(len(x.items)) {
		return false
	}
	if r.quick {
		return !r.summed || r.digest == x.quick
	}
	return !r.summed || r.digest == x.sum(0, len(x.items))
}

// find returns where d is, or would be.
func (x *index) find(d Dot) (int, bool) {
	return slices.BinarySearchFunc(x.items, d, func(it item, d Dot) int { return compareDots(it.dot, d) })
}

// readIndex reads a mailbox's messages as they are stored.
func (a *account) readIndex(ctx context.Context, mailbox GUID) (x *index, err error) {
	err = a.store.kv.View(ctx, func(snap store.Snapshot) error {
		x, err = readIndex(snap, a.id, mailbox)
		return err
	})
	return x, err
}

// readIndex reads a mailbox in one consistent picture with what the node had
// applied then. A mailbox without a record is empty.
func readIndex(snap store.Snapshot, account, mailbox GUID) (*index, error) {
	x := &index{}
	raw, err := snap.Get(mailboxKey(account, kindMailbox, mailbox))
	if err != nil {
		return nil, err
	}
	x.raw = bytes.Clone(raw)
	if x.record, err = decodeMailbox(raw); err != nil {
		return nil, err
	}
	x.items = make([]item, 0, min(x.record.messages+x.record.pending, 1<<20))
	x.blocks.account = account
	for _, kind := range []byte{kindMessage, kindPending} {
		prefix := mailboxKey(account, kind, mailbox)
		for pair, err := range snap.Range(prefix, above(prefix), 0, false) {
			if err != nil {
				return nil, err
			}
			var m Message
			uid := uidOf(pair.Key)
			if kind == kindPending {
				uid = 0
			}
			if err := decodeInstance(&m, uid, pair.Value); err != nil {
				return nil, err
			}
			if uid != 0 && x.record.blocks {
				if _, err := x.blocks.apply(snap, mailbox, &m); err != nil {
					return nil, err
				}
			}
			if !covers(x.record.erased, m.Dot) {
				x.items = append(x.items, item{m.Dot, sumOf(mailbox, &m), uint32(uid)})
				if x.record.quick {
					addSum(&x.quick, quickSumOf(mailbox, &m))
				}
				x.count(&m)
			}
		}
	}
	slices.SortFunc(x.items, func(a, b item) int { return compareDots(a.dot, b.dot) })
	return x, nil
}
