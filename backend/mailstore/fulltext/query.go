package fulltext

import (
	"context"
	"slices"

	"github.com/postern-mail/postern/store"
)

// Answer says which documents may have which needle. It is safe for concurrent
// use.
type Answer struct {
	docs map[ID]uint32
	// may has, for each needle, a bit for each document; nil for all of them.
	may [][]uint64
	// Marks are those of the last flush, see Writer.Marks.
	Marks []byte
}

// May reports whether a document may have needle i, and whether it is known: one
// that is not may have anything.
func (a *Answer) May(id ID, i int) (may, known bool) {
	at, known := a.docs[id]
	if !known {
		return true, false
	}
	if a.may[i] == nil {
		return true, true
	}
	return a.may[i][at/64]&(1<<(at%64)) != 0, true
}

// Documents is how many the index knows.
func (a *Answer) Documents() int { return len(a.docs) }

// Ask looks needles up, which are folded as text.Needle has them. Without an index
// that was made so, the answer knows no document. Every snapshot of the store is
// short.
func (x *Index) Ask(ctx context.Context, made []byte, needles [][]byte) (*Answer, error) {
	a := &Answer{docs: map[ID]uint32{}, may: make([][]uint64, len(needles))}
	err := x.kv.View(ctx, func(snap store.Snapshot) error {
		s, _, segments, found, err := x.read(snap)
		if err != nil || !found || !slices.Equal(s.made, made) {
			return err
		}
		a.Marks = s.marks
		n := 0
		for _, one := range segments {
			n += one.docs
		}
		a.docs = make(map[ID]uint32, n)
		wanted := make([][]uint32, len(needles))
		for i, needle := range needles {
			if wanted[i] = needleBuckets(needle); len(wanted[i]) > 0 {
				a.may[i] = make([]uint64, (n+63)/64)
			}
		}
		first := uint32(0)
		for i := range segments {
			if err := a.askSegment(x, snap, &segments[i], first, wanted); err != nil {
				return err
			}
			first += uint32(segments[i].docs)
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	return a, nil
}

// askSegment looks the needles up in one segment, whose documents are numbered
// from first on.
func (a *Answer) askSegment(x *Index, snap store.Snapshot, s *segment, first uint32, wanted [][]uint32) error {
	docs, err := x.readDocs(snap, s)
	if err != nil {
		return err
	}
	for k, d := range docs {
		a.docs[d.id] = first + uint32(k)
	}
	var buckets, left []uint32
	for i, all := range wanted {
		if len(all) == 0 {
			continue
		}
		buckets = buckets[:0]
		for _, b := range all {
			buckets = append(buckets, b>>(maxBits-s.bits))
		}
		slices.Sort(buckets)
		buckets = slices.Compact(buckets)
		left = left[:0]
		begun := false
		err := x.lists(snap, s, buckets, func(list []uint32) bool {
			if !begun {
				left, begun = append(left, list...), true
			} else {
				left = intersect(left, list)
			}
			return len(left) > 0
		})
		if err != nil {
			return err
		}
		for _, k := range left {
			set(a.may[i], first+k)
		}
		for k, d := range docs {
			if d.partly {
				set(a.may[i], first+uint32(k))
			}
		}
	}
	return nil
}

func set(bits []uint64, i uint32) { bits[i/64] |= 1 << (i % 64) }

// intersect keeps of a what is also in b; both are in ascending order.
func intersect(a, b []uint32) []uint32 {
	out := a[:0]
	k := 0
	for _, v := range a {
		for k < len(b) && b[k] < v {
			k++
		}
		if k == len(b) {
			break
		}
		if b[k] == v {
			out = append(out, v)
		}
	}
	return out
}
