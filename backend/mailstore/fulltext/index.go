package fulltext

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/postern-mail/postern/store"
)

// Keys, behind the prefix:
//
//	s                    state
//	h <segment>          header of a segment; without it the rest is garbage
//	d <segment> d <part> its documents
//	d <segment> p <page> lists of some of its buckets
const (
	kindState  = 's'
	kindHeader = 'h'
	kindData   = 'd'
	dataDocs   = 'd'
	dataPage   = 'p'
)

// Index is one account's. It has no state of its own and is safe for concurrent
// use.
type Index struct {
	kv     store.Store
	prefix []byte
}

// New returns the index behind a prefix of keys.
func New(kv store.Store, prefix []byte) *Index { return &Index{kv, bytes.Clone(prefix)} }

func (x *Index) key(kind byte, rest ...byte) []byte {
	k := make([]byte, 0, len(x.prefix)+2+len(rest))
	return append(append(append(k, x.prefix...), kind), rest...)
}

func (x *Index) headerKey(segment uint64) []byte {
	return binary.BigEndian.AppendUint64(x.key(kindHeader), segment)
}

func (x *Index) dataKey(segment uint64) []byte {
	return binary.BigEndian.AppendUint64(x.key(kindData), segment)
}

func (x *Index) docsKey(segment uint64, part int) []byte {
	return binary.BigEndian.AppendUint32(append(x.dataKey(segment), dataDocs), uint32(part))
}

func (x *Index) pageKey(segment uint64, page int) []byte {
	return binary.BigEndian.AppendUint32(append(x.dataKey(segment), dataPage), uint32(page))
}

// end is behind all keys that begin with prefix.
func end(prefix []byte) []byte {
	e := bytes.Clone(prefix)
	for i := len(e) - 1; i >= 0; i-- {
		if e[i]++; e[i] != 0 {
			return e[:i+1]
		}
	}
	return nil
}

const stateVersion = 1

// state is what is known of the index as a whole.
type state struct {
	made  []byte // see Settings.Made
	next  uint64 // number of the next segment
	marks []byte // see Writer.Marks
}

func (s *state) encode() []byte {
	b := []byte{stateVersion}
	b = append(binary.AppendUvarint(b, uint64(len(s.made))), s.made...)
	b = binary.AppendUvarint(b, s.next)
	return append(b, s.marks...)
}

func decodeState(b []byte) (s state, err error) {
	if len(b) == 0 || b[0] != stateVersion {
		return s, errDamaged
	}
	n, k := binary.Uvarint(b[1:])
	if k <= 0 || n > uint64(len(b)-1-k) {
		return s, errDamaged
	}
	b = b[1+k:]
	s.made, b = bytes.Clone(b[:n]), b[n:]
	if s.next, k = binary.Uvarint(b); k <= 0 {
		return s, errDamaged
	}
	s.marks = bytes.Clone(b[k:])
	return s, nil
}

// read reads the state and the headers of all segments. Without a state, or
// with one of another version, found is false.
func (x *Index) read(snap store.Snapshot) (s state, raw []byte, segments []segment, found bool, err error) {
	value, err := snap.Get(x.key(kindState))
	if errors.Is(err, store.ErrNotFound) {
		return s, nil, nil, false, nil
	} else if err != nil {
		return s, nil, nil, false, err
	}
	raw = bytes.Clone(value)
	if s, err = decodeState(raw); err != nil {
		return s, raw, nil, false, nil
	}
	prefix := x.key(kindHeader)
	for pair, err := range snap.Range(prefix, end(prefix), 0, false) {
		if err != nil {
			return s, raw, nil, false, err
		}
		if len(pair.Key) != len(prefix)+8 {
			return s, raw, nil, false, errDamaged
		}
		one, err := decodeSegment(binary.BigEndian.Uint64(pair.Key[len(prefix):]), pair.Value)
		if err != nil {
			return s, raw, nil, false, err
		}
		segments = append(segments, one)
	}
	return s, raw, segments, true, nil
}

// IsDamaged reports whether an error tells that the index cannot be read as it
// is, and has to be built anew.
func IsDamaged(err error) bool {
	return errors.Is(err, errDamaged) || errors.Is(err, store.ErrNotFound)
}

// Usage is what an index holds.
type Usage struct {
	Documents int
	Segments  int
	Octets    int64 // in the store, before its own compression
	Text      int64 // octets that were looked at
}

// Usage reads what the index holds, and whether there is one that was made so.
func (x *Index) Usage(snap store.Snapshot, made []byte) (u Usage, current bool, err error) {
	s, _, segments, found, err := x.read(snap)
	for _, one := range segments {
		u.Documents += one.docs
		u.Segments++
		u.Octets += one.octets
		u.Text += one.text
	}
	return u, found && bytes.Equal(s.made, made), err
}

// Marks reads the marks of the last flush, and whether the index was made so.
func (x *Index) Marks(snap store.Snapshot, made []byte) (marks []byte, current bool, err error) {
	value, err := snap.Get(x.key(kindState))
	if errors.Is(err, store.ErrNotFound) {
		return nil, false, nil
	} else if err != nil {
		return nil, false, err
	}
	s, err := decodeState(value)
	return s.marks, err == nil && bytes.Equal(s.made, made), err
}

// Drop removes all there is of the index. It is built anew by whoever writes it
// next.
func (x *Index) Drop(ctx context.Context) error {
	b := store.NewBatch()
	b.UseReserve = true
	b.DeleteRange(x.prefix, end(x.prefix))
	return commit(ctx, x.kv, b)
}

// commit commits b, and again when the outcome is not known.
func commit(ctx context.Context, kv store.Store, b *store.Batch) error {
	_, err := kv.Commit(ctx, b)
	if errors.Is(err, store.ErrUnknown) {
		_, err = kv.Commit(ctx, b)
	}
	return err
}

// Verify reads all there is of the index and returns what is wrong with it.
func (x *Index) Verify(ctx context.Context) error {
	var segments []segment
	err := x.kv.View(ctx, func(snap store.Snapshot) (err error) {
		_, _, segments, _, err = x.read(snap)
		return err
	})
	if err != nil {
		return err
	}
	for i := range segments {
		s := &segments[i]
		err := x.kv.View(ctx, func(snap store.Snapshot) error {
			_, err := x.readDocs(snap, s)
			return err
		})
		for page := 0; page < s.pages && err == nil; page++ {
			err = x.kv.View(ctx, func(snap store.Snapshot) error {
				b, err := snap.Get(x.pageKey(s.number, page))
				if err != nil {
					return fmt.Errorf("page %d of segment %d: %w", page, s.number, err)
				}
				r := bitReader{in: b}
				for range s.perPage() {
					if err := r.skip(s.docs); err != nil {
						return fmt.Errorf("page %d of segment %d: %w", page, s.number, err)
					}
				}
				return nil
			})
		}
		if err != nil {
			return err
		}
	}
	return nil
}
