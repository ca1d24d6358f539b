package pack

import (
	"context"
	"errors"
	"fmt"

	"github.com/postern-mail/postern/store"
)

// recountsAtOnce is how many packs are counted anew in one round of Collect.
const recountsAtOnce = 100

// Collect deletes the packs in which no body has octets any more, returns how
// many these were, and seals those that are full.
func (b *Blobs) Collect(ctx context.Context) (int, error) {
	collected, err := b.collectDead(ctx)
	b.sealFull()
	return collected, err
}

func (b *Blobs) collectDead(ctx context.Context) (int, error) {
	b.tidying.Lock()
	defer b.tidying.Unlock()
	b.mu.Lock()
	if b.closed {
		b.mu.Unlock()
		return 0, errClosed
	}
	known := make(map[uint64]bool, len(b.packs))
	var idle []*packFile
	for number, p := range b.packs {
		known[number] = true
		if p.full && p.users == 0 {
			idle = append(idle, p)
		}
	}
	b.mu.Unlock()
	live, err := b.liveOctets(ctx)
	if err != nil {
		return 0, err
	}
	collected, recounted := 0, 0
	var failed []error
	for _, p := range idle {
		if live[p.number] > 0 || recounted == recountsAtOnce {
			continue
		}
		recounted++
		removed, err := b.collectTidying(ctx, p)
		if err != nil {
			failed = append(failed, fmt.Errorf("pack %x: %w", p.number, err))
		}
		if removed {
			collected++
		}
	}
	for number := range live {
		if !known[number] {
			failed = append(failed, b.forget(ctx, number))
		}
	}
	return collected, errors.Join(failed...)
}

// collectTidying deletes one full pack if it is dead. The view shows only what
// is durable, so no power cut brings back a key that names the pack; and no new
// one can come: nobody appends to a full pack, and staged bodies pin theirs. The
// caller holds tidying.
func (b *Blobs) collectTidying(ctx context.Context, p *packFile) (removed bool, err error) {
	if live, err := b.recount(ctx, p.number); err != nil || live > 0 {
		return false, err
	}
	// The counter goes first: one without a pack is no harm. And while the store
	// does not take writes, nothing is deleted: then it is not sure what a
	// commit of unknown outcome named.
	if err := b.dropCounter(ctx, p.number); err != nil {
		return false, err
	}
	b.mu.Lock()
	if p.users > 0 || b.closed {
		b.mu.Unlock()
		return false, nil
	}
	delete(b.packs, p.number)
	b.mu.Unlock()
	b.total.freed.Add(p.end)
	return true, b.removePack(p)
}

// forget removes the counter of a pack that was deleted, or lost with nothing
// in it.
func (b *Blobs) forget(ctx context.Context, number uint64) error {
	listed, _, err := b.listed(ctx, number)
	if err != nil || listed > 0 {
		return err
	}
	return b.dropCounter(ctx, number)
}

func (b *Blobs) dropCounter(ctx context.Context, number uint64) error {
	batch := store.NewBatch()
	batch.UseReserve = true
	batch.Delete(b.keys.live(number))
	_, err := b.commitAgain(ctx, batch)
	return err
}

// removePack deletes the file of a pack that nobody knows any more. Its name
// may come back after a power cut; the next start finds it dead again.
func (b *Blobs) removePack(p *packFile) error {
	return errors.Join(p.file.Close(), b.fs.Remove(b.path(p.name)))
}
