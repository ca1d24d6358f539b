package foreign

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/postern-mail/postern/foreign/imap"
	"github.com/postern-mail/postern/store"
)

// The kinds of keys, behind the owner's tag.
const (
	keyAccount = 'a' // accountRecord
	keyMailbox = 'b' // id: mailbox
	keyIntent  = 'i' // id: intent
	keyPair    = 'm' // mailbox, UID on the left: pair
	keyReverse = 'r' // mailbox, UID on the right: UID on the left
	keyID      = 'e' // side, hash of a message id, mailbox, UID on the left
	keyWaiting = 'w' // mailbox, side, UID: waiting
	keyCount   = 'n' // mailbox: counter of pairs
	keyNumber  = 'z' // counter of mailbox and intent ids
)

// ownerTag is the first octet of all our keys.
const ownerTag = 'f'

// book is the durable state of one account of a mirror. It is used by one
// goroutine.
type book struct {
	kv     store.Store
	prefix func(kind byte) []byte
}

func newBook(kv store.Store, mirror, account string) *book {
	return &book{kv: kv, prefix: func(kind byte) []byte {
		b := []byte{ownerTag, kind}
		for _, text := range []string{mirror, account} {
			b = binary.BigEndian.AppendUint16(b, uint16(len(text)))
			b = append(b, text...)
		}
		return b
	}}
}

func (b *book) key(kind byte, number uint64) []byte {
	return binary.BigEndian.AppendUint64(b.prefix(kind), number)
}

func (b *book) uidKey(kind byte, box uint64, uid uint32) []byte {
	return binary.BigEndian.AppendUint32(b.key(kind, box), uid)
}

func (b *book) waitKey(box uint64, side Side, uid uint32) []byte {
	return binary.BigEndian.AppendUint32(append(b.key(keyWaiting, box), byte(side)), uid)
}

func (b *book) idKey(side Side, id string, box uint64, left uint32) []byte {
	return binary.BigEndian.AppendUint32(binary.BigEndian.AppendUint64(b.idPrefix(side, id), box), left)
}

func (b *book) idPrefix(side Side, id string) []byte {
	hash := sha256.Sum256([]byte(id))
	return append(append(b.prefix(keyID), byte(side)), hash[:16]...)
}

// behind returns the first key after all that begin with prefix.
func behind(prefix []byte) []byte {
	end := append([]byte(nil), prefix...)
	for i := len(end) - 1; i >= 0; i-- {
		if end[i]++; end[i] != 0 {
			return end[:i+1]
		}
	}
	return nil
}

// load reads every JSON record of a kind.
func load[R any](ctx context.Context, b *book, kind byte) ([]*R, error) {
	var all []*R
	lo := b.prefix(kind)
	err := store.Scan(ctx, b.kv, lo, behind(lo), 500, func(_ store.Snapshot, _, value []byte) error {
		r := new(R)
		if err := json.Unmarshal(value, r); err != nil {
			return fmt.Errorf("%w: %w", errRecord, err)
		}
		all = append(all, r)
		return nil
	})
	return all, err
}

func (b *book) account(ctx context.Context) (accountRecord, error) {
	var r accountRecord
	err := b.kv.View(ctx, func(v store.Snapshot) error {
		value, err := v.Get(b.prefix(keyAccount))
		if errors.Is(err, store.ErrNotFound) {
			return nil
		}
		if err != nil {
			return err
		}
		return json.Unmarshal(value, &r)
	})
	return r, err
}

// numbers allocates n ids.
func (b *book) numbers(ctx context.Context, n int) (uint64, error) {
	batch := store.NewBatch()
	batch.Next(b.prefix(keyNumber), int64(n))
	r, err := commit(ctx, b.kv, batch)
	if err != nil {
		return 0, err
	}
	return uint64(r.Allocated[0]), nil
}

// commit settles an unknown outcome by asking again.
func commit(ctx context.Context, kv store.Store, batch *store.Batch) (store.Result, error) {
	r, err := kv.Commit(ctx, batch)
	if errors.Is(err, store.ErrUnknown) {
		r, err = kv.Commit(ctx, batch)
	}
	return r, err
}

// find returns the pairs of which uids are the side's, by these.
func (b *book) find(ctx context.Context, box uint64, side Side, uids []uint32) (map[uint32]pair, error) {
	found := make(map[uint32]pair, len(uids))
	for len(uids) > 0 {
		n := min(len(uids), 2000)
		err := b.kv.View(ctx, func(v store.Snapshot) error {
			for _, uid := range uids[:n] {
				p, ok, err := b.get(v, box, side, uid)
				if err != nil {
					return err
				}
				if ok {
					found[uid] = p
				}
			}
			return nil
		})
		if err != nil {
			return nil, err
		}
		uids = uids[n:]
	}
	return found, nil
}

func (b *book) get(v store.Snapshot, box uint64, side Side, uid uint32) (pair, bool, error) {
	left := uid
	if side == Right {
		value, err := v.Get(b.uidKey(keyReverse, box, uid))
		if errors.Is(err, store.ErrNotFound) {
			return pair{}, false, nil
		}
		if err != nil {
			return pair{}, false, err
		}
		if len(value) != 4 {
			return pair{}, false, errRecord
		}
		left = binary.BigEndian.Uint32(value)
	}
	value, err := v.Get(b.uidKey(keyPair, box, left))
	if errors.Is(err, store.ErrNotFound) {
		return pair{}, false, nil
	}
	if err != nil {
		return pair{}, false, err
	}
	p, err := decodePair(left, value)
	return p, err == nil && p.uid[side] == uid, err
}

// within returns the pairs whose UIDs on side are in set.
func (b *book) within(ctx context.Context, box uint64, side Side, set imap.Set) ([]pair, error) {
	kind := byte(keyPair)
	if side == Right {
		kind = keyReverse
	}
	var found []pair
	for _, r := range set {
		lo, hi := b.uidKey(kind, box, r.First), append(b.uidKey(kind, box, r.Last), 0)
		err := store.Scan(ctx, b.kv, lo, hi, 1000, func(v store.Snapshot, key, _ []byte) error {
			uid := binary.BigEndian.Uint32(key[len(key)-4:])
			p, ok, err := b.get(v, box, side, uid)
			if ok {
				found = append(found, p)
			}
			return err
		})
		if err != nil {
			return nil, err
		}
	}
	return found, nil
}

// everything is the set of all UIDs.
var everything = imap.Set{{First: 1, Last: 1<<32 - 1}}

// known looks up a message id of a side: where, and as which pair, it is.
func (b *book) known(ctx context.Context, side Side, id string) (boxes []uint64, pairs []pair, err error) {
	if id == "" {
		return nil, nil, nil
	}
	lo := b.idPrefix(side, id)
	err = b.kv.View(ctx, func(v store.Snapshot) error {
		for e, err := range v.Range(lo, behind(lo), 16, false) {
			if err != nil {
				return err
			}
			tail := e.Key[len(lo):]
			if len(tail) != 12 {
				return errRecord
			}
			box := binary.BigEndian.Uint64(tail)
			p, ok, err := b.get(v, box, Left, binary.BigEndian.Uint32(tail[8:]))
			if err != nil {
				return err
			}
			if ok && p.id[side] == id {
				boxes, pairs = append(boxes, box), append(pairs, p)
			}
		}
		return nil
	})
	return boxes, pairs, err
}

// waitings returns the messages of side in a mailbox that wait, by their UIDs.
func (b *book) waitings(ctx context.Context, box uint64, side Side) (map[uint32]waiting, error) {
	all := make(map[uint32]waiting)
	lo := append(b.key(keyWaiting, box), byte(side))
	err := store.Scan(ctx, b.kv, lo, behind(lo), 1000, func(_ store.Snapshot, key, value []byte) error {
		var w waiting
		all[binary.BigEndian.Uint32(key[len(key)-4:])] = w
		if err := json.Unmarshal(value, &w); err != nil {
			return fmt.Errorf("%w: %w", errRecord, err)
		}
		all[binary.BigEndian.Uint32(key[len(key)-4:])] = w
		return nil
	})
	return all, err
}

// count is how many pairs a mailbox has.
func (b *book) count(ctx context.Context, box uint64) (n int64, err error) {
	err = b.kv.View(ctx, func(v store.Snapshot) error {
		n, err = v.Counter(b.key(keyCount, box))
		return err
	})
	return n, err
}

// entry collects changes to the book. What one call adds is written together;
// calls may be written apart where they do not fit into one batch.
type entry struct {
	b     *book
	units [][]store.Op
	err   error
}

func (b *book) write() *entry { return &entry{b: b} }

func (e *entry) unit(fill func(*store.Batch)) {
	var batch store.Batch
	fill(&batch)
	e.units = append(e.units, batch.Ops)
}

// commit writes what was collected.
func (e *entry) commit(ctx context.Context) error {
	if e.err != nil {
		return e.err
	}
	batch := store.NewBatch()
	octets := 0
	flush := func() error {
		if len(batch.Ops) == 0 {
			return nil
		}
		_, err := commit(ctx, e.b.kv, batch)
		batch, octets = store.NewBatch(), 0
		return err
	}
	for _, ops := range e.units {
		size := 0
		for _, op := range ops {
			size += len(op.Key) + len(op.Value)
		}
		if len(batch.Ops)+len(ops) > store.MaxBatchOps || octets+size > store.MaxBatchOctets/2 {
			if err := flush(); err != nil {
				return err
			}
		}
		batch.Ops, octets = append(batch.Ops, ops...), octets+size
	}
	e.units = nil
	return flush()
}

func (e *entry) json(batch *store.Batch, key []byte, r any) {
	value, err := json.Marshal(r)
	if err == nil && len(value) > store.MaxValueOctets {
		err = errors.New("a record of the state is too large")
	}
	if err != nil && e.err == nil {
		e.err = err
	}
	batch.Put(key, value)
}

func (e *entry) account(r accountRecord) {
	e.unit(func(batch *store.Batch) { e.json(batch, e.b.prefix(keyAccount), r) })
}

func (e *entry) mailbox(m *mailbox) {
	e.unit(func(batch *store.Batch) { e.json(batch, e.b.key(keyMailbox, m.ID), m) })
}

// paired adds a pair, ends its intent (0 for none) and what waits for it.
func (e *entry) paired(box uint64, p pair, intent uint64) {
	e.unit(func(batch *store.Batch) {
		e.put(batch, box, p)
		batch.Put(e.b.uidKey(keyReverse, box, p.uid[Right]), binary.BigEndian.AppendUint32(nil, p.uid[Left]))
		for _, s := range sides {
			if p.id[s] != "" {
				batch.Put(e.b.idKey(s, p.id[s], box, p.uid[Left]), nil)
			}
			batch.Delete(e.b.waitKey(box, s, p.uid[s]))
		}
		batch.Add(e.b.key(keyCount, box), 1)
		if intent != 0 {
			batch.Delete(e.b.key(keyIntent, intent))
		}
	})
}

func (e *entry) put(batch *store.Batch, box uint64, p pair) {
	batch.Put(e.b.uidKey(keyPair, box, p.uid[Left]), p.encode())
}

// identified replaces a pair whose message on a side has an id now.
func (e *entry) identified(box uint64, p pair, s Side) {
	e.unit(func(batch *store.Batch) {
		e.put(batch, box, p)
		batch.Put(e.b.idKey(s, p.id[s], box, p.uid[Left]), nil)
	})
}

// agreed replaces a pair's flags.
func (e *entry) agreed(box uint64, p pair) {
	e.unit(func(batch *store.Batch) { e.put(batch, box, p) })
}

// parted removes a pair. stays, where not nil, is the side whose message stays
// and waits to be copied again.
func (e *entry) parted(box uint64, p pair, stays *Side, reason string) {
	e.unit(func(batch *store.Batch) {
		batch.Delete(e.b.uidKey(keyPair, box, p.uid[Left]))
		batch.Delete(e.b.uidKey(keyReverse, box, p.uid[Right]))
		for _, s := range sides {
			if p.id[s] != "" {
				batch.Delete(e.b.idKey(s, p.id[s], box, p.uid[Left]))
			}
		}
		batch.Add(e.b.key(keyCount, box), -1)
		if stays != nil {
			e.json(batch, e.b.waitKey(box, *stays, p.uid[*stays]), waiting{Reason: reason})
		}
	})
}

// waits notes that a message waits; its intent, 0 for none, is over.
func (e *entry) waits(box uint64, side Side, uid uint32, w waiting, intent uint64) {
	e.unit(func(batch *store.Batch) {
		e.json(batch, e.b.waitKey(box, side, uid), w)
		if intent != 0 {
			batch.Delete(e.b.key(keyIntent, intent))
		}
	})
}

func (e *entry) waitsNoMore(box uint64, side Side, uid uint32) {
	e.unit(func(batch *store.Batch) { batch.Delete(e.b.waitKey(box, side, uid)) })
}

func (e *entry) intends(i *intent) {
	e.unit(func(batch *store.Batch) { e.json(batch, e.b.key(keyIntent, i.ID), i) })
}

func (e *entry) intendsNoMore(id uint64) {
	e.unit(func(batch *store.Batch) { batch.Delete(e.b.key(keyIntent, id)) })
}

// forget removes the pairs of a mailbox and what waits in it; with the mailbox
// itself too. Ids that point to them stay behind and find nothing.
func (e *entry) forget(box uint64, mailboxToo bool) {
	e.unit(func(batch *store.Batch) {
		for _, kind := range []byte{keyPair, keyReverse, keyWaiting} {
			lo := e.b.key(kind, box)
			batch.DeleteRange(lo, behind(lo))
		}
		batch.Delete(e.b.key(keyCount, box))
		if mailboxToo {
			batch.Delete(e.b.key(keyMailbox, box))
		}
	})
}
