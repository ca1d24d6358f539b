package directory

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

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
