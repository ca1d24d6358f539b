package pebble_test

import (
	"context"
	"testing"

	"github.com/hashicorp/go-hclog"

	"github.com/postern-mail/postern/store"
	"github.com/postern-mail/postern/store/pebble"
	"github.com/postern-mail/postern/store/storetest"
)

type engine struct{ dir string }

func (e engine) Open(t *testing.T) store.Store {
	t.Helper()
	s, err := pebble.Open(context.Background(), pebble.Config{Dir: e.dir, ReserveOctets: -1}, hclog.NewNullLogger())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

func TestConformance(t *testing.T) {
	t.Parallel()
	storetest.Run(t, func(t *testing.T) storetest.Engine { return engine{t.TempDir()} })
}

func BenchmarkCommit(b *testing.B) {
	s, err := pebble.Open(context.Background(), pebble.Config{Dir: b.TempDir(), ReserveOctets: -1}, hclog.NewNullLogger())
	if err != nil {
		b.Fatal(err)
	}
	defer s.Close()
	value := make([]byte, 5000)
	b.SetParallelism(32)
	b.ReportAllocs()
	b.RunParallel(func(p *testing.PB) {
		for p.Next() {
			batch := store.NewBatch()
			key := append([]byte("k/"), batch.ID[:]...)
			batch.Put(key, value)
			batch.Put(append(key, 'd'), nil)
			batch.Put(append(key, 'e'), value[:200])
			if _, err := s.Commit(context.Background(), batch); err != nil {
				b.Error(err)
			}
		}
	})
}
