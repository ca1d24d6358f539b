package storetest

import (
	"context"
	"path/filepath"
	"testing"

	"github.com/hashicorp/go-hclog"

	"github.com/postern-mail/postern/store"
	"github.com/postern-mail/postern/store/pack"
	"github.com/postern-mail/postern/store/pebble"
)

// Open returns an embedded store and its bodies in a directory of the test's
// own; both are closed when the test ends.
func Open(t testing.TB) (store.Store, store.Blobs) {
	t.Helper()
	return OpenDir(t, t.TempDir())
}

// OpenDir is Open in a directory that outlives the store.
func OpenDir(t testing.TB, dir string) (store.Store, store.Blobs) {
	t.Helper()
	log := hclog.NewNullLogger()
	kv, err := pebble.Open(context.Background(), pebble.Config{
		Dir: filepath.Join(dir, "meta"), CacheOctets: 4 << 20, MemTableOctets: 8 << 20, ReserveOctets: -1, Unticked: true,
	}, log)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := kv.Close(); err != nil {
			t.Errorf("close store: %v", err)
		}
	})
	blobs, err := pack.Open(context.Background(), pack.Config{
		Dir: filepath.Join(dir, "bodies"), PackOctets: 4 << 20, ReserveOctets: -1,
	}, kv, log)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := blobs.Close(); err != nil {
			t.Errorf("close bodies: %v", err)
		}
	})
	return kv, blobs
}
