package foreign

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/postern-mail/postern/foreign/imap"
	"github.com/postern-mail/postern/internal/testenv"
)

// changes does something to both sides and returns what must be there in the end.
func (s *site) changes(round int) {
	s.t.Helper()
	name := func(what string) string { return fmt.Sprintf("%s%d", what, round) }
	s.put(Left, "INBOX", name("left"), `\Seen`)
	s.put(Right, "INBOX", name("right"))
	s.put(Left, "Box", name("boxed"), "$Label")
	s.put(Left, "INBOX", name("passing"))
	if round > 0 {
		before := func(what string) string { return fmt.Sprintf("%s%d", what, round-1) }
		s.flag(Right, "INBOX", before("left"), true, `\Flagged`)
		s.kill(Left, "INBOX", before("passing"))
		if uid := s.uids(Right, "INBOX")[before("right")]; uid != 0 {
			_, _, err := s.people[Right].Copy(s.t.Context(), setOf(uid), "Box")
			s.must(err)
		}
	}
}

// finished checks that rounds of changes are there once, and nothing else.
func (s *site) finished(rounds int) {
	s.t.Helper()
	want := map[string][]string{"INBOX": {}, "Box": {}}
	for i := range rounds {
		seen := ` \Seen`
		if i < rounds-1 {
			seen = ` \Flagged,\Seen`
			want["Box"] = append(want["Box"], fmt.Sprintf("right%d ", i))
		} else {
			want["INBOX"] = append(want["INBOX"], fmt.Sprintf("passing%d ", i))
		}
		want["INBOX"] = append(want["INBOX"], fmt.Sprintf("left%d%s", i, seen), fmt.Sprintf("right%d ", i))
		want["Box"] = append(want["Box"], fmt.Sprintf("boxed%d $Label", i))
	}
	for _, all := range want {
		slices.Sort(all)
	}
	s.wantSame(want)
}

// killAt runs a worker that is killed at its nth step; killed is false when it
// came to its end before.
func (s *site) killAt(n int) (step string, killed bool) {
	s.t.Helper()
	a := s.agent()
	accounts, err := s.cfg.Accounts(s.t.Context())
	s.must(err)
	w := a.worker(a.mirrors[0], accounts[0], a.deps.Log)
	ctx, cancel := context.WithCancel(s.t.Context())
	defer cancel()
	w.at = func(name string) {
		if n--; n == 0 {
			step, killed = name, true
			cancel()
			for _, l := range w.links {
				if l != nil {
					_ = l.Close()
				}
			}
		}
	}
	err = w.session(ctx, func() bool { return true })
	if !killed && err != nil {
		s.t.Fatal(err)
	}
	return step, killed
}

// TestKilledAtEachStep ends the agent at the first step, then at the second, and
// so on; each time something else is on its way.
func TestKilledAtEachStep(t *testing.T) {
	t.Parallel()
	s := newSite(t, func(c *Config) { c.Settle = 1 })
	s.must(s.people[Left].Create(t.Context(), "Box"))
	s.must(s.people[Right].Create(t.Context(), "Box"))
	steps := make(map[string]int)
	var rounds int
	s.changes(0)
	s.once()
	rounds = 1
	for n, killed := 1, true; killed; n++ {
		s.changes(rounds)
		rounds++
		var step string
		step, killed = s.killAt(n)
		steps[step]++
		s.once()
	}
	s.once()
	s.finished(rounds)
	for _, want := range []string{"intend", "intended", "append", "appended", "recorded", "store", "expunge", "expunged", "advance", "copy", "copied"} {
		if steps[want] == 0 {
			t.Errorf("never killed at %q: %v", want, steps)
		}
	}
}

// TestCutAnywhere cuts the ways to the servers after a random number of octets,
// again and again, while mail changes on both sides.
func TestCutAnywhere(t *testing.T) {
	t.Parallel()
	var ways [2]*cuttable
	s := newSite(t, func(c *Config) {
		c.Settle = 1
		for i := range ways {
			ways[i] = newCuttable(t, c.Servers[i].Address)
			c.Servers[i].Address = ways[i].Addr().String()
		}
	})
	s.must(s.people[Left].Create(t.Context(), "Box"))
	s.must(s.people[Right].Create(t.Context(), "Box"))
	seed := testenv.Seed(t)
	random := rand.New(rand.NewPCG(seed, 0))
	const rounds = 10
	done := 0
	for round := range rounds {
		s.changes(round)
		for _, way := range ways {
			way.mu.Lock()
			way.after = 300 + random.Int64N(2500) // the login and the list are as many
			way.mu.Unlock()
		}
		a := s.agent()
		accounts, err := s.cfg.Accounts(t.Context())
		s.must(err)
		w := a.worker(a.mirrors[0], accounts[0], a.deps.Log)
		if w.session(t.Context(), func() bool { return true }) != nil {
			done++
		}
		for _, way := range ways {
			way.mu.Lock()
			way.after = 0
			way.mu.Unlock()
			way.settled(t) // a command that was cut off is over before the next session
		}
		s.once()
	}
	t.Logf("%d sessions were cut", done)
	if done == 0 {
		t.Error("nothing was cut")
	}
	s.once()
	s.finished(rounds)
}

// TestLateAppend gives up an APPEND that the server finishes afterwards.
func TestLateAppend(t *testing.T) {
	t.Parallel()
	s := newSite(t, func(c *Config) { c.Settle = 1 })
	s.once()
	s.put(Left, "INBOX", "late")
	for n := 1; ; n++ {
		if step, killed := s.killAt(n); !killed {
			t.Fatal("there is no APPEND")
		} else if step == "append" {
			break
		}
	}
	date := ""
	var in *intent
	open, err := load[intent](t.Context(), newBook(s.kv, "test", person), keyIntent)
	s.must(err)
	for _, one := range open {
		in = one
	}
	if in == nil || !in.Marked {
		t.Fatalf("intents %+v, want one with the keyword", open)
	}
	_, err = s.people[Left].Select(t.Context(), "INBOX", nil)
	s.must(err)
	s.must(s.people[Left].Fetch(t.Context(), "1:*", func(m message) error { date = m.Date; return nil }))
	s.once() // appends it once more
	text := letter("late")
	_, _, err = s.people[Right].Append(t.Context(), "INBOX", []string{pendingKeyword}, date, int64(len(text)), strings.NewReader(text))
	s.must(err)
	s.once()
	s.wantSame(map[string][]string{"INBOX": {"late "}})
}

type message = imap.Message

func setOf(uids ...uint32) imap.Set { return imap.SetOf(uids) }
