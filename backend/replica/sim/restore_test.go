package sim

import (
	"testing"

	"github.com/postern-mail/postern/internal/mutant"
	"github.com/postern-mail/postern/store/memory"
)

// restored is a world in which a node has come back from a backup under a partner
// that went on, and is connected again.
func restored(t *testing.T, id int, without mutant.Rule) (*world, *node) {
	t.Helper()
	w := newWorld(uint64(id), without, nil, false)
	n := w.nodes[id]
	w.rest()
	w.deliver(n, w.newDelivery(step{a: 1}))
	w.rest()
	backup := n.disk.Clone()
	w.deliver(n, w.newDelivery(step{a: 1}))
	w.deliver(w.nodes[1-id], w.newDelivery(step{a: 1}))
	w.rest()
	if w.failure != nil {
		t.Fatal(w.failure)
	}
	n.kill()
	w.restored, n.disk = true, backup
	n.start()
	w.renew()
	for range 20 {
		for _, n := range w.nodes {
			w.receive(n, 0, 100)
			n.work(100)
		}
	}
	return w, n
}

// TestRestoredNodeIsRefused: a node that comes back from a backup is found out,
// and refuses its clients; emptied and started as a new incarnation it comes back
// with everything.
func TestRestoredNodeIsRefused(t *testing.T) {
	t.Parallel()
	for id := range 2 {
		w, n := restored(t, id, mutant.None)
		if _, err := n.open(); !n.stale || err == nil {
			t.Errorf("node %d serves from a backup: stale %v, %v", id, n.stale, err)
		}
		n.kill()
		n.disk, n.seen = memory.NewDisk(), newSeen()
		w.origin(n)
		n.start()
		if err := n.ms.Rejoin(t.Context()); err != nil {
			t.Fatal(err)
		}
		w.rest()
		w.end()
		if w.failure != nil {
			t.Errorf("node %d, emptied: %v", id, w.failure)
		}
	}
}

// TestAcceptedBackupIsNoticed lets such a node in, which must break a promise.
func TestAcceptedBackupIsNoticed(t *testing.T) {
	t.Parallel()
	for id := range 2 {
		w, n := restored(t, id, mutant.AcceptStale)
		w.deliver(n, w.newDelivery(step{a: 1}))
		w.rest()
		w.end()
		if w.failure == nil {
			t.Errorf("node %d goes on from a backup, and nobody notices", id)
		}
		t.Log(w.failure)
	}
}
