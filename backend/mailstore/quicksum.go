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
	h1, h2 := h.h1, h.h2
	for ; len(b) >= 16; b = b[16:] {
		k1, k2 := binary.LittleEndian.Uint64(b), binary.LittleEndian.Uint64(b[8:])
		h1 ^= bits.RotateLeft64(k1*quick1, 31) * quick2
		h1 = (bits.RotateLeft64(h1, 27)+h2)*5 + 0x52dce729
		h2 ^= bits.RotateLeft64(k2*quick2, 33) * quick1
		h2 = (bits.RotateLeft64(h2, 31)+h1)*5 + 0x38495ab5
	}
	h.h1, h.h2 = h1, h2
}

// end takes in what is less than a block, of so many octets in all.
func (h *quickHash) end(rest []byte, octets int) (s [16]byte) {
	h1, h2 := h.h1, h.h2
	var tail [16]byte
	copy(tail[:], rest)
	h2 ^= bits.RotateLeft64(binary.LittleEndian.Uint64(tail[8:])*quick2, 33) * quick1
	h1 ^= bits.RotateLeft64(binary.LittleEndian.Uint64(tail[:])*quick1, 31) * quick2
	h1 ^= uint64(octets)
	h2 ^= uint64(octets)
	h1 += h2
	h2 += h1
	h1, h2 = spread(h1), spread(h2)
	h1 += h2
	h2 += h1
	binary.LittleEndian.PutUint64(s[:], h1)
	binary.LittleEndian.PutUint64(s[8:], h2)
	return s
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
	// They differ in the last octet, and so in what is behind the last block.
	b := appendSummed(make([]byte, 0, 64), v.guid, m)
	const whole = summedOctets &^ 15
	var h quickHash
	h.blocks(b[:whole])
	subtractSum(&v.digest, h.end(b[whole:], summedOctets))
	b[summedOctets-1] = byte(n.Flags)
	addSum(&v.digest, h.end(b[whole:], summedOctets))
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
