package delivery

import (
	"fmt"
	"testing"
	"time"
)

func addresses(endpoints []Endpoint) (s string) {
	for _, e := range endpoints {
		s += e.Address
	}
	return s
}

// TestDoubts: whom a delivery may be offered to while one server may have it,
// and after some minutes.
func TestDoubts(t *testing.T) {
	t.Parallel()
	var d doubts
	now := time.Now()
	pair := []Endpoint{{Address: "a"}, {Address: "b"}}
	want := func(what, id string, endpoints []Endpoint, at time.Time, want string) {
		t.Helper()
		if got := addresses(d.choose(id, endpoints, at)); got != want {
			t.Errorf("%s: %s, want %s", what, got, want)
		}
	}
	want("nothing known", "1", pair, now, "ab")
	d.note("1", "b", now)
	d.note("1", "b", now.Add(maxDoubt/2)) // the first time counts
	want("the partner may have it", "1", pair, now.Add(time.Minute), "b")
	want("another message", "2", pair, now, "ab")
	want("for long", "1", pair, now.Add(maxDoubt), "ba")
	want("one address", "1", pair[:1], now, "a")
	want("the server is not of the target any more", "1", []Endpoint{{Address: "c"}, {Address: "d"}}, now, "cd")
	d.clear("1")
	want("answered", "1", pair, now, "ab")
}

// TestDoubtsAreBounded: old ones go first.
func TestDoubtsAreBounded(t *testing.T) {
	t.Parallel()
	var d doubts
	now := time.Now()
	for i := range maxDoubts {
		d.note(fmt.Sprint("old ", i), "a", now.Add(-2*maxDoubt))
	}
	d.note("new", "b", now)
	d.note("newer", "b", now)
	if got := addresses(d.choose("new", []Endpoint{{Address: "a"}, {Address: "b"}}, now)); got != "b" || len(d.byID) != 2 {
		t.Errorf("chose %s, %d remembered", got, len(d.byID))
	}
	for i := range 2 * maxDoubts {
		d.note(fmt.Sprint(i), "a", now)
	}
	if len(d.byID) > maxDoubts {
		t.Errorf("%d remembered", len(d.byID))
	}
}

// TestPairTimeouts: with a partner at hand nobody waits minutes for a server
// that says nothing.
func TestPairTimeouts(t *testing.T) {
	t.Parallel()
	for n, row := range map[int]struct{ connect, greeting time.Duration }{1: {5 * time.Second, 5 * time.Minute}, 2: {time.Second, 5 * time.Second}} {
		target := Target{Name: "x", Addresses: []string{"a:24", "b:24"}[:n]}
		target.Timeouts.Greeting = 5 * time.Minute
		c, err := target.client("x")
		if err != nil || c.Timeouts.Connect != row.connect || c.Timeouts.Greeting != row.greeting {
			t.Errorf("%d addresses: %+v, %v", n, c.Timeouts, err)
		}
	}
}
