package queue

import (
	"math"
	"slices"

	"github.com/postern-mail/postern/mail"
)

// ladder holds things that wait, by priority, and says which priority is next.
//
// Turns are shared by weight: two steps up the scale of RFC 6710 are twice the
// share, so that priority 9 has 22 turns for each of priority 0, and 512 for
// each of -9. Of those with the same right to a turn the higher comes first, so
// what is urgent does not wait behind what was there before it. Nobody
// starves: a priority waits for at most as many turns as the weights of the
// others allow, however much comes at them. Who was away gains no turns by it.
type ladder[T any] struct {
	rungs []rung[T] // highest priority first
	now   uint64    // the pass of the turn given last
}

// rung is what waits with one priority.
type rung[T any] struct {
	priority int8
	waiting  T
	// pass grows with each turn, the slower the higher the priority is; the
	// lowest is next.
	pass uint64
}

// stride is by how much a turn moves a priority back.
func stride(priority int8) uint64 {
	const finest = 64 // so that rounding does not count
	return uint64(math.Round(finest * math.Exp2(float64(mail.HighestPriority-int(priority))/2)))
}

// at returns what waits with a priority, to be added to if empty says that
// nothing does. The rung is valid until the next call.
func (l *ladder[T]) at(priority int8, empty func(*T) bool) *rung[T] {
	i, found := slices.BinarySearchFunc(l.rungs, priority, func(r rung[T], p int8) int { return int(p) - int(r.priority) })
	if !found {
		l.rungs = slices.Insert(l.rungs, i, rung[T]{priority: priority})
	}
	r := &l.rungs[i]
	if empty(&r.waiting) {
		r.pass = max(r.pass, l.now)
	}
	return r
}

// next returns the rung whose turn it is; nil when all are empty.
func (l *ladder[T]) next(empty func(*T) bool) (next *rung[T]) {
	for i := range l.rungs {
		if r := &l.rungs[i]; !empty(&r.waiting) && (next == nil || r.pass < next.pass) {
			next = r
		}
	}
	return next
}

// served counts a turn.
func (l *ladder[T]) served(r *rung[T]) {
	l.now = max(l.now, r.pass)
	r.pass += stride(r.priority)
}

// ranks is what waits for one destination, of senders of one kind: a line for
// each priority.
type ranks struct {
	n     int
	lines ladder[line]
}

func (l *line) empty() bool { return l.n == 0 }

func (it item) priority() int8 { return it.m.envelope.Priority }

func (w *ranks) at(priority int8) *line { return &w.lines.at(priority, (*line).empty).waiting }

// top is the highest priority that waits; there must be one.
func (w *ranks) top() int8 {
	for i := range w.lines.rungs {
		if r := &w.lines.rungs[i]; r.waiting.n > 0 {
			return r.priority
		}
	}
	return 0
}

// count tells how much a sender has in line with at least a priority.
func (w *ranks) count(sender mail.Address, atLeast int8) (n int) {
	for i := range w.lines.rungs {
		if r := &w.lines.rungs[i]; r.priority >= atLeast {
			n += r.waiting.count(sender)
		}
	}
	return n
}

func (w *ranks) push(it item) {
	w.n++
	w.at(it.priority()).push(it)
}

func (w *ranks) pushFront(it item) {
	w.n++
	w.at(it.priority()).pushFront(it)
}

// pop takes the next group; there must be one.
func (w *ranks) pop() item {
	w.n--
	r := w.lines.next((*line).empty)
	w.lines.served(r)
	return r.waiting.pop()
}

// remove takes a group out of its place; false when it is not in line.
func (w *ranks) remove(it item) bool {
	removed := w.at(it.priority()).remove(it)
	if removed {
		w.n--
	}
	return removed
}

// next is the sender whose turn it is; there must be one.
func (w *ranks) next() mail.Address { return w.lines.next((*line).empty).waiting.next() }

// takeAll takes everything that the next sender has with that priority.
func (w *ranks) takeAll() []item {
	items := w.lines.next((*line).empty).waiting.takeAll()
	w.n -= len(items)
	return items
}

// precede puts groups of one sender and priority ahead of what that sender has
// in line with it.
func (w *ranks) precede(items []item) {
	w.n += len(items)
	w.at(items[0].priority()).precede(items)
}
