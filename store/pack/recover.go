package pack

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

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
	p := &packFile{number: number, name: name, file: f, full: true, since: time.Now()}
	if p.end, err = f.Size(); err != nil {
		return errors.Join(err, f.Close())
	}
	var header error
	p.stream, header = p.readHeader()
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
		record, err := p.readRecord(at, buf)
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
		all, err = b.piecesOf(s, number)
		return err
	})
	return all, err
}

func (b *Blobs) piecesOf(s store.Snapshot, number uint64) (all []piece, err error) {
	for pair, err := range s.Range(b.keys.pack(number), b.keys.pack(number+1), 0, false) {
		if err != nil {
			return nil, err
		}
		pieces, err := parsePieces(pair.Value)
		if err != nil {
			return nil, fmt.Errorf("key %x: %w", pair.Key, err)
		}
		all = append(all, pieces...)
	}
	return all, nil
}

// lastNamed returns the highest pack number in the store.
func (b *Blobs) lastNamed(ctx context.Context) (number uint64, err error) {
	err = b.kv.View(ctx, func(s store.Snapshot) error {
		for _, first := range [][]byte{b.keys.pack(0), b.keys.live(0)} {
			prefix := first[:2]
			for pair, err := range s.Range(prefix, []byte{prefix[0], prefix[1] + 1}, 1, true) {
				if err != nil {
					return err
				}
				if len(pair.Key) < 10 {
					return fmt.Errorf("key %x: %w", pair.Key, errPieces)
				}
				number = max(number, packOf(pair.Key))
			}
		}
		return nil
	})
	return number, err
}
