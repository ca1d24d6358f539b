package queue

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/postern-mail/postern/mail"
	"github.com/postern-mail/postern/status"
	"github.com/postern-mail/postern/store"
)

// via sends mail to what the operator chose, and leaves the rest to the
// destination, which is out of order.
func via(_ context.Context, _ mail.Delivery, r mail.Recipient) mail.Outcome {
	if r.Route.Transport == "relay" {
		return fine
	}
	return later
}

var toRelay = Redirection{Route: mail.Route{Transport: "relay", NextHop: "other.test"}}

// settle lets the queue do what is due now.
func settle() {
	time.Sleep(time.Second)
	synctest.Wait()
}

// TestRedirectNextHop: whoever waits goes to the other next hop at once, under
// the same delivery id, whoever has it is left alone, and attempts and age stay.
func TestRedirectNextHop(t *testing.T) {
	t.Parallel()
	inBubble(t, Config{}, func(t *testing.T, r *rig) {
		r.transport.deliver = func(ctx context.Context, d mail.Delivery, rcpt mail.Recipient) mail.Outcome {
			if rcpt.Address.Local == "done" {
				return fine
			}
			return via(ctx, d, rcpt)
		}
		r.start()
		id := r.accept("alice@a.test", "bob@b.test", "done@b.test")
		settle()
		before, _ := r.show(id)
		n, err := r.Redirect(t.Context(), id, toRelay)
		if err != nil || n != (Redirected{Moved: 1}) {
			t.Fatalf("%+v, %v", n, err)
		}
		settle()
		r.empty()
		if got := r.transport.delivered("bob@b.test"); !slices.Equal(got, []string{before.Recipients[0].Delivery}) {
			t.Errorf("delivered as %v, want %s once", got, before.Recipients[0].Delivery)
		}
		if got := r.transport.delivered("done@b.test"); len(got) != 1 {
			t.Errorf("delivered again: %v", got)
		}
		if a := r.transport.attempts(); a[len(a)-1].Attempt != 2 {
			t.Errorf("attempt %d, want the second", a[len(a)-1].Attempt)
		}
	})
}

// TestRedirectSome moves some of a group's recipients: they become a group of
// their own with what is behind them, and it outlives a restart.
func TestRedirectSome(t *testing.T) {
	t.Parallel()
	inBubble(t, Config{}, func(t *testing.T, r *rig) {
		r.transport.deliver = func(context.Context, mail.Delivery, mail.Recipient) mail.Outcome { return later }
		r.start()
		tried := r.accept("alice@a.test", "bob@b.test", "carol@b.test")
		settle()
		s := r.submit("alice@a.test", "bob@b.test", "carol@b.test") // untried, and stays so
		s.Hold = true
		if err := r.Accept(t.Context(), s); err != nil {
			t.Fatal(err)
		}
		some := toRelay
		some.Pick = func(rcpt Recipient) bool {
			return rcpt.Address.Local == "carol" && rcpt.Destination == "b.test"
		}
		r.transport.set(via)
		for _, id := range []mail.QueueID{tried, s.ID} {
			if n, err := r.Redirect(t.Context(), id, some); err != nil || n.Moved != 1 {
				t.Fatalf("%+v, %v", n, err)
			}
		}
		r.restart()
		settle()
		if got := r.transport.delivered("carol@b.test"); len(got) != 1 || got[0] == string(tried)+".0" {
			t.Errorf("carol: %v", got)
		}
		m, _ := r.show(tried)
		if len(m.Recipients) != 3 || !m.Recipients[1].Moved || m.Recipients[0].Done || !m.Recipients[2].Done {
			t.Errorf("%+v", m.Recipients)
		}
		if m, _ := r.show(s.ID); m.State != StateHeld {
			t.Errorf("a redirection must not release: %+v", m)
		}
		if err := r.Release(t.Context(), s.ID); err != nil {
			t.Fatal(err)
		}
		settle()
		if got := r.transport.delivered("carol@b.test"); len(got) != 2 {
			t.Errorf("carol after the release: %v", got)
		}
		r.transport.set(nil)
		time.Sleep(time.Hour)
		synctest.Wait()
		r.empty()
		if got := r.transport.delivered("bob@b.test"); len(got) != 2 {
			t.Errorf("bob: %v", got)
		}
		if made := r.reports.all(); len(made) > 0 {
			t.Errorf("reports: %+v", made)
		}
	})
}

// TestRedirectToAddress gives the message to somebody else instead, once, and
// not to those who have it.
func TestRedirectToAddress(t *testing.T) {
	t.Parallel()
	inBubble(t, Config{}, func(t *testing.T, r *rig) {
		r.transport.deliver = to(map[string]mail.Outcome{"bob": later, "carol": later})
		r.recipients = directory{"team@b.test": {"dave@b.test", "erin@b.test"}}
		r.reopen()
		r.start()
		id := r.accept("alice@a.test", "bob@b.test", "carol@c.test", "dave@b.test")
		settle()
		n, err := r.Redirect(t.Context(), id, Redirection{To: mail.MustAddress("team@b.test")})
		if err != nil || n.Moved != 2 {
			t.Fatalf("%+v, %v", n, err)
		}
		settle()
		r.empty()
		for address, times := range map[string]int{"dave@b.test": 1, "erin@b.test": 1, "bob@b.test": 0, "carol@c.test": 0} {
			if got := r.transport.delivered(address); len(got) != times {
				t.Errorf("%s: %v, want %d", address, got, times)
			}
		}
		// Everybody has it: the message ends.
		id = r.accept("alice@a.test", "bob@b.test", "dave@b.test")
		settle()
		if _, err := r.Redirect(t.Context(), id, Redirection{To: mail.MustAddress("dave@b.test")}); err != nil {
			t.Fatal(err)
		}
		r.empty()
		if events := r.audit.of(id); events[len(events)-1] != "final redirected" && !slices.Contains(events, "final redirected") {
			t.Errorf("audit %v", events)
		}
		// There and back again.
		id = r.accept("alice@a.test", "bob@b.test")
		settle()
		for _, address := range []string{"carol@c.test", "bob@b.test"} {
			if _, err := r.Redirect(t.Context(), id, Redirection{To: mail.MustAddress(address)}); err != nil {
				t.Fatal(err)
			}
			settle()
		}
		r.transport.set(nil)
		if err := r.Retry(t.Context(), id); err != nil {
			t.Fatal(err)
		}
		settle()
		r.empty()
		if got := r.transport.delivered("bob@b.test"); len(got) != 1 {
			t.Errorf("bob: %v", got)
		}
	})
}

// directory knows lists of ours.
type directory map[string][]string

func (d directory) Resolve(_ context.Context, a mail.Address) (found []mail.Recipient, err error) {
	if a.Local == "down" {
		return nil, status.New(status.DirectoryDown, errors.New("no answer"))
	}
	for _, member := range d[a.String()] {
		found = append(found, mail.Recipient{Address: mail.MustAddress(member)})
	}
	return found, nil
}

// TestRedirectUnderWay: a delivery under way ends as it may; who is reached by
// it is not moved, and who is not goes to the new place at once.
func TestRedirectUnderWay(t *testing.T) {
	t.Parallel()
	for _, row := range []struct {
		name string
		to   Redirection
		want map[string]int
	}{
		{"next hop", toRelay, map[string]int{"bob@b.test": 1, "slow@b.test": 1}},
		{"address", Redirection{To: mail.MustAddress("erin@e.test")}, map[string]int{"bob@b.test": 1, "erin@e.test": 1, "slow@b.test": 0}},
	} {
		t.Run(row.name, func(t *testing.T) {
			t.Parallel()
			inBubble(t, Config{}, func(t *testing.T, r *rig) {
				r.transport.deliver = func(_ context.Context, _ mail.Delivery, rcpt mail.Recipient) mail.Outcome {
					if rcpt.Route.Transport == "relay" || rcpt.Address.Domain == "e.test" {
						return fine
					}
					time.Sleep(time.Minute)
					if rcpt.Address.Local == "slow" {
						return offline
					}
					return fine
				}
				r.start()
				id := r.accept("alice@a.test", "bob@b.test", "slow@b.test")
				settle()
				n, err := r.Redirect(t.Context(), id, row.to)
				if err != nil || n != (Redirected{UnderWay: 2}) {
					t.Fatalf("%+v, %v", n, err)
				}
				time.Sleep(3 * time.Minute)
				synctest.Wait()
				r.empty()
				for address, times := range row.want {
					if got := r.transport.delivered(address); len(got) != times {
						t.Errorf("%s: %v, want %d", address, got, times)
					}
				}
			})
		})
	}
}

// TestRedirectOutOfLine takes groups out of the line of a destination that is
// paused: they must not wait for it, nor be tried there.
func TestRedirectOutOfLine(t *testing.T) {
	t.Parallel()
	inBubble(t, Config{InitialConcurrency: 1, MaximalConcurrency: 1}, func(t *testing.T, r *rig) {
		r.transport.deliver = func(ctx context.Context, _ mail.Delivery, rcpt mail.Recipient) mail.Outcome {
			if rcpt.Route.Transport == "relay" {
				return fine
			}
			select {
			case <-ctx.Done():
			case <-time.After(time.Hour):
			}
			return later
		}
		r.start()
		var ids []mail.QueueID
		for range 10 {
			ids = append(ids, r.accept("alice@a.test", "bob@b.test"))
		}
		settle()
		for _, id := range ids[1:] {
			if n, err := r.Redirect(t.Context(), id, toRelay); err != nil || n.Moved != 1 {
				t.Fatalf("%+v, %v", n, err)
			}
		}
		settle()
		if got := r.Stats(); got.Messages != 1 || got.Active != 1 {
			t.Errorf("%+v, want only what is being delivered", got)
		}
		if got := r.transport.delivered("bob@b.test"); len(got) != 9 {
			t.Errorf("delivered %v", got)
		}
	})
}

func TestRedirectNobody(t *testing.T) {
	t.Parallel()
	inBubble(t, Config{}, func(t *testing.T, r *rig) {
		r.transport.deliver = to(map[string]mail.Outcome{"bob": later})
		r.recipients = directory{}
		r.reopen()
		r.start()
		id := r.accept("alice@a.test", "bob@b.test")
		settle()
		nobody := toRelay
		nobody.Pick = func(Recipient) bool { return false }
		if _, err := r.Redirect(t.Context(), id, nobody); err == nil {
			t.Error("nobody was picked, and no error")
		}
		if _, err := r.Redirect(t.Context(), "25WXVZ4KV4G464C", toRelay); !errors.Is(err, ErrNoMessage) {
			t.Errorf("no such message: %v", err)
		}
		if _, err := r.Redirect(t.Context(), id, Redirection{To: mail.MustAddress("down@b.test")}); status.Of(err) != status.DirectoryDown {
			t.Errorf("directory down: %v", err)
		}
		if m, ok := r.show(id); !ok || m.Recipients[0].Done {
			t.Errorf("%+v", m)
		}
	})
}

// TestRequeue makes a new message of who waits, resolved anew, out of the old
// body; who has it does not get it again.
func TestRequeue(t *testing.T) {
	t.Parallel()
	inBubble(t, Config{}, func(t *testing.T, r *rig) {
		r.transport.deliver = to(map[string]mail.Outcome{"gone": later})
		lists := directory{"team@b.test": {"dave@b.test", "erin@b.test"}}
		r.recipients = lists
		r.reopen()
		r.start()
		s := r.submit("alice@a.test", "dave@b.test", "gone@b.test")
		for i := range s.Envelope.Recipients {
			s.Envelope.Recipients[i].Accepted = mail.MustAddress("team@b.test")
		}
		if err := r.Accept(t.Context(), s); err != nil {
			t.Fatal(err)
		}
		settle()
		n, err := r.Requeue(t.Context(), s.ID)
		if err != nil || n.ID == "" || n.UnderWay != 0 {
			t.Fatalf("%+v, %v", n, err)
		}
		settle()
		r.empty()
		for address, want := range map[string][]string{
			"dave@b.test": {string(s.ID) + ".0"}, "erin@b.test": {string(n.ID) + ".0"}, "gone@b.test": nil,
		} {
			if got := r.transport.delivered(address); !slices.Equal(got, want) {
				t.Errorf("%s: %v, want %v", address, got, want)
			}
		}
		if events := r.audit.of(s.ID); !slices.Contains(events, "final requeued") {
			t.Errorf("audit %v", events)
		}
		if made := r.reports.all(); len(made) > 0 {
			t.Errorf("reports: %+v", made)
		}
	})
}

// TestRequeueHeld: a hold stays, and the new message is new after a restart,
// too: no attempts, a lifetime of its own, the content as it was.
func TestRequeueHeld(t *testing.T) {
	t.Parallel()
	inBubble(t, Config{}, func(t *testing.T, r *rig) {
		r.transport.deliver = to(map[string]mail.Outcome{"bob": later})
		r.start()
		id := r.accept("alice@a.test", "bob@b.test")
		settle()
		if err := r.Hold(t.Context(), id); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Hour)
		n, err := r.Requeue(t.Context(), id)
		if err != nil {
			t.Fatal(err)
		}
		r.restart()
		settle()
		m, ok := r.show(n.ID)
		if !ok || m.State != StateHeld || m.Recipients[0].Attempts != 0 || time.Since(m.Arrived) > time.Minute {
			t.Errorf("%+v", m)
		}
		if _, ok := r.show(id); ok {
			t.Error("the old message is still there")
		}
		r.transport.set(nil)
		if err := r.Release(t.Context(), n.ID); err != nil {
			t.Fatal(err)
		}
		settle()
		r.empty()
	})
}

// TestRequeueUnderWay: who is being delivered stays with the old message.
func TestRequeueUnderWay(t *testing.T) {
	t.Parallel()
	inBubble(t, Config{}, func(t *testing.T, r *rig) {
		r.transport.deliver = func(_ context.Context, d mail.Delivery, rcpt mail.Recipient) mail.Outcome {
			switch {
			case rcpt.Address.Local == "slow":
				time.Sleep(time.Minute)
			case rcpt.Address.Local == "later" && strings.HasSuffix(d.ID, ".1"):
				return later
			}
			return fine
		}
		r.start()
		id := r.accept("alice@a.test", "slow@b.test", "later@c.test")
		settle()
		n, err := r.Requeue(t.Context(), id)
		if err != nil || n.ID == "" || n.UnderWay != 1 {
			t.Fatalf("%+v, %v", n, err)
		}
		if _, err := r.Requeue(t.Context(), id); err == nil {
			t.Error("requeued what is being delivered")
		}
		time.Sleep(2 * time.Minute)
		synctest.Wait()
		r.empty()
		for address, want := range map[string]string{"slow@b.test": string(id) + ".0", "later@c.test": string(n.ID) + ".0"} {
			if got := r.transport.delivered(address); !slices.Equal(got, []string{want}) {
				t.Errorf("%s: %v, want %s", address, got, want)
			}
		}
	})
}

// TestRequeueOutage: without the directory nothing changes.
func TestRequeueOutage(t *testing.T) {
	t.Parallel()
	inBubble(t, Config{}, func(t *testing.T, r *rig) {
		r.transport.deliver = to(map[string]mail.Outcome{"down": later})
		r.recipients = directory{}
		r.reopen()
		r.start()
		id := r.accept("alice@a.test", "down@b.test")
		settle()
		if _, err := r.Requeue(t.Context(), id); status.Of(err) != status.DirectoryDown {
			t.Errorf("got %v", err)
		}
		if m, ok := r.show(id); !ok || m.Recipients[0].Done {
			t.Errorf("%+v", m)
		}
	})
}

// TestRequeueWithoutBody: a message whose content is lost cannot be queued
// anew. It stays what it is, and can be deleted.
func TestRequeueWithoutBody(t *testing.T) {
	t.Parallel()
	inBubble(t, Config{}, func(t *testing.T, r *rig) {
		r.transport.deliver = to(map[string]mail.Outcome{"bob": later})
		r.start()
		id := r.accept("alice@a.test", "bob@b.test")
		settle()
		r.write(func(b *store.Batch) { r.blobs.Unlink(b, r.stored(id).ref) })
		if n, err := r.Requeue(t.Context(), id); !errors.Is(err, store.ErrNotFound) {
			t.Errorf("%+v, %v", n, err)
		}
		if m, ok := r.show(id); !ok || m.Recipients[0].Done {
			t.Errorf("%+v", m)
		}
		if err := r.Delete(t.Context(), id); err != nil {
			t.Errorf("delete: %v", err)
		}
		settle()
		r.empty()
	})
}
