package ldap

import (
	"testing"
	"time"
)

func TestBreaker(t *testing.T) {
	t.Parallel()
	now := time.Unix(1000, 0)
	b := &breaker{maxFailures: 3, maxPause: 5 * time.Second, cheapWithin: cheapFailure}
	allowed := func(want bool) {
		t.Helper()
		if got := b.allow(now); got != want {
			t.Fatalf("at %v: allow = %v", now.Unix(), got)
		}
	}
	for range 2 {
		b.failed(now, time.Second)
		allowed(true)
	}
	if !b.failed(now, time.Second) {
		t.Error("the third failure begins no pause")
	}
	allowed(false)
	for _, pause := range []int{1, 2, 4, 5, 5} {
		now = now.Add(time.Duration(pause)*time.Second - time.Millisecond)
		allowed(false)
		now = now.Add(time.Millisecond)
		allowed(true)
		allowed(false) // only one caller tries
		if b.failed(now, time.Second) {
			t.Error("a pause that goes on is reported as new")
		}
	}
	now = now.Add(5 * time.Second)
	if !b.due(now) {
		t.Error("the pause is not over")
	}
	b.succeeded()
	allowed(true)
	b.failed(now, time.Second)
	allowed(true)
}
