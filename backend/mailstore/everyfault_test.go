package mailstore

import (
	"context"
	"fmt"
	"testing"

	"github.com/emersion/go-imap/v2"

	"github.com/postern-mail/postern/status"
	"github.com/postern-mail/postern/store"
	"github.com/postern-mail/postern/store/storetest"
)

const faultWorkers, faultSteps = 2, 3

// TestFaultAtEveryOperation has each operation of the disks fail once while
// messages are delivered, appended, flagged and expunged. A process whose store
// lives goes on: the gateway repeats what was refused, and everything is there
// once. The power is cut soon after the fault, too: what was answered until
// then holds, and all deliveries repeated are there once.
func TestFaultAtEveryOperation(t *testing.T) {
	t.Parallel()
	storetest.EachFault(t, faultAt)
}

// faultAt has one operation fail and reports whether it was met, and whether
// the process went on.
func faultAt(t *testing.T, at int, fault error) (met, goneOn bool) {
	m := storetest.NewMachine()
	kv, blobs, err := m.TryOpen(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	s, err := Open(t.Context(), Config{flagBlockWorth: 1}, kv, blobs, nil)
	if err != nil {
		t.Fatal(err)
	}
	k := newTold()
	var before, after *told
	hit := m.Hit(at, fault, at%4, func() { before = k.now() })
	failed := busy(s, k, faultWorkers, faultSteps)
	left, met := hit.Left()
	after = k.now()
	goneOn = !storetest.Failed(kv)
	for name, err := range failed {
		if reason := status.Of(err); reason != status.MailSystemFull && reason != status.StoreDown {
			t.Errorf("%s: %s, %v", name, reason, err)
		}
	}
	if goneOn {
		if len(failed) == faultWorkers*faultSteps {
			t.Errorf("one fault failed everything: %v", failed)
		}
		k.consistent(t, s, k.expunging)
	}
	closed := blobs.Close()
	if err := kv.Close(); goneOn && (err != nil || closed != nil) {
		t.Errorf("close: %v, %v", err, closed)
	}

	cutKV, cutBlobs := left.Open(t)
	again, err := Open(t.Context(), Config{}, cutKV, cutBlobs, nil)
	if err != nil {
		t.Fatal(err)
	}
	before.consistent(t, again, after.expunging)
	storetest.VerifyBodies(t, cutBlobs, func(ctx context.Context, each func(store.Ref)) error {
		_, err := again.References(ctx, each)
		return err
	})
	return met, goneOn
}

// consistent verifies a store, holds it against what its clients knew, and
// repeats every delivery.
func (k *told) consistent(t *testing.T, s *Store, expunging map[imap.UID]bool) {
	t.Helper()
	verify := func(when string) {
		if err := s.Check(context.Background()); err != nil {
			t.Errorf("%s: %v", when, err)
		}
	}
	verify("before")
	k.holds(t, s, expunging)
	a := openAccount(t, s, "kim")
	for w := range faultWorkers {
		for i := range faultSteps {
			name := fmt.Sprintf("%d-%d", w, i)
			content := stage(t, s, powerMessage("delivered "+name, i))
			if err := a.Deliver(t.Context(), []Delivery{{ID: name, Content: content}})[0]; err != nil {
				t.Errorf("deliver %s again: %v", name, err)
			}
			content.Discard()
		}
	}
	inbox := openMailbox(t, a, "INBOX")
	times := map[string]int{}
	v := inbox.View()
	for i := range v.Len() {
		times[readAll(t, inbox, v.At(i))]++
	}
	for w := range faultWorkers {
		for i := range faultSteps {
			name := fmt.Sprintf("%d-%d", w, i)
			if n := times[powerMessage("delivered "+name, i)]; n != 1 {
				t.Errorf("delivery %s is there %d times", name, n)
			}
		}
	}
	verify("after")
}
