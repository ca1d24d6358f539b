package replica

import (
	"fmt"
	"testing"
	"time"

	"github.com/postern-mail/postern/backend/mailstore"
)

// TestBothWays: mail of all sizes to both servers is on both, and so are
// flags, while the link is up and after it was down.
func TestBothWays(t *testing.T) {
	t.Parallel()
	p := newPair(t, testConfig{})
	p.connect()
	sizes := []int{100, 20 << 10, 100 << 10, 3 << 20}
	deliver := func(round int) {
		for i, octets := range sizes {
			for n, s := range p.servers {
				id := fmt.Sprint("d", round, i, n)
				if err := s.deliver(t, "anna", id, message(id, octets)); err != nil {
					t.Fatal(err)
				}
			}
		}
	}
	deliver(1)
	p.same("anna")
	box := p.servers[1].open(t, "anna", "INBOX")
	if _, err := box.StoreFlags(t.Context(), uids(1, 2), mailstore.FlagsChange{Op: mailstore.FlagsAdd, Flags: mailstore.FlagSeen, Keywords: []string{"work"}}); err != nil {
		t.Fatal(err)
	}
	p.same("anna")
	p.cut()
	deliver(2)
	p.connect()
	deliver(3)
	p.same("anna")
	view := box.View()
	if got, want := view.Len(), 3*2*len(sizes); got != want {
		t.Fatalf("%d messages, want %d", got, want)
	}
	if first := view.At(7).UID; first != 8 {
		t.Errorf("message 8 has UID %d: the UIDs of an attached account have gaps", first)
	}
}

// TestBootstrap fills an empty partner, over a link that is cut meanwhile, and
// has it serve what it has.
func TestBootstrap(t *testing.T) {
	t.Parallel()
	p := newPair(t, testConfig{joins: true, Config: Config{Limits: Limits{RetryMin: time.Millisecond}}})
	var names []string
	for i := range 12 {
		name := fmt.Sprint("user", i)
		names = append(names, name)
		for j := range 8 {
			id := fmt.Sprint(i, "-", j)
			if err := p.servers[0].deliver(t, name, id, message(id, 1<<(4+j*2))); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := p.servers[1].deliver(t, names[0], "x", message("x", 10)); err == nil {
		t.Fatal("the empty server took mail for an account that it does not have yet")
	}
	p.connect()
	p.servers[1].joinedOne(t)
	p.cut()
	p.connect()
	p.servers[1].joinedAll(t)
	p.same(names...)
	if err := p.servers[1].deliver(t, "new", "y", message("y", 10)); err != nil {
		t.Fatal(err)
	}
	p.same("new")
	if progress := p.servers[1].strap.progress(time.Now()); progress.Accounts != 12 || progress.Done != 12 || progress.Running {
		t.Errorf("progress %+v", progress)
	}
}
