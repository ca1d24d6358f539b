package queue

import (
	"context"
	"errors"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/postern-mail/postern/mail"
)

// inBubble runs a test in which hours take milliseconds.
func inBubble(t *testing.T, cfg Config, test func(t *testing.T, r *rig)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, cfg)
		test(t, r)
		if r.stop != nil {
			r.stop()
		}
	})
}

// to answers per recipient, by local-part.
func to(answers map[string]mail.Outcome) func(context.Context, mail.Delivery, mail.Recipient) mail.Outcome {
	return func(_ context.Context, _ mail.Delivery, r mail.Recipient) mail.Outcome {
		if o, ok := answers[string(r.Address.Local)]; ok {
			return o
		}
		return fine
	}
}

func TestBackoff(t *testing.T) {
	t.Parallel()
	const minimal, maximal = 300 * time.Second, 4000 * time.Second
	for _, row := range []struct {
		attempt int
		jitter  float64
		want    time.Duration
	}{
		{1, 0.5, 300 * time.Second},
		{1, 0, 300 * time.Second}, // never below the minimum
		{1, 1, 360 * time.Second},
		{2, 0.5, 600 * time.Second},
		{2, 0, 480 * time.Second},
		{4, 0.5, 2400 * time.Second},
		{5, 0.5, 4000 * time.Second},
		{5, 1, 4000 * time.Second}, // never above the maximum
		{1000, 0.5, 4000 * time.Second},
	} {
		if got := backoff(row.attempt, minimal, maximal, row.jitter); got != row.want {
			t.Errorf("backoff(%d, jitter %v) = %v, want %v", row.attempt, row.jitter, got, row.want)
		}
	}
}

func TestNextAttempt(t *testing.T) {
	t.Parallel()
	arrived := time.Unix(1_000_000, 0)
	normal := rules{minimalBackoff: 300 * time.Second, maximalBackoff: 4000 * time.Second, lifetime: time.Hour}
	warned := normal
	warned.delayWarning = 10 * time.Minute
	once := normal
	once.lifetime = -1
	for _, row := range []struct {
		name    string
		age     time.Duration
		attempt int
		rules   rules
		want    time.Duration // age at the next; -1 for none
	}{
		{"first", 0, 1, normal, 5 * time.Minute},
		{"the last is at the end of the lifetime", 55 * time.Minute, 5, normal, time.Hour},
		{"too old", time.Hour, 6, normal, -1},
		{"one attempt only", 0, 1, once, -1},
		{"no later than the warning", 6 * time.Minute, 2, warned, 10 * time.Minute},
		{"after the warning", 10 * time.Minute, 1, warned, 15 * time.Minute},
	} {
		got := nextAttempt(arrived, arrived.Add(row.age), row.attempt, row.rules, 0.5)
		want := arrived.Add(row.want)
		if row.want < 0 {
			want = time.Time{}
		}
		if !got.Equal(want) {
			t.Errorf("%s: %v after arrival, want %v", row.name, got.Sub(arrived), row.want)
		}
	}
}

func TestRetryUntilExpiry(t *testing.T) {
	t.Parallel()
	inBubble(t, Config{Lifetime: 8 * time.Hour}, func(t *testing.T, r *rig) {
		r.transport.deliver = to(map[string]mail.Outcome{"bob": later})
		r.start()
		id := r.accept("alice@a.test", "bob@b.test")
		time.Sleep(8*time.Hour + time.Minute)
		synctest.Wait()

		attempts := r.transport.attempts()
		last := attempts[len(attempts)-1] // the report to alice
		attempts = attempts[:len(attempts)-1]
		for i, d := range attempts {
			if d.ID != string(id)+".0" || d.Attempt != i+1 {
				t.Fatalf("attempt %d: delivery %s, attempt %d", i+1, d.ID, d.Attempt)
			}
		}
		if m := len(attempts); m < 9 || m > 14 {
			t.Errorf("%d attempts in eight hours", m)
		}
		if made := r.reports.all(); len(made) != 1 || made[0].Kind != mail.ReportFailed ||
			made[0].Outcomes[0].Reply != later.Reply {
			t.Errorf("reports: %+v", made)
		}
		if last.Envelope.Recipients[0].Address != mail.MustAddress("alice@a.test") || !last.Envelope.ReversePath.IsNull() {
			t.Errorf("the report's envelope: %+v", last.Envelope)
		}
		r.empty()
		if events := r.audit.of(id); events[len(events)-1] != "final bounced" {
			t.Errorf("audit ends with %q", events[len(events)-1])
		}
	})
}

func TestDeferredAloneAndNoRepeats(t *testing.T) {
	t.Parallel()
	inBubble(t, Config{}, func(t *testing.T, r *rig) {
		r.transport.deliver = func(_ context.Context, d mail.Delivery, rcpt mail.Recipient) mail.Outcome {
			if rcpt.Address.Local == "slow" && d.Attempt < 3 {
				return later
			}
			return fine
		}
		r.start()
		r.accept("alice@a.test", "bob@b.test", "slow@b.test", "carol@b.test", "dave@c.test")
		time.Sleep(time.Hour)
		r.empty()
		for _, a := range []string{"bob@b.test", "slow@b.test", "carol@b.test", "dave@c.test"} {
			if n := len(r.transport.delivered(a)); n != 1 {
				t.Errorf("%s was delivered %d times", a, n)
			}
		}
		var sizes []int
		for _, d := range r.transport.attempts() {
			if d.Envelope.Recipients[0].Address.Domain == "b.test" {
				sizes = append(sizes, len(d.Envelope.Recipients))
			}
		}
		if !slices.Equal(sizes, []int{3, 1, 1}) {
			t.Errorf("recipients of the attempts: %v", sizes)
		}
	})
}

func TestRestartKeepsStates(t *testing.T) {
	t.Parallel()
	inBubble(t, Config{}, func(t *testing.T, r *rig) {
		r.transport.deliver = to(map[string]mail.Outcome{"slow": later, "other": later})
		r.start()
		id := r.accept("alice@a.test", "bob@b.test", "slow@b.test", "other@c.test", "dave@d.test")
		time.Sleep(time.Minute)
		synctest.Wait()
		before, _ := r.show(id)
		r.restart()
		time.Sleep(time.Minute)
		synctest.Wait()
		if n := len(r.transport.attempts()); n != 3 {
			t.Errorf("%d deliveries, a restart must not repeat", n)
		}
		after, ok := r.show(id)
		if !ok || len(after.Recipients) != 4 {
			t.Fatalf("after the restart: %+v", after)
		}
		for i := range after.Recipients {
			b, a := before.Recipients[i], after.Recipients[i]
			b.Last.At, a.Last.At = time.Time{}, time.Time{}
			if a.Done != b.Done || a.Attempts != b.Attempts || !a.Next.Equal(b.Next) || a.Last != b.Last {
				t.Errorf("before %+v\nafter  %+v", b, a)
			}
		}
		r.stop()
		r.transport.deliver = nil
		r.reopen()
		r.start()
		time.Sleep(10 * time.Minute)
		r.empty()
		for _, a := range []string{"bob@b.test", "slow@b.test", "other@c.test", "dave@d.test"} {
			if n := len(r.transport.delivered(a)); n != 1 {
				t.Errorf("%s was delivered %d times", a, n)
			}
		}
	})
}

// TestLongSleep: a queue that was off for hours tries what is due, the oldest
// first, and expires what is too old.
func TestLongSleep(t *testing.T) {
	t.Parallel()
	inBubble(t, Config{Lifetime: time.Hour, Workers: 1}, func(t *testing.T, r *rig) {
		r.transport.deliver = to(map[string]mail.Outcome{"bob": later})
		r.start()
		first := r.accept("alice@a.test", "bob@b.test")
		time.Sleep(2 * time.Minute) // more than jitter can add to the backoff
		second := r.accept("alice@a.test", "bob@b.test")
		time.Sleep(time.Second)
		r.stop()
		time.Sleep(2 * time.Hour)
		seen := len(r.transport.attempts())
		r.reopen()
		r.start()
		time.Sleep(time.Minute)
		r.empty()
		var order []mail.QueueID
		for _, d := range r.transport.attempts()[seen:] {
			if !d.Envelope.ReversePath.IsNull() {
				order = append(order, d.QueueID)
			}
		}
		if !slices.Equal(order, []mail.QueueID{first, second}) {
			t.Errorf("tried %v, want %v once each", order, []mail.QueueID{first, second})
		}
		if n := len(r.reports.all()); n != 2 {
			t.Errorf("%d reports", n)
		}
	})
}

func TestShortOutage(t *testing.T) {
	t.Parallel()
	inBubble(t, Config{}, func(t *testing.T, r *rig) {
		up := time.Now().Add(4 * time.Second)
		r.transport.deliver = func(context.Context, mail.Delivery, mail.Recipient) mail.Outcome {
			if time.Now().Before(up) {
				return offline
			}
			return fine
		}
		r.start()
		var ids []mail.QueueID
		for range 30 {
			ids = append(ids, r.accept("alice@a.test", "bob@b.test"))
		}
		time.Sleep(2 * time.Second)
		synctest.Wait()
		if m, ok := r.show(ids[29]); !ok || m.State != StateDeferred || m.Recipients[0].Last.Reply != offline.Reply {
			t.Errorf("during the outage: %+v", m)
		}
		if down := r.Stats().Down; !slices.Equal(down, []string{"b.test"}) {
			t.Errorf("down: %q", down)
		}
		time.Sleep(10 * time.Second)
		r.empty()
		if n := len(r.transport.attempts()); n > 30+5+4 {
			t.Errorf("%d attempts for 30 messages", n)
		}
	})
}

func TestLongOutage(t *testing.T) {
	t.Parallel()
	inBubble(t, Config{}, func(t *testing.T, r *rig) {
		up := time.Now().Add(20 * time.Minute)
		r.transport.deliver = func(_ context.Context, _ mail.Delivery, rcpt mail.Recipient) mail.Outcome {
			if time.Now().Before(up) && rcpt.Address.Domain == "b.test" {
				return offline
			}
			return fine
		}
		r.start()
		var ids []mail.QueueID
		for range 200 {
			ids = append(ids, r.accept("alice@a.test", "bob@b.test"))
		}
		time.Sleep(5 * time.Minute)
		synctest.Wait()
		for _, id := range ids {
			if m, ok := r.show(id); !ok || m.State != StateDeferred || m.Recipients[0].Last.Reply != offline.Reply {
				t.Fatalf("message after a minute of outage: %+v", m)
			}
		}
		// Others are not affected, and new mail shares the fate.
		other := r.accept("alice@a.test", "carol@c.test")
		late := r.accept("alice@a.test", "bob@b.test")
		time.Sleep(time.Second)
		synctest.Wait()
		if _, ok := r.show(other); ok {
			t.Error("an outage of one destination stops another")
		}
		if m, ok := r.show(late); !ok || m.Recipients[0].Last.Reply != offline.Reply {
			t.Errorf("new message: %+v", m)
		}
		if n := len(r.transport.attempts()); n > 40 {
			t.Errorf("%d attempts at a dead destination in five minutes", n)
		}
		time.Sleep(time.Hour)
		r.empty()
		if n := len(r.transport.delivered("bob@b.test")); n != 201 {
			t.Errorf("%d delivered", n)
		}
	})
}

func TestRetryEndsThePause(t *testing.T) {
	t.Parallel()
	inBubble(t, Config{}, func(t *testing.T, r *rig) {
		up := time.Now().Add(10 * time.Minute)
		r.transport.deliver = func(context.Context, mail.Delivery, mail.Recipient) mail.Outcome {
			if time.Now().Before(up) {
				return offline
			}
			return fine
		}
		r.start()
		for range 3 {
			r.accept("alice@a.test", "bob@b.test")
		}
		time.Sleep(10*time.Minute + time.Second)
		n, err := r.RetryAll(context.Background(), Filter{Destination: "b.test"})
		if err != nil || n != 3 {
			t.Errorf("retried %d, %v", n, err)
		}
		time.Sleep(time.Second)
		r.empty()
	})
}

func TestSuccessReports(t *testing.T) {
	t.Parallel()
	relayed, final := fine, fine
	relayed.Relayed = true
	final.Relayed, final.Final = true, true
	inBubble(t, Config{}, func(t *testing.T, r *rig) {
		r.transport.deliver = to(map[string]mail.Outcome{"relayed": relayed, "final": final, "quiet": final})
		r.start()
		s := r.submit("alice@a.test", "relayed@b.test", "final@b.test", "onward@b.test", "quiet@b.test")
		for i := range 3 {
			s.Envelope.Recipients[i].Notify = mail.NotifySuccess | mail.NotifyFailure
		}
		if err := r.Accept(context.Background(), s); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Second)
		r.empty()
		made := r.reports.all()
		if len(made) != 2 || made[0].Kind != mail.ReportRelayed || made[1].Kind != mail.ReportDelivered ||
			len(made[0].Outcomes) != 1 || made[0].Outcomes[0].Recipient.Local != "relayed" ||
			len(made[1].Outcomes) != 1 || made[1].Outcomes[0].Recipient.Local != "final" {
			t.Errorf("reports: %+v", made)
		}
	})
}

func TestFailureReports(t *testing.T) {
	t.Parallel()
	answers := map[string]mail.Outcome{"gone": never, "lost": never, "slow": later}
	type recipient struct {
		address string
		notify  mail.Notify
	}
	for _, row := range []struct {
		name    string
		from    string
		to      []recipient
		want    []string // recipients reported on
		reports int
	}{
		{"one", "alice@a.test", []recipient{{"gone@b.test", 0}}, []string{"gone@b.test"}, 1},
		{"one report for all destinations", "alice@a.test",
			[]recipient{{"gone@b.test", 0}, {"bob@b.test", 0}, {"lost@c.test", 0}, {"gone@d.test", 0}},
			[]string{"gone@b.test", "lost@c.test", "gone@d.test"}, 1},
		{"never", "alice@a.test", []recipient{{"gone@b.test", mail.NotifyNever}}, nil, 0},
		{"success only", "alice@a.test", []recipient{{"gone@b.test", mail.NotifySuccess}}, nil, 0},
		{"failure asked for", "alice@a.test", []recipient{{"gone@b.test", mail.NotifyFailure}, {"lost@b.test", mail.NotifyNever}},
			[]string{"gone@b.test"}, 1},
		{"null reverse-path", "", []recipient{{"gone@b.test", 0}, {"lost@c.test", mail.NotifyFailure}}, nil, 0},
	} {
		t.Run(row.name, func(t *testing.T) {
			t.Parallel()
			inBubble(t, Config{}, func(t *testing.T, r *rig) {
				r.transport.deliver = to(answers)
				r.start()
				s := r.submit(row.from)
				for _, rcpt := range row.to {
					a := mail.MustAddress(rcpt.address)
					s.Envelope.Recipients = append(s.Envelope.Recipients, mail.Recipient{Address: a, Accepted: a, Notify: rcpt.notify})
				}
				if err := r.Accept(context.Background(), s); err != nil {
					t.Fatal(err)
				}
				time.Sleep(time.Second)
				r.empty()
				made := r.reports.all()
				if len(made) != row.reports {
					t.Fatalf("%d reports, want %d", len(made), row.reports)
				}
				var told []string
				for _, report := range made {
					for i, o := range report.Outcomes {
						told = append(told, o.Recipient.String())
						if report.Envelope.Recipients[i].Address != o.Recipient {
							t.Errorf("outcome of %s beside recipient %s", o.Recipient, report.Envelope.Recipients[i].Address)
						}
					}
				}
				if !slices.Equal(told, row.want) {
					t.Errorf("reported on %q, want %q", told, row.want)
				}
				if n := len(r.transport.delivered("alice@a.test")); n != row.reports {
					t.Errorf("%d reports were delivered", n)
				}
			})
		})
	}
}

// TestReportWhileOthersWait: a failure is told of at once, the others go on.
func TestReportWhileOthersWait(t *testing.T) {
	t.Parallel()
	inBubble(t, Config{}, func(t *testing.T, r *rig) {
		r.transport.deliver = to(map[string]mail.Outcome{"gone": never, "slow": later})
		r.start()
		id := r.accept("alice@a.test", "gone@b.test", "slow@b.test", "slow@c.test")
		time.Sleep(time.Second)
		synctest.Wait()
		if n := len(r.reports.all()); n != 1 {
			t.Fatalf("%d reports", n)
		}
		m, ok := r.show(id)
		if !ok || !m.Recipients[0].Done || m.Recipients[1].Done || m.Recipients[2].Done {
			t.Fatalf("%+v", m)
		}
		r.restart()
		time.Sleep(time.Hour)
		synctest.Wait()
		if n := len(r.reports.all()); n != 1 {
			t.Errorf("%d reports after a restart", n)
		}
	})
}

func TestReportPutOff(t *testing.T) {
	t.Parallel()
	inBubble(t, Config{}, func(t *testing.T, r *rig) {
		r.reports.fail = errors.New("no paper")
		r.transport.deliver = to(map[string]mail.Outcome{"gone": never})
		r.start()
		id := r.accept("alice@a.test", "gone@b.test")
		time.Sleep(time.Minute)
		synctest.Wait()
		if _, ok := r.show(id); !ok {
			t.Fatal("a failure was lost with its report")
		}
		r.restart()
		time.Sleep(time.Minute)
		synctest.Wait()
		r.reports.mu.Lock()
		r.reports.fail = nil
		r.reports.mu.Unlock()
		time.Sleep(10 * time.Minute)
		r.empty()
		if n := len(r.transport.attempts()); n != 2 {
			t.Errorf("%d deliveries, want the failed one and the report", n)
		}
	})
}

func TestDelayWarning(t *testing.T) {
	t.Parallel()
	inBubble(t, Config{DelayWarning: time.Hour}, func(t *testing.T, r *rig) {
		r.transport.deliver = to(map[string]mail.Outcome{"slow": later, "mute": later})
		r.start()
		s := r.submit("alice@a.test", "slow@b.test", "mute@c.test")
		s.Envelope.Recipients[1].Notify = mail.NotifyFailure
		if err := r.Accept(context.Background(), s); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Hour - time.Minute)
		synctest.Wait()
		if n := len(r.reports.all()); n != 0 {
			t.Fatalf("%d reports before the time", n)
		}
		time.Sleep(2 * time.Minute)
		synctest.Wait()
		r.restart()
		time.Sleep(3 * time.Hour)
		synctest.Wait()
		made := r.reports.all()
		if len(made) != 1 || made[0].Kind != mail.ReportDelayed || len(made[0].Outcomes) != 1 ||
			made[0].Outcomes[0].Recipient.Local != "slow" {
			t.Fatalf("reports: %+v", made)
		}
		if !made[0].Until.Equal(made[0].Arrived.Add(5 * 24 * time.Hour)) {
			t.Errorf("tried until %v", made[0].Until)
		}
	})
}

func TestOneAttempt(t *testing.T) {
	t.Parallel()
	inBubble(t, Config{Lifetime: -1, BounceLifetime: -1}, func(t *testing.T, r *rig) {
		r.transport.deliver = to(map[string]mail.Outcome{"slow": later, "off": offline})
		r.start()
		r.accept("alice@a.test", "slow@b.test")
		r.accept("", "off@c.test")
		time.Sleep(time.Second)
		r.empty()
		if n := len(r.reports.all()); n != 1 {
			t.Errorf("%d reports", n)
		}
	})
}

func TestTransportBreaksItsPromise(t *testing.T) {
	t.Parallel()
	for _, row := range []struct {
		name    string
		deliver func(d mail.Delivery) []mail.Outcome
	}{
		{"panics", func(mail.Delivery) []mail.Outcome { panic("oh") }},
		{"forgets recipients", func(mail.Delivery) []mail.Outcome { return []mail.Outcome{fine} }},
		{"answers nothing", func(mail.Delivery) []mail.Outcome { return nil }},
	} {
		t.Run(row.name, func(t *testing.T) {
			t.Parallel()
			inBubble(t, Config{}, func(t *testing.T, r *rig) {
				r.Queue.deps.Transport = brokenTransport{r.transport, row.deliver}
				r.start()
				id := r.accept("alice@a.test", "bob@b.test", "carol@b.test")
				time.Sleep(time.Second)
				synctest.Wait()
				if m, ok := r.show(id); !ok || m.Recipients[0].Done || m.Recipients[1].Done || m.Recipients[0].Attempts != 1 {
					t.Errorf("%+v", m)
				}
			})
		})
	}
}

type brokenTransport struct {
	*transport
	broken func(d mail.Delivery) []mail.Outcome
}

func (b brokenTransport) Deliver(_ context.Context, d mail.Delivery) []mail.Outcome {
	return b.broken(d)
}
