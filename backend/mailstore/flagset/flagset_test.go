package flagset_test

import (
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/postern-mail/postern/backend/mailstore/flagset"
)

const (
	seen    = 1
	flagged = 4
	deleted = flagset.Deleted
)

// sent is a write on its way, with what its writer knew of the receiver.
type sent struct {
	write flagset.Write
	knew  uint64
}

// node is one side of a pair with one message.
type node struct {
	origin uint64
	state  flagset.State
	hlc    uint64
	seq    uint64 // own writes
	knows  uint64 // applied writes of the other's
	out    []sent // all own writes in order
	eager  bool   // settles as soon as it may
}

func pair() [2]*node { return [2]*node{{origin: 10}, {origin: 11}} }

func (n *node) covers(d flagset.Dot) bool {
	if d.Origin == n.origin {
		return d.Seq <= n.seq
	}
	return d.Seq <= n.knows
}

func (n *node) write(c flagset.Change, clock uint64) {
	n.hlc = max(n.hlc+1, clock)
	n.seq++
	w := flagset.Write{Change: c.Junk(), HLC: n.hlc, Dot: flagset.Dot{Origin: n.origin, Seq: n.seq}}
	n.state = n.state.Local(w)
	n.out = append(n.out, sent{w, n.knows})
}

// receive applies the other's next write and reports whether there was one.
func (n *node) receive(other *node) bool {
	if n.knows == uint64(len(other.out)) {
		return false
	}
	s := other.out[n.knows]
	n.hlc = max(n.hlc, s.write.HLC)
	knew := func(d flagset.Dot) bool { return d.Origin == other.origin || d.Seq <= s.knew }
	n.state, _ = n.state.Remote(s.write, knew)
	n.knows++
	if n.eager {
		n.state = n.state.Settle(func(d flagset.Dot) bool { return d.Seq <= s.knew })
	}
	return true
}

func (n *node) side(class uint8) flagset.Side {
	return flagset.Side{State: n.state, Knows: n.covers, Class: class}
}

func same(a, b flagset.State) bool {
	return a.Flags == b.Flags && slices.EqualFunc(a.Keywords, b.Keywords, strings.EqualFold)
}

var changes = rapid.Custom(func(t *rapid.T) flagset.Change {
	set := uint8(rapid.SampledFrom([]int{0, seen, deleted, deleted | flagged}).Draw(t, "set"))
	clear := uint8(rapid.SampledFrom([]int{0, seen, deleted, seen | deleted | flagged}).Draw(t, "clear")) &^ set
	words := rapid.SliceOfNDistinct(rapid.SampledFrom([]string{"$Junk", "$NotJunk", "work", "home"}), 0, 2, rapid.ID)
	setWords, clearWords := words.Draw(t, "set keywords"), words.Draw(t, "clear keywords")
	slices.Sort(setWords)
	clearWords = slices.DeleteFunc(clearWords, func(k string) bool { return slices.Contains(setWords, k) })
	return flagset.Change{Set: set, Clear: clear, SetKeywords: setWords, ClearKeywords: clearWords}
})

// play makes writes on both nodes and delivers some of them.
func play(t *rapid.T, nodes [2]*node, others ...[2]*node) {
	for range rapid.IntRange(0, 12).Draw(t, "steps") {
		i := rapid.IntRange(0, 1).Draw(t, "node")
		if rapid.Bool().Draw(t, "receives") {
			for _, p := range append(others, nodes) {
				p[i].receive(p[1-i])
			}
			continue
		}
		c, clock := changes.Draw(t, "change"), uint64(rapid.IntRange(1, 20).Draw(t, "clock"))
		for _, p := range append(others, nodes) {
			p[i].write(c, clock)
		}
	}
}

func deliverAll(nodes [2]*node) {
	for nodes[0].receive(nodes[1]) || nodes[1].receive(nodes[0]) {
	}
}

func TestNodesConverge(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		nodes := pair()
		play(t, nodes)
		deliverAll(nodes)
		if !same(nodes[0].state, nodes[1].state) {
			t.Fatalf("%+v, %+v", nodes[0].state, nodes[1].state)
		}
	})
}

// Dropping stamps as soon as the partner is known to know them never changes
// the outcome of what comes late.
func TestSettlingChangesNothing(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		keeps, drops := pair(), pair()
		drops[0].eager, drops[1].eager = true, true
		play(t, keeps, drops)
		deliverAll(keeps)
		deliverAll(drops)
		for i := range keeps {
			if !same(keeps[i].state, drops[i].state) {
				t.Fatalf("kept %+v, dropped %+v", keeps[i].state, drops[i].state)
			}
		}
		if drops[0].write(flagset.Change{Set: seen}, 0); drops[1].receive(drops[0]) {
			drops[1].write(flagset.Change{Set: flagged}, 0)
			drops[0].receive(drops[1])
			if len(drops[0].state.Pending) != 0 {
				t.Fatalf("what the partner knows is still kept: %+v", drops[0].state.Pending)
			}
		}
	})
}

// Merging states gives what exchanging the writes gives, also when one node
// merges and the other replays, and when they go on afterwards.
func TestJoinIsReplay(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		nodes, replayed := pair(), pair()
		play(t, nodes, replayed)
		which := rapid.IntRange(0, 2).Draw(t, "who merges")
		sides := [2]flagset.Side{nodes[0].side(0), nodes[1].side(1)}
		knows := [2]uint64{nodes[0].seq, nodes[1].seq}
		var states [2]flagset.State
		for i := range nodes {
			var differs bool
			if states[i], _, differs = flagset.Join(sides[i], sides[1-i]); differs {
				t.Fatalf("%+v, %+v differ for no reason", sides[0].State, sides[1].State)
			}
		}
		for i, n := range nodes {
			if which == 2 || which == i {
				n.state, n.knows, n.hlc = states[i], knows[1-i], max(nodes[0].hlc, nodes[1].hlc)
			}
		}
		for i, n := range replayed {
			for (which == 2 || which == i) && n.knows < knows[1-i] {
				n.receive(replayed[1-i])
			}
			n.hlc = nodes[i].hlc
		}
		play(t, nodes, replayed)
		deliverAll(nodes)
		deliverAll(replayed)
		if !same(nodes[0].state, nodes[1].state) || !same(nodes[0].state, replayed[0].state) || !same(nodes[1].state, replayed[1].state) {
			t.Fatalf("merged %+v, %+v; replayed %+v, %+v", nodes[0].state, nodes[1].state, replayed[0].state, replayed[1].state)
		}
	})
}

func TestRules(t *testing.T) {
	t.Parallel()
	both := func(a, b flagset.Change) [2]*node {
		nodes := pair()
		nodes[0].state = flagset.State{Flags: deleted, Keywords: []string{"$Junk"}}
		nodes[1].state = nodes[0].state
		nodes[0].write(a, 100)
		nodes[1].write(b, 200)
		deliverAll(nodes)
		return nodes
	}
	for _, c := range []struct {
		name     string
		early    flagset.Change
		late     flagset.Change
		flags    uint8
		keywords []string
	}{
		{"the later wins", flagset.Change{Set: seen}, flagset.Change{Clear: seen}, deleted, []string{"$Junk"}},
		{"of different flags both stay", flagset.Change{Set: seen}, flagset.Change{Set: flagged}, seen | flagged | deleted, []string{"$Junk"}},
		{"\\Deleted is cleared", flagset.Change{Clear: deleted}, flagset.Change{Set: deleted}, 0, []string{"$Junk"}},
		{
			"junk is one register",
			flagset.Change{SetKeywords: []string{"$NotJunk"}}, flagset.Change{SetKeywords: []string{"$Junk"}},
			deleted, []string{"$Junk"},
		},
		{
			"junk is one register, the other way",
			flagset.Change{SetKeywords: []string{"$Junk"}}, flagset.Change{SetKeywords: []string{"$notjunk"}},
			deleted, []string{"$notjunk"},
		},
		{"keywords by themselves", flagset.Change{SetKeywords: []string{"a"}}, flagset.Change{SetKeywords: []string{"A"}}, deleted, []string{"$Junk", "a"}},
	} {
		for i, n := range both(c.early, c.late) {
			if want := (flagset.State{Flags: c.flags, Keywords: c.keywords}); !same(n.state, want) {
				t.Errorf("%s, node %d: got %+v, want %+v", c.name, i, n.state, want)
			}
		}
	}
}

// What no write explains is told, and the lower class's state is taken by both.
func TestJoinOfDamage(t *testing.T) {
	t.Parallel()
	a := flagset.Side{State: flagset.State{Flags: seen}, Knows: func(flagset.Dot) bool { return true }}
	b := flagset.Side{State: flagset.State{Flags: flagged, Keywords: []string{"k"}}, Knows: a.Knows, Class: 1}
	x, _, differs := flagset.Join(a, b)
	y, _, alike := flagset.Join(b, a)
	if !differs || !alike || !same(x, a.State) || !same(y, a.State) {
		t.Errorf("got %+v, %+v, told %v, %v", x, y, differs, alike)
	}
}

func TestIsFull(t *testing.T) {
	t.Parallel()
	n := pair()[0]
	for i := 0; !n.state.IsFull(); i++ {
		if i > flagset.MaxPending+2 {
			t.Fatal("never full")
		}
		n.write(flagset.Change{SetKeywords: []string{strings.Repeat("k", i+1)}}, 0)
	}
	for range 1000 {
		n = pair()[0]
		n.write(flagset.Change{SetKeywords: []string{"k"}, Set: seen}, 0)
		n.write(flagset.Change{ClearKeywords: []string{"K"}, Clear: seen}, 0)
		if len(n.state.Pending) != 1 || n.state.IsFull() {
			t.Fatalf("pending %+v", n.state.Pending)
		}
	}
}
