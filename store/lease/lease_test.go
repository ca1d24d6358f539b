package lease_test

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/postern-mail/postern/store"
	"github.com/postern-mail/postern/store/lease"
	"github.com/postern-mail/postern/store/storetest"
)

// piece is the key of the lease in most tests.
var piece = []byte("k/lease")

func newHolder(kv store.Store, name string) *lease.Holder {
	return lease.NewHolder(lease.Config{Prefix: []byte("k/beat/"), Name: name}, kv, hclog.NewNullLogger())
}

// run runs h until the returned function is called.
func run(t *testing.T, h *lease.Holder) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- h.Run(ctx) }()
	synctest.Wait()
	return func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	}
}

func acquire(t *testing.T, h *lease.Holder) *lease.Lease {
	t.Helper()
	l, err := h.Acquire(t.Context(), piece)
	if err != nil {
		t.Fatalf("acquire: %v", err)
	}
	return l
}

func wantHeld(t *testing.T, h *lease.Holder) {
	t.Helper()
	if _, err := h.Acquire(t.Context(), piece); !errors.Is(err, lease.ErrHeld) {
		t.Fatalf("acquire what another has: %v", err)
	}
}

// write commits under a lease.
func write(kv store.Store, l *lease.Lease) error {
	b := store.NewBatch()
	l.Guard(b)
	b.Add([]byte("k/writes"), 1)
	_, err := kv.Commit(context.Background(), b)
	return err
}

func lost(l *lease.Lease) bool {
	select {
	case <-l.Lost():
		return true
	default:
		return false
	}
}

// TestHandOver: what is released, or left by an orderly end, is free at once.
func TestHandOver(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		kv := storetest.NewModel().Open()
		a, b := newHolder(kv, "a"), newHolder(kv, "b")
		stopA, stopB := run(t, a), run(t, b)
		defer stopB()
		first := acquire(t, a)
		wantHeld(t, b)
		if again := acquire(t, a); again != first {
			t.Error("a second lease for what one has")
		}
		time.Sleep(time.Hour) // renewed all the time
		if !first.Held() || write(kv, first) != nil {
			t.Error("the lease was lost to nobody")
		}
		if name, err := b.HeldBy(t.Context(), piece); name != "a" || err != nil {
			t.Errorf("held by %q, %v", name, err)
		}
		if n := b.Living(); n != 2 {
			t.Errorf("%d living", n)
		}
		if err := first.Release(t.Context()); err != nil || !lost(first) {
			t.Errorf("release: %v", err)
		}
		second := acquire(t, b)
		if second.Epoch() <= first.Epoch() {
			t.Errorf("epoch %d after %d", second.Epoch(), first.Epoch())
		}
		if err := write(kv, first); !errors.Is(err, store.ErrConflict) {
			t.Errorf("write under a lease that was given back: %v", err)
		}
		if err := second.Release(t.Context()); err != nil {
			t.Error(err)
		}
		third := acquire(t, a)
		stopA()
		if !lost(third) {
			t.Error("the lease outlives its holder")
		}
		if name, _ := b.HeldBy(t.Context(), piece); name != "" {
			t.Errorf("held by %q", name)
		}
		acquire(t, b)
	})
}

// pausable is a store whose every operation waits while it is paused, as those
// of a stopped process do.
type pausable struct {
	store.Store
	gate chan struct{} // holds a token while operations may pass
}

func newPausable(kv store.Store) pausable {
	p := pausable{kv, make(chan struct{}, 1)}
	p.gate <- struct{}{}
	return p
}

func (p pausable) pass() { p.gate <- <-p.gate }

func (p pausable) Commit(ctx context.Context, b *store.Batch) (store.Result, error) {
	p.pass()
	return p.Store.Commit(ctx, b)
}

func (p pausable) View(ctx context.Context, fn func(store.Snapshot) error) error {
	p.pass()
	return p.Store.View(ctx, fn)
}

func (p pausable) pause()  { <-p.gate }
func (p pausable) resume() { p.gate <- struct{}{} }

// TestSilentHolder: a holder that cannot renew stops before others may take
// over, and finds out when it comes back.
func TestSilentHolder(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		kv := storetest.NewModel().Open()
		paused := newPausable(kv)
		a, b := newHolder(paused, "a"), newHolder(kv, "b")
		stopA, stopB := run(t, a), run(t, b)
		defer stopB()
		held := acquire(t, a)
		paused.pause()
		began := time.Now()
		<-held.Lost()
		if took := time.Since(began); took > (2*lease.DefaultTTL/3) || held.Held() {
			t.Errorf("stops after %v", took)
		}
		var taken *lease.Lease
		for taken == nil {
			var err error
			if taken, err = b.Acquire(t.Context(), piece); err != nil {
				time.Sleep(time.Second)
			}
		}
		if took := time.Since(began); took < lease.DefaultTTL || took > 2*lease.DefaultTTL {
			t.Errorf("taken over after %v", took)
		}
		paused.resume()
		time.Sleep(time.Minute)
		if err := write(kv, held); !errors.Is(err, store.ErrConflict) {
			t.Errorf("a silent holder writes: %v", err)
		}
		if err := held.Confirm(t.Context()); !errors.Is(err, lease.ErrFenced) {
			t.Errorf("confirm: %v", err)
		}
		wantHeld(t, a) // it lives on, under a new name
		if n := a.Living(); n != 2 {
			t.Errorf("%d living", n)
		}
		stopA()
		if write(kv, taken) != nil {
			t.Error("the new holder cannot write")
		}
	})
}

// TestShortSilence: who was silent for less than the TTL keeps the work from
// others, but what it began before is void: it takes the lease anew.
func TestShortSilence(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		kv := storetest.NewModel().Open()
		paused := newPausable(kv)
		a, b := newHolder(paused, "a"), newHolder(kv, "b")
		stopA, stopB := run(t, a), run(t, b)
		defer stopA()
		defer stopB()
		held := acquire(t, a)
		paused.pause()
		time.Sleep((2 * lease.DefaultTTL / 3) + time.Second)
		wantHeld(t, b)
		paused.resume()
		synctest.Wait()
		if held.Held() {
			t.Error("a lease that was lost is back")
		}
		anew := acquire(t, a)
		if anew.Epoch() != held.Epoch()+1 || write(kv, held) == nil || write(kv, anew) != nil {
			t.Errorf("epochs %d and %d", held.Epoch(), anew.Epoch())
		}
	})
}

// unsure is a store that says of commits that it does not know.
type unsure struct {
	store.Store
	left    atomic.Int64 // commits to be unsure of
	applied bool
}

func (u *unsure) Commit(ctx context.Context, b *store.Batch) (store.Result, error) {
	if u.left.Add(-1) < 0 {
		return u.Store.Commit(ctx, b)
	}
	if u.applied {
		if _, err := u.Store.Commit(ctx, b); err != nil {
			return store.Result{}, err
		}
	}
	return store.Result{}, store.ErrUnknown
}

// TestUnknownOutcome: a heartbeat that may have happened is not mistaken for
// somebody else's deed, and a lease that may be ours is taken anew.
func TestUnknownOutcome(t *testing.T) {
	t.Parallel()
	for _, applied := range []bool{true, false} {
		synctest.Test(t, func(t *testing.T) {
			kv := &unsure{Store: storetest.NewModel().Open(), applied: applied}
			a := newHolder(kv, "a")
			stop := run(t, a)
			defer stop()
			kv.left.Store(1)
			if _, err := a.Acquire(t.Context(), piece); !errors.Is(err, store.ErrUnknown) {
				t.Errorf("acquire: %v", err)
			}
			if err := a.Renew(t.Context()); err != nil {
				t.Error(err)
			}
			held := acquire(t, a)
			for range 5 {
				kv.left.Store(1)
				time.Sleep(lease.DefaultTTL / 3)
			}
			if !held.Held() || write(kv, held) != nil {
				t.Error("lost the lease to a heartbeat of its own")
			}
			kv.left.Store(2) // no more than it has time for
			time.Sleep(time.Hour)
			if n := a.Living(); n != 1 {
				t.Errorf("%d living", n)
			}
		})
	}
}

func TestSeize(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		kv := storetest.NewModel().Open()
		a := newHolder(kv, "a")
		stop := run(t, a)
		defer stop()
		held := acquire(t, a)
		for range 2 {
			if err := lease.Seize(t.Context(), kv, []byte("k/l"), []byte("k/m")); err != nil {
				t.Fatal(err)
			}
		}
		if err := write(kv, held); !errors.Is(err, store.ErrConflict) {
			t.Errorf("write under a seized lease: %v", err)
		}
		if err := held.Confirm(t.Context()); !errors.Is(err, lease.ErrFenced) || !lost(held) {
			t.Errorf("confirm: %v", err)
		}
		if anew := acquire(t, a); anew.Epoch() != held.Epoch()+2 {
			t.Errorf("epoch %d after %d", anew.Epoch(), held.Epoch())
		}
	})
}

// player is a holder in TestEveryOrder, and the batch it has prepared.
type player struct {
	*lease.Holder
	name  string
	lease *lease.Lease
	batch *store.Batch // guarded by its lease's epoch, to be committed later
	epoch uint64
}

// TestEveryOrder goes through every order of what two holders may do, with
// pauses of any length between preparing a write and committing it: epochs never
// go back, and never have two writers.
func TestEveryOrder(t *testing.T) {
	t.Parallel()
	const depth = 4
	steps := []string{"renew", "acquire", "prepare", "commit", "release"}
	synctest.Test(t, func(t *testing.T) {
		n := 2*len(steps) + 1
		all := 1
		for range depth {
			all *= n
		}
		for order := range all {
			var plan []int
			for range depth {
				plan = append(plan, order%n)
				order /= n
			}
			play(t, steps, plan)
			if t.Failed() {
				t.Fatalf("plan %v", plan)
			}
		}
	})
}

// play begins with the first holder in possession and a write of its prepared.
func play(t *testing.T, steps []string, plan []int) {
	kv := storetest.NewModel().Open()
	players := [2]*player{{Holder: newHolder(kv, "a"), name: "a"}, {Holder: newHolder(kv, "b"), name: "b"}}
	var log []string
	newest, writer := uint64(0), -1
	step := func(who int, what string) {
		p := players[who]
		switch what {
		case "renew":
			_ = p.Renew(t.Context())
		case "acquire":
			if l, err := p.Acquire(t.Context(), piece); err == nil {
				p.lease = l
			}
		case "prepare":
			if p.lease != nil && p.lease.Held() {
				p.batch, p.epoch = store.NewBatch(), p.lease.Epoch()
				p.lease.Guard(p.batch)
				p.batch.Put([]byte("k/x"), nil)
			}
		case "commit":
			if p.batch == nil {
				return
			}
			if _, err := kv.Commit(t.Context(), p.batch); err == nil {
				if p.epoch < newest || p.epoch == newest && writer != who {
					t.Errorf("%s wrote under epoch %d after %d: %v", p.name, p.epoch, newest, log)
				}
				newest, writer = p.epoch, who
			}
			p.batch = nil
		case "release":
			if p.lease != nil && p.batch == nil {
				_ = p.lease.Release(t.Context())
				p.lease = nil
			}
		}
		log = append(log, fmt.Sprint(p.name, " ", what))
	}
	for _, s := range []string{"renew", "acquire", "prepare"} {
		step(0, s)
	}
	step(1, "renew")
	for _, at := range plan {
		if at == 2*len(steps) {
			time.Sleep(lease.DefaultTTL)
			log = append(log, "a TTL passes")
			continue
		}
		step(at/len(steps), steps[at%len(steps)])
	}
	step(0, "commit")
	step(1, "commit")
}
