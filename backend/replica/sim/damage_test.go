package sim

import (
	"context"
	"encoding/binary"
	"testing"
	"time"

	"github.com/postern-mail/postern/backend/mailstore"
	"github.com/postern-mail/postern/internal/mutant"
)

// TestDamagedNodeDeletesNothing: a node that has lost a message, and does not
// know it, is compared with; the other keeps the message. Without the gate that
// asks whether a node is sure of what it lacks, it must be lost.
func TestDamagedNodeDeletesNothing(t *testing.T) {
	t.Parallel()
	for _, row := range []struct {
		without mutant.Rule
		left    int
	}{{mutant.None, 3}, {mutant.AbsenceDeletes, 2}} {
		w := newWorld(0, row.without, nil, false)
		w.rest()
		for range 3 {
			w.deliver(w.nodes[0], w.newDelivery(step{a: 1}))
		}
		w.rest()
		if w.failure != nil {
			t.Fatal(w.failure)
		}
		inbox := w.nodes[1].views["INBOX"]
		key := append(append([]byte("ma"), w.account[:]...), 'm')
		key = append(key, inbox.guid[:]...)
		w.nodes[1].disk.Drop(binary.BigEndian.AppendUint32(key, uint32(inbox.At(1).UID)))
		done := false
		w.nodes[0].channel("compare", func(context.Context) {
			w.nodes[0].ch.Compare(func(_ mailstore.Applied, err error) {
				if done = true; err != nil {
					t.Error(err)
				}
			})
		})
		for range 100 {
			w.now = w.now.Add(100 * time.Millisecond)
			for _, n := range w.nodes {
				w.receive(n, 0, 100)
				n.work(100)
			}
		}
		w.nodes[0].look()
		if left := w.nodes[0].views["INBOX"].Len(); !done || left != row.left {
			t.Errorf("without %d: compared %v, %d messages are left of 3", row.without, done, left)
		}
	}
}
