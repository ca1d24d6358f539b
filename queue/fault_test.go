package queue

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/sys/unix"

	"github.com/postern-mail/postern/mail"
	"github.com/postern-mail/postern/store"
	"github.com/postern-mail/postern/store/pack"
	"github.com/postern-mail/postern/store/storetest"
)

// inHaste is a schedule for tests in real time.
var inHaste = Config{MinimalBackoff: time.Millisecond, MaximalBackoff: time.Millisecond}

// TestFaultAtEveryOperation has each operation of the disks fail once while
// messages are accepted, delivered, deferred, retried and reported. A process
// whose store lives goes on: what it refused is sent again, and everybody has
// every message, or the report of it, once. The power is cut soon after the
// fault, too: the next start finds every message that was accepted until then,
// whole, and leaves nothing in the store.
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
	p := newPromises()
	r := newRigOn(t, inHaste, kv, blobs)
	r.reports.long = 20_000 // into the packs
	r.transport.deliver = p.deliver(t)
	var before *promises
	hit := m.Hit(at, fault, at%4, func() { before = p.now() })
	r.start()
	refused := r.submitAll(p, []string{"s0", "s1", "s2", "s3", "s4"})
	r.until("an end of the traffic", func() bool { return storetest.Failed(kv) || r.Stats().Messages == 0 })
	left, met := hit.Left()
	if goneOn = !storetest.Failed(kv); goneOn {
		for _, sender := range refused {
			if p.reachedBy(sender) > 0 {
				t.Errorf("the message of %s was refused and delivered", sender)
			}
		}
		if again := r.submitAll(p, refused); again != nil {
			t.Errorf("refused again: %q", again)
		}
		r.empty()
		p.once(t)
	}
	r.killed = !goneOn
	r.stop()
	closed := blobs.Close()
	if err := kv.Close(); goneOn && (err != nil || closed != nil) {
		t.Errorf("close: %v, %v", err, closed)
	}

	r.afterCut(left, before)
	return met, goneOn
}

// submitAll accepts messages of some senders at once and returns whose was
// refused.
func (r *rig) submitAll(p *promises, senders []string) (refused []string) {
	var mu sync.Mutex
	var wait sync.WaitGroup
	for _, sender := range senders {
		wait.Go(func() {
			id, err := r.submitFrom(sender)
			if err != nil {
				mu.Lock()
				defer mu.Unlock()
				refused = append(refused, sender)
				return
			}
			p.mu.Lock()
			defer p.mu.Unlock()
			p.accepted[sender] = id
		})
	}
	wait.Wait()
	return refused
}

// reachedBy is how many had something of a sender, or a report to it.
func (p *promises) reachedBy(sender string) int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.reached[sender+"/bob"] + p.reached[sender+"/slow"] + p.reached["/"+sender]
}

// once holds what reached whom against what was accepted where no process
// ended: everybody has each message, and each sender the report, once.
func (p *promises) once(t *testing.T) {
	t.Helper()
	p.mu.Lock()
	defer p.mu.Unlock()
	for sender, id := range p.accepted {
		for _, key := range []string{sender + "/bob", sender + "/slow", "/" + sender} {
			if p.reached[key] != 1 {
				t.Errorf("%s of %s reached %q %d times", id, sender, key, p.reached[key])
			}
		}
	}
}

// afterCut starts a queue on what a power cut left, when before was known.
func (r *rig) afterCut(left *storetest.Machine, before *promises) {
	r.t.Helper()
	p := newPromises()
	kv, blobs := left.Open(r.t)
	next := newRigOn(r.t, inHaste, kv, blobs)
	next.transport.deliver = p.deliver(r.t)
	next.check()
	next.verifyBodies(blobs)
	next.start()
	defer next.stop()
	next.empty()
	p.kept(r.t, before)
}

func (r *rig) verifyBodies(blobs *pack.Blobs) {
	r.t.Helper()
	storetest.VerifyBodies(r.t, blobs, func(ctx context.Context, each func(store.Ref)) error {
		_, err := References(ctx, r.kv, each)
		return err
	})
}

// faultyBlobs do not take bodies of more than small octets while they are
// broken.
type faultyBlobs struct {
	store.Blobs
	broken atomic.Pointer[error]
}

const small = 1000

func (f *faultyBlobs) Link(b *store.Batch, s store.Staged) {
	f.Blobs.Link(b, s)
	if err := f.broken.Load(); err != nil && s.Octets() > small {
		b.Before = append(b.Before, func(context.Context) error { return *err })
	}
}

// TestReportWithoutRoom: a disk that does not take the body of a report has
// this report come later. What else happens is recorded meanwhile, also about
// the message of the report.
func TestReportWithoutRoom(t *testing.T) {
	t.Parallel()
	for _, cause := range []error{unix.EIO, fmt.Errorf("%w: nothing left", store.ErrFull)} {
		synctest.Test(t, func(t *testing.T) {
			kv, blobs := storetest.Open(t)
			f := &faultyBlobs{Blobs: blobs}
			f.broken.Store(&cause)
			r := newRigOn(t, Config{}, kv, f)
			r.reports.long = 2 * small
			r.transport.deliver = func(_ context.Context, d mail.Delivery, rcpt mail.Recipient) mail.Outcome {
				switch {
				case rcpt.Address.Local == "gone":
					return never
				case rcpt.Address.Local == "slow" && d.Attempt < 2:
					return later
				}
				return fine
			}
			r.start()
			defer r.stop()
			r.accept("alice@a.test", "gone@b.test", "slow@c.test")
			settle()
			r.accept("alice@a.test", "bob@b.test")
			settle()
			if st := r.Stats(); st.Messages != 1 {
				t.Errorf("%v: %d messages, of which one waits for its report", cause, st.Messages)
			}
			time.Sleep(time.Hour)
			synctest.Wait()
			if st := r.Stats(); st.Messages != 1 || len(r.transport.delivered("slow@c.test")) != 1 {
				t.Errorf("%v: %d messages, of which one waits for its report", cause, st.Messages)
			}
			f.broken.Store(nil)
			time.Sleep(time.Hour)
			synctest.Wait()
			r.empty()
			if ids := r.transport.delivered("alice@a.test"); len(ids) != 1 {
				t.Errorf("%v: reported as %q", cause, ids)
			}
		})
	}
}

// TestReportRefused: a report that the store refuses for a reason of its own
// comes later, once; when its message is deleted meanwhile it never comes.
func TestReportRefused(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r, f := newFaultyRig(t, Config{})
		r.transport.deliver = to(map[string]mail.Outcome{"gone": never, "slow": later})
		r.start()
		refuse := func(b *store.Batch) error {
			for _, op := range b.Ops {
				if b.UseReserve && op.Kind == store.OpPut && op.Key[0] == tag && op.Key[1] == 'm' {
					return errors.New("not this one")
				}
			}
			return nil
		}
		f.refuse.Store(&refuse)
		deleted := r.accept("alice@a.test", "gone@b.test", "slow@c.test")
		r.accept("erin@e.test", "gone@b.test")
		settle()
		if st := r.Stats(); st.Messages != 2 {
			t.Errorf("%d messages, 2 wait for their reports", st.Messages)
		}
		if err := r.Delete(context.Background(), deleted); err != nil {
			t.Error(err)
		}
		f.refuse.Store(nil)
		time.Sleep(3 * idleWait)
		synctest.Wait()
		if ids := r.transport.delivered("erin@e.test"); len(ids) != 1 {
			t.Errorf("reported as %q", ids)
		}
		if ids := r.transport.delivered("alice@a.test"); ids != nil {
			t.Errorf("reported on a deleted message as %q", ids)
		}
		r.empty()
		r.mu.Lock()
		for id := range r.active {
			t.Errorf("left in memory: %s", id)
		}
		r.mu.Unlock()
		r.stop()
	})
}
