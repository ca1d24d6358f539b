package pack

import (
	"context"
	"errors"
	"fmt"

	"github.com/postern-mail/postern/store"
)

// For each pack a counter in the store says how many of its octets belong to
// records that bodies need: what makes a body in it, or ends one, adds to it in
// the same batch. Of a pack that the first release wrote nobody counted from
// the beginning; its counter, if any, is then not above zero, and nobody
// believes it before it was counted once from what the pack lists.

// countsAtOnce is how many counters are read in one view.
const countsAtOnce = 10_000

// liveOctets returns the counters of all packs that have one.
func (b *Blobs) liveOctets(ctx context.Context) (map[uint64]int64, error) {
	live := make(map[uint64]int64)
	lo := b.keys.live(0)
	hi := []byte{lo[0], lo[1] + 1}
	err := store.Scan(ctx, b.kv, lo, hi, countsAtOnce, func(_ store.Snapshot, key, value []byte) error {
		n, err := store.DecodeCounter(value)
		if err != nil || len(key) != len(lo) {
			return fmt.Errorf("key %x: %w", key, errors.Join(err, errPieces))
		}
		live[packOf(key)] = n
		return nil
	})
	return live, err
}

// listed returns how many octets a pack lists, and what its counter says.
func (b *Blobs) listed(ctx context.Context, number uint64) (listed, counted int64, err error) {
	err = b.kv.View(ctx, func(s store.Snapshot) error {
		pieces, err := b.piecesOf(s, number)
		if err != nil {
			return err
		}
		listed = roomOf(pieces)
		counted, err = s.Counter(b.keys.live(number))
		return err
	})
	return listed, counted, err
}

// recount makes the counter of a pack what the pack lists and returns it. Both
// are read at one instant and the difference is added, so that it does not
// matter what is linked and unlinked meanwhile. The caller sees to it that
// nobody else recounts.
func (b *Blobs) recount(ctx context.Context, number uint64) (int64, error) {
	listed, counted, err := b.listed(ctx, number)
	if err != nil || listed == counted {
		return listed, err
	}
	batch := store.NewBatch()
	batch.UseReserve = true
	batch.Add(b.keys.live(number), listed-counted)
	_, err = b.commitAgain(ctx, batch)
	return listed, err
}

// commitAgain commits a batch, once more when the outcome is unknown.
func (b *Blobs) commitAgain(ctx context.Context, batch *store.Batch) (store.Result, error) {
	result, err := b.kv.Commit(ctx, batch)
	if errors.Is(err, store.ErrUnknown) {
		result, err = b.kv.Commit(ctx, batch)
	}
	return result, err
}

// Usage tells how the packs are filled.
type Usage struct {
	Packs      int
	FileOctets int64 // written to them
	LiveOctets int64 // of those, in records that a body needs
	DeadOctets int64 // of those, in records that nobody needs, as far as known
	Uncounted  int   // packs of which this is not known yet
	// Of this process: octets moved to other packs, and of these what was saved
	// by compression; octets of packs that were deleted.
	MovedOctets, SavedOctets, FreedOctets int64
}

// Usage reads the counters of the packs, no more.
func (b *Blobs) Usage(ctx context.Context) (Usage, error) {
	live, err := b.liveOctets(ctx)
	u := Usage{MovedOctets: b.total.moved.Load(), SavedOctets: b.total.saved.Load(), FreedOctets: b.total.freed.Load()}
	b.mu.Lock()
	defer b.mu.Unlock()
	for number, p := range b.packs {
		u.Packs++
		u.FileOctets += p.end
		if n := live[number]; n > 0 {
			u.LiveOctets += n
			u.DeadOctets += max(p.end-fileHeader-n, 0)
		} else if p.full {
			u.Uncounted++
		}
	}
	return u, err
}
