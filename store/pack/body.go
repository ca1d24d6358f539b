package pack

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"sort"
	"sync"

	"github.com/postern-mail/postern/store"
)

// inlineBody reads a body from memory.
type inlineBody struct{ *bytes.Reader }

func newInlineBody(octets []byte) *inlineBody { return &inlineBody{bytes.NewReader(octets)} }

func (b *inlineBody) Close() error { return nil }

// packBody reads a body from its pieces. Each is read and verified whole and
// kept while reads stay within it.
type packBody struct {
	blobs  *Blobs
	size   int64
	pieces []piece
	starts []int64 // of each piece within the body
	files  []*packFile
	offset int64

	mu     sync.Mutex
	loaded int        // index of the piece in data; -1 for none
	data   []byte     // octets of the body
	buffer *[]byte    // what data is a part of
	from   *sync.Pool // where buffer goes back to
	closed bool
	pinned []*packFile
}

// openPieces pins the packs of the pieces; closing the body releases them.
func (b *Blobs) openPieces(ref store.Ref, pieces []piece) (*packBody, error) {
	body := &packBody{
		blobs: b, size: ref.Octets, pieces: pieces, loaded: -1,
		starts: make([]int64, len(pieces)), files: make([]*packFile, len(pieces)),
	}
	octets := int64(0)
	for i, p := range pieces {
		body.starts[i] = octets
		octets += p.octets
	}
	if octets != ref.Octets {
		return nil, fmt.Errorf("open body %x: %w: %d octets instead of %d", ref.Hash[:8], errDamaged, octets, ref.Octets)
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.closed {
		return nil, errClosed
	}
	for i, p := range pieces {
		file := b.packs[p.pack]
		if file == nil {
			for _, f := range body.pinned {
				f.users--
			}
			return nil, fmt.Errorf("open body %x: %w: %x", ref.Hash[:8], errNoPack, p.pack)
		}
		body.files[i] = file
		if i == 0 || file != body.files[i-1] {
			file.users++
			body.pinned = append(body.pinned, file)
		}
	}
	return body, nil
}

func (b *packBody) Size() int64 { return b.size }

func (b *packBody) Read(p []byte) (int, error) {
	if b.offset >= b.size {
		return 0, io.EOF
	}
	n, err := b.readSome(p, b.offset)
	b.offset += int64(n)
	return n, err
}

func (b *packBody) Seek(offset int64, whence int) (int64, error) {
	switch whence {
	case io.SeekCurrent:
		offset += b.offset
	case io.SeekEnd:
		offset += b.size
	}
	if offset < 0 {
		return 0, errors.New("seek before the start of a body")
	}
	b.offset = offset
	return offset, nil
}

func (b *packBody) ReadAt(p []byte, offset int64) (int, error) {
	if offset < 0 {
		return 0, errors.New("read before the start of a body")
	}
	done := 0
	for done < len(p) {
		if offset >= b.size {
			return done, io.EOF
		}
		n, err := b.readSome(p[done:], offset)
		if err != nil {
			return done, err
		}
		done += n
		offset += int64(n)
	}
	return done, nil
}

// readSome copies from the piece that holds offset.
func (b *packBody) readSome(p []byte, offset int64) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	i := sort.Search(len(b.starts), func(i int) bool { return b.starts[i] > offset }) - 1
	if err := b.loadLocked(i); err != nil {
		return 0, err
	}
	return copy(p, b.data[offset-b.starts[i]:]), nil
}

func (b *packBody) loadLocked(i int) error {
	if b.closed {
		return errClosed
	}
	if i == b.loaded {
		return nil
	}
	from := recordsOf(b.pieces[i].octets)
	if from != b.from {
		b.freeLocked()
		b.buffer, b.from = from.Get().(*[]byte), from
	}
	b.loaded = -1
	data, err := b.blobs.codec.read(b.files[i], b.pieces[i], *b.buffer)
	if err != nil {
		return err
	}
	b.loaded, b.data = i, data
	return nil
}

// recordsOf returns the buffers for records of so many octets of data.
func recordsOf(octets int64) *sync.Pool {
	if octets <= smallPiece {
		return &smallRecords
	}
	return &largeRecords
}

func (b *packBody) freeLocked() {
	if b.buffer != nil {
		b.from.Put(b.buffer)
	}
	b.buffer, b.from, b.data, b.loaded = nil, nil, nil, -1
}

func (b *packBody) Close() error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.closed {
		return nil
	}
	b.closed = true
	b.freeLocked()
	for _, f := range b.pinned {
		b.blobs.release(f)
	}
	return nil
}
