package mailstore

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"slices"

	"github.com/postern-mail/postern/backend/mailstore/mime"
	"github.com/postern-mail/postern/store"
)

// Meta reads what is kept of a message beside its Message. ErrNoMessage when
// it was expunged meanwhile.
func (m *Mailbox) Meta(ctx context.Context, message *Message) (*Meta, error) {
	metas, err := m.Metas(ctx, []*Message{message})
	if err != nil {
		return nil, err
	}
	if metas[0] == nil {
		return nil, ErrNoMessage
	}
	return metas[0], nil
}

// Metas is Meta for many messages in one read of the store, some 100 at a
// time; nil for those that were expunged meanwhile.
func (m *Mailbox) Metas(ctx context.Context, list []*Message) ([]*Meta, error) {
	return m.SomeOfMetas(ctx, list, MetaAll)
}

// SomeOfMetas is Metas for those who do not want everything.
func (m *Mailbox) SomeOfMetas(ctx context.Context, list []*Message, want MetaParts) ([]*Meta, error) {
	r := metaReader{want: want, list: list, room: make([]Meta, len(list)), metas: make([]*Meta, len(list))}
	s := m.box.account.store
	if err := m.box.eachMeta(ctx, list, r.take); err != nil {
		return nil, err
	}
	if r.err != nil {
		return nil, s.failure("read message structure", r.err)
	}
	for _, p := range r.partial {
		found, err := scanBody(ctx, list[p.at].Body, s.openBody)
		if err != nil {
			return nil, s.failure("scan message", err)
		}
		r.metas[p.at] = newMeta(p.trace, found)
	}
	return r.metas, nil
}

// IsDamaged reports an error that means that a record cannot be read although the
// store can: others can be, and postern fsck mends it where that is possible.
func IsDamaged(err error) bool { return errors.Is(err, errRecord) }

// metaReader makes Metas of records that are good for a moment only: it copies
// what is wanted of them, and nothing else.
type metaReader struct {
	want  MetaParts
	list  []*Message
	room  []Meta
	metas []*Meta
	slab  []byte
	// partial are messages whose record is not the whole: the body has the rest.
	partial []partialMeta
	err     error // of the first record that cannot be read
}

type partialMeta struct {
	at    int
	trace []byte
}

// take makes the Meta of message i of the list.
func (r *metaReader) take(i int, record []byte) {
	var found mime.Result
	trace, isWhole, err := decodeMetaInto(&found, record, r.want)
	switch {
	case err != nil:
		if r.err == nil {
			r.err = err
		}
		return
	case !isWhole:
		r.partial = append(r.partial, partialMeta{i, bytes.Clone(trace)})
		return
	}
	meta := &r.room[i]
	r.metas[i] = meta
	meta.SentDate, meta.NoPreview = found.SentDate, lacksPreview(record)
	more := len(r.list) - i
	if r.want&MetaEnvelope != 0 {
		meta.Envelope, r.slab = appendRecord(r.slab, found.Envelope, more)
	}
	if r.want&MetaBodyStructure != 0 {
		meta.BodyStructure, r.slab = appendRecord(r.slab, found.BodyStructure, more)
	}
	if r.want&MetaBody != 0 {
		meta.Body, r.slab = appendRecord(r.slab, found.Body, more)
	}
	if r.want&MetaPreview != 0 && found.Preview != nil {
		meta.Preview, r.slab = appendRecord(r.slab, found.Preview, more)
	}
	if r.want&MetaHeader != 0 {
		meta.Header = r.joined(trace, found.Header, more)
	}
	if meta.Root = found.Root; meta.Root != nil {
		shiftBelow(meta.Root, trace)
	}
}

// joined copies two parts of a header, one behind the other; never nil.
func (r *metaReader) joined(trace, header []byte, more int) []byte {
	r.slab = makeRoom(r.slab, len(trace)+len(header), more)
	start := len(r.slab)
	r.slab = append(append(r.slab, trace...), header...)
	return r.slab[start:len(r.slab):len(r.slab)]
}

// eachMeta calls take for the record of every message of list that is there. It
// is good until take returns.
func (b *box) eachMeta(ctx context.Context, list []*Message, take func(i int, record []byte)) error {
	a := b.account
	err := a.store.kv.View(ctx, func(snap store.Snapshot) error {
		if b.neighbours(list) {
			return b.scanMeta(snap, list, take)
		}
		for i, m := range list {
			value, err := snap.Get(messageKey(a.id, kindMeta, b.guid, m.UID))
			if errors.Is(err, store.ErrNotFound) {
				continue
			} else if err != nil {
				return err
			}
			take(i, value)
		}
		return nil
	})
	return a.store.failure("read message structures", err)
}

// readMeta reads the records of messages' Meta, nil for those that are gone.
func (b *box) readMeta(ctx context.Context, list []*Message) ([][]byte, error) {
	records := make([][]byte, len(list))
	var slab []byte
	err := b.eachMeta(ctx, list, func(i int, record []byte) {
		records[i], slab = appendRecord(slab, record, len(list)-i)
	})
	return records, err
}

// scanWaste is how many records a scan may step over for one that is wanted:
// to look one up costs about as much, or more.
const scanWaste = 8

// neighbours reports whether list is in UID order and lies close enough
// together in the mailbox for a scan.
func (b *box) neighbours(list []*Message) bool {
	if len(list) < 2 || !slices.IsSortedFunc(list, func(a, b *Message) int { return cmp.Compare(a.UID, b.UID) }) {
		return false
	}
	v := b.current()
	from, _ := v.Find(list[0].UID)
	to, _ := v.Find(list[len(list)-1].UID)
	return to-from < scanWaste*len(list)
}

// scanMeta is eachMeta for messages in UID order: it reads the range they lie in.
func (b *box) scanMeta(snap store.Snapshot, list []*Message, take func(i int, record []byte)) error {
	from := messageKey(b.account.id, kindMeta, b.guid, list[0].UID)
	to := append(messageKey(b.account.id, kindMeta, b.guid, list[len(list)-1].UID), 0)
	i := 0
	for pair, err := range snap.Range(from, to, 0, false) {
		if err != nil {
			return err
		}
		uid := uidOf(pair.Key)
		for i < len(list) && list[i].UID < uid {
			i++
		}
		for ; i < len(list) && list[i].UID == uid; i++ {
			take(i, pair.Value)
		}
	}
	return nil
}

// appendRecord copies value into slab, or into a new one that is likely to
// hold so many more of its kind, and returns the copy and the slab.
func appendRecord(slab, value []byte, more int) (record, rest []byte) {
	slab = makeRoom(slab, len(value), more)
	start := len(slab)
	slab = append(slab, value...)
	return slab[start:len(slab):len(slab)], slab
}

// makeRoom returns slab, or a new one, with room for so many octets and likely
// for so many more of their kind.
func makeRoom(slab []byte, octets, more int) []byte {
	if cap(slab)-len(slab) >= octets {
		return slab
	}
	return make([]byte, 0, max(octets, min(more*octets, maxSlabOctets)))
}

// maxSlabOctets bounds what one record that is kept can keep in memory.
const maxSlabOctets = 64 << 10

// scanBody parses a stored body, with the whole of a header that the scanner
// found too long to keep.
func scanBody(ctx context.Context, ref store.Ref, open func(context.Context, store.Ref) (store.Body, error)) (*mime.Result, error) {
	body, err := open(ctx, ref)
	if err != nil {
		return nil, err
	}
	defer body.Close()
	found, err := mime.Scan(body)
	if err != nil || found.Header != nil {
		return found, err
	}
	found.Header = make([]byte, min(found.Root.Header.Len(), maxReadHeader))
	if n, err := body.ReadAt(found.Header, 0); n < len(found.Header) {
		return nil, err
	}
	return found, nil
}

// maxReadHeader bounds the header kept in memory of a message that has little
// else; sections read from the body have the whole.
const maxReadHeader = 4 << 20
