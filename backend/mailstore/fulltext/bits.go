package fulltext

import (
	"encoding/binary"
	"errors"
	"math/bits"
)

var errDamaged = errors.New("damaged segment of the search index")

// bitWriter appends numbers of so many bits, the lowest first.
type bitWriter struct {
	out  []byte
	word uint64
	n    uint // bits in word
}

func (w *bitWriter) put(v uint64, n uint) {
	w.word |= v << w.n
	if w.n+n < 64 {
		w.n += n
		return
	}
	w.out = binary.LittleEndian.AppendUint64(w.out, w.word)
	if w.word = 0; w.n > 0 {
		w.word = v >> (64 - w.n)
	}
	w.n += n - 64
}

// unary writes v ones and a zero.
func (w *bitWriter) unary(v uint64) {
	for ; v >= 32; v -= 32 {
		w.put(1<<32-1, 32)
	}
	w.put(1<<v-1, uint(v)+1)
}

// gamma writes v, at least 1, in about twice its bits.
func (w *bitWriter) gamma(v uint64) {
	n := uint(bits.Len64(v)) - 1
	w.unary(uint64(n))
	w.put(v&(1<<n-1), n)
}

// rice writes v with k bits as they are and the rest in unary.
func (w *bitWriter) rice(v uint64, k uint) {
	w.unary(v >> k)
	w.put(v&(1<<k-1), k)
}

// end returns all that was written, and begins anew.
func (w *bitWriter) end() []byte {
	for ; w.n > 0; w.n -= min(w.n, 8) {
		w.out = append(w.out, byte(w.word))
		w.word >>= 8
	}
	out := w.out
	*w = bitWriter{}
	return out
}

// bitReader reads what a bitWriter wrote. Beyond the end it reads zeros, and
// over tells.
type bitReader struct {
	in   []byte
	word uint64
	n    uint
	over bool
}

func (r *bitReader) fill() {
	for r.n <= 56 {
		if len(r.in) == 0 {
			return
		}
		r.word |= uint64(r.in[0]) << r.n
		r.in = r.in[1:]
		r.n += 8
	}
}

// get reads up to 32 bits.
func (r *bitReader) get(n uint) uint64 {
	if r.n < n {
		if r.fill(); r.n < n {
			r.over = true
			return 0
		}
	}
	v := r.word & (1<<n - 1)
	r.word >>= n
	r.n -= n
	return v
}

func (r *bitReader) unary() (v uint64) {
	for {
		if r.n == 0 {
			if r.fill(); r.n == 0 {
				r.over = true
				return v
			}
		}
		ones := uint(bits.TrailingZeros64(^r.word))
		if ones < r.n {
			r.word >>= ones + 1
			r.n -= ones + 1
			return v + uint64(ones)
		}
		v += uint64(r.n)
		r.word, r.n = 0, 0
	}
}

func (r *bitReader) gamma() uint64 {
	n := r.unary()
	if n > 32 {
		r.over = true
		return 1
	}
	return 1<<n | r.get(uint(n))
}

func (r *bitReader) rice(k uint) uint64 { return r.unary()<<k | r.get(k) }

// riceBits is the k that suits the steps of a list of n out of docs.
func riceBits(n, docs int) uint {
	if n == 0 || docs*7 < 10*n {
		return 0
	}
	return uint(bits.Len(uint(docs*7/(n*10)))) - 1 // of 0.7 of the mean step
}

// putList writes a list of documents, which are below docs, in ascending order.
func (w *bitWriter) putList(list []uint32, docs int) {
	w.gamma(uint64(len(list)) + 1)
	k := riceBits(len(list), docs)
	next := uint32(0)
	for _, d := range list {
		w.rice(uint64(d-next), k)
		next = d + 1
	}
}

// list reads what putList wrote, appending to dst.
func (r *bitReader) list(dst []uint32, docs int) ([]uint32, error) {
	n := r.gamma() - 1
	if n > uint64(docs) || r.over {
		return dst, errDamaged
	}
	k := riceBits(int(n), docs)
	next := uint64(0)
	for range n {
		d := next + r.rice(k)
		if d >= uint64(docs) || r.over {
			return dst, errDamaged
		}
		dst = append(dst, uint32(d))
		next = d + 1
	}
	return dst, nil
}

// skip passes over a list.
func (r *bitReader) skip(docs int) error {
	n := r.gamma() - 1
	if n > uint64(docs) || r.over {
		return errDamaged
	}
	k := riceBits(int(n), docs)
	for range n {
		r.unary()
		r.get(k)
	}
	if r.over {
		return errDamaged
	}
	return nil
}
