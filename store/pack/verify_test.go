package pack_test

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/postern-mail/postern/store"
	"github.com/postern-mail/postern/store/pack"
)

// findings returns what Verify reports.
func findings(t *testing.T, blobs *pack.Blobs) (list []pack.Finding) {
	t.Helper()
	if err := blobs.Verify(t.Context(), func(f pack.Finding) { list = append(list, f) }); err != nil {
		t.Fatal(err)
	}
	return list
}

// TestVerify breaks one thing at a time and looks for it, and nothing else, in
// what is found.
func TestVerify(t *testing.T) {
	t.Parallel()
	key := func(kind byte, rest ...byte) []byte { return append([]byte{'b', kind}, rest...) }
	inPack := func(number uint64, h store.Hash) []byte {
		return append(binary.BigEndian.AppendUint64(key('p'), number), h[:]...)
	}
	for _, row := range []struct {
		name   string
		damage func(t *testing.T, w *world, inline, packed store.Ref)
		want   []pack.FindingKind
	}{
		{"nothing", func(*testing.T, *world, store.Ref, store.Ref) {}, nil},
		{"a bit of a pack", func(t *testing.T, w *world, _, _ store.Ref) {
			if err := w.disk.Flip("/bodies/0000000000000001.open", 50_000, 3); err != nil {
				t.Fatal(err)
			}
		}, []pack.FindingKind{pack.FoundDamaged}},
		{"the beginning of a pack", func(t *testing.T, w *world, _, _ store.Ref) {
			if err := w.disk.Flip("/bodies/0000000000000001.open", 3, 3); err != nil {
				t.Fatal(err)
			}
		}, []pack.FindingKind{pack.FoundPack}},
		{"inline octets", func(t *testing.T, w *world, inline, _ store.Ref) {
			w.put(key('h', inline.Hash[:]...), []byte("\x01other octets"))
		}, []pack.FindingKind{pack.FoundDamaged}},
		{"the kind of a body", func(t *testing.T, w *world, inline, _ store.Ref) {
			w.put(key('h', inline.Hash[:]...), []byte("\x07"))
		}, []pack.FindingKind{pack.FoundDamaged}},
		{"the list of a pack", func(t *testing.T, w *world, _, packed store.Ref) {
			w.put(inPack(1, packed.Hash), []byte{1, 16, 5})
		}, []pack.FindingKind{pack.FoundUnlisted, pack.FoundStale, pack.FoundLive}},
		{"a list too many", func(t *testing.T, w *world, _, _ store.Ref) {
			w.put(inPack(1, sha256.Sum256(nil)), []byte{1, 16, 5})
		}, []pack.FindingKind{pack.FoundStale, pack.FoundLive}},
		{"the count of live octets", func(t *testing.T, w *world, _, _ store.Ref) {
			w.put(binary.BigEndian.AppendUint64(key('l'), 1), store.EncodeCounter(5))
		}, []pack.FindingKind{pack.FoundLive}},
		{"a pack that nobody counted", func(t *testing.T, w *world, _, _ store.Ref) {
			w.put(binary.BigEndian.AppendUint64(key('l'), 1), store.EncodeCounter(-5))
		}, nil},
		{"a count without a body", func(t *testing.T, w *world, _, _ store.Ref) {
			h := sha256.Sum256(nil)
			w.put(key('n', h[:]...), store.EncodeCounter(2))
		}, []pack.FindingKind{pack.FoundCount}},
		{"a count that nobody looks at", func(t *testing.T, w *world, inline, _ store.Ref) {
			w.put(key('n', inline.Hash[:]...), store.EncodeCounter(2))
		}, []pack.FindingKind{pack.FoundCount}},
		{"a count below nothing", func(t *testing.T, w *world, _, packed store.Ref) {
			w.put(key('n', packed.Hash[:]...), store.EncodeCounter(-1))
		}, []pack.FindingKind{pack.FoundCount}},
		{"keys of no length", func(t *testing.T, w *world, _, _ store.Ref) {
			w.put(key('h', 1), nil)
			w.put(key('p', 1), nil)
			w.put(key('n', 1), nil)
		}, []pack.FindingKind{pack.FoundDamaged, pack.FoundStale, pack.FoundCount}},
	} {
		t.Run(row.name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, 2) // bodies have no counter before their second reference
			for i := range 3 {
				if err := w.link(i); err != nil { // inline, 20 KiB, 70 KiB
					t.Fatal(err)
				}
			}
			var inline, packed store.Ref
			for ref := range w.refs {
				switch {
				case ref.Octets < 1000:
					inline = ref
				case ref.Octets > 60_000:
					packed = ref
					if err := w.commit(ref, 1, func(b *store.Batch) { w.blobs.Share(b, ref) }); err != nil {
						t.Fatal(err)
					}
				}
			}
			row.damage(t, w, inline, packed)
			var kinds []pack.FindingKind
			found := findings(t, w.blobs)
			for _, f := range found {
				kinds = append(kinds, f.Kind)
				if !strings.HasPrefix(f.String(), string(f.Kind)) {
					t.Errorf("finding reads %q", f)
				}
			}
			if fmt.Sprint(kinds) != fmt.Sprint(row.want) {
				t.Errorf("found %v, want %v", found, row.want)
			}
		})
	}
}

// put writes a pair behind the back of the bodies.
func (w *world) put(key, value []byte) {
	w.t.Helper()
	b := store.NewBatch()
	b.Put(key, value)
	if _, err := w.kv.Commit(context.Background(), b); err != nil {
		w.t.Fatal(err)
	}
}

// TestVerifyWhileBusy: what comes and goes meanwhile is no damage.
func TestVerifyWhileBusy(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 1)
	done := make(chan error)
	go func() {
		for i := range 60 {
			content := []byte(strings.Repeat(fmt.Sprint(i), 20_000))
			if _, err := linkUnlink(w.kv, w.blobs, content, i%2*3); err != nil {
				done <- err
				return
			}
			if _, err := w.blobs.Collect(context.Background()); err != nil {
				done <- err
				return
			}
		}
		done <- nil
	}()
	for rounds := 0; ; rounds++ {
		for _, f := range findings(t, w.blobs) {
			t.Errorf("found %v", f)
		}
		select {
		case err := <-done:
			if err != nil {
				t.Error(err)
			}
			return
		default:
		}
	}
}

func TestVerifyStops(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 1)
	if err := w.link(1); err != nil {
		t.Fatal(err)
	}
	stopped, cancel := context.WithCancel(t.Context())
	cancel()
	err := w.blobs.Verify(stopped, func(f pack.Finding) { t.Errorf("found %v", f) })
	if !errors.Is(err, context.Canceled) {
		t.Errorf("verify with a cancelled context: %v", err)
	}
}
