package mailstore

import (
	"encoding/binary"
	"math/bits"
)

// A store that has no partner may keep the digest of a mailbox as a sum of
// another hash over the same octets, which takes a fifth of the time of SHA-256:
// there is nobody to compare it with, and it has to tell damage, not forgery.
// Whoever changes the flags of many messages pays for two hashes of each.
//
// What was missing stays missing when one is made of the other: the difference
// between what was kept and what is there is carried over.

// quickSum is MurmurHash3 of 128 bits for 64-bit machines (x64_128) with seed 0.
func quickSum(b []byte) [16]byte {
	var h quickHash
	whole := len(b) &^ 15
	h.blocks(b[:whole])
	return h.end(b[whole:], len(b))
}

// quickHash is a quickSum under way.
type quickHash struct{ h1, h2 uint64 }

const quick1, quick2 = 0x87c37b91114253d5, 0x4cf5ad432745937f

// blocks takes in whole blocks, of 16 octets each.
func (h *quickHash) blocks(b []byte) {
	for ; len(b) >= 16; b = b[16:] {
		*h = h.block(binary.LittleEndian.Uint64(b), binary.LittleEndian.Uint64(b[8:]))
	}
}

// block is h after one more block.
func (h quickHash) block(k1, k2 uint64) quickHash {
	h.h1 ^= bits.RotateLeft64(k1*quick1, 31) * quick2
	h.h1 = (bits.RotateLeft64(h.h1, 27)+h.h2)*5 + 0x52dce729
	h.h2 ^= bits.RotateLeft64(k2*quick2, 33) * quick1
	h.h2 = (bits.RotateLeft64(h.h2, 31)+h.h1)*5 + 0x38495ab5
	return h
}

// end takes in what is less than a block, of so many octets in all.
func (h quickHash) end(rest []byte, octets int) (s [16]byte) {
	var tail [16]byte
	copy(tail[:], rest)
	h = h.tail(binary.LittleEndian.Uint64(tail[:]), binary.LittleEndian.Uint64(tail[8:]), octets)
	binary.LittleEndian.PutUint64(s[:], h.h1)
	binary.LittleEndian.PutUint64(s[8:], h.h2)
	return s
}

// tail is end where the rest is at hand as numbers.
func (h quickHash) tail(k1, k2 uint64, octets int) quickHash {
	h.h2 ^= bits.RotateLeft64(k2*quick2, 33) * quick1
	h.h1 ^= bits.RotateLeft64(k1*quick1, 31) * quick2
	h.h1 ^= uint64(octets)
	h.h2 ^= uint64(octets)
	h.h1 += h.h2
	h.h2 += h.h1
	h.h1, h.h2 = spread(h.h1), spread(h.h2)
	h.h1 += h.h2
	h.h2 += h.h1
	return h
}

// spread has each bit depend on all.
func spread(k uint64) uint64 {
	k = (k ^ k>>33) * 0xff51afd7ed558ccd
	k = (k ^ k>>33) * 0xc4ceb9fe1a85ec53
	return k ^ k>>33
}

// sumFlags is sum for a message whose flags change: m before and n after.
func (v *view) sumFlags(m, n *Message) {
	if !v.summed || !v.quick || len(m.Keywords) > 0 || len(n.Keywords) > 0 {
		v.sum(m, -1)
		v.sum(n, 1)
		return
	}
	// What appendSummed writes, without memory between, as this is most of what a
	// change of all flags has to compute. Both have the same two blocks; the flags
	// are the last octet of what is behind them.
	origin, seq := bits.ReverseBytes64(uint64(m.Dot.Origin)), bits.ReverseBytes64(m.Dot.Seq)
	h := quickHash{}.block('m'|binary.LittleEndian.Uint64(v.guid[:])<<8, binary.LittleEndian.Uint64(v.guid[7:]))
	h = h.block(uint64(v.guid[15])|origin<<8, origin>>56|seq<<8)
	rest := seq>>56 | uint64(m.register())<<8
	before, after := h.tail(rest|uint64(m.Flags)<<40, 0, summedOctets), h.tail(rest|uint64(n.Flags)<<40, 0, summedOctets)
	low, carry := bits.Add64(binary.LittleEndian.Uint64(v.digest[:]), after.h1, 0)
	high, _ := bits.Add64(binary.LittleEndian.Uint64(v.digest[8:]), after.h2, carry)
	low, borrow := bits.Sub64(low, before.h1, 0)
	high, _ = bits.Sub64(high, before.h2, borrow)
	binary.LittleEndian.PutUint64(v.digest[:], low)
	binary.LittleEndian.PutUint64(v.digest[8:], high)
}

// sumQuickly makes the digest of v, all of whose messages are in its list, a
// quick one.
func (v *view) sumQuickly() {
	digest := v.digest
	for i := range v.list.len() {
		m := v.list.at(i)
		subtractSum(&digest, sumOf(v.guid, m))
		addSum(&digest, quickSumOf(v.guid, m))
	}
	v.digest, v.quick, v.dirty = digest, true, true
}

// maySumQuickly reports whether the digest of v can be made a quick one: it has
// one of the other kind, of messages that are all in memory, and no partner asks
// for that.
func (t *txn) maySumQuickly(v *view) bool {
	return t.account.link == nil && v.summed && !v.quick && v.loaded && v.pending == 0
}
