package pack

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/postern-mail/postern/store"
)

// Repair mends what Verify found, as far as that loses nothing: beginnings of
// packs, what packs list, and the counters of their live octets. Bodies that
// are damaged, or that owners refer to and that are not there, are looked for:
// put together from what packs list of them, or found among records that
// nobody needs. A body that is there again has the references of its counter, or
// one, until RepairReferences was there, which must follow. repaired is told of each
// repair once it is durable. Nobody else may write meanwhile. The error joins
// what kept it from a repair, or from going on.
func (b *Blobs) Repair(ctx context.Context, findings []Finding, owners Owners, repaired func(f Finding, how string)) error {
	r := repairer{blobs: b, verifier: verifier{blobs: b, progress: new(Progress)}, repaired: repaired}
	r.headers(findings)
	lost, err := r.lost(ctx, findings, owners)
	if err == nil {
		err = r.restore(ctx, lost)
	}
	if err == nil {
		err = r.lists(ctx)
	}
	if err == nil {
		err = r.counters(ctx)
	}
	return errors.Join(append(r.failed, err)...)
}

type repairer struct {
	blobs    *Blobs
	verifier verifier
	repaired func(f Finding, how string)
	failed   []error
}

// mended tells of a repair, or keeps why there was none.
func (r *repairer) mended(f Finding, how string, err error) {
	if err != nil {
		r.failed = append(r.failed, fmt.Errorf("%v: not repaired: %w", f, err))
		return
	}
	r.repaired(f, how)
}

// commit does a batch that may use the reserve.
func (r *repairer) commit(ctx context.Context, fill func(b *store.Batch)) error {
	batch := store.NewBatch()
	batch.UseReserve = true
	fill(batch)
	_, err := r.blobs.kv.Commit(ctx, batch)
	return err
}

// headers writes the beginnings of packs anew that cannot be read. What such a
// pack was filled with is not known; as a fresh one it is looked at again.
func (r *repairer) headers(findings []Finding) {
	for _, f := range findings {
		if f.Kind != FoundPack || !errors.Is(f.Err, errHeader) {
			continue
		}
		r.blobs.mu.Lock()
		p := r.blobs.packs[f.Pack]
		r.blobs.mu.Unlock()
		if p == nil {
			continue
		}
		_, err := p.file.WriteAt(packHeader(p.number, fresh), 0)
		if err == nil {
			err = p.file.Sync()
		}
		r.mended(f, "beginning of the pack written anew", err)
	}
}

// lostBody is a body to be looked for.
type lostBody struct {
	octets int64 // -1 when nobody knows
	lists  map[uint64][]piece
}

// lost returns the bodies that are damaged, that owners miss, and of which
// only packs know.
func (r *repairer) lost(ctx context.Context, findings []Finding, owners Owners) (map[store.Hash]*lostBody, error) {
	lost := make(map[store.Hash]*lostBody)
	for _, f := range findings {
		if f.Kind == FoundDamaged && f.Body != (store.Hash{}) {
			lost[f.Body] = &lostBody{octets: -1}
		}
	}
	var failed error
	err := owners(ctx, func(ref store.Ref) {
		if known := lost[ref.Hash]; known != nil {
			known.octets = ref.Octets
			return
		}
		value, err := r.verifier.get(ctx, r.blobs.keys.body(ref.Hash))
		if err != nil {
			failed = err
		} else if value == nil && len(lost) < countAtOnce {
			lost[ref.Hash] = &lostBody{octets: ref.Octets}
		}
	})
	if err := errors.Join(err, failed); err != nil {
		return nil, err
	}
	return lost, r.verifier.each(ctx, 'p', func(ctx context.Context, pair store.Pair) error {
		pieces, err := parsePieces(pair.Value)
		if err != nil || len(pair.Key) != 10+len(store.Hash{}) {
			return nil // lists sees to it
		}
		hash := store.Hash(pair.Key[10:])
		body := lost[hash]
		if body == nil {
			if value, err := r.verifier.get(ctx, r.blobs.keys.body(hash)); value != nil || err != nil {
				return err
			}
			body = &lostBody{octets: -1}
			lost[hash] = body
		}
		if body.lists == nil {
			body.lists = make(map[uint64][]piece)
		}
		body.lists[packOf(pair.Key)] = pieces
		return nil
	})
}

// restore brings back the bodies that can be found.
func (r *repairer) restore(ctx context.Context, lost map[store.Hash]*lostBody) error {
	for hash, body := range lost {
		if err := ctx.Err(); err != nil {
			return err
		}
		if pieces := r.assemble(hash, body); pieces != nil {
			if err := r.bring(ctx, hash, pieces, "put together from what packs list of it"); err != nil {
				return err
			}
			delete(lost, hash)
		}
	}
	s := searcher{repairer: r, singles: make(map[int64]bool), rows: make(map[int64]bool), lost: lost}
	for _, body := range lost {
		if body.octets > 0 && body.octets <= smallPiece {
			s.singles[body.octets] = true
		} else if body.octets > smallPiece {
			s.rows[body.octets] = true
		}
	}
	if len(s.singles) == 0 && len(s.rows) == 0 {
		return nil
	}
	return s.search(ctx)
}

// maxAssembled is how many packs a body may lie in whose order is not known.
const maxAssembled = 5

// assemble returns the pieces of a body in their order: those in one pack stand
// in order, and the packs are tried in every order. nil when none is right.
func (r *repairer) assemble(hash store.Hash, body *lostBody) []piece {
	if len(body.lists) == 0 || len(body.lists) > maxAssembled {
		return nil
	}
	var numbers []uint64
	for number := range body.lists {
		numbers = append(numbers, number)
	}
	slices.Sort(numbers) // as it was written
	var found []piece
	permute(numbers, 0, func() bool {
		var pieces []piece
		for _, number := range numbers {
			pieces = append(pieces, body.lists[number]...)
		}
		if r.verifier.octets(hash, nil, pieces) != nil {
			return false
		}
		found = pieces
		return true
	})
	return found
}

// permute calls try with list in every order of what stands from the first-th
// on, beginning with the present one, until it returns true.
func permute(list []uint64, first int, try func() bool) bool {
	if first >= len(list)-1 {
		return try()
	}
	for i := first; i < len(list); i++ {
		list[first], list[i] = list[i], list[first]
		if permute(list, first+1, try) {
			return true
		}
		list[first], list[i] = list[i], list[first]
	}
	return false
}

// bring makes a body of pieces that were found. Its references stay: also the
// counter of a body that is lost tells who needs it.
func (r *repairer) bring(ctx context.Context, hash store.Hash, pieces []piece, how string) error {
	key := r.blobs.keys.body(hash)
	value, err := r.verifier.get(ctx, key)
	if err != nil {
		return err
	}
	counter, err := r.verifier.get(ctx, r.blobs.keys.more(hash))
	if err != nil {
		return err
	}
	kind := byte(kindPieces)
	if counter != nil {
		kind |= flagShared
	}
	var before []piece
	if len(value) > 0 {
		kind |= value[0] & flagShared
		if _, before, err = parseBody(value); errors.Is(err, errNewer) {
			return nil
		} // what else cannot be read names nothing
	}
	err = r.commit(ctx, func(b *store.Batch) {
		b.Put(key, appendPieces([]byte{kind}, pieces))
		byPack(before, func(number uint64, _ []piece) { b.Delete(r.blobs.keys.inPack(number, hash)) })
		byPack(pieces, func(number uint64, in []piece) {
			b.Put(r.blobs.keys.inPack(number, hash), appendPieces(nil, in))
		})
	})
	r.mended(Finding{Kind: FoundDamaged, Body: hash}, how, err)
	return nil
}

// lists makes what packs list what bodies say.
func (r *repairer) lists(ctx context.Context) error {
	err := r.verifier.each(ctx, 'h', func(ctx context.Context, pair store.Pair) error {
		if len(pair.Key) != 2+len(store.Hash{}) {
			return nil // nobody knows what it is
		}
		hash := store.Hash(pair.Key[2:])
		_, pieces, err := parseBody(pair.Value)
		if err != nil {
			return nil // a newer program's, or lost; what packs list of it stays
		}
		byPack(pieces, func(number uint64, in []piece) {
			key, want := r.blobs.keys.inPack(number, hash), appendPieces(nil, in)
			listed, getErr := r.verifier.get(ctx, key)
			if getErr != nil || bytes.Equal(listed, want) {
				err = errors.Join(err, getErr)
				return
			}
			r.mended(Finding{Kind: FoundUnlisted, Body: hash, Pack: number}, "listed again",
				r.commit(ctx, func(b *store.Batch) { b.Put(key, want) }))
		})
		return err
	})
	if err != nil {
		return err
	}
	stale := r.verifier
	stale.report = func(f Finding) {
		if f.Body == (store.Hash{}) {
			return // its key is not ours to judge
		}
		r.mended(f, "no longer listed", r.commit(ctx, func(b *store.Batch) { b.Delete(r.blobs.keys.inPack(f.Pack, f.Body)) }))
	}
	return stale.each(ctx, 'p', stale.listed)
}

// counters makes the counters of live octets what packs list.
func (r *repairer) counters(ctx context.Context) error {
	live, err := r.blobs.liveOctets(ctx)
	if errors.Is(err, errPieces) {
		return nil // of a key that is not ours to judge
	}
	for number, counted := range live {
		listed, _, err := r.blobs.listed(ctx, number)
		if err != nil {
			return err
		}
		if listed != counted && counted > 0 {
			r.mended(Finding{Kind: FoundLive, Pack: number}, fmt.Sprintf("set to %d", listed), r.commit(ctx, func(b *store.Batch) {
				b.Put(r.blobs.keys.live(number), store.EncodeCounter(listed))
			}))
		}
	}
	return err
}
