package queue

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"github.com/postern-mail/postern/mail"
	"github.com/postern-mail/postern/store"
)

// together has the keeper make changes at once: they come while it waits for a
// commit. outcome ends the delivery that is under way, and command, which is
// given then, meets its outcome in the same commit.
func together(t *testing.T, f *faultyStore, r *rig, outcome func(), command func()) {
	t.Helper()
	goOn := make(chan struct{})
	wait := func(*store.Batch) error {
		<-goOn
		return nil
	}
	other := r.accept("alice@a.test", "other@held.test")
	f.refuse.Store(&wait)
	go func() { _ = r.Delete(t.Context(), other) }()
	synctest.Wait()
	outcome()
	synctest.Wait()
	go command()
	synctest.Wait()
	f.refuse.Store(nil)
	close(goOn)
	synctest.Wait()
}

// TestCommandMeetsOutcome: what an operator wants of recipients whose delivery
// was just put off is done at once, also in the commit that records it.
func TestCommandMeetsOutcome(t *testing.T) {
	t.Parallel()
	for name, row := range map[string]struct {
		command func(r *rig, id mail.QueueID) error
		want    map[string]int
		reports int
	}{
		"redirect to a next hop": {
			func(r *rig, id mail.QueueID) error {
				_, err := r.Redirect(r.t.Context(), id, toRelay)
				return err
			}, map[string]int{"bob@b.test": 1}, 0,
		},
		"redirect to an address": {
			func(r *rig, id mail.QueueID) error {
				_, err := r.Redirect(r.t.Context(), id, Redirection{To: mail.MustAddress("erin@e.test")})
				return err
			}, map[string]int{"erin@e.test": 1, "bob@b.test": 0}, 0,
		},
		"requeue": {
			func(r *rig, id mail.QueueID) error {
				_, err := r.Requeue(r.t.Context(), id)
				return err
			}, map[string]int{"bob@b.test": 1}, 0,
		},
		"expire": {func(r *rig, id mail.QueueID) error { return r.Expire(r.t.Context(), id) }, map[string]int{"bob@b.test": 0}, 1},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				r, f := newFaultyRig(t, Config{})
				end := make(chan struct{})
				first := true
				r.transport.deliver = func(_ context.Context, _ mail.Delivery, rcpt mail.Recipient) mail.Outcome {
					if rcpt.Address.Domain == "held.test" {
						return later
					}
					if rcpt.Address.Local == "bob" && first {
						first = false
						<-end
						return later
					}
					return fine
				}
				r.start()
				id := r.accept("alice@a.test", "bob@b.test")
				settle()
				err := error(nil)
				together(t, f, r, func() { close(end) }, func() { err = row.command(r, id) })
				settle()
				if err != nil {
					t.Fatal(err)
				}
				if m, there := r.show(id); there {
					t.Errorf("is still there: %+v", m)
				}
				for address, times := range row.want {
					if got := r.transport.delivered(address); len(got) != times {
						t.Errorf("%s: %v, want %d", address, got, times)
					}
				}
				if made := r.reports.all(); len(made) != row.reports {
					t.Errorf("%d reports, want %d", len(made), row.reports)
				}
				time.Sleep(time.Hour)
				synctest.Wait()
				if got := r.transport.delivered("bob@b.test"); len(got) > 1 {
					t.Errorf("bob: %v", got)
				}
				r.empty()
				r.stop()
			})
		})
	}
}
