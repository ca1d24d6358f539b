package queue

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/postern-mail/postern/mail"
	"github.com/postern-mail/postern/status"
)

func newSchedule(t *testing.T, cfg Config, tr Transport) *schedule {
	t.Helper()
	cfg, err := cfg.withDefaults()
	if err != nil {
		t.Fatal(err)
	}
	var s schedule
	s.init(cfg, tr)
	return &s
}

func anyItem(item) bool { return false }

func fill(s *schedule, destination string, n int) {
	for i := range n {
		pushFrom(s, "", destination, i)
	}
}

// pushFrom puts a group of somebody's in line.
func pushFrom(s *schedule, sender mail.LocalPart, destination string, n int) {
	rec := &record{envelope: mail.Envelope{ReversePath: mail.Address{Local: sender, Domain: "a.test"}}}
	s.push(item{m: &message{id: mail.QueueID(fmt.Sprint(destination, n)), record: rec}, to: s.destination(destination)})
}

// take starts everything that may run.
func take(s *schedule, now time.Time) (taken []item) {
	for {
		it, ok := s.next(now, anyItem)
		if !ok {
			return taken
		}
		taken = append(taken, it)
	}
}

func TestWindowGrows(t *testing.T) {
	t.Parallel()
	s := newSchedule(t, Config{}, nil)
	now := time.Unix(1000, 0)
	fill(s, "b", 500)
	running := take(s, now)
	if len(running) != 5 {
		t.Fatalf("%d at first, want 5", len(running))
	}
	for range 100 {
		s.done(running[0], reached, mail.Outcome{}, now, 0)
		running = append(running[1:], take(s, now)...)
	}
	if len(running) != 20 {
		t.Errorf("%d after successes, want 20", len(running))
	}
}

func TestWorkersAreShared(t *testing.T) {
	t.Parallel()
	s := newSchedule(t, Config{Workers: 6}, nil)
	now := time.Unix(1000, 0)
	fill(s, "b", 100)
	fill(s, "c", 100)
	fill(s, "d", 1)
	count := map[string]int{}
	for _, it := range take(s, now) {
		count[it.to.name]++
	}
	if count["b"]+count["c"]+count["d"] != 6 || count["d"] != 1 || count["c"] < 2 {
		t.Errorf("running: %v", count)
	}
}

type limited struct{ Transport }

func (limited) Concurrency(d string) (int, int) {
	if d == "backend" {
		return 40, 64
	}
	return 0, 0
}

func TestLimiter(t *testing.T) {
	t.Parallel()
	s := newSchedule(t, Config{}, limited{})
	fill(s, "backend", 100)
	fill(s, "b", 100)
	count := map[string]int{}
	for _, it := range take(s, time.Unix(1000, 0)) {
		count[it.to.name]++
	}
	if count["backend"] != 40 || count["b"] != 5 {
		t.Errorf("running: %v", count)
	}
}

// TestPauses: one probe at a time after a failure, pauses that double, then
// down, then back with the initial window.
func TestPauses(t *testing.T) {
	t.Parallel()
	s := newSchedule(t, Config{}, nil)
	now := time.Unix(1000, 0)
	fill(s, "b", 50)
	running := take(s, now)
	for _, it := range running { // together they count once
		if !s.done(it, unreachable, offline, now, 0) {
			t.Fatal("down after one failure")
		}
		s.pushBack(it)
	}
	for _, pause := range []time.Duration{1, 2, 4, 8, 16, 32} {
		pause *= time.Second
		if n := len(take(s, now.Add(pause-time.Millisecond))); n != 0 {
			t.Fatalf("%d tried within a pause of %v", n, pause)
		}
		now = now.Add(pause)
		s.wake(now)
		probes := take(s, now)
		if len(probes) != 1 {
			t.Fatalf("%d probes after a pause of %v", len(probes), pause)
		}
		again := s.done(probes[0], unreachable, offline, now, 0)
		if again != (pause < 32*time.Second) {
			t.Fatalf("after a pause of %v: again %v", pause, again)
		}
		if again {
			s.pushBack(probes[0])
		}
	}
	if n := len(s.doomed(now, 30)) + len(s.doomed(now, 1000)); n != 49 || s.groups != 0 {
		t.Errorf("%d of 49 given up, %d left", n, s.groups)
	}
	fill(s, "b", 10)
	if n := len(s.doomed(now, 1000)); n != 10 {
		t.Errorf("%d of 10 new ones given up", n)
	}
	fill(s, "b", 10)
	now = now.Add(300 * time.Second)
	s.wake(now)
	if n := len(s.doomed(now, 1000)); n != 0 {
		t.Errorf("%d given up when it is time to try again", n)
	}
	probes := take(s, now)
	if len(probes) != 1 {
		t.Fatalf("%d probes", len(probes))
	}
	s.done(probes[0], reached, mail.Outcome{}, now, 0)
	if n := len(take(s, now)); n != 5 {
		t.Errorf("%d after the recovery, want 5", n)
	}
}

func TestContactOf(t *testing.T) {
	t.Parallel()
	farewell := mail.Outcome{Class: mail.Deferred, Reply: status.ShuttingDown.Reply(), FromPeer: true}
	local := mail.Outcome{Class: mail.Deferred, Reply: status.StoreDown.Reply()}
	for _, row := range []struct {
		name     string
		outcomes []mail.Outcome
		want     contact
	}{
		{"delivered", []mail.Outcome{fine}, reached},
		{"refused", []mail.Outcome{later, never}, reached},
		{"no connection", []mail.Outcome{offline, offline}, unreachable},
		{"connection lost for some", []mail.Outcome{offline, fine}, reached},
		{"door closed", []mail.Outcome{farewell}, unreachable},
		{"our own fault", []mail.Outcome{local}, reached},
	} {
		if got := contactOf(row.outcomes); got != row.want {
			t.Errorf("%s: %v, want %v", row.name, got, row.want)
		}
	}
}

// TestNothingIsKept: destinations without work are forgotten.
func TestNothingIsKept(t *testing.T) {
	t.Parallel()
	s := newSchedule(t, Config{}, nil)
	now := time.Unix(1000, 0)
	for i := range 100 {
		fill(s, fmt.Sprint("d", i), 1)
	}
	for _, it := range take(s, now) {
		c := reached
		if it.to.name == "d7" {
			c = unreachable
		}
		s.done(it, c, offline, now, 0)
	}
	if len(s.lines) != 1 || s.groups != 0 || s.inFlight != 0 {
		t.Errorf("%d destinations, %d groups, %d in flight", len(s.lines), s.groups, s.inFlight)
	}
	s.wake(now.Add(3 * time.Hour))
	if len(s.lines) != 0 {
		t.Errorf("%d destinations after hours", len(s.lines))
	}
}

// TestSendersTakeTurns: whoever comes with one message is not behind all of
// somebody's thousand, neither at the same destination nor for want of
// workers; and whoever has much is served all the same.
func TestSendersTakeTurns(t *testing.T) {
	t.Parallel()
	now := time.Unix(1000, 0)
	t.Run("one destination", func(t *testing.T) {
		t.Parallel()
		s := newSchedule(t, Config{}, nil)
		for i := range 1000 {
			pushFrom(s, "bulk", "b", i)
		}
		pushFrom(s, "alice", "b", 0)
		pushFrom(s, "bob", "b", 0)
		var order []mail.LocalPart
		for _, it := range take(s, now) {
			order = append(order, it.sender().Local)
		}
		if want := []mail.LocalPart{"alice", "bulk", "bob", "bulk", "bulk"}; !slices.Equal(order, want) {
			t.Errorf("tried %q, want %q", order, want)
		}
	})
	t.Run("many destinations", func(t *testing.T) {
		t.Parallel()
		s := newSchedule(t, Config{Workers: 10}, nil)
		for i := range 1000 {
			pushFrom(s, "bulk", fmt.Sprint("d", i), 0)
		}
		first := take(s, now)
		if len(first) != 10 {
			t.Fatalf("%d at once", len(first))
		}
		for i := range 10 {
			pushFrom(s, mail.LocalPart(fmt.Sprint("person", i)), fmt.Sprint("e", i), 0)
		}
		served := map[bool]int{}
		for range 30 {
			s.done(first[0], reached, mail.Outcome{}, now, 0)
			first = append(first[1:], take(s, now)...)
			served[first[len(first)-1].sender().Local == "bulk"]++
		}
		if served[false] != 10 || served[true] != 20 {
			t.Errorf("of 30 turns persons got %d and the bulk sender %d", served[false], served[true])
		}
	})
	t.Run("order of one sender", func(t *testing.T) {
		t.Parallel()
		s := newSchedule(t, Config{}, nil)
		for i := range 5 {
			pushFrom(s, "alice", "b", i)
		}
		taken := take(s, now)
		for i, it := range taken {
			if it.m.id != mail.QueueID(fmt.Sprint("b", i)) {
				t.Errorf("the %dth is %s", i, it.m.id)
			}
		}
		for i := len(taken) - 1; i >= 0; i-- {
			s.done(taken[i], unreachable, offline, now, 0)
			s.pushBack(taken[i])
		}
		s.revive("b")
		if again := take(s, now); len(again) != 5 || again[0].m.id != "b0" || again[4].m.id != "b4" {
			t.Errorf("after a failure %d are tried, beginning with %s", len(again), again[0].m.id)
		}
	})
}

// TestRoomIsLeft: a line that one sender has filled has room for others.
func TestRoomIsLeft(t *testing.T) {
	t.Parallel()
	s := newSchedule(t, Config{ActiveLimit: 400}, nil)
	count := map[mail.LocalPart]int{}
	for _, sender := range []mail.LocalPart{"bulk", "bulk2", "alice"} {
		for i := range 400 {
			d := s.destination("b")
			if _, here := s.room(d, mail.Address{Local: sender, Domain: "a.test"}, 0); here {
				pushFrom(s, sender, "b", i)
				count[sender]++
			}
		}
	}
	if count["bulk"] != 100 || count["bulk2"] != 50 || count["alice"] != 25 {
		t.Errorf("in line: %v", count)
	}
}
