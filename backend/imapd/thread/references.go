package thread

import (
	"cmp"
	"slices"
)

// References is the algorithm REFERENCES.
func References(messages []Message) *Forest {
	g := link(messages)
	f := g.prune(messages)
	b := &builder{Forest: f, messages: messages}
	b.sortAll()
	b.gather()
	b.sortAll()
	return f
}

// graph is what step 1 of the algorithm makes: who is whose parent. Nodes
// beyond the messages are dummies.
type graph struct {
	parent []int32
	kids   []int32 // how many
	byID   map[uint64]int32
	steps  int // left of the search for loops
}

// maxLoopSteps bounds the search for loops in a mailbox that was made to have
// long chains linked in a bad order: some seconds.
const maxLoopSteps = 200_000_000

// maxLinks is how many references are followed in all, for each may need a node.
const maxLinks = 2_000_000

// nearest is how many ancestors of each message count, at least one, so that
// these are so many in all.
func nearest(messages []Message, most int) int {
	var having []int // how many messages have so many
	longest, all := 0, 0
	for i := range messages {
		n := len(messages[i].References)
		for len(having) <= n {
			having = append(having, 0)
		}
		having[n]++
		longest, all = max(longest, n), all+n
	}
	beyond := 0 // messages with more than are left to each
	for ; longest > 1 && all > most; longest-- {
		beyond += having[longest]
		all -= beyond
	}
	return longest
}

// link is step 1: parents by Message-ID, References and In-Reply-To.
func link(messages []Message) *graph {
	g := &graph{byID: make(map[uint64]int32, 2*len(messages)), steps: maxLoopSteps}
	for i := range messages {
		g.add()
		if id := messages[i].ID; id != 0 {
			if _, taken := g.byID[id]; !taken { // a second one is as good as none
				g.byID[id] = int32(i)
			}
		}
	}
	most := nearest(messages, maxLinks)
	for i := range messages {
		before := int32(none)
		ancestors := messages[i].References
		for _, id := range ancestors[max(0, len(ancestors)-most):] {
			node := g.node(id)
			if before != none && g.parent[node] == none {
				g.join(before, node)
			}
			before = node
		}
		// The message's own field is the best word on its parent.
		g.part(int32(i))
		if before != none {
			g.join(before, int32(i))
		}
	}
	return g
}

func (g *graph) add() int32 {
	g.parent, g.kids = append(g.parent, none), append(g.kids, 0)
	return int32(len(g.parent) - 1)
}

// node finds the node of a Message-ID, or makes a dummy.
func (g *graph) node(id uint64) int32 {
	node, known := g.byID[id]
	if !known {
		node = g.add()
		g.byID[id] = node
	}
	return node
}

// join makes parent the parent of node, which has none, unless node is above it.
func (g *graph) join(parent, node int32) {
	if parent == node {
		return
	}
	if g.kids[node] > 0 {
		for up := parent; up != none; up = g.parent[up] {
			if g.steps--; up == node || g.steps < 0 {
				return
			}
		}
	}
	g.parent[node] = parent
	g.kids[parent]++
}

// part takes node from its parent.
func (g *graph) part(node int32) {
	if p := g.parent[node]; p != none {
		g.kids[p]--
		g.parent[node] = none
	}
}

// prune is steps 2 and 3: a forest without dummies but those at the root that
// hold several threads together.
func (g *graph) prune(messages []Message) *Forest {
	n := len(messages)
	f := newForest(len(g.parent))
	f.messages = n
	above := g.realParents(n)
	held := make([]int32, len(g.parent)) // how many a dummy at the root holds
	for i := range n {
		if p := above[i]; p >= int32(n) {
			held[p]++
		}
	}
	for i := n - 1; i >= 0; i-- {
		p := above[i]
		if p == none || p >= int32(n) && held[p] == 1 {
			f.roots = append(f.roots, int32(i))
			continue
		}
		if p >= int32(n) && f.first[p] == none {
			f.roots = append(f.roots, p)
		}
		f.next[i], f.first[p] = f.first[p], int32(i)
	}
	return f
}

// realParents returns for every message the nearest message above it, else the
// topmost dummy, else none.
func (g *graph) realParents(n int) []int32 {
	const unknown = none - 1
	above := make([]int32, len(g.parent)) // of dummies: what stands for them
	for i := range above {
		above[i] = unknown
	}
	var path []int32
	for i := range n {
		path = path[:0]
		node := g.parent[i]
		for node >= int32(n) && above[node] == unknown {
			path = append(path, node)
			node = g.parent[node]
		}
		found := node
		switch {
		case node >= int32(n):
			found = above[node]
		case node == none && len(path) > 0:
			found = path[len(path)-1]
		}
		for _, d := range path {
			above[d] = found
		}
		above[i] = found
	}
	return above[:n]
}

// builder does the steps that need the messages.
type builder struct {
	*Forest
	messages []Message
	scratch  []int32
}

func (b *builder) dummy(node int32) bool { return int(node) >= len(b.messages) }

// leader is the message that a node at the root is judged by: itself, or the
// first child of a dummy.
func (b *builder) leader(node int32) int32 {
	if b.dummy(node) {
		return b.first[node]
	}
	return node
}

// sortAll is steps 4 and 6: siblings by the time they were sent.
func (b *builder) sortAll() {
	for node := range b.first {
		if kid := b.first[node]; kid == none || b.next[kid] == none {
			continue
		}
		b.scratch = b.kids(b.scratch[:0], int32(node))
		sortBySent(b.scratch, b.messages)
		b.adopt(int32(node), b.scratch)
	}
	slices.SortFunc(b.roots, func(x, y int32) int {
		i, k := b.leader(x), b.leader(y)
		return cmp.Or(cmp.Compare(b.messages[i].Sent, b.messages[k].Sent), cmp.Compare(i, k))
	})
}

// gather is step 5: threads with one base subject become one.
func (b *builder) gather() {
	subjects := make([]string, len(b.roots)) // as they are before anything moves
	for i, root := range b.roots {
		subjects[i] = b.messages[b.leader(root)].Subject
	}
	table := b.subjectTable(subjects)
	merged := make(map[int32]bool) // no longer at the root
	var made []int32
	for i, root := range b.roots {
		held := table[subjects[i]]
		if subjects[i] == "" || held == root {
			continue
		}
		merged[root] = true
		switch {
		case b.dummy(held) && b.dummy(root):
			b.join(held, b.kids(nil, root)...)
			b.first[root] = none
		case b.dummy(held), b.messages[root].Reply && !b.messages[held].Reply:
			b.join(held, root)
		default:
			b.grow(1)
			node := int32(len(b.first) - 1)
			b.join(node, held, root)
			merged[held] = true
			made = append(made, node)
			table[subjects[i]] = node
		}
	}
	b.roots = append(slices.DeleteFunc(b.roots, func(n int32) bool { return merged[n] }), made...)
}

// subjectTable finds for each base subject the thread that the others go to.
func (b *builder) subjectTable(subjects []string) map[string]int32 {
	table := make(map[string]int32, len(b.roots))
	for i, root := range b.roots {
		if subjects[i] == "" {
			continue
		}
		held, known := table[subjects[i]]
		if !known || !b.dummy(held) && (b.dummy(root) || b.messages[held].Reply && !b.messages[root].Reply) {
			table[subjects[i]] = root
		}
	}
	return table
}

// join adds children to a node; their order does not matter yet.
func (b *builder) join(node int32, kids ...int32) {
	for _, k := range kids {
		b.next[k], b.first[node] = b.first[node], k
	}
}
