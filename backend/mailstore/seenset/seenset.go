// Package seenset keeps which messages of a mailbox somebody has read who is
// not its owner, block by block of UIDs.
//
// What goes in: that a message was read, or is unread again, with the hybrid
// clock of the one who said so. What comes out: the same on both nodes of a
// pair, in whatever order they learned: of two that spoke of one message the
// later wins, and at the same instant the one who had read it. Messages that
// nobody spoke of are not in a block, so that it stays a few octets long where
// somebody reads everything in one go.
//
// It does no I/O and reads no clock.
package seenset

import (
	"encoding/binary"
	"errors"
)

// Size is how many UIDs a block has.
const Size = 256

// MaxClock bounds the clocks of a block: a value above it is refused.
const MaxClock = 1 << 62

// ErrFormat means octets that are no block, or one of a newer version.
var ErrFormat = errors.New("malformed block of read messages")

// Version is that of both formats, the first octet of each.
const Version = 1

// Mark is what was said last of one message; the zero value when nothing was.
type Mark struct {
	Clock uint64
	Seen  bool
}

// IsSet reports whether anything was said.
func (m Mark) IsSet() bool { return m.Clock != 0 }

func (m Mark) beats(o Mark) bool { return m.Clock > o.Clock || m.Clock == o.Clock && m.Seen && !o.Seen }

// Block is the marks of so many UIDs, by their distance from the first.
type Block [Size]Mark

// Set marks a message. clock is not below any that the node knows; a mark of
// the same instant is beaten all the same.
func (b *Block) Set(i int, seen bool, clock uint64) {
	b[i] = Mark{Clock: max(clock, b[i].Clock+1), Seen: seen}
}

// Join takes over what o knows better. It is commutative, associative and
// idempotent.
func (b *Block) Join(o *Block) {
	for i := range b {
		if o[i].beats(b[i]) {
			b[i] = o[i]
		}
	}
}

// Append encodes the block behind dst. Blocks that are equal have equal octets.
func (b *Block) Append(dst []byte) []byte {
	dst = append(dst, Version)
	next, clock := 0, uint64(0)
	for i := 0; i < Size; {
		if !b[i].IsSet() {
			i++
			continue
		}
		end := i + 1
		for end < Size && b[end] == b[i] {
			end++
		}
		dst = binary.AppendUvarint(dst, uint64(i-next))
		length := uint64(end-i) << 1
		if b[i].Seen {
			length |= 1
		}
		dst = binary.AppendUvarint(dst, length)
		dst = binary.AppendVarint(dst, int64(b[i].Clock-clock))
		next, clock, i = end, b[i].Clock, end
	}
	return dst
}

// Decode reads a block; no octets are an empty one. ErrFormat.
func Decode(src []byte) (b Block, err error) {
	if len(src) == 0 {
		return b, nil
	}
	if src[0] != Version {
		return b, ErrFormat
	}
	r := runs{src: src[1:]}
	clock := uint64(0)
	for r.more() {
		from, length, delta := r.next()
		clock += uint64(delta)
		seen, n := length&1 != 0, length>>1
		if r.bad || n == 0 || n > uint64(Size-from) || clock == 0 || clock >= MaxClock {
			return Block{}, ErrFormat
		}
		for i := range int(n) {
			b[from+i] = Mark{Clock: clock, Seen: seen}
		}
		r.at = from + int(n)
	}
	return b, nil
}

// ModSeqs is when the marks of a block changed on this node, 0 where they never
// did. Each node has its own.
type ModSeqs [Size]uint64

// Append encodes them behind dst.
func (s *ModSeqs) Append(dst []byte) []byte {
	dst = append(dst, Version)
	next, last := 0, uint64(0)
	for i := 0; i < Size; {
		end := i + 1
		for end < Size && s[end] == s[i] {
			end++
		}
		if s[i] != 0 {
			dst = binary.AppendUvarint(dst, uint64(i-next))
			dst = binary.AppendUvarint(dst, uint64(end-i))
			dst = binary.AppendVarint(dst, int64(s[i]-last))
			next, last = end, s[i]
		}
		i = end
	}
	return dst
}

// DecodeModSeqs reads them; no octets are none. ErrFormat.
func DecodeModSeqs(src []byte) (s ModSeqs, err error) {
	if len(src) == 0 {
		return s, nil
	}
	if src[0] != Version {
		return s, ErrFormat
	}
	r := runs{src: src[1:]}
	last := uint64(0)
	for r.more() {
		from, n, delta := r.next()
		last += uint64(delta)
		if r.bad || n == 0 || n > uint64(Size-from) || last == 0 {
			return ModSeqs{}, ErrFormat
		}
		for i := range int(n) {
			s[from+i] = last
		}
		r.at = from + int(n)
	}
	return s, nil
}

// runs reads runs of a block: how far each begins behind the one before, its
// length, and a difference.
type runs struct {
	src []byte
	at  int
	bad bool
}

func (r *runs) more() bool { return len(r.src) > 0 && !r.bad }

// next reads a run. Unless bad is set, it begins within the block.
func (r *runs) next() (from int, length uint64, delta int64) {
	gap := r.uvarint()
	if length = r.uvarint(); gap >= uint64(Size-r.at) {
		r.bad = true
		return 0, 0, 0
	}
	delta, n := binary.Varint(r.src)
	if n <= 0 {
		r.bad = true
		return 0, 0, 0
	}
	r.src = r.src[n:]
	return r.at + int(gap), length, delta
}

func (r *runs) uvarint() uint64 {
	v, n := binary.Uvarint(r.src)
	if n <= 0 {
		r.bad, r.src = true, nil
		return 0
	}
	r.src = r.src[n:]
	return v
}
