package uid_test

import (
	"errors"
	"math"
	"testing"

	"github.com/postern-mail/postern/backend/mailstore/uid"
)

func next(t *testing.T, m *uid.Mailbox, s uid.Side) uint32 {
	t.Helper()
	u, err := m.Next(s)
	if err != nil {
		t.Fatal(err)
	}
	return u
}

func TestAloneIsContiguous(t *testing.T) {
	t.Parallel()
	m := uid.Mailbox{Marks: uid.Marks{Exposed: 7}}
	for want := uint32(8); want < 20; want++ {
		if got := next(t, &m, uid.Side{}); got != want {
			t.Fatalf("%d, want %d", got, want)
		}
	}
}

func TestHomeHasCreditForOneWindow(t *testing.T) {
	t.Parallel()
	home := uid.Side{Link: uid.Attached, Home: true}
	var m uid.Mailbox
	m.Attach(home, 10)
	for want := uint32(11); want <= 10+256; want++ {
		if got := next(t, &m, home); got != want {
			t.Fatalf("%d, want %d", got, want)
		}
	}
	if u, err := m.Next(home); !errors.Is(err, uid.ErrNoCredit) {
		t.Errorf("%d, %v beyond the window", u, err)
	}
	m.Acked(11)
	if got := next(t, &m, home); got != 267 {
		t.Errorf("%d, want 267", got)
	}
}

func TestOthersDoNotAllocate(t *testing.T) {
	t.Parallel()
	for _, s := range []uid.Side{
		{Link: uid.Attached},
		{Link: uid.Pending},
		{Link: uid.Pending, Home: true, Class: 1},
		{Link: uid.Attached, Home: true, CatchingUp: true},
	} {
		var m uid.Mailbox
		m.Attach(s, 100)
		if u, err := m.Next(s); !errors.Is(err, uid.ErrNoCredit) {
			t.Errorf("%+v: %d, %v", s, u, err)
		}
	}
}

func TestDetachedBlocks(t *testing.T) {
	t.Parallel()
	for _, row := range []struct {
		name  string
		marks uid.Marks
		side  uid.Side
		want  uint32
	}{
		{"other, class 1", uid.Marks{Exposed: 10}, uid.Side{Class: 1}, 4096},
		{"other, class 0", uid.Marks{Exposed: 10}, uid.Side{}, 267},
		{"other, class 0, foreign block", uid.Marks{Allocated: 4096}, uid.Side{}, 8192},
		{"window ends in a foreign block", uid.Marks{Floor: 4000}, uid.Side{}, 8192},
		{"home, class 0", uid.Marks{Exposed: 10}, uid.Side{Home: true}, 4*4096 + 267},
		{"home, class 1", uid.Marks{Exposed: 10}, uid.Side{Home: true, Class: 1}, 5 * 4096},
	} {
		row.side.Link, row.side.Epoch = uid.Detached, 1
		m := uid.Mailbox{Marks: row.marks}
		if got := next(t, &m, row.side); got != row.want {
			t.Errorf("%s: %d, want %d", row.name, got, row.want)
		}
		if got := next(t, &m, row.side); got != row.want+1 {
			t.Errorf("%s: then %d: the threshold moved within its epoch", row.name, got)
		}
		row.side.Epoch++
		if got := next(t, &m, row.side); got < row.want+1+256 {
			t.Errorf("%s: %d in the next epoch, inside the window", row.name, got)
		}
	}
}

func TestBlockIsLeftAtItsEnd(t *testing.T) {
	t.Parallel()
	s := uid.Side{Link: uid.Detached, Epoch: 1, Class: 1}
	m := uid.Mailbox{Marks: uid.Marks{Allocated: 8190 - 256}}
	for _, want := range []uint32{8191, 3 * 4096} {
		if got := next(t, &m, s); got != want {
			t.Errorf("%d, want %d", got, want)
		}
	}
}

func TestExhausted(t *testing.T) {
	t.Parallel()
	for _, s := range []uid.Side{{}, {Link: uid.Detached, Epoch: 1}, {Link: uid.Detached, Epoch: 1, Class: 1, Home: true}, {Link: uid.Attached, Home: true}} {
		m := uid.Mailbox{Marks: uid.Marks{Exposed: math.MaxUint32 - 1}}
		m.Acked(math.MaxUint32 - 1)
		if u, err := m.Next(s); !errors.Is(err, uid.ErrExhausted) {
			t.Errorf("%+v: %d, %v", s, u, err)
		}
	}
}

func TestDecide(t *testing.T) {
	t.Parallel()
	home, other := uid.Side{Link: uid.Attached, Home: true}, uid.Side{Link: uid.Attached}
	away := uid.Side{Link: uid.Detached, Epoch: 1}
	awayHome := uid.Side{Link: uid.Detached, Epoch: 1, Home: true}
	for _, row := range []struct {
		name     string
		side     uid.Side
		shown, u uint32
		want     uid.Action
	}{
		{"new above all", other, 0, 101, uid.Expose},
		{"renumbered above all", other, 5, 101, uid.Expose},
		{"where it belongs", other, 5, 5, uid.Keep},
		{"no UID yet, not home", other, 0, 0, uid.Keep},
		{"no UID yet, home", home, 0, 0, uid.Allocate},
		{"no UID yet, detached", away, 0, 0, uid.Allocate},
		{"hidden and too low", other, 0, 99, uid.Ask},
		{"shown and too low", other, 5, 100, uid.Ask},
		{"hidden and too low, home", home, 0, 99, uid.Allocate},
		{"hidden and too low, detached", away, 0, 99, uid.Allocate},
		{"shown and too low, detached", away, 5, 99, uid.Ask},
		{"shown and too low, detached home", awayHome, 5, 99, uid.Wait},
		{"hidden and pending", uid.Side{Link: uid.Pending, Home: true}, 0, 0, uid.Wait},
		{"shown and too low, alone", uid.Side{}, 5, 99, uid.Allocate},
	} {
		m := uid.Mailbox{Marks: uid.Marks{Exposed: 100}}
		if got := m.Decide(row.side, row.shown, row.u); got != row.want {
			t.Errorf("%s: %d, want %d", row.name, got, row.want)
		}
	}
}

func TestExposeAscends(t *testing.T) {
	t.Parallel()
	var m uid.Mailbox
	if !m.Expose(5) || m.Expose(5) || m.Expose(4) || !m.Expose(6) {
		t.Error("exposed out of order")
	}
	if m.Report() != 6 {
		t.Errorf("reports %d", m.Report())
	}
}
