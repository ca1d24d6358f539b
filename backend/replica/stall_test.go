package replica

import (
	"bytes"
	"context"
	"errors"
	"strings"
	"testing"
	"time"
)

// TestPartsTakenByAnother: two accounts get the same large body; the parts are
// kept once, and who has them first takes them. The other asks anew, at once.
func TestPartsTakenByAnother(t *testing.T) {
	t.Parallel()
	p := newToyPair(t)
	a, b := p.nodes[0].account, p.nodes[1].account
	p.nodes[0].Committed(a.commit(bytes.Repeat([]byte("large"), 8000)))
	body := a.journal[0].Bodies[0]
	p.up()
	r := seeded(1)
	taken := false
	for range 100_000 {
		if !taken && b.disk.Parts(body) > body.Octets/2 {
			delete(b.disk.parts, body.Hash) // and not linked yet
			taken = true
		}
		if !p.step(r) {
			break
		}
	}
	if !taken {
		t.Fatal("no parts came")
	}
	p.same() // no time has passed
}

// TestPausedIsLeftAlone: an account that is paused there is not tried again and
// again, only when something changes here.
func TestPausedIsLeftAlone(t *testing.T) {
	t.Parallel()
	p := newToyPair(t)
	p.up()
	p.nodes[1].Pause(context.Background())
	seq := p.nodes[0].account.commit([]byte("one"))
	p.nodes[0].Committed(seq)
	p.settle(seeded(1))
	sends := p.nodes[0].sends + p.nodes[1].sends
	for range 10 {
		p.now = p.now.Add(time.Minute)
		p.nodes[0].Tick(p.now)
		p.nodes[0].Committed(seq) // as every turn says
		p.settle(seeded(1))
	}
	if now := p.nodes[0].sends + p.nodes[1].sends; now != sends {
		t.Fatalf("%d frames about an account that is paused", now-sends)
	}
	p.nodes[1].Resume()
	p.settle(seeded(1))
	p.same()
}

// TestCompareDuringMerge: who asks for a comparison of everything while a merge
// is under way gets one of its own, message by message.
func TestCompareDuringMerge(t *testing.T) {
	t.Parallel()
	p := newToyPair(t)
	a := p.nodes[0].account
	p.nodes[0].Committed(a.commit([]byte("one")))
	p.up()
	p.settle(seeded(1))
	p.nodes[1].Join() // a merge
	p.nodes[1].Work(context.Background())
	if !p.nodes[1].pull.active() {
		t.Fatal("no merge is under way")
	}
	ended := 0
	p.nodes[1].Compare(func(_ Applied, err error) {
		if err != nil {
			t.Error(err)
		}
		ended++
	})
	for range 10_000 {
		if !p.step(seeded(1)) {
			break
		}
		if ended > 0 && len(p.nodes[1].account.pulls) < 2 {
			t.Fatal("the merge that was under way passes for the comparison")
		}
	}
	p.now = p.now.Add(time.Minute)
	p.settle(seeded(1))
	if pulls := p.nodes[1].account.pulls; ended != 1 || len(pulls) != 2 || pulls[0] || !pulls[1] {
		t.Fatalf("%d ends, merges (deep) %v", ended, pulls)
	}
}

// TestCompareOfOneLeftOut ends at once, also when it is left out meanwhile.
func TestCompareOfOneLeftOut(t *testing.T) {
	t.Parallel()
	p := newToyPair(t)
	n := p.nodes[0]
	n.account.commit([]byte("one"))
	var ends []error
	n.Compare(func(_ Applied, err error) { ends = append(ends, err) })
	n.Pause(context.Background())
	n.Compare(func(_ Applied, err error) { ends = append(ends, err) })
	n.Verify(0, func(_ standing, err error) { ends = append(ends, err) })
	n.Resume()
	n.Compare(func(_ Applied, err error) { ends = append(ends, err) })
	n.Quarantine(context.Background(), "op 99")
	if len(ends) != 4 || !errors.Is(ends[0], errPaused) || !errors.Is(ends[1], errPaused) || !errors.Is(ends[2], errPaused) ||
		!strings.Contains(ends[3].Error(), "op 99") {
		t.Fatalf("%v", ends)
	}
}
