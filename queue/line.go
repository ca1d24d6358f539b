package queue

import (
	"slices"

	"github.com/postern-mail/postern/mail"
)

// line is what waits for one destination, of senders of one kind: the groups of
// each in the order they came, the senders in turn. So whoever sends much waits behind
// himself, and not everybody else behind him.
type line struct {
	n     int
	turns []*turn // senders with something in line; the first is next
	of    map[mail.Address]*turn
}

// turn is what one sender has in a line, never nothing.
type turn struct {
	sender mail.Address
	items  []item
}

func (it item) sender() mail.Address { return it.m.envelope.ReversePath }

// count tells how much a sender has in line.
func (l *line) count(sender mail.Address) int {
	if t := l.of[sender]; t != nil {
		return len(t.items)
	}
	return 0
}

// next is the sender whose turn it is; the line must not be empty.
func (l *line) next() mail.Address { return l.turns[0].sender }

// push puts a group behind what its sender has in line, and a sender who had
// nothing behind the others.
func (l *line) push(it item) {
	l.n++
	if t := l.of[it.sender()]; t != nil {
		t.items = append(t.items, it)
		return
	}
	l.turns = append(l.turns, l.open(it))
}

// pushFront makes a group the next of all.
func (l *line) pushFront(it item) {
	l.n++
	t := l.of[it.sender()]
	if t == nil {
		t = l.open(it)
	} else {
		t.items = append(t.items, item{})
		copy(t.items[1:], t.items)
		t.items[0] = it
		l.turns = remove(l.turns, t)
	}
	l.turns = append(l.turns, nil)
	copy(l.turns[1:], l.turns)
	l.turns[0] = t
}

func (l *line) open(it item) *turn {
	t := &turn{sender: it.sender(), items: []item{it}}
	if l.of == nil {
		l.of = make(map[mail.Address]*turn)
	}
	l.of[t.sender] = t
	return t
}

// pop takes the next group; its sender then waits for the others' turns. The
// line must not be empty.
func (l *line) pop() item {
	l.n--
	t := l.turns[0]
	it := t.items[0]
	t.items[0] = item{}
	t.items = t.items[1:]
	l.turns[0] = nil
	l.turns = l.turns[1:]
	if len(t.items) > 0 {
		l.turns = append(l.turns, t)
	} else {
		delete(l.of, t.sender)
	}
	return it
}

// remove takes a group out of its place; false when it is not in line.
func (l *line) remove(it item) bool {
	t := l.of[it.sender()]
	if t == nil {
		return false
	}
	i := slices.IndexFunc(t.items, func(other item) bool { return other.m == it.m && other.group == it.group })
	if i < 0 {
		return false
	}
	l.n--
	if i == 0 {
		t.items = t.items[1:]
	} else {
		t.items = slices.Delete(t.items, i, i+1)
	}
	if len(t.items) == 0 {
		l.turns = remove(l.turns, t)
		delete(l.of, t.sender)
	}
	return true
}

// takeAll takes everything that the next sender has in line.
func (l *line) takeAll() []item {
	t := l.turns[0]
	l.n -= len(t.items)
	l.turns[0] = nil
	l.turns = l.turns[1:]
	delete(l.of, t.sender)
	return t.items
}

// precede puts groups of one sender ahead of what that sender has in line.
func (l *line) precede(items []item) {
	l.n += len(items)
	if t := l.of[items[0].sender()]; t != nil {
		t.items = append(items, t.items...)
		return
	}
	t := l.open(items[0])
	t.items = items
	l.turns = append(l.turns, t)
}

func remove(turns []*turn, t *turn) []*turn {
	for i := range turns {
		if turns[i] == t {
			return append(turns[:i], turns[i+1:]...)
		}
	}
	return turns
}
