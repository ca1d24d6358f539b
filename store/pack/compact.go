package pack

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/postern-mail/postern/store"
)

// Bounds of what is moved with one commit, of bodies and of octets. One body
// may have more.
const (
	moveBodies = 64
	moveOctets = 4 << 20
)

// A pack below a smallPart of the full size is small: each start and end leaves
// some. So many small packs are made into one.
const (
	smallPart  = 16
	smallPacks = 16
)

// Compact moves what lives out of the packs that are worth it, now and without
// a bound on its speed, and deletes those that then nobody needs. Run does the
// same from time to time and slowly. Whoever reads a body that is moved goes on
// reading the old pack.
func (b *Blobs) Compact(ctx context.Context) error {
	return b.compact(ctx, func(ctx context.Context, _ int64) error { return ctx.Err() })
}

// pace waits as long as moving so many octets should have taken.
func (b *Blobs) pace(ctx context.Context, octets int64) error {
	return wait(ctx, octets, b.cfg.MoveOctets)
}

func (b *Blobs) compact(ctx context.Context, pace func(ctx context.Context, octets int64) error) error {
	b.moving.Lock()
	defer b.moving.Unlock()
	live, err := b.liveOctets(ctx)
	if err != nil {
		return err
	}
	for _, p := range b.worn(live, time.Now()) {
		if err := b.moveOut(ctx, p, pace); err != nil {
			return fmt.Errorf("pack %x: %w", p.number, err)
		}
		if err := b.collectOne(ctx, p); err != nil {
			return fmt.Errorf("pack %x: %w", p.number, err)
		}
	}
	return nil
}

// worn returns the full packs that are worth moving out of, those with the most
// dead octets first: those that are mostly dead, those whose bodies have lived
// for a while and are not compressed, and small ones where there are many.
func (b *Blobs) worn(live map[uint64]int64, now time.Time) []*packFile {
	b.mu.Lock()
	defer b.mu.Unlock()
	var worn, small []*packFile
	dead := make(map[*packFile]int64)
	for _, p := range b.packs {
		counted, octets := live[p.number], p.end-fileHeader
		if !p.full || p.stuck || counted <= 0 {
			continue // what is not counted is dead, or Collect counts it
		}
		dead[p] = octets - counted
		switch {
		case dead[p]*100 >= octets*int64(b.cfg.DeadPercent),
			p.stream == fresh && b.cfg.CompressAfter >= 0 && now.Sub(p.since) >= b.cfg.CompressAfter:
			worn = append(worn, p)
		case p.end < b.cfg.PackOctets/smallPart:
			small = append(small, p)
		}
	}
	if len(small) >= smallPacks {
		worn = append(worn, small...)
	}
	slices.SortFunc(worn, func(x, y *packFile) int {
		return cmp.Or(cmp.Compare(dead[y], dead[x]), cmp.Compare(x.number, y.number))
	})
	return worn
}

// collectOne deletes a pack when nobody needs it any more. Else Collect does,
// later.
func (b *Blobs) collectOne(ctx context.Context, p *packFile) error {
	b.tidying.Lock()
	defer b.tidying.Unlock()
	b.mu.Lock()
	needed := b.closed || p.users > 0 || p.stuck || b.packs[p.number] != p
	b.mu.Unlock()
	if needed {
		return nil
	}
	_, err := b.collectTidying(ctx, p)
	return err
}

// errUnreadable: a piece cannot be moved because it cannot be read.
var errUnreadable = errors.New("piece cannot be read")

// mover moves what lives out of one pack.
type mover struct {
	blobs   *Blobs
	from    *packFile
	in, out *[]byte     // buffers for one record
	targets []*packFile // with a use of each, until the commit
}

// listing is what a pack lists of a body.
type listing struct {
	hash   store.Hash
	pieces []piece
}

// moveOut moves all bodies that can be read out of a full pack, some at a time.
func (b *Blobs) moveOut(ctx context.Context, p *packFile, pace func(ctx context.Context, octets int64) error) error {
	b.mu.Lock()
	if b.closed || b.packs[p.number] != p {
		b.mu.Unlock()
		return nil
	}
	p.users++
	b.mu.Unlock()
	defer b.release(p)
	m := mover{blobs: b, from: p, in: largeRecords.Get().(*[]byte), out: largeRecords.Get().(*[]byte)}
	defer largeRecords.Put(m.in)
	defer largeRecords.Put(m.out)
	for from := b.keys.pack(p.number); from != nil; {
		bodies, next, err := m.portion(ctx, from)
		if err != nil {
			return err
		}
		octets, err := m.move(ctx, bodies)
		if err != nil {
			return err
		}
		b.total.moved.Add(octets)
		if err := pace(ctx, octets); err != nil {
			return err
		}
		from = next
	}
	return nil
}

// portion reads what the pack lists from a key on, and returns where it ended;
// nil at the end.
func (m *mover) portion(ctx context.Context, from []byte) (bodies []listing, next []byte, err error) {
	octets, pairs := int64(0), 0
	err = m.blobs.kv.View(ctx, func(s store.Snapshot) error {
		for pair, err := range s.Range(from, m.blobs.keys.pack(m.from.number+1), moveBodies, false) {
			if err != nil {
				return err
			}
			next = append(bytes.Clone(pair.Key), 0)
			pairs++
			pieces, err := parsePieces(pair.Value)
			if err != nil || len(pair.Key) != 10+len(store.Hash{}) {
				m.leave(fmt.Errorf("key %x: %w", pair.Key, errPieces))
				continue
			}
			bodies = append(bodies, listing{store.Hash(pair.Key[10:]), pieces})
			if octets += roomOf(pieces); octets >= moveOctets {
				return nil
			}
		}
		if pairs < moveBodies {
			next = nil
		}
		return nil
	})
	return bodies, next, err
}

// leave tells what keeps the pack from becoming empty, once, and that it is not
// to be tried again before the next start.
func (m *mover) leave(err error) {
	m.blobs.mu.Lock()
	told := m.from.stuck
	m.from.stuck = true
	m.blobs.mu.Unlock()
	if !told {
		m.blobs.log.Error("cannot move everything out of a pack, see postern fsck", "pack", m.from.number, "err", err)
	}
}

// move copies the pieces, makes the copies durable and lets the bodies have
// them, in one commit. It returns the octets that were read.
func (m *mover) move(ctx context.Context, bodies []listing) (octets int64, err error) {
	kept := false
	defer func() {
		if !kept {
			for _, p := range m.targets {
				m.blobs.release(p)
			}
		}
		m.targets = nil
	}()
	batch := store.NewBatch()
	batch.UseReserve = true
	for _, body := range bodies {
		copies, err := m.copies(ctx, body.pieces)
		if errors.Is(err, errUnreadable) {
			m.leave(err)
			continue
		}
		if err != nil {
			return octets, err
		}
		octets += roomOf(body.pieces)
		m.blobs.addMove(batch, body.hash, m.from.number, copies)
	}
	if len(batch.Ops) == 0 {
		return 0, nil
	}
	batch.Before = append(batch.Before, m.sync)
	_, err = m.blobs.commitAgain(ctx, batch)
	// When it is not known whether the bodies have the copies, nobody may
	// delete these.
	kept = err != nil && !errors.Is(err, store.ErrFull)
	return octets, err
}

// sync makes the copies durable.
func (m *mover) sync(context.Context) error {
	return syncAll(m.targets)
}

// copies copies pieces of the pack and returns where they are now, by where
// they were.
func (m *mover) copies(ctx context.Context, pieces []piece) (map[int64]piece, error) {
	copies := make(map[int64]piece, len(pieces))
	for _, at := range pieces {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		to, err := m.copy(at)
		if err != nil {
			return nil, err
		}
		copies[at.offset] = to
	}
	return copies, nil
}

// compressFrom is the size from which compression is tried.
const compressFrom = 512

func (m *mover) copy(at piece) (piece, error) {
	record, err := m.from.readRecord(at, *m.in)
	if err != nil {
		return piece{}, fmt.Errorf("%w: %w", errUnreadable, err)
	}
	if !at.compressed() && at.octets >= compressFrom {
		if smaller := m.blobs.codec.compress((*m.out)[:recordHeader], record[recordHeader:]); smaller != nil {
			m.blobs.total.saved.Add(int64(len(record) - len(smaller)))
			record = smaller
		}
	}
	putRecordHeader(record, at.octets)
	to, target, err := m.blobs.append(aged, record, at.octets)
	if target != nil {
		m.targets = append(m.targets, target)
	}
	return to, err
}

// addMove adds to batch what gives a body the copies of all its pieces in a
// pack. A body that is gone, or lies elsewhere by now, stays as it is; the
// copies are then dead.
func (b *Blobs) addMove(batch *store.Batch, hash store.Hash, from uint64, copies map[int64]piece) {
	bodyKey := b.keys.body(hash)
	batch.Decide(bodyKey, func(get func([]byte) ([]byte, error), w *store.Batch) error {
		value, err := get(bodyKey)
		if errors.Is(err, store.ErrNotFound) {
			return nil
		}
		if err != nil {
			return err
		}
		_, before, err := parseBody(value)
		if err != nil {
			return nil // what is damaged is fsck's
		}
		after := slices.Clone(before)
		for i, p := range after {
			if p.pack != from {
				continue
			}
			to, copied := copies[p.offset]
			if !copied || to.octets != p.octets {
				return nil
			}
			after[i] = to
		}
		if next := appendPieces([]byte{value[0]}, after); !slices.Equal(before, after) && len(next) <= store.MaxValueOctets {
			w.Put(bodyKey, next)
			b.relist(w, hash, before, after)
		}
		return nil
	})
}

// relist changes what packs list of a body.
func (b *Blobs) relist(w *store.Batch, hash store.Hash, before, after []piece) {
	byPack(before, func(number uint64, in []piece) { b.unlist(w, hash, number, in) })
	byPack(after, func(number uint64, in []piece) { b.list(w, hash, number, in) })
}
