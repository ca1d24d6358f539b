package pairs

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"
)

// measure is one figure of a pair's speed.
type measure struct {
	name, unit string
	run        func(t testing.TB, p pair, user string) float64
}

// measures are taken of both pairs in turn.
var measures = []measure{
	{"lag of a delivery", "ms", func(t testing.TB, p pair, user string) float64 { return millis(lags(t, p, user, 40)) }},
	{"lag of a flag", "ms", func(t testing.TB, p pair, user string) float64 { return millis(flagLags(t, p, user, 10)) }},
	{"1000 mails until the partner shows all", "mails/s", live},
	{"flags of 10000 mails until the partner shows all", "flags/s", flagRate},
	{"catch-up of 5000 mails", "s", catchUp(5000)},
	{"comparison of 50000 equal mails", "s", verify(50_000)},
}

func millis(took []time.Duration) float64 {
	slices.Sort(took)
	return took[len(took)/2].Seconds() * 1000
}

// lags are the times from the end of deliveries on A until B's client knows.
func lags(t testing.TB, p pair, user string, n int) []time.Duration {
	mustDeliver(t, p, 0, user, "first")
	quietly(t, p, user, 1)
	b := session(t, p, 1, user)
	b.must(t, "SELECT INBOX")
	var took []time.Duration
	for i := range n {
		mustDeliver(t, p, 0, user, fmt.Sprintf("lag%d", i))
		began := time.Now()
		if err := b.until("EXISTS"); err != nil {
			t.Fatal(err)
		}
		took = append(took, time.Since(began))
	}
	return took
}

func flagLags(t testing.TB, p pair, user string, n int) []time.Duration {
	mustDeliver(t, p, 0, user, "flagged")
	quietly(t, p, user, 1)
	a, b := session(t, p, 0, user), session(t, p, 1, user)
	a.must(t, "SELECT INBOX")
	b.must(t, "SELECT INBOX")
	var took []time.Duration
	for i := range n {
		a.must(t, `STORE 1 %cFLAGS (\Flagged)`, "+-"[i%2])
		began := time.Now()
		if err := b.until("FETCH"); err != nil {
			t.Fatal(err)
		}
		took = append(took, time.Since(began))
	}
	return took
}

// quietly waits until B shows at least n mails.
func quietly(t testing.TB, p pair, user string, n int) {
	t.Helper()
	c := session(t, p, 1, user)
	defer c.close()
	if err := c.untilStatus("MESSAGES", func(have int) bool { return have >= n }); err != nil {
		t.Fatal(err)
	}
}

// untilStatus polls a number of INBOX.
func (c *client) untilStatus(item string, enough func(int) bool) error {
	have := 0
	for began := time.Now(); time.Since(began) < 10*patience; {
		var err error
		if have, err = c.status(item); err != nil || enough(have) {
			return err
		}
	}
	return fmt.Errorf("%s of INBOX stays %d", item, have)
}

func (c *client) status(item string) (int, error) {
	lines, err := c.do("STATUS INBOX (%s)", item)
	if err != nil {
		return 0, err
	}
	_, after, _ := strings.Cut(strings.Join(lines, "\n"), "("+item+" ")
	number, _, _ := strings.Cut(after, ")")
	return strconv.Atoi(number)
}

// give delivers n mails of 5 kB to a user over so many connections, and
// returns how long that took.
func give(t testing.TB, p pair, user string, n, connections int) time.Duration {
	t.Helper()
	began := time.Now()
	var wait sync.WaitGroup
	failed := make(chan error, connections)
	for c := range connections {
		wait.Go(func() {
			for i := c; i < n; i += connections {
				if err := deliver(p.lmtp(0), user, message(fmt.Sprintf("g%d", i), 5<<10)); err != nil {
					failed <- err
					return
				}
			}
		})
	}
	wait.Wait()
	close(failed)
	for err := range failed {
		t.Fatal(err)
	}
	return time.Since(began)
}

func live(t testing.TB, p pair, user string) float64 {
	mustDeliver(t, p, 0, user, "first")
	quietly(t, p, user, 1)
	began := time.Now()
	give(t, p, user, 1000, 8)
	quietly(t, p, user, 1001)
	return 1000 / time.Since(began).Seconds()
}

func flagRate(t testing.TB, p pair, user string) float64 {
	const mails, rounds = 10_000, 4
	a := session(t, p, 0, user)
	for i := range mails / 100 {
		if err := a.addMany("INBOX", fmt.Sprintf("f%d-", i), 100); err != nil {
			t.Fatal(err)
		}
	}
	quietly(t, p, user, mails)
	b := session(t, p, 1, user)
	a.must(t, "SELECT INBOX")
	began := time.Now()
	for i := range rounds {
		a.must(t, `STORE 1:* %cFLAGS.SILENT (\Seen)`, "+-"[i%2])
		want := []int{0, mails}[i%2]
		if err := b.untilStatus("UNSEEN", func(have int) bool { return have == want }); err != nil {
			t.Fatal(err)
		}
	}
	return mails * rounds / time.Since(began).Seconds()
}

// catchUp measures from the start of the partner that was down until it shows
// all, with nobody telling it to look.
func catchUp(mails int) func(testing.TB, pair, string) float64 {
	return func(t testing.TB, p pair, user string) float64 {
		mustDeliver(t, p, 0, user, "first")
		quietly(t, p, user, 1)
		p.stop(t, 1)
		give(t, p, user, mails, 8)
		p.start(t, 1)
		began := time.Now()
		quietly(t, p, user, mails+1)
		return time.Since(began).Seconds()
	}
}

// verify measures the operator's comparison of everything where nothing
// differs.
func verify(mails int) func(testing.TB, pair, string) float64 {
	return func(t testing.TB, p pair, user string) float64 {
		a := session(t, p, 0, user)
		have, err := a.status("MESSAGES")
		if err != nil {
			t.Fatal(err)
		}
		for i := have / 100; i < mails/100; i++ {
			if err := a.addMany("INBOX", fmt.Sprintf("v%d-", i), 100); err != nil {
				t.Fatal(err)
			}
		}
		quietly(t, p, user, mails)
		began := time.Now()
		if err := p.sync(0, user, true); err != nil {
			t.Fatal(err)
		}
		return time.Since(began).Seconds()
	}
}

// load is how fast deliveries went.
type load struct{ rate, median float64 }

// giveMany delivers to many users over so many connections, each kept open.
func giveMany(t testing.TB, p pair, users []string, first, mails, connections int) load {
	t.Helper()
	times := make([][]time.Duration, connections)
	failed := make(chan error, connections)
	var wait sync.WaitGroup
	began := time.Now()
	for c := range connections {
		wait.Go(func() {
			s, err := openLMTP(p.lmtp(0))
			if err != nil {
				failed <- err
				return
			}
			defer s.close()
			for i := c; i < mails; i += connections {
				start := time.Now()
				if err := s.deliver(users[(first+i)%len(users)], message(fmt.Sprintf("load%d", first+i), 5<<10)); err != nil {
					failed <- err
					return
				}
				times[c] = append(times[c], time.Since(start))
			}
		})
	}
	wait.Wait()
	took := time.Since(began)
	close(failed)
	for err := range failed {
		t.Fatal(err)
	}
	return load{float64(mails) / took.Seconds(), millis(slices.Concat(times...))}
}
