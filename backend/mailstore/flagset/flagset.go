// Package flagset keeps the flags and keywords of a message that two nodes of
// a pair write, each flag a register of its own.
//
// What goes in: what was set and cleared here, and there, with the stamp of
// each and what its writer knew. What comes out: the same flags on both nodes,
// in whatever order they learned. A write beats those its writer knew. Of two
// that did not know each other the later wins by hybrid clock, except that
// \Deleted is cleared: mail that somebody wanted back is not expunged. $Junk
// and $NotJunk exclude each other: who sets one writes both.
//
// What a node keeps are its own writes that the partner may not know yet.
// Nothing else can ever be compared with what comes: a write of the partner's
// beats those of its own before it, and those of ours that it knew. So an old
// message has no stamps at all.
//
// It does no I/O and reads no clock; values are never changed in place.
package flagset

import (
	"cmp"
	"slices"
	"strings"
)

// Deleted is the bit of \Deleted, whose clearing wins.
const Deleted = 1 << 3

// MaxPending is how many writes of keywords a message can have that the
// partner does not know; more are refused to clients.
const MaxPending = 256

// Dot names the operation of a write.
type Dot struct{ Origin, Seq uint64 }

// Change is what one operation does to each of its messages; flags in neither
// are left alone. No flag stands in both.
type Change struct {
	Set, Clear                 uint8
	SetKeywords, ClearKeywords []string
}

// Write is a change with its stamp.
type Write struct {
	Change
	HLC uint64
	Dot Dot
}

// State is a message's flags, and the node's own writes that the partner may
// not know, oldest first. Each flag stands in one of them at most.
type State struct {
	Flags    uint8
	Keywords []string // sorted; no two differ in case only
	Pending  []Write
}

// Junk makes a change of one of $Junk and $NotJunk one of both.
func (c Change) Junk() Change {
	for _, pair := range [][2]string{{"$Junk", "$NotJunk"}, {"$NotJunk", "$Junk"}} {
		if contains(c.SetKeywords, pair[0]) && !contains(c.SetKeywords, pair[1]) && !contains(c.ClearKeywords, pair[1]) {
			c.ClearKeywords = append(slices.Clip(c.ClearKeywords), pair[1])
		}
	}
	return c
}

// Keywords counts the keywords that the change writes.
func (c Change) keywords() int { return len(c.SetKeywords) + len(c.ClearKeywords) }

func (c Change) isEmpty() bool { return c.Set|c.Clear == 0 && c.keywords() == 0 }

// without returns c less the flags that o writes.
func (c Change) without(o Change) Change {
	other := append(slices.Clip(o.SetKeywords), o.ClearKeywords...)
	return Change{
		Set: c.Set &^ (o.Set | o.Clear), Clear: c.Clear &^ (o.Set | o.Clear),
		SetKeywords: minus(c.SetKeywords, other), ClearKeywords: minus(c.ClearKeywords, other),
	}
}

// only returns what c does to the flags that o writes.
func (c Change) only(o Change) Change { return c.without(c.without(o)) }

// Apply returns s with the change, and nothing noted of it.
func (s State) Apply(c Change) State {
	s.Flags = s.Flags&^c.Clear | c.Set
	if c.keywords() > 0 {
		s.Keywords = plus(minus(s.Keywords, c.ClearKeywords), c.SetKeywords)
	}
	return s
}

// Local applies this node's own write and notes it.
func (s State) Local(w Write) State {
	s = s.Apply(w.Change)
	pending := make([]Write, 0, len(s.Pending)+1)
	for _, old := range s.Pending {
		if old.Change = old.without(w.Change); !old.isEmpty() {
			pending = append(pending, old)
		}
	}
	s.Pending = append(pending, w)
	return s
}

// IsFull reports whether the message can take no more writes before the
// partner knows some.
func (s State) IsFull() bool {
	n := 0
	for _, w := range s.Pending {
		n += w.keywords()
	}
	return n > MaxPending
}

// Remote applies the partner's write. knows tells whether its writer knew an
// operation of ours. conflict is true when it met a write of ours that it did
// not know and that said otherwise.
func (s State) Remote(w Write, knows func(Dot) bool) (out State, conflict bool) {
	s.Pending = settled(s.Pending, w.Dot.Origin, knows)
	s = s.Apply(w.Change)
	for _, own := range s.Pending {
		conflict = conflict || !opposed(w.Change, own.Change).isEmpty()
		s = s.Apply(own.only(losing(w, own)).only(w.Change))
	}
	return s, conflict
}

// settled returns the writes that can still be compared with what origin
// sends: not its own, and not what knows covers.
func settled(pending []Write, origin uint64, knows func(Dot) bool) []Write {
	if len(pending) == 0 {
		return nil
	}
	return slices.DeleteFunc(slices.Clone(pending), func(w Write) bool { return w.Dot.Origin == origin || knows(w.Dot) })
}

// Settle drops what the partner knows. It changes no outcome: writes that come
// afterwards were made by one that knew.
func (s State) Settle(knows func(Dot) bool) State {
	s.Pending = settled(s.Pending, 0, knows)
	if len(s.Pending) == 0 {
		s.Pending = nil
	}
	return s
}

// losing returns the flags of w that lose against own, of which neither knew
// the other.
func losing(w, own Write) Change {
	later := cmp.Or(cmp.Compare(w.HLC, own.HLC), cmp.Compare(w.Dot.Origin, own.Dot.Origin)) > 0
	lost := own.Change
	if later {
		lost = Change{}
	}
	if (w.Clear|own.Clear)&Deleted != 0 {
		lost.Set, lost.Clear = lost.Set&^Deleted, lost.Clear&^Deleted
		if w.Clear&Deleted == 0 {
			lost.Clear |= Deleted
		}
	}
	return lost
}

// opposed returns what one of two changes sets and the other clears.
func opposed(a, b Change) Change {
	return Change{
		Set:         a.Set&b.Clear | a.Clear&b.Set,
		SetKeywords: append(common(a.SetKeywords, b.ClearKeywords), common(a.ClearKeywords, b.SetKeywords)...),
	}
}

// Side is one node's view of a message, for Join.
type Side struct {
	State
	// Knows tells whether this node has applied an operation.
	Knows func(Dot) bool
	// Class of the node; the lower decides what cannot be decided otherwise.
	Class uint8
}

// Join merges the states of a message on two nodes into what both have after
// they applied each other's writes. The result's Pending are mine's that
// theirs does not know. differs is true when the states differ without any
// write that tells why, which only damage can cause.
func Join(mine, theirs Side) (out State, conflict, differs bool) {
	own := settled(mine.Pending, 0, theirs.Knows)
	new := settled(theirs.Pending, 0, mine.Knows)
	var ours, news, decided Change
	for _, w := range own {
		ours = both(ours, w.Change)
	}
	for _, w := range new {
		news = both(news, w.Change)
		for _, o := range own {
			conflict = conflict || !opposed(w.Change, o.Change).isEmpty()
			lost := losing(w, o)
			decided = both(decided, both(o.only(w.Change).only(lost), w.only(o.Change).without(lost)))
		}
	}
	// Where only one of the two has written, the other has nothing that it does
	// not know: what it shows is the outcome.
	apart := difference(mine.State, theirs.State)
	unexplained := apart.without(ours).without(news)
	out = mine.Apply(apart.only(news).without(ours)).Apply(decided)
	if theirs.Class < mine.Class {
		out = out.Apply(unexplained)
	}
	out.Pending = nil
	if len(own) > 0 {
		out.Pending = own
	}
	return out, conflict, !unexplained.isEmpty()
}

// both returns the flags that either writes.
func both(a, b Change) Change {
	return Change{
		Set: a.Set | b.Set, Clear: a.Clear | b.Clear,
		SetKeywords:   append(slices.Clip(a.SetKeywords), b.SetKeywords...),
		ClearKeywords: append(slices.Clip(a.ClearKeywords), b.ClearKeywords...),
	}
}

// difference is the change that makes b's flags of a's.
func difference(a, b State) Change {
	return Change{
		Set: b.Flags &^ a.Flags, Clear: a.Flags &^ b.Flags,
		SetKeywords: minus(b.Keywords, a.Keywords), ClearKeywords: minus(a.Keywords, b.Keywords),
	}
}

func contains(list []string, name string) bool {
	return slices.ContainsFunc(list, func(have string) bool { return strings.EqualFold(have, name) })
}

// minus returns the keywords of a that are not in b, nil for none.
func minus(a, b []string) []string {
	if len(b) == 0 {
		return a
	}
	var out []string
	for _, name := range a {
		if !contains(b, name) {
			out = append(out, name)
		}
	}
	return out
}

// plus returns the keywords of both, sorted.
func plus(a, b []string) []string {
	out := slices.Clip(a)
	for _, name := range b {
		if !contains(out, name) {
			out = append(out, name)
		}
	}
	if len(out) > len(a) {
		slices.Sort(out)
	}
	return out
}

func common(a, b []string) []string {
	var out []string
	for _, name := range a {
		if contains(b, name) {
			out = append(out, name)
		}
	}
	return out
}
