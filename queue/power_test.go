package queue

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"maps"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/postern-mail/postern/mail"
	"github.com/postern-mail/postern/store/storetest"
)

// promises is what the outside world knows of a queue: whose messages it
// accepted, and what reached whom. Each message has a sender of its own, and
// recipients at b.test of which bob takes it, slow the second time and gone
// never.
type promises struct {
	mu       sync.Mutex
	accepted map[string]mail.QueueID // by the sender's local-part
	reached  map[string]int          // "local-part of the sender/recipient", "/sender" for a report
}

func newPromises() *promises {
	return &promises{accepted: map[string]mail.QueueID{}, reached: map[string]int{}}
}

// now returns a copy.
func (p *promises) now() *promises {
	p.mu.Lock()
	defer p.mu.Unlock()
	return &promises{accepted: maps.Clone(p.accepted), reached: maps.Clone(p.reached)}
}

// bodyOf is the message of a sender; some are in the batch, in memory until
// the link, in one pack or in several pieces.
func bodyOf(sender string) []byte {
	var n int
	_, _ = fmt.Sscanf(sender, "s%d", &n) // 0 would do as well
	size := []int{100, 20_000, 70_000, 300_000}[n%4]
	return fmt.Appendf(nil, "From: %s\r\n\r\n%s\r\n", sender, strings.Repeat(sender+" ", size/4))
}

// deliver is the next hop: it reads the message, whole.
func (p *promises) deliver(t testing.TB) func(context.Context, mail.Delivery, mail.Recipient) mail.Outcome {
	return func(_ context.Context, d mail.Delivery, rcpt mail.Recipient) mail.Outcome {
		sender := string(d.Envelope.ReversePath.Local)
		content, err := d.Open()
		if err != nil {
			t.Errorf("%s: open the message: %v", d.ID, err)
			return later
		}
		defer content.Close()
		octets, err := io.ReadAll(content)
		if err != nil || int64(len(octets)) != d.Octets || sender != "" && !bytes.Equal(octets, bodyOf(sender)) {
			t.Errorf("%s from %q: read %d octets of %d, %v", d.ID, sender, len(octets), d.Octets, err)
		}
		switch local := string(rcpt.Address.Local); {
		case local == "gone":
			return never
		case local == "slow" && d.Attempt < 2:
			return later
		default:
			p.mu.Lock()
			defer p.mu.Unlock()
			p.reached[sender+"/"+local]++
			return fine
		}
	}
}

// kept holds the outside world's knowledge at the end against what was
// accepted: each recipient has the message or the sender a report.
func (p *promises) kept(t testing.TB, before *promises) {
	t.Helper()
	for sender, id := range before.accepted {
		for _, key := range []string{sender + "/bob", sender + "/slow", "/" + sender} {
			if before.reached[key]+p.reached[key] == 0 {
				t.Errorf("%s of %s was accepted, and nothing reached %q", id, sender, key)
			}
		}
	}
}

// submitFrom accepts the message of a sender.
func (r *rig) submitFrom(sender string) (mail.QueueID, error) {
	staged, err := r.Stage(context.Background(), bytes.NewReader(bodyOf(sender)))
	if err != nil {
		return "", err
	}
	s := Submission{ID: NewID(), Content: staged}
	s.Envelope.ReversePath = mail.MustAddress(sender + "@a.test")
	for _, to := range []string{"bob@b.test", "slow@b.test", "gone@c.test"} {
		a := mail.MustAddress(to)
		s.Envelope.Recipients = append(s.Envelope.Recipients, mail.Recipient{Address: a, Accepted: a})
	}
	return s.ID, r.Accept(context.Background(), s)
}

// powerCut is a machine as the power left it, and what was known then.
type powerCut struct {
	n      int
	left   *storetest.Machine
	before *promises
}

// TestPowerCuts accepts, delivers, defers, retries and reports, and cuts the
// power of store and bodies together all the while. After each cut the queue
// starts again: every message accepted before is delivered or reported, whole,
// and nothing is left in the store.
func TestPowerCuts(t *testing.T) {
	t.Parallel()
	cuts := busyUntilEmpty(t, 6)
	if len(cuts) < 10 {
		t.Errorf("only %d cuts", len(cuts))
	}
	accepted := 0
	for _, cut := range cuts {
		synctest.Test(t, func(t *testing.T) {
			time.Sleep(time.Hour) // the clock goes on
			p := newPromises()
			kv, blobs := cut.left.Open(t)
			r := newRigOn(t, Config{}, kv, blobs)
			r.transport.deliver = p.deliver(t)
			r.start()
			defer r.stop()
			time.Sleep(2 * time.Hour)
			synctest.Wait()
			r.empty()
			p.kept(t, cut.before)
			accepted += len(cut.before.accepted)
		})
		if t.Failed() {
			t.Fatalf("after the power cut ahead of operation %d", cut.n)
		}
	}
	t.Logf("%d cuts, %d accepted messages followed", len(cuts), accepted)
}

// busyUntilEmpty runs a queue through a number of messages and returns a power
// cut ahead of every so many operations of its disks.
func busyUntilEmpty(t *testing.T, every int) (cuts []powerCut) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		m := storetest.NewMachine()
		p := newPromises()
		kv, blobs := m.Open(t)
		r := newRigOn(t, Config{}, kv, blobs)
		r.transport.deliver = p.deliver(t)
		var mu sync.Mutex
		m.OnOp(func(n int) {
			if n%every != 0 {
				return
			}
			before := p.now() // what is known after the cut does not count
			left := m.Cut(uint64(n))
			mu.Lock()
			defer mu.Unlock()
			cuts = append(cuts, powerCut{n, left, before})
		})
		r.start()
		defer r.stop()
		var senders sync.WaitGroup
		for worker := range 3 {
			senders.Go(func() {
				for i := range 5 {
					sender := fmt.Sprintf("s%d", 3*i+worker)
					id, err := r.submitFrom(sender)
					if err != nil {
						t.Error(err)
						return
					}
					p.mu.Lock()
					p.accepted[sender] = id
					p.mu.Unlock()
				}
			})
		}
		senders.Wait()
		time.Sleep(time.Hour)
		synctest.Wait()
		r.empty()
		m.OnOp(nil)
		p.kept(t, p.now())
	})
	return cuts
}
