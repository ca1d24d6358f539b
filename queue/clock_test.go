package queue

import (
	"context"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/postern-mail/postern/mail"
	"github.com/postern-mail/postern/store"
)

// TestArrivedInTheFuture: what was accepted while the clock was a year ahead is
// tried for as long as anything else, from when that is noticed.
func TestArrivedInTheFuture(t *testing.T) {
	t.Parallel()
	inBubble(t, Config{Lifetime: 12 * time.Hour}, func(t *testing.T, r *rig) {
		r.transport.deliver = func(_ context.Context, _ mail.Delivery, to mail.Recipient) mail.Outcome {
			if to.Address.Domain == "b.test" {
				return later
			}
			return fine
		}
		staged, err := r.Stage(t.Context(), strings.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		m := r.shards.newMessage(NewID(), &record{
			arrived: time.Now().Add(365 * 24 * time.Hour), ref: staged.Ref(),
			envelope: mail.Envelope{ReversePath: mail.MustAddress("alice@a.test")},
			groups: [][]mail.Recipient{
				{{Address: mail.MustAddress("bob@b.test")}}, {{Address: mail.MustAddress("carol@c.test")}},
			},
		})
		r.write(func(b *store.Batch) {
			if err := r.addRecord(b, m); err != nil {
				t.Fatal(err)
			}
			r.blobs.Link(b, staged)
		})
		r.reopen()
		r.start()
		time.Sleep(time.Hour)
		synctest.Wait()
		r.check()
		shown, ok := r.show(m.id)
		if !ok || time.Since(shown.Arrived) < 50*time.Minute {
			t.Errorf("arrived %v", shown.Arrived)
		}
		r.restart()
		time.Sleep(14 * time.Hour)
		r.empty()
		if reports := r.reports.all(); len(reports) != 1 {
			t.Errorf("%d reports", len(reports))
		}
	})
}
