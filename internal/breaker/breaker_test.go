package breaker

import (
	"errors"
	"testing"
	"time"
)

func TestBreaker(t *testing.T) {
	t.Parallel()
	var b Breaker
	now := time.Now()
	for i := range Allowed {
		if !b.Allow(now) {
			t.Fatal("left alone too early")
		}
		if down := b.Failed(now); down != (i == Allowed-1) {
			t.Errorf("failure %d: down %v", i, down)
		}
	}
	if b.Allow(now) {
		t.Error("asked during the pause")
	}
	now = now.Add(FirstPause)
	if !b.Allow(now) || b.Allow(now) {
		t.Error("after the pause it is not one that asks")
	}
	if b.Failed(now) {
		t.Error("down twice")
	}
	if now = now.Add(FirstPause); b.Allow(now) {
		t.Error("the second pause is not longer")
	}
	if now = now.Add(FirstPause); !b.Allow(now) {
		t.Error("the second pause does not end")
	}
	if !b.Answered() || b.Answered() || !b.Allow(now) {
		t.Error("an answer does not end the pause")
	}
	if !b.Failed(now) {
		t.Error("one more failure after a mere answer does not count")
	}
	for range 20 {
		b.Failed(now)
	}
	if now = now.Add(LastPause); !b.Allow(now) {
		t.Error("the pause grows without end")
	}
	if !b.Succeeded() || b.Failures() != 0 {
		t.Error("success does not clear it")
	}
}

// TestState: what is told of a service is since when it is down, and its last
// failure also when it is back.
func TestState(t *testing.T) {
	t.Parallel()
	var b Breaker
	now, why := time.Now(), errors.New("no answer")
	if st := b.State(); st != (State{}) {
		t.Errorf("at first: %+v", st)
	}
	for i := range Allowed + 2 {
		b.FailedBy(why, now.Add(time.Duration(i)*time.Minute))
	}
	want := State{Down: true, Since: now.Add((Allowed - 1) * time.Minute), Failure: why, Failed: now.Add((Allowed + 1) * time.Minute)}
	if st := b.State(); st != want {
		t.Errorf("down: %+v, want %+v", st, want)
	}
	b.Succeeded()
	if st := b.State(); st != (State{Failure: why, Failed: want.Failed}) {
		t.Errorf("back: %+v", st)
	}
}
