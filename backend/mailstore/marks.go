package mailstore

import (
	"context"
	"encoding/binary"
	"slices"

	"github.com/postern-mail/postern/store"
)

// mark says what a client knows that was told a MODSEQ: all operations that
// known covers. Those of both nodes are kept, so that a MODSEQ of the one can be
// translated into one of the other.
type mark struct {
	modseq uint64
	known  []Dot // the highest dot of each origin
}

// maxMarks is how many of each class the sweep leaves, the older ones thinned.
const maxMarks = 1000

func markPrefix(account GUID, class uint64) []byte {
	return append(accountKey(account, kindMark), byte(class))
}

func (m *mark) key(account GUID) []byte {
	return numberKey(markPrefix(account, m.modseq&1), m.modseq)
}

func (m *mark) encode() []byte { return appendVector([]byte{recordVersion}, m.known) }

func decodeMark(key, value []byte) (*mark, error) {
	d := decoder{b: value}
	d.version()
	m := &mark{modseq: numberOf(key), known: d.vector()}
	return m, d.end("MODSEQ mark")
}

// withDot returns the highest dots of origins with d among them, or dots itself
// when they cover it.
func withDot(dots []Dot, d Dot) []Dot {
	at := slices.IndexFunc(dots, func(have Dot) bool { return have.Origin == d.Origin })
	switch {
	case at < 0:
		return append(slices.Clip(dots), d)
	case dots[at].Seq >= d.Seq:
		return dots
	}
	out := slices.Clone(dots)
	out[at] = d
	return out
}

// storeMarks puts what this commit's MODSEQ stands for, and what the partner
// told of one of its own.
func (t *txn) storeMarks() {
	a := t.account
	if a.link == nil {
		return
	}
	if t.modseq != 0 && !t.head.merging { // else it shows more than the vector tells
		own := mark{modseq: t.modseq, known: t.observed()}
		t.batch.Put(own.key(a.id), own.encode())
	}
	for _, m := range []*mark{a.link.mark, t.peerMark} {
		if m != nil {
			t.batch.Put(m.key(a.id), m.encode())
		}
	}
}

// noteMark keeps what the partner told until a commit stores it, and our own
// MODSEQs above those that clients may come with.
func (a *account) noteMark(m *mark) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.link.mark = m
}

// translate returns the own MODSEQ below which a client of the partner's knows
// everything that was told presented there, 0 when that is not known.
func (a *account) translate(ctx context.Context, presented uint64) (base uint64, err error) {
	err = a.store.kv.View(ctx, func(snap store.Snapshot) error {
		theirs, err := lastMark(snap, a.id, presented)
		if err != nil {
			return err
		}
		a.mu.RLock()
		if l := a.link; l != nil && l.mark != nil && l.mark.modseq <= presented && (theirs == nil || theirs.modseq < l.mark.modseq) {
			theirs = l.mark
		}
		a.mu.RUnlock()
		if theirs == nil {
			return nil
		}
		prefix := markPrefix(a.id, a.store.class())
		for pair, err := range snap.Range(prefix, above(prefix), 0, true) {
			if err != nil {
				return err
			}
			own, err := decodeMark(pair.Key, pair.Value)
			if err != nil {
				return err
			}
			if isWithin(own.known, theirs.known) {
				base = own.modseq
				return nil
			}
		}
		return nil
	})
	return base, err
}

// lastMark returns the highest mark of a MODSEQ's class that is not above it.
func lastMark(snap store.Snapshot, account GUID, modseq uint64) (*mark, error) {
	prefix := markPrefix(account, modseq&1)
	for pair, err := range snap.Range(prefix, numberKey(prefix, modseq+1), 1, true) {
		if err != nil {
			return nil, err
		}
		return decodeMark(pair.Key, pair.Value)
	}
	return nil, nil
}

// thinMarks drops every other of the older half of an account's marks of a
// class when there are too many.
func (s *Store) thinMarks(ctx context.Context, id GUID, class uint64) error {
	prefix := markPrefix(id, class)
	for {
		marks, err := s.page(ctx, prefix, 2*maxMarks)
		if err != nil || len(marks) <= maxMarks {
			return err
		}
		b := store.NewBatch()
		b.UseReserve = true
		for i := 0; i < len(marks)*3/4 && len(b.Ops) < store.MaxBatchOps; i++ {
			if i%2 == 1 || binary.BigEndian.Uint64(marks[i].Key[len(prefix):]) == 0 {
				b.Delete(marks[i].Key)
			}
		}
		if err := s.commitSweep(ctx, b); err != nil {
			return err
		}
	}
}
