package mailstore

import (
	"cmp"
	"encoding/binary"
	"slices"
)

// VectorEntry is how far one origin's operations were applied.
type VectorEntry struct {
	Origin Origin
	Seq    uint64
	// Chain is the hash chain of the origin's journal at Seq: equal chains are
	// equal journals. Zero where a state merge set Seq within an own record.
	Chain [32]byte
	// Closed origins do not write any more: incarnations that were replaced or
	// forgotten.
	Closed bool
}

// Vector says which operations a node has applied: of each origin all up to a
// sequence number. It is in the order of origins, the node's own among them.
type Vector []VectorEntry

// Of returns the entry of an origin, with a zero Seq when there is none.
func (v Vector) Of(o Origin) VectorEntry {
	for _, e := range v {
		if e.Origin == o {
			return e
		}
	}
	return VectorEntry{Origin: o}
}

// Covers reports whether the operation d was applied.
func (v Vector) Covers(d Dot) bool { return v.Of(d.Origin).Seq >= d.Seq }

// Dots returns the vector without chains, as journal records carry it.
func (v Vector) Dots() []Dot {
	dots := make([]Dot, 0, len(v))
	for _, e := range v {
		if e.Seq > 0 {
			dots = append(dots, Dot{e.Origin, e.Seq})
		}
	}
	return dots
}

// covers reports whether dots, the highest of each origin, cover d.
func covers(dots []Dot, d Dot) bool {
	for _, upTo := range dots {
		if upTo.Origin == d.Origin {
			return upTo.Seq >= d.Seq
		}
	}
	return false
}

// isWithin reports whether everything that inner covers is covered by outer.
func isWithin(inner, outer []Dot) bool {
	return !slices.ContainsFunc(inner, func(d Dot) bool { return !covers(outer, d) })
}

// appendVector writes a list of the highest dots of origins.
func appendVector(b []byte, dots []Dot) []byte {
	b = binary.AppendUvarint(b, uint64(len(dots)))
	for _, d := range dots {
		b = binary.LittleEndian.AppendUint64(b, uint64(d.Origin))
		b = binary.AppendUvarint(b, d.Seq)
	}
	return b
}

// maxOrigins bounds a vector: a pair has two origins, and those it had before.
const maxOrigins = 1000

func (d *decoder) vector() []Dot {
	n := d.uvarint()
	if n > maxOrigins || n > uint64(len(d.b)) {
		d.bad = true
		return nil
	}
	var dots []Dot
	for range n {
		dots = append(dots, Dot{Origin(d.uint64()), d.uvarint()})
	}
	return dots
}

// stamp tells when and by which operation a register was written.
type stamp struct {
	hlc uint64
	dot Dot
}

func (s stamp) isZero() bool { return s == stamp{} }

// compare orders stamps: clock, then origin, then sequence number.
func (s stamp) compare(o stamp) int {
	return cmp.Or(cmp.Compare(s.hlc, o.hlc), cmp.Compare(s.dot.Origin, o.dot.Origin), cmp.Compare(s.dot.Seq, o.dot.Seq))
}

// appendStamp writes the zero stamp as one octet.
func appendStamp(b []byte, s stamp) []byte {
	b = binary.AppendUvarint(b, s.hlc)
	if s.hlc == 0 {
		return b
	}
	b = binary.LittleEndian.AppendUint64(b, uint64(s.dot.Origin))
	return binary.AppendUvarint(b, s.dot.Seq)
}

func (d *decoder) stamp() (s stamp) {
	if s.hlc = d.uvarint(); s.hlc != 0 {
		s.dot = Dot{Origin(d.uint64()), d.uvarint()}
	}
	return s
}
