package pebble_test

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/postern-mail/postern/internal/fsx/fsxtest"
	"github.com/postern-mail/postern/store"
	"github.com/postern-mail/postern/store/storetest"
)

// TestFaultAtEveryOperation has each operation on the disk fail once, from the
// first start on: who was told of success finds it after a restart, also when
// the power fails, and who was told of a failure finds all of his batch or
// nothing.
func TestFaultAtEveryOperation(t *testing.T) {
	t.Parallel()
	for name, fault := range map[string]error{
		"input or output error": unix.EIO,
		"no space":              unix.ENOSPC,
		"short write":           &fsxtest.Short{Octets: 9, Err: unix.ENOSPC},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			failed := 0
			for at, again := 1, true; again && !t.Failed(); at++ {
				m := storetest.NewMachine()
				var reached atomic.Bool // also by the engine's own goroutines
				m.SetFault(func(n int) error {
					if n == at {
						reached.Store(true)
						return fault
					}
					return nil
				})
				acked, refused, closed := commitSome(t, m)
				if refused {
					failed++
				}
				m.SetFault(nil)
				again = reached.Load()
				holds(t, m.Cut(uint64(at)), acked, fmt.Sprintf("fault at operation %d, then a power cut", at))
				if closed { // else the process has to end first
					holds(t, m, acked, fmt.Sprintf("fault at operation %d", at))
				}
			}
			if failed < 10 {
				t.Errorf("only %d faults were noticed", failed)
			}
		})
	}
}

const someBatches = 6

func batchKeys(i int) (left, right []byte) {
	return fmt.Appendf(nil, "left/%d", i), fmt.Appendf(nil, "right/%d", i)
}

// commitSome opens the store, commits some batches and closes it. It returns
// which of them were acknowledged, whether anything was refused, and whether the
// store is closed.
func commitSome(t *testing.T, m *storetest.Machine) (acked [someBatches]bool, refused, closed bool) {
	t.Helper()
	kv, err := m.TryOpenStore(t.Context())
	if err != nil {
		return acked, true, false
	}
	for i := range someBatches {
		b := store.NewBatch()
		left, right := batchKeys(i)
		b.Put(left, make([]byte, 300*i))
		b.Put(right, nil)
		_, err := kv.Commit(context.Background(), b)
		acked[i] = err == nil
		if err == nil {
			continue
		}
		refused = true
		if !errors.Is(err, store.ErrUnknown) && !errors.Is(err, store.ErrClosed) && !errors.Is(err, store.ErrFull) {
			t.Errorf("batch %d: %v", i, err)
		}
	}
	closed = kv.Close() == nil
	return acked, refused || !closed, closed
}

// holds opens what a machine has and looks for the batches.
func holds(t *testing.T, m *storetest.Machine, acked [someBatches]bool, when string) {
	t.Helper()
	kv, err := m.TryOpenStore(t.Context())
	if err != nil {
		t.Errorf("%s: %v", when, err)
		return
	}
	defer kv.Close()
	err = kv.View(t.Context(), func(v store.Snapshot) error {
		for i := range acked {
			left, right := batchKeys(i)
			_, err1 := v.Get(left)
			_, err2 := v.Get(right)
			if (err1 == nil) != (err2 == nil) || acked[i] && err1 != nil {
				t.Errorf("%s: batch %d, acknowledged: %t: %v, %v", when, i, acked[i], err1, err2)
			}
		}
		return nil
	})
	if err != nil {
		t.Errorf("%s: %v", when, err)
	}
}
