package tree_test

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/postern-mail/postern/backend/mailstore/tree"
)

var inbox = id(255)

func id(n byte) tree.ID { return tree.ID{n} }

// at is a stamp of a node, minutes after a fixed day's noon.
func at(minutes, node int) tree.Stamp {
	day := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC).Add(time.Duration(minutes) * time.Minute)
	return tree.Stamp{HLC: uint64(day.UnixMilli()) << 16, Origin: uint64(node)<<48 | 1, Seq: uint64(minutes) + 1}
}

func created(minutes, node int, parent tree.ID, leaf string) tree.Register {
	return tree.Register{Parent: parent, Leaf: leaf, Created: at(minutes, node)}
}

func moved(r tree.Register, minutes, node int, parent tree.ID, leaf string) tree.Register {
	r.Parent, r.Leaf, r.Moved = parent, leaf, at(minutes, node)
	return r
}

func deleted(r tree.Register) tree.Register {
	r.Deleted = true
	return r
}

var top tree.ID

func TestNamedCases(t *testing.T) {
	t.Parallel()
	p, q := created(0, 0, top, "P"), created(0, 0, top, "Q")
	for _, c := range []struct {
		name string
		have map[tree.ID]tree.Register
		want map[tree.ID]string
		same []tree.Pair
		cut  []tree.ID
	}{
		{
			// One node renames P to Q/P, the other later Q to P/Q.
			name: "rename cycle", have: map[tree.ID]tree.Register{
				id(1): moved(p, 1, 0, id(2), "P"), id(2): moved(q, 2, 1, id(1), "Q"),
			},
			want: map[tree.ID]string{id(1): "Q/P", id(2): "Q"}, cut: []tree.ID{id(2)},
		},
		{
			name: "cycle of three", have: map[tree.ID]tree.Register{
				id(1): moved(p, 3, 0, id(2), "a"), id(2): moved(p, 2, 0, id(3), "b"), id(3): moved(p, 1, 1, id(1), "c"),
				id(4): created(0, 0, id(3), "child"),
			},
			want: map[tree.ID]string{id(1): "a", id(3): "a/c", id(2): "a/c/b", id(4): "a/c/child"}, cut: []tree.ID{id(1)},
		},
		{
			name: "its own parent", have: map[tree.ID]tree.Register{id(1): moved(p, 1, 0, id(1), "a")},
			want: map[tree.ID]string{id(1): "a"}, cut: []tree.ID{id(1)},
		},
		{
			name: "created on both sides", have: map[tree.ID]tree.Register{id(2): created(1, 0, top, "X"), id(1): created(5, 1, top, "X")},
			want: map[tree.ID]string{id(1): "X", id(2): "X (conflict 2026-03-01 node 0)"},
			same: []tree.Pair{{Into: id(1), From: id(2)}},
		},
		{
			name: "whole trees created on both sides", have: map[tree.ID]tree.Register{
				id(1): created(1, 0, top, "X"), id(2): created(2, 0, id(1), "Y"),
				id(3): created(1, 1, top, "X"), id(4): created(2, 1, id(3), "Y"), id(5): created(2, 1, id(3), "Z"),
			},
			want: map[tree.ID]string{
				id(1): "X", id(2): "X/Y", id(3): "X (conflict 2026-03-01 node 1)",
				id(4): "X/Y (conflict 2026-03-01 node 1)", id(5): "X/Z",
			},
			same: []tree.Pair{{Into: id(1), From: id(3)}, {Into: id(2), From: id(4)}},
		},
		{
			name: "renamed to a name that is created at the same time", have: map[tree.ID]tree.Register{
				id(1): moved(p, 1, 0, top, "X"), id(2): created(2, 1, top, "X"), id(3): created(0, 0, id(1), "c"),
			},
			want: map[tree.ID]string{
				id(2): "X", id(1): "X (conflict 2026-03-01 node 0)", id(3): "X (conflict 2026-03-01 node 0)/c",
			},
		},
		{
			name: "both renamed to one name", have: map[tree.ID]tree.Register{
				id(1): moved(p, 60*24, 1, top, "X"), id(2): moved(q, 1, 0, top, "X"),
			},
			want: map[tree.ID]string{id(2): "X", id(1): "X (conflict 2026-03-02 node 1)"},
		},
		{
			name: "three of one name", have: map[tree.ID]tree.Register{
				id(1): moved(p, 1, 0, top, "X"), id(2): moved(p, 2, 0, top, "X"), id(3): moved(p, 3, 0, top, "X"),
			},
			want: map[tree.ID]string{
				id(1): "X", id(2): "X (conflict 2026-03-01 node 0)", id(3): "X (conflict 2026-03-01 node 0, 2)",
			},
		},
		{
			name: "levels that are only part of a name", have: map[tree.ID]tree.Register{
				id(1): created(0, 0, top, "a/b/c"), id(2): created(0, 0, id(1), "d/e"),
			},
			want: map[tree.ID]string{id(1): "a/b/c", id(2): "a/b/c/d/e"},
		},
		{
			name: "created below a mailbox that was deleted at the same time", have: map[tree.ID]tree.Register{
				id(1): deleted(p), id(2): created(1, 1, id(1), "c"),
			},
			want: map[tree.ID]string{id(2): "P/c"},
		},
		{
			name: "below one that nobody knows", have: map[tree.ID]tree.Register{id(2): created(1, 1, id(9), "c")},
			want: map[tree.ID]string{id(2): "c"},
		},
		{
			name: "INBOX stays", have: map[tree.ID]tree.Register{
				inbox: moved(created(9, 0, top, "INBOX"), 9, 0, id(1), "gone"), id(1): moved(p, 1, 0, top, "INBOX"), id(2): created(0, 0, inbox, "x"),
			},
			want: map[tree.ID]string{inbox: "INBOX", id(1): "INBOX (conflict 2026-03-01 node 0)", id(2): "INBOX/x"},
		},
	} {
		got := tree.Resolve(c.have, inbox)
		if !maps.Equal(got.Path, c.want) {
			t.Errorf("%s: got %v, want %v", c.name, got.Path, c.want)
		}
		if !slices.Equal(got.Same, c.same) || !slices.Equal(got.Cut, c.cut) {
			t.Errorf("%s: merge %v, cut %v, want %v, %v", c.name, got.Same, got.Cut, c.same, c.cut)
		}
	}
}

// A chain as long as an account may have mailboxes, and names as long as two
// renames can make them, still end in names that clients can say.
func TestLongNames(t *testing.T) {
	t.Parallel()
	have := map[tree.ID]tree.Register{}
	above := top
	for n := range 5000 {
		next := tree.ID{byte(n >> 8), byte(n), 1}
		have[next] = created(n, 0, above, "é")
		above = next
	}
	long := tree.ID{1, 1, 2}
	have[long] = created(0, 0, top, strings.Repeat("é", 500))
	have[tree.ID{1, 1, 3}] = created(0, 0, long, "below")
	have[tree.ID{1, 1, 4}] = moved(created(0, 0, top, "x"), 1, 1, top, strings.Repeat("é", 500))
	check(t, have, tree.Resolve(have, inbox))
}

// check is what holds for names whatever the registers.
func check(t interface{ Fatalf(string, ...any) }, have map[tree.ID]tree.Register, names tree.Names) {
	taken := make(map[string]tree.ID)
	for mailbox, r := range have {
		path, named := names.Path[mailbox]
		if named == (r.Deleted && mailbox != inbox) {
			t.Fatalf("%x: named %v, deleted %v", mailbox, named, r.Deleted)
		}
		if !named {
			continue
		}
		if other, twice := taken[path]; twice {
			t.Fatalf("%q names %x and %x", path, mailbox, other)
		}
		taken[path] = mailbox
		if path == "" || len(path) > tree.MaxOctets || strings.Count(path, "/") >= tree.MaxLevels {
			t.Fatalf("%x is named %q", mailbox, path)
		}
		if (mailbox == inbox) != (path == "INBOX") {
			if _, there := have[inbox]; there {
				t.Fatalf("%x is named %q", mailbox, path)
			}
		}
	}
	if len(names.Path) != len(taken) {
		t.Fatalf("names for %d mailboxes of %d", len(names.Path), len(taken))
	}
	suffixed := slices.Clone(names.Suffixed)
	for _, pair := range names.Same {
		if !slices.Contains(suffixed, pair.From) || slices.Contains(suffixed, pair.Into) {
			t.Fatalf("merge %x into %x; suffixed %x", pair.From, pair.Into, suffixed)
		}
	}
}

// update is a register as one operation wrote it.
type update struct {
	mailbox  tree.ID
	register tree.Register
}

// drawUpdates makes creations and renames, each with a stamp of its own, of
// mailboxes whose parents may be any.
func drawUpdates(t *rapid.T) []update {
	leaf := rapid.SampledFrom([]string{"a", "b", "a/b", "INBOX", "a/b/a"})
	parent := rapid.SampledFrom([]tree.ID{top, id(1), id(2), id(3), id(4), inbox, id(9)})
	mailbox := rapid.SampledFrom([]tree.ID{id(1), id(2), id(3), id(4), inbox})
	list := []update{{inbox, created(0, 0, top, "INBOX")}}
	for n := range rapid.IntRange(0, 16).Draw(t, "operations") {
		r := tree.Register{Parent: parent.Draw(t, "parent"), Leaf: leaf.Draw(t, "leaf")}
		// Clocks of two nodes may give the same reading.
		stamp := at(rapid.IntRange(1, 20).Draw(t, "time"), n&1)
		stamp.Seq = uint64(n)
		if rapid.Bool().Draw(t, "move") {
			r.Moved = stamp
		} else {
			r.Created = stamp
		}
		list = append(list, update{mailbox.Draw(t, "mailbox"), r})
	}
	return list
}

func apply(list []update) map[tree.ID]tree.Register {
	have := make(map[tree.ID]tree.Register)
	for _, u := range list {
		if r, known := have[u.mailbox]; known {
			have[u.mailbox] = r.Merge(u.register)
		} else {
			have[u.mailbox] = u.register
		}
	}
	return have
}

func TestMergeInAnyOrder(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		list := drawUpdates(t)
		want := apply(list)
		other := rapid.Permutation(list).Draw(t, "order")
		other = append(other, other[:rapid.IntRange(0, len(other)).Draw(t, "again")]...)
		if got := apply(other); !maps.Equal(got, want) {
			t.Fatalf("got %v, want %v", got, want)
		}
		// Halves that were merged by themselves merge to the same.
		cut := rapid.IntRange(0, len(list)).Draw(t, "cut")
		joined := apply(list[cut:])
		for mailbox, r := range apply(list[:cut]) {
			if o, known := joined[mailbox]; known {
				r = o.Merge(r)
			}
			joined[mailbox] = r
		}
		if !maps.Equal(joined, want) {
			t.Fatalf("in halves %v, want %v", joined, want)
		}
	})
}

func TestEveryMailboxHasOneName(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		have := apply(drawUpdates(t))
		for mailbox, r := range have {
			r.Deleted = mailbox != inbox && rapid.Bool().Draw(t, fmt.Sprintf("deleted %x", mailbox[0]))
			have[mailbox] = r
		}
		first := tree.Resolve(have, inbox)
		check(t, have, first)
		second := tree.Resolve(maps.Clone(have), inbox)
		if !maps.Equal(first.Path, second.Path) || !slices.Equal(first.Same, second.Same) || !slices.Equal(first.Cut, second.Cut) {
			t.Fatalf("once %v, then %v", first, second)
		}
	})
}

// What home makes permanent is not in conflict any more: as it renames each
// mailbox to the name it is shown under, no cut and no suffix is left.
func TestPermanentNamesHaveNoConflict(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		have := apply(drawUpdates(t))
		for round := 0; ; round++ {
			names := tree.Resolve(have, inbox)
			if len(names.Cut)+len(names.Suffixed) == 0 {
				return
			}
			if round == 20 {
				t.Fatalf("still %v of %v", names, have)
			}
			for n, mailbox := range append(names.Cut, names.Suffixed...) {
				r := have[mailbox]
				r.Parent, r.Leaf, r.Moved = top, names.Path[mailbox], at(100+round, n)
				have[mailbox] = r
			}
		}
	})
}

func BenchmarkResolve(b *testing.B) {
	have := make(map[tree.ID]tree.Register)
	for n := range 10_000 {
		mailbox := tree.ID{byte(n >> 8), byte(n), 1}
		parent := tree.ID{byte(n >> 12), byte(n >> 4), 1}
		have[mailbox] = created(n, 0, parent, fmt.Sprint(n))
	}
	for b.Loop() {
		tree.Resolve(have, inbox)
	}
}
