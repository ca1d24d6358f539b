package storetest

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/postern-mail/postern/store"
	"github.com/postern-mail/postern/store/lease"
)

// testLeases has holders take one lease from each other, in time and out of
// time, and write under it. However that goes, epochs never go back in what was
// written, and each has one writer.
func testLeases(t *testing.T, e Engine) {
	synctest.Test(t, func(t *testing.T) {
		s := e.Open(t)
		const holders, rounds = 4, 12
		commit(t, s, func(b *store.Batch) { b.Put(k("written"), nil) })
		var wg sync.WaitGroup
		for n := range holders {
			wg.Go(func() { takeTurns(t, s, n, rounds) })
		}
		wg.Wait()
		if n := checkTurns(t, get(t, s, k("written"))); n < holders {
			t.Errorf("only %d epochs wrote", n)
		}
	})
}

// takeTurns has one holder take the lease and write. Every other of them does
// not give it back, but falls silent.
func takeTurns(t *testing.T, s store.Store, n, rounds int) {
	name := fmt.Sprint("holder", n)
	h := lease.NewHolder(lease.Config{Prefix: k("beat/"), Name: name}, s, hclog.NewNullLogger())
	for range rounds {
		if err := h.Renew(t.Context()); err != nil && !errors.Is(err, lease.ErrFenced) {
			t.Error(err)
			return
		}
		l, err := h.Acquire(t.Context(), k("lease"))
		if errors.Is(err, lease.ErrHeld) || errors.Is(err, lease.ErrFenced) {
			time.Sleep(lease.DefaultTTL / 3)
			continue
		}
		if err != nil {
			t.Error(err)
			return
		}
		for range 3 {
			writeUnder(t, s, l, name)
		}
		if n%2 == 1 {
			time.Sleep(time.Duration(n) * lease.DefaultTTL)
			writeUnder(t, s, l, name)
		} else if err := l.Release(t.Context()); err != nil {
			t.Error(err)
		}
	}
}

// checkTurns reads what was written, and returns under how many epochs.
func checkTurns(t *testing.T, written string) (epochs int) {
	var epoch int64
	var writer string
	for _, entry := range strings.Fields(written) {
		var by string
		var under int64
		if _, err := fmt.Sscanf(strings.ReplaceAll(entry, ":", " "), "%s %d", &by, &under); err != nil {
			t.Fatalf("entry %q: %v", entry, err)
		}
		if under < epoch || under == epoch && by != writer {
			t.Errorf("%s wrote under epoch %d after %s under %d", by, under, writer, epoch)
		}
		if under != epoch {
			epochs++
		}
		epoch, writer = under, by
	}
	return epochs
}

// writeUnder notes writer and epoch, if the lease still is the newest.
func writeUnder(t *testing.T, s store.Store, l *lease.Lease, name string) {
	b := store.NewBatch()
	l.Guard(b)
	b.Decide(k("written"), func(get func([]byte) ([]byte, error), w *store.Batch) error {
		before, err := get(k("written"))
		w.Put(k("written"), fmt.Appendf(nil, "%s %s:%d", before, name, l.Epoch()))
		return err
	})
	_, err := s.Commit(context.Background(), b)
	if errors.Is(err, store.ErrConflict) {
		err = l.Confirm(context.Background())
		if !errors.Is(err, lease.ErrFenced) {
			t.Errorf("a refused write under a lease: %v", err)
		}
	} else if err != nil {
		t.Error(err)
	}
}
