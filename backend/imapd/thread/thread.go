// Package thread builds the threads of a mailbox.
//
// What comes in: for each message found, in the order of the mailbox, what its
// header says of its relatives. What goes out: the forests of the algorithms
// REFERENCES and ORDEREDSUBJECT of RFC 5256, and their wire form. Nothing in it
// recurses, so that no chain of messages, however long, is too long; work is
// bounded.
package thread

import (
	"cmp"
	"slices"
	"strconv"
)

// Message is what threading needs of one message.
type Message struct {
	// ID stands for the Message-ID, 0 for none; References for the Message-IDs
	// of ancestors, the oldest first. Equal numbers are equal Message-IDs.
	ID         uint64
	References []uint64
	// Subject is the base subject, folded for comparison; "" for none.
	Subject string
	// Reply says that the subject is that of a reply or a forwarded message.
	Reply bool
	// Sent is when the message was sent, in unix seconds.
	Sent int64
}

const none = -1

// Forest is a set of threads. Nodes below the number of messages are messages;
// the others stand for messages that are missing.
type Forest struct {
	messages int
	roots    []int32
	// first child and next sibling of each node, none for none.
	first, next []int32
}

func newForest(messages int) *Forest {
	f := &Forest{messages: messages}
	f.grow(messages)
	return f
}

// grow adds nodes without relatives.
func (f *Forest) grow(n int) {
	for range n {
		f.first, f.next = append(f.first, none), append(f.next, none)
	}
}

// kids appends the children of a node.
func (f *Forest) kids(dst []int32, node int32) []int32 {
	for k := f.first[node]; k != none; k = f.next[k] {
		dst = append(dst, k)
	}
	return dst
}

// adopt makes kids the children of a node, in that order and in the place of
// those that it had.
func (f *Forest) adopt(node int32, kids []int32) {
	f.first[node] = none
	for _, k := range slices.Backward(kids) {
		f.next[k], f.first[node] = f.first[node], k
	}
}

// OrderedSubject is the algorithm ORDEREDSUBJECT: messages with one base
// subject are a thread, of which the first is the parent of all others.
func OrderedSubject(messages []Message) *Forest {
	f := newForest(len(messages))
	order := make([]int32, len(messages))
	for i := range order {
		order[i] = int32(i)
	}
	sortBySent(order, messages)
	threads := make(map[string]int32, len(messages))
	last := make([]int32, len(messages)) // the youngest child of each root
	for _, i := range order {
		root, known := threads[messages[i].Subject]
		switch {
		case !known:
			threads[messages[i].Subject] = i
			f.roots = append(f.roots, i)
			continue
		case f.first[root] == none:
			f.first[root] = i
		default:
			f.next[last[root]] = i
		}
		last[root] = i
	}
	return f
}

// sortBySent orders messages by the time they were sent, then by place.
func sortBySent(nodes []int32, messages []Message) {
	slices.SortFunc(nodes, func(a, b int32) int {
		return cmp.Or(cmp.Compare(messages[a].Sent, messages[b].Sent), cmp.Compare(a, b))
	})
}

// Threads is how many threads there are.
func (f *Forest) Threads() int { return len(f.roots) }

// AppendThread writes thread i as a thread-list (RFC 5256 section 5). number
// says what the client calls a message.
func (f *Forest) AppendThread(dst []byte, i int, number func(message int) uint32) []byte {
	dst = append(dst, '(')
	var open []int32 // the siblings to come, on every level that has several
	for node := f.roots[i]; ; {
		if int(node) < f.messages {
			dst = strconv.AppendUint(dst, uint64(number(int(node))), 10)
			if f.first[node] != none {
				dst = append(dst, ' ')
			}
		}
		kid := f.first[node]
		if kid != none && f.next[kid] == none {
			node = kid
			continue
		}
		if kid != none {
			dst, open = append(dst, '('), append(open, f.next[kid])
			node = kid
			continue
		}
		dst = append(dst, ')')
		for len(open) > 0 && open[len(open)-1] == none {
			dst, open = append(dst, ')'), open[:len(open)-1]
		}
		if len(open) == 0 {
			return dst
		}
		top := &open[len(open)-1]
		node, *top = *top, f.next[*top]
		dst = append(dst, '(')
	}
}
