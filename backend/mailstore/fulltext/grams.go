package fulltext

import (
	"math/bits"
	"unicode"
	"unicode/utf8"

	"github.com/postern-mail/postern/backend/mailstore/text"
)

// maxBits is how many bits the bucket of a gram has at most. Those of segments
// of smaller documents have fewer: the first ones of these.
const maxBits = 18

// window is the end of a text that has come so far.
type window struct {
	a, b rune // the last two characters
	n    int  // how many there were, 2 for more
}

// step takes in a character and tells the buckets of the grams that are whole
// now: two at most. Which grams a text has depends on nothing but the three
// characters at each place, so that a needle's are among those of every text
// that has it in it.
func (w *window) step(r rune, see func(bucket uint32)) {
	wide := isWide(w.b)
	if w.n >= 1 && wide && isWide(r) {
		see(bucketOf(1<<21, w.b, r))
	}
	if w.n >= 2 && !(isWide(w.a) && wide) {
		see(bucketOf(w.a, w.b, r))
	}
	w.a, w.b, w.n = w.b, r, min(w.n+1, 2)
}

// isWide reports whether a character says as much as two or three letters:
// ideographs, kana, symbols and pictures.
func isWide(r rune) bool { return r >= 0x2e80 }

func bucketOf(a, b, c rune) uint32 {
	x := uint64(a) | uint64(b)<<22 | uint64(c)<<43
	x *= 0x9e3779b97f4a7c15
	x ^= x >> 29
	x *= 0xbf58476d1ce4e5b9
	return uint32(x >> (64 - maxBits))
}

// Grams are those of one document. It is a text.Sink.
type Grams struct {
	set     [1 << maxBits / 64]uint64
	windows [text.Tracks]window
	// left is how much text is looked at yet; whole: that was all there is.
	left  int64
	whole bool
	// octets is how much text was looked at.
	octets int64
}

var _ text.Sink = (*Grams)(nil)

// Reset begins another document, of whose text maxOctets are looked at. What
// has more may have any needle.
func (g *Grams) Reset(maxOctets int64) {
	clear(g.set[:])
	g.left, g.whole, g.octets = maxOctets, true, 0
}

// Begin implements text.Sink.
func (g *Grams) Begin(t text.Track) { g.windows[t] = window{} }

// Add implements text.Sink. Marks are left out, so that a needle without them
// is among what is found, and one with them, too.
func (g *Grams) Add(t text.Track, folded []byte) bool {
	if g.left -= int64(len(folded)); g.left < 0 {
		g.whole = false
		return false
	}
	g.octets += int64(len(folded))
	w := &g.windows[t]
	see := func(bucket uint32) { g.set[bucket/64] |= 1 << (bucket % 64) }
	for i := 0; i < len(folded); {
		r, size := rune(folded[i]), 1
		if r >= utf8.RuneSelf {
			if r, size = utf8.DecodeRune(folded[i:]); isMark(r) {
				i += size
				continue
			}
		}
		i += size
		w.step(r, see)
	}
	return true
}

// isMark reports whether needles are compared without r.
func isMark(r rune) bool { return r >= 0x300 && unicode.Is(unicode.Mn, r) }

// count is how many buckets the document is in.
func (g *Grams) count() (n int) {
	for _, word := range g.set {
		n += bits.OnesCount64(word)
	}
	return n
}

// class is how many bits the buckets of a document with so many of them should
// have: so that it is in a quarter of them at most, and for small ones few bits
// say which.
func class(n int) int {
	for bits := 12; bits < maxBits; bits += 2 {
		if n <= 1<<bits/4 {
			return bits
		}
	}
	return maxBits
}

// classes are all that class returns.
var classes = [...]int{12, 14, 16, maxBits}

// buckets appends the document's buckets of so many bits in ascending order.
func (g *Grams) buckets(dst []uint32, size int) []uint32 {
	shift := maxBits - size
	last := -1
	for i, word := range g.set {
		for ; word != 0; word &= word - 1 {
			bucket := (i*64 + bits.TrailingZeros64(word)) >> shift
			if bucket != last {
				dst, last = append(dst, uint32(bucket)), bucket
			}
		}
	}
	return dst
}

// maxNeedleGrams bounds how many grams of a needle are looked up: so many leave
// few documents over.
const maxNeedleGrams = 24

// needleBuckets are the buckets of maxBits bits that a document must be in that
// has the needle. None for needles that are too short.
func needleBuckets(folded []byte) []uint32 {
	var w window
	var all []uint32
	seen := make(map[uint32]bool)
	for _, r := range string(folded) {
		if isMark(r) {
			continue
		}
		w.step(r, func(bucket uint32) {
			if !seen[bucket] {
				seen[bucket] = true
				all = append(all, bucket)
			}
		})
	}
	if len(all) > maxNeedleGrams { // spread over the needle
		for i := range maxNeedleGrams {
			all[i] = all[i*len(all)/maxNeedleGrams]
		}
		all = all[:maxNeedleGrams]
	}
	return all
}
