package queue

import (
	"context"
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/postern-mail/postern/mail"
	"github.com/postern-mail/postern/status"
	"github.com/postern-mail/postern/store"
)

// write commits what fill says behind the queue's back.
func (r *rig) write(fill func(b *store.Batch)) {
	r.t.Helper()
	b := store.NewBatch()
	fill(b)
	if _, err := r.kv.Commit(context.Background(), b); err != nil {
		r.t.Fatal(err)
	}
}

// damages are the ways in which what is stored of a message can go bad.
var damages = map[string]func(b *store.Batch, id mail.QueueID){
	"garbage":      func(b *store.Batch, id mail.QueueID) { b.Put(messageKey(id), []byte("\x01garbage")) },
	"newer format": func(b *store.Batch, id mail.QueueID) { b.Put(messageKey(id), []byte{extendedVersion + 1}) },
	"missing part": func(b *store.Batch, id mail.QueueID) { b.Delete(partKey(id, 0)) },
	"bad state":    func(b *store.Batch, id mail.QueueID) { b.Put(stateKey(id, 0), []byte("\x01")) },
	"strange state": func(b *store.Batch, id mail.QueueID) {
		s := newGroupState(1)
		b.Put(stateKey(id, 4000), encodeState(&s))
	},
}

// TestDamaged: a message that cannot be read holds up no other, stays in sight
// of the operator with the reason, and goes only when the operator says so.
func TestDamaged(t *testing.T) {
	t.Parallel()
	for name, damage := range damages {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			inBubble(t, Config{}, func(t *testing.T, r *rig) {
				r.accept("alice@a.test", "bob@b.test")
				var many []string
				for i := range 900 { // more than one record holds
					many = append(many, strings.Repeat("x", 60)+string(rune('a'+i%26))+"@b.test")
				}
				bad := r.accept("alice@a.test", many...)
				r.accept("alice@a.test", "carol@c.test")
				r.write(func(b *store.Batch) { damage(b, bad) })
				r.reopen()
				r.start()
				time.Sleep(time.Hour)
				if n := len(r.transport.attempts()); n != 2 {
					t.Errorf("%d deliveries, want those of the two whole messages", n)
				}
				r.wantDamaged(bad)
				r.restart()
				time.Sleep(time.Hour)
				r.wantDamaged(bad)
				if n, err := r.RetryAll(context.Background(), Filter{}); n != 0 || err != nil {
					t.Errorf("retry of all: %d, %v", n, err)
				}
				if err := r.Hold(context.Background(), bad); err == nil || errors.Is(err, ErrNoMessage) {
					t.Errorf("hold: %v", err)
				}
				if err := r.Delete(context.Background(), bad); err != nil {
					t.Fatalf("delete: %v", err)
				}
				if keys := r.ofMessages([]byte{tag}, []byte{tag, 'd'}); len(keys) > 0 {
					t.Errorf("left of it: %q", keys)
				}
				if s := r.Stats(); s.Messages != 0 || s.Held != 0 {
					t.Errorf("stats: %+v", s)
				}
				if events := r.audit.of(bad); len(events) == 0 || events[len(events)-1] != "final deleted" {
					t.Errorf("audit: %q", events)
				}
				r.orphans = true
				r.restart()
				r.orphans = false
				time.Sleep(time.Hour)
				if keys := r.ofMessages([]byte{tag}, []byte{tag + 1}); len(keys) > 0 {
					t.Errorf("left of it after a restart: %q", keys)
				}
			})
		})
	}
}

// wantDamaged checks that the one message listed is damaged.
func (r *rig) wantDamaged(id mail.QueueID) {
	r.t.Helper()
	var listed []Message
	for m, err := range r.List(context.Background(), Filter{}) {
		if err != nil {
			r.t.Fatalf("list: %v", err)
		}
		listed = append(listed, m)
	}
	if len(listed) != 1 || listed[0].ID != id || listed[0].State != StateDamaged || listed[0].Damage == "" {
		r.t.Fatalf("listed: %+v", listed)
	}
	if m, err := r.Show(context.Background(), id); err != nil || m.State != StateDamaged {
		r.t.Errorf("show: %+v, %v", m, err)
	}
}

// TestSuccessReportToNobody: a message without a return path has nobody who
// could be told of success, whatever NOTIFY says, and leaves the queue.
func TestSuccessReportToNobody(t *testing.T) {
	t.Parallel()
	final := fine
	final.Final = true
	inBubble(t, Config{BounceLifetime: time.Hour}, func(t *testing.T, r *rig) {
		r.transport.deliver = to(map[string]mail.Outcome{"bob": final, "carol": final, "slow": later})
		r.start()
		for _, rcpts := range [][]string{{"bob@b.test"}, {"bob@b.test", "carol@b.test", "slow@b.test"}} {
			s := r.submit("", rcpts...)
			for i := range s.Envelope.Recipients {
				s.Envelope.Recipients[i].Notify = mail.NotifySuccess
			}
			if err := r.Accept(context.Background(), s); err != nil {
				t.Fatal(err)
			}
		}
		time.Sleep(2 * time.Hour)
		r.empty()
		if made := r.reports.all(); len(made) != 0 {
			t.Errorf("reports to nobody: %+v", made)
		}
	})
}

// resolver answers for senders of ours.
type resolver struct{ err error }

func (r resolver) Resolve(context.Context, mail.Address) ([]mail.Recipient, error) { return nil, r.err }

// TestReportToUnknownSender: a sender of ours whom the directory does not know
// cannot be told; nor can one about whom it has no answer for too long. Neither
// keeps the message in the queue for ever.
func TestReportToUnknownSender(t *testing.T) {
	t.Parallel()
	for name, row := range map[string]struct {
		err   error
		after time.Duration
	}{
		"no such user":         {status.Errorf(status.NoSuchUser, "gone"), time.Minute},
		"an outage that lasts": {status.Errorf(status.DirectoryDown, "down"), 2 * time.Hour},
		"a loop of aliases":    {status.Errorf(status.AddressLoop, "loop"), 2 * time.Hour},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			inBubble(t, Config{BounceLifetime: time.Hour}, func(t *testing.T, r *rig) {
				r.deps.Recipients = resolver{row.err}
				r.transport.deliver = to(map[string]mail.Outcome{"gone": never, "forged": never})
				r.start()
				id := r.accept("forged@a.test", "gone@b.test")
				time.Sleep(row.after)
				r.empty()
				if n := len(r.transport.attempts()); n != 2 {
					t.Errorf("%d deliveries, want the message's and its report's", n)
				}
				if events := r.audit.of(id); events[len(events)-1] != "final bounced" {
					t.Errorf("audit: %q", events)
				}
			})
		})
	}
}

// TestOutcomeAtShutdown: an outcome that comes in at the very moment the queue
// is told to stop is recorded; otherwise the mail would go out twice.
func TestOutcomeAtShutdown(t *testing.T) {
	t.Parallel()
	r, faults := newFaultyRig(t, Config{})
	ctx, cancel := context.WithCancel(context.Background())
	stopIt := func(b *store.Batch) error {
		if b.UseReserve { // the keeper's
			cancel()
		}
		return nil
	}
	faults.refuse.Store(&stopIt)
	id := r.accept("alice@a.test", "bob@b.test")
	if err := r.Run(ctx); err != nil {
		t.Fatal(err)
	}
	if _, ok := r.show(id); ok {
		t.Error("delivered, and still in the queue")
	}
}

// TestClockSetBack: a message whose next attempt was planned by a clock that
// was ahead does not wait until then.
func TestClockSetBack(t *testing.T) {
	t.Parallel()
	month := 30 * 24 * time.Hour
	inBubble(t, Config{MinimalBackoff: month, MaximalBackoff: month, Lifetime: 12 * month}, func(t *testing.T, r *rig) {
		r.transport.deliver = to(map[string]mail.Outcome{"bob": later, "soon": later})
		r.start()
		r.accept("alice@a.test", "bob@b.test")
		time.Sleep(time.Minute)
		r.stop()
		r.cfg = Config{Lifetime: 12 * month}
		r.reopen()
		r.start()
		// One whose time is not far keeps nobody from looking further.
		r.accept("alice@a.test", "soon@b.test")
		time.Sleep(10 * time.Minute)
		r.transport.set(nil)
		time.Sleep(3 * time.Hour)
		r.empty()
	})
}

// TestDeleteDamagedTwice: of commands that come together one deletes a damaged
// message; the others must not take what belongs to messages with the same
// content.
func TestDeleteDamagedTwice(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r, f := newFaultyRig(t, Config{})
		r.transport.deliver = func(context.Context, mail.Delivery, mail.Recipient) mail.Outcome { return later }
		r.start()
		r.accept("alice@a.test", "bob@b.test")
		bad := r.accept("alice@a.test", "carol@b.test")
		settle()
		r.write(func(b *store.Batch) { b.Put(stateKey(bad, 0), []byte("\x01")) })
		var errs [2]error
		together(t, f, r,
			func() { go func() { errs[0] = r.deleteDamaged(t.Context(), bad) }() },
			func() { errs[1] = r.deleteDamaged(t.Context(), bad) })
		settle()
		if (errs[0] == nil) == (errs[1] == nil) || !errors.Is(errors.Join(errs[:]...), ErrNoMessage) {
			t.Errorf("deleted: %v", errs)
		}
		if st := r.Stats(); st.Messages != 1 {
			t.Errorf("%+v", st)
		}
		r.transport.set(nil)
		time.Sleep(time.Hour)
		synctest.Wait()
		r.empty()
		if got := r.transport.delivered("bob@b.test"); len(got) != 1 {
			t.Errorf("bob: %v", got)
		}
		r.stop()
	})
}
