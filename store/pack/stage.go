package pack

import (
	"context"
	"crypto/sha256"
	"fmt"
	"hash"
	"io"
	"runtime"
	"sync"
	"sync/atomic"

	"github.com/postern-mail/postern/store"
)

// Octets of data in one record. A body's first piece is small, so that many
// ordinary messages can be read at once in little memory; the others large.
const (
	smallPiece = 64 << 10
	largePiece = 256 << 10
)

// maxPieces bounds the list of pieces to what fits a value.
const maxPieces = store.MaxValueOctets / 16

// records are buffers for one record each, by kind of piece.
var (
	smallRecords = sync.Pool{New: func() any { return newRecord(smallPiece) }}
	largeRecords = sync.Pool{New: func() any { return newRecord(largePiece) }}
)

func newRecord(data int) *[]byte {
	b := make([]byte, recordHeader+data)
	return &b
}

// staged implements store.Staged.
type staged struct {
	blobs  *Blobs
	ref    store.Ref // of a body in memory without its hash until this is asked for
	hashed sync.Once
	inline []byte  // the value: kind and octets; nil for a body in packs
	held   *held   // the body while it is in memory only; nil for a larger one
	pieces []piece // in order; of a held body from its first link on
	pins   *pins
	linked atomic.Bool
	failed error // of placing a held body; the commit's
}

// pins keep the packs of a staged body from being deleted until the body is
// dropped, or forgotten: a link that is still to come would name them.
type pins struct {
	blobs *Blobs
	packs []*packFile
	once  atomic.Bool
}

func (p *pins) release() {
	if p.once.Swap(true) {
		return
	}
	for _, f := range p.packs {
		p.blobs.release(f)
	}
}

// Stage implements store.Blobs.
func (b *Blobs) Stage(ctx context.Context, r io.Reader) (store.Staged, error) {
	small := smallRecords.Get().(*[]byte)
	n, ended, err := fill(ctx, r, (*small)[recordHeader:])
	if err == nil && ended && n > b.cfg.InlineOctets {
		return b.hold(small, n), nil // it has the buffer now
	}
	defer smallRecords.Put(small)
	if err != nil {
		return nil, err
	}
	if ended {
		return b.stageInline((*small)[recordHeader : recordHeader+n]), nil
	}
	s := stager{blobs: b, sum: sha256.New(), pins: &pins{blobs: b}}
	err = s.add((*small)[:recordHeader+n])
	if err == nil {
		err = s.rest(ctx, r)
	}
	if err != nil {
		s.pins.release()
		return nil, err
	}
	return s.finish(), nil
}

// fill reads until buf is full or r has ended. It tells an end from a reader
// that failed with io.ErrUnexpectedEOF, which io.ReadFull does not.
func fill(ctx context.Context, r io.Reader, buf []byte) (n int, ended bool, err error) {
	for idle := 0; n < len(buf); {
		got, err := r.Read(buf[n:])
		n += got
		if err == io.EOF {
			return n, true, nil
		}
		if err == nil {
			err = ctx.Err()
		}
		if err != nil {
			return n, false, err
		}
		if got > 0 {
			idle = 0
		} else if idle++; idle > 100 {
			return n, false, io.ErrNoProgress
		}
	}
	return n, false, nil
}

func (b *Blobs) stageInline(octets []byte) *staged {
	value := make([]byte, 1+len(octets))
	value[0] = kindInline | b.mark()
	copy(value[1:], octets)
	return &staged{
		blobs:  b,
		ref:    store.Ref{Octets: int64(len(octets))},
		inline: value,
	}
}

// stager writes one body into packs.
type stager struct {
	blobs  *Blobs
	sum    hash.Hash
	octets int64
	pieces []piece
	pins   *pins
}

// rest reads what is behind the first piece.
func (s *stager) rest(ctx context.Context, r io.Reader) error {
	large := largeRecords.Get().(*[]byte)
	defer largeRecords.Put(large)
	for {
		n, ended, err := fill(ctx, r, (*large)[recordHeader:])
		if err != nil {
			return err
		}
		if n > 0 {
			if err := s.add((*large)[:recordHeader+n]); err != nil {
				return err
			}
		}
		if ended {
			return nil
		}
	}
}

// add writes one piece; record has room for its header in front.
func (s *stager) add(record []byte) error {
	if len(record) == recordHeader {
		return nil
	}
	if len(s.pieces) == maxPieces {
		return fmt.Errorf("%w: body of more than %d octets", store.ErrTooLarge, s.octets)
	}
	s.sum.Write(record[recordHeader:])
	return s.put(record)
}

// put writes a record into the pack that is being filled.
func (s *stager) put(record []byte) error {
	data := int64(len(record) - recordHeader)
	putRecordHeader(record, data)
	at, p, err := s.blobs.append(fresh, record, data)
	if p != nil {
		s.pins.packs = append(s.pins.packs, p)
	}
	if err != nil {
		return err
	}
	s.pieces = append(s.pieces, at)
	s.octets += data
	return nil
}

// append writes a record with so many octets of a body into the pack of a
// stream. When p is not nil the caller holds a use of it, even after an error.
func (b *Blobs) append(to stream, record []byte, octets int64) (at piece, p *packFile, err error) {
	p, offset, err := b.reserve(to, int64(len(record)))
	if err != nil {
		return at, nil, err
	}
	err = p.write(record, offset)
	b.writing.Done()
	return piece{p.number, offset, octets, int64(len(record) - recordHeader)}, p, err
}

func (s *stager) finish() *staged {
	st := &staged{blobs: s.blobs, pieces: s.pieces, pins: s.pins}
	st.ref.Octets = s.octets
	s.sum.Sum(st.ref.Hash[:0])
	runtime.AddCleanup(st, (*pins).release, s.pins)
	return st
}

// Ref implements store.Staged. A message that is delivered while its client
// waits is named by nobody, so its hash is left until somebody asks.
func (s *staged) Ref() store.Ref {
	s.hashed.Do(func() {
		switch {
		case s.inline != nil:
			s.ref.Hash = sha256.Sum256(s.inline[1:])
		case s.held != nil:
			s.ref.Hash = s.held.hash()
		}
	})
	return s.ref
}

// Octets implements store.Staged.
func (s *staged) Octets() int64 { return s.ref.Octets }

// Open implements store.Staged.
func (s *staged) Open() (store.Body, error) {
	if s.inline != nil {
		return newInlineBody(s.inline[1:]), nil
	}
	if s.held != nil {
		if body := s.held.open(); body != nil {
			return body, nil
		}
		if s.failed != nil {
			return nil, s.failed
		}
	}
	return s.blobs.openPieces(s.Ref(), s.pieces)
}

// Discard implements store.Staged. Once linked, the pins stay until the batch
// is forgotten: its commit may still be under way.
func (s *staged) Discard() {
	if s.linked.Load() {
		return
	}
	if s.held != nil {
		s.held.once.Do(s.held.release)
	}
	if s.pins != nil {
		s.pins.release()
	}
}

// sync makes the body's pieces durable. It runs ahead of the commit.
func (s *staged) sync(context.Context) error {
	if s.failed != nil {
		return s.failed
	}
	if s.pins.once.Load() {
		return errDiscarded // its pack may be gone
	}
	return syncAll(s.pins.packs)
}

// syncAll makes packs durable that stand in the order of their first use.
func syncAll(packs []*packFile) error {
	var last *packFile
	for _, p := range packs {
		if p == last {
			continue
		}
		if err := p.sync(); err != nil {
			return err
		}
		last = p
	}
	return nil
}
