package queue

import (
	"context"
	"slices"
	"testing"
	"time"

	"github.com/postern-mail/postern/mail"
)

// keptAt is the answer of a node that has a message and wants it kept.
func keptAt(node string) mail.Outcome {
	o := mail.Outcome{Class: mail.Deferred, Reply: fine.Reply, FromPeer: true, Final: true, Remote: node, At: time.Now()}
	o.Reply.Text = "KEEP=" + node
	return o
}

// asked are the attempts that were questions.
func asked(all []mail.Delivery) (n int) {
	for _, d := range all {
		if d.Kept != nil {
			n++
		}
	}
	return n
}

// TestKept: a message that its next hop wants kept is on stable storage when its
// client is answered, is asked after soon and then ever more rarely, comes to
// its end when the next hop says so, and is delivered for everybody meanwhile.
func TestKept(t *testing.T) {
	t.Parallel()
	for _, direct := range []bool{true, false} {
		inBubble(t, Config{Lifetime: 24 * time.Hour, DelayWarning: time.Hour}, func(t *testing.T, r *rig) {
			r.transport.deliver = func(context.Context, mail.Delivery, mail.Recipient) mail.Outcome { return keptAt("a") }
			r.startWhole()
			s := r.submit("alice@a.test", "bob@near.test")
			if direct {
				if delivered, refusal := r.direct(s); delivered || refusal != nil {
					t.Errorf("delivered %t, refused %v", delivered, refusal)
				}
			} else if err := r.Accept(context.Background(), s); err != nil {
				t.Fatal(err)
			}
			time.Sleep(50 * time.Millisecond)
			if m, err := r.Show(context.Background(), s.ID); err != nil || m.State != StateKept || m.Recipients[0].Last.Remote != "a" {
				t.Errorf("%+v, %v", m, err)
			}
			waits := keptAt("a")
			r.transport.set(func(_ context.Context, d mail.Delivery, _ mail.Recipient) mail.Outcome {
				if len(d.Kept) != 1 || d.Kept[0].Remote != "a" || d.Kept[0].Reply.Text != "KEEP=a" {
					t.Errorf("attempt with %+v", d.Kept)
				}
				return waits
			})
			time.Sleep(time.Second)
			soon := asked(r.transport.attempts())
			time.Sleep(90 * time.Minute)
			if all := asked(r.transport.attempts()); soon < 3 || all < soon+75 || all > soon+100 {
				t.Errorf("asked %d times in a second, %d in an hour and a half", soon, all)
			}
			r.stop()
			r.reopen() // all that is needed to ask is in the store
			r.startWhole()
			r.transport.set(nil)
			time.Sleep(2 * time.Minute)
			r.empty()
			want := []string{"accept ok", "delivery kept", "delivery delivered", "final delivered"}
			if got := r.audit.of(s.ID); !slices.Equal(got, want) {
				t.Errorf("audit %q, want %q", got, want)
			}
			if n := len(r.reports.all()); n != 0 {
				t.Errorf("%d reports", n)
			}
		})
	}
}

// TestKeptToTheEnd: a message that is never confirmed is given up without a word
// to its sender, by time or by an operator; so is one whose nodes are out of
// reach, or refuse it, since one of them had it.
func TestKeptToTheEnd(t *testing.T) {
	t.Parallel()
	for name, later := range map[string]mail.Outcome{"waits": {}, "out of reach": offline, "refused": never, "expired": {}} {
		inBubble(t, Config{Lifetime: time.Hour, DelayWarning: time.Minute}, func(t *testing.T, r *rig) {
			first := keptAt("a")
			r.transport.deliver = func(context.Context, mail.Delivery, mail.Recipient) mail.Outcome { return first }
			r.startWhole()
			s := r.submit("alice@a.test", "bob@near.test")
			r.direct(s)
			if later.At = time.Now(); later.Reply.Code != 0 {
				r.transport.set(func(context.Context, mail.Delivery, mail.Recipient) mail.Outcome { return later })
			}
			if name == "expired" {
				time.Sleep(time.Minute)
				if err := r.Expire(context.Background(), s.ID); err != nil {
					t.Fatal(err)
				}
			} else {
				time.Sleep(59 * time.Minute)
				if m, err := r.Show(context.Background(), s.ID); err != nil || m.State != StateKept {
					t.Errorf("%s: %+v, %v", name, m, err)
				}
				time.Sleep(2 * time.Minute)
			}
			time.Sleep(time.Minute)
			r.empty()
			want := []string{"accept ok", "delivery kept", "delivery unconfirmed", "final delivered"}
			if name == "expired" {
				want = slices.Insert(want, 2, "queue-admin ok")
			}
			got := slices.DeleteFunc(r.audit.of(s.ID), func(e string) bool { return e == "queue-admin ok" })
			want = slices.DeleteFunc(want, func(e string) bool { return e == "queue-admin ok" })
			if !slices.Equal(got, want) || r.Stats().Unconfirmed != 1 || len(r.reports.all()) != 0 {
				t.Errorf("%s: audit %q, want %q; %d reports", name, got, want, len(r.reports.all()))
			}
		})
	}
}

// TestKeptBesideDeferred: one recipient has the message, another does not; he is
// tried as often as ever, hears of the delay, and is the only one to bounce. An
// operator moves only him.
func TestKeptBesideDeferred(t *testing.T) {
	t.Parallel()
	inBubble(t, Config{Lifetime: 4 * time.Hour, DelayWarning: time.Hour}, func(t *testing.T, r *rig) {
		first := keptAt("a")
		r.transport.deliver = func(_ context.Context, _ mail.Delivery, to mail.Recipient) mail.Outcome {
			switch to.Address.Local {
			case "bob":
				return first
			case "carol":
				return later
			}
			return fine
		}
		r.startWhole()
		s := r.submit("alice@a.test", "bob@near.test", "carol@near.test")
		r.direct(s)
		time.Sleep(10 * time.Minute)
		if n := len(r.transport.attempts()); n > 6 {
			t.Errorf("%d attempts in ten minutes", n)
		}
		if m, err := r.Show(context.Background(), s.ID); err != nil || m.State != StateDeferred {
			t.Errorf("%+v, %v", m, err)
		}
		time.Sleep(5 * time.Hour)
		r.empty()
		for _, report := range r.reports.all() {
			if list := report.Envelope.Recipients; len(list) != 1 || list[0].Address.Local != "carol" {
				t.Errorf("a report of kind %d about %v", report.Kind, list)
			}
		}
		if n := len(r.reports.all()); n != 2 {
			t.Errorf("%d reports, want of the delay and of the failure", n)
		}
	})
}

// TestKeptStays: no operator makes a second message of one that a node has.
func TestKeptStays(t *testing.T) {
	t.Parallel()
	inBubble(t, Config{}, func(t *testing.T, r *rig) {
		first := keptAt("a")
		r.transport.deliver = func(context.Context, mail.Delivery, mail.Recipient) mail.Outcome { return first }
		r.startWhole()
		s := r.submit("alice@a.test", "bob@near.test")
		r.direct(s)
		time.Sleep(50 * time.Millisecond)
		if made, err := r.Requeue(context.Background(), s.ID); err == nil {
			t.Errorf("requeued as %+v", made)
		}
		if moved, err := r.Redirect(context.Background(), s.ID, Redirection{To: mail.MustAddress("eve@far.test")}); err == nil {
			t.Errorf("redirected: %+v", moved)
		}
		r.transport.set(nil)
		time.Sleep(time.Minute)
		r.empty()
	})
}
