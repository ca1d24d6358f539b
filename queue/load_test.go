package queue

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/postern-mail/postern/mail"
	"github.com/postern-mail/postern/status"
)

// TestBoundedMemory: with room for few, all of many are delivered, and those
// to one slow destination do not keep others out.
func TestBoundedMemory(t *testing.T) {
	t.Parallel()
	inBubble(t, Config{ActiveLimit: 20, Workers: 10, MaximalConcurrency: 4}, func(t *testing.T, r *rig) {
		most := 0
		r.transport.deliver = func(_ context.Context, d mail.Delivery, rcpt mail.Recipient) mail.Outcome {
			if rcpt.Address.Domain == "slow.test" {
				time.Sleep(time.Second)
			}
			st := r.Stats()
			r.transport.mu.Lock()
			most = max(most, st.Active)
			r.transport.mu.Unlock()
			return fine
		}
		r.start()
		for i := range 200 {
			r.accept("alice@a.test", fmt.Sprintf("u%d@slow.test", i))
		}
		quick := r.accept("alice@a.test", "bob@quick.test")
		time.Sleep(2 * time.Second)
		synctest.Wait()
		if _, ok := r.show(quick); ok {
			t.Error("a slow destination keeps mail for another waiting")
		}
		time.Sleep(200 * time.Second)
		r.empty()
		for i := range 200 {
			if n := len(r.transport.delivered(fmt.Sprintf("u%d@slow.test", i))); n != 1 {
				t.Errorf("u%d was delivered %d times", i, n)
			}
		}
		if most > 20 {
			t.Errorf("%d groups in memory", most)
		}
	})
}

// TestBulkSender: somebody's two hundred messages to a slow destination do not
// keep another's there waiting.
func TestBulkSender(t *testing.T) {
	t.Parallel()
	inBubble(t, Config{ActiveLimit: 40, Workers: 10, MaximalConcurrency: 4}, func(t *testing.T, r *rig) {
		r.transport.deliver = func(context.Context, mail.Delivery, mail.Recipient) mail.Outcome {
			time.Sleep(time.Second)
			return fine
		}
		r.start()
		for i := range 200 {
			r.accept("bulk@a.test", fmt.Sprintf("u%d@slow.test", i))
		}
		r.accept("alice@a.test", "bob@slow.test")
		time.Sleep(4 * time.Second)
		synctest.Wait()
		if n := len(r.transport.delivered("bob@slow.test")); n != 1 {
			t.Errorf("delivered %d times after as long as four messages take", n)
		}
		time.Sleep(100 * time.Second)
		r.empty()
	})
}

// TestBacklog: what was queued before the start is loaded in portions.
func TestBacklog(t *testing.T) {
	t.Parallel()
	inBubble(t, Config{ActiveLimit: 50}, func(t *testing.T, r *rig) {
		for i := range 700 {
			r.accept("alice@a.test", fmt.Sprintf("u%d@d%d.test", i, i%3))
		}
		r.reopen()
		if st := r.Stats(); st.Messages != 700 || st.Active != 0 {
			t.Errorf("stats %+v", st)
		}
		r.start()
		time.Sleep(time.Minute)
		r.empty()
		for i := range 700 {
			if n := len(r.transport.delivered(fmt.Sprintf("u%d@d%d.test", i, i%3))); n != 1 {
				t.Errorf("u%d was delivered %d times", i, n)
			}
		}
	})
}

// TestManyRecipients: a large list is divided into deliveries and records.
func TestManyRecipients(t *testing.T) {
	t.Parallel()
	inBubble(t, Config{}, func(t *testing.T, r *rig) {
		var all []string
		for i := range 3000 {
			all = append(all, fmt.Sprintf("%s%d@d%d.test", strings.Repeat("r", 50), i, i%30))
		}
		r.transport.deliver = func(_ context.Context, d mail.Delivery, rcpt mail.Recipient) mail.Outcome {
			if d.Attempt == 1 && strings.HasSuffix(string(rcpt.Address.Local), "7") {
				return later
			}
			return fine
		}
		s := r.submit("alice@a.test", all...)
		if err := r.Accept(context.Background(), s); err != nil {
			t.Fatal(err)
		}
		r.reopen()
		r.start()
		time.Sleep(time.Second)
		synctest.Wait()
		r.restart()
		time.Sleep(time.Hour)
		r.empty()
		ids := map[string]bool{}
		for _, d := range r.transport.attempts() {
			if len(d.Envelope.Recipients) > 50 {
				t.Errorf("%s: %d recipients", d.ID, len(d.Envelope.Recipients))
			}
			ids[d.ID] = true
		}
		if len(ids) != 60 {
			t.Errorf("%d deliveries, want 60", len(ids))
		}
		for _, a := range all {
			if n := len(r.transport.delivered(a)); n != 1 {
				t.Fatalf("%s was delivered %d times", a, n)
			}
		}
	})
}

func TestRefusedSubmissions(t *testing.T) {
	t.Parallel()
	r := newRig(t, Config{})
	long := strings.Repeat("o", maxGroupOctets)
	for _, row := range []struct {
		name string
		edit func(s *Submission)
		want status.Reason
	}{
		{"no recipients", func(s *Submission) { s.Envelope.Recipients = nil }, status.NoValidRecipients},
		{"no id", func(s *Submission) { s.ID = "" }, status.Unknown},
		{"id with a slash", func(s *Submission) { s.ID = "a/b" }, status.Unknown},
		{"huge recipient", func(s *Submission) { s.Envelope.Recipients[0].Original = long }, status.ParameterSyntax},
		{"huge envelope", func(s *Submission) { s.Envelope.EnvelopeID = long + long }, status.ParameterSyntax},
		{"more recipients than a commit holds", func(s *Submission) {
			for i := range 40_000 {
				a := mail.Address{Local: mail.LocalPart(fmt.Sprintf("%060d", i)), Domain: "b.test"}
				s.Envelope.Recipients = append(s.Envelope.Recipients, mail.Recipient{Address: a, Accepted: a})
			}
		}, status.TooManyRecipients},
	} {
		s := r.submit("alice@a.test", "bob@b.test")
		row.edit(&s)
		if err := r.Accept(context.Background(), s); err == nil || status.Of(err) != row.want {
			t.Errorf("%s: %v, want %v", row.name, err, row.want)
		}
	}
	r.nothingStored()
}
