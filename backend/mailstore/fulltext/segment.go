package fulltext

import (
	"encoding/binary"
	"fmt"

	"github.com/postern-mail/postern/store"
)

// ID names a document.
type ID [16]byte

// doc is a document of a segment.
type doc struct {
	id ID
	// partly: only the beginning of its text was looked at.
	partly bool
}

// segment is the header of some documents of one class.
type segment struct {
	number uint64
	bits   int // of a bucket
	docs   int
	// pages is how many there are, each with as many buckets: a power of two.
	pages int
	// octets is what the segment takes, text how much text was looked at.
	octets, text int64
}

const (
	segmentVersion = 1
	// maxSegmentDocs bounds a segment, so that merging one is bounded.
	maxSegmentDocs = 1 << 14
	// pageOctets is what a page should have, maxPageOctets what it may have.
	pageOctets    = 12 << 10
	maxPageOctets = store.MaxValueOctets - 1<<10
	// partDocs is how many documents one record lists.
	partDocs  = 3000
	docOctets = len(ID{}) + 1
)

func (s *segment) encode() []byte {
	b := []byte{segmentVersion, byte(s.bits)}
	for _, v := range []uint64{uint64(s.docs), uint64(s.pages), uint64(s.octets), uint64(s.text)} {
		b = binary.AppendUvarint(b, v)
	}
	return b
}

func decodeSegment(number uint64, b []byte) (s segment, err error) {
	if len(b) < 2 || b[0] != segmentVersion {
		return s, errDamaged
	}
	s.number, s.bits = number, int(b[1])
	var fields [4]uint64
	b = b[2:]
	for i := range fields {
		v, n := binary.Uvarint(b)
		if n <= 0 || v > 1<<50 {
			return s, errDamaged
		}
		fields[i], b = v, b[n:]
	}
	s.docs, s.pages, s.octets, s.text = int(fields[0]), int(fields[1]), int64(fields[2]), int64(fields[3])
	if len(b) > 0 || s.docs > maxSegmentDocs || s.pages == 0 || s.pages&(s.pages-1) != 0 || !isClass(s.bits) || s.pages > 1<<s.bits {
		return s, errDamaged
	}
	return s, nil
}

func isClass(bits int) bool {
	for _, c := range classes {
		if c == bits {
			return true
		}
	}
	return false
}

// perPage is how many buckets a page has.
func (s *segment) perPage() int { return 1 << s.bits / s.pages }

// parts is how many records list the documents.
func (s *segment) parts() int { return (s.docs + partDocs - 1) / partDocs }

func encodeDocs(docs []doc) []byte {
	b := make([]byte, 0, len(docs)*docOctets)
	for _, d := range docs {
		b = append(b, d.id[:]...)
		if d.partly {
			b = append(b, 1)
		} else {
			b = append(b, 0)
		}
	}
	return b
}

func appendDocs(dst []doc, b []byte) ([]doc, error) {
	if len(b)%docOctets != 0 || len(dst)+len(b)/docOctets > maxSegmentDocs {
		return dst, errDamaged
	}
	for ; len(b) > 0; b = b[docOctets:] {
		dst = append(dst, doc{id: ID(b), partly: b[docOctets-1] != 0})
	}
	return dst, nil
}

// readDocs reads the list of a segment's documents.
func (x *Index) readDocs(snap store.Snapshot, s *segment) ([]doc, error) {
	docs := make([]doc, 0, s.docs)
	for part := range s.parts() {
		b, err := snap.Get(x.docsKey(s.number, part))
		if err != nil {
			return nil, fmt.Errorf("documents of segment %d: %w", s.number, err)
		}
		if docs, err = appendDocs(docs, b); err != nil {
			return nil, fmt.Errorf("documents of segment %d: %w", s.number, err)
		}
	}
	if len(docs) != s.docs {
		return nil, fmt.Errorf("segment %d has %d documents, not %d: %w", s.number, len(docs), s.docs, errDamaged)
	}
	return docs, nil
}

// lists calls see with the documents that are in each of the buckets, which are
// in ascending order and of the segment's bits, until it returns false. The list
// is good until it returns.
func (x *Index) lists(snap store.Snapshot, s *segment, buckets []uint32, see func(docs []uint32) bool) error {
	per := s.perPage()
	at := -1 // the page in r
	var r bitReader
	next := 0 // bucket within the page that r is at
	var list []uint32
	for _, bucket := range buckets {
		if page := int(bucket) / per; page != at {
			b, err := snap.Get(x.pageKey(s.number, page))
			if err != nil {
				return fmt.Errorf("page %d of segment %d: %w", page, s.number, err)
			}
			at, next, r = page, 0, bitReader{in: b}
		}
		for ; next < int(bucket)%per; next++ {
			if err := r.skip(s.docs); err != nil {
				return fmt.Errorf("page %d of segment %d: %w", at, s.number, err)
			}
		}
		var err error
		if list, err = r.list(list[:0], s.docs); err != nil {
			return fmt.Errorf("page %d of segment %d: %w", at, s.number, err)
		}
		next++
		if !see(list) {
			return nil
		}
	}
	return nil
}
