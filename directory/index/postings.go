package index

import (
	"maps"
	"slices"
)

// postings find slots by hashes. Most values are of one entry, so that the slot
// stands in the map itself; those of several have a list, in order.
type postings struct {
	single map[uint32]uint32
	many   map[uint32][]uint32
}

func newPostings() postings {
	return postings{single: map[uint32]uint32{}, many: map[uint32][]uint32{}}
}

func (p *postings) clone() postings {
	many := make(map[uint32][]uint32, len(p.many))
	for hash, list := range p.many {
		many[hash] = slices.Clone(list)
	}
	return postings{single: maps.Clone(p.single), many: many}
}

// appendTo appends the slots of a hash, in order.
func (p *postings) appendTo(dst []uint32, hash uint32) []uint32 {
	if at, ok := p.single[hash]; ok {
		return append(dst, at)
	}
	return append(dst, p.many[hash]...)
}

// add notes a slot. Twice is once.
func (p *postings) add(hash, at uint32) {
	if list, ok := p.many[hash]; ok {
		if i, found := slices.BinarySearch(list, at); !found {
			p.many[hash] = slices.Insert(list, i, at)
		}
		return
	}
	other, ok := p.single[hash]
	switch {
	case !ok:
		p.single[hash] = at
	case other != at:
		delete(p.single, hash)
		p.many[hash] = []uint32{min(at, other), max(at, other)}
	}
}

// remove forgets a slot; one that is not there is no error.
func (p *postings) remove(hash, at uint32) {
	if other, ok := p.single[hash]; ok {
		if other == at {
			delete(p.single, hash)
		}
		return
	}
	list := p.many[hash]
	i, found := slices.BinarySearch(list, at)
	if !found {
		return
	}
	if list = slices.Delete(list, i, i+1); len(list) == 1 {
		delete(p.many, hash)
		p.single[hash] = list[0]
		return
	}
	p.many[hash] = list
}
