package pebble

import (
	"context"
	"encoding/binary"
	"testing"

	"github.com/hashicorp/go-hclog"

	"github.com/postern-mail/postern/store"
)

// TestCacheBesideMemTables: what was read is still in the cache once the
// memtables are full grown, which the engine counts as cache.
func TestCacheBesideMemTables(t *testing.T) {
	t.Parallel()
	const octets = 4 << 20
	s, err := Open(t.Context(), Config{Dir: t.TempDir(), ReserveOctets: -1, CacheOctets: octets, MemTableOctets: 4 * maxGroupOctets}, hclog.NewNullLogger())
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	value := make([]byte, 32<<10)
	key := func(i int) []byte { return binary.BigEndian.AppendUint32([]byte("k"), uint32(i)) }
	n := 0
	for n*len(value) < 16*maxGroupOctets {
		b := store.NewBatch()
		for range 16 {
			binary.BigEndian.PutUint64(value, uint64(n))
			b.Put(key(n), append([]byte(nil), value...))
			n++
		}
		if _, err := s.Commit(context.Background(), b); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.db.Flush(); err != nil {
		t.Fatal(err)
	}
	// One that ends while we read takes the tables away, and their blocks out of
	// the cache.
	if err := s.db.Compact(t.Context(), key(0), key(n), false); err != nil {
		t.Fatal(err)
	}
	read := func() {
		for i := range octets / 2 / len(value) {
			if err := s.View(t.Context(), func(snap store.Snapshot) error { _, err := snap.Get(key(i)); return err }); err != nil {
				t.Fatal(err)
			}
		}
	}
	read()
	if cached := s.db.Metrics().BlockCache.Size; cached < octets/8 {
		t.Errorf("of %d octets that were read the cache holds %d", octets/2, cached)
	}
}
