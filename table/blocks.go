package table

import (
	"errors"
	"fmt"
)

// maxNesting bounds if inside of if.
const maxNesting = 50

// blocks keeps track of if and endif while a table is read. L is the list of
// what stands in a block, S one thing in it: networks of steps, or patterns of
// rules.
type blocks[L any, S any] struct {
	notes *notes
	stack []block[L, S]
}

type block[L any, S any] struct {
	line int
	list L
	make func(inside L) S
}

func (b *blocks[L, S]) here() *L { return &b.stack[len(b.stack)-1].list }

func (b *blocks[L, S]) open(line int, make func(inside L) S) {
	if len(b.stack) > maxNesting {
		b.notes.mistake(line, fmt.Errorf("more than %d times if inside of if", maxNesting))
	}
	b.stack = append(b.stack, block[L, S]{line: line, make: make})
}

func (b *blocks[L, S]) close(line int, rest string, add func(into *L, s S)) {
	switch {
	case len(b.stack) == 1:
		b.notes.mistake(line, errors.New("endif without if"))
		return
	case rest != "":
		b.notes.mistake(line, fmt.Errorf("%q stands behind endif", rest))
	}
	last := b.stack[len(b.stack)-1]
	b.stack = b.stack[:len(b.stack)-1]
	add(b.here(), last.make(last.list))
}

// end returns the list of the whole table.
func (b *blocks[L, S]) end() L {
	for _, open := range b.stack[1:] {
		b.notes.mistake(open.line, errors.New("if without endif"))
	}
	return b.stack[0].list
}
