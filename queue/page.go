package queue

import (
	"bytes"
	"iter"

	"github.com/postern-mail/postern/mail"
	"github.com/postern-mail/postern/store"
)

// pageView is a snapshot with all that there is of a page of messages read at
// once: reading the records of each message by themselves takes several times
// as long.
type pageView struct {
	store.Snapshot
	ids    []mail.QueueID
	first  map[mail.QueueID][]byte
	states map[mail.QueueID][]store.Pair
	held   map[mail.QueueID]bool
}

// readPage reads the first messages with from <= key < end, at most limit.
func readPage(v store.Snapshot, from, end []byte, limit int) (*pageView, error) {
	p := &pageView{
		Snapshot: v, first: make(map[mail.QueueID][]byte),
		states: make(map[mail.QueueID][]store.Pair), held: make(map[mail.QueueID]bool),
	}
	for pair, err := range v.Range(from, end, limit, false) {
		if err != nil {
			return nil, err
		}
		id := mail.QueueID(pair.Key[2:])
		p.ids = append(p.ids, id)
		p.first[id] = bytes.Clone(pair.Value)
	}
	if len(p.ids) == 0 {
		return p, nil
	}
	lo, _ := stateRange(p.ids[0])
	_, hi := stateRange(p.ids[len(p.ids)-1])
	for pair, err := range v.Range(lo, hi, 0, false) {
		if err != nil {
			return nil, err
		}
		if n := len(pair.Key) - 5; n > 2 {
			id := mail.QueueID(pair.Key[2:n])
			p.states[id] = append(p.states[id], store.Pair{Key: bytes.Clone(pair.Key), Value: bytes.Clone(pair.Value)})
		}
	}
	for pair, err := range v.Range(holdKey(p.ids[0]), append(holdKey(p.ids[len(p.ids)-1]), 0), 0, false) {
		if err != nil {
			return nil, err
		}
		p.held[mail.QueueID(pair.Key[2:])] = true
	}
	return p, nil
}

// Get implements store.Snapshot.
func (p *pageView) Get(key []byte) ([]byte, error) {
	switch key[1] {
	case 'm':
		if first, found := p.first[mail.QueueID(key[2:])]; found {
			return first, nil
		}
	case 'h':
		if p.held[mail.QueueID(key[2:])] {
			return nil, nil
		}
		return nil, store.ErrNotFound
	}
	return p.Snapshot.Get(key)
}

// Range implements store.Snapshot.
func (p *pageView) Range(lo, hi []byte, limit int, reverse bool) iter.Seq2[store.Pair, error] {
	if lo[1] != 'r' {
		return p.Snapshot.Range(lo, hi, limit, reverse)
	}
	states := p.states[mail.QueueID(lo[2:len(lo)-1])]
	return func(yield func(store.Pair, error) bool) {
		for _, pair := range states {
			if !yield(pair, nil) {
				return
			}
		}
	}
}
