package fulltext

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"

	"github.com/postern-mail/postern/store"
)

// Bounds of what a writer holds in memory before it is flushed.
const (
	maxBuffered        = 512
	maxBufferedBuckets = 2 << 20
)

// Writer adds documents to an index. One at a time may write an index; it is
// not safe for concurrent use.
type Writer struct {
	index    *Index
	state    state
	raw      []byte // the state as stored; nil for none
	segments []segment
	known    map[ID]struct{}
	buffered [len(classes)]batch
	docs     int // in buffered
	buckets  int

	// Marks are the caller's: how far it has come. They are stored with each
	// flush.
	Marks []byte
}

// batch is documents of a class that wait for the flush.
type batch struct {
	docs    []doc
	buckets [][]uint32
	text    int64
}

// Open returns a writer. made says how the documents are made: an index that was
// made in another way, or cannot be read, is removed and begun anew.
func (x *Index) Open(ctx context.Context, made []byte) (*Writer, error) {
	w, err := x.open(ctx, made)
	if err == nil || !IsDamaged(err) {
		return w, err
	}
	if err := x.Drop(ctx); err != nil {
		return nil, err
	}
	return x.open(ctx, made)
}

func (x *Index) open(ctx context.Context, made []byte) (*Writer, error) {
	w := &Writer{index: x, known: make(map[ID]struct{})}
	found := false
	err := x.kv.View(ctx, func(snap store.Snapshot) (err error) {
		w.state, w.raw, w.segments, found, err = x.read(snap)
		if err != nil || !found || !bytes.Equal(w.state.made, made) {
			return err
		}
		for i := range w.segments {
			docs, err := x.readDocs(snap, &w.segments[i])
			if err != nil {
				return err
			}
			for _, d := range docs {
				w.known[d.id] = struct{}{}
			}
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	if !found || !bytes.Equal(w.state.made, made) {
		if w.raw != nil {
			if err := x.Drop(ctx); err != nil {
				return nil, err
			}
		}
		w.state, w.raw, w.segments = state{made: made, next: 1}, nil, nil
		return w, w.removeGarbage(ctx)
	}
	w.Marks = w.state.marks
	return w, w.removeGarbage(ctx)
}

// removeGarbage removes data of segments that were not finished.
func (w *Writer) removeGarbage(ctx context.Context) error {
	whole := make(map[uint64]bool, len(w.segments))
	for _, s := range w.segments {
		whole[s.number] = true
	}
	prefix := w.index.key(kindData)
	for from := prefix; from != nil; {
		var number uint64
		found := false
		err := w.index.kv.View(ctx, func(snap store.Snapshot) error {
			for pair, err := range snap.Range(from, end(prefix), 1, false) {
				if err != nil {
					return err
				}
				if len(pair.Key) < len(prefix)+8 {
					return errDamaged
				}
				number, found = binary.BigEndian.Uint64(pair.Key[len(prefix):]), true
			}
			return nil
		})
		if err != nil || !found {
			return err
		}
		from = end(w.index.dataKey(number))
		if whole[number] {
			continue
		}
		b := store.NewBatch()
		b.UseReserve = true
		b.DeleteRange(w.index.dataKey(number), from)
		if err := commit(ctx, w.index.kv, b); err != nil {
			return err
		}
	}
	return nil
}

// Has reports whether the index has a document, or will have with the next
// flush.
func (w *Writer) Has(id ID) bool {
	_, known := w.known[id]
	return known
}

// Documents is how many the index has, those that wait for a flush among them.
func (w *Writer) Documents() int { return len(w.known) }

// Add takes a document in, whose grams were made anew for it, and reports
// whether it is time to flush.
func (w *Writer) Add(id ID, g *Grams) (full bool) {
	if w.Has(id) {
		return false
	}
	w.known[id] = struct{}{}
	k := 0
	for size := class(g.count()); classes[k] != size; {
		k++
	}
	b := &w.buffered[k]
	buckets := g.buckets(nil, classes[k])
	b.docs = append(b.docs, doc{id, !g.whole})
	b.buckets = append(b.buckets, buckets)
	b.text += g.octets
	w.docs++
	w.buckets += len(buckets)
	return w.docs >= maxBuffered || w.buckets >= maxBufferedBuckets
}

// Flush makes what was added, and the marks, durable, and visible to whoever
// asks. Documents and marks become visible together.
func (w *Writer) Flush(ctx context.Context) error {
	done := change{}
	for k := range w.buffered {
		b := &w.buffered[k]
		if len(b.docs) == 0 {
			continue
		}
		s := segment{bits: classes[k], docs: len(b.docs), text: b.text}
		entries := 0
		for _, buckets := range b.buckets {
			entries += len(buckets)
		}
		lists := func() source { return turn(b.buckets, 1<<s.bits) }
		if err := w.write(ctx, &s, b.docs, int64(entries+1<<s.bits/8), lists); err != nil {
			return err
		}
		done.made = append(done.made, s)
	}
	if len(done.made) == 0 && w.raw != nil && bytes.Equal(w.Marks, w.state.marks) {
		return nil
	}
	if err := w.commit(ctx, done); err != nil {
		return err
	}
	w.buffered = [len(classes)]batch{}
	w.docs, w.buckets = 0, 0
	return nil
}

// change is which segments come and go.
type change struct {
	made, gone []segment
}

// commit makes a change visible.
func (w *Writer) commit(ctx context.Context, c change) error {
	next := state{made: w.state.made, next: w.state.next, marks: w.Marks}
	raw := next.encode()
	b := store.NewBatch()
	if w.raw == nil {
		b.IfAbsent(w.index.key(kindState))
	} else {
		b.IfEquals(w.index.key(kindState), w.raw)
	}
	b.Put(w.index.key(kindState), raw)
	for i := range c.made {
		b.Put(w.index.headerKey(c.made[i].number), c.made[i].encode())
	}
	gone := make(map[uint64]bool)
	for i := range c.gone {
		number := c.gone[i].number
		gone[number] = true
		b.Delete(w.index.headerKey(number))
		b.DeleteRange(w.index.dataKey(number), end(w.index.dataKey(number)))
	}
	if err := commit(ctx, w.index.kv, b); err != nil {
		return err
	}
	w.state, w.raw = next, raw
	left := w.segments[:0:0]
	for _, s := range w.segments {
		if !gone[s.number] {
			left = append(left, s)
		}
	}
	w.segments = append(left, c.made...)
	return nil
}

// source yields the lists of a segment's buckets, one after the other. A list is
// good until the next.
type source func() ([]uint32, error)

// turn makes lists of documents for buckets out of lists of buckets for
// documents.
func turn(docs [][]uint32, buckets int) source {
	starts := make([]uint32, buckets+1)
	for _, d := range docs {
		for _, b := range d {
			starts[b+1]++
		}
	}
	for b := range buckets {
		starts[b+1] += starts[b]
	}
	all := make([]uint32, starts[buckets])
	at := append([]uint32(nil), starts...)
	for k, d := range docs {
		for _, b := range d {
			all[at[b]] = uint32(k)
			at[b]++
		}
	}
	b := -1
	return func() ([]uint32, error) {
		b++
		return all[starts[b]:starts[b+1]], nil
	}
}

// Bounds of one commit of data.
const (
	maxDataOps    = 500
	maxDataOctets = store.MaxBatchOctets / 2
)

// errPage: a segment was cut into too few pages.
var errPage = errors.New("page is too large")

// write stores the data of a segment under a new number, invisibly, and fills in
// the header. estimate is about how many octets the lists take; lists begins at
// the first bucket, each time.
func (w *Writer) write(ctx context.Context, s *segment, docs []doc, estimate int64, lists func() source) error {
	pages := 1
	for int64(pages)*pageOctets < estimate && pages < 1<<s.bits {
		pages *= 2
	}
	for ; ; pages *= 2 {
		s.number, s.pages = w.state.next, pages
		w.state.next++
		d := &dataWriter{ctx: ctx, index: w.index, batch: store.NewBatch()}
		err := d.write(s, docs, lists())
		if err == nil {
			s.octets = d.octets
			return nil
		}
		if !errors.Is(err, errPage) || pages == 1<<s.bits {
			return err
		}
		if err := w.removeGarbage(ctx); err != nil {
			return err
		}
	}
}

type dataWriter struct {
	ctx    context.Context
	index  *Index
	batch  *store.Batch
	held   int   // octets in batch
	octets int64 // of all
}

func (d *dataWriter) put(key, value []byte) error {
	d.batch.Put(key, value)
	d.held += len(key) + len(value)
	d.octets += int64(len(key) + len(value))
	if d.held < maxDataOctets && len(d.batch.Ops) < maxDataOps {
		return nil
	}
	return d.flush()
}

func (d *dataWriter) flush() error {
	if len(d.batch.Ops) == 0 {
		return nil
	}
	if err := commit(d.ctx, d.index.kv, d.batch); err != nil {
		return err
	}
	d.batch, d.held = store.NewBatch(), 0
	return nil
}

func (d *dataWriter) write(s *segment, docs []doc, lists source) error {
	for part := range s.parts() {
		some := docs[part*partDocs : min((part+1)*partDocs, len(docs))]
		if err := d.put(d.index.docsKey(s.number, part), encodeDocs(some)); err != nil {
			return err
		}
	}
	for page := range s.pages {
		var w bitWriter
		for range s.perPage() {
			list, err := lists()
			if err != nil {
				return err
			}
			w.putList(list, s.docs)
		}
		encoded := w.end()
		if len(encoded) > maxPageOctets {
			return errPage
		}
		if err := d.put(d.index.pageKey(s.number, page), encoded); err != nil {
			return err
		}
	}
	return d.flush()
}
