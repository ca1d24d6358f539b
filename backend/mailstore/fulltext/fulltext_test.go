package fulltext

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"testing"

	"pgregory.net/rapid"

	"github.com/postern-mail/postern/backend/mailstore/text"
	"github.com/postern-mail/postern/store"
	"github.com/postern-mail/postern/store/storetest"
)

var made = []byte("test")

func idOf(n int) (id ID) {
	copy(id[:], fmt.Sprintf("%016d", n))
	return id
}

// gramsOf makes grams of texts.
func gramsOf(maxOctets int64, texts ...string) *Grams {
	g := new(Grams)
	g.Reset(maxOctets)
	for _, t := range texts {
		g.Begin(text.AsSent)
		g.Add(text.AsSent, text.Fold(nil, []byte(t)))
	}
	return g
}

func ask(t testing.TB, x *Index, needles ...string) *Answer {
	t.Helper()
	var folded [][]byte
	for _, n := range needles {
		folded = append(folded, text.Exactly(n).Folded())
	}
	a, err := x.Ask(context.Background(), made, folded)
	if err != nil {
		t.Fatal(err)
	}
	return a
}

func open(t testing.TB, x *Index) *Writer {
	t.Helper()
	w, err := x.Open(context.Background(), made)
	if err != nil {
		t.Fatal(err)
	}
	return w
}

func do(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// letters make words that share grams; some are ideographs, some have marks.
var letters = []rune("abc \u00e9\u4e2d\u6587\u65e5\U0001f600")

// TestModel: whatever was added, merged and removed, a document that has a
// needle is among those that may have it, and those that are known are those
// that were added.
func TestModel(t *testing.T) {
	t.Parallel()
	kv, _ := storetest.Open(t)
	run := 0
	rapid.Check(t, func(t *rapid.T) {
		run++
		x := New(kv, []byte(fmt.Sprintf("x%06d", run)))
		w, err := x.Open(context.Background(), made)
		if err != nil {
			t.Fatal(err)
		}
		model := map[ID]string{}
		gone := map[ID]bool{}
		next := 0
		live := func() (func(ID) bool, error) { return func(id ID) bool { return !gone[id] }, nil }
		for range rapid.IntRange(1, 12).Draw(t, "steps") {
			switch rapid.IntRange(0, 5).Draw(t, "step") {
			case 0, 1, 2:
				for range rapid.IntRange(1, 4).Draw(t, "documents") {
					s := rapid.StringOfN(rapid.SampledFrom(letters), 0, 30, -1).Draw(t, "text")
					w.Add(idOf(next), gramsOf(1<<20, s))
					model[idOf(next)] = s
					next++
				}
				if err := w.Flush(context.Background()); err != nil {
					t.Fatal(err)
				}
			case 3:
				if _, err := w.Merge(context.Background(), live); err != nil {
					t.Fatal(err)
				}
			case 4:
				if next > 0 {
					id := idOf(rapid.IntRange(0, next-1).Draw(t, "gone"))
					gone[id] = true
				}
				do, _ := live()
				if _, err := w.Compact(context.Background(), do); err != nil {
					t.Fatal(err)
				}
			case 5:
				if w, err = x.Open(context.Background(), made); err != nil {
					t.Fatal(err)
				}
			}
		}
		needle := rapid.StringOfN(rapid.SampledFrom(letters), 0, 5, -1).Draw(t, "needle")
		folded := text.Exactly(needle).Folded()
		a, err := x.Ask(context.Background(), made, [][]byte{folded})
		if err != nil {
			t.Fatal(err)
		}
		for id, s := range model {
			may, known := a.May(id, 0)
			has := bytes.Contains(text.Fold(nil, []byte(s)), folded)
			if has && !may && !gone[id] {
				t.Fatalf("%q has %q, and the index says no", s, needle)
			}
			if known == gone[id] && !gone[id] {
				t.Fatalf("%s: known %v, gone %v", id, known, gone[id])
			}
		}
		if err := x.Verify(context.Background()); err != nil {
			t.Fatal(err)
		}
	})
}

// TestNarrow: a needle of some length leaves few documents over.
func TestNarrow(t *testing.T) {
	t.Parallel()
	kv, _ := storetest.Open(t)
	x := New(kv, []byte("x"))
	w := open(t, x)
	for i := range 600 {
		if w.Add(idOf(i), gramsOf(1<<20, fmt.Sprintf("Invoice number %d from the office in %c\u4e2d\u56fd%c", i*7919, 'A'+i%26, 0x4e00+i))) {
			do(t, w.Flush(context.Background()))
		}
	}
	do(t, w.Flush(context.Background()))
	for needle, most := range map[string]int{"number 23757": 20, "zebra": 2, "\u4e00": 600, "\u56fd\u4e05": 5, "in": 600, "invoice": 600} {
		n := 0
		a := ask(t, x, needle)
		for i := range 600 {
			if may, known := a.May(idOf(i), 0); !known {
				t.Fatalf("%d is not known", i)
			} else if may {
				n++
			}
		}
		if n > most || most == 600 && n != 600 {
			t.Errorf("%q: %d of 600 documents, want %d at most", needle, n, most)
		}
	}
}

// TestPartly: of a document too long to be looked at whole nothing is ruled out.
func TestPartly(t *testing.T) {
	t.Parallel()
	kv, _ := storetest.Open(t)
	x := New(kv, []byte("x"))
	w := open(t, x)
	w.Add(idOf(1), gramsOf(10, "short", "and more than ten octets"))
	w.Add(idOf(2), gramsOf(1000, "short", "and more than ten octets"))
	do(t, w.Flush(context.Background()))
	a := ask(t, x, "absent")
	if may, known := a.May(idOf(1), 0); !may || !known {
		t.Error("a document of which only the beginning is known was ruled out")
	}
	if may, known := a.May(idOf(2), 0); may || !known {
		t.Error("a document without the needle was not ruled out")
	}
}

// TestOtherVersion: an index that was made in another way, or is damaged, is
// none, and is begun anew.
func TestOtherVersion(t *testing.T) {
	t.Parallel()
	kv, _ := storetest.Open(t)
	x := New(kv, []byte("x"))
	w := open(t, x)
	w.Add(idOf(1), gramsOf(100, "hello"))
	w.Marks = []byte("here")
	do(t, w.Flush(context.Background()))
	if w := open(t, x); string(w.Marks) != "here" || !w.Has(idOf(1)) {
		t.Error("the index did not last")
	}
	if a, err := x.Ask(context.Background(), []byte("other"), [][]byte{nil}); err != nil || a.Documents() != 0 {
		t.Errorf("an index of another kind answers: %v", err)
	}
	w, err := x.Open(context.Background(), []byte("other"))
	if err != nil || w.Has(idOf(1)) || w.Marks != nil {
		t.Errorf("an index of another kind goes on: %v", err)
	}
	w = open(t, x)
	w.Add(idOf(1), gramsOf(100, "hello"))
	do(t, w.Flush(context.Background()))
	b := store.NewBatch()
	b.Delete(x.docsKey(w.segments[0].number, 0))
	do(t, commit(context.Background(), kv, b))
	if err := x.Verify(context.Background()); !IsDamaged(err) {
		t.Errorf("damage is not seen: %v", err)
	}
	if _, err := x.Ask(context.Background(), made, [][]byte{[]byte("HELLO")}); !IsDamaged(err) {
		t.Errorf("damage is not told: %v", err)
	}
	if w := open(t, x); w.Has(idOf(1)) {
		t.Error("a damaged index goes on")
	}
	do(t, x.Verify(context.Background()))
}

// failing is a store in which commits fail, or power goes, after some.
type failing struct {
	store.Store
	left int
}

var errPower = errors.New("power cut")

func (f *failing) Commit(ctx context.Context, b *store.Batch) (store.Result, error) {
	if f.left--; f.left < 0 {
		return store.Result{}, errPower
	}
	return f.Store.Commit(ctx, b)
}

// TestBrokenOff: wherever writing ends, what is there is whole, and the next
// writer goes on and leaves no garbage.
func TestBrokenOff(t *testing.T) {
	t.Parallel()
	kv, _ := storetest.Open(t)
	ctx := context.Background()
	all := 0
	for cut := 0; ; cut++ {
		x := New(&failing{kv, cut}, []byte(fmt.Sprintf("x%03d", cut)))
		err := func() error {
			w, err := x.Open(ctx, made)
			if err != nil {
				return err
			}
			for i := range 12 {
				w.Add(idOf(i), gramsOf(1000, fmt.Sprintf("text number %d", i)))
				if i%2 == 1 {
					if err := w.Flush(ctx); err != nil {
						return err
					}
				}
			}
			for more := true; more; {
				if more, err = w.Merge(ctx, nil); err != nil {
					return err
				}
			}
			return nil
		}()
		if err != nil && !errors.Is(err, errPower) {
			t.Fatal(err)
		}
		x.kv = kv
		do(t, x.Verify(ctx))
		w := open(t, x)
		a := ask(t, x, "number 3", "absent")
		for i := range 12 {
			may, known := a.May(idOf(i), 0)
			if known != w.Has(idOf(i)) || i == 3 && !may {
				t.Errorf("cut %d: document %d: may %v, known %v", cut, i, may, known)
			}
			if may, known := a.May(idOf(i), 1); known && may {
				t.Errorf("cut %d: document %d may have what it has not", cut, i)
			}
		}
		segments := map[uint64]bool{}
		prefix := x.key(kindData)
		do(t, store.Scan(ctx, kv, prefix, end(prefix), 100, func(_ store.Snapshot, key, _ []byte) error {
			segments[uint64(key[len(prefix)+7])] = true
			return nil
		}))
		if len(segments) != len(w.segments) {
			t.Errorf("cut %d: data of %d segments, %d headers", cut, len(segments), len(w.segments))
		}
		if err == nil {
			if all++; all == 2 {
				return
			}
		}
	}
}

// TestLists: what is written is read, for any lists.
func TestLists(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		docs := rapid.IntRange(1, 300).Draw(t, "docs")
		var all [][]uint32
		var w bitWriter
		for range rapid.IntRange(1, 20).Draw(t, "lists") {
			list := rapid.SliceOfDistinct(rapid.Uint32Range(0, uint32(docs-1)), func(v uint32) uint32 { return v }).Draw(t, "list")
			slices.Sort(list)
			all = append(all, list)
			w.putList(list, docs)
		}
		encoded := w.end()
		r, s := bitReader{in: encoded}, bitReader{in: encoded}
		for i, want := range all {
			got, err := r.list(nil, docs)
			if err != nil || !slices.Equal(got, want) {
				t.Fatalf("list %d: %v, %v, want %v", i, got, err, want)
			}
			if i%2 == 0 {
				err = s.skip(docs)
			} else {
				got, err = s.list(nil, docs)
			}
			if err != nil || i%2 == 1 && !slices.Equal(got, want) {
				t.Fatalf("list %d behind a skipped one: %v, %v, want %v", i, got, err, want)
			}
		}
	})
}

// FuzzSegment: whatever is stored, reading it ends, with sound lists or an error.
func FuzzSegment(f *testing.F) {
	var w bitWriter
	w.putList([]uint32{0, 3, 9}, 10)
	w.putList(nil, 10)
	f.Add(w.end(), 10, (&segment{bits: 12, docs: 3, pages: 1}).encode())
	f.Add([]byte{0xff, 0xff, 0xff, 0xff, 0xff}, 16384, []byte{1, 12, 0, 1, 0, 0})
	f.Fuzz(func(t *testing.T, page []byte, docs int, header []byte) {
		docs = 1 + docs&(maxSegmentDocs-1)
		r := bitReader{in: page}
		for range 64 {
			list, err := r.list(nil, docs)
			if err != nil {
				break
			}
			for i, d := range list {
				if int(d) >= docs || i > 0 && d <= list[i-1] {
					t.Fatalf("unsound list %v of %d", list, docs)
				}
			}
		}
		if s, err := decodeSegment(1, header); err == nil {
			if again, err := decodeSegment(1, s.encode()); err != nil || again != s {
				t.Fatalf("%+v became %+v, %v", s, again, err)
			}
		}
		if list, err := appendDocs(nil, page); err == nil && !bytes.Equal(encodeDocs(list), page) && len(page) > 0 {
			for _, d := range list {
				if d.partly {
					return // any octet but 0 says so
				}
			}
			t.Fatal("documents were read wrong")
		}
		_, _ = decodeState(page)
	})
}
