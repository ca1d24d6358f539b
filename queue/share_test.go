package queue

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/postern-mail/postern/mail"
	"github.com/postern-mail/postern/store"
	"github.com/postern-mail/postern/store/lease"
	"github.com/postern-mail/postern/store/storetest"
)

// fragile is the store as one process has it: the process may be stopped for a
// while, or killed.
type fragile struct {
	store.Store
	gate chan struct{} // holds a token while operations may pass
	dead atomic.Bool
}

func newFragile(kv store.Store) *fragile {
	f := &fragile{Store: kv, gate: make(chan struct{}, 1)}
	f.gate <- struct{}{}
	return f
}

func (f *fragile) pass() error {
	f.gate <- <-f.gate
	if f.dead.Load() {
		return store.ErrClosed
	}
	return nil
}

func (f *fragile) Commit(ctx context.Context, b *store.Batch) (store.Result, error) {
	if err := f.pass(); err != nil {
		return store.Result{}, err
	}
	return f.Store.Commit(ctx, b)
}

func (f *fragile) View(ctx context.Context, fn func(store.Snapshot) error) error {
	if err := f.pass(); err != nil {
		return err
	}
	return f.Store.View(ctx, fn)
}

func (f *fragile) pause()  { <-f.gate }
func (f *fragile) resume() { f.gate <- struct{}{} }

// pair is a queue that two processes share, with one next hop and one audit.
type pair struct {
	t      *testing.T
	kv     store.Store
	a, b   *rig
	fa, fb *fragile
	ids    []mail.QueueID
}

func newPair(t *testing.T) *pair {
	t.Helper()
	kv, blobs := storetest.Open(t)
	p := &pair{t: t, kv: kv, fa: newFragile(kv), fb: newFragile(kv)}
	p.a = newRigOn(t, Config{Owner: "a", Shards: 8, Grace: time.Second, MinimalBackoff: time.Minute}, p.fa, blobs)
	p.b = &rig{t: t, kv: p.fb, blobs: blobs, transport: p.a.transport, reports: p.a.reports, audit: p.a.audit,
		cfg: Config{Owner: "b", Grace: time.Second, MinimalBackoff: time.Minute}}
	p.b.reopen()
	p.a.shared, p.b.shared = true, true
	return p
}

// start runs both until each has its part.
func (p *pair) start() {
	p.a.start()
	p.b.start()
	time.Sleep(2 * lease.DefaultTTL)
	synctest.Wait()
	for _, r := range []*rig{p.a, p.b} {
		if n := len(r.servedNow()); n != 4 {
			p.t.Errorf("%s serves %d of 8 shards", r.cfg.Owner, n)
		}
	}
}

// accept has a process accept messages to a number of recipients.
func (p *pair) accept(r *rig, n int) {
	for range n {
		i := len(p.ids)
		p.ids = append(p.ids, r.accept(fmt.Sprintf("s%d@a.test", i), fmt.Sprintf("u%d@d%d.test", i, i%3)))
	}
}

// settled checks that the queue is empty, and that every message came to its
// end once and was delivered, at least once and at most the given times, always
// under the same id.
func (p *pair) settled(most int) {
	p.t.Helper()
	synctest.Wait()
	r := &rig{t: p.t, kv: p.kv, blobs: p.a.blobs}
	for _, key := range r.ofMessages([]byte{tag}, []byte{tag + 1}) {
		if key[:2] != "qw" {
			p.t.Errorf("left in the store: %q", key)
		}
	}
	r.check()
	for i, id := range p.ids {
		ids := p.a.transport.delivered(fmt.Sprintf("u%d@d%d.test", i, i%3))
		want := string(id) + ".0"
		if len(ids) == 0 || len(ids) > most || slices.ContainsFunc(ids, func(id string) bool { return id != want }) {
			p.t.Errorf("u%d: delivered as %q, want %q", i, ids, want)
		}
		ends := 0
		for _, e := range p.a.audit.of(id) {
			if e == "final delivered" {
				ends++
			}
		}
		if ends != 1 {
			p.t.Errorf("%s came to its end %d times: %q", id, ends, p.a.audit.of(id))
		}
	}
}

// TestShared: what either process accepts, for whichever shard, is delivered
// once, by who serves the shard; operators are told who that is; whoever leaves
// in order is followed at once, and who comes back gets a part.
func TestShared(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		p := newPair(t)
		p.accept(p.a, 10) // before anybody serves anything
		p.start()
		p.accept(p.a, 40)
		p.accept(p.b, 40)
		time.Sleep(5 * time.Second)
		p.settled(1)

		p.a.transport.set(func(context.Context, mail.Delivery, mail.Recipient) mail.Outcome { return later })
		p.accept(p.a, 20)
		p.accept(p.b, 20)
		time.Sleep(5 * time.Second)
		elsewhere := 0
		for _, id := range p.ids[90:] {
			if err := p.a.Hold(t.Context(), id); errors.Is(err, ErrElsewhere) {
				elsewhere++
				err = p.b.Hold(t.Context(), id)
				if err != nil {
					t.Error(err)
				}
			} else if err != nil {
				t.Error(err)
			}
		}
		if elsewhere == 0 || elsewhere == 40 {
			t.Errorf("%d of 40 are served by the other", elsewhere)
		}
		time.Sleep(2 * time.Second)
		for _, r := range []*rig{p.a, p.b} {
			if st := r.Stats(); st.Messages != 40 || st.Held != 40 {
				t.Errorf("%s: %+v", r.cfg.Owner, st)
			}
		}
		p.a.stop()
		time.Sleep(2 * lease.DefaultTTL / 3)
		if n := len(p.b.servedNow()); n != 8 {
			t.Errorf("b serves %d shards when a has left", n)
		}
		p.a.transport.set(nil)
		if n, err := p.b.ReleaseAll(t.Context(), Filter{}); n != 40 || err != nil {
			t.Errorf("released %d, %v", n, err)
		}
		time.Sleep(time.Second)
		p.settled(1)
		p.a.reopen()
		p.a.start()
		time.Sleep(lease.DefaultTTL)
		if a, b := len(p.a.servedNow()), len(p.b.servedNow()); a != 4 || b != 4 {
			t.Errorf("a serves %d shards and b %d", a, b)
		}
		p.accept(p.a, 20)
		time.Sleep(5 * time.Second)
		p.settled(1)
		p.a.stop()
		p.b.stop()
	})
}

// TestPausedOwner: a process that is stopped while it delivers is replaced. What
// it then learns of its deliveries is not on record, and nothing comes to its
// end twice.
func TestPausedOwner(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		p := newPair(t)
		p.a.transport.set(func(context.Context, mail.Delivery, mail.Recipient) mail.Outcome {
			time.Sleep(3 * time.Second)
			return fine
		})
		p.start()
		p.accept(p.a, 60)
		time.Sleep(time.Second) // in flight on both sides
		p.fa.pause()
		time.Sleep(4 * lease.DefaultTTL)
		if n := len(p.b.servedNow()); n != 8 {
			t.Errorf("b serves %d shards when a is silent", n)
		}
		p.accept(p.b, 20)
		p.fa.resume()
		time.Sleep(4 * lease.DefaultTTL)
		p.settled(2)
		if a, b := len(p.a.servedNow()), len(p.b.servedNow()); a != 4 || b != 4 {
			t.Errorf("a serves %d shards and b %d", a, b)
		}
		p.accept(p.a, 20)
		time.Sleep(30 * time.Second)
		p.settled(2)
		p.a.stop()
		p.b.stop()
	})
}

// TestShortPause: a process that was stopped for less than others wait has lost
// its shards all the same, and takes them anew.
func TestShortPause(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		p := newPair(t)
		p.start()
		p.a.transport.set(func(context.Context, mail.Delivery, mail.Recipient) mail.Outcome {
			time.Sleep(time.Second)
			return fine
		})
		p.accept(p.a, 40)
		p.fa.pause()
		time.Sleep(lease.DefaultTTL - 2*time.Second)
		p.fa.resume()
		time.Sleep(2 * lease.DefaultTTL)
		p.settled(2)
		p.a.stop()
		p.b.stop()
	})
}

// TestKilledOwner: what a process that is killed had in hand is delivered by the
// other, and what it accepted just before too.
func TestKilledOwner(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		p := newPair(t)
		p.start()
		p.a.transport.set(func(_ context.Context, d mail.Delivery, _ mail.Recipient) mail.Outcome {
			time.Sleep(3 * time.Second)
			if d.Attempt == 1 {
				return later
			}
			return fine
		})
		p.accept(p.a, 40)
		time.Sleep(time.Second)
		p.accept(p.a, 20)
		p.fa.dead.Store(true)
		p.a.killed = true
		p.a.transport.mu.Lock()
		attempts := len(p.a.transport.deliveries)
		p.a.transport.mu.Unlock()
		time.Sleep(2 * lease.DefaultTTL)
		if n := len(p.b.servedNow()); n != 8 || attempts == 0 {
			t.Errorf("b serves %d shards when a is dead", n)
		}
		time.Sleep(5 * time.Minute)
		p.settled(2)
		p.b.stop()
	})
}

// TestAlone: who opens a shared queue alone makes the others' leases void.
func TestAlone(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		p := newPair(t)
		p.start()
		p.a.transport.set(func(context.Context, mail.Delivery, mail.Recipient) mail.Outcome {
			time.Sleep(time.Second)
			return fine
		})
		p.accept(p.a, 10)
		time.Sleep(100 * time.Millisecond)
		p.fa.dead.Store(true)
		p.a.killed = true
		p.fb.pause()
		alone := &rig{t: t, kv: p.kv, blobs: p.a.blobs, transport: p.a.transport, reports: p.a.reports, audit: p.a.audit, shared: true}
		alone.reopen()
		alone.start()
		time.Sleep(5 * time.Second)
		p.fb.resume() // too late for it
		p.fb.dead.Store(true)
		p.b.killed = true
		time.Sleep(time.Minute)
		p.settled(2)
		alone.stop()
	})
}

// TestSharedAtRandom accepts at two processes that are stopped for any time and
// go on, at random. In the end every recipient has the message, tried one time
// at least after it was deferred, every sender has one report on who refused it,
// and nothing is left.
func TestSharedAtRandom(t *testing.T) {
	t.Parallel()
	for seed := range uint64(4) {
		synctest.Test(t, func(t *testing.T) {
			rnd := rand.New(rand.NewPCG(seed, 1))
			p := newPair(t)
			p.a.transport.set(func(_ context.Context, d mail.Delivery, to mail.Recipient) mail.Outcome {
				time.Sleep(time.Duration(len(d.ID)*len(to.Address.Local)%7) * time.Second)
				switch {
				case to.Address.Domain == "gone.test":
					return never
				case to.Address.Domain == "slow.test" && d.Attempt == 1:
					return later
				}
				return fine
			})
			p.start()
			paused := map[*fragile]bool{}
			var accepted sync.WaitGroup
			senders := 0
			for range 40 {
				switch f := []*fragile{p.fa, p.fb}[rnd.IntN(2)]; {
				case rnd.IntN(4) > 0:
					r, n := []*rig{p.a, p.b}[rnd.IntN(2)], senders
					senders++
					accepted.Go(func() { // it waits while the process does
						r.accept(fmt.Sprintf("s%d@a.test", n), fmt.Sprintf("u%d@d.test", n),
							fmt.Sprintf("u%d@slow.test", n), fmt.Sprintf("u%d@gone.test", n))
					})
				case paused[f]:
					paused[f] = false
					f.resume()
				default:
					paused[f] = true
					f.pause()
				}
				time.Sleep(time.Duration(rnd.IntN(8000)) * time.Millisecond)
			}
			for f, is := range paused {
				if is {
					f.resume()
				}
			}
			accepted.Wait()
			time.Sleep(6 * time.Minute)
			p.settled(0)
			for n := range senders {
				for _, domain := range []string{"d.test", "slow.test"} {
					if len(p.a.transport.delivered(fmt.Sprintf("u%d@%s", n, domain))) == 0 {
						t.Errorf("u%d@%s got nothing", n, domain)
					}
				}
				reports := p.a.transport.delivered(fmt.Sprintf("s%d@a.test", n))
				slices.Sort(reports)
				if reports = slices.Compact(reports); len(reports) != 1 {
					t.Errorf("s%d was told in %q", n, reports)
				}
			}
			p.a.stop()
			p.b.stop()
		})
		if t.Failed() {
			t.Fatalf("seed %d", seed)
		}
	}
}

// slowInbox is a store whose reader of inboxes has to wait, once it is told so.
type slowInbox struct {
	store.Store
	slow atomic.Bool
	goOn chan struct{}
}

func (f *slowInbox) View(ctx context.Context, fn func(store.Snapshot) error) error {
	return f.Store.View(context.WithoutCancel(ctx), func(v store.Snapshot) error { return fn(slowSnapshot{v, f}) })
}

type slowSnapshot struct {
	store.Snapshot
	of *slowInbox
}

func (v slowSnapshot) Range(lo, hi []byte, limit int, reverse bool) iter.Seq2[store.Pair, error] {
	if lo[1] == 'i' && v.of.slow.Load() {
		<-v.of.goOn
	}
	return v.Snapshot.Range(lo, hi, limit, reverse)
}

// TestStopWhileOpeningInboxes: a process that finds something in an inbox when
// its keeper has ended already ends all the same.
func TestStopWhileOpeningInboxes(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		kv, blobs := storetest.Open(t)
		f := &slowInbox{Store: kv, goOn: make(chan struct{})}
		r := newRigOn(t, Config{Owner: "a", Shards: 64, Grace: time.Second}, f, blobs)
		r.shared = true
		r.start()
		time.Sleep(2 * lease.DefaultTTL)
		f.slow.Store(true)
		r.write(func(b *store.Batch) {
			for s := range uint16(64) {
				b.Put(inboxKey(s, NewID()), inboxValue(time.Now()))
			}
		})
		time.Sleep(2 * shareEvery)
		go r.stop()
		time.Sleep(time.Minute)
		close(f.goOn)
		r.stop()
	})
}
