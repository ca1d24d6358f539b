package pack_test

import (
	"bytes"
	"testing"

	"github.com/postern-mail/postern/store"
	"github.com/postern-mail/postern/store/pack"
)

// TestMend: bodies of every kind that are damaged or missing are whole again,
// with the references they had, and nothing else is wrong afterwards.
func TestMend(t *testing.T) {
	t.Parallel()
	for _, octets := range []int{10, 20 << 10, 300 << 10} {
		content := bytes.Repeat([]byte{7, 8}, octets/2)
		for name, damage := range map[string]func(w *world, ref store.Ref){
			"nothing":        func(*world, store.Ref) {},
			"an empty value": func(w *world, ref store.Ref) { w.put(append([]byte("bh"), ref.Hash[:]...), nil) },
			"of another kind": func(w *world, ref store.Ref) {
				w.put(append([]byte("bh"), ref.Hash[:]...), []byte{0x81, 1, 2})
			},
		} {
			w := newWorld(t, 1)
			link := func() store.Ref {
				st, err := w.blobs.Stage(t.Context(), bytes.NewReader(content))
				if err != nil {
					t.Fatal(err)
				}
				defer st.Discard()
				b := store.NewBatch()
				w.blobs.Link(b, st)
				if _, err := w.kv.Commit(t.Context(), b); err != nil {
					t.Fatal(err)
				}
				return st.Ref()
			}
			link()
			ref := link()
			damage(w, ref)
			st, err := w.blobs.Stage(t.Context(), bytes.NewReader(content))
			if err != nil {
				t.Fatal(err)
			}
			b := store.NewBatch()
			w.blobs.Mend(b, st, 1)
			if _, err := w.kv.Commit(t.Context(), b); err != nil {
				t.Fatalf("%s, %d octets: %v", name, octets, err)
			}
			st.Discard()
			if n, err := w.blobs.References(t.Context(), ref); err != nil || n != 2 {
				t.Errorf("%s, %d octets: %d references, %v", name, octets, n, err)
			}
			body, err := w.blobs.Open(t.Context(), ref)
			if err != nil {
				t.Fatalf("%s, %d octets: %v", name, octets, err)
			}
			got := make([]byte, body.Size())
			if _, err := body.ReadAt(got, 0); err != nil || !bytes.Equal(got, content) {
				t.Errorf("%s, %d octets: other octets, %v", name, octets, err)
			}
			_ = body.Close()
			for _, f := range findings(t, w.blobs) {
				if f.Kind == pack.FoundDamaged {
					t.Errorf("%s, %d octets: %v", name, octets, f)
				}
			}
		}
	}
}

// TestScrub finds the damaged body and no other, and says how long it is.
func TestScrub(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 1)
	for i := range 3 {
		if err := w.link(i); err != nil {
			t.Fatal(err)
		}
	}
	var found []store.Ref
	scrub := func() {
		t.Helper()
		found = nil
		var progress pack.Progress
		err := w.blobs.Scrub(t.Context(), -1, func(ref store.Ref, _ error) { found = append(found, ref) }, &progress)
		if err != nil || progress.Bodies.Load() != 3 {
			t.Fatalf("%d bodies, %v", progress.Bodies.Load(), err)
		}
	}
	if scrub(); len(found) != 0 {
		t.Fatalf("found %v", found)
	}
	if err := w.disk.Flip("/bodies/0000000000000001.open", 50_000, 3); err != nil {
		t.Fatal(err)
	}
	if scrub(); len(found) != 1 || found[0].Octets <= 0 {
		t.Fatalf("found %v", found)
	}
}
