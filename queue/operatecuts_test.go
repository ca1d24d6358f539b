package queue

import (
	"context"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/postern-mail/postern/mail"
	"github.com/postern-mail/postern/store/storetest"
)

// TestPowerCutsOfOperators redirects and requeues messages of which one
// recipient is done, and cuts the power ahead of every operation of the disks.
// Whatever was cut: the next start delivers to each recipient, or to whom
// stands in, once, and leaves nothing in the store.
func TestPowerCutsOfOperators(t *testing.T) {
	t.Parallel()
	cuts := operatedOn(t)
	if len(cuts) < 3 {
		t.Errorf("only %d cuts", len(cuts))
	}
	for n, cut := range cuts {
		synctest.Test(t, func(t *testing.T) {
			time.Sleep(time.Minute) // the clock goes on
			kv, blobs := cut.Open(t)
			r := newRigOn(t, Config{}, kv, blobs)
			r.start()
			defer r.stop()
			time.Sleep(20 * time.Minute)
			synctest.Wait()
			r.empty()
			got := 0
			for address, times := range r.transport.done {
				if address.Local == "carol" {
					t.Errorf("carol got it again: %v", times)
				}
				got += len(times)
			}
			if got != 3 {
				t.Errorf("%d deliveries of 3: %v", got, r.transport.done)
			}
		})
		if t.Failed() {
			t.Fatalf("after power cut %d", n)
		}
	}
}

// operatedOn returns the machine as it was at each operation of the disks
// while an operator's commands ran.
func operatedOn(t *testing.T) (cuts []*storetest.Machine) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		m := storetest.NewMachine()
		kv, blobs := m.Open(t)
		r := newRigOn(t, Config{}, kv, blobs)
		r.transport.deliver = func(_ context.Context, _ mail.Delivery, rcpt mail.Recipient) mail.Outcome {
			if rcpt.Address.Local == "carol" {
				return fine
			}
			return later
		}
		r.start()
		defer r.stop()
		var ids []mail.QueueID
		for range 3 {
			ids = append(ids, r.accept("alice@a.test", "bob@b.test", "carol@b.test"))
		}
		settle()
		var mu sync.Mutex
		m.OnOp(func(n int) {
			left := m.Cut(uint64(n))
			mu.Lock()
			defer mu.Unlock()
			cuts = append(cuts, left)
		})
		_, err := r.Redirect(t.Context(), ids[0], toRelay)
		if err == nil {
			_, err = r.Redirect(t.Context(), ids[1], Redirection{To: mail.MustAddress("erin@e.test")})
		}
		if err == nil {
			_, err = r.Requeue(t.Context(), ids[2])
		}
		if err != nil {
			t.Error(err)
		}
		synctest.Wait()
		m.OnOp(nil)
	})
	return cuts
}
