package mailstore

import (
	"context"
	"errors"
	"fmt"

	"github.com/postern-mail/postern/internal/mutant"
	"github.com/postern-mail/postern/store"
)

// pairState is what a store remembers of being one of a pair.
type pairState struct {
	// paired: it has, or had, a partner, and gives out UIDs by the rules.
	paired bool
	// joining: it does not have all that its partner has yet.
	joining bool
}

const pairJoining = 1 << 0

func (p pairState) encode() []byte {
	return []byte{recordVersion, boolByte(p.joining) * pairJoining}
}

// Paired reports whether the store keeps to the rules of a pair: it has a
// partner or had one.
func (s *Store) Paired() bool { return s.pair.Load().paired }

// Joining reports whether the store still lacks what its partner has: until
// Join it serves only accounts that were joined one by one.
func (s *Store) Joining() bool { return s.pair.Load().joining }

// openPair reads whether the store is one of a pair, and makes it one when the
// configuration says so. The second node of a pair joins when it has no
// accounts yet; the first may have been there alone before.
func (s *Store) openPair(ctx context.Context) error {
	state, err := s.readPair(ctx)
	if err != nil {
		return err
	}
	s.pair.Store(&state)
	if state.paired || !s.cfg.Pair {
		return nil
	}
	empty := true
	err = s.eachAccount(ctx, func(GUID, string, error) error {
		empty = false
		return errFound
	})
	if err != nil && !errors.Is(err, errFound) {
		return err
	}
	return s.setPair(ctx, pairState{paired: true, joining: empty && s.class() == 1})
}

var errFound = errors.New("found")

func (s *Store) readPair(ctx context.Context) (state pairState, err error) {
	err = s.kv.View(ctx, func(snap store.Snapshot) error {
		value, err := snap.Get(pairKey)
		if errors.Is(err, store.ErrNotFound) {
			return nil
		} else if err != nil {
			return err
		}
		d := decoder{b: value}
		d.version()
		state = pairState{paired: true, joining: d.byte()&pairJoining != 0}
		return d.end("pair")
	})
	return state, err
}

func (s *Store) setPair(ctx context.Context, state pairState) error {
	b := store.NewBatch()
	b.UseReserve = true
	if state.paired {
		b.Put(pairKey, state.encode())
	} else {
		b.Delete(pairKey)
	}
	if err := s.commitSweep(ctx, b); err != nil {
		return err
	}
	s.pair.Store(&state)
	return nil
}

// Join ends joining: this store has all that its partner has.
func (s *Store) Join(ctx context.Context) error {
	if !s.Joining() {
		return nil
	}
	return s.failure("join the pair", s.setPair(ctx, pairState{paired: true}))
}

// Forget makes a store of its own of one whose partner is gone for good. Nobody
// may use it meanwhile; its UIDs go on above all that were known.
func (s *Store) Forget(ctx context.Context) error {
	if s.cfg.Pair {
		return errors.New("the configuration still says that there is a partner")
	}
	return s.failure("forget the partner", s.setPair(ctx, pairState{}))
}

// Joined notes that this store has all that the partner had of the account.
func (r *Replica) Joined(ctx context.Context) error {
	return r.changeLink(ctx, func(t *txn, _ *link) error {
		if !t.head.joined {
			t.head.joined, t.changed = true, true
		}
		return nil
	})
}

// available says why clients may not use the account now.
func (s *Store) available(a *account) error {
	if err := a.admits(context.Background()); err != nil || !s.Paired() {
		return err
	}
	if p := s.peer(); p != nil {
		if err := p.Available(a.id, a.name); err != nil {
			return err
		}
	}
	if s.Joining() && !a.isJoined() {
		return unavailable(fmt.Sprintf("account %s is still on its way from the partner", a.id))
	}
	return nil
}

func (a *account) isJoined() bool {
	a.mu.RLock()
	defer a.mu.RUnlock()
	return a.head.joined
}

// without reports whether a safety rule is left out, which only simulations do.
func (s *Store) without(rule mutant.Rule) bool { return s.cfg.Without.Has(rule) }

// durable waits until the caller's operations, up to seq, are where the mode
// asks for; seq 0 is none.
func (a *account) durable(ctx context.Context, seq uint64, mode Durability) error {
	p := a.store.peer()
	if seq == 0 || p == nil || a.link == nil {
		return nil
	}
	return a.store.failure("wait for the partner", p.Durable(ctx, a.id, seq, mode))
}

// changeDurably is changeAlone that returns when the change is as durable as
// the pair is to make it.
func (a *account) changeDurably(ctx context.Context, apply func(t *txn) error) error {
	r := &request{apply: apply, alone: true}
	if err := a.submit(ctx, r); err != nil {
		return err
	}
	return a.durable(ctx, r.seq, DurabilityDefault)
}
