package pack

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"hash"
	"io"
	"maps"
	"slices"

	"github.com/postern-mail/postern/store"
)

// searcher looks for lost bodies among all records of all packs, those that
// nobody needs included: a body that was staged twice, or moved, has copies
// there until its pack is deleted.
type searcher struct {
	*repairer
	lost    map[store.Hash]*lostBody
	singles map[int64]bool // lengths of the lost bodies of one piece
	rows    map[int64]bool // of those of more
}

// search goes through the packs in the order of their numbers.
func (s *searcher) search(ctx context.Context) error {
	s.blobs.mu.Lock()
	packs := maps.Clone(s.blobs.packs)
	s.blobs.mu.Unlock()
	for _, number := range slices.Sorted(maps.Keys(packs)) {
		p := packs[number]
		var rows []*row
		err := p.eachRecord(func(at piece) (whole bool, err error) {
			if err := ctx.Err(); err != nil {
				return false, err
			}
			buf := make([]byte, recordHeader+at.octets)
			data, err := s.blobs.codec.read(p, at, buf)
			if err != nil {
				return false, nil // damaged, or none
			}
			if s.singles[at.octets] {
				if err := s.found(ctx, sha256.Sum256(data), []piece{at}); err != nil {
					return true, err
				}
			}
			rows, err = s.extend(ctx, rows, at, data)
			return true, err
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// row is the beginning of a body of several pieces that may be a lost one:
// records that follow each other in a pack.
type row struct {
	want   int64 // octets of the body
	octets int64 // so far
	pieces []piece
	sum    hash.Hash
}

// next is the length of the piece that the row needs.
func (w *row) next() int64 { return min(w.want-w.octets, largePiece) }

// extend adds a record to the rows that it fits, and lets it begin others. A
// row that it does not fit ends.
func (s *searcher) extend(ctx context.Context, rows []*row, at piece, data []byte) ([]*row, error) {
	var open []*row
	for _, w := range rows {
		if w.next() == at.octets {
			open = append(open, w)
		}
	}
	if at.octets == smallPiece {
		for want := range s.rows {
			open = append(open, &row{want: want, sum: sha256.New()})
		}
	}
	kept := open[:0]
	for _, w := range open {
		w.sum.Write(data)
		w.octets += at.octets
		w.pieces = append(w.pieces, at)
		if w.octets < w.want {
			kept = append(kept, w)
		} else if err := s.found(ctx, store.Hash(w.sum.Sum(nil)), w.pieces); err != nil {
			return nil, err
		}
	}
	return kept, nil
}

// found brings a body back when it is a lost one.
func (s *searcher) found(ctx context.Context, hash store.Hash, pieces []piece) error {
	if s.lost[hash] == nil {
		return nil
	}
	delete(s.lost, hash)
	return s.bring(ctx, hash, pieces, "found among the records of a pack")
}

// eachRecord calls look for whatever looks like a record, in their order, which
// tells whether it is one. It finds the way again behind what is damaged.
func (p *packFile) eachRecord(look func(at piece) (whole bool, err error)) error {
	header, window := make([]byte, recordHeader), []byte(nil)
	for offset := int64(fileHeader); ; {
		n, err := p.file.ReadAt(header, offset)
		if err != nil && !errors.Is(err, io.EOF) {
			return err
		}
		if n < recordHeader {
			return nil
		}
		if at, _, ok := nextRecord(p.number, offset, header); ok {
			whole, err := look(at)
			if err != nil {
				return err
			}
			if whole {
				offset = at.end()
				continue
			}
		}
		if window == nil {
			window = make([]byte, 1<<20)
		}
		offset++
		n, err = p.file.ReadAt(window, offset)
		if err != nil && !errors.Is(err, io.EOF) {
			return err
		}
		_, skipped, _ := nextRecord(p.number, offset, window[:n])
		offset += max(skipped, 0)
	}
}

// nextRecord looks for the header of a record in octets, which stand at an
// offset of a pack, and returns how many stand before it, or before where the
// search goes on.
func nextRecord(number uint64, offset int64, octets []byte) (at piece, skipped int64, ok bool) {
	for i := 0; i+recordHeader <= len(octets); i++ {
		next := bytes.Index(octets[i:], rawMagic[:3])
		if next < 0 || i+next+recordHeader > len(octets) {
			return at, int64(len(octets) - recordHeader + 1), false
		}
		i += next
		header := octets[i:]
		stored, length := int64(binary.BigEndian.Uint32(header[4:])), int64(binary.BigEndian.Uint32(header[12:]))
		at = piece{number, offset + int64(i), length, stored}
		switch {
		case header[3] == rawMagic[3]:
			at.octets = stored
		case header[3] != compressedMagic[3] || stored >= length:
			continue
		}
		if at.stored > 0 && at.octets <= largePiece {
			return at, int64(i), true
		}
	}
	return at, int64(len(octets) - recordHeader + 1), false
}
