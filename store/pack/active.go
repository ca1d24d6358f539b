package pack

import (
	"errors"
	"fmt"
	"time"

	"github.com/postern-mail/postern/store"
)

// stream is what a pack is filled with. Each has a pack of its own: what was
// moved has lived for a while and goes on living, what is fresh may be gone in
// a second; and a message need not wait until the disk has what is moved.
type stream uint8

const (
	fresh   stream = iota // what is staged, as it is
	aged                  // what Compact moved, compressed where that pays
	streams               // how many there are
)

// filling is where the next record of a stream goes. Blobs.mu guards it.
type filling struct {
	active *packFile // nil before the first, and behind one that failed
	// next is a pack that was made ahead of its time, so that nobody waits for
	// the directory; nil for none.
	next *packFile
	// failed is when next could not be made.
	failed time.Time
}

// prepareAt is the part of a pack that is full when the next one is made.
const prepareAt = 2

// reserve returns room for one record in the active pack of a stream, making a
// new one where needed. The caller writes the record and calls writing.Done,
// and holds a use of the pack until release.
func (b *Blobs) reserve(to stream, octets int64) (*packFile, int64, error) {
	for {
		p, offset, err := b.reserveActive(to, octets)
		if p != nil || err != nil {
			return p, offset, err
		}
		if err := b.begin(to, true); err != nil {
			return nil, 0, full(err)
		}
	}
}

// reserveActive is reserve without a new file: p is nil when that is needed.
func (b *Blobs) reserveActive(to stream, octets int64) (p *packFile, offset int64, err error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.closed {
		return nil, 0, errClosed
	}
	at := &b.filling[to]
	if p := at.active; p != nil {
		_, _, broken := p.state()
		if broken != nil || p.end+octets > b.cfg.PackOctets {
			at.active = nil
			p.full, p.since = true, time.Now()
			b.wake()
		}
	}
	if at.active == nil {
		at.active, at.next = at.next, nil
	}
	if p = at.active; p == nil {
		return nil, 0, nil
	}
	offset = p.end
	p.end += octets
	p.users++
	b.writing.Add(1)
	if at.next == nil && p.end > b.cfg.PackOctets/prepareAt {
		b.wake()
	}
	return p, offset, nil
}

// wake has Run look for packs to close and to make.
func (b *Blobs) wake() {
	select {
	case b.filled <- struct{}{}:
	default:
	}
}

// prepare makes the packs that will be needed soon.
func (b *Blobs) prepare() {
	for to := range streams {
		b.mu.Lock()
		at := b.filling[to]
		needed := !b.closed && at.next == nil && at.active != nil && at.active.end > b.cfg.PackOctets/prepareAt
		b.mu.Unlock()
		if !needed || time.Since(at.failed) < time.Second {
			continue
		}
		// Who needs it and does not find it tries again, and tells why not.
		if err := b.begin(to, false); err != nil {
			b.log.Debug("make a pack ahead", "dir", b.cfg.Dir, "err", err)
			b.mu.Lock()
			b.filling[to].failed = time.Now()
			b.mu.Unlock()
		}
	}
}

// begin makes the next pack of a stream, unless somebody else has meanwhile.
// now tells that the active one has no room.
func (b *Blobs) begin(to stream, now bool) error {
	b.beginning.Lock()
	defer b.beginning.Unlock()
	b.mu.Lock()
	at := b.filling[to]
	number := b.next
	made := at.next != nil || now && at.active != nil
	if !made {
		b.next++
	}
	b.mu.Unlock()
	if made {
		return nil
	}
	p, err := b.create(number, to)
	if err != nil {
		return err
	}
	b.mu.Lock()
	closed := b.closed
	if !closed {
		b.packs[number] = p
		b.filling[to].next = p
	}
	b.mu.Unlock()
	if closed {
		return errors.Join(errClosed, b.removePack(p))
	}
	return nil
}

// create makes the file of a new pack. Its name is durable before anything in
// it is named; its header becomes so with the first body.
func (b *Blobs) create(number uint64, filledWith stream) (*packFile, error) {
	if err := b.checkSpace(b.cfg.PackOctets, filledWith == aged); err != nil {
		return nil, err
	}
	p := &packFile{number: number, stream: filledWith, name: openName(number), end: fileHeader}
	f, err := b.fs.Create(b.path(p.name))
	if err != nil {
		return nil, fmt.Errorf("begin pack: %w", err)
	}
	err = f.Preallocate(b.cfg.PackOctets)
	if err == nil {
		_, err = f.WriteAt(packHeader(number, filledWith), 0)
	}
	if err == nil {
		err = b.fs.SyncDir(b.cfg.Dir)
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("begin pack: %w", err), f.Close(), b.fs.Remove(b.path(p.name)))
	}
	p.file, p.written = f, 1
	return p, nil
}

// checkSpace returns store.ErrFull when the disk has less than the reserve. What
// makes room may go down to an eighth of it.
func (b *Blobs) checkSpace(octets int64, useReserve bool) error {
	reserve := b.cfg.ReserveOctets
	if reserve == 0 {
		return nil
	}
	if useReserve {
		reserve /= 8
	}
	free, err := b.fs.Free(b.cfg.Dir)
	if err != nil {
		return fmt.Errorf("ask for free space: %w", err)
	}
	if free-octets < reserve {
		return fmt.Errorf("%w: %d octets free, %d kept in reserve", store.ErrFull, free, reserve)
	}
	return nil
}
