package queue

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/postern-mail/postern/mail"
)

func TestHoldAndRelease(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	inBubble(t, Config{}, func(t *testing.T, r *rig) {
		r.transport.deliver = func(_ context.Context, d mail.Delivery, rcpt mail.Recipient) mail.Outcome {
			if rcpt.Address.Local == "slow" && d.Attempt == 1 {
				return later
			}
			return fine
		}
		r.start()
		// Held from the start.
		s := r.submit("alice@a.test", "bob@b.test")
		s.Hold = true
		if err := r.Accept(ctx, s); err != nil {
			t.Fatal(err)
		}
		// Held with one recipient done and one deferred.
		tried := r.accept("alice@a.test", "dave@b.test", "slow@c.test")
		time.Sleep(time.Second)
		synctest.Wait()
		if err := r.Hold(ctx, tried); err != nil {
			t.Fatal(err)
		}
		r.restart()
		time.Sleep(time.Hour)
		synctest.Wait()
		if n := len(r.transport.attempts()); n != 2 {
			t.Errorf("%d deliveries, held mail must wait", n)
		}
		for _, id := range []mail.QueueID{s.ID, tried} {
			if m, ok := r.show(id); !ok || m.State != StateHeld {
				t.Errorf("%s: %+v", id, m)
			}
			if err := r.Retry(ctx, id); err != nil {
				t.Error(err)
			}
		}
		if st := r.Stats(); st.Held != 2 || st.Messages != 2 {
			t.Errorf("stats %+v", st)
		}
		time.Sleep(time.Hour)
		synctest.Wait()
		if n := len(r.transport.attempts()); n != 2 {
			t.Errorf("%d deliveries, a retry must not release", n)
		}
		if n, err := r.ReleaseAll(ctx, Filter{State: StateHeld}); err != nil || n != 2 {
			t.Errorf("released %d, %v", n, err)
		}
		time.Sleep(time.Second)
		r.empty()
		for _, a := range []string{"bob@b.test", "dave@b.test", "slow@c.test"} {
			if n := len(r.transport.delivered(a)); n != 1 {
				t.Errorf("%s was delivered %d times", a, n)
			}
		}
	})
}

// TestOperateWhileInFlight: hold and delete, while one recipient is being
// delivered and another waits in line.
func TestOperateWhileInFlight(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	for _, row := range []struct {
		name    string
		outcome mail.Outcome
		operate func(q *Queue, id mail.QueueID) error
		then    func(t *testing.T, r *rig, id mail.QueueID)
	}{
		{"hold", fine, func(q *Queue, id mail.QueueID) error { return q.Hold(ctx, id) }, func(t *testing.T, r *rig, id mail.QueueID) {
			m, ok := r.show(id)
			if !ok || m.State != StateHeld || !m.Recipients[0].Done || m.Recipients[1].Done {
				t.Errorf("%+v", m)
			}
			if err := r.Release(ctx, id); err != nil {
				t.Error(err)
			}
			time.Sleep(time.Second)
			if n := len(r.transport.delivered("next@b.test")); n != 1 {
				t.Errorf("delivered %d times after the release", n)
			}
		}},
		{"hold of one that is deferred", later, func(q *Queue, id mail.QueueID) error { return q.Hold(ctx, id) }, func(t *testing.T, r *rig, id mail.QueueID) {
			r.restart()
			time.Sleep(2 * time.Hour)
			synctest.Wait()
			if n := len(r.transport.attempts()); n != 1 {
				t.Errorf("%d deliveries of a held message", n)
			}
			if err := r.Delete(ctx, id); err != nil {
				t.Error(err)
			}
		}},
		{"hold and release", fine, func(q *Queue, id mail.QueueID) error {
			return errors.Join(q.Hold(ctx, id), q.Release(ctx, id))
		}, func(t *testing.T, r *rig, _ mail.QueueID) {
			time.Sleep(time.Second)
			if n := len(r.transport.delivered("next@b.test")); n != 1 {
				t.Errorf("delivered %d times", n)
			}
		}},
		{"delete", later, func(q *Queue, id mail.QueueID) error { return q.Delete(ctx, id) }, func(t *testing.T, r *rig, id mail.QueueID) {
			if _, ok := r.show(id); ok {
				t.Error("came back")
			}
			want := []string{"accept ok", "queue-admin ok", "final deleted", "delivery deferred"}
			got := r.audit.of(id)
			slices.Sort(got)
			slices.Sort(want)
			if !slices.Equal(got, want) {
				t.Errorf("audit %q, want %q", got, want)
			}
		}},
		{"delete of one that bounces", never, func(q *Queue, id mail.QueueID) error { return q.Delete(ctx, id) }, func(t *testing.T, r *rig, _ mail.QueueID) {
			if n := len(r.reports.all()); n != 0 {
				t.Errorf("%d reports on a deleted message", n)
			}
		}},
	} {
		t.Run(row.name, func(t *testing.T) {
			t.Parallel()
			inBubble(t, Config{InitialConcurrency: 1, MaximalConcurrency: 1, RecipientLimit: 1}, func(t *testing.T, r *rig) {
				started, proceed := make(chan struct{}), make(chan struct{})
				r.transport.deliver = func(_ context.Context, _ mail.Delivery, rcpt mail.Recipient) mail.Outcome {
					if rcpt.Address.Local == "first" {
						started <- struct{}{}
						<-proceed
						return row.outcome
					}
					return fine
				}
				r.start()
				id := r.accept("alice@a.test", "first@b.test", "next@b.test")
				<-started
				if err := row.operate(r.Queue, id); err != nil {
					t.Fatal(err)
				}
				close(proceed)
				time.Sleep(time.Second)
				synctest.Wait()
				row.then(t, r, id)
				r.empty()
			})
		})
	}
}

func TestListAndShow(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	inBubble(t, Config{}, func(t *testing.T, r *rig) {
		r.transport.deliver = to(map[string]mail.Outcome{"slow": later})
		r.start()
		var ids []mail.QueueID
		for i := range 2*listAtOnce + 50 {
			ids = append(ids, r.accept("alice@a.test", fmt.Sprintf("slow@d%d.test", i%2)))
		}
		other := r.accept("eve@a.test", "slow@d0.test", "slow@d1.test")
		time.Sleep(time.Second)
		synctest.Wait()
		list := func(f Filter) (found []mail.QueueID) {
			for m, err := range r.List(ctx, f) {
				if err != nil {
					t.Fatal(err)
				}
				found = append(found, m.ID)
			}
			return found
		}
		if got := list(Filter{}); !slices.Equal(got, append(slices.Clone(ids), other)) {
			t.Errorf("listed %d of %d, or in another order", len(got), len(ids)+1)
		}
		eve := mail.MustAddress("eve@a.test")
		rcpt := mail.MustAddress("slow@d1.test")
		for _, row := range []struct {
			name   string
			filter Filter
			want   int
		}{
			{"deferred", Filter{State: StateDeferred}, len(ids) + 1},
			{"held", Filter{State: StateHeld}, 0},
			{"destination", Filter{Destination: "d0.test"}, len(ids)/2 + 1},
			{"sender", Filter{Sender: &eve}, 1},
			{"recipient", Filter{Recipient: &rcpt}, len(ids)/2 + 1},
			{"sender and destination", Filter{Sender: &eve, Destination: "d2.test"}, 0},
		} {
			if got := len(list(row.filter)); got != row.want {
				t.Errorf("%s: listed %d, want %d", row.name, got, row.want)
			}
		}
		content, err := r.Content(ctx, other)
		if err != nil {
			t.Fatal(err)
		}
		octets, err := io.ReadAll(content)
		if err != nil || string(octets) != body {
			t.Errorf("content %q, %v", octets, err)
		}
		if err := content.Close(); err != nil {
			t.Error(err)
		}
		if n, err := r.DeleteAll(ctx, Filter{}); err != nil || n != len(ids)+1 {
			t.Errorf("deleted %d, %v", n, err)
		}
		r.empty()
	})
}

func TestNoSuchMessage(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	r := newRig(t, Config{})
	r.start()
	id := NewID()
	_, showErr := r.Show(ctx, id)
	_, contentErr := r.Content(ctx, id)
	for name, err := range map[string]error{
		"show": showErr, "content": contentErr, "retry": r.Retry(ctx, id), "hold": r.Hold(ctx, id),
		"release": r.Release(ctx, id), "delete": r.Delete(ctx, id),
	} {
		if !errors.Is(err, ErrNoMessage) {
			t.Errorf("%s: %v", name, err)
		}
	}
	r.stop()
	if err := r.Hold(ctx, id); !errors.Is(err, errStopped) {
		t.Errorf("operation on a stopped queue: %v", err)
	}
}
