package queue

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/postern-mail/postern/mail"
	"github.com/postern-mail/postern/status"
)

// TestExpire: whoever waits is given up and the sender is told, whatever state
// the message is in.
func TestExpire(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	for name, prepare := range map[string]func(*rig, mail.QueueID) error{
		"deferred":        func(*rig, mail.QueueID) error { return nil },
		"after a restart": func(r *rig, _ mail.QueueID) error { r.restart(); return nil },
		"held":            func(r *rig, id mail.QueueID) error { return r.Hold(ctx, id) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			inBubble(t, Config{}, func(t *testing.T, r *rig) {
				r.transport.deliver = to(map[string]mail.Outcome{"bob": later})
				r.start()
				id := r.accept("alice@a.test", "bob@b.test", "carol@b.test", "dave@c.test")
				time.Sleep(time.Minute)
				synctest.Wait()
				if err := prepare(r, id); err != nil {
					t.Fatal(err)
				}
				if err := r.Expire(ctx, id); err != nil {
					t.Fatal(err)
				}
				time.Sleep(time.Second)
				synctest.Wait()
				made := r.reports.all()
				if len(made) != 1 || made[0].Kind != mail.ReportFailed || len(made[0].Outcomes) != 1 || made[0].Outcomes[0].Reply != later.Reply {
					t.Errorf("reports: %+v", made)
				}
				r.empty()
				if st := r.Stats(); st.Held != 0 {
					t.Errorf("stats %+v", st)
				}
				if events := r.audit.of(id); events[len(events)-1] != "final bounced" {
					t.Errorf("audit ends with %q", events[len(events)-1])
				}
				if err := r.Expire(ctx, id); !errors.Is(err, ErrNoMessage) {
					t.Errorf("again: %v", err)
				}
			})
		})
	}
}

// TestExpireUntried: a message that never had its turn is given up, with what
// is known of its destination; a report ends without one of its own.
func TestExpireUntried(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	inBubble(t, Config{}, func(t *testing.T, r *rig) {
		r.start()
		s := r.submit("alice@a.test", "bob@b.test")
		s.Hold = true
		if err := r.Accept(ctx, s); err != nil {
			t.Fatal(err)
		}
		report := r.submit("", "carol@b.test")
		report.Hold = true
		if err := r.Accept(ctx, report); err != nil {
			t.Fatal(err)
		}
		if n, err := r.ExpireAll(ctx, Filter{State: StateHeld}); n != 2 || err != nil {
			t.Errorf("gave up %d, %v", n, err)
		}
		time.Sleep(time.Second)
		synctest.Wait()
		if made := r.reports.all(); len(made) != 1 || made[0].QueueID != s.ID || made[0].Outcomes[0].Reply != status.DeliveryExpired.Reply() {
			t.Errorf("reports: %+v", made)
		}
		for _, address := range []string{"bob@b.test", "carol@b.test"} {
			if n := len(r.transport.delivered(address)); n != 0 {
				t.Errorf("%s was delivered %d times", address, n)
			}
		}
		r.empty()
	})
}

// TestExpireInFlight: a delivery under way counts; what it puts off is given
// up, and so is what waits in line behind it.
func TestExpireInFlight(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	for name, outcome := range map[string]mail.Outcome{"delivered": fine, "deferred": later} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			inBubble(t, Config{Workers: 1}, func(t *testing.T, r *rig) {
				r.transport.deliver = func(_ context.Context, d mail.Delivery, rcpt mail.Recipient) mail.Outcome {
					if rcpt.Address.Local == "slow" {
						time.Sleep(time.Minute)
						return outcome
					}
					return fine
				}
				r.start()
				id := r.accept("alice@a.test", "slow@b.test", "next@c.test")
				time.Sleep(time.Second)
				synctest.Wait()
				if err := r.Expire(ctx, id); err != nil {
					t.Fatal(err)
				}
				time.Sleep(2 * time.Minute)
				synctest.Wait()
				if n := len(r.transport.delivered("next@c.test")); n != 0 {
					t.Errorf("who was in line got it %d times", n)
				}
				want := 1
				if outcome.Class == mail.Deferred {
					want = 2
				}
				if made := r.reports.all(); len(made) != 1 || len(made[0].Outcomes) != want {
					t.Errorf("reports: %+v", made)
				}
				r.empty()
			})
		})
	}
}
