package pack

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/postern-mail/postern/store"
)

// recover lists the packs and repairs those that were not closed. Everything a
// commit named was synced before it, so whatever lies behind the last named
// record was never promised to anyone.
func (b *Blobs) recover(ctx context.Context) error {
	names, err := b.fs.ReadDir(b.cfg.Dir)
	if err != nil {
		return err
	}
	for _, name := range names {
		number, isOpen, ok := parseName(name)
		if !ok {
			continue
		}
		b.next = max(b.next, number+1)
		if err := b.adopt(ctx, name, number, isOpen); err != nil {
			return fmt.Errorf("pack %s: %w", name, err)
		}
	}
	// A number is not given twice even when its file was lost.
	last, err := b.lastNamed(ctx)
	b.next = max(b.next, last+1)
	return err
}

func parseName(name string) (number uint64, isOpen, ok bool) {
	stem, isOpen := strings.CutSuffix(name, ".open")
	if !isOpen {
		if stem, ok = strings.CutSuffix(name, ".pack"); !ok {
			return 0, false, false
		}
	}
	number, err := strconv.ParseUint(stem, 16, 64)
	return number, isOpen, err == nil && len(stem) == 16
}

func (b *Blobs) adopt(ctx context.Context, name string, number uint64, isOpen bool) error {
	f, err := b.fs.Open(b.path(name))
	if err != nil {
		return err
	}
	p := &packFile{number: number, name: name, file: f, full: true}
	if p.end, err = f.Size(); err != nil {
		return errors.Join(err, f.Close())
	}
	header := p.checkHeader()
	switch {
	case errors.Is(header, errNewer):
		return errors.Join(header, f.Close())
	case errors.Is(header, errOther):
		b.log.Error("left a pack alone", "pack", name, "err", header)
		return f.Close()
	}
	b.packs[number] = p
	if isOpen {
		pieces, err := b.piecesIn(ctx, number)
		if err != nil {
			return err
		}
		if len(pieces) == 0 {
			delete(b.packs, number)
			return b.removePack(p) // whatever is in it was never promised
		}
		if err := b.repair(p, pieces); err != nil {
			return err
		}
	}
	if header != nil {
		b.log.Error("pack is damaged", "pack", p.name, "err", header)
	}
	return nil
}

// repair cuts a pack behind its last named record and verifies the records.
func (b *Blobs) repair(p *packFile, pieces []piece) error {
	size, damaged := p.end, 0
	var buf []byte
	p.end = fileHeader
	for _, at := range pieces {
		p.end = max(p.end, at.end())
		record, err := p.readPiece(at, buf)
		if err != nil {
			b.log.Error("body is damaged", "pack", p.name, "offset", at.offset, "err", err)
			damaged++
		}
		buf = record
	}
	if size < p.end {
		b.log.Error("pack is shorter than its bodies", "pack", p.name, "octets", size, "need", p.end)
		p.end = size
	}
	b.log.Info("repaired pack after an unclean end", "pack", p.name, "pieces", len(pieces),
		"cut", size-p.end, "damaged", damaged)
	return b.sealTidying(p) // nobody else is here yet
}

// piecesIn returns the pieces that the store names in a pack.
func (b *Blobs) piecesIn(ctx context.Context, number uint64) (all []piece, err error) {
	err = b.kv.View(ctx, func(s store.Snapshot) error {
		for pair, err := range s.Range(b.keys.pack(number), b.keys.pack(number+1), 0, false) {
			if err != nil {
				return err
			}
			pieces, err := parsePieces(pair.Value)
			if err != nil {
				return fmt.Errorf("key %x: %w", pair.Key, err)
			}
			all = append(all, pieces...)
		}
		return nil
	})
	return all, err
}

// lastNamed returns the highest pack number in the store.
func (b *Blobs) lastNamed(ctx context.Context) (number uint64, err error) {
	prefix := b.keys.pack(0)[:2]
	err = b.kv.View(ctx, func(s store.Snapshot) error {
		for pair, err := range s.Range(prefix, []byte{prefix[0], prefix[1] + 1}, 1, true) {
			if err != nil {
				return err
			}
			if len(pair.Key) < 10 {
				return fmt.Errorf("key %x: %w", pair.Key, errPieces)
			}
			number = packOf(pair.Key)
		}
		return nil
	})
	return number, err
}

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
	var idle []*packFile
	for _, p := range b.packs {
		if p.full && p.users == 0 {
			idle = append(idle, p)
		}
	}
	b.mu.Unlock()

	collected := 0
	for _, p := range idle {
		removed, err := b.collect(ctx, p)
		if err != nil {
			return collected, err
		}
		if removed {
			collected++
		}
	}
	return collected, nil
}

// collect deletes one pack if it is dead. The view shows only what is durable,
// so no power cut brings back a key that names the pack; and no new one can
// come: nobody appends to a full pack, and staged bodies pin theirs.
func (b *Blobs) collect(ctx context.Context, p *packFile) (removed bool, err error) {
	live, err := b.isLive(ctx, p.number)
	if err != nil || live {
		return false, err
	}
	b.mu.Lock()
	if p.users > 0 || b.closed {
		b.mu.Unlock()
		return false, nil
	}
	delete(b.packs, p.number)
	b.mu.Unlock()
	return true, b.removePack(p)
}

func (b *Blobs) isLive(ctx context.Context, number uint64) (live bool, err error) {
	err = b.kv.View(ctx, func(s store.Snapshot) error {
		for _, err := range s.Range(b.keys.pack(number), b.keys.pack(number+1), 1, false) {
			live = true
			return err
		}
		return nil
	})
	return live, err
}

// removePack deletes the file of a pack that nobody knows any more. Its name
// may come back after a power cut; the next start finds it dead again.
func (b *Blobs) removePack(p *packFile) error {
	return errors.Join(p.file.Close(), b.fs.Remove(b.path(p.name)))
}

// Usage tells how the packs are filled.
type Usage struct {
	Packs      int
	FileOctets int64 // on disk
	LiveOctets int64 // of those, in records that a body needs
}

// Usage counts, reading every key of the packs: seconds on a large store.
func (b *Blobs) Usage(ctx context.Context) (Usage, error) {
	b.mu.Lock()
	var numbers []uint64
	var u Usage
	for number, p := range b.packs {
		numbers = append(numbers, number)
		u.FileOctets += p.end
	}
	b.mu.Unlock()
	u.Packs = len(numbers)
	for _, number := range numbers {
		pieces, err := b.piecesIn(ctx, number)
		if err != nil {
			return u, err
		}
		for _, at := range pieces {
			u.LiveOctets += recordHeader + at.octets
		}
	}
	return u, nil
}
