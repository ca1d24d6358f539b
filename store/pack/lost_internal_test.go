package pack

import (
	"bytes"
	"context"
	"testing"

	"github.com/hashicorp/go-hclog"

	"github.com/postern-mail/postern/store"
	"github.com/postern-mail/postern/store/pebble"
)

// TestLost: where the key of a body is lost its counter goes on counting who
// needs it, so that a body that comes back stays for all of them, however it
// comes, and goes with the last.
func TestLost(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	kv, err := pebble.Open(ctx, pebble.Config{Dir: t.TempDir(), ReserveOctets: -1}, hclog.NewNullLogger())
	if err != nil {
		t.Fatal(err)
	}
	defer kv.Close()
	for _, copied := range []bool{true, false} {
		tag := byte('x')
		if copied {
			tag = 'y'
		}
		b, err := Open(ctx, Config{Dir: t.TempDir(), Tag: tag, ReserveOctets: -1, Copied: copied}, kv, hclog.NewNullLogger())
		if err != nil {
			t.Fatal(err)
		}
		defer b.Close()
		commit := func(fill func(*store.Batch)) {
			t.Helper()
			batch := store.NewBatch()
			fill(batch)
			if _, err := kv.Commit(ctx, batch); err != nil {
				t.Fatal(err)
			}
		}
		for octets, name := range map[int]string{100: "inline", 30_000: "in a pack"} {
			var ref store.Ref
			content := bytes.Repeat([]byte{byte(octets), 1}, octets/2)
			staged := func(do func(store.Staged)) {
				t.Helper()
				st, err := b.Stage(ctx, bytes.NewReader(content))
				if err != nil {
					t.Fatal(err)
				}
				defer st.Discard()
				ref = st.Ref()
				do(st)
			}
			link := func() {
				t.Helper()
				staged(func(st store.Staged) { commit(func(batch *store.Batch) { b.Link(batch, st) }) })
			}
			mend := func(found int64) {
				t.Helper()
				staged(func(st store.Staged) { commit(func(batch *store.Batch) { b.Mend(batch, st, found) }) })
			}
			share := func() { t.Helper(); commit(func(batch *store.Batch) { b.Share(batch, ref) }) }
			unlink := func() { t.Helper(); commit(func(batch *store.Batch) { b.Unlink(batch, ref) }) }
			lose := func(keys ...[]byte) {
				t.Helper()
				commit(func(batch *store.Batch) {
					for _, key := range keys {
						batch.Delete(key)
					}
				})
			}
			for _, row := range []struct {
				name string
				do   func()
				want int64
			}{
				{"it comes with one more", link, 4},
				{"it is put back", func() { mend(3) }, 3},
				{"it is put back and one came meanwhile", func() { share(); mend(3) }, 4},
				{"it is put back and its counter is below what was found", func() { mend(5) }, 5},
				{"one went meanwhile", func() { unlink(); link() }, 3},
				{"all went", func() { unlink(); unlink(); unlink(); link() }, 1},
				{"its counter is lost, too", func() { lose(b.keys.more(ref.Hash)); mend(3) }, 3},
				{"it is repaired", func() {
					owners := func(_ context.Context, each func(store.Ref)) error { each(ref); return nil }
					if err := b.Repair(ctx, nil, owners, func(Finding, string) {}); err != nil {
						t.Fatal(err)
					}
					if octets == 100 { // of which nothing else is left
						mend(1)
					}
				}, 3},
			} {
				link()
				share()
				share()
				lose(b.keys.body(ref.Hash))
				row.do()
				verify := func() {
					t.Helper()
					report := func(f Finding) {
						if f.Kind == FoundCount || f.Kind == FoundDamaged {
							t.Errorf("copied %v, %s, %s: %v", copied, name, row.name, f)
						}
					}
					if err := b.Verify(ctx, report); err != nil {
						t.Fatal(err)
					}
				}
				verify()
				for n := row.want; n >= 0; n-- {
					if got, err := b.References(ctx, ref); err != nil || got != n {
						t.Fatalf("copied %v, %s, %s: %d references, %v; want %d", copied, name, row.name, got, err, n)
					}
					if n > 0 {
						body, err := b.Open(ctx, ref)
						if err != nil {
							t.Fatalf("copied %v, %s, %s: %v", copied, name, row.name, err)
						}
						_ = body.Close()
						unlink()
					}
				}
				verify()
			}
		}
	}
}
