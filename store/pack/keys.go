package pack

import (
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/postern-mail/postern/store"
)

// The keys, behind the tag:
//
//	h <hash>         the body: its octets when it is inline, else its pieces
//	n <hash>         counter of the references beyond the first; looked at only
//	                 once the body is marked as shared
//	p <pack> <hash>  the pieces of that body in that pack
//
// Everything under one hash changes under the lock of its h key, except that
// the p keys of different bodies share a pack.
type keys struct{ tag byte }

func (k keys) body(h store.Hash) []byte { return append([]byte{k.tag, 'h'}, h[:]...) }

func (k keys) more(h store.Hash) []byte { return append([]byte{k.tag, 'n'}, h[:]...) }

func (k keys) pack(number uint64) []byte {
	return binary.BigEndian.AppendUint64([]byte{k.tag, 'p'}, number)
}

// packOf reads the number out of a key that begins as that of pack does.
func packOf(key []byte) uint64 { return binary.BigEndian.Uint64(key[2:]) }

func (k keys) inPack(number uint64, h store.Hash) []byte { return append(k.pack(number), h[:]...) }

// The first octet of a body's value: format version and kind in one.
const (
	kindInline = 1 // the octets follow
	kindPieces = 2 // pieces follow
	// flagShared marks a body that had a second reference. It spares most
	// bodies, which never have one, the look at their counter.
	flagShared = 0x80
)

// piece is a run of a body's octets in a pack.
type piece struct {
	pack   uint64
	offset int64 // of the record's header
	octets int64 // of data
}

// end is where the next record begins.
func (p piece) end() int64 { return p.offset + recordHeader + p.octets }

var errPieces = errors.New("malformed list of pieces")

func appendPieces(buf []byte, pieces []piece) []byte {
	for _, p := range pieces {
		buf = binary.AppendUvarint(buf, p.pack)
		buf = binary.AppendUvarint(buf, uint64(p.offset))
		buf = binary.AppendUvarint(buf, uint64(p.octets))
	}
	return buf
}

func parsePieces(buf []byte) ([]piece, error) {
	var pieces []piece
	for len(buf) > 0 {
		var field [3]uint64
		for i := range field {
			v, n := binary.Uvarint(buf)
			if n <= 0 {
				return nil, errPieces
			}
			field[i], buf = v, buf[n:]
		}
		if field[1] > maxOffset || field[2] == 0 || field[2] > largePiece {
			return nil, errPieces
		}
		pieces = append(pieces, piece{field[0], int64(field[1]), int64(field[2])})
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
		return nil, nil, fmt.Errorf("body of kind %d, which this program does not know", value[0])
	}
}

// byPack splits pieces into runs of the same pack.
func byPack(pieces []piece, each func(number uint64, run []piece)) {
	for len(pieces) > 0 {
		n := 1
		for n < len(pieces) && pieces[n].pack == pieces[0].pack {
			n++
		}
		each(pieces[0].pack, pieces[:n])
		pieces = pieces[n:]
	}
}
