package queue

import (
	"context"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"pgregory.net/rapid"

	"github.com/postern-mail/postern/mail"
)

// pushWith puts a group of somebody's in line, with a priority.
func pushWith(s *schedule, sender, destination string, priority int8, n int) {
	rec := &record{envelope: mail.Envelope{
		ReversePath: mail.Address{Local: mail.LocalPart(sender), Domain: "a.test"}, Priority: priority,
	}}
	s.push(item{m: &message{id: mail.QueueID(fmt.Sprint(destination, n)), record: rec}, to: s.destination(destination)})
}

// TestPriorityShares: with much of everything waiting each priority gets the
// share of its weight, and none is kept waiting longer than the weights of the
// others allow, wherever it waits: in one line, or at destinations of its own.
func TestPriorityShares(t *testing.T) {
	t.Parallel()
	for _, apart := range []bool{false, true} {
		rapid.Check(t, func(t *rapid.T) {
			priorities := rapid.SliceOfNDistinct(rapid.Int8Range(mail.LowestPriority, mail.HighestPriority), 2, 5, rapid.ID).Draw(t, "priorities")
			var s schedule
			cfg, _ := Config{Workers: 1, InitialConcurrency: 1, MaximalConcurrency: 1, ActiveLimit: 1 << 20}.withDefaults()
			s.init(cfg, nil)
			const each = 300
			for n := range each {
				for _, p := range priorities {
					destination := "b"
					if apart {
						destination = fmt.Sprint("b", p)
					}
					pushWith(&s, "alice", destination, p, n)
				}
			}
			total := 0.0
			for _, p := range priorities {
				total += 1 / float64(stride(p))
			}
			served, last := map[int8]int{}, map[int8]int{}
			now := time.Unix(1000, 0)
			for turn := range each {
				it, ok := s.next(now, anyItem)
				if !ok {
					t.Fatal("nothing to do")
				}
				p := it.priority()
				served[p]++
				longest := 1.0
				for _, other := range priorities {
					if other != p {
						longest += float64(stride(p))/float64(stride(other)) + 2
					}
				}
				if gap := turn - last[p]; float64(gap) > longest {
					t.Fatalf("priority %d waited for %d turns, at most %.0f are right", p, gap, longest)
				}
				last[p] = turn
				s.done(it, reached, mail.Outcome{}, now, 0)
			}
			for _, p := range priorities {
				want := each / float64(stride(p)) / total
				if got := float64(served[p]); got < want*0.9-float64(len(priorities))-1 || got > want*1.1+float64(len(priorities))+1 {
					t.Errorf("priority %d had %v turns of %d, its share is %.0f", p, got, each, want)
				}
			}
		})
	}
}

// TestUrgentIsNext: what is urgent is tried before all that came before it, of
// the same sender, too, and a bulk sender who raises his own keeps half of the
// workers from nobody.
func TestUrgentIsNext(t *testing.T) {
	t.Parallel()
	s := newSchedule(t, Config{Workers: 1, InitialConcurrency: 1, MaximalConcurrency: 1}, nil)
	now := time.Unix(1000, 0)
	for i := range 10 {
		pushWith(s, "alice", "b", 0, i)
	}
	first, _ := s.next(now, anyItem)
	pushWith(s, "alice", "b", 4, 100)
	s.done(first, reached, mail.Outcome{}, now, 0)
	if it, _ := s.next(now, anyItem); it.m.id != "b100" {
		t.Errorf("next is %s, want the urgent one", it.m.id)
	}

	s = newSchedule(t, Config{Workers: 1, InitialConcurrency: 1, MaximalConcurrency: 1}, nil)
	for i := range 100 {
		pushWith(s, "bulk", "b", mail.HighestPriority, i)
	}
	for i := range 10 {
		pushWith(s, "alice", "b", 0, 1000+i)
	}
	alice := 0
	for range 20 {
		it, _ := s.next(now, anyItem)
		if it.sender().Local == "alice" {
			alice++
		}
		s.done(it, reached, mail.Outcome{}, now, 0)
	}
	// He became one of many with the 21st; his first twenty wait among the few.
	if alice < 5 {
		t.Errorf("alice had %d of 20 turns beside a bulk sender who raises his mail", alice)
	}
}

// TestPrioritiesOutOfLine removes groups at random: what is left comes out once
// each, and the counts are right.
func TestPrioritiesOutOfLine(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		var s schedule
		cfg, _ := Config{}.withDefaults()
		s.init(cfg, nil)
		var all []item
		for n := range rapid.IntRange(1, 60).Draw(t, "n") {
			p := rapid.Int8Range(-2, 2).Draw(t, "priority")
			rec := &record{envelope: mail.Envelope{
				ReversePath: mail.Address{Local: mail.LocalPart(fmt.Sprint("s", n%3)), Domain: "a.test"}, Priority: p,
			}}
			it := item{m: &message{id: mail.QueueID(fmt.Sprint(n)), record: rec}, to: s.destination("b")}
			s.push(it)
			all = append(all, it)
		}
		left := map[mail.QueueID]bool{}
		for _, it := range all {
			if rapid.Bool().Draw(t, "remove") {
				s.remove(it)
			} else {
				left[it.m.id] = true
			}
		}
		if s.groups != len(left) {
			t.Fatalf("%d groups, want %d", s.groups, len(left))
		}
		now := time.Unix(1000, 0)
		for len(left) > 0 {
			it, ok := s.next(now, anyItem)
			if !ok || !left[it.m.id] {
				t.Fatalf("got %v, %v; left %v", it.m, ok, left)
			}
			delete(left, it.m.id)
			s.done(it, reached, mail.Outcome{}, now, 0)
		}
		if _, ok := s.next(now, anyItem); ok || s.groups != 0 || len(s.senders) != 0 {
			t.Fatalf("left over: %d groups, senders %v", s.groups, s.senders)
		}
	})
}

// acceptWith queues a message with a priority.
func (r *rig) acceptWith(priority int8, from string, to ...string) mail.QueueID {
	r.t.Helper()
	s := r.submit(from, to...)
	s.Envelope.Priority = priority
	if err := r.Accept(context.Background(), s); err != nil {
		r.t.Fatal(err)
	}
	return s.ID
}

// TestCrowdedLetsUrgentIn: with memory full of mail to hosts that take an hour
// each, urgent mail is tried: new, deferred before, and after a restart, far
// behind in the order of what is due.
func TestCrowdedLetsUrgentIn(t *testing.T) {
	t.Parallel()
	cfg := Config{ActiveLimit: 40, Workers: 5, InitialConcurrency: 2, MaximalConcurrency: 2, Grace: time.Second}
	inBubble(t, cfg, func(t *testing.T, r *rig) {
		slow := func(ctx context.Context, _ mail.Delivery, rcpt mail.Recipient) mail.Outcome {
			if rcpt.Address.Local == "urgent" {
				return fine
			}
			select {
			case <-ctx.Done():
			case <-time.After(24 * time.Hour):
			}
			return later
		}
		r.transport.deliver = to(map[string]mail.Outcome{"urgent": later})
		r.start()
		before := r.acceptWith(5, "alice@a.test", "urgent@u.test")
		settle()
		r.transport.set(slow)
		for n := range 200 {
			r.accept(fmt.Sprintf("s%d@a.test", n), "bob@"+[]string{"b.test", "c.test"}[n%2])
		}
		settle()
		if got := r.Stats().Active; got != 40 {
			t.Fatalf("%d in memory, want it full", got)
		}
		fresh := r.acceptWith(1, "alice@a.test", "urgent@v.test")
		settle()
		if got := r.transport.delivered("urgent@v.test"); len(got) != 1 {
			t.Errorf("%s is new and urgent and was not tried: %+v", fresh, r.Stats())
		}
		time.Sleep(10 * time.Minute) // a backoff
		synctest.Wait()
		if got := r.transport.delivered("urgent@u.test"); len(got) != 1 {
			t.Errorf("%s was deferred, is urgent and was not tried", before)
		}
		// Raised by an operator, behind all the others.
		r.transport.set(func(ctx context.Context, d mail.Delivery, rcpt mail.Recipient) mail.Outcome {
			if d.Envelope.Priority > 0 {
				return fine
			}
			return slow(ctx, d, rcpt)
		})
		raised := r.accept("alice@a.test", "dave@d.test")
		if err := r.SetPriority(t.Context(), raised, 9); err != nil {
			t.Fatal(err)
		}
		settle()
		if got := r.transport.delivered("dave@d.test"); len(got) != 1 {
			t.Errorf("%s was raised and not tried", raised)
		}
		r.stop()
		last := r.acceptStopped(t, 3, "urgent@w.test")
		r.reopen()
		r.start()
		settle()
		settle()
		if got := r.transport.delivered("urgent@w.test"); len(got) != 1 {
			t.Errorf("%s is urgent and was not found after a restart", last)
		}
	})
}

// acceptStopped queues a message in a queue that does not run.
func (r *rig) acceptStopped(t *testing.T, priority int8, to string) mail.QueueID {
	t.Helper()
	r.reopen()
	return r.acceptWith(priority, "alice@a.test", to)
}

// TestSetPriority: it is kept, handed to next hops, given to reports, and
// shown.
func TestSetPriority(t *testing.T) {
	t.Parallel()
	inBubble(t, Config{}, func(t *testing.T, r *rig) {
		r.transport.deliver = to(map[string]mail.Outcome{"slow": later})
		r.start()
		id := r.acceptWith(-4, "alice@a.test", "slow@b.test")
		settle()
		for _, p := range []int8{3, 0, 7} {
			if err := r.SetPriority(t.Context(), id, p); err != nil {
				t.Fatal(err)
			}
			r.restart()
			settle()
			if m, _ := r.show(id); m.Envelope.Priority != p {
				t.Errorf("priority %d, want %d", m.Envelope.Priority, p)
			}
		}
		r.transport.set(to(map[string]mail.Outcome{"slow": never}))
		if err := r.Retry(t.Context(), id); err != nil {
			t.Fatal(err)
		}
		settle()
		r.empty()
		a := r.transport.attempts()
		if got := a[len(a)-2].Envelope.Priority; got != 7 {
			t.Errorf("delivered with priority %d, want 7", got)
		}
		if report := a[len(a)-1].Envelope; !report.ReversePath.IsNull() || report.Priority != 7 {
			t.Errorf("report with %+v, want priority 7", report)
		}
	})
}
