package text

import (
	"bytes"
	"sync"
)

// matcher looks for a needle in texts.
type matcher struct {
	needle []byte
	loose  bool
	plain  []byte // without marks
	found  bool
	tails  [Tracks][]byte // the ends of what came before
}

var matchers = sync.Pool{New: func() any { return new(matcher) }}

func newMatcher(n Needle) *matcher {
	m := matchers.Get().(*matcher)
	m.needle, m.loose, m.found = n.octets, n.loose, false
	return m
}

func (m *matcher) release() {
	m.needle = nil
	matchers.Put(m)
}

// Begin implements Sink.
func (m *matcher) Begin(t Track) { m.tails[t] = m.tails[t][:0] }

// Add implements Sink. What spans the border of two pieces is looked for in the
// octets around it, so that nothing else is copied.
func (m *matcher) Add(t Track, folded []byte) bool {
	if m.loose && !isASCII(folded) {
		m.plain = WithoutMarks(m.plain[:0], folded)
		folded = m.plain
	}
	tail, around := m.tails[t], len(m.needle)-1
	if len(tail) > 0 {
		tail = append(tail, folded[:min(around, len(folded))]...)
		m.found = bytes.Contains(tail, m.needle)
	}
	m.found = m.found || bytes.Contains(folded, m.needle)
	if len(folded) >= around {
		tail = append(tail[:0], folded[len(folded)-around:]...)
	} else {
		if len(tail) == 0 {
			tail = append(tail, folded...)
		}
		tail = tail[:copy(tail, tail[max(0, len(tail)-around):])]
	}
	m.tails[t] = tail
	return !m.found
}

// Contains reports whether a text that TEXT is about has the needle. Every
// message has the empty one.
func (m *Message) Contains(o Options, needle Needle) (bool, error) {
	return m.contains(needle, func(s Sink) error { return m.Texts(o, s) })
}

// BodyContains is Contains for what BODY is about.
func (m *Message) BodyContains(o Options, needle Needle) (bool, error) {
	return m.contains(needle, func(s Sink) error { return m.Bodies(o, s) })
}

func (m *Message) contains(needle Needle, read func(Sink) error) (bool, error) {
	if needle.Empty() {
		return true, nil
	}
	match := newMatcher(needle)
	defer match.release()
	err := read(match)
	return match.found, err
}
