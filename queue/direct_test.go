package queue

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/postern-mail/postern/mail"
	"github.com/postern-mail/postern/status"
	"github.com/postern-mail/postern/store"
)

// Direct lets mail be brought to near.test while the client waits.
func (t *transport) Direct(destination string) bool { return destination == "near.test" }

// startWhole starts the queue and waits until it runs.
func (r *rig) startWhole() {
	r.t.Helper()
	r.start()
	r.until("running", func() bool {
		r.mu.Lock()
		defer r.mu.Unlock()
		return r.running
	})
}

// direct submits a message and tells what the client is told.
func (r *rig) direct(s Submission) (delivered bool, refusal *status.Reply) {
	r.t.Helper()
	delivered, err := r.Submit(context.Background(), s)
	var known *status.Error
	if errors.As(err, &known) && known.Remote != nil {
		return delivered, known.Remote
	}
	if err != nil {
		r.t.Fatal(err)
	}
	return delivered, nil
}

// TestDirectGivenUp: mail that gets one attempt, and whose sender nobody tells,
// is not called delivered when it was not.
func TestDirectGivenUp(t *testing.T) {
	t.Parallel()
	inBubble(t, Config{BounceLifetime: -1}, func(t *testing.T, r *rig) {
		r.transport.deliver = func(context.Context, mail.Delivery, mail.Recipient) mail.Outcome { return later }
		r.startWhole()
		s := r.submit("", "bob@near.test")
		if delivered, refusal := r.direct(s); delivered || refusal != nil {
			t.Errorf("delivered %t, refused %v", delivered, refusal)
		}
		want := []string{"accept ok", "delivery deferred", "final bounced"}
		if got := r.audit.of(s.ID); !slices.Equal(got, want) {
			t.Errorf("audit %q, want %q", got, want)
		}
		r.empty()
	})
}

// TestDirect: one attempt while the client waits, and what each outcome of it
// makes of the message.
func TestDirect(t *testing.T) {
	t.Parallel()
	type want struct {
		delivered, refused, queued bool
		attempts                   int // of the whole message, an hour later
		reports                    int
		audit                      []string // for the first hour
	}
	wholly := []string{"accept ok", "delivery delivered", "final delivered"}
	for name, row := range map[string]struct {
		from    string
		to      []string
		answers map[string]mail.Outcome
		change  func(*Submission)
		want    want
	}{
		"delivered": {"alice@a.test", []string{"bob@near.test", "carol@near.test"}, nil, nil,
			want{delivered: true, attempts: 1, audit: wholly}},
		"refused by all": {"alice@a.test", []string{"bob@near.test", "carol@near.test"},
			map[string]mail.Outcome{"bob": never, "carol": never}, nil,
			want{refused: true, attempts: 1, audit: []string{"delivery bounced"}}},
		"refused, nobody to tell": {"", []string{"bob@near.test"}, map[string]mail.Outcome{"bob": never}, nil,
			want{refused: true, attempts: 1, audit: []string{"delivery bounced"}}},
		"refused by one": {"alice@a.test", []string{"bob@near.test", "carol@near.test"},
			map[string]mail.Outcome{"bob": never}, nil,
			want{queued: true, attempts: 1, reports: 1,
				audit: []string{"accept ok", "delivery bounced", "delivery delivered", "final bounced"}}},
		"refused by one, nobody to tell": {"", []string{"bob@near.test", "carol@near.test"},
			map[string]mail.Outcome{"bob": never}, nil,
			want{delivered: true, attempts: 1,
				audit: []string{"accept ok", "delivery bounced", "delivery delivered", "final bounced"}}},
		"on hold": {"alice@a.test", []string{"bob@near.test"}, nil, func(s *Submission) { s.Hold = true },
			want{queued: true, audit: []string{"accept held"}}},
		"a report is asked for": {"alice@a.test", []string{"bob@near.test"},
			map[string]mail.Outcome{"bob": {Class: mail.Delivered, Reply: fine.Reply, FromPeer: true, Final: true}},
			func(s *Submission) { s.Envelope.Recipients[0].Notify = mail.NotifySuccess },
			want{queued: true, attempts: 1, reports: 1, audit: wholly}},
		"far away":         {"alice@a.test", []string{"bob@far.test"}, nil, nil, want{queued: true, attempts: 1, audit: wholly}},
		"near and far":     {"alice@a.test", []string{"bob@near.test", "bob@far.test"}, nil, nil, want{queued: true, attempts: 2}},
		"as many as fit":   {"alice@a.test", addressesAt("near.test", 50), nil, nil, want{delivered: true, attempts: 1}},
		"more than fit":    {"alice@a.test", addressesAt("near.test", 51), nil, nil, want{queued: true, attempts: 2}},
		"before the start": {"alice@a.test", []string{"bob@near.test"}, nil, nil, want{queued: true, attempts: 1}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			inBubble(t, Config{}, func(t *testing.T, r *rig) {
				r.transport.deliver = to(row.answers)
				if name != "before the start" {
					r.startWhole()
				}
				s := r.submit(row.from, row.to...)
				if row.change != nil {
					row.change(&s)
				}
				delivered, refusal := r.direct(s)
				stored := len(r.ofMessages([]byte{tag}, []byte{tag + 1})) > 0 || r.Stats().Accepted > 0 && !delivered
				if delivered != row.want.delivered || (refusal != nil) != row.want.refused || stored != row.want.queued {
					t.Errorf("delivered %t, refused %v, queued %t; want %+v", delivered, refusal, stored, row.want)
				}
				if name == "before the start" {
					r.start()
				}
				time.Sleep(time.Hour)
				attempts := slices.DeleteFunc(r.transport.attempts(), func(d mail.Delivery) bool { return d.QueueID != s.ID })
				if len(attempts) != row.want.attempts || len(r.reports.all()) != row.want.reports {
					t.Errorf("%d attempts and %d reports, want %+v", len(attempts), len(r.reports.all()), row.want)
				}
				if got := r.audit.of(s.ID); row.want.audit != nil && !slices.Equal(got, row.want.audit) {
					t.Errorf("audited %q, want %q", got, row.want.audit)
				}
				if !s.Hold {
					r.empty()
				}
			})
		})
	}
}

func addressesAt(domain string, n int) (list []string) {
	for i := range n {
		list = append(list, "p"+string(rune('a'+i/26))+string(rune('a'+i%26))+"@"+domain)
	}
	return list
}

// TestDirectPutOff: a next hop that cannot take a message now gets it again by
// the schedule, under the same id, whatever happens in between. One that was
// out of reach gets it as soon as it is back.
func TestDirectPutOff(t *testing.T) {
	t.Parallel()
	for name, row := range map[string]struct {
		outcome  mail.Outcome
		attempts int // on record afterwards
		soon     bool
	}{
		"full":         {later, 1, false},
		"out of reach": {offline, 0, true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			inBubble(t, Config{MinimalBackoff: 5 * time.Minute}, func(t *testing.T, r *rig) {
				answers := map[string]mail.Outcome{"bob": row.outcome}
				if row.soon {
					answers["carol"] = row.outcome
				}
				r.transport.deliver = to(answers)
				r.startWhole()
				s := r.submit("alice@a.test", "bob@near.test", "carol@near.test")
				if delivered, refusal := r.direct(s); delivered || refusal != nil {
					t.Errorf("delivered %t, refused %v", delivered, refusal)
				}
				if m, ok := r.show(s.ID); !ok || m.Recipients[0].Attempts != row.attempts {
					t.Errorf("queued as %+v", m)
				}
				time.Sleep(30 * time.Second)
				if again := len(r.transport.attempts()) > 1; again != row.soon {
					t.Errorf("%d attempts in the first half minute", len(r.transport.attempts()))
				}
				r.stop()
				r.transport.deliver = nil
				r.reopen()
				r.start()
				time.Sleep(10 * time.Minute)
				r.empty()
				for _, d := range r.transport.attempts() {
					if d.ID != r.transport.attempts()[0].ID {
						t.Errorf("ids %q and %q", d.ID, r.transport.attempts()[0].ID)
					}
				}
				if bob, carol := r.transport.delivered("bob@near.test"), r.transport.delivered("carol@near.test"); len(bob) != 1 || len(carol) != 1 {
					t.Errorf("delivered %q and %q", bob, carol)
				}
			})
		})
	}
}

// TestDirectOutage: while a destination is out of reach nobody waits for it.
func TestDirectOutage(t *testing.T) {
	t.Parallel()
	inBubble(t, Config{}, func(t *testing.T, r *rig) {
		var up atomic.Bool
		r.transport.deliver = func(context.Context, mail.Delivery, mail.Recipient) mail.Outcome {
			if up.Load() {
				return fine
			}
			return offline
		}
		r.startWhole()
		r.direct(r.submit("alice@a.test", "bob@near.test"))
		before := len(r.transport.attempts())
		up.Store(true)
		if delivered, _ := r.direct(r.submit("alice@a.test", "carol@near.test")); delivered || len(r.transport.attempts()) != before {
			t.Error("a client waited for a destination that was out of reach a moment ago")
		}
		time.Sleep(time.Hour)
		if delivered, _ := r.direct(r.submit("alice@a.test", "carol@near.test")); !delivered {
			t.Error("the destination is in reach again and mail for it is queued")
		}
		r.empty()
	})
}

// TestDirectHangs: a client waits half a minute for a next hop, then the queue
// has its message.
func TestDirectHangs(t *testing.T) {
	t.Parallel()
	inBubble(t, Config{}, func(t *testing.T, r *rig) {
		r.transport.deliver = func(ctx context.Context, _ mail.Delivery, _ mail.Recipient) mail.Outcome {
			if len(r.transport.attempts()) > 1 {
				return fine
			}
			<-ctx.Done()
			return later
		}
		r.startWhole()
		began := time.Now()
		s := r.submit("alice@a.test", "bob@near.test")
		if delivered, refusal := r.direct(s); delivered || refusal != nil {
			t.Errorf("delivered %t, refused %v", delivered, refusal)
		}
		if took := time.Since(began); took != directPatience {
			t.Errorf("the client waited %v", took)
		}
		if delivered, _ := r.direct(r.submit("alice@a.test", "bob@near.test")); delivered || time.Since(began) != directPatience {
			t.Errorf("delivered %t, and the next client waited as well", delivered)
		}
		time.Sleep(time.Hour)
		r.empty()
		if got := r.transport.delivered("bob@near.test"); len(got) != 2 {
			t.Errorf("delivered %q", got)
		}
	})
}

// TestDirectPanics: a transport with a mistake in it costs no mail.
func TestDirectPanics(t *testing.T) {
	t.Parallel()
	inBubble(t, Config{}, func(t *testing.T, r *rig) {
		r.transport.deliver = func(_ context.Context, d mail.Delivery, _ mail.Recipient) mail.Outcome {
			if d.Attempt > 1 {
				return fine
			}
			panic("mistake")
		}
		r.startWhole()
		if delivered, refusal := r.direct(r.submit("alice@a.test", "bob@near.test")); delivered || refusal != nil {
			t.Errorf("delivered %t, refused %v", delivered, refusal)
		}
		time.Sleep(time.Hour)
		r.empty()
	})
}

// TestDirectStoreDown: what the next hop did not take and the store cannot
// keep is not accepted.
func TestDirectStoreDown(t *testing.T) {
	t.Parallel()
	r, faulty := newFaultyRig(t, Config{})
	r.transport.deliver = to(map[string]mail.Outcome{"bob": later})
	r.startWhole()
	broken := func(*store.Batch) error { return errors.New("input/output error") }
	faulty.refuse.Store(&broken)
	_, err := r.Submit(t.Context(), r.submit("alice@a.test", "bob@near.test"))
	if status.Of(err) != status.StoreDown || !status.ReplyOf(err).Transient() {
		t.Errorf("got %v", err)
	}
	delivered, err := r.Submit(t.Context(), r.submit("alice@a.test", "carol@near.test"))
	if err != nil || !delivered {
		t.Errorf("a message that needs no store: %t, %v", delivered, err)
	}
	faulty.refuse.Store(nil)
	r.empty()
}

// TestDirectConcurrency: no more at once than the destination takes; who comes
// then is queued and delivered all the same.
func TestDirectConcurrency(t *testing.T) {
	t.Parallel()
	inBubble(t, Config{MaximalConcurrency: 3}, func(t *testing.T, r *rig) {
		gate := make(chan struct{})
		r.transport.deliver = func(context.Context, mail.Delivery, mail.Recipient) mail.Outcome {
			<-gate
			return fine
		}
		r.startWhole()
		const clients = 10
		answers := make(chan bool, clients)
		for range clients {
			s := r.submit("alice@a.test", "bob@near.test")
			go func() {
				delivered, err := r.Submit(context.Background(), s)
				answers <- delivered && err == nil
			}()
		}
		for range clients - 3 {
			if <-answers {
				t.Error("more were delivered at once than the destination takes")
			}
		}
		if n := r.Stats().InFlight; n != 3 {
			t.Errorf("%d deliveries at once", n)
		}
		close(gate)
		for range 3 {
			if !<-answers {
				t.Error("one of the first was queued")
			}
		}
		time.Sleep(time.Hour)
		r.empty()
		if got := r.transport.delivered("bob@near.test"); len(got) != clients {
			t.Errorf("%d deliveries, want %d", len(got), clients)
		}
	})
}

// TestDirectMakesRoom: what waited for room in memory goes on when a delivery
// that went past the queue was what took it.
func TestDirectMakesRoom(t *testing.T) {
	t.Parallel()
	inBubble(t, Config{ActiveLimit: 2}, func(t *testing.T, r *rig) {
		gate := make(chan struct{})
		r.transport.deliver = func(_ context.Context, _ mail.Delivery, to mail.Recipient) mail.Outcome {
			if to.Address.Domain == "near.test" {
				<-gate
			}
			return fine
		}
		r.startWhole()
		answers := make(chan bool, 2)
		for range 2 {
			s := r.submit("alice@a.test", "bob@near.test")
			go func() {
				delivered, err := r.Submit(context.Background(), s)
				answers <- delivered && err == nil
			}()
		}
		synctest.Wait()
		r.accept("alice@a.test", "carol@far.test")
		time.Sleep(time.Second) // the keeper finds no room
		close(gate)
		for range 2 {
			if !<-answers {
				t.Error("not delivered at once")
			}
		}
		time.Sleep(idleWait)
		r.empty()
	})
}

// TestDirectNotTried: an attempt that got to no next hop, for want of a
// connection or of anything else of ours, is none: the queue makes it at once.
func TestDirectNotTried(t *testing.T) {
	t.Parallel()
	inBubble(t, Config{}, func(t *testing.T, r *rig) {
		r.transport.deliver = func(context.Context, mail.Delivery, mail.Recipient) mail.Outcome {
			if len(r.transport.attempts()) > 1 {
				return fine
			}
			return mail.Outcome{Class: mail.Deferred, Reply: status.ServerBusy.Reply()}
		}
		r.startWhole()
		if delivered, refusal := r.direct(r.submit("alice@a.test", "bob@near.test")); delivered || refusal != nil {
			t.Errorf("delivered %t, refused %v", delivered, refusal)
		}
		synctest.Wait()
		r.empty()
		if got := r.transport.attempts(); len(got) != 2 || got[0].ID != got[1].ID || got[1].Attempt != 1 {
			t.Errorf("attempts %+v", got)
		}
	})
}

// TestDirectRefusal: the client gets the next hop's words, but what they say
// is about one message.
func TestDirectRefusal(t *testing.T) {
	t.Parallel()
	for _, row := range []struct {
		said, want string
		smtpUTF8   bool
	}{
		{"550 5.1.1 nobody", "550 5.1.1 nobody", false},
		{"552 too much", "552 5.0.0 too much", false},
		{"521 5.3.2 not here", "554 5.3.2 not here", false},
		{"550 5.7.1 " + strings.Repeat("ü", 300), "550 5.7.1 " + strings.Repeat("ü", maxPassedOctets/2), true},
		{"550 5.7.1 für \xff nicht", "550 5.7.1 für ? nicht", true},
		// RFC 6531 section 3.7.4.2: a reply to this client is ASCII.
		{"550 5.7.1 für \xff nicht", `550 5.7.1 f\x{FC}r ? nicht`, false},
		{"550 5.7.1 " + strings.Repeat("ü", 300), "550 5.7.1 " + strings.Repeat(`\x{FC}`, 300)[:maxPassedOctets], false},
	} {
		var said status.Reply
		text := row.said[4:]
		if _, err := fmt.Sscanf(row.said, "%d %d.%d.%d", &said.Code, &said.Enhanced[0], &said.Enhanced[1], &said.Enhanced[2]); err == nil {
			text = row.said[10:]
		}
		said.Text = text
		err := refusedByAll([]mail.Outcome{{Class: mail.Bounced, Reply: said, FromPeer: true}}, row.smtpUTF8)
		if got := status.ReplyOf(err).String(); got != row.want {
			t.Errorf("%s: client gets %q", row.said, got)
		}
	}
}

// TestUncertain: what the next hop may have is not repeated as soon as it could
// be, in or out of the queue, and mail for others goes on.
func TestUncertain(t *testing.T) {
	t.Parallel()
	for _, domain := range []string{"near.test", "far.test"} {
		t.Run(domain, func(t *testing.T) {
			t.Parallel()
			inBubble(t, Config{MinimalBackoff: 5 * time.Minute}, func(t *testing.T, r *rig) {
				lost := mail.Outcome{Class: mail.Deferred, Reply: status.ConnectionLost.Reply(), Uncertain: true}
				r.transport.deliver = to(map[string]mail.Outcome{"bob": lost})
				r.startWhole()
				r.direct(r.submit("alice@a.test", "bob@"+domain))
				time.Sleep(4 * time.Minute)
				if n := len(r.transport.attempts()); n != 1 {
					t.Errorf("%d attempts in the first minutes", n)
				}
				r.accept("alice@a.test", "carol@"+domain)
				synctest.Wait()
				if got := r.transport.delivered("carol@" + domain); len(got) != 1 {
					t.Errorf("delivered to another %q", got)
				}
				r.transport.set(nil)
				time.Sleep(10 * time.Minute)
				r.empty()
			})
		})
	}
}

// TestDirectLarge: a large message may take its time, and the destination is
// none the worse for it; whatever takes too long is queued.
func TestDirectLarge(t *testing.T) {
	t.Parallel()
	for octets, want := range map[int64]time.Duration{
		0: directPatience, 100 << 10: directPatience, 50 << 20: directPatience + 100*time.Second, 10 << 30: maxDirectPatience,
	} {
		if got := patience(octets); got != want {
			t.Errorf("%d octets: %v, want %v", octets, got, want)
		}
	}
	inBubble(t, Config{}, func(t *testing.T, r *rig) {
		r.transport.deliver = func(ctx context.Context, _ mail.Delivery, _ mail.Recipient) mail.Outcome {
			select {
			case <-time.After(35 * time.Second):
				return fine
			case <-ctx.Done():
				return offline
			}
		}
		r.startWhole()
		s := r.submit("alice@a.test", "bob@near.test")
		large, err := r.Stage(context.Background(), strings.NewReader(strings.Repeat("a letter of many lines\r\n", 4<<20/24)))
		if err != nil {
			t.Fatal(err)
		}
		s.Content.Discard()
		s.Content = large
		if delivered, refusal := r.direct(s); !delivered || refusal != nil {
			t.Errorf("4 MiB in 35 s: delivered %v, %v", delivered, refusal)
		}
		if down := r.Stats().Down; len(down) > 0 {
			t.Errorf("down: %v", down)
		}
	})
}
