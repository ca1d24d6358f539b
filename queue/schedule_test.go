package queue

import (
	"fmt"
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
		s.push(item{m: &message{id: mail.QueueID(fmt.Sprint(destination, i))}, to: s.destination(destination)})
	}
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
