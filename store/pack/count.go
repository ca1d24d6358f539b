package pack

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/postern-mail/postern/store"
)

// FoundReferences: the count of references is not how many there are. Where it
// is too low the body goes while somebody needs it; where it is too high it
// stays for ever.
const FoundReferences FindingKind = "references are miscounted"

// Owners calls each for every reference that anybody holds.
type Owners func(ctx context.Context, each func(store.Ref)) error

// countAtOnce is how many bodies are counted in one pass over the owners:
// some 100 MB.
const countAtOnce = 1 << 20

// VerifyReferences compares the count of every body with the references that
// owners hold. Memory is bounded: it takes the bodies in portions, in the order
// of their hashes, and asks owners for all references once for each portion of
// a million. Nobody may write meanwhile. References to bodies that do not exist
// are the owners' to find.
func (b *Blobs) VerifyReferences(ctx context.Context, owners Owners, report func(Finding)) error {
	return b.verifyReferences(ctx, owners, report, countAtOnce)
}

// references of a body, as counted in the store and as found.
type references struct {
	counted, found int64
	marked         bool // there may be more than one
}

func (b *Blobs) verifyReferences(ctx context.Context, owners Owners, report func(Finding), atOnce int) error {
	v := verifier{blobs: b, report: report}
	for from := []byte{b.keys.tag, 'h'}; from != nil; {
		bodies := make(map[store.Hash]references)
		next, err := v.counts(ctx, from, bodies, atOnce)
		if err != nil {
			return err
		}
		err = owners(ctx, func(ref store.Ref) {
			if r, here := bodies[ref.Hash]; here {
				r.found++
				bodies[ref.Hash] = r
			}
		})
		if err != nil {
			return err
		}
		v.compare(bodies)
		from = next
	}
	return nil
}

// counts reads the counts of up to atOnce bodies and returns where the rest
// begins, nil for none.
func (v verifier) counts(ctx context.Context, from []byte, bodies map[store.Hash]references, atOnce int) (next []byte, err error) {
	first, end := from, []byte{v.blobs.keys.tag, 'h' + 1}
	for len(bodies) < atOnce && from != nil {
		limit := min(atOnce-len(bodies), verifyAtOnce)
		n := 0
		next = nil
		err := v.blobs.kv.View(ctx, func(s store.Snapshot) error {
			for pair, err := range s.Range(from, end, limit, false) {
				if err != nil {
					return err
				}
				if n++; n == limit {
					next = append(bytes.Clone(pair.Key), 0)
				}
				if len(pair.Key) != 2+len(store.Hash{}) || len(pair.Value) == 0 {
					continue // Verify reports it
				}
				bodies[store.Hash(pair.Key[2:])] = references{counted: 1, marked: pair.Value[0]&flagShared != 0}
			}
			return nil
		})
		if err != nil {
			return nil, err
		}
		from = next
	}
	return from, v.countMore(ctx, first, from, bodies)
}

// countMore adds the references beyond the first of the bodies whose keys are
// from first up to next, nil for the end.
func (v verifier) countMore(ctx context.Context, first, next []byte, bodies map[store.Hash]references) error {
	of := func(bodyKey []byte) []byte { return append([]byte{v.blobs.keys.tag, 'n'}, bodyKey[2:]...) }
	end := []byte{v.blobs.keys.tag, 'n' + 1}
	if next != nil {
		end = of(next)
	}
	return store.Scan(ctx, v.blobs.kv, of(first), end, verifyAtOnce, func(_ store.Snapshot, key, value []byte) error {
		if len(key) != 2+len(store.Hash{}) {
			return nil // Verify reports it
		}
		hash := store.Hash(key[2:])
		r := bodies[hash]
		if !r.marked {
			return nil
		}
		more, err := store.DecodeCounter(value)
		r.counted += more
		bodies[hash] = r
		return err
	})
}

// compare reports the bodies whose counts differ, in order.
func (v verifier) compare(bodies map[store.Hash]references) {
	var wrong []store.Hash
	for hash, r := range bodies {
		if r.counted != r.found {
			wrong = append(wrong, hash)
		}
	}
	slices.SortFunc(wrong, func(x, y store.Hash) int { return bytes.Compare(x[:], y[:]) })
	for _, hash := range wrong {
		r := bodies[hash]
		err := fmt.Errorf("%d counted, %d found", r.counted, r.found)
		if r.found == 0 {
			err = errors.New("nobody refers to it")
		}
		v.report(Finding{Kind: FoundReferences, Body: hash, Err: err, references: r})
	}
}

// RepairReferences makes the counts of all bodies what owners hold. A count
// that is too low is raised in any case. While mayLower says no, because it is
// not known what else refers to bodies, no other is touched. A body that nobody
// refers to is given to keep first, and goes only when that returned nil,
// having made it durable. repaired is told of each repair once it is durable.
// Nobody else may write meanwhile. The error joins what kept it from a repair,
// or from going on.
func (b *Blobs) RepairReferences(ctx context.Context, owners Owners, mayLower func() bool, keep func(store.Hash, store.Body) error, repaired func(f Finding, how string)) error {
	var failed []error
	mend := func(f Finding, how string, err error) {
		if err != nil {
			failed = append(failed, fmt.Errorf("%v: not repaired: %w", f, err))
		} else {
			repaired(f, how)
		}
	}
	err := b.VerifyReferences(ctx, owners, func(f Finding) {
		switch r := f.references; {
		case r.found > r.counted || r.found > 0 && mayLower():
			mend(f, fmt.Sprintf("set to %d", r.found), b.setReferences(ctx, f.Body, r.found))
		case r.found == 0 && mayLower():
			mend(f, "body salvaged and removed", b.removeUnreferenced(ctx, f.Body, keep))
		}
	})
	if err == nil && mayLower() {
		err = b.removeStrayCounts(ctx, mend)
	}
	return errors.Join(append(failed, err)...)
}

// setReferences sets the count of a body, at least 1.
func (b *Blobs) setReferences(ctx context.Context, hash store.Hash, n int64) error {
	batch := store.NewBatch()
	batch.UseReserve = true
	b.addSet(batch, hash, n)
	_, err := b.kv.Commit(ctx, batch)
	return err
}

func (b *Blobs) addSet(batch *store.Batch, hash store.Hash, n int64) {
	bodyKey, moreKey := b.keys.body(hash), b.keys.more(hash)
	batch.Decide(bodyKey, func(get func([]byte) ([]byte, error), w *store.Batch) error {
		value, err := get(bodyKey)
		if err != nil {
			return err
		}
		if n == 1 {
			w.Delete(moreKey) // none is as good as no mark
			return nil
		}
		if value[0]&flagShared == 0 {
			marked := bytes.Clone(value)
			marked[0] |= flagShared
			w.Put(bodyKey, marked)
		}
		w.Put(moreKey, store.EncodeCounter(n-1))
		return nil
	})
}

// removeUnreferenced removes a body that nobody refers to.
func (b *Blobs) removeUnreferenced(ctx context.Context, hash store.Hash, keep func(store.Hash, store.Body) error) error {
	ref := store.Ref{Hash: hash}
	err := b.kv.View(ctx, func(s store.Snapshot) error {
		value, err := s.Get(b.keys.body(hash))
		if err != nil {
			return err
		}
		inline, pieces, err := parseBody(value)
		ref.Octets = int64(len(inline))
		for _, p := range pieces {
			ref.Octets += p.octets
		}
		return err
	})
	if err != nil {
		return err
	}
	body, err := b.Open(ctx, ref)
	if err != nil {
		return err
	}
	err = keep(hash, body)
	if err := errors.Join(err, body.Close()); err != nil {
		return err
	}
	batch := store.NewBatch()
	batch.UseReserve = true
	b.addSet(batch, hash, 1)
	b.Unlink(batch, ref)
	_, err = b.kv.Commit(ctx, batch)
	return err
}

// removeStrayCounts removes counters that count nothing.
func (b *Blobs) removeStrayCounts(ctx context.Context, mend func(Finding, string, error)) error {
	v := verifier{blobs: b, progress: new(Progress), report: func(f Finding) {
		if f.Body == (store.Hash{}) {
			return // a key of a wrong length is not ours to judge
		}
		batch := store.NewBatch()
		batch.UseReserve = true
		batch.Delete(b.keys.more(f.Body))
		_, err := b.kv.Commit(ctx, batch)
		mend(f, "counter removed", err)
	}}
	return v.each(ctx, 'n', v.count)
}
