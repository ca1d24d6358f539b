package directory

import (
	"context"
	"errors"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/postern-mail/postern/status"
)

// oracle counts the questions that reach the directory.
type oracle struct {
	asked int
	value int
	err   error
}

func (o *oracle) lookup(context.Context) (int, error) {
	o.asked++
	return o.value, o.err
}

func testAnswers() *answers[string, int] {
	return newAnswers[string, int](CacheConfig{PositiveTTL: time.Minute, NegativeTTL: 10 * time.Second, StaleTTL: time.Hour, MaxEntries: 4},
		func() uint64 { return 0 })
}

func TestAnswersAge(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c, o := testAnswers(), &oracle{value: 1}
		ctx := t.Context()
		want := func(asked, value int, reason status.Reason) {
			t.Helper()
			got, err := c.get(ctx, "k", o.lookup)
			if got != value || status.Of(err) != reason || o.asked != asked {
				t.Fatalf("got %d, %v after %d questions; want %d, %v after %d", got, err, o.asked, value, reason, asked)
			}
		}
		want(1, 1, status.OK)
		time.Sleep(59 * time.Second)
		want(1, 1, status.OK)
		time.Sleep(2 * time.Second)
		want(2, 1, status.OK)

		o.err = status.Errorf(status.DirectoryDown, "dead")
		time.Sleep(61 * time.Second)
		want(3, 1, status.OK) // stale
		time.Sleep(time.Hour)
		o.value = 0
		want(4, 0, status.DirectoryDown) // too stale

		o.err = status.Errorf(status.NoSuchUser, "gone")
		want(5, 0, status.NoSuchUser)
		time.Sleep(9 * time.Second)
		want(5, 0, status.NoSuchUser)
		o.err = status.Errorf(status.DirectoryDown, "dead")
		time.Sleep(2 * time.Second)
		want(6, 0, status.DirectoryDown) // a no is never stale

		o.value, o.err = 7, nil
		want(7, 7, status.OK)
	})
}

func TestDeletedAnswerIsNotServedStale(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c := testAnswers()
		yes, no, down := &oracle{value: 1}, &oracle{err: status.Errorf(status.NoSuchUser, "gone")}, &oracle{err: errors.New("dead")}
		for _, o := range []*oracle{yes, no, down} {
			_, _ = c.get(t.Context(), "k", o.lookup)
			time.Sleep(2 * time.Minute)
		}
		if v, err := c.get(t.Context(), "k", down.lookup); err == nil {
			t.Errorf("a deleted account comes back as %d in an outage", v)
		}
	})
}

func TestAnswersAreBounded(t *testing.T) {
	t.Parallel()
	c, o := testAnswers(), &oracle{value: 1}
	ask := func(key string, o *oracle) {
		if _, err := c.get(t.Context(), key, o.lookup); err != nil && o.err == nil {
			t.Fatal(err)
		}
	}
	for _, key := range []string{"a", "b", "c", "d", "a", "e"} {
		ask(key, o)
	}
	if len(c.positive.byKey) != 4 || c.positive.order.Len() != 4 {
		t.Errorf("%d answers are kept, want 4", len(c.positive.byKey))
	}
	if _, ok := c.positive.get("b"); ok {
		t.Error("the least recently used answer is kept")
	}
	guessed := &oracle{err: status.Errorf(status.NoSuchUser, "no")}
	for _, key := range []string{"x", "y", "z"} {
		ask(key, guessed)
	}
	if len(c.positive.byKey) != 4 || len(c.negative.byKey) != 1 {
		t.Errorf("guesses left %d positive and %d negative answers, want 4 and 1", len(c.positive.byKey), len(c.negative.byKey))
	}
}

func TestGenerationsDoNotMix(t *testing.T) {
	t.Parallel()
	generation := uint64(1)
	c := newAnswers[string, int](CacheConfig{PositiveTTL: time.Hour, NegativeTTL: time.Hour, MaxEntries: 4}, func() uint64 { return generation })
	o := &oracle{value: 1}
	for _, next := range []uint64{1, 1, 2, 2} {
		generation = next
		if _, err := c.get(t.Context(), "k", o.lookup); err != nil {
			t.Fatal(err)
		}
	}
	if o.asked != 2 {
		t.Errorf("asked %d times in two generations", o.asked)
	}
}

func TestSameQuestionIsAskedOnce(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c := testAnswers()
		asked := 0
		slow := func(ctx context.Context) (int, error) {
			asked++
			select {
			case <-time.After(time.Second):
				return 1, nil
			case <-ctx.Done():
				return 0, status.New(status.DirectoryDown, ctx.Err())
			}
		}
		impatient, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
		defer cancel()
		results := make(chan error, 11)
		ask := func(ctx context.Context) {
			_, err := c.get(ctx, "k", slow)
			results <- err
		}
		go ask(impatient) // leads, and gives up
		synctest.Wait()
		for range 10 {
			go ask(t.Context())
		}
		failed := 0
		for range 11 {
			if err := <-results; err != nil {
				failed++
			}
		}
		if failed != 1 || asked != 2 {
			t.Errorf("%d of 11 failed after %d lookups; want the impatient one only, and 2", failed, asked)
		}
	})
}

// TestSuggestedAnswers: what another question told serves while the directory
// is down, and nothing is taken for fresh that was not asked.
func TestSuggestedAnswers(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c, o := testAnswers(), &oracle{value: 1}
		want := func(asked, value int, reason status.Reason) {
			t.Helper()
			got, err := c.get(t.Context(), "k", o.lookup)
			if got != value || status.Of(err) != reason || o.asked != asked {
				t.Fatalf("got %d, %v after %d questions; want %d, %v after %d", got, err, o.asked, value, reason, asked)
			}
		}
		c.suggest("k", 7)
		want(1, 1, status.OK)
		c.suggest("k", 8) // older than the answer
		want(1, 1, status.OK)
		o.err = status.Errorf(status.DirectoryDown, "dead")
		time.Sleep(2 * time.Hour)
		c.suggest("k", 9)
		want(2, 9, status.OK)
		o.value, o.err = 0, status.Errorf(status.AddressAmbiguous, "two of them")
		want(3, 0, status.AddressAmbiguous)
		c.suggest("k", 10)
		o.err = status.Errorf(status.DirectoryDown, "dead")
		time.Sleep(time.Minute)
		want(4, 0, status.DirectoryDown) // the no was certain when it was suggested
	})
}

// TestHotAnswersAreRenewedEarly: what is asked for often is looked up anew
// before its time is over, by nobody who waits, and not all at once.
func TestHotAnswersAreRenewedEarly(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		d := &Directory{renewals: newRenewals()}
		done := make(chan struct{})
		running, stop := context.WithCancel(t.Context())
		go func() {
			defer close(done)
			_ = d.Run(running)
		}()
		synctest.Wait()
		const keys = 200
		c := newAnswers[int, int](CacheConfig{PositiveTTL: time.Minute, NegativeTTL: time.Second, StaleTTL: time.Hour, MaxEntries: 1000}, func() uint64 { return 0 })
		c.renewals = d.renewals
		second, asked, waited := 0, map[int]int{}, 0
		var mu sync.Mutex
		for range 60 {
			for key := range keys + 1 {
				if key == keys && second > 0 {
					continue // asked once: not hot
				}
				inCall := true
				_, err := c.get(t.Context(), key, func(context.Context) (int, error) {
					mu.Lock()
					defer mu.Unlock()
					if inCall {
						waited++
					}
					asked[second]++
					return key, nil
				})
				mu.Lock()
				inCall = false
				mu.Unlock()
				if err != nil {
					t.Fatal(err)
				}
			}
			synctest.Wait()
			second++
			time.Sleep(time.Second)
		}
		if waited != keys+1 {
			t.Errorf("%d lookups with a caller waiting, want those of the start, %d", waited, keys+1)
		}
		renewed, most := 0, 0
		for at, n := range asked {
			if at > 0 {
				renewed, most = renewed+n, max(most, n)
			}
		}
		if renewed != keys || most > keys/4 || c.counts.renewed.Load() != keys {
			t.Errorf("%d renewed, want %d; %d in one second", renewed, keys, most)
		}
		stop()
		<-done
	})
}

// TestRenewalThatFailsLeavesTheAnswer: an outage is noticed only by what is too
// old.
func TestRenewalThatFailsLeavesTheAnswer(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c, o := testAnswers(), &oracle{value: 1}
		_, _ = c.get(t.Context(), "k", o.lookup)
		o.err = errors.New("dead")
		c.renew(t.Context(), "k", o.lookup)
		if v, err := c.get(t.Context(), "k", o.lookup); v != 1 || err != nil || o.asked != 2 {
			t.Errorf("after a failed renewal %d, %v, %d questions", v, err, o.asked)
		}
		o.err = status.Errorf(status.NoSuchUser, "gone")
		c.renew(t.Context(), "k", o.lookup)
		if _, err := c.get(t.Context(), "k", o.lookup); status.Of(err) != status.NoSuchUser {
			t.Errorf("a renewal that finds nobody leaves %v", err)
		}
		counts := c.counts.read()
		if counts != (Counts{Hit: 1, Negative: 1, Miss: 1, Renewed: 2, Stale: 1}) {
			t.Errorf("counts %+v", counts)
		}
	})
}

// TestColdLookupsComeInTurn: after a restart so many at once, in order, and the
// logins beside them.
func TestColdLookupsComeInTurn(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		d := &Directory{cfg: Config{LookupTimeout: 10 * time.Second}, log: hclog.NewNullLogger(), logins: newGate(), lookups: newGate()}
		now, most, order := 0, 0, []int{}
		var mu sync.Mutex
		var wg sync.WaitGroup
		const callers = 4 * maxLookups
		for i := range callers {
			wg.Go(func() {
				time.Sleep(time.Duration(i) * time.Microsecond)
				_, err := timed(t.Context(), d, d.lookups, func(context.Context) (int, error) {
					mu.Lock()
					order = append(order, i)
					now++
					most = max(most, now)
					mu.Unlock()
					time.Sleep(time.Second)
					mu.Lock()
					now--
					mu.Unlock()
					return 0, nil
				})
				if err != nil {
					t.Error(err)
				}
			})
		}
		time.Sleep(time.Millisecond)
		if _, err := timed(t.Context(), d, d.logins, func(context.Context) (int, error) { return 0, nil }); err != nil {
			t.Error(err)
		}
		wg.Wait()
		if most != maxLookups {
			t.Errorf("%d lookups at once, want %d", most, maxLookups)
		}
		for i, caller := range order {
			if caller/maxLookups != i/maxLookups {
				t.Fatalf("order %v", order)
			}
		}
		if l := d.latency.read(); l.Count != callers+1 || l.Within[len(l.Within)-1] != callers+1 {
			t.Errorf("latency %+v", l)
		}
		blocked, cancel := context.WithCancel(t.Context())
		for range maxLookups {
			if err := d.lookups.enter(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
		cancel()
		if _, err := timed(blocked, d, d.lookups, func(context.Context) (int, error) { return 0, nil }); status.Of(err) != status.DirectoryDown {
			t.Errorf("a caller who gives up in the row gets %v", err)
		}
	})
}
