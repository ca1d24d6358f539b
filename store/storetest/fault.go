package storetest

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/postern-mail/postern/internal/fsx/fsxtest"
	"github.com/postern-mail/postern/store"
	"github.com/postern-mail/postern/store/pack"
)

// EachFault has one operation of a machine's disks after the other fail, in one
// of three ways: as a test of its own, which does the work, has operation at
// meet fault, and returns whether there were so many operations and whether the
// process could go on after that. It is over when there were not.
func EachFault(t *testing.T, test func(t *testing.T, at int, fault error) (met, goneOn bool)) {
	t.Helper()
	kinds := []struct {
		name  string
		fault error
	}{
		{"input or output error", unix.EIO},
		{"no space", unix.ENOSPC},
		{"short write", &fsxtest.Short{Octets: 9, Err: unix.ENOSPC}},
	}
	var went atomic.Int64
	t.Cleanup(func() {
		if went.Load() == 0 && !t.Failed() {
			t.Error("the process went on after no fault")
		}
	})
	for i, kind := range kinds {
		t.Run(kind.name, func(t *testing.T) {
			t.Parallel()
			hit := 0
			for at, met := 1+i, true; met && !t.Failed(); at += len(kinds) {
				t.Run(fmt.Sprint("operation ", at), func(t *testing.T) {
					var goneOn bool
					if met, goneOn = test(t, at, kind.fault); goneOn && met {
						went.Add(1)
					}
				})
				hit++
			}
			if hit < 8 {
				t.Errorf("only %d faults", hit)
			}
		})
	}
}

// Hit is one operation on a machine's disks that fails, and the power cut some
// operations later.
type Hit struct {
	machine   *Machine
	at, cutAt int
	fault     error
	onCut     func()

	mu   sync.Mutex
	ops  int
	left *Machine
}

// Hit has the operation at, counted from 1 and from now on, fail with fault,
// and cuts the power after later further ones have begun, or when Left is
// called, whichever is first. Just before the cut it calls onCut, once: what is
// promised then must hold.
func (m *Machine) Hit(at int, fault error, later int, onCut func()) *Hit {
	h := &Hit{machine: m, at: at, cutAt: at + 1 + later, fault: fault, onCut: onCut}
	m.SetFault(func(int) error { return h.step() })
	return h
}

func (h *Hit) step() error {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.ops++
	if h.ops == h.cutAt {
		h.cutLocked()
	}
	if h.ops == h.at {
		return h.fault
	}
	return nil
}

func (h *Hit) cutLocked() {
	h.onCut()
	h.left = h.machine.Cut(uint64(h.at))
}

// Left ends the faults and returns the machine as the power cut left it, and
// whether the fault was met.
func (h *Hit) Left() (left *Machine, met bool) {
	h.machine.SetFault(nil)
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.left == nil {
		h.cutLocked()
	}
	return h.left, h.ops >= h.at
}

// Failed reports whether a store gave up after a fault: its process has to end.
func Failed(kv store.Store) bool {
	engine, ok := kv.(interface{ Err() error })
	return ok && engine.Err() != nil
}

// VerifyBodies reads every body and holds the counts against the references
// that owners hold. Nobody may write meanwhile.
func VerifyBodies(t testing.TB, blobs *pack.Blobs, owners pack.Owners) {
	t.Helper()
	report := func(f pack.Finding) { t.Errorf("found: %v", f) }
	if err := blobs.Verify(context.Background(), report); err != nil {
		t.Errorf("verify bodies: %v", err)
	}
	if err := blobs.VerifyReferences(context.Background(), owners, report); err != nil {
		t.Errorf("verify references: %v", err)
	}
}
