package pack

import (
	"bytes"
	"context"
	"errors"
	"testing"

	"github.com/hashicorp/go-hclog"

	"github.com/postern-mail/postern/store"
	"github.com/postern-mail/postern/store/pebble"
)

// TestCopied: with Config.Copied no reference beyond the first writes a body
// again, or reads it, whether it lies in the index or in a pack; the body goes
// with the last one, also where the store is opened without the setting.
func TestCopied(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	kv, err := pebble.Open(ctx, pebble.Config{Dir: t.TempDir(), ReserveOctets: -1}, hclog.NewNullLogger())
	if err != nil {
		t.Fatal(err)
	}
	defer kv.Close()
	cfg := Config{Dir: t.TempDir(), ReserveOctets: -1, Copied: true}
	b, err := Open(ctx, cfg, kv, hclog.NewNullLogger())
	if err != nil {
		t.Fatal(err)
	}
	commit := func(fill func(*store.Batch)) {
		t.Helper()
		batch := store.NewBatch()
		fill(batch)
		if _, err := kv.Commit(ctx, batch); err != nil {
			t.Fatal(err)
		}
	}
	value := func(hash store.Hash) (v []byte) {
		t.Helper()
		err := kv.View(ctx, func(s store.Snapshot) error {
			got, err := s.Get(b.keys.body(hash))
			v = bytes.Clone(got)
			return err
		})
		if err != nil && !errors.Is(err, store.ErrNotFound) {
			t.Fatal(err)
		}
		return v
	}
	var refs []store.Ref
	for _, octets := range []int{1000, 50_000} {
		st, err := b.Stage(ctx, bytes.NewReader(bytes.Repeat([]byte{'x'}, octets)))
		if err != nil {
			t.Fatal(err)
		}
		commit(func(batch *store.Batch) { b.Link(batch, st) })
		refs = append(refs, st.Ref())
		first := value(st.Ref().Hash)
		commit(func(batch *store.Batch) { b.Share(batch, st.Ref()) })
		if len(first) == 0 || first[0]&flagShared == 0 || !bytes.Equal(value(st.Ref().Hash), first) {
			t.Errorf("%d octets: the body was written again", octets)
		}
	}
	holders := int64(2)
	unread := func(fill func(*store.Batch)) {
		t.Helper()
		batch := store.NewBatch()
		fill(batch)
		err := kv.View(ctx, func(s store.Snapshot) error {
			return batch.Ops[0].Decide(func(key []byte) ([]byte, error) {
				if key[1] == 'h' {
					t.Error("a reference beyond the first reads the body")
				}
				return s.Get(key)
			}, store.NewBatch())
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	for _, ref := range refs {
		unread(func(batch *store.Batch) { b.Share(batch, ref) })
		unread(func(batch *store.Batch) { b.Unlink(batch, ref) })
	}
	verify := func() {
		t.Helper()
		owners := func(_ context.Context, each func(store.Ref)) error {
			for _, ref := range refs {
				for range holders {
					each(ref)
				}
			}
			return nil
		}
		report := func(f Finding) { t.Errorf("%d references: %v", holders, f) }
		if err := b.verifyReferences(ctx, owners, report, 1); err != nil {
			t.Fatal(err)
		}
		if err := b.Verify(ctx, report); err != nil {
			t.Fatal(err)
		}
	}
	verify()
	if err := b.Close(); err != nil {
		t.Fatal(err)
	}
	cfg.Copied = false
	if b, err = Open(ctx, cfg, kv, hclog.NewNullLogger()); err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	for holders > 0 {
		commit(func(batch *store.Batch) {
			for _, ref := range refs {
				b.Unlink(batch, ref)
			}
		})
		holders--
		if holders > 0 {
			verify()
		}
	}
	for _, ref := range refs {
		if v := value(ref.Hash); v != nil {
			t.Errorf("a body of %d octets stays", ref.Octets)
		}
	}
}
