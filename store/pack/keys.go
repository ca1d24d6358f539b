package pack

import (
	"encoding/binary"
	"errors"
	"fmt"
	"slices"

	"github.com/postern-mail/postern/store"
)

// The keys, behind the tag:
//
//	h <hash>         the body: its octets when it is inline, else its pieces
//	n <hash>         counter of the references beyond the first: where it is, the
//	                 body is there, and marked as shared
//	p <pack> <hash>  the pieces of that body in that pack
//	l <pack>         counter of the octets of that pack that bodies need; see
//	                 live.go
//
// Everything under one hash changes under the lock of its h key, except that
// the p keys of different bodies share a pack. The l keys are only added to.
type keys struct{ tag byte }

func (k keys) body(h store.Hash) []byte { return append([]byte{k.tag, 'h'}, h[:]...) }

func (k keys) more(h store.Hash) []byte { return append([]byte{k.tag, 'n'}, h[:]...) }

func (k keys) pack(number uint64) []byte {
	return binary.BigEndian.AppendUint64([]byte{k.tag, 'p'}, number)
}

// packOf reads the number out of a key that begins as that of pack does.
func packOf(key []byte) uint64 { return binary.BigEndian.Uint64(key[2:]) }

func (k keys) inPack(number uint64, h store.Hash) []byte { return append(k.pack(number), h[:]...) }

func (k keys) live(number uint64) []byte {
	return binary.BigEndian.AppendUint64([]byte{k.tag, 'l'}, number)
}

// The first octet of a body's value: format version and kind in one.
const (
	kindInline = 1 // the octets follow
	kindPieces = 2 // pieces follow
	// flagShared marks a body that had a second reference, or is likely to get
	// one (Config.Copied): its counter counts.
	flagShared = 0x80
)

// piece is a run of a body's octets in a pack.
type piece struct {
	pack   uint64
	offset int64 // of the record's header
	octets int64 // of the body
	stored int64 // of data in the record: octets, or less when it is compressed
}

func (p piece) compressed() bool { return p.stored < p.octets }

// room is what the record takes of its pack.
func (p piece) room() int64 { return recordHeader + p.stored }

// end is where the next record begins.
func (p piece) end() int64 { return p.offset + p.room() }

func roomOf(pieces []piece) (octets int64) {
	for _, p := range pieces {
		octets += p.room()
	}
	return octets
}

// compressedFlag is added to the octets of a compressed piece, behind which
// stands how many are stored. It is above what any piece has.
const compressedFlag = 4 * largePiece

var errPieces = errors.New("malformed list of pieces")

func appendPieces(buf []byte, pieces []piece) []byte {
	for _, p := range pieces {
		buf = binary.AppendUvarint(buf, p.pack)
		buf = binary.AppendUvarint(buf, uint64(p.offset))
		if !p.compressed() {
			buf = binary.AppendUvarint(buf, uint64(p.octets))
			continue
		}
		buf = binary.AppendUvarint(buf, uint64(p.octets)+compressedFlag)
		buf = binary.AppendUvarint(buf, uint64(p.stored))
	}
	return buf
}

func parsePieces(buf []byte) ([]piece, error) {
	var pieces []piece
	next := func() uint64 {
		v, n := binary.Uvarint(buf)
		if n <= 0 {
			buf = nil
			return 1 << 63 // more than any field may be, but for a pack's number
		}
		buf = buf[n:]
		return v
	}
	for len(buf) > 0 {
		number, offset, octets := next(), next(), next()
		stored := octets
		if octets > compressedFlag && octets <= compressedFlag+largePiece {
			octets -= compressedFlag
			if stored = next(); stored >= octets {
				return nil, errPieces
			}
		}
		if offset > maxOffset || octets == 0 || octets > largePiece || stored == 0 {
			return nil, errPieces
		}
		pieces = append(pieces, piece{number, int64(offset), int64(octets), int64(stored)})
	}
	return pieces, nil
}

// parseBody reads the value of a body's key: the octets of an inline body,
// within value, or the pieces.
func parseBody(value []byte) (inline []byte, pieces []piece, err error) {
	if len(value) == 0 {
		return nil, nil, errPieces
	}
	switch value[0] &^ flagShared {
	case kindInline:
		return value[1:], nil, nil
	case kindPieces:
		pieces, err = parsePieces(value[1:])
		return nil, pieces, err
	default:
		return nil, nil, fmt.Errorf("body of kind %d: %w", value[0], errNewer)
	}
}

// byPack calls each for every pack that pieces lie in, with those that do, in
// their order in the body. A body's pieces in one pack need not follow each
// other: what was moved came to one pack from several.
func byPack(pieces []piece, each func(number uint64, in []piece)) {
	for i, p := range pieces {
		inPack := func(q piece) bool { return q.pack == p.pack }
		if i > 0 && (inPack(pieces[i-1]) || slices.ContainsFunc(pieces[:i], inPack)) {
			continue
		}
		in := make([]piece, 0, len(pieces)-i)
		for _, q := range pieces[i:] {
			if inPack(q) {
				in = append(in, q)
			}
		}
		each(p.pack, in)
	}
}
