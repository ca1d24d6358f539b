package fulltext

import (
	"context"
	"fmt"
	"slices"

	"github.com/postern-mail/postern/store"
)

// fan is how many segments of about the same size make one of the next.
const fan = 4

// Merge makes one segment out of some small ones, where there are enough of them,
// and reports whether there may be more to do. Documents of which live says that
// they are gone are left out; nil keeps all. It adds no documents: Flush goes
// first.
func (w *Writer) Merge(ctx context.Context, live func() (func(ID) bool, error)) (more bool, err error) {
	for _, bits := range classes {
		if some := w.mergeable(bits); len(some) > 0 {
			return true, w.merge(ctx, some, live)
		}
	}
	return false, nil
}

// mergeable returns segments of a class that are to be one: fan of them, the
// smallest first, none of which is more than fan times as large as the first.
func (w *Writer) mergeable(bits int) []segment {
	var all []segment
	for _, s := range w.segments {
		if s.bits == bits && s.docs < maxSegmentDocs/2 {
			all = append(all, s)
		}
	}
	slices.SortStableFunc(all, func(a, b segment) int { return a.docs - b.docs })
	for i := 0; i+fan <= len(all); i++ {
		if all[i+fan-1].docs > fan*max(all[i].docs, fan) {
			continue
		}
		n, docs := 0, 0
		for _, s := range all[i:] {
			if docs+s.docs > maxSegmentDocs || n >= fan && s.docs > fan*max(all[i].docs, fan) || n >= 4*fan {
				break
			}
			docs += s.docs
			n++
		}
		if n >= 2 {
			return all[i : i+n]
		}
	}
	return nil
}

// Compact writes all segments anew that have documents which are gone, and
// reports how many documents that were.
func (w *Writer) Compact(ctx context.Context, live func(ID) bool) (gone int, err error) {
	for _, s := range slices.Clone(w.segments) {
		var docs []doc
		err := w.index.kv.View(ctx, func(snap store.Snapshot) (err error) {
			docs, err = w.index.readDocs(snap, &s)
			return err
		})
		if err != nil {
			return gone, err
		}
		before := len(w.known)
		if !slices.ContainsFunc(docs, func(d doc) bool { return !live(d.id) }) {
			continue
		}
		if err := w.merge(ctx, []segment{s}, func() (func(ID) bool, error) { return live, nil }); err != nil {
			return gone, err
		}
		gone += before - len(w.known)
	}
	return gone, nil
}

// dead in a remap: the document is left out.
const dead = ^uint32(0)

// merge makes one segment of some of a class.
func (w *Writer) merge(ctx context.Context, some []segment, live func() (func(ID) bool, error)) error {
	isLive := func(ID) bool { return true }
	if live != nil {
		var err error
		if isLive, err = live(); err != nil {
			return err
		}
	}
	out := segment{bits: some[0].bits}
	var kept []doc
	var gone []ID
	remaps := make([][]uint32, len(some))
	var estimate int64
	for i := range some {
		err := w.index.kv.View(ctx, func(snap store.Snapshot) error {
			docs, err := w.index.readDocs(snap, &some[i])
			for _, d := range docs {
				if !isLive(d.id) {
					gone = append(gone, d.id)
					remaps[i] = append(remaps[i], dead)
					continue
				}
				remaps[i] = append(remaps[i], uint32(len(kept)))
				kept = append(kept, d)
			}
			return err
		})
		if err != nil {
			return err
		}
		out.text += some[i].text
		estimate += some[i].octets
	}
	done := change{gone: some}
	if len(kept) > 0 {
		out.text = out.text * int64(len(kept)) / int64(len(kept)+len(gone))
		out.docs = len(kept)
		lists := func() source { return w.joined(ctx, some, remaps) }
		if err := w.write(ctx, &out, kept, estimate, lists); err != nil {
			return err
		}
		done.made = []segment{out}
	}
	if err := w.commit(ctx, done); err != nil {
		return err
	}
	for _, id := range gone {
		delete(w.known, id)
	}
	return nil
}

// joined yields the lists of segments one behind the other, renumbered.
func (w *Writer) joined(ctx context.Context, some []segment, remaps [][]uint32) source {
	readers := make([]pageReader, len(some))
	for i := range some {
		readers[i] = pageReader{index: w.index, segment: &some[i]}
	}
	var out, list []uint32
	return func() ([]uint32, error) {
		out = out[:0]
		for i := range readers {
			var err error
			if list, err = readers[i].next(ctx, list[:0]); err != nil {
				return nil, err
			}
			for _, k := range list {
				if to := remaps[i][k]; to != dead {
					out = append(out, to)
				}
			}
		}
		return out, nil
	}
}

// pageReader reads the lists of a segment in order, a page at a time.
type pageReader struct {
	index   *Index
	segment *segment
	bits    bitReader
	page    int // the next to read
	left    int // lists in bits
}

func (r *pageReader) next(ctx context.Context, dst []uint32) ([]uint32, error) {
	if r.left == 0 {
		err := r.index.kv.View(ctx, func(snap store.Snapshot) error {
			b, err := snap.Get(r.index.pageKey(r.segment.number, r.page))
			if err != nil {
				return fmt.Errorf("page %d of segment %d: %w", r.page, r.segment.number, err)
			}
			r.bits = bitReader{in: append([]byte(nil), b...)}
			return nil
		})
		if err != nil {
			return dst, err
		}
		r.page++
		r.left = r.segment.perPage()
	}
	r.left--
	return r.bits.list(dst, r.segment.docs)
}
