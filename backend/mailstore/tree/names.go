package tree

import (
	"bytes"
	"cmp"
	"container/heap"
	"fmt"
	"slices"
	"strings"
	"time"
	"unicode/utf8"
)

// Bounds of a name. They are not for an administrator to set: both nodes must
// make the same names. One that goes beyond, which only two renames at the
// same time can cause, is shown at the top instead.
const (
	MaxOctets = 1000
	MaxLevels = 50
)

const (
	separator = "/"
	inboxName = "INBOX"
)

// Names is what Resolve makes of registers.
type Names struct {
	// Path is the name of each mailbox that is not deleted.
	Path map[ID]string
	// Same are mailboxes that were created under one name: to be merged.
	Same []Pair
	// Suffixed are those that do not have the name they ask for, because
	// another has it: the Froms of Same, and what was renamed to a name that
	// was taken at the same time.
	Suffixed []ID
	// Cut are those taken from below a mailbox that itself hangs below them.
	Cut []ID
}

// Pair is one mailbox that belongs into another.
type Pair struct{ Into, From ID }

// Resolve names every mailbox. The order in which they choose is INBOX, then
// those that stand where they were created, by ID, then those that were
// renamed, or hang below one that was, the earlier before the later. Who finds
// its name taken gets a suffix.
func Resolve(registers map[ID]Register, inbox ID) Names {
	r := resolver{
		registers: registers, inbox: inbox, parent: make(map[ID]ID, len(registers)), place: make(map[ID]place, len(registers)),
		path: make(map[ID]string, len(registers)), owner: make(map[string]ID, len(registers)),
		names: Names{Path: make(map[ID]string, len(registers))},
	}
	ids := make([]ID, 0, len(registers))
	for id, register := range registers {
		ids = append(ids, id)
		r.parent[id] = register.Parent
		if _, known := registers[register.Parent]; !known || id == inbox {
			r.parent[id] = ID{}
		}
	}
	slices.SortFunc(ids, compareIDs)
	r.cutCycles(ids)
	children := make(map[ID][]ID)
	for _, id := range ids {
		children[r.parent[id]] = append(children[r.parent[id]], id)
	}
	waiting := &queue{resolver: &r}
	enter := func(parent ID) {
		for _, id := range children[parent] {
			r.place[id] = r.placeOf(id)
			heap.Push(waiting, id)
		}
	}
	enter(ID{})
	for waiting.Len() > 0 {
		id := heap.Pop(waiting).(ID)
		r.name(id)
		enter(id)
	}
	return r.names
}

type resolver struct {
	registers map[ID]Register
	inbox     ID
	parent    map[ID]ID // without cycles
	place     map[ID]place
	// path is where those below a mailbox hang: its own name, or that of the
	// one it is to be merged into, or, deleted, what its name was.
	path  map[ID]string
	owner map[string]ID
	names Names
}

// place decides who chooses first.
type place struct {
	inbox bool
	moved Stamp // the last rename of it or of what it hangs below
}

func compareIDs(a, b ID) int { return bytes.Compare(a[:], b[:]) }

// cutCycles takes, in each cycle, the mailbox that was renamed last to the top.
func (r *resolver) cutCycles(ids []ID) {
	walk := make(map[ID]int, len(ids)) // the walk that came by first, from 1
	for n, start := range ids {
		var way []ID
		at := start
		for at != (ID{}) && walk[at] == 0 {
			walk[at] = n + 1
			way = append(way, at)
			at = r.parent[at]
		}
		if at == (ID{}) || walk[at] != n+1 {
			continue
		}
		last := slices.MaxFunc(way[slices.Index(way, at):], func(a, b ID) int {
			return cmp.Or(r.registers[a].Moved.Compare(r.registers[b].Moved), compareIDs(a, b))
		})
		r.parent[last] = ID{}
		r.names.Cut = append(r.names.Cut, last)
	}
}

// placeOf is id's place, behind that of its parent.
func (r *resolver) placeOf(id ID) place {
	p := place{inbox: id == r.inbox, moved: r.registers[id].Moved}
	if above := r.place[r.parent[id]].moved; above.Compare(p.moved) > 0 {
		p.moved = above
	}
	return p
}

// name gives id, whose parent has its path, its own.
func (r *resolver) name(id ID) {
	register := r.registers[id]
	path := register.Leaf
	if above := r.path[r.parent[id]]; above != "" {
		path = above + separator + path
	}
	if id == r.inbox {
		path = inboxName
	}
	path = bound(path)
	r.path[id] = path
	if register.Deleted && id != r.inbox {
		return
	}
	owner, taken := r.owner[path]
	if taken || path == "" {
		if taken && r.isStill(owner) && r.isStill(id) {
			r.names.Same = append(r.names.Same, Pair{Into: owner, From: id})
			path = r.free(path, register.Created)
		} else {
			path = r.free(path, r.place[id].moved)
			r.path[id] = path
		}
		r.names.Suffixed = append(r.names.Suffixed, id)
	}
	r.owner[path] = id
	r.names.Path[id] = path
}

// isStill reports whether the mailbox stands where it was created.
func (r *resolver) isStill(id ID) bool { return r.place[id].moved.IsZero() }

// free returns path with the first suffix that nobody has.
func (r *resolver) free(path string, by Stamp) string {
	day := time.UnixMilli(int64(by.HLC >> 16)).UTC().Format(time.DateOnly)
	for n := 1; ; n++ {
		suffix := fmt.Sprintf(" (conflict %s node %d)", day, by.Origin>>48)
		if n > 1 {
			suffix = fmt.Sprintf(" (conflict %s node %d, %d)", day, by.Origin>>48, n)
		}
		name := shorten(path, MaxOctets-len(suffix)) + suffix
		if _, taken := r.owner[name]; !taken {
			return name
		}
	}
}

// bound keeps a path within what a client can name.
func bound(path string) string {
	if len(path) <= MaxOctets && strings.Count(path, separator) < MaxLevels {
		return path
	}
	return shorten(path[strings.LastIndex(path, separator)+1:], MaxOctets)
}

// shorten cuts a name, not within a character.
func shorten(name string, octets int) string {
	if len(name) <= octets {
		return name
	}
	for octets > 0 && !utf8.RuneStart(name[octets]) {
		octets--
	}
	return strings.TrimRight(name[:octets], separator)
}

// queue holds mailboxes whose parents have their names, who chooses first on top.
type queue struct {
	resolver *resolver
	ids      []ID
}

func (q *queue) Len() int      { return len(q.ids) }
func (q *queue) Swap(i, j int) { q.ids[i], q.ids[j] = q.ids[j], q.ids[i] }
func (q *queue) Push(x any)    { q.ids = append(q.ids, x.(ID)) }

func (q *queue) Pop() any {
	last := q.ids[len(q.ids)-1]
	q.ids = q.ids[:len(q.ids)-1]
	return last
}

func (q *queue) Less(i, j int) bool {
	a, b := q.resolver.place[q.ids[i]], q.resolver.place[q.ids[j]]
	if a.inbox != b.inbox {
		return a.inbox
	}
	return cmp.Or(a.moved.Compare(b.moved), compareIDs(q.ids[i], q.ids[j])) < 0
}
