package seenset

import (
	"bytes"
	"math/rand/v2"
	"testing"
)

func random(r *rand.Rand) (b Block) {
	for range r.IntN(6) {
		from := r.IntN(Size)
		mark := Mark{Clock: 1 + r.Uint64N(20), Seen: r.IntN(2) == 0}
		for i := from; i < min(Size, from+1+r.IntN(40)); i++ {
			b[i] = mark
		}
	}
	return b
}

func joined(blocks ...Block) (out Block) {
	for i := range blocks {
		out.Join(&blocks[i])
	}
	return out
}

// TestJoin: both nodes come to the same, whatever they learn first and how
// often.
func TestJoin(t *testing.T) {
	t.Parallel()
	r := rand.New(rand.NewPCG(1, 2))
	for range 500 {
		a, b, c := random(r), random(r), random(r)
		want := joined(a, b, c)
		ab, bc := joined(a, b), joined(b, c)
		for _, got := range []Block{joined(c, b, a), joined(ab, c), joined(a, bc), joined(a, b, c, a, b), joined(bc, ab)} {
			if got != want {
				t.Fatalf("the order counts: %v %v %v", a, b, c)
			}
		}
	}
}

// TestSet: what is said last counts, also within one instant.
func TestSet(t *testing.T) {
	t.Parallel()
	var b Block
	b.Set(7, true, 100)
	before := b
	b.Set(7, false, 100)
	if b[7].Seen || b[6].IsSet() {
		t.Errorf("got %v", b[6:8])
	}
	if got := joined(before, b); got != b {
		t.Error("the mark before comes back")
	}
}

func TestEncoding(t *testing.T) {
	t.Parallel()
	r := rand.New(rand.NewPCG(3, 4))
	for range 500 {
		b := random(r)
		back, err := Decode(b.Append(nil))
		if err != nil || back != b {
			t.Fatalf("%v: %v, %v", b, back, err)
		}
		var s ModSeqs
		for i := range s {
			s[i] = b[i].Clock << 3
		}
		again, err := DecodeModSeqs(s.Append(nil))
		if err != nil || again != s {
			t.Fatalf("%v: %v, %v", s, again, err)
		}
	}
	var all Block
	for i := range all {
		all.Set(i, true, 1<<60)
	}
	if n := len(all.Append(nil)); n > 16 {
		t.Errorf("a block that was read in one go takes %d octets", n)
	}
}

func FuzzDecode(f *testing.F) {
	r := rand.New(rand.NewPCG(5, 6))
	for range 5 {
		b := random(r)
		f.Add(b.Append(nil))
	}
	f.Add([]byte{1, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1, 2, 3})
	f.Add([]byte{2})
	f.Fuzz(func(t *testing.T, src []byte) {
		if b, err := Decode(src); err == nil {
			again, err := Decode(b.Append(nil))
			if err != nil || again != b {
				t.Fatalf("%x: %v", src, err)
			}
		}
		if s, err := DecodeModSeqs(src); err == nil {
			out := s.Append(nil)
			again, err := DecodeModSeqs(out)
			if err != nil || again != s || !bytes.Equal(again.Append(nil), out) {
				t.Fatalf("%x: %v", src, err)
			}
		}
	})
}
